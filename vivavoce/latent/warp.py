"""Renderer: a portrait and target landmarks in, a picture out.

One mesh covers the crop: the face's 468 landmarks and, around them, a grid that follows the head (`surround`). Each frame the
mesh is rasterised to a sampling map and the portrait is resampled through it once, so it keeps its sharpness; where nothing
moves its pixels are copied. What a warp of the portrait cannot make is drawn as layers on top: eyeballs under the lids
(`eyes`), the inside of the mouth behind the lips (`mouth`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from vivavoce.latent import topology
from vivavoce.latent.aperture import Opening, gaps, meet
from vivavoce.latent.eyes import EyeSource, draw_eye, prepare_eye
from vivavoce.latent.lips import lips_shift
from vivavoce.latent.mouth import MouthSource, draw_mouth, prepare_mouth
from vivavoce.latent.raster import rasterise, settle
from vivavoce.latent.surround import CELLS, Surround, surround
from vivavoce.latent.topology import LANDMARKS, OVAL, RIGID, SKIN

_EYE_KNEE = 0.2  # height over length of an eye below which it is on its way to closed
_TUCK_EYE = 0.07  # of an eye's length
_TUCK_LIPS_MM = 0.7
_TUCK_WIDE_MM = 1.6  # the same where the rims of an open mouth had to be looked for
_LIPS_KNEE_MM = 2.0  # the same for lips, in millimetres
_INNER_LIPS = list(topology.INNER_LIPS[0] + topology.INNER_LIPS[1])


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything about a portrait that is computed once.

    image: (s, s, 3) RGB; points: (478, 3) its landmarks in px, pixel-centre coordinates, put right around an open mouth by
    `shift` (478, 3); around: the grid outside the face; triangles: (m, 3) over face and grid vertices, of which the first
    `behind` lie behind the face.
    """

    image: UInt8[np.ndarray, "s s 3"]
    points: Float32[np.ndarray, "478 3"]
    shift: Float32[np.ndarray, "478 3"]
    around: Surround
    triangles: Int32[np.ndarray, "m 3"]
    behind: int
    eyes: tuple[EyeSource, EyeSource]
    mouth: MouthSource


@dataclass(frozen=True)
class Pose:
    """A similarity in space: p becomes matrix @ p + offset (px)."""

    matrix: Float64[np.ndarray, "3 3"]
    offset: Float64[np.ndarray, " 3"]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points @ self.matrix.T + self.offset

    @property
    def place(self) -> Float64[np.ndarray, "3 4"]:
        """(matrix | offset)."""
        return np.concatenate([self.matrix, self.offset[:, None]], 1)


def prepare(image: UInt8[np.ndarray, "s s 3"], landmarks: Float32[np.ndarray, "478 3"]) -> Prepared:
    """Compute once what every frame of this portrait needs.

    image: a square RGB crop with room around the head. landmarks: MediaPipe's 478 points in that crop's px, z in px too.
    """
    assert image.ndim == 3
    assert image.shape[0] == image.shape[1]
    assert landmarks.shape == (LANDMARKS, 3)
    points = _centred(landmarks)
    shift = lips_shift(image, points)
    points += shift
    around = surround(image, points)
    number = np.concatenate([OVAL, SKIN + np.arange(len(around.points))]).astype(np.int32)
    holes = [topology.hole_triangles(o) for o in (topology.INNER_LIPS, topology.RIGHT_EYE, topology.LEFT_EYE)]
    behind = number[around.triangles]
    return Prepared(
        image=np.ascontiguousarray(image),
        points=points,
        shift=shift,
        around=around,
        triangles=np.ascontiguousarray(np.concatenate([behind, topology.face_triangles(), *holes])),
        behind=len(behind),
        eyes=(
            prepare_eye(image, points, topology.RIGHT_EYE, topology.RIGHT_IRIS),
            prepare_eye(image, points, topology.LEFT_EYE, topology.LEFT_IRIS),
        ),
        mouth=prepare_mouth(image, points),
    )


class Renderer:
    """Renders frames of one portrait. Owns scratch buffers only: frames do not depend on the frames before."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self._left, self._top, width, height = _window(prepared)
        self._map_x, self._map_y, self._nearest = (np.empty((height, width), np.float32) for _ in range(3))
        self._warped = np.empty((height, width, 3), np.uint8)
        eye = max(e.lids.length for e in prepared.eyes)
        self._tucks: list[tuple[Opening, float]] = [(topology.RIGHT_EYE, _TUCK_EYE * eye), (topology.LEFT_EYE, _TUCK_EYE * eye)]
        if prepared.mouth.parted:
            tuck = _TUCK_WIDE_MM if prepared.shift.any() else _TUCK_LIPS_MM
            self._tucks.append((topology.INNER_LIPS, tuck * prepared.mouth.mm))
        self._source = np.concatenate([prepared.points[: SKIN], prepared.around.points])

    def render(self, target: Float32[np.ndarray, "478 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The portrait with its face moved to these landmarks (px in the crop). Its own landmarks give the picture itself."""
        p = self.prepared
        points = _centred(target)
        pose = rigid_motion(p.points[RIGID], points[RIGID])
        self._correct(points, pose)
        self._meet(points)
        vertices = self._vertices(points, pose)
        shift = self._source[:, :2] - vertices[:, :2]
        for opening, depth in self._tucks:
            self._tuck(shift, points, opening, depth)
        rasterise(
            vertices[:, :2], vertices[:, 2], shift, p.triangles, p.behind,
            self._left, self._top, self._map_x, self._map_y, self._nearest,
        )
        height, width = self._map_x.shape
        frame = p.image.copy()
        window = frame[self._top : self._top + height, self._left : self._left + width]
        cv2.remap(p.image, self._map_x, self._map_y, cv2.INTER_CUBIC, dst=self._warped, borderMode=cv2.BORDER_REPLICATE)
        settle(self._warped, self._map_x, self._map_y, window)
        corner = (self._left, self._top)
        for eye in p.eyes:
            draw_eye(window, corner, p.image, eye, points, flat_motion(pose, p.points[list(eye.opening[0] + eye.opening[1])]))
        draw_mouth(
            window, corner, p.image, p.mouth, points, pose(p.points), flat_motion(pose, p.points[_INNER_LIPS]), pose.place
        )
        return frame

    def _correct(self, points: np.ndarray, pose: Pose) -> None:
        """Put right an open mouth's landmarks as the portrait's were, in place: the more, the more open the mouth."""
        p = self.prepared
        if p.shift.any():
            own = gaps(p.points - p.shift, topology.INNER_LIPS)[0].mean()
            share = min(max(gaps(points, topology.INNER_LIPS)[0].mean() / own, 0.0), 1.0)
            points += (share * p.shift @ pose.matrix.T).astype(np.float32)

    def _meet(self, points: np.ndarray) -> None:
        """Close lids and lips that the target means to be closed, in place."""
        p = self.prepared
        for eye in p.eyes:
            knee = min(_EYE_KNEE * eye.lids.length / max(eye.lids.height, 1e-3), 0.9)
            meet(points, gaps(p.points, eye.opening)[0], eye.opening, 0.45 * knee, knee, yields=0.7)
        if p.mouth.parted:
            knee = min(_LIPS_KNEE_MM * p.mouth.mm / p.mouth.lips.height, 0.9)
            meet(points, gaps(p.points, topology.INNER_LIPS)[0], topology.INNER_LIPS, 0.4 * knee, knee, yields=0.5)

    def _tuck(self, shift: np.ndarray, points: np.ndarray, opening: Opening, depth: float) -> None:
        """Edges that close upon an opening fold inwards: move where they sample the portrait outwards, by up to `depth` px, so
        that nothing of the opening's inside is caught between them."""
        before, down = gaps(self.prepared.points, opening)
        now = gaps(points, opening)[0]
        closing = np.clip(1.25 * (1 - now / np.maximum(before, 1e-3)) - 0.25, 0, 1)[:, None]
        shift[list(opening[1][1:-1])] += depth * closing * down
        shift[list(opening[0][1:-1])] -= depth * closing * down

    def _vertices(self, points: np.ndarray, pose: Pose) -> np.ndarray:
        """Target place (px) of every vertex: the face's own landmarks, then the grid around it."""
        p = self.prepared
        around = p.around
        own = points[OVAL] - pose(p.points[OVAL])
        moved = around.points + around.follow[:, None] * (pose(around.points) - around.points)
        moved[:, :2] += around.stretch @ own[:, :2]
        return np.concatenate([points[: SKIN], moved]).astype(np.float32)


def _centred(landmarks: np.ndarray) -> np.ndarray:
    """From MediaPipe's pixels, whose first pixel spans 0..1, to coordinates in which pixel centres are whole numbers."""
    return (landmarks - np.array([0.5, 0.5, 0.0])).astype(np.float32)


def _window(prepared: Prepared) -> tuple[int, int, int, int]:
    """The part of the crop that may ever change (left, top, width, height): what follows the head, less the still border."""
    side = prepared.image.shape[0]
    cell = side / CELLS
    edge = int(np.ceil(cell))
    moving = prepared.around.points[prepared.around.follow > 0, :2]
    places = np.concatenate([moving, prepared.points[:SKIN, :2]])
    low = np.clip(np.floor(places.min(0) - cell).astype(int), edge, side - edge - 2)
    high = np.clip(np.ceil(places.max(0) + cell).astype(int) + 1, low + 2, side - edge)
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def rigid_motion(source: np.ndarray, target: np.ndarray, rounds: int = 3) -> Pose:
    """The similarity in space that best takes source (n, 3) to target (n, 3); points that disagree count less (reweighted
    orthogonal Procrustes)."""
    a, b = source.astype(np.float64), target.astype(np.float64)
    weight = np.ones(len(a))
    size = float(np.linalg.norm(a - a.mean(0), axis=1).mean())
    for _ in range(rounds):
        w = weight[:, None] / weight.sum()
        ca, cb = (w * a).sum(0), (w * b).sum(0)
        u, s, vt = np.linalg.svd((w * (a - ca)).T @ (b - cb))
        flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        matrix = (vt.T * flip) @ u.T * ((s * flip).sum() / (w * (a - ca) ** 2).sum())
        pose = Pose(matrix, cb - matrix @ ca)
        weight = 1 / (1 + (np.linalg.norm(pose(a) - b, axis=1) / (0.02 * size)) ** 2)
    return pose


def flat_motion(pose: Pose, points: np.ndarray) -> Float64[np.ndarray, "2 3"]:
    """The affine map of the picture plane (2, 3) that a pose makes of a nearly flat patch around these points."""
    at = np.concatenate([points[:, :2].astype(np.float64), np.ones((len(points), 1))], 1)
    # A narrow patch does not tell all six numbers: lean towards the pose's own upper left block.
    lean = pose.matrix[:2, :2]
    rest = pose(points)[:, :2] - points[:, :2] @ lean.T
    slope = np.linalg.solve(at.T @ at + np.diag([25.0, 25.0, 0.0]) * len(points), at.T @ rest).T
    slope[:, :2] += lean
    return slope
