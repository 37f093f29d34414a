"""Prepared portraits on disk: nested dataclasses of arrays and numbers as one file of named arrays, without pickle."""

from __future__ import annotations

import os
import zipfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from vivavoce.latent.motion_space import Reference

FORMAT = 1
"""Raised whenever what is prepared changes its meaning: older files are then prepared anew from their pictures."""

T = TypeVar("T")


def save_reference(reference: Reference, path: Path) -> None:
    """Write a prepared portrait; the file is complete at every moment."""
    arrays: dict[str, np.ndarray] = {"format": np.array(FORMAT)}
    _flatten(reference, "reference", arrays)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_reference(path: Path) -> Reference:
    """What `save_reference` wrote. ValueError where the file is damaged or of another version of vivavoce."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if int(arrays["format"]) != FORMAT:
            raise ValueError(f"its format is {int(arrays['format'])}, not {FORMAT}")
        return _build(Reference, "reference", arrays)
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a portrait prepared by this version of vivavoce ({error}): prepare it again") from error


def _flatten(value: Any, name: str, arrays: dict[str, np.ndarray]) -> None:
    if is_dataclass(value):
        for field in fields(value):
            _flatten(getattr(value, field.name), f"{name}.{field.name}", arrays)
    elif isinstance(value, tuple) and any(is_dataclass(part) or isinstance(part, tuple) for part in value):
        for i, part in enumerate(value):
            _flatten(part, f"{name}.{i}", arrays)
    elif value is not None:
        arrays[name] = np.asarray(value)


def _build(kind: type[T], name: str, arrays: dict[str, np.ndarray]) -> T:
    hints = get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name], f"{name}.{field.name}", arrays) for field in fields(kind)})  # type: ignore[arg-type]


def _value(hint: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if get_origin(hint) in (Union, UnionType):
        if name not in arrays and NoneType in get_args(hint) and not any(key.startswith(f"{name}.") for key in arrays):
            return None
        return _value(next(part for part in get_args(hint) if part is not NoneType), name, arrays)
    if is_dataclass(hint):
        return _build(hint, name, arrays)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if name in arrays:
            return tuple(arrays[name].tolist())
        return tuple(_value(part, f"{name}.{i}", arrays) for i, part in enumerate(parts))
    return arrays[name].item() if hint in (int, float, bool, str) else arrays[name]
