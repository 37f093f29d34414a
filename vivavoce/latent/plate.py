"""What is behind the person: a matte that cuts the person out, and the picture with what was hidden there filled in."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from vivavoce.latent.quiet import quiet_native_stderr

_COVERED = 0.75  # share of the face that a usable segmentation takes for person
_EDGE = 0.006  # of the side: how far the matte reaches into the background, and over which width it ends


@dataclass(frozen=True, kw_only=True)
class Plate:
    """matte: 255 on the person and a little beyond, 0 on the background; hidden: 1 where the person covers the background, with a
    margin; picture: the portrait, where it is hidden without the person."""

    matte: UInt8[np.ndarray, "s s"]
    hidden: UInt8[np.ndarray, "s s"]
    picture: UInt8[np.ndarray, "s s 3"]

    @classmethod
    def empty(cls, image: UInt8[np.ndarray, "s s 3"]) -> Plate:
        """Of a portrait that can't be cut up: all of it is in front."""
        nothing = np.zeros(image.shape[:2], np.uint8)
        return cls(matte=255 - nothing, hidden=nothing, picture=image)


def person_of(image: UInt8[np.ndarray, "s s 3"], face: Bool[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"] | None:
    """How surely each pixel shows the person with this face (MediaPipe's selfie segmentation, sharpened along the picture's
    edges); None where it does not see a person there."""
    from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

    with quiet_native_stderr(), SelfieSegmentation(model_selection=0) as model:
        found = model.process(np.ascontiguousarray(image)).segmentation_mask
    if (found[face] > 0.5).mean() < _COVERED:
        return None
    sure = np.clip((found - 0.1) / 0.5, 0, 1).astype(np.float32)
    _, label = cv2.connectedComponents(((sure > 0.3) | face).astype(np.uint8))
    own = np.isin(label, np.unique(label[face]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return np.maximum(np.clip(_guided(sure * own, grey, max(2, round(0.012 * len(image)))), 0, 1), face)


def _guided(values: np.ndarray, guide: np.ndarray, radius: int, least: float = 1e-3) -> np.ndarray:
    """Guided filter (He, Sun, Tang 2010): values as a locally linear function of the guide."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

    m, v = mean(guide), mean(values)
    slope = (mean(guide * values) - m * v) / (mean(guide * guide) - m * m + least)
    return mean(slope) * guide + mean(v - slope * m)


def plate_of(image: UInt8[np.ndarray, "s s 3"], person: Float32[np.ndarray, "s s"]) -> Plate:
    """Cut the person out, the matte's soft edge lying in the background, and fill in what is behind."""
    side = len(image)
    edge = _EDGE * side
    outside = cv2.distanceTransform((person < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    matte = np.maximum(np.clip(2 - outside / edge, 0, 1), person * (outside < 6 * edge))
    hidden = (matte > 0.02) | (outside < 4 * edge)
    picture = _filled(image, hidden)
    return Plate(matte=np.round(255 * matte).astype(np.uint8), hidden=hidden.astype(np.uint8), picture=picture)


def _filled(image: UInt8[np.ndarray, "s s 3"], hidden: Bool[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s 3"]:
    """The picture with hidden pixels filled: mirrored at the nearest edge, so that texture goes on, and smoother further in."""
    if hidden.all() or not hidden.any():
        return image.copy()
    smooth = _spread(image, ~hidden)
    away, label = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    ys, xs = np.nonzero(~hidden)
    order = np.zeros(label.max() + 1, np.int64)
    order[label[ys, xs]] = np.arange(len(ys))
    nearest = order[label]
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    map_x, map_y = 2 * xs[nearest] - columns, 2 * ys[nearest] - rows
    maps = map_x.astype(np.float32), map_y.astype(np.float32)
    mirrored, usable = (
        cv2.remap(v, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101) for v in (image, (~hidden).astype(np.float32))
    )
    share = cv2.GaussianBlur(usable, (0, 0), 1 + 0.004 * len(image)) * np.exp(-away / (0.12 * len(image)))
    mixed = smooth + share[..., None] * (mirrored - smooth)
    return np.where(hidden[..., None], np.clip(np.round(mixed), 0, 255), image).astype(np.uint8)


def _spread(image: np.ndarray, known: Bool[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s 3"]:
    """Known colours spread into the unknown: push-pull over halved pictures."""
    colour, weight = image.astype(np.float32) * known[..., None], known.astype(np.float32)
    levels = []
    while min(weight.shape) > 2:
        levels.append((colour, weight))
        colour, weight = cv2.pyrDown(colour), cv2.pyrDown(weight)
    filled = colour / np.maximum(weight, 1e-6)[..., None]
    for colour, weight in reversed(levels):
        above = cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        filled = colour + (1 - np.minimum(weight, 1))[..., None] * above
    return filled
