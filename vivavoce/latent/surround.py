"""What lies around the face: hair, ears, neck, shoulders. A grid of vertices that follows the head and fades to stillness."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import Delaunay

from vivavoce.latent.pose import Pose
from vivavoce.latent.topology import CHIN, FOREHEAD, OVAL, SKIN

CELLS = 24  # grid cells along a side of the crop; the outermost ring of cells at a still border never moves
_BEYOND = 3  # further cells outside the crop, so that nothing is uncovered at a border that may move
_MAP = 72  # side of the small map on which the share of head motion is solved
_FADE = 0.08  # of the side: width over which motion fades towards a still border
_LOOSE = 0.04  # share of its motion that hair keeps at a free border: a border that changes much looks restless
_LOOSE_TURNED = 0.8  # the same where the head turns far, or hair that touches the border would be stretched
_TURN = (np.radians(7.0), np.radians(14.0))  # turns from the portrait at which borders begin to be loose and are
_SHOULDERS = 0.12  # share of the head's motion that the top of the shoulders follows

Borders = tuple[bool, bool, bool, bool]  # left, top, right, bottom: whether the crop's border may move, being the picture's own
STILL: Borders = (False, False, False, False)


@dataclass(frozen=True, kw_only=True)
class Surround:
    """Vertices around the face, in the source picture.

    points: (n, 3) px; z is a guess at the head's depth there.
    follow: (n,) share of the head's rigid motion, 1 on the head, 0 on background, shoulders and border; loose: (n,) what is
    added to it where the head turns far.
    stretch: (n, o) how far each vertex follows the o oval points' own (non-rigid) motion.
    triangles: (m, 3) over the oval points (first, o of them) and then these vertices.
    """

    points: Float32[np.ndarray, "n 3"]
    follow: Float32[np.ndarray, " n"]
    loose: Float32[np.ndarray, " n"]
    stretch: Float32[np.ndarray, "n o"]
    triangles: Int32[np.ndarray, "m 3"]

    def moved(self, pose: Pose) -> Float64[np.ndarray, "n 3"]:
        """Where the vertices go with a head that moves so."""
        low, high = _TURN
        far = float(np.clip((pose.turn - low) / (high - low), 0, 1))
        follow = self.follow + far * far * (3 - 2 * far) * self.loose
        return self.points + follow[:, None] * (pose(self.points) - self.points)


def surround(
    landmarks: Float32[np.ndarray, "478 3"], side: int, person: Float32[np.ndarray, "s s"] | None, free: Borders = STILL
) -> Surround:
    """Build the grid for a crop's landmarks (px) and where it shows the person; None where that isn't known: then what is near
    the face follows it."""
    oval = landmarks[OVAL]
    covered = face_mask(landmarks, side)
    grid = _grid(side, covered)
    share = _head_share(landmarks, covered, person, free)
    still, turned = (_border_fade(grid, side, free, loose) for loose in (_LOOSE, _LOOSE_TURNED))
    whole = _sample(share, grid, side)
    follow = whole * still
    stretch = _extension(grid, oval[:, :2], 0.22 * _face_height(landmarks)) * (still * np.sqrt(np.clip(follow, 0, 1)))[:, None]
    depth = _depth(grid, oval)
    triangles = Delaunay(np.concatenate([oval[:, :2], grid]).astype(np.float64)).simplices
    return Surround(
        points=np.concatenate([grid, depth[:, None]], 1).astype(np.float32),
        follow=follow.astype(np.float32),
        loose=(whole * (turned - still)).astype(np.float32),
        stretch=stretch.astype(np.float32),
        triangles=triangles.astype(np.int32),
    )


def face_mask(landmarks: Float32[np.ndarray, "478 3"], side: int) -> UInt8[np.ndarray, "s s"]:
    """1 inside the outline of the face."""
    mask = np.zeros((side, side), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(landmarks[:SKIN, :2].round().astype(np.int32)), 1)
    return mask


def _face_height(landmarks: np.ndarray) -> float:
    return float(np.linalg.norm(landmarks[FOREHEAD] - landmarks[CHIN]))


def _grid(side: int, covered: np.ndarray) -> np.ndarray:
    cell = (side - 1) / CELLS
    ticks = cell * np.arange(-_BEYOND, CELLS + _BEYOND + 1)
    grid = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    # A vertex too close to the face's outline would make slivers.
    margin = int(np.ceil(_BEYOND * cell)) + 1
    padded = cv2.copyMakeBorder(1 - covered, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=1)
    away = cv2.distanceTransform(padded, cv2.DIST_L2, 5)
    at = grid.round().astype(int) + margin
    return grid[away[at[:, 1], at[:, 0]] > 0.45 * cell]


def _border_fade(grid: np.ndarray, side: int, free: Borders, loose: float) -> np.ndarray:
    """Share of its motion that each vertex keeps: none at a still border, ``loose`` at a free one."""
    inside = np.stack([grid[:, 0], grid[:, 1], side - 1 - grid[:, 0], side - 1 - grid[:, 1]], 1) / (side - 1)
    t = np.clip((inside - np.where(free, 0.0, 1.02 / CELLS)) / _FADE, 0, 1)
    kept = t * t * (3 - 2 * t)
    return np.where(free, loose + (1 - loose) * kept, kept).min(1)


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


def _head_share(
    landmarks: np.ndarray, covered: np.ndarray, person: np.ndarray | None, free: Borders
) -> Float64[np.ndarray, "m m"]:
    """Share of head motion on the small map: 1 on the head, little on the shoulders, 0 on still things, harmonic in between."""
    points = landmarks[:, :2] * (_MAP / covered.shape[0])
    height = float(np.linalg.norm(points[FOREHEAD] - points[CHIN]))
    top, chin = points[FOREHEAD], points[CHIN]
    down = (chin - top) / max(height, 1e-6)
    ys, xs = np.mgrid[0:_MAP, 0:_MAP].astype(np.float32)
    below = (xs - chin[0]) * down[0] + (ys - chin[1]) * down[1]
    across = np.abs((xs - chin[0]) * -down[1] + (ys - chin[1]) * down[0])
    face = cv2.resize(covered, (_MAP, _MAP), interpolation=cv2.INTER_AREA) > 0
    centre = points[OVAL].mean(0)
    from_centre = np.hypot(xs - centre[0], ys - centre[1])
    near = (below < -0.12 * height) & ((from_centre < 1.05 * height) | ((below < -0.6 * height) & (across < 1.6 * height)))
    chest = (below > 0.85 * height) | ((below > 0.35 * height) & (across > 0.75 * height))
    if person is None:
        head = face.copy()
        away = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, 5)
        head |= (away < 0.3 * height) & (below < -0.12 * height)
        still = chest | (away > 0.45 * height + 0.25 * height * (below < -0.5 * height))
        shoulders = 0.0
    else:
        shown = cv2.resize(person, (_MAP, _MAP), interpolation=cv2.INTER_AREA) > 0.5
        head = face | (shown & near)
        still, shoulders = chest & (shown | (below > 1.2 * height)), _SHOULDERS
    away = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, 5)
    head |= away < 0.05 * height
    value = np.where(still, shoulders * np.clip(1 - (below / height - 0.85) / 1.2, 0, 1), 1.0)
    for edge, moves in zip((np.s_[:, 0], np.s_[0], np.s_[:, -1], np.s_[-1]), free, strict=True):
        if not moves:
            still[edge], value[edge] = True, 0.0
    return _harmonic(value, (head & ~still) | still)


def _harmonic(value: np.ndarray, known: np.ndarray) -> Float64[np.ndarray, "m m"]:
    """Solve Laplace's equation where the values are not known; no flow over the border."""
    rows, columns = value.shape
    free = ~known
    index = np.full(value.shape, -1)
    index[free] = np.arange(free.sum())
    ys, xs = np.nonzero(free)
    value = value.astype(np.float64)
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
