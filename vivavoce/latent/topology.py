"""The face mesh: what its landmarks are, which of them form triangles, and where its holes are.

Landmark numbers are those of MediaPipe Face Mesh with irises (478 points). "Right" and "left" are the person's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Int32

LANDMARKS, SKIN = 478, 468  # all points; the first so many lie on the skin, the others on the irises
FOREHEAD, NOSE_BASE, NOSE_TIP, CHIN = 10, 2, 1, 152
CHEEKS = (234, 454)  # the outline at the height of the ears: right, left
MOUTH_CORNERS = (61, 291)  # of the outer lips: right, left
LIP_MIDDLES = (0, 17)  # of the outer lips: upper, lower
BROW_TOPS = ((105, 33), (334, 263))  # the top of each brow, and the outer corner of the eye below it
JAW_POINTS = (152, 148, 377, 176, 400, 175, 199)  # the bony chin: moves with the lower teeth
# Points that speech does not move: forehead, temples, bridge of the nose, corners of the eyes.
RIGID = np.array([
    10, 338, 297, 332, 284, 251, 389, 162, 21, 54, 103, 67, 109, 168, 6, 197, 195, 33, 263, 133, 362, 127, 356, 234, 454,
])
OVAL = np.array([
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136,
    172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
])

# Skin that only slides over the bone: the hairline, the temples and the ridge, tip and base of the nose.
SKULL = np.array([
    10, 338, 297, 332, 284, 251, 389, 162, 21, 54, 103, 67, 109, 127, 356, 234, 454, 168, 6, 197, 195, 5, 4,
    NOSE_TIP, 19, 94, NOSE_BASE,
])
BROWS = np.array([105, 66, 107, 63, 70, 52, 65, 55, 53, 46, 334, 296, 336, 293, 300, 282, 295, 285, 283, 276])

# Each opening is a pair of edges that run from one corner to the other, left to right in an upright picture; points of the same
# place lie over each other.
INNER_LIPS = (
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
)
RIGHT_EYE = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133),
    (33, 7, 163, 144, 145, 153, 154, 155, 133),
)
LEFT_EYE = (
    (362, 398, 384, 385, 386, 387, 388, 466, 263),
    (362, 382, 381, 380, 374, 373, 390, 249, 263),
)
RIGHT_IRIS = (468, 469, 470, 471, 472)  # the centre, then four points of the rim
LEFT_IRIS = (473, 474, 475, 476, 477)
INNER_UPPER, INNER_LOWER = (np.array(edge[1:-1]) for edge in INNER_LIPS)  # without the corners
LIPS = np.array([
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375, 78, 308, 76, 62, 306, 292,
    184, 74, 73, 72, 11, 302, 303, 304, 408, 77, 90, 180, 85, 16, 315, 404, 320, 307, 183, 42, 41, 38, 12, 268, 271, 272,
    407, 96, 89, 179, 86, 15, 316, 403, 319, 325, *INNER_UPPER, *INNER_LOWER,
])

OUTER_LIPS = (
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
)
LIP_CONTOURS = np.unique([*OUTER_LIPS, *INNER_LIPS])  # both contours once round, corners included: 40 points


@dataclass(frozen=True)
class Eye:
    """Landmarks of one eye; ``upper[i]`` lies over ``lower[i]``, from the left of the picture to the right, corners left out."""

    opening: tuple[tuple[int, ...], tuple[int, ...]]
    iris: tuple[int, ...]

    @property
    def corners(self) -> tuple[int, int]:
        return self.opening[0][0], self.opening[0][-1]

    @property
    def upper(self) -> list[int]:
        return list(self.opening[0][1:-1])

    @property
    def lower(self) -> list[int]:
        return list(self.opening[1][1:-1])

    @property
    def ring(self) -> list[int]:
        """All lid landmarks once round."""
        return [*self.opening[0], *reversed(self.lower)]


EYES = (Eye(RIGHT_EYE, RIGHT_IRIS), Eye(LEFT_EYE, LEFT_IRIS))


def _edges() -> set[tuple[int, int]]:
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

    return {(min(edge), max(edge)) for edge in FACEMESH_TESSELATION}


@cache
def face_triangles() -> Int32[np.ndarray, "852 3"]:
    """Triangles of the face surface, eye and mouth openings left out; all wound alike.

    They are the three-cliques of MediaPipe's edge graph. A planar mesh may own cliques that are not faces (a
    triangle around other vertices); those would give an edge a third neighbour and are refused by the assertion.
    """
    near: dict[int, set[int]] = {}
    for a, b in _edges():
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    cliques = sorted({tuple(sorted((a, b, c))) for a, b in _edges() for c in near[a] & near[b]})
    cliques = _without_enclosing(cliques)
    return np.array(_wind_alike(cliques), np.int32)


def _without_enclosing(cliques: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Drop cliques that are no faces: all three of their edges already have two other triangles."""
    count: dict[tuple[int, int], int] = {}
    for a, b, c in cliques:
        for edge in ((a, b), (b, c), (a, c)):
            count[edge] = count.get(edge, 0) + 1
    kept = [t for t in cliques if not all(count[e] > 2 for e in ((t[0], t[1]), (t[1], t[2]), (t[0], t[2])))]
    assert len(kept) == 852, f"{len(kept)} faces: MediaPipe's mesh has changed"
    return kept


def _wind_alike(faces: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    by_edge: dict[tuple[int, int], list[int]] = {}
    for i, (a, b, c) in enumerate(faces):
        for edge in ((a, b), (b, c), (a, c)):
            by_edge.setdefault(edge, []).append(i)
    wound: dict[int, tuple[int, ...]] = {0: faces[0]}
    queue = [0]
    while queue:
        i = queue.pop()
        a, b, c = wound[i]
        for p, q in ((a, b), (b, c), (c, a)):
            for j in by_edge[(min(p, q), max(p, q))]:
                if j not in wound:
                    (r,) = set(faces[j]) - {p, q}
                    wound[j] = (q, p, r)
                    queue.append(j)
    assert len(wound) == len(faces)
    return [wound[i] for i in range(len(faces))]


@cache
def hole_triangles(opening: tuple[tuple[int, ...], tuple[int, ...]]) -> Int32[np.ndarray, "n 3"]:
    """Triangles that close an opening, as a strip between its two edges."""
    upper, lower = opening
    strip = []
    for i in range(len(upper) - 1):
        strip += [(upper[i], upper[i + 1], lower[i]), (upper[i + 1], lower[i + 1], lower[i])]
    return np.array([t for t in strip if len(set(t)) == 3], np.int32)
