"""How well generated lips follow recorded ones, from curves of the lips' opening (or the mouth's width) at the motion's rate.

The definitions are those of the independent judge (correlation, lag, gain, closures), `docs/log.md` says "(curves)" where they
were computed without rendering. Curves have a value a frame, in face heights, and no gaps. A comparison with one recording
asks for this take's habits too: another take of the sentence would not correlate perfectly either.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

SHORTEST = 10  # frames; what is shorter has no correlation to speak of
FURTHEST = 8  # frames that a lag is looked for to each side
CLOSED = 0.12  # of the range of opening, from its bottom
FEWEST_CLOSED = 3  # frames without which closures cannot be judged
TOUCHING = 0.04  # face heights; the most nearly closed hundredth of frames of each of 177 recordings is under 0.035
THIN = 0.01  # face heights that lips which touch are apart by, as trackers see them
SPEAKING = 0.02  # face heights of range under which a mouth does not speak


def correlation(a: Float[np.ndarray, " t"], b: Float[np.ndarray, " t"]) -> float:
    """Pearson's r = cov(a, b) / (std a std b): -1 to 1, higher is better; 0 where a curve is constant or shorter than SHORTEST.

    It sees timing and shape, not how far lips open (`gain`) nor whether they close (`closure_f1`).
    """
    assert a.shape == b.shape and a.ndim == 1, (a.shape, b.shape)
    if len(a) < SHORTEST or a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(generated: Float[np.ndarray, " t"], real: Float[np.ndarray, " t"], *, furthest: int = FURTHEST) -> int:
    """argmax over k of `correlation` of generated(t + k) with real(t): frames by which ``generated`` is late; negative: early.

    -furthest to furthest, near 0 is good; the earliest of equals. Where the two hardly correlate it is chance.
    """
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
    """F1 = 2 P R / (P + R) of the frames with closed lips, one frame of tolerance to each side.

    0 to 1, higher is better; NaN where the real lips hardly ever close. P: share of generated closures that are real ones, R: of
    real ones that are generated. `closed` is relative to each curve's own range, so lips that never quite meet pass: see
    `bilabial_closures`.
    """
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
    """std(generated) / std(real): how far a curve moves beside the recorded one. From 0, near 1 is good.

    For lips, brows, anything. NaN where the real one is still. It sees neither when nor how fast.
    """
    spread = float(np.std(real))
    return float(np.std(generated)) / spread if spread > 1e-9 else float("nan")


def touching(opening: Float[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
    """Frames whose lips touch: under THIN + CLOSED times the 95th percentile of the opening, and under TOUCHING.

    Nearly `closed`, but lips that never quite meet do not touch at the bottom of their range, nor does a mouth that never opens.
    """
    low, high = np.percentile(opening, [1, 95])
    return (opening < min(THIN + CLOSED * high, TOUCHING)) & (high - low > SPEAKING)


def bilabial_closures(opening: Float[np.ndarray, " t"], times: Float[np.ndarray, "n 2"], rate_hz: float) -> float:
    """Share of the bilabials within which lips meet (`touching`): 0 to 1, higher is better; NaN without any.

    ``times``: begin and end of each p, b and m, seconds; one frame of tolerance to either side. Lips close before the sound is
    let go: phones that a recogniser found begin 0.04 to 0.08 s too late. In recordings, timed so and begun 0.04 s earlier, 0.67
    of them are met, and 0.38 of other stretches. Mouths that open less close more often: hold it beside the recording's or beside
    other stretches of speech, and beside `gain`.
    """
    shut, hit = touching(opening), []
    for begin, end in np.asarray(times, np.float64).reshape(-1, 2):
        first, last = int(np.ceil(begin * rate_hz - 1 - 1e-6)), int(np.floor(end * rate_hz + 1 + 1e-6))
        within = shut[max(first, 0) : max(last + 1, 0)]
        if len(within):
            hit.append(bool(within.any()))
    return float(np.mean(hit)) if hit else float("nan")


def silent_stability(opening: Float[np.ndarray, " t"], silent: Bool[np.ndarray, " t"]) -> float:
    """How still lips are in silence: root mean square of the opening about the mean of each silence, face heights.

    From 0, still; low is good, though people do move their lips in pauses: the recording's is the measure. Silences of fewer
    than SHORTEST frames are left out; NaN without others. A mouth that hangs open is still too. Lips open before they sound:
    end silences early. THEval's has the same aim (`theval.silent_lips`) but, a median, misses what moves half of the time.
    """
    assert opening.shape == silent.shape, (opening.shape, silent.shape)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(int)))
    parts = [opening[a:b] - opening[a:b].mean() for a, b in edges.reshape(-1, 2) if b - a >= SHORTEST]
    return float(np.sqrt((np.concatenate(parts) ** 2).mean())) if parts else float("nan")
