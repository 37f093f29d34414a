"""How well generated lips follow recorded ones, from curves of the lips' opening (or the mouth's width) at the motion's rate.

The definitions are those of the independent judge, `docs/log.md` says "(curves)" where they were computed without rendering.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

SHORTEST = 10  # frames; what is shorter has no correlation to speak of
FURTHEST = 8  # frames that a lag is looked for to each side
CLOSED = 0.12  # of the range of opening, from its bottom
FEWEST_CLOSED = 3  # frames without which closures cannot be judged


def correlation(a: Float[np.ndarray, " t"], b: Float[np.ndarray, " t"]) -> float:
    """Pearson's; 0 where a curve is constant or shorter than SHORTEST."""
    assert a.shape == b.shape and a.ndim == 1, (a.shape, b.shape)
    if len(a) < SHORTEST or a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(generated: Float[np.ndarray, " t"], real: Float[np.ndarray, " t"], *, furthest: int = FURTHEST) -> int:
    """Frames by which ``generated`` is late where the two correlate best; negative: early. The earliest of equals."""
    assert generated.shape == real.shape, (generated.shape, real.shape)
    count = len(real)

    def at(lag: int) -> float:
        return correlation(generated[max(lag, 0) : count + min(lag, 0)], real[max(-lag, 0) : count - max(lag, 0)])

    return max(range(-furthest, furthest + 1), key=at)


def closed(opening: Float[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
    """Frames whose lips are closed: under an eighth (CLOSED) of the curve's own range, from its 1st to its 95th percentile."""
    low, high = np.percentile(opening, [1, 95])
    return opening < low + CLOSED * (high - low)


def closure_f1(generated: Float[np.ndarray, " t"], real: Float[np.ndarray, " t"]) -> float:
    """F1 of the frames with closed lips, one frame of tolerance to each side; NaN where the real lips hardly ever close."""
    assert generated.shape == real.shape, (generated.shape, real.shape)
    ours, theirs = closed(generated), closed(real)
    if theirs.sum() < FEWEST_CLOSED:
        return float("nan")
    recall = (theirs & _widened(ours)).sum() / theirs.sum()
    precision = (ours & _widened(theirs)).sum() / max(ours.sum(), 1)
    return float(2 * recall * precision / max(recall + precision, 1e-9))


def _widened(mask: Bool[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
    """The frames of the mask and their neighbours."""
    padded = np.pad(mask, 1)
    return padded[:-2] | padded[1:-1] | padded[2:]


def gain(generated: Float[np.ndarray, " t"], real: Float[np.ndarray, " t"]) -> float:
    """Standard deviation of the generated curve over the real one's: 1 where it moves as far; NaN where the real one is still."""
    spread = float(np.std(real))
    return float(np.std(generated)) / spread if spread > 1e-9 else float("nan")


def bilabial_closures(opening: Float[np.ndarray, " t"], times: Float[np.ndarray, "n 2"], rate_hz: float) -> float:
    """Share of the bilabials (p, b, m; ``times``: begin and end, seconds) within which the lips close; NaN without any.

    Closed as `closed` says, in any frame of the phone or one next to it.
    """
    shut, hit = closed(opening), []
    for begin, end in np.asarray(times, np.float64).reshape(-1, 2):
        first, last = int(np.floor(begin * rate_hz)) - 1, int(np.ceil(end * rate_hz)) + 1
        within = shut[max(first, 0) : max(last, 0)]
        if len(within):
            hit.append(bool(within.any()))
    return float(np.mean(hit)) if hit else float("nan")


def silent_stability(opening: Float[np.ndarray, " t"], silent: Bool[np.ndarray, " t"]) -> float:
    """Standard deviation of the opening within stretches of silence, about each one's mean, in face heights; NaN without silence."""
    assert opening.shape == silent.shape, (opening.shape, silent.shape)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(int)))
    parts = [opening[a:b] - opening[a:b].mean() for a, b in edges.reshape(-1, 2) if b - a >= SHORTEST]
    return float(np.sqrt((np.concatenate(parts) ** 2).mean())) if parts else float("nan")
