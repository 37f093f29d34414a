"""An opening between two edges (lids, inner lips): smooth curves over the line that joins its corners."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vivavoce.latent.raster import smooth_curve

Opening = tuple[tuple[int, ...], tuple[int, ...]]  # landmarks of the upper and the lower edge, corner to corner

COLUMNS = 96  # columns at which an opening's edges are tabulated


@dataclass(frozen=True, kw_only=True)
class Aperture:
    """start, end: the corners, px. upper, lower: heights (px, downwards) of the edges over the line start-end, at COLUMNS even
    steps along it; lower is never above upper."""

    start: Float64[np.ndarray, " 2"]
    end: Float64[np.ndarray, " 2"]
    upper: Float64[np.ndarray, " columns"]
    lower: Float64[np.ndarray, " columns"]

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.end - self.start))

    @property
    def axis(self) -> Float64[np.ndarray, " 2"]:
        return (self.end - self.start) / max(self.length, 1e-3)

    @property
    def height(self) -> float:
        """The opening at its middle, px."""
        return float((self.lower - self.upper)[COLUMNS // 3 : -COLUMNS // 3].mean())

    @property
    def frame(self) -> Float64[np.ndarray, " 5"]:
        """Corner, unit axis and length in one array, for compiled loops."""
        return np.array([*self.start, *self.axis, max(self.length, 1e-3)])

    def box(self, margin: int, corner: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Pixels (x0, y0, x1, y1) that the opening may touch, within a window of that corner and shape."""
        ax = self.axis
        line = self.start + np.linspace(0, 1, COLUMNS)[:, None] * (self.end - self.start)
        down = np.array([-ax[1], ax[0]])
        edge = np.concatenate([line + self.upper[:, None] * down, line + self.lower[:, None] * down])
        low, high = np.floor(edge.min(0)).astype(int) - margin, np.ceil(edge.max(0)).astype(int) + margin + 1
        return (
            max(int(low[0]), corner[0]), max(int(low[1]), corner[1]),
            min(int(high[0]), corner[0] + shape[1]), min(int(high[1]), corner[1] + shape[0]),
        )


def trace(points: np.ndarray, opening: Opening) -> Aperture:
    """Tabulate the edges of an opening of the mesh; points are (n, 2) px."""
    start, end = points[opening[0][0]].astype(np.float64), points[opening[0][-1]].astype(np.float64)
    length = max(float(np.linalg.norm(end - start)), 1e-3)
    ax = (end - start) / length
    tables = []
    for edge in opening:
        at = points[list(edge)] - start
        u = np.maximum.accumulate(at @ ax / length)
        table = np.empty(COLUMNS)
        smooth_curve(u, at @ np.array([-ax[1], ax[0]]), table)
        tables.append(table)
    upper, lower = tables
    middle = (upper + lower) / 2
    crossed = lower < upper
    upper, lower = np.where(crossed, middle, upper), np.where(crossed, middle, lower)
    return Aperture(start=start, end=end, upper=upper, lower=lower)


def gaps(points: np.ndarray, opening: Opening) -> tuple[np.ndarray, np.ndarray]:
    """How far the lower edge is below the upper one at each pair of opposite points (px), and the direction "down" (2,)."""
    across = points[opening[0][-1], :2] - points[opening[0][0], :2]
    down = np.array([-across[1], across[0]]) / max(float(np.linalg.norm(across)), 1e-3)
    return (points[list(opening[1][1:-1]), :2] - points[list(opening[0][1:-1]), :2]) @ down, down


def meet(
    points: np.ndarray, own: np.ndarray, opening: Opening, shut: float, knee: float, yields: float
) -> None:
    """Let the edges of an opening meet, in place.

    Trackers leave a gap between closed lids or lips. Gaps above the share `knee` of the portrait's own (px, of each pair) stay,
    those below the share `shut` close, those in between are stretched to join. The upper edge makes the share `yields` of the
    way. points are (n, 2+) px.
    """
    gap, down = gaps(points, opening)
    part = gap / np.maximum(own, 1e-3)
    wanted = np.where(part >= knee, part, np.clip((part - shut) / (knee - shut), 0, 1) * knee) * np.maximum(own, 1e-3)
    excess = np.where(part >= knee, 0.0, gap - wanted)
    points[list(opening[0][1:-1]), :2] += (yields * excess)[:, None] * down
    points[list(opening[1][1:-1]), :2] -= ((1 - yields) * excess)[:, None] * down
