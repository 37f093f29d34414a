"""How far lips open and how wide they are, read linearly out of latents: what a loss of latents hardly sees, and viewers do.

Of all that varies in the latents around a mouth, a few hundredths go with its opening; the rest is heads that move, light and the
autoencoder's own noise, which speech does not tell. A network that is to hear learns those few much faster when the squared error
of a read-out counts beside that of the latents. The read-out is linear, so the loss is still one of squares of the error, whose
minimum is the same velocity field: only the order in which its parts are learned is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vivavoce.nets.redistribute import PICTURES
from vivavoce.train.video_data import VideoExample

CURVES = 2 * PICTURES  # numbers of a latent: opening and width of each of its pictures
_POINTS = 4  # of the grid over a mouth, to a side
_REACH = 1.5  # half a side of that grid, in standard deviations of where lips are from left to right
_FEWEST = 2 * CURVES  # latents
_RIDGE = 0.4  # in mean variances of what is read: of the opening's correlation on other people 0.52 is left of 0.55


@dataclass(frozen=True, kw_only=True)
class LipReadout:
    """``rows``: from what is read on a grid over the mouth to opening and width of a latent's four pictures, each in standard
    deviations of its read-outs about a clip's mean."""

    rows: Float[Tensor, "n r"]

    def __call__(self, values: Float[Tensor, "b t c h w"], lips: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t r"]:
        """What is read out of latents, or of errors of them. ``lips``: `Regions.lips`; where there are none it is 0."""
        return over_mouth(values, lips) @ self.rows.to(values)

    def weighed(self, weight: float) -> LipReadout:
        """The same, whose squares are so many times as large."""
        return LipReadout(rows=weight**0.5 * self.rows)

    @classmethod
    def fitted(cls, examples: Sequence[VideoExample]) -> LipReadout:
        """By ridge regression on the tracked pictures of a cache, each clip about its own mean. ValueError where too few faces
        were tracked."""
        inner, outer, count = torch.zeros(0), torch.zeros(0), 0
        for example in examples:
            read, shape = _clip(example)
            if len(read) < 2:
                continue
            read, shape = (values - values.mean(0) for values in (read, shape))
            inner = read.T @ read + (inner if count else 0)
            outer = read.T @ shape + (outer if count else 0)
            count += len(read)
        if count < _FEWEST:
            raise ValueError(
                f"lips were tracked in {count} latents, at least {_FEWEST} are needed to tell how they look: give recordings "
                "with more faces, or train without the lips' read-outs"
            )
        rows = torch.linalg.solve(inner + _RIDGE * inner.diagonal().mean() * torch.eye(len(inner)), outer)
        spread = ((rows.T @ inner @ rows).diagonal() / count).sqrt()
        return cls(rows=rows / spread.clamp(min=1e-9))


def over_mouth(values: Float[Tensor, "b t c h w"], lips: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t n"]:
    """Values on a square grid over each latent's mouth, channel by channel: about the middle of its lips, and as large as they
    are wide in the mean of the window, so that a mouth that opens is not measured by its own size. 0 where there are no lips."""
    height, width = lips.shape[-2:]
    lips = lips.to(values)
    mass = lips.sum((2, 3))
    there = mass > 0
    rows, columns = (torch.arange(n, device=lips.device, dtype=lips.dtype) + 0.5 for n in (height, width))
    x, y = ((lips.sum(axis) * place).sum(-1) / mass.clamp(min=1e-6) for axis, place in ((2, columns), (3, rows)))
    spread = (lips.sum(2) * (columns - x[..., None]) ** 2).sum(-1) / mass.clamp(min=1e-6)
    half = _REACH * (spread.sum(1) / there.sum(1).clamp(min=1)).sqrt()
    steps = torch.linspace(-1, 1, _POINTS, device=lips.device, dtype=lips.dtype) * half[:, None]
    across, down = x[..., None] + steps[:, None], y[..., None] + steps[:, None]
    grid = torch.stack(torch.broadcast_tensors(2 * across[:, :, None] / width - 1, 2 * down[..., None] / height - 1), -1)
    read = functional.grid_sample(values.flatten(0, 1), grid.flatten(0, 1), align_corners=False, padding_mode="border")
    return torch.where(there[..., None], read.flatten(1).unflatten(0, lips.shape[:2]), 0.0)


def mouths(example: VideoExample, span: slice) -> Float[Tensor, "t r"]:
    """Opening and width of the lips, in face heights, in each of a latent's four pictures one after the other. Not numbers where
    no face was tracked, and in the first latent of a clip, which has one picture."""
    first = max(span.start, 1)
    own = example.window("mouth", slice(1 + PICTURES * (first - 1), 1 + PICTURES * (span.stop - 1)))
    nothing = torch.full((first - span.start, CURVES), torch.nan)
    return torch.cat([nothing, own.reshape(-1, CURVES)])


def _clip(example: VideoExample) -> tuple[Float[Tensor, "t n"], Float[Tensor, "t r"]]:
    """What is read of a clip's tracked latents, and opening and width of their pictures. Not of the first, which has only one."""
    span = slice(1, example.latents)
    lips, latents = example.window("lips", span), example.window("latents", span)
    shape = mouths(example, span)
    good = (lips.sum((1, 2)) > 0) & ~shape.isnan().any(1)
    return over_mouth(latents[None], lips[None])[0][good], shape[good]
