"""The same mouth seen otherwise: random changes of what the sync expert's eyes see that leave in sync what is in sync."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from vivavoce.nets.sync import grey


def shape_view(
    coordinates: Float[np.ndarray, "t k"], frames: Float[np.ndarray, " n"], rng: np.random.Generator
) -> Float32[np.ndarray, "n k"]:
    """Landmarks' coordinates at some (fractional) frames: in another size of movement, about another rest, tracked less well."""
    low = np.floor(frames).astype(int)
    part = (frames - low)[:, None]
    seen = coordinates[low] * (1 - part) + coordinates[np.minimum(low + 1, len(coordinates) - 1)] * part
    seen = seen * np.exp(rng.normal(0, 0.2)) + rng.normal(0, 0.15, seen.shape[1]) + rng.normal(0, 0.075, seen.shape)
    return seen.astype(np.float32)


def crop_view(
    crops: UInt8[np.ndarray, "t s s"], mean: Float32[np.ndarray, "s s"], spread: float, side: int, rng: np.random.Generator
) -> Float32[np.ndarray, "t 2 h w"]:
    """Crops as the eye sees them (`nets.sync.grey`), ``side`` px: moved, turned, mirrored, in another light, blurred, noisy, or
    partly covered; trembling a little from frame to frame, as landmarks do. The mean picture goes along."""
    whole = crops.shape[1]
    place = cv2.getRotationMatrix2D(((whole - 1) / 2, (whole - 1) / 2), rng.normal(0, 4), np.exp(rng.normal(0, 0.06)))
    place[:, 2] += rng.uniform(-3, 3, 2) - (whole - side) / 2
    if rng.random() < 0.5:
        place = place @ np.array([[-1.0, 0, whole - 1], [0, 1, 0], [0, 0, 1]])

    def moved(picture: np.ndarray, by: np.ndarray) -> np.ndarray:
        there = place.copy()
        there[:, 2] += by
        return cv2.warpAffine(picture, there, (side, side), borderMode=cv2.BORDER_REPLICATE)

    curve = (255 * (np.arange(256) / 255) ** np.exp(rng.normal(0, 0.15))).astype(np.float32)
    seen = curve[np.stack([moved(crop, rng.normal(0, 0.25, 2)) for crop in crops])]
    still = curve[moved(mean.round().astype(np.uint8), np.zeros(2))]
    if rng.random() < 0.3:
        blur = rng.uniform(0.4, 1.2)
        seen, still = np.stack([cv2.GaussianBlur(s, (0, 0), blur) for s in seen]), cv2.GaussianBlur(still, (0, 0), blur)
    found = grey(torch.from_numpy(seen), torch.from_numpy(still), spread * float(np.exp(rng.normal(0, 0.2)))).numpy()
    found = found + 0.05 * rng.standard_normal(found.shape, np.float32)
    if rng.random() < 0.3:
        y, x = rng.integers(0, side - side // 4 + 1, 2)
        found[:, :, y : y + side // 4, x : x + side // 4] = 0
    return found
