"""How lively heads and brows are, and how wide mouths: curves and spreads as the independent judge defines them.

``points`` are Face Mesh landmarks in any unit; curves come out in face heights (forehead to base of the nose).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_FOREHEAD, _NOSE_BASE = 10, 2
_CORNERS = (61, 291)  # of the outer lips
_BROWS = ((105, 33), (334, 263))  # top of each brow, outer corner of the eye below it


def mouth_width(points: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t"]:
    """Distance of the corners of the lips."""
    return _distance(points, *_CORNERS) / _distance(points, _FOREHEAD, _NOSE_BASE)


def brow_height(points: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t"]:
    """Distance of the brows from the outer corners of the eyes, mean of both sides."""
    return np.mean([_distance(points, a, b) for a, b in _BROWS], axis=0) / _distance(points, _FOREHEAD, _NOSE_BASE)


def rotation_spread(rotation: Float[np.ndarray, "t 3"]) -> float:
    """Standard deviation of the head's rotation, radians: the geometric mean of the three axes, each at least 0.001 degrees."""
    return float(np.exp(np.mean(np.log(rotation.std(0) + np.radians(1e-3)))))


def _distance(points: Float[np.ndarray, "*t n 3"], a: int, b: int) -> Float[np.ndarray, "*t"]:
    return np.linalg.norm(points[..., a, :] - points[..., b, :], axis=-1)
