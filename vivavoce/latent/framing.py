"""Which face of a portrait is meant, and which part of the picture is shown with it."""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Float

from vivavoce.latent.space import Frame
from vivavoce.latent.topology import SKIN
from vivavoce.latent.tracker import find_faces
from vivavoce.media.portrait import Portrait

HEAD_AND_SHOULDERS = 2.4  # sides of a face in the shorter side of what is shown of a head and its shoulders
BELOW = 0.08  # sides of a face: how far under its centre the centre of head and shoulders lies


def chosen_face(portrait: Portrait) -> Float[np.ndarray, "478 3"]:
    """Landmarks of the face that the portrait asks for, px. ValueError where it shows none, or has no face of that number."""
    faces = find_faces(portrait.image)
    if not faces:
        raise ValueError(
            f"no face was found in {portrait.name}: give a picture that shows one from the front, well lit and uncovered"
        )
    return _numbered(faces, portrait)


def face_if_any(portrait: Portrait) -> Float[np.ndarray, "478 3"] | None:
    """The same, but None where no face is found and none was asked for by its number."""
    if portrait.face is not None:
        return chosen_face(portrait)
    faces = find_faces(portrait.image)
    return _numbered(faces, portrait) if faces else None


def _numbered(faces: list[Float[np.ndarray, "478 3"]], portrait: Portrait) -> Float[np.ndarray, "478 3"]:
    number = portrait.face or 0
    if not 0 <= number < len(faces):
        several = f"{len(faces)}: choose 0 (the largest) to {len(faces) - 1}"
        there = several if len(faces) > 1 else "one only: leave the number out"
        raise ValueError(f"face {number} of {portrait.name} was asked for, but it shows {there}")
    return faces[number].astype(np.float64)


def extent(face: Float[np.ndarray, "478 3"]) -> float:
    """The larger side of a face, px."""
    return float((face[:SKIN, :2].max(0) - face[:SKIN, :2].min(0)).max())


def window(
    face: Float[np.ndarray, "478 3"] | None, shape: tuple[int, ...], *, aspect: float = 1.0,
    close: float | None = HEAD_AND_SHOULDERS,
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """Upper left corner and size (x, y; px) of what is shown of a picture of that shape, inside it.

    ``aspect``: width over height. ``close``: sides of the face in the shorter side of what is shown, if there is as much; None:
    as much of the picture as the aspect leaves. It lies round the face, or in the middle where there is none.
    """
    room = np.array([shape[1], shape[0]], float)
    sides = np.array([max(1.0, aspect), max(1.0, 1 / aspect)])
    large = extent(face) if face is not None else math.nan
    assert close is None or face is not None
    shorter = min(math.inf if close is None else close * large, *(room / sides))
    size = shorter * sides
    below = BELOW * (1.0 if close is None else (close - 1) / (HEAD_AND_SHOULDERS - 1))
    centre = room / 2 if face is None else (face[:SKIN, :2].min(0) + face[:SKIN, :2].max(0)) / 2 + [0.0, below * large]
    return np.clip(centre - size / 2, 0, room - size), size


def cut(
    image: Frame, low: Float[np.ndarray, " 2"], size: Float[np.ndarray, " 2"], *, height: int, width: int
) -> Frame:
    """That part of a picture, to the nearest pixel, at height x width px."""
    x, y = np.round(low).astype(int)
    part = image[y : y + max(1, round(float(size[1]))), x : x + max(1, round(float(size[0])))]
    if part.shape[:2] == (height, width):
        return part.copy()
    method = cv2.INTER_AREA if part.shape[0] > height else cv2.INTER_CUBIC
    return cv2.resize(part, (width, height), interpolation=method)
