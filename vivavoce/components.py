"""Checkpoints of others, in folders or on the Hugging Face hub: settings as JSON, with safetensors beside them.

Parts of pipelines in the layout of diffusers, ``<base>/<part>/config.json``, are opened here whole; networks of transformers are
opened with what is here by whoever needs them. Either library is imported only then: it takes seconds and is an extra.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

_CONFIG = "config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


@dataclass(frozen=True, kw_only=True)
class Opener:
    """Who opens checkpoints: what users are told of it, and what it needs."""

    needs: str
    """The beginning of a sentence that ends with a library's name."""
    extra: str
    """Of vivavoce, which brings the libraries."""
    given: str
    """What users name."""
    libraries: tuple[str, ...]
    """Those that would print while they load."""


VIDEO = Opener(needs="the video engine needs", extra="video", given="a pipeline", libraries=("diffusers", "transformers"))


def module(name: str, opener: Opener = VIDEO) -> Any:
    """diffusers, transformers or what comes with them. By name, since their types cost type checkers minutes and say Any in the
    end. ValueError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{opener.needs} {name.split('.')[0]}: pip install 'vivavoce[{opener.extra}]'") from error


def part_folder(base: str | Path, part: str, config: str = _CONFIG) -> Path:
    """Where a part's files are, one of them ``config``. ``base``: a pipeline's folder, the part's own, or a name on the
    hub, whose files are looked up in its cache or downloaded. ValueError where there is none."""
    folder = checkpoint_folder(base, [f"{part}/*.json", f"{part}/*.safetensors", f"{part}/*.model"])
    if (folder / part / config).is_file():
        return folder / part
    if (folder / config).is_file():
        return folder
    raise ValueError(f"{folder} has no {part}/{config}: give the folder of a pipeline that diffusers saved, or of its {part}")


def read_config(folder: Path, name: str = _CONFIG) -> dict[str, Any]:
    """Settings of a part, of which "_class_name" says what it is, or of a checkpoint. ValueError where the file is damaged."""
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / name} is not JSON ({said(error)}): download the checkpoint again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{folder / name} holds no settings but {type(values).__name__}: download the checkpoint again")
    return values


def load_part(kind: Any, base: str | Path, part: str, *, dtype: torch.dtype) -> Any:
    """That part as the class ``kind`` of diffusers, frozen and in evaluation. ValueError where the files are missing, damaged, of
    another kind, or lack weights."""
    folder = part_folder(base, part)
    found = read_config(folder).get("_class_name")
    if found != kind.__name__:
        raise ValueError(f"{folder} holds a model of class {found!r}: give one with a {part} of class {kind.__name__}")
    weight_files(folder)
    return load_weights(kind, folder, torch_dtype=dtype)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors in a folder. ValueError where there are none."""
    if files := sorted(folder.glob("*.safetensors")):
        return files
    raise ValueError(
        f"{folder} has no safetensors, and pickled weights (.bin) are not opened, since they can run code: save the checkpoint "
        f"with safetensors"
    )


def load_weights(
    kind: Any, folder: Path, opener: Opener = VIDEO, *, unused: Callable[[str], bool] = lambda _: False, **precision: torch.dtype
) -> Any:
    """The network in a folder as the class ``kind`` of diffusers or transformers, frozen and in evaluation.

    ``precision``: a type by the name that the library has for it. ``unused``: whether a tensor of that name may be missing.
    ValueError where the weights are damaged, don't fit, or lack others, which would be random numbers without a word.
    """
    try:
        with quiet(opener):
            model, report = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **precision
            )
    except UNREADABLE as error:
        raise ValueError(f"the weights in {folder} can't be used ({said(error)}): download the checkpoint again") from error
    if missing := sorted(name for name in report["missing_keys"] if not unused(name)):
        raise ValueError(f"the weights in {folder} lack {len(missing)} tensors like {missing[0]}: download the checkpoint again")
    return model.eval().requires_grad_(False)


def pipeline_folder(base: str | Path) -> Path:
    """A pipeline's folder. Of a name on the hub only the configurations are looked up or downloaded: enough to know how large it
    is. ValueError where there is none."""
    return checkpoint_folder(base, ["*/config.json"])


def checkpoint_folder(source: str | Path, patterns: list[str], opener: Opener = VIDEO) -> Path:
    """The folder ``source``; or, of a name on the hub, where its files of these ``patterns`` are, which are looked up in its
    cache or downloaded. ValueError where there is neither."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or folder.exists() or not _HUB_NAME.fullmatch(source):
        raise ValueError(f"there is no folder {source}: give {opener.given}'s folder, or its name on the Hugging Face hub")
    hub = module("huggingface_hub", opener)
    try:
        return Path(hub.snapshot_download(source, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} is no folder, and the Hugging Face hub did not give it ({said(error)}): download the checkpoint and give "
            f"its folder"
        ) from error


@contextmanager
def quiet(opener: Opener = VIDEO) -> Iterator[None]:
    """The opener's libraries draw no progress bars and log no reports meanwhile: a library doesn't print."""
    with ExitStack() as stack:
        for library in opener.libraries:
            stack.enter_context(_silent(library, opener))
        yield


@contextmanager
def _silent(library: str, opener: Opener) -> Iterator[None]:
    logging = module(f"{library}.utils.logging", opener)
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def said(error: BaseException) -> str:
    """The first line of what it says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
