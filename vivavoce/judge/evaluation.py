"""Pairs to figures with intervals: one clip after the other, kept, so that a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from vivavoce.judge.evidence import Evidence
from vivavoce.judge.figures import FIGURES, SUFFIX, Figure, figures_of
from vivavoce.judge.gather import Tools, gather, raise_if_ours
from vivavoce.judge.pairs import Pair
from vivavoce.judge.published import NETWORK_OF
from vivavoce.judge.report import KEPT, check_folder, write_report
from vivavoce.judge.results import ALL, Described, Difference, Evaluation, Row, Summary
from vivavoce.judge.sets import SETS, Clip, OfIndices, SetFigure
from vivavoce.judge.synced import sync_figures
from vivavoce.metrics.confidence import Interval, bootstrap, bootstrap_of

Progress = Callable[[str, int, int | None], None]
_REMEMBERED = 64  # clips whose evidence stays in memory, about 5 MB each


@dataclass(frozen=True, kw_only=True)
class Options:
    """``rewards``: figures that every system was trained against (a pair may name its own besides). ``seed``, ``resamples``: of
    the bootstrap. ``notes``: what else the report should say, such as which networks were not asked."""

    rewards: tuple[str, ...] = ()
    seed: int = 0
    resamples: int = 2000
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"the seed is {self.seed}: give a whole number from 0 on")
        if self.resamples < 1:
            raise ValueError(f"{self.resamples} resamples were asked for: give 1 or more")


def evaluate(
    pairs: Sequence[Pair], out: Path, *, options: Options | None = None, further: Sequence[Figure] = (),
    sets: Sequence[SetFigure] = SETS, progress: Progress | None = None,
) -> Evaluation:
    """Judges every pair by FIGURES, the sync expert's and ``further`` ones; writes report.json, .md and index.html to ``out``.

    What was seen and heard is kept in ``out``/kept, so a run that was stopped goes on where it stopped. A clip that cannot be
    judged is a row with a problem. ValueError where a reward is the name of no figure or no clip at all could be judged;
    FileExistsError where the folder holds a page that is not ours.
    """
    options = options or Options()
    figures = (*FIGURES, *sync_figures(out / KEPT), *further)
    check_rewards(pairs, options, (*figures, *sets))
    check_folder(out)
    folder = out / KEPT
    folder.mkdir(parents=True, exist_ok=True)
    tools, report = Tools.found(), progress or _unseen
    remember = lru_cache(_REMEMBERED)(partial(gather, folder=folder, tools=tools))
    rows = []
    for i, pair in enumerate(pairs):
        report("judging", i, len(pairs))
        rows.append(_judged(pair, remember, figures))
    report("judging", len(pairs), len(pairs))
    if all(row.problem for row in rows):
        raise ValueError(f"none of the {len(rows)} clips could be judged; the first: {rows[0].pair.name}: {rows[0].problem}")
    found = _summed_up(rows, lambda pair: remember(pair)[0], figures, sets, options, report)
    found = replace(found, notes=(*tools.notes, *options.notes))
    write_report(found, out, lambda pair: remember(pair)[0], report)
    return found


def _unseen(what: str, done: int, total: int | None) -> None:
    pass


def check_rewards(pairs: Sequence[Pair], options: Options, figures: Sequence[Described]) -> None:
    """ValueError for a reward that is no figure, or one of a network that is not there."""
    known = [figure.name for figure in figures]
    for name in (*options.rewards, *(reward for pair in pairs for reward in pair.rewards)):
        if name not in known and name in NETWORK_OF:
            raise ValueError(
                f"the reward {name!r} is measured by a network whose weights are not there: give them with --{NETWORK_OF[name]}, "
                "or leave that reward out"
            )
        if name not in known:
            raise ValueError(f"the reward {name!r} is none of the figures: give some of {', '.join(known)}")


def _judged(pair: Pair, remember: Callable[[Pair], tuple[Evidence, tuple[str, ...]]], figures: Sequence[Figure]) -> Row:
    try:
        evidence, notes = remember(pair)
        found, untold = figures_of(evidence, figures)
    except (ValueError, OSError) as error:
        raise_if_ours(error)
        return Row(pair=pair, figures={}, problem=" ".join(str(error).split()))
    return Row(pair=pair, figures=found, compared=evidence.example is not None, notes=(*notes, *untold))


def _summed_up(
    rows: Sequence[Row], evidence: Callable[[Pair], Evidence], figures: Sequence[Figure], sets: Sequence[SetFigure],
    options: Options, report: Progress,
) -> Evaluation:
    systems = tuple(dict.fromkeys(row.pair.system for row in rows))
    named = tuple(dict.fromkeys(row.pair.group for row in rows if row.pair.group != ALL))
    groups = (ALL, *(named if len(named) > 1 or any(row.pair.group == ALL for row in rows) else ()))
    summaries: list[Summary] = []
    differences: list[Difference] = []
    of_sets = _Sets(evidence, options)
    for number, group in enumerate(groups):
        for i, system in enumerate(systems):
            report("summing up", number * len(systems) + i, len(groups) * len(systems))
            mine = _of(rows, system, group)
            theirs = _of(rows, systems[0], group) if i else {}
            rewards = {*options.rewards, *(reward for row in mine.values() for reward in row.pair.rewards)}
            for figure in figures:
                summaries += _summary(figure, mine, system, group, figure.name in rewards, options)
                differences += _difference(figure.name, mine, theirs, options, (system, systems[0], group))
            for whole in sets:
                summaries += of_sets.summary(whole, mine, system, group, whole.name in rewards)
                differences += of_sets.difference(whole, mine, theirs, (system, systems[0], group))
    report("summing up", len(groups) * len(systems), len(groups) * len(systems))
    return Evaluation(
        figures=(*figures, *sets), systems=systems, groups=groups, rows=tuple(rows), summaries=tuple(summaries),
        differences=tuple(differences),
    )


def _of(rows: Sequence[Row], system: str, group: str) -> dict[str, Row]:
    """A system's judged clips by name."""
    chosen = [row for row in rows if row.pair.system == system and group in (ALL, row.pair.group) and not row.problem]
    return {row.pair.name: row for row in chosen}


def _values(name: str, rows: dict[str, Row]) -> np.ndarray:
    return np.array([row.figures.get(name, np.nan) for row in rows.values()])


def _summary(
    figure: Figure, rows: dict[str, Row], system: str, group: str, reward: bool, options: Options
) -> list[Summary]:
    """None where no clip has the figure."""
    values, real = _values(figure.name, rows), _values(figure.name + SUFFIX, rows)
    if np.isnan(values).all():
        return []
    over = partial(bootstrap, seed=options.seed, resamples=options.resamples)
    return [Summary(
        system=system, group=group, figure=figure.name, mean=over(values, statistic=np.mean),
        median=over(values, statistic=np.median), real=None if np.isnan(real).all() else over(real, statistic=np.mean),
        reward=reward,
    )]


def _difference(
    name: str, mine: dict[str, Row], theirs: dict[str, Row], options: Options, who: tuple[str, str, str]
) -> list[Difference]:
    common = [clip for clip in mine if clip in theirs]
    apart = np.array([mine[c].figures.get(name, np.nan) - theirs[c].figures.get(name, np.nan) for c in common])
    if np.isnan(apart).all():
        return []
    mean = bootstrap(apart, statistic=np.mean, seed=options.seed, resamples=options.resamples)
    return [Difference(system=who[0], against=who[1], group=who[2], figure=name, mean=mean)]


class _Sets:
    """Figures of sets. What a figure worked out about a system's clips is remembered: differences ask for it again."""

    def __init__(self, evidence: Callable[[Pair], Evidence], options: Options) -> None:
        self._evidence, self._options = evidence, options
        self._over: dict[tuple[str, tuple[Pair, ...]], OfIndices] = {}

    def summary(self, figure: SetFigure, rows: dict[str, Row], system: str, group: str, reward: bool) -> list[Summary]:
        """None where it cannot be told."""
        usable = [row for row in rows.values() if figure.usable(self._clip(row))]
        mean = self._interval(figure, usable)
        if mean is None:
            return []
        return [Summary(system=system, group=group, figure=figure.name, mean=mean, median=None, real=None, reward=reward)]

    def difference(
        self, figure: SetFigure, mine: dict[str, Row], theirs: dict[str, Row], who: tuple[str, str, str]
    ) -> list[Difference]:
        """Both over the clips that both have, which are drawn together. None for a figure that is too slow to be resampled: a
        difference without an interval says nothing."""
        if not figure.resamples:
            return []
        both = [name for name in mine if name in theirs]
        common = [n for n in both if figure.usable(self._clip(mine[n])) and figure.usable(self._clip(theirs[n]))]
        mean = self._interval(figure, [mine[name] for name in common], [theirs[name] for name in common])
        return [] if mean is None else [Difference(system=who[0], against=who[1], group=who[2], figure=figure.name, mean=mean)]

    def _interval(self, figure: SetFigure, rows: Sequence[Row], minus: Sequence[Row] | None = None) -> Interval | None:
        if not rows:
            return None
        ours = self._of(figure, rows)
        others = self._of(figure, minus) if minus is not None else None
        resamples = min(self._options.resamples, figure.resamples)
        found = bootstrap_of(
            len(rows), ours if others is None else lambda chosen: ours(chosen) - others(chosen), seed=self._options.seed,
            resamples=resamples,
        )
        return None if np.isnan(found.value) else found

    def _of(self, figure: SetFigure, rows: Sequence[Row]) -> OfIndices:
        key = (figure.name, tuple(row.pair for row in rows))
        if key not in self._over:
            self._over[key] = figure.over([self._clip(row) for row in rows])
        return self._over[key]

    def _clip(self, row: Row) -> Clip:
        return Clip(figures=row.figures, evidence=partial(self._evidence, row.pair), compared=row.compared)
