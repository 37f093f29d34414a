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
from vivavoce.judge.report import KEPT, check_folder, write_report
from vivavoce.judge.results import ALL, Described, Difference, Evaluation, Row, Summary
from vivavoce.judge.sets import SETS, Clip, SetFigure
from vivavoce.metrics.confidence import bootstrap, bootstrap_of

Progress = Callable[[str, int, int | None], None]
_REMEMBERED = 64  # clips whose evidence stays in memory, about 5 MB each


@dataclass(frozen=True, kw_only=True)
class Options:
    """``rewards``: figures that every system was trained against (a pair may name its own besides). ``seed``, ``resamples``: of
    the bootstrap."""

    rewards: tuple[str, ...] = ()
    seed: int = 0
    resamples: int = 2000


def evaluate(
    pairs: Sequence[Pair], out: Path, *, options: Options | None = None, figures: Sequence[Figure] = FIGURES,
    sets: Sequence[SetFigure] = SETS, progress: Progress | None = None,
) -> Evaluation:
    """Judges every pair and writes report.json, report.md and index.html into the folder ``out``.

    What was seen and heard is kept in ``out``/kept, so a run that was stopped goes on where it stopped. A clip that cannot be
    judged is a row with a problem. ValueError where a reward is the name of no figure or no clip at all could be judged;
    FileExistsError where the folder holds a page that is not ours.
    """
    options = options or Options()
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
    found = replace(found, notes=tools.notes)
    write_report(found, out, lambda pair: remember(pair)[0], report)
    return found


def _unseen(what: str, done: int, total: int | None) -> None:
    pass


def check_rewards(pairs: Sequence[Pair], options: Options, figures: Sequence[Described]) -> None:
    """ValueError for a reward that is no figure."""
    known = [figure.name for figure in figures]
    for name in (*options.rewards, *(reward for pair in pairs for reward in pair.rewards)):
        if name not in known:
            raise ValueError(f"the reward {name!r} is none of the figures: give some of {', '.join(known)}")


def _judged(pair: Pair, remember: Callable[[Pair], tuple[Evidence, tuple[str, ...]]], figures: Sequence[Figure]) -> Row:
    try:
        evidence, notes = remember(pair)
    except (ValueError, OSError) as error:
        raise_if_ours(error)
        return Row(pair=pair, figures={}, problem=" ".join(str(error).split()))
    return Row(pair=pair, figures=figures_of(evidence, figures), notes=notes)


def _summed_up(
    rows: Sequence[Row], evidence: Callable[[Pair], Evidence], figures: Sequence[Figure], sets: Sequence[SetFigure],
    options: Options, report: Progress,
) -> Evaluation:
    systems = tuple(dict.fromkeys(row.pair.system for row in rows))
    named = tuple(dict.fromkeys(row.pair.group for row in rows if row.pair.group != ALL))
    groups = (ALL, *(named if len(named) > 1 or any(row.pair.group == ALL for row in rows) else ()))
    summaries: list[Summary] = []
    differences: list[Difference] = []
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
                summaries += _set_summary(whole, mine, evidence, (system, group), whole.name in rewards, options)
                differences += _set_difference(whole, mine, theirs, evidence, options, (system, systems[0], group))
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


def _clips(rows: dict[str, Row], evidence: Callable[[Pair], Evidence]) -> dict[str, Clip]:
    return {
        name: Clip(
            figures=row.figures, evidence=partial(evidence, row.pair), compared=evidence(row.pair).example is not None,
        )
        for name, row in rows.items()
    }


def _set_summary(
    figure: SetFigure, rows: dict[str, Row], evidence: Callable[[Pair], Evidence], who: tuple[str, str], reward: bool,
    options: Options,
) -> list[Summary]:
    usable = [clip for clip in _clips(rows, evidence).values() if figure.usable(clip)]
    if not usable:
        return []
    resamples = min(options.resamples, figure.resamples)
    mean = bootstrap_of(len(usable), figure.over(usable), seed=options.seed, resamples=resamples)
    if np.isnan(mean.value):
        return []
    return [Summary(system=who[0], group=who[1], figure=figure.name, mean=mean, median=None, real=None, reward=reward)]


def _set_difference(
    figure: SetFigure, mine: dict[str, Row], theirs: dict[str, Row], evidence: Callable[[Pair], Evidence], options: Options,
    who: tuple[str, str, str],
) -> list[Difference]:
    """Both over the clips that both have, which are drawn together."""
    a, b = _clips(mine, evidence), _clips(theirs, evidence)
    common = [name for name in a if name in b and figure.usable(a[name]) and figure.usable(b[name])]
    if not common:
        return []
    ours, others = (figure.over([clips[name] for name in common]) for clips in (a, b))
    resamples = min(options.resamples, figure.resamples)
    mean = bootstrap_of(len(common), lambda i: ours(i) - others(i), seed=options.seed, resamples=resamples)
    if np.isnan(mean.value):
        return []
    return [Difference(system=who[0], against=who[1], group=who[2], figure=figure.name, mean=mean)]
