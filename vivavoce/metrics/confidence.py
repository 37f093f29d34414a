"""How sure a figure is: bootstrap intervals over clips (Efron 1979, percentile intervals).

An interval tells what other clips of the same kind would give. Clips of one person are not as many people: name whose each is
(``groups``), and people are drawn instead of clips. From under about ten clips or groups intervals come out too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and the ends of its interval, which are NaN where there is but one clip or group to tell."""

    value: float
    low: float
    high: float
    count: int
    """Clips that the figure is from."""

    @property
    def excludes_zero(self) -> bool:
        """Of a difference: whether it has a sign at this level of confidence."""
        return self.low > 0 or self.high < 0


def bootstrap(
    values: Float[np.ndarray, " n"], *, statistic: Callable[..., np.ndarray] = np.nanmean, groups: Sequence[str] | None = None,
    seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL,
) -> Interval:
    """``statistic`` of the values, one a clip, and its interval; values that are NaN are left out.

    ``statistic`` takes an array and ``axis`` as np.mean and np.median do.
    """
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    numbers = values[known]
    if groups is not None:
        kept = [name for name, there in zip(groups, known, strict=True) if there]
        return bootstrap_of(
            len(numbers), lambda clips: float(statistic(numbers[clips], axis=0)), groups=kept, seed=seed, resamples=resamples,
            level=level,
        )
    count = len(numbers)
    if count < 2:
        return _interval(float(numbers[0]) if count else float("nan"), np.array([]), count, level)
    chosen = np.random.default_rng(seed).integers(0, count, (resamples, count))  # all at once, which is a hundred times faster
    return _interval(float(statistic(numbers, axis=0)), statistic(numbers[chosen], axis=1), count, level)


def _interval(value: float, found: Float[np.ndarray, " r"], count: int, level: float) -> Interval:
    """The interval that resamples make; without any, it has no ends."""
    if not len(found):
        return Interval(value=value, low=float("nan"), high=float("nan"), count=count)
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high), count=count)


def difference(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], *, statistic: Callable[..., np.ndarray] = np.nanmean,
    groups: Sequence[str] | None = None, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL,
) -> Interval:
    """``statistic`` of a - b and its interval: a[i] and b[i] are of the same clip, and clips that lack either are left out.

    Pairing takes out what makes clips easy or hard, so this is narrower than two intervals side by side.
    """
    assert np.shape(a) == np.shape(b), (np.shape(a), np.shape(b))
    return bootstrap(
        np.asarray(a, np.float64) - np.asarray(b, np.float64), statistic=statistic, groups=groups, seed=seed,
        resamples=resamples, level=level,
    )


def bootstrap_of(
    count: int, figure: Callable[[Int[np.ndarray, " n"]], float], *, groups: Sequence[str] | None = None, seed: int = 0,
    resamples: int = RESAMPLES, level: float = LEVEL,
) -> Interval:
    """A figure of a whole set of ``count`` clips: ``figure`` takes the numbers of those that a set is made of, some repeatedly.

    For the difference of two systems let it be the difference of their figures on the same clips. Figures that grow the fewer
    different clips there are (`distances.frechet`) come out somewhat higher in resamples, and so do their intervals.
    """
    if count == 0:
        return _interval(float("nan"), np.array([]), count, level)
    value, several = figure(np.arange(count)), (count if groups is None else len(set(groups))) > 1
    sets = resampled(count, groups=groups, seed=seed, resamples=resamples) if several else ()
    return _interval(value, np.array([figure(clips) for clips in sets]), count, level)


def resampled(
    count: int, *, groups: Sequence[str] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Iterator[Int[np.ndarray, " n"]]:
    """Sets of clips drawn with replacement: ``count`` of them or, with ``groups``, all clips of as many groups as there are."""
    rng = np.random.default_rng(seed)
    if groups is None:
        for _ in range(resamples):
            yield rng.integers(0, count, count)
        return
    assert len(groups) == count, (len(groups), count)
    members = [np.flatnonzero(np.asarray(groups) == name) for name in dict.fromkeys(groups)]
    for _ in range(resamples):
        yield np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
