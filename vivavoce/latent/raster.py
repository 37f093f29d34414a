"""Compiled loops of the renderer: triangles to a sampling map, curves through lid and lip edges, soft compositing.

Everything is in pixel-centre coordinates: the centre of the top left pixel is (0, 0).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def rasterise(
    points: np.ndarray, depth: np.ndarray, shift: np.ndarray, triangles: np.ndarray, left: float, top: float, step: float,
    map_x: np.ndarray, map_y: np.ndarray, nearest: np.ndarray,
) -> None:
    """Write into maps (h, w) where each pixel samples the source: its own place plus the mesh's shift there.

    points (n, 2), depth (n,; smaller is nearer) and shift (n, 2; source minus target) belong to vertices, triangles (m, 3) index
    them. The maps' pixels lie `step` px apart, the first at (left, top). nearest (h, w) is the depth of what is there already;
    pixels that no triangle covers stay as they are.
    """
    height, width = map_x.shape
    slack = np.float32(1e-3)
    for k in range(triangles.shape[0]):
        a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        ax, ay = (points[a, 0] - left) / step, (points[a, 1] - top) / step
        bx, by = (points[b, 0] - left) / step, (points[b, 1] - top) / step
        cx, cy = (points[c, 0] - left) / step, (points[c, 1] - top) / step
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-6:
            continue
        y0 = max(int(np.floor(min(ay, by, cy))), 0)
        y1 = min(int(np.ceil(max(ay, by, cy))), height - 1)
        x0 = max(int(np.floor(min(ax, bx, cx))), 0)
        x1 = min(int(np.ceil(max(ax, bx, cx))), width - 1)
        if y0 > y1 or x0 > x1:
            continue
        # Barycentric weights of b and c as affine functions of the pixel.
        vx, vy = (cy - ay) / area, -(cx - ax) / area
        wx, wy = -(by - ay) / area, (bx - ax) / area
        za, zb, zc = depth[a], depth[b] - depth[a], depth[c] - depth[a]
        sax, sbx, scx = shift[a, 0], shift[b, 0] - shift[a, 0], shift[c, 0] - shift[a, 0]
        say, sby, scy = shift[a, 1], shift[b, 1] - shift[a, 1], shift[c, 1] - shift[a, 1]
        for y in range(y0, y1 + 1):
            v0 = -ax * vx + (y - ay) * vy
            w0 = -ax * wx + (y - ay) * wy
            # The row's span is where v, w and 1 - v - w are not negative.
            low, high = float(x0), float(x1)
            for edge in range(3):
                if edge == 0:
                    g, h = vx, v0
                elif edge == 1:
                    g, h = wx, w0
                else:
                    g, h = -(vx + wx), 1.0 - v0 - w0
                h += slack
                if g > 1e-12:
                    low = max(low, -h / g)
                elif g < -1e-12:
                    high = min(high, -h / g)
                elif h < 0:
                    high = -1.0
            for x in range(int(np.ceil(low)), int(np.floor(high)) + 1):
                v, w = v0 + x * vx, w0 + x * wx
                z = za + v * zb + w * zc
                if z < nearest[y, x]:
                    nearest[y, x] = z
                    map_x[y, x] = step * x + left + (sax + v * sbx + w * scx)
                    map_y[y, x] = step * y + top + (say + v * sby + w * scy)


@njit(cache=True, nogil=True)
def settle(
    warped: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, left: int, top: int, folds: tuple[int, int, int, int],
    image: np.ndarray, hidden: np.ndarray, behind: np.ndarray, out: np.ndarray,
) -> None:
    """Put a warped window (h, w, 4; the fourth: its matte), its corner at (left, top), over what is behind, into out (h, w, 3).

    Between columns and rows `folds` (x0, y0, x1, y1) it is smoothed a little where its map jumps: at edges where one part of the
    mesh hides another, and where much of the source falls on few pixels. What is behind is the image itself where that is not
    hidden, and where nothing moves.
    """
    height, width = map_x.shape
    for y in range(height):
        for x in range(width):
            a = warped[y, x, 3]
            if a == 255:
                for c in range(3):
                    out[y, x, c] = warped[y, x, c]
            elif a == 0 and not hidden[top + y, left + x]:
                for c in range(3):
                    out[y, x, c] = image[top + y, left + x, c]
            else:
                dx, dy = map_x[y, x] - (left + x), map_y[y, x] - (top + y)
                moved = dx * dx + dy * dy
                still = np.exp(-2 * moved) if moved < 4 else np.float32(0.0)
                share = np.float32(a) / np.float32(255.0)
                for c in range(3):
                    under = np.float32(behind[top + y, left + x, c])
                    under += still * (np.float32(image[top + y, left + x, c]) - under)
                    out[y, x, c] = np.uint8(under + share * (np.float32(warped[y, x, c]) - under) + np.float32(0.5))
    jump = np.float32(2.0)
    for y in range(max(folds[1], 1), min(folds[3], height - 1)):
        for x in range(max(folds[0], 1), min(folds[2], width - 1)):
            across = abs(map_x[y, x + 1] - map_x[y, x - 1] - 2) + abs(map_y[y, x + 1] - map_y[y, x - 1])
            along = abs(map_y[y + 1, x] - map_y[y - 1, x] - 2) + abs(map_x[y + 1, x] - map_x[y - 1, x])
            if warped[y, x, 3] == 255 and (across > 2 * jump or along > 2 * jump):
                for c in range(3):
                    total = 4 * int(warped[y, x, c])
                    total += 2 * (int(warped[y - 1, x, c]) + int(warped[y + 1, x, c]))
                    total += 2 * (int(warped[y, x - 1, c]) + int(warped[y, x + 1, c]))
                    total += int(warped[y - 1, x - 1, c]) + int(warped[y - 1, x + 1, c])
                    total += int(warped[y + 1, x - 1, c]) + int(warped[y + 1, x + 1, c])
                    out[y, x, c] = np.uint8((total + 8) // 16)


@njit(cache=True, nogil=True)
def smooth_curve(u: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """A smooth curve through the points (u, y), u rising, written at out.size even steps over 0..1 (clamped outside)."""
    n = u.size
    slope = np.zeros(n)
    for i in range(n):
        p, q = max(i - 1, 0), min(i + 1, n - 1)
        slope[i] = (y[q] - y[p]) / max(u[q] - u[p], 1e-6)
    k = 0
    for j in range(out.size):
        at = j / (out.size - 1)
        while k < n - 2 and at > u[k + 1]:
            k += 1
        step = max(u[k + 1] - u[k], 1e-6)
        t = min(max((at - u[k]) / step, 0.0), 1.0)
        a, b = 2 * t**3 - 3 * t**2 + 1, -2 * t**3 + 3 * t**2
        c, d = t**3 - 2 * t**2 + t, t**3 - t**2
        out[j] = a * y[k] + b * y[k + 1] + step * (c * slope[k] + d * slope[k + 1])


@njit(cache=True, inline="always")
def at_column(values: np.ndarray, u: float) -> float:
    """Linear look-up in a table over u in 0..1."""
    n = values.size - 1
    p = min(max(u, 0.0), 1.0) * n
    i = min(int(p), n - 1)
    f = p - i
    return values[i] * (1 - f) + values[i + 1] * f


@njit(cache=True, inline="always")
def in_frame(frame: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """(u, v) of a point (px) in a frame (x, y of its corner, x, y of its unit axis, length): u in lengths along the axis, v in px
    across it."""
    dx, dy = x - frame[0], y - frame[1]
    return (dx * frame[2] + dy * frame[3]) / frame[4], -dx * frame[3] + dy * frame[2]


@njit(cache=True, inline="always")
def ramp(x: float) -> float:
    """Smooth step from 0 at x = 0 to 1 at x = 1."""
    t = min(max(x, 0.0), 1.0)
    return t * t * (3 - 2 * t)


@njit(cache=True, inline="always")
def below(values: np.ndarray, u: float, v: float, length: float) -> float:
    """Distance (px) of a point from a curve, positive below it: the vertical distance, shortened where the curve is steep."""
    n = values.size - 1
    p = min(max(u, 0.0), 1.0) * n
    i = min(int(p), n - 1)
    f = p - i
    slope = (values[i + 1] - values[i]) * n / length
    return (v - values[i] * (1 - f) - values[i + 1] * f) / np.sqrt(1 + slope * slope)


@njit(cache=True, nogil=True)
def draw_line(
    picture: np.ndarray, origin: tuple[int, int], frame: np.ndarray, edge: np.ndarray, width: float, colour: np.ndarray,
    strength: float,
) -> None:
    """Draw a soft line of a colour (where it is darker than the picture) along a curve over a frame, in place."""
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            dx, dy = origin[0] + column - frame[0], origin[1] + row - frame[1]
            u = (dx * frame[2] + dy * frame[3]) / frame[4]
            v = (-dx * frame[3] + dy * frame[2] - at_column(edge, u)) / width
            a = strength * np.exp(-0.5 * v * v) * ramp((u + 0.05) / 0.2) * ramp((1.05 - u) / 0.2)
            if a > 0.01:
                for c in range(3):
                    p = np.float64(picture[row, column, c])
                    picture[row, column, c] = np.uint8(min(max(p + a * (min(colour[c], p) - p) + 0.5, 0.0), 255.0))


@njit(cache=True, nogil=True)
def blend(picture: np.ndarray, layer: np.ndarray, alpha: np.ndarray) -> None:
    """picture (h, w, 3) uint8 becomes (1 - alpha) * picture + alpha * layer, rounded, in place."""
    for y in range(alpha.shape[0]):
        for x in range(alpha.shape[1]):
            a = alpha[y, x]
            if a > 0:
                for c in range(3):
                    p = np.float32(picture[y, x, c])
                    value = p + a * (np.float32(layer[y, x, c]) - p)
                    picture[y, x, c] = np.uint8(min(max(value + 0.5, 0.0), 255.0))
