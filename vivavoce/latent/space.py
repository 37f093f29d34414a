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
    """``event``: numbers per latent; ``rate_hz``: latents per second."""

    event: int
    rate_hz: float


class LatentSpace(Protocol[R_co]):
    """A renderer is a decoder and a tracker is an encoder (see docs/architecture.md)."""

    @property
    def spec(self) -> LatentSpec: ...

    def reference(self, portrait: Portrait) -> R_co:
        """Everything about a portrait that is computed once."""
        ...

    def encode(self, frames: Iterable[Frame]) -> Float[Tensor, "1 t d"]:
        """Latents of recorded frames at the space's own rate."""
        ...
