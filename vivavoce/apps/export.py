"""Tracked motion as a table: NumPy's .npz or .csv, complete or not there at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vivavoce.latent.motion import Motion

SUFFIXES = (".npz", ".csv")


def write_table(path: Path, motion: Motion, rate_hz: float) -> None:
    """Writes ``time`` (seconds) and every field of the motion.

    .npz: one array per field, ``(t, k)``. .csv: one row per frame, columns ``name`` or ``name_0``, ``name_1``, ... Numbers
    survive the round trip exactly.
    """
    fields = {name: values.numpy() for name, values in vars(motion).items()}
    time = np.arange(len(motion)) / rate_hz
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix.lower())
    try:
        with os.fdopen(handle, "wb") as file:
            if path.suffix.lower() == ".npz":
                np.savez_compressed(file, time=time, **fields)
            else:
                header, columns = _columns({"time": time[:, None], **fields})
                file.write((",".join(header) + "\n").encode())
                for row in zip(*columns, strict=True):
                    file.write((",".join(repr(value) for value in row) + "\n").encode())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes files that only their owner reads
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _columns(fields: Mapping[str, np.ndarray]) -> tuple[list[str], list[list[float]]]:
    header, columns = [], []
    for name, values in fields.items():
        assert values.ndim == 2
        for k in range(values.shape[1]):
            header.append(name if values.shape[1] == 1 else f"{name}_{k}")
            columns.append(values[:, k].tolist())
    return header, columns
