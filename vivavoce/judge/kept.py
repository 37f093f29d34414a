"""What was worked out about a file once, kept beside the report: arrays under a name that changes when the file does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from vivavoce.media.files import temporary_name

Arrays = Mapping[str, np.ndarray]


def kept(folder: Path | None, what: str, files: tuple[Path, ...], work: Callable[[], Arrays]) -> Arrays:
    """The arrays that ``work`` makes of the files, or those in the folder if it made them before; ``what``: kind and version of
    the work. Written whole or not at all; nothing is kept without a folder."""
    if folder is None:
        return work()
    path = folder / f"{_key(what, files)}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (FileNotFoundError, BadZipFile, ValueError, EOFError, KeyError):  # never made, or spoiled since: made again
        pass
    made = work()
    part = folder / temporary_name(".npz")
    try:
        np.savez_compressed(part, **{name: np.asarray(array) for name, array in made.items()})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return made


def _key(what: str, files: tuple[Path, ...]) -> str:
    parts = [what]
    for file in files:
        state = file.stat()
        parts += [str(file.resolve()), str(state.st_size), str(state.st_mtime_ns)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
