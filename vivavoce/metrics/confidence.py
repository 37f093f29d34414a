"""How sure a figure is: bootstrap intervals over clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and the interval that holds it with the asked level of confidence; NaN ends where one clip cannot tell."""

    value: float
    low: float
    high: float
    count: int
    """Clips that the figure is from."""

    @property
    def excludes_zero(self) -> bool:
        """For differences: whether the interval lies to one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap(
    values: Float[np.ndarray, " n"], *, statistic: Callable[..., np.ndarray] = np.nanmean, seed: int = 0,
    resamples: int = RESAMPLES, level: float = LEVEL,
) -> Interval:
    """``statistic`` (of an array, along ``axis``) of the values that are not NaN, and its percentile bootstrap interval."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    count = len(known)
    if count < 2:
        return bootstrap_of(count, lambda chosen: float(statistic(known[chosen], axis=0)))
    # All at once: a report has thousands of intervals.
    chosen = np.random.default_rng(seed).integers(0, count, (resamples, count))
    low, high = np.quantile(statistic(known[chosen], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=float(statistic(known, axis=0)), low=float(low), high=float(high), count=count)


def bootstrap_of(
    count: int, figure: Callable[[Int[np.ndarray, " n"]], float], *, seed: int = 0, resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The same for a figure of a whole set: ``figure`` takes the numbers of the clips, of ``count``, that a set is made of."""
    if count == 0:
        return Interval(value=float("nan"), low=float("nan"), high=float("nan"), count=0)
    value = figure(np.arange(count))
    if count == 1:
        return Interval(value=value, low=float("nan"), high=float("nan"), count=1)
    rng = np.random.default_rng(seed)
    found = [figure(rng.integers(0, count, count)) for _ in range(resamples)]
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high), count=count)


def difference(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], *, statistic: Callable[..., np.ndarray] = np.nanmean, seed: int = 0,
    resamples: int = RESAMPLES, level: float = LEVEL,
) -> Interval:
    """Interval of ``statistic`` of a - b, paired: a[i] and b[i] are of the same clip; clips that lack either are left out."""
    assert np.shape(a) == np.shape(b), (np.shape(a), np.shape(b))
    return bootstrap(np.asarray(a) - np.asarray(b), statistic=statistic, seed=seed, resamples=resamples, level=level)
