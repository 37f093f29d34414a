"""What is seen of latents: measured on a decoder that is linear it is that decoder, and training minds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vivavoce.latent.space import LatentSpec
from vivavoce.train.video_sight import Sight, measured_sight

CELL, CHANNELS, CELLS, STRIDE, SMALLER = 8, 3, 5, 4, 4


def quiet(*_: object) -> None:
    return None


class LinearSpace:
    """A latent's four pictures are a linear map of its cells and of the latent before; encoding draws latents from pictures."""

    spec = LatentSpec(event=(CHANNELS, CELLS, CELLS), rate_hz=6.25, stride=STRIDE)
    height = width = CELL * CELLS

    def __init__(self) -> None:
        self.kernel = torch.randn(STRIDE * 3 * 4, CHANNELS, 2, 3, 3, generator=torch.Generator().manual_seed(1))

    def encode(self, frames: list[np.ndarray]) -> Tensor:
        generator = torch.Generator().manual_seed(int(frames[0].sum()))
        return torch.randn(1, self.spec.latents(len(frames)), *self.spec.event, generator=generator)

    def start(self) -> None:
        return None

    def decode_float(self, latents: Tensor, state: None) -> tuple[Tensor, None]:
        small = self.small(latents)[:, 1:]  # b t (p 3 y x) h w
        cells = small.unflatten(2, (STRIDE, 3, 2, 2)).permute(0, 1, 2, 3, 6, 4, 7, 5)  # b t p 3 h y w x
        pictures = cells.reshape(1, -1, 3, 2 * CELLS, 2 * CELLS).repeat_interleave(SMALLER, -1).repeat_interleave(SMALLER, -2)
        return torch.cat([torch.zeros(1, 1, 3, self.height, self.width), pictures], 1), None

    def small(self, latents: Tensor) -> Tensor:
        seen = F.conv3d(latents.transpose(1, 2), self.kernel, padding=(0, 1, 1)).transpose(1, 2)
        return torch.cat([torch.zeros_like(seen[:, :1]), seen], 1)


class Pictures:
    def __init__(self, number: int, count: int) -> None:
        self.pictures = np.full((count, 4, 4, 3), number, np.uint8)

    def __len__(self) -> int:
        return len(self.pictures)


def test_of_a_linear_decoder_it_is_the_decoder() -> None:
    space: Any = LinearSpace()
    kernel = measured_sight(space, [Pictures(i, 13) for i in range(24)], SMALLER, quiet)  # type: ignore[misc]
    factor = (kernel * space.kernel).sum() / space.kernel.square().sum()
    torch.testing.assert_close(kernel / factor, space.kernel, atol=0.02, rtol=0.02)
    error = torch.randn(2, 4, CHANNELS, CELLS, CELLS)
    seen = Sight(kernel)(error)
    torch.testing.assert_close(seen / factor, space.small(error), atol=0.2, rtol=0.05)
    assert not seen[:, 0].any()


def test_its_unit_is_what_varies() -> None:
    space: Any = LinearSpace()
    shown = [Pictures(i, 13) for i in range(24)]
    sight = Sight(measured_sight(space, shown, SMALLER, quiet))  # type: ignore[arg-type]
    latents = torch.cat([space.encode(list(one.pictures)) for one in shown])
    varies = latents - latents.mean(1, keepdim=True)
    assert sight(varies)[:, 1:].square().mean().item() == pytest.approx(1.0, rel=1e-4)


def test_clips_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="no clip has 13 pictures: give longer ones"):
        measured_sight(LinearSpace(), [Pictures(0, 12)], SMALLER, quiet)  # type: ignore[arg-type, list-item]
