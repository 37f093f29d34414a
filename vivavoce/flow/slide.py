"""Sequences longer than a network's window, solved at once: windows that move with every step (Sonic, arXiv 2411.16331)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

WindowVelocity = Callable[[Tensor, Tensor, range], Tensor]
"""The velocity of a window's frames "b n *event" at their flow times "b n"; the range says which of the sequence they are."""


def windows(total: int, length: int, offset: int) -> list[range]:
    """A sequence of so many frames in neighbouring windows of ``length``, cut at offset + k length; the first and the last may be
    shorter. Every frame is in exactly one."""
    cuts = sorted({0, *range(offset % length, total, length), total})
    return [range(first, last) for first, last in pairwise(cuts)]


def integrate_sliding(
    velocity: WindowVelocity, noise: Float[Tensor, "b t *event"], *, times: Sequence[float], length: int, shift: int
) -> Float[Tensor, "b t *event"]:
    """Euler steps of all frames together, window by window, from times[0] to times[-1].

    In step k the windows begin ``shift`` k frames later than in the first: a seam of one step lies inside a window in the next,
    so the parts grow together, and no frame is computed twice. Where the velocity of a frame depends on that frame alone it is
    `solve.integrate` with `solve.euler`. (Sonic's windows go round from the end to the beginning; here they end.)
    """
    assert len(times) >= 2 and length > 0, (times, length)
    point = noise
    for step, (time, after) in enumerate(pairwise(times)):
        moved = []
        for frames in windows(point.shape[1], length, step * shift):
            part = point[:, frames.start : frames.stop]
            at = torch.full(part.shape[:2], time, dtype=part.dtype, device=part.device)
            moved.append(part + (after - time) * velocity(part, at, frames))
        point = torch.cat(moved, 1)
    return point
