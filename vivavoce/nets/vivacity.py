"""How lively a voice makes one expect its speaker to be: who sounds lively moves more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vivavoce.nets.levels import LevelsConfig


@dataclass(frozen=True)
class Vivacity:
    """Linear in what a voice was like so far: the logarithm of each field's spread, over the average speaker's.

    ``weight``: per field of the motion, of the means over the utterance (`hearing.hear`) less ``mean``, which is the average
    speaker's; so the average speaker moves by a factor of one.
    """

    weight: Float[Tensor, "f w"]
    mean: Float[Tensor, " w"]

    doubt: ClassVar[float] = 10.0
    """After so many features half of what the voice tells is believed."""
    limit: ClassVar[float] = 1.5
    """Of the logarithm, either way."""

    def __call__(self, means: Float[Tensor, "t w"], count: Int[Tensor, " t"]) -> Float[Tensor, "t f"]:
        """Factors on the fields, from the means over the first ``count`` features of an utterance."""
        trust = count.clamp(min=0) / (count.clamp(min=0) + self.doubt)
        told = ((means - self.mean) @ self.weight.T).clamp(-self.limit, self.limit)
        return torch.exp(trust[:, None] * told)


def utterance_means(heard: Float[Tensor, "*b v"], levels: LevelsConfig) -> Float[Tensor, "*b w"]:
    """The means over the utterance in what is heard. ValueError where the levels remember no utterance."""
    if levels.memory is None:
        raise ValueError("these levels remember no utterance: give them a memory")
    return heard[..., levels.heard // 2 :]
