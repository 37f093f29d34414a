"""Pairs to figures with intervals: one clip after the other, kept, so that a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vivavoce.judge.figures import FIGURES, Figure
from vivavoce.judge.pairs import Pair
from vivavoce.metrics.confidence import Interval

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """``rewards``: figures that every system was trained against (a pair may name its own besides). ``seed``, ``resamples``: of
    the bootstrap."""

    rewards: tuple[str, ...] = ()
    seed: int = 0
    resamples: int = 2000


@dataclass(frozen=True, kw_only=True)
class Row:
    """A clip's figures by name, those of its recording under NAME_real; what could not be measured is missing. ``problem``: why the
    clip could not be judged at all; ``notes``: what else is to be said about it."""

    pair: Pair
    figures: dict[str, float]
    problem: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A figure over the clips of a system and a group ("all": every clip). ``real``: the same of the recordings, where it can be
    measured on them. ``median`` is None for figures of a whole set, whose ``mean`` is the figure itself."""

    system: str
    group: str
    figure: str
    mean: Interval
    median: Interval | None
    real: Interval | None
    reward: bool


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean over the clips that both have of ``system``'s figure minus ``against``'s."""

    system: str
    against: str
    group: str
    figure: str
    mean: Interval


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that was found. ``systems`` and ``groups`` in the order of the pairs."""

    figures: tuple[Figure, ...]
    systems: tuple[str, ...]
    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    def summary(self, system: str, figure: str, group: str = "all") -> Summary | None:
        """That of a figure, by name; None where it could be measured on no clip."""
        found = (s for s in self.summaries if (s.system, s.figure, s.group) == (system, figure, group))
        return next(found, None)


def evaluate(
    pairs: Sequence[Pair], out: Path, *, options: Options = Options(), figures: Sequence[Figure] = FIGURES,
    progress: Progress | None = None,
) -> Evaluation:
    """Judges every pair and writes report.json, report.md and index.html into the folder ``out``.

    What was seen and heard is kept in ``out``/kept, so a run that was stopped goes on where it stopped. A clip that cannot be
    judged is a row with a problem. ValueError where a reward is the name of no figure or no clip at all could be judged.
    """
    raise NotImplementedError
