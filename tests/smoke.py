"""Looks at what ``vivavoce demo`` made, as .ci/run does: ``python tests/smoke.py demo.mp4``.

The video is tracked again and compared with its own sound and with the portrait that it was made from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data

from vivavoce.latent.tracker import FaceTracker
from vivavoce.media.audio import read_audio
from vivavoce.media.video import read_frames

FPS = 25.0
INNER_LIPS = (13, 14)  # MediaPipe's numbers: middle of the upper and of the lower lip, inner edge
EYES = ((159, 145, 33, 133), (386, 374, 362, 263))  # upper lid, lower lid, corners
# The outline of the face and the bridge of the nose: what speech moves only together with the head.
RIGID = (10, 338, 297, 284, 251, 127, 162, 21, 54, 103, 109, 168, 6, 197, 33, 133, 362, 263)
MAX_LAG_FRAMES = 2


def main(video: Path) -> None:
    """Raises AssertionError, with the figure, for what is not as it should be; prints the figures."""
    portrait = skimage.data.astronaut()
    frames = list(read_frames(video, FPS))
    with FaceTracker() as tracker:
        still = tracker(portrait)
    with FaceTracker() as tracker:
        faces = [tracker(frame) for frame in frames]
    assert still is not None
    lost = sum(face is None for face in faces)
    assert lost == 0, f"{lost} of {len(faces)} frames have no face"
    points = np.stack([face for face in faces if face is not None])

    figures = {
        "lips follow loudness (correlation)": (sync := lip_loudness_correlation(points, video)),
        "opening of the lips, p95 - p5 (face heights)": (opening := float(np.ptp(np.percentile(gap(points), [5, 95])))),
        "deepest blink (share of the eye's opening)": (lid := float((eye(points) / np.median(eye(points))).min())),
        "head's way (face heights)": (way := float(np.linalg.norm(np.ptp(points[:, 168, :2], 0)) / height(still[None])[0])),
        "shape of the face, change (face heights)": (shape := float(np.median(misfit(points, still)))),
        "border of the picture, change (grey levels)": (border := border_change(frames, portrait)),
        "seconds": len(frames) / FPS,
    }
    for name, value in figures.items():
        print(f"{name:50s}{value:8.3f}")
    assert len(frames) > 2 * FPS, "the video is too short to hold the sentence"
    assert sync > 0.2, "the lips do not follow the sound"
    assert opening > 0.015, "the lips hardly move"
    assert lid < 0.6, "the eyes never blink"
    assert 0.001 < way < 0.5, "the head is frozen or flies about"
    assert shape < 0.03, "the picture is no longer the person"
    assert border < 3.0, "the background moves"


def height(points: np.ndarray) -> np.ndarray:
    """Forehead to chin, px."""
    return np.linalg.norm(points[:, 10, :2] - points[:, 152, :2], axis=1)


def gap(points: np.ndarray) -> np.ndarray:
    """Opening of the lips, face heights."""
    upper, lower = INNER_LIPS
    return np.linalg.norm(points[:, upper, :2] - points[:, lower, :2], axis=1) / height(points)


def eye(points: np.ndarray) -> np.ndarray:
    """Opening of the eyes, eye widths."""
    def apart(a: int, b: int) -> np.ndarray:
        return np.linalg.norm(points[:, a, :2] - points[:, b, :2], axis=1)

    return np.mean([apart(up, low) / apart(outer, inner) for up, low, outer, inner in EYES], axis=0)


def lip_loudness_correlation(points: np.ndarray, video: Path) -> float:
    """Best correlation of the lips' opening with the sound's level in dB over small lags."""
    blocks = list(read_audio(video))
    samples = np.concatenate([block.mono().samples[0].numpy() for block in blocks])
    step = blocks[0].rate / FPS
    levels = [np.sqrt(np.mean(samples[int(k * step) : int((k + 1) * step)] ** 2) + 1e-6) for k in range(int(len(samples) / step))]
    count = min(len(levels), len(points))
    level, opening = 20 * np.log10(levels[:count]), gap(points)[:count]

    def at(lag: int) -> float:
        a, b = (level[: count - lag], opening[lag:]) if lag >= 0 else (level[-lag:], opening[:lag])
        return float(np.corrcoef(a, b)[0, 1])

    return max(at(lag) for lag in range(-MAX_LAG_FRAMES, MAX_LAG_FRAMES + 1))


def misfit(points: np.ndarray, still: np.ndarray) -> np.ndarray:
    """Distance of the rigid landmarks from the portrait's after the best similarity of the plane, face heights, per frame."""
    def planar(face: np.ndarray) -> np.ndarray:
        z = face[list(RIGID), 0] + 1j * face[list(RIGID), 1]
        return z - z.mean()

    goal = planar(still)
    scale = height(still[None])[0]
    errors = []
    for face in points:
        z = planar(face)
        turn = np.vdot(z, goal) / np.vdot(z, z)
        errors.append(np.abs(turn * z - goal).mean() / scale)
    return np.array(errors)


def border_change(frames: Sequence[np.ndarray], portrait: np.ndarray) -> float:
    """Largest mean difference of the upper corners and the picture's edge columns, over frames; the compression is in it."""
    height, width = portrait.shape[:2]
    band = np.zeros((height, width), bool)
    band[: height // 2, : width // 32] = band[: height // 2, -(width // 32) :] = True
    assert frames[0].shape == portrait.shape, f"the whole picture is {portrait.shape}, the video {frames[0].shape}"
    return max(float(np.abs(frame[band].astype(float) - portrait[band]).mean()) for frame in frames)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
