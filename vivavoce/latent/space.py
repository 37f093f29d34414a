"""What a latent space is: an encoder and a decoder between pictures and a sequence of latent events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from vivavoce.media.portrait import Portrait

Frame = UInt8[np.ndarray, "h w 3"]
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """Shape and clock of a space's latents.

    ``event``: shape of one latent. ``rate_hz``: latents per second. ``stride``: pictures per latent. ``first``: pictures of a
    sequence's first latent, which is fewer in a causal video autoencoder: n latents are first + (n - 1) stride pictures.
    """

    event: tuple[int, ...]
    rate_hz: float
    stride: int = 1
    first: int = 1

    def __post_init__(self) -> None:
        assert all(size > 0 for size in self.event) and self.rate_hz > 0 and 1 <= self.first <= self.stride

    @property
    def fps(self) -> float:
        """Pictures per second."""
        return self.rate_hz * self.stride

    def pictures(self, latents: int) -> int:
        """How many pictures that many latents are."""
        if latents < 0:
            raise ValueError(f"{latents} latents were asked for: give 0 or more")
        return self.first + (latents - 1) * self.stride if latents else 0

    def latents(self, pictures: int) -> int:
        """How many latents that many pictures are. ValueError where they don't divide."""
        if pictures < 0:
            raise ValueError(f"{pictures} pictures were given: give 0 or more")
        if pictures == 0:
            return 0
        further, rest = divmod(pictures - self.first, self.stride)
        if rest:
            fewer = self.pictures(further + 1)
            nearest = f"{fewer} or {fewer + self.stride}" if fewer else f"{self.first}"
            raise ValueError(
                f"{pictures} pictures were given, but latents are {self.first} picture{'s' * (self.first > 1)} and then "
                f"{self.stride} each: give {nearest}"
            )
        return 1 + further


class LatentSpace(Protocol[R_co]):
    """A renderer is a decoder and a tracker is an encoder (see docs/architecture.md).

    How latents become pictures is each space's own affair. Between packed motion and pictures stand what a session adds
    (controls, blinks, an output clock of any rate) and a Painter that owns scratch buffers. A video decoder has none of that,
    needs no portrait to begin with, and its memory is a value. A common `decode` would have to pretend otherwise.
    """

    @property
    def spec(self) -> LatentSpec: ...

    def reference(self, portrait: Portrait) -> R_co:
        """Everything about a portrait that is computed once."""
        ...

    def encode(self, frames: Iterable[Frame]) -> Float[Tensor, "1 t *event"]:
        """Latents of recorded frames that come at `LatentSpec.fps`."""
        ...
