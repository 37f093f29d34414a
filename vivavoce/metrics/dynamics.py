"""How much and how smoothly anything moves: lips, mouth width, brows, heads. Units are the curve's own.

All are figures to hold beside a recording's, not scores: more is not better. ``curve`` has one row a frame and no gaps.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.signal import savgol_filter

SMOOTHING = 7  # frames of the cubic that takes the tracker's noise off before differences are taken


def smoothed(curve: Float[np.ndarray, t *k]) -> Float[np.ndarray, t *k]:
    """Cubics fitted to SMOOTHING frames each (Savitzky and Golay 1964); as it is where the curve is not longer than that."""
    return savgol_filter(curve, SMOOTHING, 3, axis=0) if len(curve) > SMOOTHING else np.asarray(curve, np.float64)


def spread(curve: Float[np.ndarray, " t"]) -> float:
    """Standard deviation over time: how far it goes. From 0, still; the ratio to the recording's is `lips.gain`."""
    return float(np.std(curve))


def activity(curve: Float[np.ndarray, t *k], rate_hz: float) -> float:
    """Mean absolute rate of change of the smoothed curve, per second: how much it moves, slow drifts hardly counted.

    From 0, still; near the recording's is good. Lip dynamics, brow dynamics. Trembling raises it too: see `jerk` beside it.
    """
    return float(np.abs(np.diff(smoothed(curve), axis=0)).mean()) * rate_hz if len(curve) > 1 else 0.0


def jerk(curve: Float[np.ndarray, t *k], rate_hz: float) -> float:
    """Median absolute third difference of the smoothed curve times rate_hz^3, over frames and axes: how roughly it moves.

    From 0, still or steady; near the recording's is good: above, it trembles, below, it glides. The judge's jerk. Being a median
    it does not see single jumps, and noise of the tracker is in it: compare only what was tracked alike. 0 for clips of three
    frames or less.
    """
    if len(curve) < 4:
        return 0.0
    return float(np.median(np.abs(np.diff(smoothed(curve), 3, axis=0)))) * rate_hz**3
