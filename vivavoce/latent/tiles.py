"""Large pictures in overlapping tiles whose overlaps are blended, as diffusers' Wan autoencoder does it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Tile = tuple[slice, slice]  # rows and columns


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Squares of ``side`` px, one every ``stride`` px; pictures that fit into one are left whole. Defaults are diffusers'.

    A smaller side needs less memory and shows less of the picture at a time, which can be seen as differences of tone.
    """

    side: int = 256
    stride: int = 192

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.side:
            raise ValueError(f"tiles of {self.side} px every {self.stride} px were asked for: give a stride from 1 to the side")


def grid(height: int, width: int, side: int, stride: int) -> list[list[Tile]]:
    """Rows of tiles; those at the lower and right edges may be smaller."""
    return [[(slice(y, y + side), slice(x, x + side)) for x in range(0, width, stride)] for y in range(0, height, stride)]


def join(
    rows: list[list[Float[Tensor, "... h w"]]], *, stride: int, overlap: int, height: int, width: int
) -> Float[Tensor, "... height width"]:
    """One picture of tiles: over ``overlap`` px the tile above, then the one to the left, fades linearly into the next."""
    if len(rows) == len(rows[0]) == 1:
        return rows[0][0]
    blended: list[list[Tensor]] = []
    for row in rows:
        done: list[Tensor] = []
        for column, tile in enumerate(row):
            if blended:
                tile = _fade(blended[-1][column].mT, tile.mT, overlap).mT
            if done:
                tile = _fade(done[-1], tile, overlap)
            done.append(tile)
        blended.append(done)
    joined = [torch.cat([tile[..., :stride, :stride] for tile in row], -1) for row in blended]
    return torch.cat(joined, -2)[..., :height, :width]


def _fade(left: Float[Tensor, "... h a"], right: Float[Tensor, "... h b"], overlap: int) -> Float[Tensor, "... h b"]:
    """The right tile whose first columns are a fade from the left one's last."""
    overlap = min(left.shape[-1], right.shape[-1], overlap)
    if not overlap:
        return right
    share = torch.arange(overlap, device=right.device, dtype=right.dtype) / overlap
    seam = left[..., -overlap:] * (1 - share) + right[..., :overlap] * share
    return torch.cat([seam, right[..., overlap:]], -1)
