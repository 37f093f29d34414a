"""What the options of several commands have in common: how a command begins, and the options that they share.

A class here stands for what a command needs or makes, and a command inherits those that fit. Its help lists the fields of its
last base first, and its own behind them all; a field that is declared again, to say more about it, keeps its place.

Only light modules are imported here, as in `cli.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from tyro.conf import Positional, arg

from vivavoce.apps import interrupt

Data = Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
Folder = Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
Picture = Annotated[Positional[Path], arg(metavar="PORTRAIT", help_behavior_hint="")]
Steps = Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's own)")]
Seed = Annotated[int, arg(metavar="N")]
Weights = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the ones that ship)")]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Options of a command whose work needs heavy modules.

    No ABC: where a class has a metaclass, tyro loads a type checker, and --help takes half as long again.
    """

    def check(self) -> None:
        """Raises ValueError where options do not go together, before anything heavy is imported."""

    def work(self) -> Callable[[Self], None]:
        """The function that does it. Each command has its own, and imports it here, not at the top."""
        raise NotImplementedError

    def run(self) -> None:
        """A signal that comes during the imports waits for their end: interrupted ones would leave modules half made."""
        self.check()
        with interrupt.held():
            work = self.work()
        work(self)


def check_seed(seed: int) -> None:
    """ValueError for what no generator of random numbers takes, which would be found out after minutes of work."""
    if seed < 0:
        raise ValueError(f"--seed is {seed}: give a whole number from 0 on")


@dataclass(frozen=True, kw_only=True)
class Recordings(Job):
    """It begins with recordings."""

    data: Data
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it."""


@dataclass(frozen=True, kw_only=True)
class SplitRecordings(Recordings):
    """It learns from some recordings and is judged on others."""

    data: Data
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it; it needs the splits train and val."""


@dataclass(frozen=True, kw_only=True)
class Learning(Job):
    """It trains a network by a recipe."""

    output: Folder
    """Folder for checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    steps: Steps = None
    """Updates of the weights."""
    seed: Seed = 0
    """Equal seeds give equal weights."""

    def check(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Watching(Job):
    """It judges videos of recordings."""

    output: Folder
    """Folder for videos, report and table; what is finished there already is not done again."""
    seconds: Annotated[float, arg(metavar="S")] = 4.0
    """How much of each recording counts."""


@dataclass(frozen=True, kw_only=True)
class Figures(Job):
    """It measures this machine, and prints a table."""

    output: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT.json", help_behavior_hint="")] = None
    """Write the figures there as well."""
    overwrite: bool = False
    """Replace the output if it exists."""
