"""The inside of the mouth, drawn behind the inner lips: cavity, tongue, teeth.

Upper teeth hang on the skull, lower teeth and tongue on the jaw; the lips uncover them. Sizes are in millimetres of an average
adult, brought to the picture by the distance of the outer eye corners. Colours come from the portrait's own lips, skin and
eyes, edges are as soft as the portrait. Where the portrait shows the inside of its mouth, that is used, each half on its bone.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numba import njit
from scipy.ndimage import gaussian_filter1d

from vivavoce.latent.aperture import COLUMNS, Aperture, trace
from vivavoce.latent.raster import at_column, below, blend, draw_line, in_frame, ramp
from vivavoce.latent.topology import CHIN, FOREHEAD, INNER_LIPS, JAW_POINTS, LEFT_EYE, NOSE_BASE, RIGHT_EYE

EYES_MM = 90.0  # outer eye corner to outer eye corner
_WIDTHS_MM = (8.6, 6.5, 7.7, 7.0, 6.8, 10.0, 10.0)  # upper teeth from the middle outwards, along the arch
_LOWER_WIDTHS_MM = (5.4, 5.9, 6.8, 7.0, 7.1, 11.0, 10.5)
_ARCH_MM = (27.0, 34.0)  # half width and depth of the upper arch
_LOWER_ARCH_MM = (24.0, 31.0)
_TEETH_END_MM = (20.5, 25.0)  # below the base of the nose
_OPEN_MM = 1.8  # lips further apart than this count as parted in the portrait
_DEEP_MM = 6.0  # lips further apart than this show the inside of its mouth even without teeth
_CHEEKS = (50, 280, 205, 425, 101, 330, 123, 352)
_LIPS = (12, 15, 38, 268, 86, 316, 72, 302, 85, 315)


@dataclass(frozen=True, kw_only=True)
class Arch:
    """A row of teeth: points (n, 3) px along its biting edge in the source, shade (n,) 0..1 of its light."""

    points: Float64[np.ndarray, "n 3"]
    shade: Float64[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class MouthSource:
    """The portrait's mouth.

    lips: its inner lips; parted: whether they are apart; shown: whether the mouth's inside is seen, so that it can be used;
    split: height (px over the line of the corners) below which what is shown belongs to the jaw; mm: px per millimetre;
    soft: width of an edge, px; upper, lower: the rows of teeth to paint;
    colours (5, 3): teeth, gums, tongue, cavity at the lips, cavity at the back; vivid: 0 for a grey picture, 1 for full colour.
    """

    lips: Aperture
    parted: bool
    shown: bool
    split: float
    mm: float
    soft: float
    upper: Arch
    lower: Arch
    colours: Float64[np.ndarray, "5 3"]
    vivid: float


def prepare_mouth(image: UInt8[np.ndarray, "s s 3"], landmarks: Float32[np.ndarray, "478 3"]) -> MouthSource:
    """Measure the portrait's mouth. landmarks are in px."""
    lips = trace(landmarks[:, :2], INNER_LIPS)
    points = landmarks.astype(np.float64)
    mm = float(np.linalg.norm(points[33] - points[263])) / EYES_MM
    across = points[263] - points[33]
    across /= np.linalg.norm(across)
    down = points[CHIN] - points[FOREHEAD]
    down -= across * (down @ across)
    down /= np.linalg.norm(down)
    axes = mm * np.stack([across, down, np.cross(across, down)])
    soft = softness(image, landmarks)
    parted = lips.height > _OPEN_MM * mm
    shown = parted and (lips.height > _DEEP_MM * mm or _shows_teeth(image, lips, landmarks))
    top, bottom = points[13], points[14]
    # Where the upper teeth end: about at the line of closed lips, and never far from where they end in other people.
    drop = float((top - points[NOSE_BASE]) @ axes[1]) / mm**2
    drop = np.clip(drop + min(0.35 * lips.height / mm, 2.0) + 0.2, *_TEETH_END_MM) - drop
    colours, vivid = _colours(image, landmarks)
    return MouthSource(
        lips=lips,
        parted=parted,
        shown=shown,
        split=_split(image, lips) if shown else 0.0,
        mm=mm,
        soft=2.0 * soft,
        upper=_arch(top + (0.0, drop, 5.0) @ axes, axes, _WIDTHS_MM, _ARCH_MM, soft / mm, -1.0),
        lower=_arch(bottom + (0.0, 0.6, 7.0) @ axes, axes, _LOWER_WIDTHS_MM, _LOWER_ARCH_MM, soft / mm, 0.5),
        colours=colours,
        vivid=vivid,
    )


def smooth_inside(
    picture: UInt8[np.ndarray, "h w 3"], corner: tuple[int, int], mouth: MouthSource, target: Float32[np.ndarray, "478 3"]
) -> None:
    """Take what a warp makes of closed lips that open, streaks of their line, from between them, in place. A mouth whose inside
    the portrait shows is left alone, and so are lips that are no further apart than in the portrait."""
    lips = trace(target[:, :2], INNER_LIPS)
    share = float(np.clip((lips.height - mouth.lips.height) / (1.5 * mouth.mm) - 0.1, 0, 1))
    if mouth.shown or share == 0:
        return
    x0, y0, x1, y1 = lips.box(int(6 * mouth.mm), corner, picture.shape)
    if x1 <= x0 or y1 <= y0:
        return
    patch = picture[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
    alpha = np.zeros(patch.shape[:2], np.uint8)
    ring = np.array([*INNER_LIPS[0], *INNER_LIPS[1][-2:0:-1]])
    cv2.fillPoly(alpha, [np.round((target[ring, :2] - (x0, y0)) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    blend(patch, cv2.GaussianBlur(patch, (0, 0), max(2.5 * mouth.mm, 1.0)), alpha.astype(np.float32) * np.float32(share / 255))


def draw_mouth(
    picture: UInt8[np.ndarray, "h w 3"], corner: tuple[int, int], source: UInt8[np.ndarray, "s s 3"], mouth: MouthSource,
    target: Float32[np.ndarray, "478 3"], moved: Float64[np.ndarray, "478 3"],
    motion: Float64[np.ndarray, "2 3"], place: Float64[np.ndarray, "3 4"],
) -> None:
    """Put the inside of the mouth behind the target's lips.

    picture is a window of the frame with its top left pixel at `corner` (x, y), changed in place. target: the frame's
    landmarks; moved: the portrait's after the head's motion alone. That motion is `place` in space, (matrix | offset),
    and `motion` in the picture plane at the mouth.
    """
    lips = trace(target[:, :2], INNER_LIPS)
    scale = float(np.sqrt(abs(np.linalg.det(motion[:, :2]))))
    upper, lower = lips.upper, lips.lower
    if not mouth.shown:
        # Lips that touch still leave the tracker's gap between them: open by what exceeds it.
        gap = scale * (mouth.lips.lower - mouth.lips.upper) / 2
        upper, lower = upper + gap, lower - gap
    x0, y0, x1, y1 = lips.box(2 + int(2 * mouth.mm), corner, picture.shape)
    if x1 <= x0 or y1 <= y0:
        return
    patch = picture[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
    closing = 1 - lips.height / max(scale * mouth.lips.height, 1e-3)
    if mouth.parted and closing > 0.6:  # lips that close draw a line, which hides their seam
        draw_line(patch, (x0, y0), lips.frame, (upper + lower) / 2, 0.45 * mouth.mm, mouth.colours[3], 1.5 * (closing - 0.6))
    if (lower - upper).max() < 0.3:
        return
    jaw = 0.95 * (target[list(JAW_POINTS)] - moved[list(JAW_POINTS)])[:, :2].mean(0)
    bite, shade = _row(mouth.upper, place, np.zeros(2), lips, -1e3)
    low_bite, low_shade = _row(mouth.lower, place, jaw, lips, 1e3)
    # Lips hide most of the teeth, however far apart they are; the upper ones seldom hide all of them.
    middle, size = COLUMNS // 2, mouth.mm * scale
    opening = lower[middle] - upper[middle]
    bite -= _beyond(bite[middle] - upper[middle], 4.0 * size, 2.5 * size)
    bite += max(min(5.5 * size, 0.74 * opening) - (bite[middle] - upper[middle]), 0.0)
    low_bite += _beyond(lower[middle] - low_bite[middle], 1.4 * size, 2.0 * size)
    # Lips part before teeth do: a small opening shows both rows, almost closed.
    low_bite -= max(min(0.26 * opening, 2.4 * size) - (lower[middle] - low_bite[middle]), 0.0)
    # Rounded lips keep the light out.
    spread = float(np.clip((lips.length / max(scale * mouth.lips.length, 1e-3) - 0.7) / 0.25, 0, 1))
    shape = (y1 - y0, x1 - x0)
    alpha = np.empty(shape, np.float32)
    layer = np.empty((*shape, 3), np.uint8)
    if mouth.shown and mouth.split < mouth.lips.lower[middle]:
        bite, low_bite = np.full(COLUMNS, -1e3), np.full(COLUMNS, 1e3)  # the portrait shows its own
    _paint(
        (x0, y0), lips.frame, upper, lower, bite, shade, low_bite, low_shade, mouth.colours, mouth.vivid, size, mouth.soft,
        0.55 + 0.45 * spread, layer, alpha,
    )
    if mouth.shown:
        map_x, map_y, taken = (np.empty(shape, np.float32) for _ in range(3))
        change = np.abs(lips.height - scale * mouth.lips.height) + float(np.linalg.norm(jaw))
        _own_inside(
            (x0, y0), lips.frame, upper, lower, mouth.lips.frame, mouth.lips.upper, mouth.lips.lower, mouth.split,
            cv2.invertAffineTransform(motion), mouth.mm, mouth.soft, min(change / (3 * mouth.mm), 1.0), map_x, map_y, taken,
        )
        own = cv2.remap(source, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        blend(layer, own, taken)
    blend(patch, layer, alpha)


def _beyond(value: float, knee: float, room: float) -> float:
    """How much to take off a value so that it levels off at knee + room."""
    over = max(value - knee, 0.0)
    return over - room * (1 - float(np.exp(-over / room)))


def softness(image: UInt8[np.ndarray, "s s 3"], landmarks: Float32[np.ndarray, "478 3"]) -> float:
    """How soft the portrait's face is: about the standard deviation (px) of the blur that its finest detail has seen."""
    low, high = landmarks[:, :2].min(0).clip(0), landmarks[:, :2].max(0)
    face = image[int(low[1]) : int(high[1]) + 1, int(low[0]) : int(high[0]) + 1]
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    ratio = float(cv2.Laplacian(grey, cv2.CV_32F).std() / max(cv2.Laplacian(half, cv2.CV_32F).std(), 1e-3))
    return float(np.clip(0.6 / max(ratio, 1e-3), 0.6, 3.0))


def _arch(
    middle: np.ndarray, axes: np.ndarray, widths_mm: tuple[float, ...], half_mm: tuple[float, float], soft_mm: float,
    rise_mm: float,
) -> Arch:
    """A row of teeth about its middle (px); axes (3, 3): a millimetre to the left, down and back, in px. Its corners lie rise_mm
    lower (negative: higher) than its middle."""
    angle = np.linspace(-1.45, 1.45, 241)
    flat = np.stack([half_mm[0] * np.sin(angle), half_mm[1] * (1 - np.cos(angle))], 1)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(flat, axis=0), axis=1))])
    along -= along[120]
    ends = np.concatenate([[0], np.cumsum(widths_mm)])
    tooth = np.clip(np.searchsorted(ends, np.abs(along), side="right") - 1, 0, len(widths_mm) - 1)
    part = (np.abs(along) - ends[tooth]) / np.array(widths_mm)[tooth]
    from_gap = np.minimum(part, 1 - part) * np.array(widths_mm)[tooth]
    # Corners of the biting edge are rounded, side teeth a little shorter and in less light, gaps faint.
    sign = -1.0 if rise_mm < 0 else 1.0
    short = sign * (0.5 * np.exp(-from_gap / 0.6) + np.array([0.0, 0.6, 0.1, 0.6, 0.8, 1.0, 1.0])[tooth])
    height = short + rise_mm * (np.abs(along) / 30) ** 2
    light = np.array([1, 0.97, 0.92, 0.84, 0.72, 0.6, 0.5])[tooth] * (1 - 0.07 * (2 * part - 1) ** 2)
    light *= 1 - 0.13 * np.exp(-from_gap / 0.4)
    spread = max(soft_mm, 0.2) / float(np.diff(along).mean())
    light, height = gaussian_filter1d(light, spread), gaussian_filter1d(height, spread)
    local = np.stack([flat[:, 0], height, flat[:, 1]], 1)
    return Arch(points=middle + local @ axes, shade=light)


def _row(arch: Arch, place: np.ndarray, jaw: np.ndarray, lips: Aperture, nowhere: float) -> tuple[np.ndarray, np.ndarray]:
    """Height of a row's biting edge and its shade over the columns of the lips; `nowhere` where the row does not reach."""
    at = (arch.points @ place[:, :3].T + place[:, 3])[:, :2] + jaw - lips.start
    axis = lips.axis
    u = at @ axis / max(lips.length, 1e-3)
    v = at @ np.array([-axis[1], axis[0]])
    columns = np.linspace(0, 1, COLUMNS)
    outward = slice(int(np.argmin(u)), int(np.argmax(u)) + 1)
    u, v, shade = np.maximum.accumulate(u[outward]), v[outward], arch.shade[outward]
    inside = (columns >= u[0]) & (columns <= u[-1])
    return np.where(inside, np.interp(columns, u, v), nowhere), np.where(inside, np.interp(columns, u, shade), 0.0)


def _inside(image: np.ndarray, lips: Aperture) -> tuple[np.ndarray, np.ndarray]:
    """What is between the lips, around the middle: heights (n,; px over the line of the corners) and colours (n, k, 3)."""
    top, bottom = float(lips.upper[COLUMNS // 2]), float(lips.lower[COLUMNS // 2])
    rows = np.linspace(top + 0.15 * (bottom - top), bottom - 0.1 * (bottom - top), 25)
    across = np.linspace(0.35, 0.65, 13)
    axis = lips.axis
    spot = lips.start + across[None, :, None] * (lips.end - lips.start) + rows[:, None, None] * np.array([-axis[1], axis[0]])
    return rows, cv2.remap(image, spot.astype(np.float32), None, cv2.INTER_LINEAR).astype(np.float64)


def _shows_teeth(image: np.ndarray, lips: Aperture, landmarks: np.ndarray) -> bool:
    """Whether some of what is between the lips is brighter or much paler than they are."""
    at = landmarks[list(_LIPS), :2].round().astype(int).clip(0, image.shape[0] - 1)
    lip = np.median(image[at[:, 1], at[:, 0]].astype(np.float64), 0)
    inside = _inside(image, lips)[1]

    def vivid(colour: np.ndarray) -> np.ndarray:
        return (colour.max(-1) - colour.min(-1)) / np.maximum(colour.max(-1), 1)

    light = inside.mean(-1) / max(float(lip.mean()), 1.0)
    teeth = (light > 1.25) | ((light > 0.6) & (vivid(inside) < 0.6 * vivid(lip)) & (vivid(lip) > 0.15))
    return bool(teeth.mean() > 0.12)


def _split(image: np.ndarray, lips: Aperture) -> float:
    """Height over the line of the corners below which the shown inside belongs to the jaw: the darkest row between the rows of
    teeth; the lower lip where there is no dark row (closed teeth)."""
    rows, colour = _inside(image, lips)
    value = colour.mean((1, 2))
    top, bottom = float(lips.upper[COLUMNS // 2]), float(lips.lower[COLUMNS // 2])
    darkest = int(value[3:].argmin()) + 3
    if value[darkest] > 0.7 * value[:darkest].max() or darkest == len(rows) - 1:
        return bottom + 0.2 * (bottom - top)
    return float(rows[darkest])


def _colours(image: np.ndarray, landmarks: np.ndarray) -> tuple[Float64[np.ndarray, "5 3"], float]:
    smooth = cv2.GaussianBlur(image, (0, 0), max(1.0, image.shape[0] / 256))

    def colour(points: tuple[int, ...]) -> np.ndarray:
        at = landmarks[list(points), :2].round().astype(int).clip(0, image.shape[0] - 1)
        return np.median(smooth[at[:, 1], at[:, 0]].astype(np.float64), 0)

    skin, lip = colour(_CHEEKS), colour(_LIPS)
    mask = np.zeros(image.shape[:2], np.uint8)
    for upper, lower in (RIGHT_EYE, LEFT_EYE):
        ring = [*upper, *lower[-2:0:-1]]
        cv2.fillPoly(mask, [landmarks[ring, :2].round().astype(np.int32)], 1)
    eye = image[mask > 0].astype(np.float64).mean(-1)
    white = float(np.percentile(eye, 88)) if len(eye) else float(skin.mean())
    # Teeth differ less between people than skin does, but are lit by the same light.
    tone = float(skin.mean())
    light = float(np.clip(0.8 * min(0.6 * tone + 65, 1.3 * tone) + 0.3 * white, 35, 224))
    vivid = float(np.clip((skin.max() - skin.min()) / max(skin.max(), 1.0) / 0.25, 0, 1))
    warm = np.array([1.03, 0.99, 0.93])
    tint = 0.7 * warm + 0.3 * skin / max(float(skin.mean()), 1.0)
    teeth = light * (1 + vivid * (tint / tint.mean() - 1))
    flesh = 0.55 * lip + 0.45 * skin * (1 - vivid * np.array([0.1, 0.4, 0.38]))
    depth = flesh * (1 - vivid * np.array([0, 0.35, 0.35]))
    return np.stack([teeth, 0.75 * flesh, 1.0 * flesh, 0.5 * depth, 0.16 * depth]).clip(0, 255), vivid


@njit(cache=True, nogil=True)
def _paint(
    origin: tuple[int, int], frame: np.ndarray, upper: np.ndarray, lower: np.ndarray, bite: np.ndarray, shade: np.ndarray,
    low_bite: np.ndarray, low_shade: np.ndarray, colours: np.ndarray, vivid: float,
    mm: float, soft: float, lit: float, layer: np.ndarray, alpha: np.ndarray,
) -> None:
    """Paint cavity, tongue, lower and upper teeth over each other; alpha is the opening's soft mask, lit the share of light
    that the lips let in."""
    tallest = 0.0
    for i in range(upper.size):
        tallest = max(tallest, lower[i] - upper[i])
    light = lit * (0.5 + 0.5 * ramp(tallest / (9 * mm)))
    # Light that reaches the depth has met flesh on its way: shade falls fastest in blue.
    fall = np.array([1.0, 1.0 + 0.35 * vivid, 1.0 + 0.45 * vivid])
    floor = lower[lower.size // 2]
    for row in range(alpha.shape[0]):
        for column in range(alpha.shape[1]):
            dx, dy = origin[0] + column - frame[0], origin[1] + row - frame[1]
            u = (dx * frame[2] + dy * frame[3]) / frame[4]
            v = -dx * frame[3] + dy * frame[2]
            top, bottom = at_column(upper, u), at_column(lower, u)
            a = ramp(below(upper, u, v, frame[4]) / soft + 0.5) * ramp(0.5 - below(lower, u, v, frame[4]) / soft)
            a *= ramp((bottom - top) / (1.2 * soft))
            side = min(u, 1 - u) * frame[4] / mm  # mm from the nearer corner
            a *= ramp((side + 0.3) / 2)
            alpha[row, column] = a
            if a <= 0:
                continue
            corner = 0.2 + 0.8 * ramp((side - 1) / 15)
            under_lip = 0.62 + 0.38 * ramp((v - top) / (2.5 * mm))
            over_lip = 0.7 + 0.3 * ramp((bottom - v) / (3 * mm))
            back = ramp(min(v - top, 1.6 * (bottom - v)) / (3 * mm) + 0.2)
            back *= 0.25 + 0.75 * ramp(tallest / (11 * mm))
            tongue_top = floor - 0.56 * tallest * (1 - 0.5 * (2 * u - 1) ** 2)
            tongue = ramp((v - tongue_top) / (3.5 * mm) + 0.4)
            tongue_light = 0.88 * light * corner * over_lip * (1 - 0.3 * (2 * u - 1) ** 2 - 0.08 * np.exp(-((20 * u - 10) ** 2)))
            tongue_light *= 0.3 + 0.7 * ramp((v - tongue_top) / (0.4 * tallest + mm))
            low = at_column(low_bite, u)
            bite_here = at_column(bite, u)
            lower_teeth = ramp((v - low) / soft + 0.5)
            upper_teeth = ramp((bite_here - v) / (1.4 * soft) + 0.5)
            gum = ramp((bite_here - 9.5 * mm - v) / (1.5 * mm) + 0.5)
            low_gum = ramp((v - low - 7.5 * mm) / (1.5 * mm) + 0.5)
            bright = at_column(shade, u) * under_lip * corner * light
            low_bright = 0.72 * at_column(low_shade, u) * over_lip * corner * light * (0.6 + 0.4 * ramp((v - top) / (6 * mm)))
            for c in range(3):
                value = colours[3, c] + back * (colours[4, c] - colours[3, c])
                value += tongue * (colours[2, c] * tongue_light ** fall[c] - value)
                row_below = colours[0, c] + low_gum * (colours[1, c] - colours[0, c])
                row_above = colours[0, c] + gum * (colours[1, c] - colours[0, c])
                bounced = 0.3 * colours[1, c]  # light that reaches teeth in the lips' shade from flesh around them
                value += lower_teeth * (row_below * low_bright ** fall[c] + (1 - low_bright) * bounced - value)
                value += upper_teeth * (row_above * bright ** fall[c] + (1 - bright) * bounced - value)
                layer[row, column, c] = np.uint8(min(max(value + 0.5, 0.0), 255.0))


@njit(cache=True, nogil=True)
def _own_inside(
    origin: tuple[int, int], frame: np.ndarray, upper: np.ndarray, lower: np.ndarray,
    own_frame: np.ndarray, own_upper: np.ndarray, own_lower: np.ndarray, split: float,
    skull: np.ndarray, mm: float, soft: float, change: float,
    map_x: np.ndarray, map_y: np.ndarray, taken: np.ndarray,
) -> None:
    """Where each pixel between the target's lips finds the portrait's own inside of the mouth, and how far that is to be taken.

    What is above the split stays with the skull, what is below it stays with the lower lip; where they part, the row between
    them is stretched and gives way to the painted inside. change: 0 where the target is the portrait itself, up to 1.
    """
    scale = np.sqrt(abs(skull[0, 0] * skull[1, 1] - skull[0, 1] * skull[1, 0]))
    middle = own_lower.size // 2
    wide = ramp((own_lower[middle] - own_upper[middle]) / (6 * mm) - 1) if split < own_lower[middle] else 0.0
    margin = soft * (1.1 - 7.1 * (1 - min(4 * change, 1.0)))
    for row in range(taken.shape[0]):
        for column in range(taken.shape[1]):
            x, y = origin[0] + column, origin[1] + row
            u, v = in_frame(frame, x, y)
            own_u, own_l = at_column(own_upper, u), at_column(own_lower, u)
            here = min(max(split, own_u), own_l) if split < own_lower[middle] else split
            qx, qy = skull[0, 0] * x + skull[0, 1] * y + skull[0, 2], skull[1, 0] * x + skull[1, 1] * y + skull[1, 2]
            on_skull = -(qx - own_frame[0]) * own_frame[3] + (qy - own_frame[1]) * own_frame[2]
            on_jaw = own_l - (at_column(lower, u) - v) * scale
            parted = on_skull - on_jaw  # px by which the halves are further apart here than in the portrait
            to, share = on_skull, 1.0
            if split > own_l:  # teeth all the way down: they end where the portrait's lower lip hid them
                # At steep sides of the rim even the portrait's own inside is far below the lower lip's curve.
                share = max(ramp((own_l - on_skull - margin) / soft), 1 - min(40 * change, 1.0))
            elif parted >= 0:
                if on_skull > here:
                    to = max(here, on_jaw)
                    if on_jaw < here:
                        at = (here - on_jaw) / max(parted, 1e-3)
                        share = 1 - ramp(parted / (5 * mm)) * ramp(8 * at * (1 - at))
            elif on_skull > here:  # lips closer than in the portrait: the upper half covers the lower
                to = on_jaw
            share += wide * (1 - share)
            if parted > 0 and wide > 0:  # a wide open mouth has depth enough to be stretched as a whole
                top, bottom = at_column(upper, u), at_column(lower, u)
                part = min(max((v - top) / max(bottom - top, 1e-3), 0.0), 1.0)
                whole = wide * ramp(parted / (2 * mm))
                to += whole * (own_u + part * (own_l - own_u) - to)
            over = own_u + margin - to
            if over > 0:  # the upper lip shows more than the portrait does: mirror what is there, and fade to the cavity
                to = own_u + margin + 0.8 * min(over, 0.6 * max(own_l - own_u - margin, 0.0))
                share *= 1 - 0.6 * ramp(over / (5 * mm))
            line = u * own_frame[4]
            map_x[row, column] = own_frame[0] + line * own_frame[2] - to * own_frame[3]
            map_y[row, column] = own_frame[1] + line * own_frame[3] + to * own_frame[2]
            taken[row, column] = share
