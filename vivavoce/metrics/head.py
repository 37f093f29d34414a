"""How heads move: how far, how fast, how smoothly, how differently, and with speech or past it.

``rotation`` is pitch, yaw and roll in radians, one row a frame, without gaps (`latent.mesh.head_rotation`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.signal import savgol_filter

SMOOTHING = 7  # frames of the cubic that takes the tracker's noise off before differences are taken
RADIANS_LEAST = np.radians(1e-3)  # added to each axis of a spread, so that one still axis does not make it zero
WINDOWS_SECONDS = (0.2, 0.4, 0.8, 1.6)
BEAT_TOLERANCE_SECONDS = 0.1


def rotation_spread(rotation: Float[np.ndarray, "t 3"]) -> float:
    """Standard deviation of the head's rotation, radians: the geometric mean of the three axes, each at least 0.001 degrees."""
    return float(np.exp(np.mean(np.log(rotation.std(0) + RADIANS_LEAST))))


def jerk(rotation: Float[np.ndarray, "t 3"], rate_hz: float) -> float:
    """Median absolute third difference of the smoothed rotation, radians per second cubed; 0 for clips of three frames or less."""
    if len(rotation) < 4:
        return 0.0
    return float(np.median(np.abs(np.diff(smoothed(rotation), 3, axis=0)))) * rate_hz**3


def speed(rotation: Float[np.ndarray, "t 3"], rate_hz: float) -> float:
    """Mean angular speed of the smoothed rotation, radians per second; 0 for a still head."""
    return float(speeds(rotation, rate_hz).mean())


def speeds(rotation: Float[np.ndarray, "t 3"], rate_hz: float) -> Float[np.ndarray, " t"]:
    """Angular speed of the smoothed rotation in every frame, radians per second."""
    if len(rotation) < 2:
        return np.zeros(len(rotation))
    return np.linalg.norm(np.gradient(smoothed(rotation), axis=0), axis=1) * rate_hz


def smoothed(curve: Float[np.ndarray, t *k]) -> Float[np.ndarray, t *k]:
    """Cubics fitted to SMOOTHING frames each (Savitzky and Golay); as it is where the curve is not longer than that."""
    return savgol_filter(curve, SMOOTHING, 3, axis=0) if len(curve) > SMOOTHING else np.asarray(curve, np.float64)


def diversity(rotations: Sequence[Float[np.ndarray, "t 3"]]) -> float:
    """Mean over all pairs of takes of the root mean square distance of their rotations, radians; NaN for fewer than two takes."""
    count = len(rotations)
    if count < 2:
        return float("nan")
    frames = min(len(r) for r in rotations)
    takes = np.stack([r[:frames] for r in rotations])
    apart = [np.sqrt(((takes[i] - takes[j]) ** 2).sum(1).mean()) for i in range(count) for j in range(i)]
    return float(np.mean(apart))


def kinematic_beats(rotation: Float[np.ndarray, "t 3"], rate_hz: float) -> Int[np.ndarray, " n"]:
    """Frames in which the head is slower than in its neighbours: where it turns back or comes to rest."""
    moving = speeds(rotation, rate_hz)
    return 1 + np.flatnonzero((moving[1:-1] < moving[:-2]) & (moving[1:-1] <= moving[2:]))


def beat_align(
    rotation: Float[np.ndarray, "t 3"], beats_seconds: Float[np.ndarray, " n"], rate_hz: float,
    *, tolerance_seconds: float = BEAT_TOLERANCE_SECONDS,
) -> float:
    """BeatAlign: mean over the head's beats of exp(-d^2 / 2 s^2), d to the nearest beat of speech; NaN without beats of either."""
    ours = kinematic_beats(rotation, rate_hz) / rate_hz
    if not len(ours) or not len(beats_seconds):
        return float("nan")
    nearest = np.abs(ours[:, None] - np.asarray(beats_seconds)[None]).min(1)
    return float(np.exp(-(nearest**2) / (2 * tolerance_seconds**2)).mean())


def speech_synchrony(
    rotation: Float[np.ndarray, "t 3"], speech: Float[np.ndarray, "t k"], rate_hz: float,
    *, windows_seconds: Sequence[float] = WINDOWS_SECONDS,
) -> Float[np.ndarray, " w"]:
    """How well head motion and speech agree at each scale, -1 to 1, 0 by chance: correlation of head speed and of speech's changes.

    One number for each of ``windows_seconds``; NaN where the clip holds fewer than eight windows.
    """
    assert len(rotation) == len(speech), (rotation.shape, speech.shape)
    moving = speeds(rotation, rate_hz)
    changing = np.linalg.norm(np.gradient(np.asarray(speech, np.float64), axis=0), axis=1)
    found = []
    for seconds in windows_seconds:
        frames = max(1, round(seconds * rate_hz))
        count = len(moving) // frames
        if count < 8:
            found.append(float("nan"))
            continue
        a, b = (c[: count * frames].reshape(count, frames).mean(1) for c in (moving, changing))
        found.append(float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0)
    return np.array(found)
