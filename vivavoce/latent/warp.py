"""Renderer: a portrait and target landmarks in, a picture out.

One mesh covers the crop: the face's 468 landmarks and, around them, a grid that follows the head (`surround`). Each frame the
mesh is rasterised to a sampling map and the portrait is resampled through it once, so it keeps its sharpness; the person is laid
over what is behind (`plate`); where nothing moves its pixels are copied. What a warp of the portrait cannot make is drawn as
layers on top, eyeballs under the lids (`eyes`) and the inside of the mouth behind the lips (`mouth`), then refined (`refine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from vivavoce.latent import topology
from vivavoce.latent.aperture import Opening, gaps, meet
from vivavoce.latent.correction import Correction, apply
from vivavoce.latent.eyes import EyeSource, draw_eye, prepare_eye
from vivavoce.latent.lips import lips_shift
from vivavoce.latent.mouth import MouthSource, draw_mouth, prepare_mouth, smooth_inside
from vivavoce.latent.plate import Plate, person_of, plate_of
from vivavoce.latent.pose import Pose, flat_motion, rigid_motion
from vivavoce.latent.raster import rasterise, settle
from vivavoce.latent.refine import Canon, View, canon, displaced, view
from vivavoce.latent.surround import CELLS, STILL, Borders, Surround, face_mask, surround
from vivavoce.latent.topology import LANDMARKS, OVAL, RIGID, SKIN

_EYE_KNEE = 0.2  # height over length of an eye below which it is on its way to closed
_TUCK_EYE = 0.07  # of an eye's length
_TUCK_LIPS_MM = 0.7
_TUCK_WIDE_MM = 1.6  # the same where the rims of an open mouth had to be looked for
_COARSE = 4  # px: what is around the face moves smoothly, so its map is made at this distance
_FINER = 2  # samples of the interpolated portrait to a px
_OUTSIDE = 0.15  # of the side: how far the picture is continued beyond its borders
_CROWN = 0.35  # height over half width of what is thought above the upper border of a head that it cuts off
_LIPS_KNEE_MM = 2.0  # the same for lips, in millimetres
_INNER_LIPS = list(topology.INNER_LIPS[0] + topology.INNER_LIPS[1])


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything about a portrait that is computed once.

    image: (s, s, 3) RGB; plate: the person's matte and what is behind; free: borders that may move; points: (478, 3) its
    landmarks in px, pixel-centre coordinates, put right around an open mouth by `shift` (478, 3); around: the grid outside the
    face; triangles: (m, 3) over face and grid vertices, of which the first `behind` lie behind the face; canon: the crop that is
    refined.
    """

    image: UInt8[np.ndarray, "s s 3"]
    plate: Plate
    free: Borders
    points: Float32[np.ndarray, "478 3"]
    shift: Float32[np.ndarray, "478 3"]
    around: Surround
    triangles: Int32[np.ndarray, "m 3"]
    behind: int
    eyes: tuple[EyeSource, EyeSource]
    mouth: MouthSource
    canon: Canon

    @property
    def margin(self) -> int:
        """Px by which the layer goes on beyond the picture's borders."""
        return int(np.ceil(_OUTSIDE * self.image.shape[0]))

    @cached_property
    def layer(self) -> UInt8[np.ndarray, "l l 4"]:
        """The portrait and its matte, continued by a margin, in which what is cut off at the picture's border is mirrored, and
        interpolated once. Linear interpolation in this is nearly cubic interpolation in the portrait, at a sixth of the cost."""
        sides = (self.margin,) * 4
        colours = cv2.copyMakeBorder(self.image, *sides, cv2.BORDER_REFLECT_101)
        layer = np.dstack([colours, _continued(self.plate.matte, self.margin)])
        side = _FINER * (len(layer) - 1) + 1
        scale = np.array([[1 / _FINER, 0, 0], [0, 1 / _FINER, 0]])
        return cv2.warpAffine(layer, scale, (side, side), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def prepare(
    image: UInt8[np.ndarray, "s s 3"], landmarks: Float32[np.ndarray, "478 3"], free: Borders = STILL
) -> Prepared:
    """Compute once what every frame of this portrait needs.

    image: a square RGB crop with room around the head. landmarks: MediaPipe's 478 points in that crop's px, z in px too. free:
    the crop's borders that are the picture's own, so that what crosses them may move.
    """
    assert image.ndim == 3
    assert image.shape[0] == image.shape[1]
    assert landmarks.shape == (LANDMARKS, 3)
    points = _centred(landmarks)
    shift = lips_shift(image, points)
    points += shift
    person = person_of(image, face_mask(points, len(image)) > 0)
    around = surround(points, len(image), person, free)
    number = np.concatenate([OVAL, SKIN + np.arange(len(around.points))]).astype(np.int32)
    mouth = prepare_mouth(image, points)
    holes = [topology.hole_triangles(o) for o in (topology.INNER_LIPS, topology.RIGHT_EYE, topology.LEFT_EYE)]
    behind = number[around.triangles]
    return Prepared(
        image=np.ascontiguousarray(image),
        plate=Plate.empty(image) if person is None else plate_of(image, person),
        free=free,
        points=points,
        shift=shift,
        around=around,
        triangles=np.ascontiguousarray(np.concatenate([behind, topology.face_triangles(), *holes])),
        behind=len(behind),
        eyes=(
            prepare_eye(image, points, topology.RIGHT_EYE, topology.RIGHT_IRIS),
            prepare_eye(image, points, topology.LEFT_EYE, topology.LEFT_IRIS),
        ),
        mouth=mouth,
        canon=canon(image, points, mouth.mm),
    )


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """One frame's geometry: landmarks (478, 3) put right, the head's motion, and the mesh's vertices (n, 3), px."""

    points: Float32[np.ndarray, "478 3"]
    pose: Pose
    vertices: Float32[np.ndarray, "n 3"]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A frame before refinement: the window that may change, warped (plain) and with layers drawn, and what a refiner sees."""

    plain: UInt8[np.ndarray, "h w 3"]
    drawn: UInt8[np.ndarray, "h w 3"]
    view: View


class Renderer:
    """Renders frames of one portrait. Owns scratch buffers only: frames do not depend on the frames before."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self._left, self._top, width, height = _window(prepared)
        self._map_x, self._map_y, self._nearest = (np.empty((height, width), np.float32) for _ in range(3))
        self._at = np.empty((2, height, width), np.float32)
        self._warped = np.empty((height, width, 4), np.uint8)
        # The coarse maps reach a coarse pixel further on every side; its middle is that of the fine ones it stands for.
        self._coarse_corner = self._left - _COARSE / 2 - 0.5, self._top - _COARSE / 2 - 0.5
        rows, columns = (-(-extent // _COARSE) + 2 for extent in (height, width))
        x, y = (corner + _COARSE * np.arange(n) for corner, n in zip(self._coarse_corner, (columns, rows), strict=True))
        self._coarse_own = np.stack(np.meshgrid(x, y)).astype(np.float32)
        self._coarse, self._coarse_nearest = np.empty_like(self._coarse_own), np.empty((rows, columns), np.float32)
        eye = max(e.lids.length for e in prepared.eyes)
        self._tucks: list[tuple[Opening, float]] = [(topology.RIGHT_EYE, _TUCK_EYE * eye), (topology.LEFT_EYE, _TUCK_EYE * eye)]
        if prepared.mouth.parted:
            tuck = _TUCK_WIDE_MM if prepared.shift.any() else _TUCK_LIPS_MM
            self._tucks.append((topology.INNER_LIPS, tuck * prepared.mouth.mm))
        self._source = np.concatenate([prepared.points[: SKIN], prepared.around.points])

    def render(self, target: Float32[np.ndarray, "478 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The portrait with its face moved to these landmarks (px in the crop), unrefined. Its own landmarks give the picture
        itself."""
        return self.finish(self.draft(self.geometry(target)), None)

    def geometry(self, target: Float32[np.ndarray, "478 3"]) -> Geometry:
        """Where everything goes when the face moves to these landmarks."""
        p = self.prepared
        points = _centred(target)
        pose = rigid_motion(p.points[RIGID], points[RIGID])
        self._correct(points, pose)
        self._meet(points)
        return Geometry(points=points, pose=pose, vertices=self._vertices(points, pose))

    def draft(self, geometry: Geometry) -> Draft:
        """The frame before refinement."""
        shift = self._source[:, :2] - geometry.vertices[:, :2]
        for opening, depth in self._tucks:
            self._tuck(shift, geometry.points, opening, depth)
        self._rasterise(geometry, shift)
        plain = self._resample()
        smooth_inside(plain, (self._left, self._top), self.prepared.mouth, geometry.points)
        drawn = self._draw(plain, geometry)
        return Draft(plain=plain, drawn=drawn, view=self._look(plain, drawn, geometry))

    def _look(self, plain: np.ndarray, drawn: np.ndarray, geometry: Geometry) -> View:
        corner = self._left, self._top
        return view(self.prepared.canon, geometry.pose, geometry.points, plain, drawn, corner, self._map_x, self._map_y)

    def _resample(self) -> np.ndarray:
        """The window, warped by the maps, before what is behind."""
        p = self.prepared
        for at, own in zip(self._at, (self._map_x, self._map_y), strict=True):
            np.multiply(own, _FINER, out=at)
            at += _FINER * p.margin
        x, y = self._at
        cv2.remap(p.layer, x, y, cv2.INTER_LINEAR, dst=self._warped, borderMode=cv2.BORDER_REPLICATE)
        plain = np.empty((*self._map_x.shape, 3), np.uint8)
        settle(
            self._warped, self._map_x, self._map_y, self._left, self._top, self._folds, p.image, p.plate.hidden, p.plate.picture,
            plain,
        )
        return plain

    def _draw(self, plain: np.ndarray, geometry: Geometry) -> np.ndarray:
        """A copy of the window with eyes and mouth drawn."""
        p, points, pose, drawn = self.prepared, geometry.points, geometry.pose, plain.copy()
        corner = (self._left, self._top)
        for eye in p.eyes:
            draw_eye(drawn, corner, p.image, eye, points, flat_motion(pose, p.points[list(eye.opening[0] + eye.opening[1])]))
        draw_mouth(
            drawn, corner, p.image, p.mouth, points, pose(p.points), flat_motion(pose, p.points[_INNER_LIPS]), pose.place
        )
        return drawn

    def finish(self, draft: Draft, correction: Correction | None) -> UInt8[np.ndarray, "s s 3"]:
        """The frame, refined where there is a correction. The draft is used up."""
        if correction is not None:
            apply(correction, draft.view, draft.plain, draft.drawn, (self._left, self._top))
        height, width = self._map_x.shape
        if draft.drawn.shape == self.prepared.image.shape:
            return draft.drawn
        frame = self.prepared.image.copy()
        frame[self._top : self._top + height, self._left : self._left + width] = draft.drawn
        return frame

    def flow(self, earlier: Geometry, later: Geometry) -> Float32[np.ndarray, "144 144 2"]:
        """Px of the refined crop from where each pixel of the later frame's is to where it was in the earlier frame's."""
        self._rasterise(later, earlier.vertices[:, :2] - later.vertices[:, :2])
        here = self.prepared.canon.place(later.pose)
        here[:, 2] -= (self._left, self._top)
        return displaced(self.prepared.canon.place(earlier.pose), here, self._map_x, self._map_y)

    def _rasterise(self, geometry: Geometry, shift: np.ndarray) -> None:
        """Fill the maps: each pixel of the window to its own place plus the mesh's shift there.

        What is around the face is smooth and lies behind it, so a coarse raster will do; the face is rasterised finely over it.
        """
        triangles, behind = self.prepared.triangles, self.prepared.behind
        mesh = geometry.vertices[:, :2], geometry.vertices[:, 2], shift
        height, width = self._map_x.shape
        np.copyto(self._coarse, self._coarse_own)
        self._coarse_nearest.fill(np.inf)
        (left, top), (coarse_x, coarse_y) = self._coarse_corner, self._coarse
        rasterise(*mesh, triangles[:behind], left, top, float(_COARSE), coarse_x, coarse_y, self._coarse_nearest)
        inside = slice(_COARSE, _COARSE + height), slice(_COARSE, _COARSE + width)
        for fine, coarse in zip((self._map_x, self._map_y), self._coarse, strict=True):
            np.copyto(fine, cv2.resize(coarse, None, fx=_COARSE, fy=_COARSE, interpolation=cv2.INTER_LINEAR)[inside])
        x0, y0, x1, y1 = self._folds = self._face_box(geometry.points)
        self._nearest[y0:y1, x0:x1].fill(np.inf)
        rasterise(*mesh, triangles[behind:], float(self._left), float(self._top), 1.0, self._map_x, self._map_y, self._nearest)

    def _face_box(self, points: np.ndarray) -> tuple[int, int, int, int]:
        """Columns and rows (x0, y0, x1, y1) of the window in which the face lies."""
        height, width = self._map_x.shape
        low = np.floor(points[:SKIN, :2].min(0)).astype(int) - (self._left + 2, self._top + 2)
        high = np.ceil(points[:SKIN, :2].max(0)).astype(int) + 3 - (self._left, self._top)
        return max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]), width), min(int(high[1]), height)

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
        moved = around.moved(pose)
        moved[:, :2] += around.stretch @ own[:, :2]
        return np.concatenate([points[: SKIN], moved]).astype(np.float32)


def _centred(landmarks: np.ndarray) -> np.ndarray:
    """From MediaPipe's pixels, whose first pixel spans 0..1, to coordinates in which pixel centres are whole numbers."""
    return (landmarks - np.array([0.5, 0.5, 0.0])).astype(np.float32)


def _continued(matte: UInt8[np.ndarray, "s s"], margin: int) -> UInt8[np.ndarray, "l l"]:
    """The matte beyond the picture's borders: repeated, but a head that the upper border cuts off closes like a head."""
    whole = cv2.copyMakeBorder(matte, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    cut = np.flatnonzero(np.diff(np.pad((matte[0] > 127).astype(np.int8), 1))).reshape(-1, 2)  # where it begins, and ends
    if len(cut) and not matte[0].all():
        whole[:margin] = 0
        for first, end in cut + margin:
            centre, half = 16 * ((first + end - 1) / 2), 16 * (end - first) / 2
            middle, axes = (round(centre), 16 * margin), (round(half), round(_CROWN * half))
            cv2.ellipse(whole[:margin], middle, axes, 0, 180, 360, 255, -1, cv2.LINE_AA, 4)
    return whole


def _window(prepared: Prepared) -> tuple[int, int, int, int]:
    """The part of the crop that may ever change (left, top, width, height): what follows the head, less a still border."""
    side = prepared.image.shape[0]
    cell = side / CELLS
    edges = [0 if moves else int(np.ceil(cell)) for moves in prepared.free]
    moving = prepared.around.points[prepared.around.follow > 0, :2]
    places = np.concatenate([moving, prepared.points[:SKIN, :2]])
    low = np.maximum(np.floor(places.min(0) - cell).astype(int), edges[:2])
    high = np.minimum(np.ceil(places.max(0) + cell).astype(int) + 1, side - np.array(edges[2:]))
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])
