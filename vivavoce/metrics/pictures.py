"""What pictures tell: likeness, sharpness, flicker, stillness of the background, drift of colours. Frames are 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

BORDER = 0.04  # of the shorter side
PEAK = 255.0
SSIM_SIGMA = 1.5  # px, of the Gaussian window (Wang et al. 2004), which is cut off at 3.5 sigma
SSIM_REACH = 5


def psnr(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    """Peak signal-to-noise ratio, dB: 10 log10(255^2 / mean squared error); infinite for equal pictures."""
    assert a.shape == b.shape, (a.shape, b.shape)
    apart = cv2.norm(a, b, cv2.NORM_L2SQR) / a.size
    return float(10 * np.log10(PEAK**2 / apart)) if apart else float("inf")


def ssim(a: UInt8[np.ndarray, "h w 3"], b: UInt8[np.ndarray, "h w 3"]) -> float:
    """Structural similarity of the luma (Wang et al. 2004), -1 to 1, 1 for equal pictures."""
    assert a.shape == b.shape, (a.shape, b.shape)
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (a, b))

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (2 * SSIM_REACH + 1,) * 2, SSIM_SIGMA)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, both = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    at = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(at[SSIM_REACH:-SSIM_REACH, SSIM_REACH:-SSIM_REACH].mean())


def crop(
    image: UInt8[np.ndarray, "h w 3"], box: tuple[float, float, float, float], side: int
) -> UInt8[np.ndarray, "s s 3"] | None:
    """What is within ``box`` (left, top, right, bottom in px), as a square of ``side`` pixels; None where that is outside."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    x0, y0 = max(x0, 0), max(y0, 0)
    part = image[y0 : max(y1, y0 + 2), x0 : max(x1, x0 + 2)]
    if part.size == 0:
        return None
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if part.shape[0] > side else cv2.INTER_CUBIC)


def sharpness(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Root mean square of the Laplacian of the mean of the channels, 8-bit levels; 0 for a flat picture."""
    grey = image.mean(-1, dtype=np.float64)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.sqrt((laplacian**2).mean()))


def border(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "n 3"]:
    """Pixels of the outermost 4% at the top and at both sides; a talking person moves at the bottom."""
    edge = max(2, int(BORDER * min(image.shape[:2])))
    return np.concatenate([image[:edge].reshape(-1, 3), image[:, :edge].reshape(-1, 3), image[:, -edge:].reshape(-1, 3)])


def border_change(previous: UInt8[np.ndarray, "h w 3"], image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Mean absolute change of `border` between two frames, 8-bit levels."""
    return float(np.abs(border(image).astype(np.int16) - border(previous)).mean())


def background_stability(frames: Iterable[UInt8[np.ndarray, "h w 3"]], background: Bool[np.ndarray, "h w"]) -> float:
    """Standard deviation over time of the pixels of ``background``, 8-bit levels, root mean square; 0 where all stands still."""
    count, total, squares = 0, None, None
    for frame in frames:
        pixels = frame[background].astype(np.float64)
        total = pixels if total is None else total + pixels
        squares = pixels**2 if squares is None else squares + pixels**2
        count += 1
    if total is None or squares is None or not total.size:
        return float("nan")
    return float(np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0).mean()))


def mean_colour(image: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"] | None = None) -> Float[np.ndarray, " 3"]:
    """Mean colour, 8-bit levels."""
    return (image.reshape(-1, 3) if where is None else image[where]).mean(0, dtype=np.float64)


class Drift(NamedTuple):
    """How colours wander."""

    levels_per_minute: float
    furthest_levels: float


def colour_drift(colours: Float[np.ndarray, "t 3"], rate_hz: float) -> Drift:
    """Slope of the mean colour over time, and how far a second of it gets from the first second; both 0 for steady colours."""
    second = max(1, round(rate_hz))
    if len(colours) < 2 * second:
        return Drift(float("nan"), float("nan"))
    minutes = np.arange(len(colours)) / rate_hz / 60
    centred = minutes - minutes.mean()
    slope = centred @ colours / (centred @ centred)
    means = colours[: len(colours) // second * second].reshape(-1, second, 3).mean(1)
    return Drift(float(np.linalg.norm(slope)), float(np.linalg.norm(means - means[0], axis=1).max()))


def flicker(colours: Float[np.ndarray, "t 3"]) -> float:
    """Root mean square of the second difference of the mean colour, 8-bit levels: what alternates, not what drifts."""
    return float(np.sqrt((np.diff(colours, 2, axis=0) ** 2).sum(1).mean())) if len(colours) > 2 else float("nan")
