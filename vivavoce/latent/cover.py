"""Whether a portrait shows its mouth at all, or a mask, a microphone or a hand in front of it.

A face mesh puts lips where they should be even if something covers them. Lips that can be seen have a dark line or a dark gap
between them, whatever their colour and in every style of picture; covers have none in that place.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vivavoce.latent.aperture import COLUMNS, trace
from vivavoce.latent.topology import INNER_LIPS

_ACROSS = np.linspace(0.15, 0.85, 41)  # shares of the mouth's width
_HEIGHTS_MM = np.arange(-6.0, 6.01, 0.5)  # from the line between the lips; an opening counts as 2 mm to each side
_LINE_MM = 2.0
_ALONG = 9  # of the columns across: over so many the line goes on, and texture does not
_DARKER = 0.08  # of the lips' light: how much darker the line is
_LEAST = 0.1  # share of the width with a line below which the mouth is covered; seen mouths have 0.12 to 1 (docs/log.md)


def mouth_is_covered(image: UInt8[np.ndarray, "h w 3"], points: Float32[np.ndarray, "478 3"], mm: float) -> bool:
    """Whether the picture shows no lips where the landmarks (px; mm: px per millimetre) have them."""
    return line_share(image, points, mm) < _LEAST


def line_share(image: UInt8[np.ndarray, "h w 3"], points: Float32[np.ndarray, "478 3"], mm: float) -> float:
    """Share of the mouth's width over which something dark is between the lips."""
    lips = trace(points[:, :2], INNER_LIPS)
    columns = np.linspace(0, 1, COLUMNS)
    middle = np.interp(_ACROSS, columns, (lips.upper + lips.lower) / 2)
    half = np.interp(_ACROSS, columns, (lips.lower - lips.upper) / 2)
    heights = middle + half * np.clip(_HEIGHTS_MM[:, None] / _LINE_MM, -1, 1) + _HEIGHTS_MM[:, None] * mm
    down = np.array([-lips.axis[1], lips.axis[0]])
    spots = lips.start + _ACROSS[:, None] * (lips.end - lips.start) + heights[..., None] * down
    low, high = (np.floor(spots.min((0, 1))) - 8).astype(int).clip(0), (np.ceil(spots.max((0, 1))) + 9).astype(int).clip(1)
    part = cv2.GaussianBlur(image[low[1] : high[1], low[0] : high[0]], (0, 0), max(0.4 * mm, 0.6))
    light = cv2.remap(part, (spots - low).astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    light = cv2.blur(light.astype(np.float64).mean(-1), (_ALONG, 1))
    line = np.sort(light[np.abs(_HEIGHTS_MM) <= _LINE_MM], 0)[:2].mean(0)
    # Only the lower lip, because the upper one may be under a dark moustache. Light that falls off evenly makes no line.
    near, far = (light[(a < _HEIGHTS_MM) & (b >= _HEIGHTS_MM)].mean(0) for a, b in ((2.0, 4.0), (4.0, 6.0)))
    lip = np.minimum((near + far) / 2, 2 * near - far)
    darker = (lip - line) / np.maximum(lip, 8.0)
    return float((darker > _DARKER).mean())
