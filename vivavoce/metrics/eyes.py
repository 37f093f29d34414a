"""Blinks: how many, how fast and how deep, from the curve of the eyes' opening: height of the lids' gap over its width, a value a
frame, none missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SHUT = 0.5  # of the local opening
LOCAL_SECONDS = 1.5  # to each side
LOCAL_PERCENTILE = 75
LONGEST_SECONDS = 0.6  # eyes that stay shut for longer rest or look down
OPEN = 0.9  # of the local opening: above, a blink has not begun or is over


@dataclass(frozen=True, kw_only=True)
class Blink:
    """One blink, in frames. ``begin`` and ``end``, between frames: where the lids leave and reach OPEN of their local opening."""

    begin: float
    lowest: int
    end: float
    depth: float
    """0 to 1: the share of the local opening that the lids close."""


class BlinkShape(NamedTuple):
    """Medians over blinks."""

    closing_seconds: float
    opening_seconds: float
    depth: float


def local_opening(opening: Float[np.ndarray, " t"], rate_hz: float) -> Float[np.ndarray, " t"]:
    """How far these eyes are open around each frame when they do not blink: a high percentile of three seconds."""
    reach = int(LOCAL_SECONDS * rate_hz)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(opening, reach, mode="edge"), 2 * reach + 1)
    return np.percentile(around, LOCAL_PERCENTILE, axis=1)


def blinks(opening: Float[np.ndarray, " t"], rate_hz: float) -> list[Blink]:
    """Lids that close to under half (SHUT) of their local opening and open again within LONGEST_SECONDS: the judge's blinks.

    Half blinks are left out, and so are eyes that look down for long; a quick look down counts as a blink.
    """
    local = local_opening(opening, rate_hz)
    shut = np.concatenate([[False], opening < SHUT * local, [False]])
    starts, ends = np.flatnonzero(~shut[:-1] & shut[1:]), np.flatnonzero(shut[:-1] & ~shut[1:])
    share = opening / np.maximum(local, 1e-9)
    return [_blink(share, int(a), int(b)) for a, b in zip(starts, ends, strict=True) if b - a <= LONGEST_SECONDS * rate_hz]


def _blink(share: Float[np.ndarray, " t"], start: int, stop: int) -> Blink:
    """The blink whose lids are shut in the frames from ``start`` up to ``stop``."""
    lowest = start + int(share[start:stop].argmin())
    return Blink(
        begin=lowest - _reach(share[lowest::-1]), lowest=lowest, end=lowest + _reach(share[lowest:]),
        depth=float(1 - share[lowest]),
    )


def _reach(rising: Float[np.ndarray, " n"]) -> float:
    """Frames until the curve first reaches OPEN, between frames; where it turns first or the clip ends, until there."""
    for i in range(1, len(rising)):
        if rising[i] >= OPEN:
            return i - float((rising[i] - OPEN) / (rising[i] - rising[i - 1]))
        if rising[i] < rising[i - 1] and rising[i] > SHUT:
            return float(i - 1)
    return float(len(rising) - 1)


def blinks_per_minute(opening: Float[np.ndarray, " t"], rate_hz: float) -> float:
    """Blinks a minute, from 0; as often as the recording or, in talk, 10 to 30 times is good.

    It does not see whether they come evenly, which people's do not, or together with pauses.
    """
    return 60.0 * len(blinks(opening, rate_hz)) / (len(opening) / rate_hz)


def blink_shape(found: Sequence[Blink], rate_hz: float) -> BlinkShape:
    """Medians of the seconds that lids take to close and to open, and of how far they close (0 to 1); NaN without blinks.

    Near the recording's is good: in ours, at 25 Hz, 0.08 s, 0.16 s and 0.74 (people take 0.1 and 0.2 and close fully; the
    tracker smooths). A blink is four to eight frames, so single ones say little.
    """
    if not found:
        return BlinkShape(float("nan"), float("nan"), float("nan"))
    closing, opening, depth = zip(*((b.lowest - b.begin, b.end - b.lowest, b.depth) for b in found), strict=True)
    return BlinkShape(float(np.median(closing)) / rate_hz, float(np.median(opening)) / rate_hz, float(np.median(depth)))
