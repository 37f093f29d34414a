"""What trainings have in common: a folder is of one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def files_of(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def assert_other_run(folder: Path, train: Callable[[], object], told: str = "run.json") -> None:
    """What is trained is refused in a sentence for being another run than the folder's, and nothing in it is touched."""
    before = files_of(folder)
    with pytest.raises(ValueError, match=f"not of this run \\(its {told} says of which\\): give another folder"):
        train()
    assert files_of(folder) == before


def assert_unknown_run(folder: Path, train: Callable[[], object], told: str = "run.json") -> None:
    """So is a run of which the folder does not say what it is, such as one of an earlier version."""
    (folder / told).unlink()
    before = files_of(folder)
    with pytest.raises(ValueError, match="not of this run: give another folder"):
        train()
    assert files_of(folder) == before
