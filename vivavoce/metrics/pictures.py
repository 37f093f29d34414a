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
    """Peak signal-to-noise ratio 10 log10(255^2 / mean squared difference), dB: higher is better, infinite for equal pictures.

    A shift of one pixel costs more than a blur. Only for pictures that should be equal, as when a recording reenacts itself.
    """
    assert a.shape == b.shape, (a.shape, b.shape)
    apart = cv2.norm(a, b, cv2.NORM_L2SQR) / a.size
    return float(10 * np.log10(PEAK**2 / apart)) if apart else float("inf")


def ssim(a: UInt8[np.ndarray, "h w 3"], b: UInt8[np.ndarray, "h w 3"]) -> float:
    """Structural similarity of the luma (Wang et al. 2004), -1 to 1, higher is better, 1 for equal pictures.

    Mean over places of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2)), with moments under a Gaussian
    window; the outermost SSIM_REACH pixels are left out. It does not see colour, and like `psnr` it wants pixels in their place.
    """
    assert a.shape == b.shape, (a.shape, b.shape)
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (a, b))
    window = cv2.getGaussianKernel(2 * SSIM_REACH + 1, SSIM_SIGMA, cv2.CV_32F)
    inner = slice(SSIM_REACH, -SSIM_REACH)
    mean_x, mean_y, squares, both = (
        cv2.sepFilter2D(moment, -1, window, window)[inner, inner] for moment in (x, y, x * x + y * y, x * y)
    )
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    product, power = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    return float(((2 * product + c1) * (2 * (both - product) + c2) / ((power + c1) * (squares - power + c2))).mean())


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
    """Root mean square of the Laplacian of the channels' mean, 8-bit levels: from 0, flat; near the recording's is good.

    The judge's, on crops of a fixed side: it depends on the scale. Noise, grain and blocks of a codec count as sharp.
    """
    grey = image[..., 0].astype(np.int32) + image[..., 1] + image[..., 2]
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.sqrt((laplacian.astype(np.float64) ** 2).mean())) / 3


def border(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "n 3"]:
    """Pixels of the outermost 4% at the top and at both sides; a talking person moves at the bottom."""
    edge = max(2, int(BORDER * min(image.shape[:2])))
    return np.concatenate([image[:edge].reshape(-1, 3), image[:, :edge].reshape(-1, 3), image[:, -edge:].reshape(-1, 3)])


def border_change(previous: UInt8[np.ndarray, "h w 3"], image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Mean absolute change of `border` between two frames, 8-bit levels: from 0, low is good.

    Its mean over a clip is the judge's flicker. Hair, hands and moving backgrounds count as flicker where they reach the border.
    """
    return float(np.abs(border(image).astype(np.int16) - border(previous)).mean())


def background_stability(frames: Iterable[UInt8[np.ndarray, "h w 3"]], background: Bool[np.ndarray, "h w"]) -> float:
    """sqrt(mean over the pixels of ``background`` of their variance over time), 8-bit levels: from 0, still; low is good.

    Swimming, flicker and drift all count; what the person covered or uncovered must not be in the mask. NaN without frames or
    pixels. A camera that moves is not still either: hold it beside the recording's.
    """
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
    """How colours wander over time, from 0, steady; low is good.

    The length of the least-squares slope of the mean colour, 8-bit levels per minute, and the furthest that the mean of any
    second gets from that of the first. NaN for clips under two seconds. Of faces, take the mean over skin that stays in view:
    turning heads and mouths change the mean of the whole picture.
    """
    second = max(1, round(rate_hz))
    if len(colours) < 2 * second:
        return Drift(float("nan"), float("nan"))
    minutes = np.arange(len(colours)) / rate_hz / 60
    centred = minutes - minutes.mean()
    slope = centred @ colours / (centred @ centred)
    means = colours[: len(colours) // second * second].reshape(-1, second, 3).mean(1)
    return Drift(float(np.linalg.norm(slope)), float(np.linalg.norm(means - means[0], axis=1).max()))


def flicker(colours: Float[np.ndarray, "t 3"]) -> float:
    """Root mean square length of the second difference of the mean colour, 8-bit levels: from 0, low is good.

    It sees brightness that alternates from frame to frame, not what drifts, nor pixels that flicker against each other. NaN for
    fewer than three frames.
    """
    return float(np.sqrt((np.diff(colours, 2, axis=0) ** 2).sum(1).mean())) if len(colours) > 2 else float("nan")
