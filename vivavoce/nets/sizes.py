"""How many numbers the parts of a video model have, without reading any: from the headers of their files or from their shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from vivavoce.nets.wan import Base, Config

# Parts of a checkpoint in diffusers' format: their folders, of which those of the second line may be missing.
PARTS = ("transformer", "vae", "text_encoder", "image_encoder")
_OPTIONAL = ("text_encoder", "image_encoder")
_STEMS = ("diffusion_pytorch_model", "model")  # of diffusers' and of transformers' files
# Modules of WanTransformer3DModel that diffusers loads as float32 whatever is asked (its _keep_in_fp32_modules).
KEPT_FLOAT32 = ("rope", "time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network: its ``config`` and the ``numbers`` in each of its tensors, by name; ``kept``: names with one of these in them
    are float32 always."""

    config: Config
    numbers: Mapping[str, int]
    kept: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Parameters."""
        return sum(self.numbers.values())

    def bytes_as(self, dtype: torch.dtype) -> int:
        """Bytes once it is loaded in ``dtype``."""
        return sum(self._bytes(name, dtype) for name in self.numbers)

    def largest_pair(self, dtype: torch.dtype) -> int:
        """Bytes of the two largest groups that are moved as one when only what is at work, and what is next, is on the device:
        a block of a list of blocks, or a module outside of any."""
        groups: dict[str, int] = {}
        for name in self.numbers:
            group = _group(name)
            groups[group] = groups.get(group, 0) + self._bytes(name, dtype)
        return sum(sorted(groups.values())[-2:])

    def _bytes(self, name: str, dtype: torch.dtype) -> int:
        width = max(dtype.itemsize, 4) if any(part in name.split(".") for part in self.kept) else dtype.itemsize
        return self.numbers[name] * width


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The networks of a video model; ``adapter``: what was learned on top."""

    transformer: Part
    vae: Part
    text_encoder: Part | None = None
    image_encoder: Part | None = None
    adapter: Part | None = None

    @classmethod
    def of_base(cls, base: Base, *, adapter: Part | None = None) -> Parts:
        """Of a published model, from its shapes."""
        configs = {"transformer": base.transformer, "vae": base.vae, "text_encoder": base.text, "image_encoder": base.image}
        return cls(**{name: _part(name, config) for name, config in configs.items() if config is not None}, adapter=adapter)

    @classmethod
    def of_folder(cls, folder: Path, *, adapter: Path | None = None) -> Parts:
        """Of a checkpoint in diffusers' format: from the headers of its safetensors files, or from the configuration of a part
        whose files are not all there. ``adapter``: a safetensors file. ValueError where transformer or VAE are missing."""
        found: dict[str, Part] = {}
        for name in PARTS:
            config = folder / name / "config.json"
            if config.is_file():
                found[name] = _part(name, _read(config), weight_files(folder / name))
            elif name not in _OPTIONAL:
                raise ValueError(f"{folder} has no {name}/config.json: give a folder of a Wan model in the format of diffusers")
        return cls(**found, adapter=Part(config={}, numbers=numbers_in_files([adapter])) if adapter else None)

    def named(self) -> dict[str, Part]:
        """Those that are there."""
        return {name: part for name in (*PARTS, "adapter") if (part := vars(self)[name]) is not None}


def numbers_in_files(files: Iterable[Path]) -> dict[str, int]:
    """Numbers in every tensor of some safetensors files, by name; only headers are read."""
    numbers = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            numbers |= {name: prod(opened.get_slice(name).get_shape()) for name in opened.keys()}
    return numbers


def numbers_of_shape(kind: str, config: Config) -> dict[str, int]:
    """The same for a part that is only described: it is built on the meta device, where tensors have shapes and no data."""
    with torch.device("meta"):
        return {name: parameter.numel() for name, parameter in build(kind, config).named_parameters()}


def build(kind: str, config: Config) -> nn.Module:
    """The network of one of `PARTS`, from its configuration, with random weights where the default device has memory."""
    return _BUILDERS[kind](**{name: value for name, value in config.items() if not name.startswith("_")})


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one part; empty where it has none, or where one of several is missing."""
    for stem in _STEMS:
        whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            files = [folder / name for name in sorted(set(_read(index)["weight_map"].values()))]
            return files if all(file.is_file() for file in files) else []
    return []


def _part(name: str, config: Config, files: list[Path] | None = None) -> Part:
    numbers = numbers_in_files(files) if files else numbers_of_shape(name, config)
    return Part(config=config, numbers=numbers, kept=KEPT_FLOAT32 if name == "transformer" else ())


def _group(name: str) -> str:
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return ".".join(parts[:-1])


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _transformer(**config: Any) -> nn.Module:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(**config)


def _vae(**config: Any) -> nn.Module:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(**config | {name: list(config[name]) for name in ("dim_mult", "temperal_downsample") if name in config})


def _text_encoder(**config: Any) -> nn.Module:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(**config))


def _image_encoder(**config: Any) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**config))


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "transformer": _transformer, "vae": _vae, "text_encoder": _text_encoder, "image_encoder": _image_encoder,
}
