"""What is seen of latents: small pictures that they decode to, as a linear map, for a loss that minds what viewers do.

In latents all that varies weighs alike, texture and noise more than lips: how they are opened explains 3 % of what varies in the
latents about a mouth, and half of what varies there in small pictures. The decoder's mean Jacobian, followed by means over
squares of pixels, is linear, so that training through it costs nothing, and the field with the smallest loss stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vivavoce.latent.video import COLOURS, VideoSpace
from vivavoce.train.data import Progress
from vivavoce.train.video_clips import VideoClip

_LATENTS = 4  # of each clip that is decoded
_DISTURBED = 0.5  # deviations: how far latents are moved, white
_AROUND = 3  # cells on a side that small pictures of one cell depend on
_EVER = 2  # latents that they depend on: their own and the one before
_RIDGE = 1e-3


class Sight(nn.Module):
    """Errors of latents to errors of small pictures: of each latent after a window's first ``values`` numbers in each cell, a
    share of picture, colour and place each. Nothing in it learns."""

    def __init__(self, kernel: Float[Tensor, "v c e y x"]):
        super().__init__()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, error: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t v h w"]:
        """Zero in the first latent, which has none before it."""
        seen = F.conv3d(error.transpose(1, 2), self.get_buffer("kernel"), padding=(0, _AROUND // 2, _AROUND // 2))
        return F.pad(seen.transpose(1, 2), (0, 0, 0, 0, 0, 0, 1, 0))


def measured_sight(
    space: VideoSpace, clips: Sequence[VideoClip], smaller: int, progress: Progress
) -> Float[Tensor, "v c e y x"]:
    """`Sight`'s kernel, by least squares over the beginnings of clips: what their pictures, ``smaller`` times smaller, change by
    when their latents do. In units that give what varies in these clips a mean square of 1. ``smaller`` divides the cells' side.
    ValueError where no clip is long enough."""
    channels, rows, _ = space.spec.event
    cell = space.height // rows
    assert cell % smaller == 0, f"cells of {cell} px, {smaller} times smaller"
    generator = torch.Generator().manual_seed(0)
    pairs: list[tuple[Tensor, Tensor]] = []
    moved = []
    count = space.spec.pictures(_LATENTS)
    long = [clip for clip in clips if len(clip) >= count]
    if not long:
        raise ValueError(f"no clip has {count} pictures: give longer ones, of which to measure what is seen of latents")
    for i, clip in enumerate(long):
        progress("measuring what is seen", i, len(long))
        latents = space.encode(list(np.asarray(clip.pictures[:count])))
        change = _DISTURBED * torch.randn(latents.shape, generator=generator).to(latents)
        change[:, 0] = 0
        with torch.no_grad():
            was, then = (space.decode_float(z, space.start())[0][0, 1:] for z in (latents, latents + change))
        causes = _causes(change[0])
        pairs.append((causes.T @ causes, causes.T @ _effects(then - was, space.spec.stride, cell, smaller)))
        moved.append(_causes(latents[0] - latents[0].mean(0)))
    progress("measuring what is seen", len(long), len(long))
    square, product = (torch.stack(sums).sum(0) for sums in zip(*pairs, strict=True))
    ridge = _RIDGE * square.diagonal().mean() * torch.eye(len(square), device=square.device)
    found = torch.linalg.solve(square + ridge, product)
    found = found / (torch.cat(moved) @ found).square().mean().sqrt()
    return found.T.reshape(-1, _EVER, channels, _AROUND, _AROUND).transpose(1, 2).contiguous().cpu()


def _causes(change: Float[Tensor, "t c h w"]) -> Float[Tensor, "n k"]:
    """For each cell of each latent but the first: the cells around it in the latent before, then in its own."""
    around = F.unfold(change, _AROUND, padding=_AROUND // 2)
    return torch.cat([around[:-1], around[1:]], 1).transpose(1, 2).flatten(0, 1)


def _effects(change: Float[Tensor, "n 3 H W"], stride: int, cell: int, smaller: int) -> Float[Tensor, "n v"]:
    """In the same order: small pictures of one cell in all pictures of its latent."""
    small = F.avg_pool2d(change, smaller).unflatten(0, (-1, stride))
    side = cell // smaller
    cells = small.unfold(3, side, side).unfold(4, side, side)  # t p 3 h w y x
    return cells.permute(0, 3, 4, 1, 2, 5, 6).reshape(-1, stride * COLOURS * side**2)
