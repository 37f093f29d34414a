"""Parts of pretrained pipelines in the layout of diffusers: ``<base>/<part>/config.json`` with safetensors beside it.

diffusers is imported only when a part is opened: it takes seconds and is an extra (``video``).
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

_CONFIG = "config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


def module(name: str) -> Any:
    """diffusers, or what comes with it. By name, since its types cost type checkers minutes and say Any in the end."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"the video engine needs {name.split('.')[0]}: pip install 'vivavoce[video]'") from error


def part_folder(base: str | Path, part: str, config: str = _CONFIG) -> Path:
    """Where a part's files are, one of them ``config``. ``base``: a pipeline's folder, the part's own, or a name on the
    hub, whose files are looked up in its cache or downloaded. ValueError where there is none."""
    folder = Path(base)
    if not folder.is_dir():
        folder = _downloaded(base, part)
    if (folder / part / config).is_file():
        return folder / part
    if (folder / config).is_file():
        return folder
    raise ValueError(f"{folder} has no {part}/{config}: give the folder of a pipeline that diffusers saved, or of its {part}")


def read_config(folder: Path) -> dict[str, Any]:
    """A part's settings; "_class_name" says what it is. ValueError where the file is damaged."""
    try:
        values = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG} is not JSON ({said(error)}): download the checkpoint again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{folder / _CONFIG} holds no settings but {type(values).__name__}: download the checkpoint again")
    return values


def load_part(kind: Any, base: str | Path, part: str, *, dtype: torch.dtype) -> Any:
    """That part as the class ``kind`` of diffusers, frozen and in evaluation. ValueError where the files are missing, damaged, of
    another kind, or lack weights, which would be random numbers without a word."""
    folder = part_folder(base, part)
    found = read_config(folder).get("_class_name")
    if found != kind.__name__:
        raise ValueError(f"{folder} holds a model of class {found!r}: give one with a {part} of class {kind.__name__}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} has no safetensors, and pickled weights (.bin) are not opened, since they can run code: save the "
            f"checkpoint with safetensors"
        )
    try:
        with quiet():
            model, report = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, output_loading_info=True
            )
    except UNREADABLE as error:
        raise ValueError(f"the weights in {folder} can't be used ({said(error)}): download the checkpoint again") from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the weights in {folder} lack {len(missing)} tensors like {missing[0]}: download the checkpoint again")
    return model.eval().requires_grad_(False)


def pipeline_folder(base: str | Path) -> Path:
    """A pipeline's folder. Of a name on the hub only the configurations are looked up or downloaded: enough to know how large it
    is. ValueError where there is none."""
    folder = Path(base)
    return folder if folder.is_dir() else _fetched(base, ["*/config.json"])


def _downloaded(base: str | Path, part: str) -> Path:
    return _fetched(base, [f"{part}/*.json", f"{part}/*.safetensors", f"{part}/*.model"])


def _fetched(base: str | Path, patterns: list[str]) -> Path:
    if isinstance(base, Path) or Path(base).exists() or not _HUB_NAME.fullmatch(base):
        raise ValueError(f"there is no folder {base}: give a pipeline's folder, or its name on the Hugging Face hub")
    hub = module("huggingface_hub")
    try:
        return Path(hub.snapshot_download(base, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{base} is no folder, and the Hugging Face hub did not give it ({said(error)}): download the checkpoint and give "
            f"its folder"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """diffusers and transformers draw no progress bars and log no reports meanwhile: a library doesn't print."""
    with _silent("diffusers"), _silent("transformers"):
        yield


@contextmanager
def _silent(library: str) -> Iterator[None]:
    logging = module(f"{library}.utils.logging")
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
