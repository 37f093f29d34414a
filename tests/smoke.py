"""Looks at what ``vivavoce demo`` made, as .ci/run does: ``python tests/smoke.py demo.mp4``.

The video is tracked again and compared with the phones of its sentence and with the portrait that it was made from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data

from vivavoce.apps.commands import DEMO_SENTENCE
from vivavoce.latent.tracker import FaceTracker
from vivavoce.media.speak import speak_phones
from vivavoce.media.video import read_frames
from vivavoce.speech.phones import VISEME_OF, VISEMES, split_ipa

FPS = 25.0
INNER_LIPS = (13, 14)  # MediaPipe's numbers: middle of the upper and of the lower lip, inner edge
EYES = ((159, 145, 33, 133), (386, 374, 362, 263))  # upper lid, lower lid, corners
# The outline of the face and the bridge of the nose: what speech moves only together with the head.
RIGID = (10, 338, 297, 284, 251, 127, 162, 21, 54, 103, 109, 168, 6, 197, 33, 133, 362, 263)


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
        "lips open in vowels (over closed sounds)": (sync := vowels_over_closures(points, 0)),
        "the same half a second later": (late := vowels_over_closures(points, 12)),
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
    assert sync > max(2.0, 1.5 * late), "the lips do not follow the sound"
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


def vowels_over_closures(points: np.ndarray, late: int) -> float:
    """Mean opening in open vowels over that in p, b, m, f, v and u of the demo's sentence, ``late`` frames later.

    Not the sound's level: an m is loud with closed lips.
    """
    _, phones = speak_phones(DEMO_SENTENCE, "en")
    opening = gap(points)
    found = []
    for looks in ({"A", "E", "O"}, {"PBM", "FV", "U"}):
        spoken = np.zeros(len(opening), bool)
        for phone in phones:
            classes = split_ipa(phone.symbol)
            if classes and VISEMES[VISEME_OF[classes[0]]] in looks:
                spoken[round(phone.start * FPS) : round(phone.end * FPS) + 1] = True
        found.append(float(opening[np.roll(spoken, late)].mean()))
    return found[0] / found[1]


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
