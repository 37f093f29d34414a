"""Convolutions over time that share one filter among a group of channels, computed as products with banded matrices.

A depthwise convolution spends most of its time moving memory, its backward pass above all; here a window is one batched matrix
product, and a filter as wide as seconds costs what a short one does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def boxes(rows: int, columns: int, past: int, ahead: int, taps: int, box: int) -> Int[Tensor, "rows columns"]:
    """Which tap of a filter weighs frame u of ``columns`` for output frame t of ``rows``, which is itself frame t + ``past``.

    The newest of ``taps`` neighbouring boxes of ``box`` frames ends ``ahead`` frames after the output's own. What no box covers
    gets the number ``taps``.
    """
    own = torch.arange(rows)[:, None] + past
    age = own + ahead - torch.arange(columns)
    tap = torch.div(age, box, rounding_mode="floor")
    return torch.where((age >= 0) & (tap < taps), tap, taps)


def banded(filters: Float[Tensor, "g k"], taps: Int[Tensor, "rows columns"], box: int = 1) -> Float[Tensor, "g rows columns"]:
    """The matrices that convolve with the mean of each box (of `boxes`) weighed by its tap."""
    return nn.functional.pad(filters / box, (0, 1))[:, taps]


def convolved(x: Float[Tensor, "b n c"], matrices: Sequence[Float[Tensor, "g t n"]]) -> list[Float[Tensor, "b t c"]]:
    """Every group of channels of ``x`` times its matrix, for each of several sets of matrices."""
    batch, frames, channels = x.shape
    groups = matrices[0].shape[0]
    grouped = x.reshape(batch, frames, groups, -1).permute(2, 1, 0, 3).reshape(groups, frames, -1)
    mixed = torch.cat(list(matrices), 1) @ grouped
    parts = mixed.view(groups, mixed.shape[1], batch, -1).permute(2, 1, 0, 3).reshape(batch, mixed.shape[1], channels)
    return list(parts.split([m.shape[1] for m in matrices], 1))


class ChannelDropout(nn.Module):
    """Drops whole channels of a window: cheaper than dropping numbers one by one, and neighbours in time can't fill the gap."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "*b t d"]) -> Float[Tensor, "*b t d"]:
        """``x``, in training with about p of its channels zero and the others larger by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return x
        return x * x.new_empty(*x.shape[:-2], 1, x.shape[-1]).bernoulli_(1 - self.p).div_(1 - self.p)
