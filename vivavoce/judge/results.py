"""What an evaluation found, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from vivavoce.judge.figures import Figure
from vivavoce.judge.pairs import Pair
from vivavoce.judge.sets import SetFigure
from vivavoce.metrics.confidence import Interval

Described = Figure | SetFigure

ALL = "all"  # the group of every clip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A clip's figures by name, those of its recording with SUFFIX; what could not be measured is missing. ``compared``: it had
    a motion to be held against. ``problem``: why the clip could not be judged at all; ``notes``: what else is to be said."""

    pair: Pair
    figures: dict[str, float]
    compared: bool = False
    problem: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A figure over the clips of a system and a group ("all": every clip). ``real``: the same of the recordings, where it can be
    measured on them. ``median`` is None for figures of a whole set, whose ``mean`` is the figure itself. ``reward``: the system
    was trained against it."""

    system: str
    group: str
    figure: str
    mean: Interval
    median: Interval | None
    real: Interval | None
    reward: bool


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``system``'s figure minus ``against``'s: of means over the clips that both have, paired."""

    system: str
    against: str
    group: str
    figure: str
    mean: Interval


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that was found. ``systems`` and ``groups`` in the order of the pairs; ``groups`` begins with "all"."""

    figures: tuple[Described, ...]
    systems: tuple[str, ...]
    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    def summary(self, system: str, figure: str, group: str = ALL) -> Summary | None:
        """That of a figure, by name; None where it could be measured on no clip."""
        found = (s for s in self.summaries if (s.system, s.figure, s.group) == (system, figure, group))
        return next(found, None)
