"""How heads move: how far, how fast, how smoothly, how differently, and with speech or past it.

``rotation`` is pitch, yaw and roll in radians, one row a frame, without gaps (`latent.mesh.head_rotation`). None of these figures
knows whether a movement means anything: a nod at the wrong word counts like one at the right word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from vivavoce.metrics.dynamics import jerk as jerk  # a head's is that of any curve
from vivavoce.metrics.dynamics import smoothed

LEAST = np.radians(1e-3)  # added to each axis of a spread, so that one still axis does not make it zero
STILL = np.radians(0.5)  # a second: slower heads differ by the tracker's noise only
ROUNDING = 1e-9  # radians per second; a head that does not move has no beats
WINDOWS_SECONDS = (0.2, 0.4, 0.8, 1.6)
BEAT_TOLERANCE_SECONDS = 0.1
UNRELATED_SECONDS = 0.5  # beats that are moved so far and further meet the head's by chance


def rotation_spread(rotation: Float[np.ndarray, "t 3"]) -> float:
    """How far a head turns: exp(mean over axes of log(std + LEAST)), the geometric mean of the three deviations, radians.

    From LEAST, a still head; as far as the recording's is good. The judge's head spread (there in degrees). It does not see how
    fast a head moves: a slow drift spreads as far as nods.
    """
    return float(np.exp(np.mean(np.log(rotation.std(0) + LEAST))))


def speeds(rotation: Float[np.ndarray, "t 3"], rate_hz: float) -> Float[np.ndarray, " t"]:
    """Angular speed in every frame, by central differences, radians per second."""
    if len(rotation) < 2:
        return np.zeros(len(rotation))
    return np.linalg.norm(np.gradient(np.asarray(rotation, np.float64), axis=0), axis=1) * rate_hz


def speed(rotation: Float[np.ndarray, "t 3"], rate_hz: float) -> float:
    """Mean angular speed of the smoothed rotation, radians per second.

    From 0, a still head; as fast as the recording's is good. A trembling head is fast too: see `dynamics.jerk` beside it.
    """
    return float(speeds(smoothed(rotation), rate_hz).mean())


def windows(rotation: Float[np.ndarray, "t 3"], frames: int) -> list[Float[np.ndarray, "f 3"]]:
    """The clip cut into pieces of so many frames, each about its own mean; what is left over at the end is dropped."""
    starts = range(0, len(rotation) - frames + 1, frames)
    return [rotation[i : i + frames] - rotation[i : i + frames].mean(0) for i in starts]


def diversity(rotations: Sequence[Float[np.ndarray, "t 3"]]) -> float:
    """How different several motions are: mean over pairs of sqrt(mean over time of |a(t) - b(t)|^2), radians.

    From 0, all alike; as far apart as recordings of as many people, or as `windows` of a recording, is good. NaN for fewer than
    two motions; all are cut to the shortest. Takes of the same sound tell whether a system varies, clips of different people
    whether all nod as one. Motions that are only delayed or mirrored count as different, and larger motions as more so.
    """
    count = len(rotations)
    if count < 2:
        return float("nan")
    frames = min(len(r) for r in rotations)
    takes = np.stack([r[:frames] for r in rotations])
    apart = [np.sqrt(((takes[i] - takes[j]) ** 2).sum(1).mean()) for i in range(count) for j in range(i)]
    return float(np.mean(apart))


def kinematic_beats(rotation: Float[np.ndarray, "t 3"], rate_hz: float) -> Int[np.ndarray, " n"]:
    """Frames where the smoothed head is slower than before and after: where it turns back or comes to rest."""
    moving = speeds(smoothed(rotation), rate_hz)
    return 1 + np.flatnonzero((moving[1:-1] < moving[:-2] - ROUNDING) & (moving[1:-1] <= moving[2:]))


def beat_align(
    rotation: Float[np.ndarray, "t 3"], beats_seconds: Float[np.ndarray, " n"], rate_hz: float,
    *, tolerance_seconds: float = BEAT_TOLERANCE_SECONDS,
) -> float:
    """BeatAlign: mean over the head's beats of exp(-d^2 / 2 s^2), d from each to the nearest beat of speech (Li et al. 2021).

    0 to 1, higher: more together. ``beats_seconds``: onsets of the sound; s: ``tolerance_seconds`` (for dance, 0.05). NaN where
    either has none. The more often speech beats, the higher by chance: give `beat_align_above_chance` with it. In our
    recordings (65 clips) it is 0.57 with one's own speech and 0.575 with another's, so it says little of talking heads;
    `speech_synchrony` tells them apart.
    """
    ours = kinematic_beats(rotation, rate_hz) / rate_hz
    return _alignment(ours, np.asarray(beats_seconds, np.float64), tolerance_seconds)


def beat_align_above_chance(
    rotation: Float[np.ndarray, "t 3"], beats_seconds: Float[np.ndarray, " n"], rate_hz: float,
    *, tolerance_seconds: float = BEAT_TOLERANCE_SECONDS,
) -> float:
    """`beat_align` less its mean over all rotations of the beats of speech within the clip by UNRELATED_SECONDS and more.

    -1 to 1, 0: no better than any other moment of the same speech. NaN where either has no beats or the clip is too short.
    """
    ours, beats = kinematic_beats(rotation, rate_hz) / rate_hz, np.asarray(beats_seconds, np.float64)
    seconds = len(rotation) / rate_hz
    moves = np.arange(UNRELATED_SECONDS, seconds - UNRELATED_SECONDS, 1 / rate_hz)
    if not len(moves):
        return float("nan")
    chance = np.mean([_alignment(ours, (beats + move) % seconds, tolerance_seconds) for move in moves])
    return _alignment(ours, beats, tolerance_seconds) - float(chance)


def _alignment(ours: Float[np.ndarray, " n"], beats: Float[np.ndarray, " m"], tolerance_seconds: float) -> float:
    if not len(ours) or not len(beats):
        return float("nan")
    nearest = np.abs(ours[:, None] - beats[None]).min(1)
    return float(np.exp(-(nearest**2) / (2 * tolerance_seconds**2)).mean())


def speech_synchrony(
    rotation: Float[np.ndarray, "t 3"], speech: Float[np.ndarray, t *k], rate_hz: float,
    *, windows_seconds: Sequence[float] = WINDOWS_SECONDS,
) -> Float[np.ndarray, " w"]:
    """Whether the head moves more where speech changes more, at each of several scales.

    For windows of w seconds: the correlation over time of how much both rise from one window to the next,
    corr(x(t + w) - x(t), y(t + w) - y(t)), with x the log of the mean head speed in the window that begins at t and y the mean
    absolute change of ``speech`` in it. Differences of neighbouring windows leave in what belongs to this scale and take out
    slower trends. -1 to 1; 0 by chance; near the recording's is good (generated heads can be more synchronous than real ones:
    Airale et al. 2023, whose windows these are, though they train a network for each). NaN for clips shorter than four windows
    and without any change in speech; 0 for a still head.

    ``speech``: one or several curves, each weighed by its own mean change. The square root of the amplitude does best:
    0.13, 0.22, 0.29 and 0.22 with one's own speech in 65 recordings (in dB 0.12, 0.19, 0.24, 0.17; pitch adds nothing), within
    0.03 of 0 with other people's. Heads that are late by one window come to 0 or below, and noise takes it there. Single clips
    scatter by 0.2 (short windows) to 0.4 (long ones), so give means over many. It leaves out which way the head moves, how far
    (any amplitude gives the same), what is said, and heads that move long before the word. Mouths that disturb the tracking of
    heads add little: yaw alone gives nearly the same.
    """
    assert len(rotation) == len(speech), (rotation.shape, speech.shape)
    change = np.abs(np.gradient(np.asarray(speech, np.float64).reshape(len(speech), -1), axis=0))
    sounding = (change / np.maximum(change.mean(0), 1e-9)).mean(1)
    return np.array([_synchrony(speeds(rotation, rate_hz), sounding, round(s * rate_hz)) for s in windows_seconds])


def _synchrony(moving: Float[np.ndarray, " t"], sounding: Float[np.ndarray, " t"], frames: int) -> float:
    assert frames > 0, "a window shorter than a frame"
    if len(moving) < 4 * frames:
        return float("nan")
    x, y = np.log(_means(moving, frames) + STILL), _means(sounding, frames)
    x, y = x[frames:] - x[:-frames], y[frames:] - y[:-frames]
    if y.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 1e-9 else 0.0


def _means(curve: Float[np.ndarray, " t"], frames: int) -> Float[np.ndarray, " n"]:
    """Means of all windows of so many frames."""
    return np.convolve(curve, np.full(frames, 1 / frames), "valid")
