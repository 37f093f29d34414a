"""Pieces of frames in the shape that networks of others were taught on, cut by landmarks (Face Mesh, px)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Float, Float64, UInt8
from scipy.signal import medfilt

from vivavoce.latent.topology import SKIN

Image = UInt8[np.ndarray, "h w 3"]

SYNC_SIDE = 224  # px
_SYNC_MARGIN = 0.4  # of half the box: to each side, and twice that below
_SYNC_SMOOTH = 13  # frames of a running median
_SYNC_PAD = 110  # grey outside the picture

FACE_SIDE = 112  # px
# Where the crop shows the person's right eye, left eye, tip of the nose and right and left corner of the mouth (InsightFace).
_FACE_PLACES = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
# The same in Face Mesh: an eye is the middle of its corners.
_FIVE = ((33, 133), (362, 263), (1, 1), (61, 61), (291, 291))


def sync_crops(frames: Iterable[Image], points: Float[np.ndarray, "t 478 3"]) -> Iterator[UInt8[np.ndarray, "224 224 3"]]:
    """The face as SyncNet's pipeline cuts it, in the colours' order of the frames.

    With s half the longer side of the face's box and (x, y) its centre, each a median over 13 frames: from y - s to y + 1.8 s and
    from x - 1.4 s to x + 1.4 s. The pipeline has the box from the detector S3FD; here it bounds the landmarks, forehead to chin.
    Frames without a face are given the box between their neighbours' boxes.
    """
    skin = _bridged(points[:, :SKIN, :2])
    low, high = skin.min(1), skin.max(1)
    half = medfilt((high - low).max(1) / 2, _SYNC_SMOOTH)
    x, y = (medfilt(middle, _SYNC_SMOOTH) for middle in ((low + high) / 2).T)
    for image, s, cx, cy in zip(frames, half, x, y, strict=False):
        pad = int(s * (1 + 2 * _SYNC_MARGIN))
        top, bottom = int(cy + pad - s), int(cy + pad + s * (1 + 2 * _SYNC_MARGIN))
        left, right = (int(cx + pad + side * s * (1 + _SYNC_MARGIN)) for side in (-1, 1))
        yield cv2.resize(_cut(image, top - pad, bottom - pad, left - pad, right - pad), (SYNC_SIDE, SYNC_SIDE))


def aligned_face(image: Image, points: Float[np.ndarray, "478 3"]) -> UInt8[np.ndarray, "112 112 3"]:
    """The face as InsightFace aligns it: the similarity that takes five points nearest to their places."""
    five = np.array([points[[a, b], :2].mean(0) for a, b in _FIVE], dtype=np.float64)
    return cv2.warpAffine(image, similarity(five, _FACE_PLACES), (FACE_SIDE, FACE_SIDE), borderValue=0)


def similarity(source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]) -> Float64[np.ndarray, "2 3"]:
    """The turn, scale and shift (no reflection) that take source nearest to target in least squares.

    In complex numbers z -> m z + c, with m = <a, b> / <a, a> of the points around their means.
    """
    a, b = source @ [1, 1j], target @ [1, 1j]
    m = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean()).real
    c = b.mean() - m * a.mean()
    return np.array([[m.real, -m.imag, c.real], [m.imag, m.real, c.imag]])


def _bridged(points: Float[np.ndarray, "t n 2"]) -> Float64[np.ndarray, "t n 2"]:
    """With frames that lack a face filled by interpolation in time; at least one must have one."""
    seen = np.flatnonzero(np.isfinite(points).all((1, 2)))
    assert len(seen), "no frame has a face"
    flat = points.reshape(len(points), -1).astype(np.float64)
    times = np.arange(len(points))
    place = np.interp(times, seen, np.arange(len(seen)))
    before = np.floor(place).astype(int)
    share = (place - before)[:, None]
    after = np.minimum(before + 1, len(seen) - 1)
    return ((1 - share) * flat[seen[before]] + share * flat[seen[after]]).reshape(points.shape)


def _cut(image: Image, top: int, bottom: int, left: int, right: int) -> Image:
    """Rows and columns of the picture, grey where they lie outside; at least one pixel."""
    height, width = image.shape[:2]
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    piece = np.full((bottom - top, right - left, 3), _SYNC_PAD, np.uint8)
    y0, y1, x0, x1 = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
    if y0 < y1 and x0 < x1:
        piece[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return piece
