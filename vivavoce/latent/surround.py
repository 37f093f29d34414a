"""What lies around the face: hair, ears, neck, background. A grid of vertices that follows the head and fades to stillness."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import Delaunay

from vivavoce.latent.quiet import quiet_native_stderr
from vivavoce.latent.topology import CHIN, FOREHEAD, OVAL, SKIN

CELLS = 24  # grid cells along a side of the crop; the outermost ring of cells never moves
_MAP = 72  # side of the small map on which the share of head motion is solved
_FADE = 0.08  # of the side: width over which motion fades towards the still border


@dataclass(frozen=True, kw_only=True)
class Surround:
    """Vertices around the face, in the source picture.

    points: (n, 3) px; z is a guess at the head's depth there.
    follow: (n,) share of the head's rigid motion, 1 on the head, 0 on background, shoulders and border.
    stretch: (n, o) how far each vertex follows the o oval points' own (non-rigid) motion.
    triangles: (m, 3) over the oval points (first, o of them) and then these vertices.
    """

    points: Float32[np.ndarray, "n 3"]
    follow: Float32[np.ndarray, " n"]
    stretch: Float32[np.ndarray, "n o"]
    triangles: Int32[np.ndarray, "m 3"]


def surround(image: UInt8[np.ndarray, "s s 3"], landmarks: Float32[np.ndarray, "478 3"]) -> Surround:
    """Build the grid for a crop and its landmarks (px)."""
    side = image.shape[0]
    oval = landmarks[OVAL]
    covered = _filled(landmarks, side)
    grid = _grid(side, covered)
    share = _head_share(image, landmarks, covered)
    still = _border_fade(grid, side)
    follow = _sample(share, grid, side) * still
    stretch = _extension(grid, oval[:, :2], 0.22 * _face_height(landmarks)) * (still * np.sqrt(np.clip(follow, 0, 1)))[:, None]
    depth = _depth(grid, oval)
    triangles = Delaunay(np.concatenate([oval[:, :2], grid]).astype(np.float64)).simplices
    return Surround(
        points=np.concatenate([grid, depth[:, None]], 1).astype(np.float32),
        follow=follow.astype(np.float32),
        stretch=stretch.astype(np.float32),
        triangles=triangles.astype(np.int32),
    )


def _face_height(landmarks: np.ndarray) -> float:
    return float(np.linalg.norm(landmarks[FOREHEAD] - landmarks[CHIN]))


def _filled(landmarks: np.ndarray, side: int) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(landmarks[: SKIN, :2].round().astype(np.int32)), 1)
    return mask


def _grid(side: int, covered: np.ndarray) -> np.ndarray:
    ticks = np.linspace(0, side - 1, CELLS + 1)
    grid = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    # A vertex too close to the face's outline would make slivers.
    away = cv2.distanceTransform(1 - covered, cv2.DIST_L2, 5)
    keep = away[grid[:, 1].round().astype(int), grid[:, 0].round().astype(int)] > 0.45 * side / CELLS
    return grid[keep]


def _border_fade(grid: np.ndarray, side: int) -> np.ndarray:
    inside = np.minimum(grid, side - 1 - grid).min(1) / (side - 1)
    t = np.clip((inside - 1.02 / CELLS) / _FADE, 0, 1)
    return t * t * (3 - 2 * t)


def _depth(grid: np.ndarray, oval: np.ndarray) -> np.ndarray:
    """The head curves back behind the outline: depth grows with the distance from it and levels off."""
    gap = np.linalg.norm(grid[:, None] - oval[None, :, :2], axis=-1)
    weight = np.exp(-(gap - gap.min(1, keepdims=True)) / (0.25 * gap.mean()))
    near = (weight * oval[None, :, 2]).sum(1) / weight.sum(1)
    reach = 0.4 * float(np.ptp(oval[:, 0]))
    return near + reach * (1 - np.exp(-gap.min(1) / reach))


def _extension(grid: np.ndarray, oval: np.ndarray, reach: float) -> np.ndarray:
    """Matrix that carries displacements of the outline outwards: exact on it, decaying over `reach` px."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-np.linalg.norm(a[:, None] - b[None], axis=-1) / reach)

    among = kernel(oval, oval) + 1e-3 * np.eye(len(oval))
    return np.linalg.solve(among, kernel(grid, oval).T).T


def _person(image: np.ndarray) -> np.ndarray:
    """Probability that each cell of the small map shows the person (MediaPipe's selfie segmentation)."""
    from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

    with quiet_native_stderr(), SelfieSegmentation(model_selection=0) as model:
        mask = model.process(np.ascontiguousarray(image)).segmentation_mask
    return cv2.resize(mask, (_MAP, _MAP), interpolation=cv2.INTER_AREA)


def _head_share(image: np.ndarray, landmarks: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Share of head motion on the small map: 1 on the head, 0 on still things, harmonic in between."""
    side = image.shape[0]
    points = landmarks[:, :2] * (_MAP / side)
    height = _face_height(landmarks) * _MAP / side
    top, chin = points[FOREHEAD], points[CHIN]
    down = (chin - top) / max(float(np.linalg.norm(chin - top)), 1e-6)
    ys, xs = np.mgrid[0:_MAP, 0:_MAP].astype(np.float32)
    below = (xs - chin[0]) * down[0] + (ys - chin[1]) * down[1]
    across = np.abs((xs - chin[0]) * -down[1] + (ys - chin[1]) * down[0])
    face = cv2.resize(covered, (_MAP, _MAP), interpolation=cv2.INTER_AREA) > 0
    person = (_person(image) > 0.5) | face
    centre = points[OVAL].mean(0)
    from_centre = np.hypot(xs - centre[0], ys - centre[1])
    head = face | (person & (below < -0.12 * height) & (from_centre < 1.05 * height))
    away = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, 5)
    head |= away < 0.05 * height
    still = (below > 0.85 * height) | ((below > 0.35 * height) & (across > 0.75 * height))
    still |= (away > 0.45 * height) & (~person | (below < 0))
    still[0], still[-1], still[:, 0], still[:, -1] = True, True, True, True
    return _harmonic(head & ~still, still)


def _harmonic(one: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Solve Laplace's equation with values 1 and 0 held on the two masks."""
    rows, columns = one.shape
    free = ~(one | zero)
    index = np.full(one.shape, -1)
    index[free] = np.arange(free.sum())
    ys, xs = np.nonzero(free)
    value = one.astype(np.float64)
    if not len(ys):
        return value
    right = np.zeros(len(ys))
    diagonal = np.zeros(len(ys))
    i, j = [], []
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        y, x = ys + dy, xs + dx
        ok = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        diagonal += ok
        at = np.flatnonzero(ok)
        other = index[y[ok], x[ok]]
        known = other < 0
        right[at[known]] += value[y[ok][known], x[ok][known]]
        i.append(at[~known])
        j.append(other[~known])
    n = len(ys)
    rest = sparse.coo_matrix((np.ones(sum(map(len, i))), (np.concatenate(i), np.concatenate(j))), (n, n))
    value[free] = spsolve((sparse.diags(diagonal) - rest).tocsc(), right)
    return value


def _sample(small: np.ndarray, grid: np.ndarray, side: int) -> np.ndarray:
    at = (grid * (_MAP / side)).astype(np.float32)
    return cv2.remap(small.astype(np.float32), at[:, None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
