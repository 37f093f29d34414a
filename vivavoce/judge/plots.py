"""Plots as SVG that is part of the page: it takes the page's colours, light or dark, and needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

WIDTH = 760  # units of the drawing; the page scales it
_LEFT, _RIGHT = 46, 8


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values at a steady rate, and the class of the page's style that draws them."""

    values: Float[np.ndarray, " t"]
    style: str


@dataclass(frozen=True, kw_only=True)
class Band:
    """A stretch of time with a word above it."""

    start: float  # seconds
    end: float
    word: str


def curves(
    rows: Sequence[tuple[str, Sequence[Curve]]], *, rate_hz: float, seconds: float, title: str, height: float,
    wave: tuple[Float[np.ndarray, " w"], float] | None = None, bands: Sequence[Band] = (),
) -> str:
    """Rows of curves over the same time, each with a name and an axis of its own. ``wave``: peaks of a waveform (0 to 1) and
    their rate, drawn behind; ``bands``: shaded."""
    foot, gap = 20.0, 8.0
    whole = len(rows) * height + (len(rows) - 1) * gap + foot + 14
    scale = (WIDTH - _LEFT - _RIGHT) / max(seconds, 1e-6)
    bottom = whole - foot
    parts = [_open(WIDTH, whole, title)]
    for band in bands:
        x, width = _LEFT + band.start * scale, max(1.5, (band.end - band.start) * scale)
        parts.append(f'<rect class="band" x="{x:.1f}" y="12" width="{width:.1f}" height="{bottom - 12:.1f}"/>')
        parts.append(f'<text class="word" x="{x + width / 2:.1f}" y="9">{escape(band.word)}</text>')
    if wave is not None:
        parts.append(_wave(*wave, scale, 14, bottom - 14))
    for i, (name, drawn) in enumerate(rows):
        top = 14 + i * (height + gap)
        parts += _row(name, drawn, rate_hz, scale, top, height)
    parts += _seconds(seconds, scale, bottom)
    return "".join([*parts, "</svg>"])


def _row(name: str, drawn: Sequence[Curve], rate_hz: float, scale: float, top: float, height: float) -> list[str]:
    values = np.concatenate([curve.values for curve in drawn])
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def y(value: np.ndarray | float) -> np.ndarray | float:
        return top + height * (high - value) / (high - low)

    parts = [f'<text class="axis" transform="translate(9 {top + height / 2:.1f}) rotate(-90)">{escape(name)}</text>']
    for tick in ticks(low, high, 3):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 4}" y="{y(tick) + 3.5:.1f}">{tick:g}</text>')
    for curve in drawn:
        x = _LEFT + np.arange(len(curve.values)) / rate_hz * scale
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, np.asarray(y(curve.values)), strict=True))
        parts.append(f'<polyline class="{curve.style}" points="{points}"/>')
    return parts


def _wave(peaks: Float[np.ndarray, " w"], rate_hz: float, scale: float, top: float, height: float) -> str:
    middle = top + height / 2
    x = _LEFT + np.arange(len(peaks)) / rate_hz * scale
    there = [f"{a:.1f},{middle - p * height / 2:.1f}" for a, p in zip(x, peaks, strict=True)]
    back = [f"{a:.1f},{middle + p * height / 2:.1f}" for a, p in zip(x[::-1], peaks[::-1], strict=True)]
    return f'<polygon class="wave" points="{" ".join([*there, *back])}"/>'


def _seconds(seconds: float, scale: float, bottom: float) -> list[str]:
    parts = []
    for tick in ticks(0.0, seconds, 8):
        x = _LEFT + tick * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{bottom + 4:.1f}"/>')
        parts.append(f'<text class="time" x="{x:.1f}" y="{bottom + 15:.1f}">{tick:g} s</text>')
    return parts


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a distribution: what it is of, the value of each clip, and mean and interval (NaN: none)."""

    name: str
    values: Float[np.ndarray, " n"]
    mean: float
    low: float
    high: float
    style: str


def distribution(lines: Sequence[Line], *, title: str, target: float | None, width: int = 360) -> str:
    """A dot for each clip, row by row, with mean and interval above them; ``target``: where the figure should be."""
    left, row, head = 8, 34, 6
    whole = head + row * len(lines) + 20
    values = np.concatenate([line.values for line in lines] + [np.array([target] if target is not None else [])])
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return left + (width - 2 * left) * (value - low) / (high - low)

    parts = [_open(width, whole, title)]
    for tick in ticks(low, high, 4):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{head}" y2="{whole - 16}"/>')
        parts.append(f'<text class="time" x="{x(tick):.1f}" y="{whole - 4}">{tick:g}</text>')
    if target is not None:
        parts.append(f'<line class="target" x1="{x(target):.1f}" x2="{x(target):.1f}" y1="{head}" y2="{whole - 16}"/>')
    for i, line in enumerate(lines):
        y = head + row * i + 23
        parts.append(f'<text class="name" x="{left}" y="{y - 12}">{escape(line.name)}</text>')
        for k, value in enumerate(line.values):
            aside = 5 * (k * 0.618 % 1 - 0.5)  # equal values stay apart
            parts.append(f'<circle class="dot {line.style}" cx="{x(float(value)):.1f}" cy="{y + aside:.1f}" r="2.6"/>')
        if not np.isnan(line.low):
            parts.append(f'<line class="span" x1="{x(line.low):.1f}" x2="{x(line.high):.1f}" y1="{y}" y2="{y}"/>')
        if not np.isnan(line.mean):
            parts.append(f'<line class="mean" x1="{x(line.mean):.1f}" x2="{x(line.mean):.1f}" y1="{y - 6}" y2="{y + 6}"/>')
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most so many."""
    span = max(high - low, 1e-12)
    power = 10.0 ** np.floor(np.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most)
    first = int(np.ceil(low / step - 1e-9))
    return [float(f"{k * step:.10g}") for k in range(first, int(np.floor(high / step + 1e-9)) + 1)]


def _open(width: float, height: float, title: str) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title, quote=True)}">'
