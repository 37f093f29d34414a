"""Files of other people's weights: opened without running anything in them, and loaded only if every name and shape is right."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

_Network = TypeVar("_Network", bound=nn.Module)
# How many training batches a normalisation has seen: nothing computes with it, and files from before PyTorch 0.4.1 lack it.
_COUNTER = "num_batches_tracked"
# How PyTorch says that a pickle asks for something that is no tensor.
_FOREIGN = re.compile(r"unsupported (global|class)", re.IGNORECASE)
# What PyTorch raises for files that are damaged or something else altogether.
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError, AssertionError,
    OverflowError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def is_program(path: str | Path) -> bool:
    """Whether the file is a TorchScript archive: a network with its code, where state dicts are numbers alone."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError):
        return False


def require_file(path: str | Path, expected: str) -> Path:
    """The path, if a file is there; ValueError otherwise."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the file {expected}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}: give {expected}")
    return path


def read_weights(path: str | Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a state dict by name, in memory of the CPU wherever they were saved.

    expected: what the file should be, for the message.  Raises ValueError for a file that is not there, is no state dict, holds
    anything but tensors (which could run code, and is not opened) or numbers that are not finite.
    """
    path = require_file(path, expected)
    if is_program(path):
        raise ValueError(f"{path} is a TorchScript program: expected a state dict, {expected}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of files that are no such files, which is about to be said
            found = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and _FOREIGN.search(str(error)):
            raise ValueError(
                f"{path} holds more than weights and is not opened, since such files can run code: expected a state dict, "
                f"{expected}"
            ) from error
        raise ValueError(_damaged(path, expected)) from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        parts = found.values() if isinstance(found, Mapping) else [found]
        kinds = ", ".join(sorted({type(part).__name__ for part in parts}))
        raise ValueError(f"{path} holds {kinds} instead of named tensors: expected a state dict, {expected}")
    for name, value in found.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path} is damaged: {name} has numbers that are not finite; download {expected} again")
    return dict(found)


def fill(
    network: _Network, weights: Mapping[str, Tensor], *, path: str | Path, expected: str, beyond: tuple[str, ...] = ()
) -> _Network:
    """The network with these weights, for use alone: no dropout, no gradients.

    beyond: beginnings of names that the real file has and the network does not need.  Raises ValueError unless all other names
    and shapes are exactly the network's.
    """
    own = network.state_dict()
    counters = {name: torch.zeros((), dtype=torch.long) for name in own if name.endswith(_COUNTER)}
    wanted = {name: tuple(value.shape) for name, value in own.items() if name not in counters}
    given = {
        name: value.float() for name, value in weights.items() if not name.endswith(_COUNTER) and not name.startswith(beyond)
    }
    missing, unknown = [n for n in wanted if n not in given], [n for n in given if n not in wanted]
    if missing or unknown:
        faults = [
            f"{len(missing)} of {len(wanted)} tensors are missing ({missing[0]} first)" if missing else "",
            f"{len(unknown)} are unknown ({unknown[0]} first)" if unknown else "",
        ]
        raise ValueError(f"{path} holds weights of another network: {' and '.join(filter(None, faults))}; give {expected}")
    for name, shape in wanted.items():
        if tuple(given[name].shape) != shape:
            raise ValueError(
                f"{path} holds weights of another size: {name} is {tuple(given[name].shape)} where {shape} is expected; give "
                f"{expected}"
            )
    network.load_state_dict({**given, **counters}, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _damaged(path: Path, expected: str) -> str:
    return f"{path} is damaged or no file of weights that PyTorch saved: expected {expected}; download it again"
