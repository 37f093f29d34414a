"""Where the lips of an open mouth really are.

A face tracker's ring of inner lips may miss the lips of a wide open mouth by their thickness. Here the edge between the
mouth's inside and the lips is looked for in the picture, along rays across the ring, and the landmarks around the mouth are
moved along with it. Without colours a tracker may even take the middle of a wide open mouth for the lower lip: where there is
no edge around the ring, it is looked for around rings that open further down.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from scipy.ndimage import gaussian_filter1d

from vivavoce.latent.topology import INNER_LIPS, LANDMARKS, NOSE_BASE, OVAL, SKIN

# Rows of landmarks from the inner rim of the lips to the outer one, upper and lower, each from corner to corner.
_ROWS = (
    INNER_LIPS,
    ((62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292), (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292)),
    ((76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306), (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306)),
    ((61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291), (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)),
)
# Columns of landmarks from the lower lip to the chin, and where they lie between its two ends on a face at rest.
_COLUMNS = (
    (146, 43, 202, 210, 169, 150), (91, 106, 204, 211, 170, 149), (181, 182, 194, 32, 140, 176), (84, 83, 201, 208, 171, 148),
    (17, 18, 200, 199, 175, 152),
    (314, 313, 421, 428, 396, 377), (405, 406, 418, 262, 369, 400), (321, 335, 424, 431, 395, 378),
    (375, 273, 422, 430, 394, 379),
)
_PARTS = np.array([0.0, 0.1, 0.35, 0.62, 0.84, 1.0])
_RAYS = 80  # four to a landmark of the ring
_STEPS = 72
_CLUSTERS = 4
_OPEN = 0.35  # height over width of the mouth from which its ring is looked at
_CHEEKS = (50, 280, 205, 425, 101, 330, 123, 352)
_EVIDENCE = 7.5  # least difference of colour (Lab) across the edge found, on three quarters of the rays
_EVIDENCE_PALE = 5.0  # the same where the search around the tracker's ring failed: for want of colours only lightness tells
_DROPS = tuple(0.05 * k for k in range(2, 15))  # how much further down the lower lip is looked for, over the mouth's width
_PALE_LIP = 1.6  # thickness of lips whose colour does not tell it, over that of the tracker's rings
_TURNED = 0.5  # depth over width between the mouth's corners from which its far side is hidden


def lips_shift(image: UInt8[np.ndarray, "s s 3"], points: Float32[np.ndarray, "478 3"]) -> Float32[np.ndarray, "478 3"]:
    """How far (px) each landmark is to be moved so that the lips' rims lie on the lips; zeros where the picture does not tell.

    points are the tracker's, px.
    """
    none = np.zeros((LANDMARKS, 3), np.float32)
    rings = np.array([[*upper, *lower[-2:0:-1]] for upper, lower in _ROWS])
    flat = points[:, :2].astype(np.float64)
    right, left = flat[INNER_LIPS[0][0]], flat[INNER_LIPS[0][-1]]
    width = float(np.linalg.norm(left - right))
    depth = abs(points[INNER_LIPS[0][-1], 2] - points[INNER_LIPS[0][0], 2])
    if float(np.linalg.norm(flat[13] - flat[14])) < _OPEN * width or depth > _TURNED * width:
        return none
    down = np.array([right[1] - left[1], left[0] - right[0]])  # the mouth's width long
    sag = np.concatenate([np.zeros(len(_ROWS[0][0])), np.sin(np.linspace(0, np.pi, len(_ROWS[0][1])))[-2:0:-1]])
    rim = _rim(image, flat[rings], np.zeros((len(sag), 2)))
    if rim.evidence < _EVIDENCE:
        rim = max((_rim(image, flat[rings], drop * sag[:, None] * down) for drop in _DROPS), key=lambda r: r.evidence)
        if rim.evidence < _EVIDENCE_PALE:
            return _unfolded(points, 0.0) - points
    if rim.drop.any():
        lip = _PALE_LIP * np.linalg.norm(flat[rings[3]] - flat[rings[0]], axis=1)
    else:
        lip = _lip_ends(image, rim.places, rim.normal, 0.3 * width, flat)[:: _RAYS // len(sag)]
    shift = _spread(points, rings, rim, lip)
    return _unfolded(points + shift, 0.4) - points


@dataclass(frozen=True, kw_only=True)
class _Rim:
    """An edge found around the mouth's inside.

    places (r, 2; px) and outward normal (r, 2) on each ray; drop (k, 2) and found (k,): how far each landmark of the inner ring
    moves before the search, and along its normal by it; evidence: difference of colour (Lab) across it.
    """

    places: Float64[np.ndarray, "r 2"]
    normal: Float64[np.ndarray, "r 2"]
    drop: Float64[np.ndarray, "k 2"]
    found: Float64[np.ndarray, " k"]
    evidence: float


def _rim(image: UInt8[np.ndarray, "s s 3"], rows: Float64[np.ndarray, "4 k 2"], drop: Float64[np.ndarray, "k 2"]) -> _Rim:
    """The edge of the mouth's inside near the inner of these rings (px) once they are moved by drop."""
    inner, outer = rows[0] + drop, rows[3] + drop
    half = len(inner) // 2
    width = float(np.linalg.norm(inner[half] - inner[0]))
    # Landmarks 13 and 14, in the middle of both rows.
    height = float(np.linalg.norm(inner[half // 2] - inner[half + half // 2]))
    start, normal = _rays(inner)
    high = float(np.median(np.linalg.norm(outer - inner, axis=1))) + min(0.3 * height, 0.25 * width)
    low = -0.1 * height
    along = np.linspace(low, high, _STEPS)
    unrolled = _lab(image, (start[:, None] + along[:, None] * normal[:, None]).astype(np.float32), (high - low) / _STEPS)
    # Both middle rows, without the corners.
    between = (rows + drop)[1:3, 1:half]
    lips = _lab(image, between.reshape(1, -1, 2).astype(np.float32), 1.0)[0]
    edge, evidence = _edge(unrolled, along, lips)
    found = along[edge]
    if drop.any():  # what the ring's upper half left out is not teeth: without colours they look like lips
        upper = slice(0, half * (_RAYS // len(inner)) + 1)
        found[upper] = np.maximum(found[upper], 0.0)
    keep = slice(None, None, _RAYS // len(inner))
    return _Rim(places=start + found[:, None] * normal, normal=normal, drop=drop, found=found[keep], evidence=evidence)


def _rays(ring: Float64[np.ndarray, "k 2"]) -> tuple[Float64[np.ndarray, "r 2"], Float64[np.ndarray, "r 2"]]:
    """Starting points on a closed ring, a fixed number to a landmark, and outward unit normals."""
    many = _RAYS // len(ring)
    part = np.arange(many) / many
    rim = (ring[:, None] + part[:, None] * (np.roll(ring, -1, 0) - ring)[:, None]).reshape(-1, 2)
    smooth = _around(rim, 2.0)
    along = np.roll(smooth, -2, 0) - np.roll(smooth, 2, 0)
    normal = np.stack([along[:, 1], -along[:, 0]], 1)
    normal = _around(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6), 2.0)
    return rim, normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)


def _around(values: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth along the first, circular axis."""
    return gaussian_filter1d(values, sigma, axis=0, mode="wrap")


def _lab(image: np.ndarray, spots: Float32[np.ndarray, "r t 2"], step: float) -> Float64[np.ndarray, "r t 3"]:
    """Colours at spots (px), Lab with lightness counting 0.6."""
    smooth = cv2.GaussianBlur(image, (0, 0), max(0.5 * step, 0.5)).astype(np.float32) / 255
    rgb = cv2.remap(smooth, spots, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float64) * (0.6, 1.0, 1.0)


def _edge(
    unrolled: Float64[np.ndarray, "r t 3"], along: Float64[np.ndarray, " t"], lips: Float64[np.ndarray, "n 3"]
) -> tuple[Int64[np.ndarray, " r"], float]:
    """Step of each ray at which the mouth's inside ends, and the difference of colour across it on three quarters of them."""
    steps = np.arange(_STEPS)
    at = np.full(_RAYS, int(np.searchsorted(along, 0.0)))
    reach = _STEPS // 4
    # Trackers are seldom far off, and then rather inside than outside of the lips.
    away = np.maximum(np.abs(steps - at[0]) - 4, 0) * np.where(steps < at[0], -0.3, 0.12)
    for turn in range(3):
        # Learn the colours on both sides of what is known so far, then look again.
        inside = steps < at[:, None] - 2
        first = at[:, None] + 2 if turn else np.full((_RAYS, 1), _STEPS * 4 // 5)
        outside = (steps > first) & (steps < first + reach)
        beyond = np.minimum(_nearest(unrolled, unrolled[outside]), _nearest(unrolled, lips))
        evidence = np.sqrt(beyond) - np.sqrt(_nearest(unrolled, unrolled[inside]))
        at = _contour(np.clip(evidence, -8, 8) - away, unrolled)
    rays, near = np.arange(_RAYS), range(3, 10)
    before = np.mean([unrolled[rays, np.clip(at - k, 0, _STEPS - 1)] for k in near], 0)
    after = np.mean([unrolled[rays, np.clip(at + k, 0, _STEPS - 1)] for k in near], 0)
    return at, float(np.percentile(np.linalg.norm(after - before, axis=1), 25))


def _lip_ends(
    image: np.ndarray, rim: Float64[np.ndarray, "r 2"], normal: Float64[np.ndarray, "r 2"], reach: float, flat: np.ndarray
) -> Float64[np.ndarray, " r"]:
    """Thickness (px) of the lip on each ray from its inner rim: where its colour gives way to the skin's."""
    along = np.linspace(0, reach, _STEPS)
    unrolled = _lab(image, (rim[:, None] + along[:, None] * normal[:, None]).astype(np.float32), reach / _STEPS)
    skin = np.median(_lab(image, flat[list(_CHEEKS)][None].astype(np.float32), 2.0)[0], 0)
    lip = _around(unrolled[:, _STEPS // 12 : _STEPS // 4].mean(1), 4.0)
    chroma = np.array([0.4, 1.0, 1.0])
    from_skin = np.linalg.norm((unrolled - skin) * chroma, axis=-1)
    evidence = from_skin - np.linalg.norm((unrolled - lip[:, None]) * chroma, axis=-1)
    return along[_contour(np.clip(evidence, -8, 8) + 1.5, unrolled)]


def _nearest(colours: np.ndarray, samples: Float64[np.ndarray, "n 3"]) -> np.ndarray:
    """Squared distance of colours (..., 3) to the nearest of a few clusters of the samples."""
    rank = np.argsort(np.argsort(samples[:, 0], kind="stable"), kind="stable")
    label = rank * _CLUSTERS // len(samples)
    for _ in range(6):
        centres = np.stack([samples[label == k].mean(0) if (label == k).any() else samples.mean(0) for k in range(_CLUSTERS)])
        label = ((samples[:, None] - centres) ** 2).sum(-1).argmin(1)
    return ((colours[..., None, :] - centres) ** 2).sum(-1).min(-1)


def _contour(evidence: Float64[np.ndarray, "r t"], unrolled: Float64[np.ndarray, "r t 3"]) -> Int64[np.ndarray, " r"]:
    """The smooth closed line that has most evidence of the inside (positive) before it and of the lips after it, and lies
    where colours change: shortest path around."""
    total = np.cumsum(evidence, 1)
    gradient = np.linalg.norm(np.gradient(unrolled, axis=1), axis=-1)
    cost = -(2 * total - total[:, -1:]) / 2 - 6.0 * gradient
    jump = 3
    doubled = np.concatenate([cost, cost])
    best = doubled[0].copy()
    came = np.zeros(doubled.shape, np.int64)
    for k in range(1, len(doubled)):
        padded = np.pad(best, jump, constant_values=np.inf)
        options = np.stack([padded[jump + d : jump + d + _STEPS] + 2.0 * d * d for d in range(-jump, jump + 1)])
        choice = options.argmin(0)
        came[k] = np.arange(_STEPS) + choice - jump
        best = doubled[k] + options.min(0)
    path = [int(best.argmin())]
    for k in range(len(doubled) - 1, 0, -1):
        path.append(int(came[k, path[-1]]))
    path.reverse()
    half = _RAYS // 2
    turn = np.array(path[half : half + _RAYS])
    return np.roll(turn, half)


def _spread(
    points: Float32[np.ndarray, "478 3"], rings: Int64[np.ndarray, "4 k"], rim: _Rim, lip: Float64[np.ndarray, " k"]
) -> Float32[np.ndarray, "478 3"]:
    """Shift of all landmarks from that of the inner ring: lips keep most of their thickness, skin gives way around them."""
    flat = points[:, :2].astype(np.float64)
    shift = np.zeros((LANDMARKS, 3), np.float32)
    thick = np.linalg.norm(flat[rings[3]] - flat[rings[0]], axis=1)
    normal = rim.normal[:: len(rim.normal) // len(thick)]
    moved = rim.drop + rim.found[:, None] * normal
    # The lower lip ends softly: its rim goes a little beyond where its colour gives way.
    wanted = np.where(np.arange(len(thick)) > len(thick) // 2, np.maximum(1.3 * lip, 0.8 * thick), 0.8 * thick)
    outward = np.maximum(rim.found + wanted - thick, 0.0)
    outer = rim.drop + outward[:, None] * normal
    for ring in rings:
        part = np.linalg.norm(flat[ring] - flat[rings[0]], axis=1) / np.maximum(thick, 1e-6)
        shift[ring, :2] = moved + part[:, None].clip(0, 1) * (outer - moved)
    still = np.concatenate([OVAL, [NOSE_BASE]])
    known = np.concatenate([rings[3], still])
    reach = max(0.35 * float(np.ptp(flat[rings[3]], axis=0).max()), 3.0 * float(np.linalg.norm(outer, axis=1).max()))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-np.linalg.norm(a[:, None] - b[None], axis=-1) / reach)

    # The mouth's inside is open: points across it must not pull on each other, so spread the outer ring's shift only outwards.
    others = np.setdiff1d(np.arange(SKIN), np.concatenate([rings.ravel(), still]))
    weight = kernel(flat[known], flat[known]) + 1e-3 * np.eye(len(known))
    values = np.concatenate([outer, np.zeros((len(still), 2))])
    shift[others, :2] = kernel(flat[others], flat[known]) @ np.linalg.solve(weight, values)
    above = flat[others, 1] < flat[NOSE_BASE, 1]
    shift[others[above]] = 0
    return shift


def _unfolded(points: Float32[np.ndarray, "478 3"], least: float) -> Float32[np.ndarray, "478 3"]:
    """The skin below an open mouth without folds.

    Trackers push the lower lip of a wide open mouth over the chin's points; the picture seen through such a fold would show the
    lip twice. Where a step down the chin is below the share `least` of a usual one, columns from lip to chin are dealt out anew.
    """
    out = points.copy()
    middle = out[list(_COLUMNS[len(_COLUMNS) // 2]), :2]
    axis = middle[-1] - middle[0]
    if (np.diff(middle @ axis) > least * np.diff(_PARTS) * (axis @ axis)).all():
        return out
    for column in _COLUMNS:
        start, end = out[column[0], :2].copy(), out[column[-1], :2].copy()
        out[list(column), :2] = start + _PARTS[:, None] * (end - start)
    return out
