"""Eyes: the eyeball is a layer of its own under the lids, so that lids slide over it instead of squashing it.

Inside the lids' target opening the picture is sampled where the head's rigid motion says, and the iris is carried rigidly with
the gaze while the white follows less and less away from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numba import njit
from scipy.ndimage import gaussian_filter1d

from vivavoce.latent.aperture import Aperture, Opening, trace
from vivavoce.latent.raster import at_column, below, blend, draw_line, in_frame, ramp

LOOK_REACH = 0.3  # of the eye's length: the furthest that the iris is moved sideways
_STRIP = (0.12, 0.27)  # of the eye's length above its edge: the skin that a closing lid is drawn with
NARROW = 0.1  # height over length: below it the portrait's eye counts as shut, and there is no eyeball to show


@dataclass(frozen=True, kw_only=True)
class EyeSource:
    """One eye of the portrait: its lids, its iris (centre and radius, px), whether it shows an eyeball at all, the
    colour of its upper lashes, and the skin over it."""

    opening: Opening
    iris: tuple[int, ...]
    lids: Aperture
    centre: Float64[np.ndarray, " 2"]
    radius: float
    seen: bool
    lash: Float64[np.ndarray, " 3"]
    skin: Float64[np.ndarray, "rows columns 3"]


def prepare_eye(
    image: UInt8[np.ndarray, "s s 3"], landmarks: Float32[np.ndarray, "478 3"], opening: Opening, iris: tuple[int, ...]
) -> EyeSource:
    """Measure one eye of the portrait. landmarks are in px."""
    lids = trace(landmarks[:, :2], opening)
    rim = landmarks[list(iris), :2].astype(np.float64)
    radius = float(np.linalg.norm(rim[1:] - rim[0], axis=1).mean())
    return EyeSource(
        opening=opening, iris=iris, lids=lids, centre=rim[0], radius=radius, seen=lids.height > NARROW * lids.length,
        lash=_lash_colour(image, lids), skin=_lid_skin(image, lids),
    )


def draw_eye(
    picture: UInt8[np.ndarray, "h w 3"], corner: tuple[int, int], source: UInt8[np.ndarray, "s s 3"],
    eye: EyeSource, target: Float32[np.ndarray, "478 3"], motion: Float64[np.ndarray, "2 3"],
) -> None:
    """Put the eyeball under the target's lids.

    picture is a window of the frame with its top left pixel at `corner` (x, y), changed in place; motion takes source px to
    target px as the head moves.
    """
    if not eye.seen:
        return
    lids = trace(target[:, :2], eye.opening)
    x0, y0, x1, y1 = lids.box(2 + int(0.1 * lids.length), corner, picture.shape)
    if x1 <= x0 or y1 <= y0:
        return
    motion = motion.copy()
    mean = (eye.lids.start + eye.lids.end) / 2
    motion[:, 2] += (lids.start + lids.end) / 2 - (motion[:, :2] @ mean + motion[:, 2])
    back = cv2.invertAffineTransform(motion)
    look = back[:, :2] @ target[eye.iris[0], :2] + back[:, 2] - eye.centre
    # Of closing eyes the tracker's iris goes down with the lid: trust its height only while the eye is open.
    look[1] *= float(np.clip(2 * lids.height / max(eye.lids.height, 1e-3) - 0.8, 0, 1))
    look = np.clip(look, -LOOK_REACH * eye.lids.length, LOOK_REACH * eye.lids.length) * (1, 0.6)
    shape = (y1 - y0, x1 - x0)
    map_x, map_y, alpha = (np.empty(shape, np.float32) for _ in range(3))
    _look_up(
        (x0, y0), lids.frame, lids.upper, lids.lower, eye.lids.frame, eye.lids.upper, eye.lids.lower, back, eye.centre, look,
        eye.radius, map_x, map_y, alpha,
    )
    ball = cv2.remap(source, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    patch = picture[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
    blend(patch, ball, alpha)
    scale = lids.length / eye.lids.length
    closing = 1 - lids.height / max(eye.lids.height * scale, 1e-3)
    if closing > 0.1:
        top = np.minimum(scale * eye.lids.upper, lids.upper) - _STRIP[0] * lids.length
        _draw_lid(
            *_part_of(picture, corner, replace(lids, upper=top)), lids.frame, top, lids.upper, eye.skin,
            0.9 * min((closing - 0.1) / 0.4, 1.0),
        )
    if closing > 0.4:
        strength = 0.7 * min((closing - 0.4) / 0.5, 1.0)
        # A closing lid shows its lashes as a line; that also hides the seam with the lower lid.
        draw_line(patch, (x0, y0), lids.frame, lids.upper, 0.025 * lids.length, eye.lash, strength)


def _part_of(picture: np.ndarray, corner: tuple[int, int], around: Aperture) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of the picture that an opening may touch, and the place of its top left pixel."""
    x0, y0, x1, y1 = around.box(2, corner, picture.shape)
    return picture[y0 - corner[1] : max(y1, y0) - corner[1], x0 - corner[0] : max(x1, x0) - corner[0]], (x0, y0)


def _above(image: np.ndarray, lids: Aperture, across: np.ndarray, rise: np.ndarray) -> Float64[np.ndarray, "r n 3"]:
    """Colours at shares `across` of the eye's length, `rise` lengths above its upper edge."""
    height = np.interp(across, np.linspace(0, 1, len(lids.upper)), lids.upper) - rise[:, None] * lids.length
    axis = lids.axis
    spot = lids.start + across[:, None] * (lids.end - lids.start) + height[..., None] * np.array([-axis[1], axis[0]])
    return cv2.remap(image, spot.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float64)


def _lid_skin(image: np.ndarray, lids: Aperture) -> Float64[np.ndarray, "rows columns 3"]:
    """Skin from over the lashes up towards the brow, along the eye, without its fine detail: what a closing lid is made of."""
    strip = _above(image, lids, np.linspace(0, 1, len(lids.upper)), np.linspace(*_STRIP, 16))
    strip = gaussian_filter1d(gaussian_filter1d(strip, 6.0, axis=1, mode="nearest"), 1.5, axis=0, mode="nearest")
    # What gets much darker upwards is the brow.
    light = strip.mean(-1, keepdims=True)
    return strip + np.clip(5 * (0.92 - light / np.maximum(light[:1], 1.0)), 0, 1) * (strip[:1] - strip)


def _lash_colour(image: np.ndarray, lids: Aperture) -> Float64[np.ndarray, " 3"]:
    """The darkest of what borders the eye above, away from the iris."""
    across = np.concatenate([np.linspace(0.08, 0.25, 8), np.linspace(0.75, 0.92, 8)])
    colour = _above(image, lids, across, np.linspace(0, 0.12, 7))
    dark = colour.sum(-1).argmin(0)
    return np.median(colour[dark, np.arange(len(across))], 0)


@njit(cache=True, nogil=True)
def _draw_lid(
    picture: np.ndarray, origin: tuple[int, int], frame: np.ndarray, upper: np.ndarray, edge: np.ndarray, skin: np.ndarray,
    strength: float,
) -> None:
    """Lay skin over what a closing upper lid has stretched, in place: from over the lashes of the open eye (upper) down to the
    lid's edge. It mirrors the skin above, so that the two join."""
    rows = skin.shape[0] - 1
    colour = np.empty(3)
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            dx, dy = origin[0] + column - frame[0], origin[1] + row - frame[1]
            u = (dx * frame[2] + dy * frame[3]) / frame[4]
            v = -dx * frame[3] + dy * frame[2]
            top, bottom = at_column(upper, u), at_column(edge, u)
            part = (v - top) / max(bottom - top, 1e-3)
            a = strength * ramp(part / 0.35) * ramp(0.5 - below(edge, u, v, frame[4]) / 1.4)
            a *= ramp(u / 0.2) * ramp((1 - u) / 0.2)
            if a <= 0.01:
                continue
            part = min(max(part, 0.0), 1.0)
            k = min(int(part * rows), rows - 1)
            f = part * rows - k
            # The ball under the lid: lightest at its middle, darker towards the lashes and the corners.
            light = 1.0 - 0.22 * (part - 0.55) ** 2 / 0.2 * (part > 0.55) - 0.12 * (2 * u - 1) ** 2
            darker = 0.0
            for c in range(3):
                colour[c] = light * ((1 - f) * at_column(skin[k, :, c], u) + f * at_column(skin[k + 1, :, c], u))
                darker += (picture[row, column, c] - colour[c]) / 3
            a *= 1 - ramp((darker - 10) / 60)  # it is there to take dark streaks away, not to make any
            for c in range(3):
                p = np.float64(picture[row, column, c])
                value = colour[c]
                picture[row, column, c] = np.uint8(min(max(p + a * (value - p) + 0.5, 0.0), 255.0))


@njit(cache=True, nogil=True)
def _look_up(
    origin: tuple[int, int], frame: np.ndarray, upper: np.ndarray, lower: np.ndarray, frame0: np.ndarray, upper0: np.ndarray,
    lower0: np.ndarray, back: np.ndarray, centre: np.ndarray, look: np.ndarray, radius: float,
    map_x: np.ndarray, map_y: np.ndarray, alpha: np.ndarray,
) -> None:
    """Where each pixel between the target's lids samples the portrait, and how much of the eyeball it shows.

    A frame is (x, y of the corner, x, y of the unit axis, length); the tables hold the lids' heights over that axis.
    """
    scale = np.sqrt(abs(back[0, 0] * back[1, 1] - back[0, 1] * back[1, 0]))
    edge = 1.4
    for row in range(alpha.shape[0]):
        for column in range(alpha.shape[1]):
            x, y = origin[0] + column, origin[1] + row
            u, v = in_frame(frame, x, y)
            lid_u, lid_l = at_column(upper, u), at_column(lower, u)
            a = ramp(below(upper, u, v, frame[4]) / edge + 0.5) * ramp(0.5 - below(lower, u, v, frame[4]) / edge)
            if u < -0.03 or u > 1.03 or lid_l - lid_u <= 0:
                a = 0.0
            a *= ramp((lid_l - lid_u) / 2.5)
            alpha[row, column] = a
            qx = back[0, 0] * x + back[0, 1] * y + back[0, 2]
            qy = back[1, 0] * x + back[1, 1] * y + back[1, 2]
            if a > 0:
                u0, v0 = in_frame(frame0, qx, qy)
                own_u, own_l = at_column(upper0, u0), at_column(lower0, u0)
                new_u, new_l = v0 - (v - lid_u) * scale, v0 + (lid_l - v) * scale
                top, bottom = max(own_u, new_u), min(own_l, new_l)
                # Wider open than the portrait: stretch what it shows.
                if (top > new_u or bottom < new_l) and bottom > top:
                    to = top + (v0 - new_u) / max(new_l - new_u, 1e-3) * (bottom - top)
                    qx += -frame0[3] * (to - v0)
                    qy += frame0[2] * (to - v0)
                away = np.hypot(qx - centre[0] - look[0], qy - centre[1] - look[1]) / radius
                carry = 1.0 - ramp((away - 1.1) / 1.6)
                qx -= look[0] * carry
                qy -= look[1] * carry
            map_x[row, column] = qx
            map_y[row, column] = qy


