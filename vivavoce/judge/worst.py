"""Which clips to look at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from vivavoce.judge.figures import SUFFIX, Better
from vivavoce.judge.results import Described, Evaluation, Row

_SIDED: tuple[Better, ...] = ("higher", "lower", "near 1", "near 0")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A clip, how bad it is among the others (0 to 1), and the figures in which it is worst, the worst first."""

    row: Row
    badness: float
    worst: tuple[Described, ...]


def worst_first(evaluation: Evaluation, *, most: int | None = None) -> list[Ranked]:
    """Clips by their mean rank over the figures that have a better side and were no reward of anybody; the worst first."""
    rows = [row for row in evaluation.rows if not row.problem]
    rewards = {summary.figure for summary in evaluation.summaries if summary.reward}
    figures = [f for f in evaluation.figures if f.better in _SIDED and f.name not in rewards]
    ranks = np.stack([_ranks(figure, rows) for figure in figures]) if figures else np.zeros((0, len(rows)))
    found = []
    for row, column in zip(rows, ranks.T, strict=True):
        known = np.flatnonzero(~np.isnan(column))
        order = known[np.argsort(-column[known], kind="stable")][:_SHOWN]
        badness = float(column[known].mean()) if len(known) else 0.0
        found.append(Ranked(row=row, badness=badness, worst=tuple(figures[i] for i in order)))
    return sorted(found, key=lambda ranked: -ranked.badness)[:most]


def badness(figure: Described, figures: dict[str, float]) -> float:
    """How far a figure is on its bad side, in its own measure: more is worse. NaN where it is missing."""
    value = figures.get(figure.name, float("nan"))
    if figure.better == "higher":
        return -value
    if figure.better == "near 1":
        return abs(float(np.log(max(value, 1e-6))))
    if figure.better == "near 0":
        return abs(value)
    if figure.better == "near real":
        return abs(value - figures.get(figure.name + SUFFIX, float("nan")))
    return value


def _ranks(figure: Described, rows: Sequence[Row]) -> np.ndarray:
    """0 for the best of the clips, 1 for the worst; NaN where the figure is missing."""
    values = np.array([badness(figure, row.figures) for row in rows])
    known = ~np.isnan(values)
    ranks = np.full(len(rows), np.nan)
    if known.any():
        ranks[known] = (rankdata(values[known]) - 1) / max(known.sum() - 1, 1)
    return ranks
