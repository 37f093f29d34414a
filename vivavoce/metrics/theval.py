"""THEval's figures as far as landmarks and loudness tell (Quignon et al., arXiv 2511.04520; details from its published code).

Its design: eight figures of quality (aesthetics, mouth, face), naturalness (lips, head, brows) and synchrony (silent lips, lips
and sound), each turned into `closeness` to the same figure of the recordings, and their plain mean. Quality is judged there by
networks, the head's pose is one more's; here quality is left out and the pose is the mesh's. So the mean of ours is of five
figures, not of eight, and comparable only with itself. None of the five is better when higher: near the recordings' is good.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float


def lip_dynamics(lips: Float[np.ndarray, "t n 2"], eyes_apart: Float[np.ndarray, " t"]) -> float:
    """Mean over all pairs of lip points of the variance over time of their distance, in distances of the eyes' outer corners.

    ``lips``: `latent.topology.LIP_CONTOURS`; ``eyes_apart``: `latent.mesh.eyes_apart`; both in the picture's plane.
    """
    i, j = np.triu_indices(lips.shape[1], 1)
    apart = np.linalg.norm(lips[:, i] - lips[:, j], axis=-1) / eyes_apart[:, None]
    return float(apart.var(0).mean())


def head_dynamics(rotation: Float[np.ndarray, "t 3"], centre: Float[np.ndarray, "t 2"]) -> float:
    """sqrt(s v + p): s the mean deviation of the angles, v the mean variance of their differences (degrees), p of the centre.

    ``rotation`` in radians; ``centre`` of the face's box, px, mean variance of x and y. NaN under three frames. The sum mixes
    units, as published: in large pictures only the centre counts, so compare videos of one size and frame rate.
    """
    if len(rotation) < 3:
        return float("nan")
    degrees = np.degrees(rotation)
    return float(np.sqrt(degrees.std(0).mean() * np.diff(degrees, axis=0).var(0).mean() + centre.var(0).mean()))


def brow_dynamics(brow_to_eye: Float[np.ndarray, "t 2"]) -> float:
    """Mean absolute change from frame to frame of the distance of each brow's centre from its eye's (`latent.mesh.brow_to_eye`).

    Mostly the tracker's noise where brows rest: compare only what was tracked alike.
    """
    return float(np.abs(np.diff(brow_to_eye, axis=0)).mean()) if len(brow_to_eye) > 1 else float("nan")


def silent_lips(opening: Float[np.ndarray, " t"], silent: Bool[np.ndarray, " t"]) -> float:
    """Median absolute deviation of the lips' opening from its mean, in silence; NaN for fewer than two frames of it."""
    quiet = opening[silent]
    return float(np.median(np.abs(quiet - quiet.mean()))) if len(quiet) > 1 else float("nan")


def lip_sync(opening: Float[np.ndarray, " t"], loudness: Float[np.ndarray, " t"], speaking: Bool[np.ndarray, " t"]) -> float:
    """Mean absolute difference of opening and sound (root mean square), each stretched to 0..1 over the frames with speech.

    0 to 1; NaN for fewer than two frames of speech. A still mouth and loud single frames decide the stretch: hence `closeness`.
    """
    if speaking.sum() < 2:
        return float("nan")
    a, b = (c[speaking] for c in (opening, loudness))
    return float(np.abs((a - a.min()) / (np.ptp(a) + 1e-8) - (b - b.min()) / (np.ptp(b) + 1e-8)).mean())


def closeness(figure: float, real: float) -> float:
    """1 - |figure - real| / |real|: 1 where a figure is that of the recordings, below 0 where it is far off; NaN for real = 0."""
    return 1 - abs(figure - real) / abs(real) if real else float("nan")


def score(closenesses: Iterable[float]) -> float:
    """Plain mean of the figures' closeness; NaN where any is missing, so that sets with other figures are not compared."""
    return float(np.mean(list(closenesses)))
