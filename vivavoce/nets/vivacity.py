"""How lively a voice makes one expect its speaker to be: who sounds lively moves more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce.nets.hearing import Memory, running_mean

LONGEST = 500  # features of speech that the mean of a voice remembers


@dataclass(frozen=True)
class Vivacity:
    """Linear in what a voice was like so far: the logarithm of each motion field's spread, over the average speaker's.

    ``weight``: per field, of the mean of the utterance's spoken features (`voice_means`) less ``mean``, the average speaker's; so
    the average speaker's factor is one.
    """

    weight: Float[Tensor, "f w"]
    mean: Float[Tensor, " w"]

    prior_count: ClassVar[float] = 30.0
    """After so many spoken features half of what the voice tells is believed."""
    unknown: ClassVar[float] = -0.4
    """The logarithm before anybody spoke: one begins calmly."""
    unknown_head: ClassVar[float] = -0.9
    """The same for the head: one that moves as nobody with this voice would is noticed first."""
    calmest: ClassVar[float] = -1.2
    liveliest: ClassVar[float] = 0.4
    """Limits of the logarithm: a picture tears before a head that is too calm looks dead."""

    def __call__(
        self, features: Float[Tensor, "s w"], spoken: Bool[Tensor, " s"], memory: Memory, prior: Float[Tensor, " f"]
    ) -> tuple[Float[Tensor, "s f"], Memory]:
        """Logarithms of the factors on the fields at an utterance's next features, and the new memory of the voice.

        They move from ``prior`` to what the voice tells as more of it is heard.
        """
        means, count, memory = voice_means(features, spoken, memory)
        trust = (count / (count + self.prior_count))[:, None]
        # Summed number by number: a matrix product's last bit depends on how many rows come together.
        told = ((means - self.mean)[:, None] * self.weight).sum(-1).clamp(self.calmest, self.liveliest)
        return (1 - trust) * prior + trust * told, memory

    def start(self) -> Memory:
        """Before the first feature of an utterance."""
        return Memory.empty(len(self.mean))


def voice_means(
    features: Float[Tensor, "s w"], spoken: Bool[Tensor, " s"], memory: Memory
) -> tuple[Float[Tensor, "s w"], Float[Tensor, " s"], Memory]:
    """Means of the spoken features so far, how many those are, and the new memory; pauses change nothing."""
    before = torch.from_numpy(memory.mean).to(features.dtype)[None]
    new = spoken.cumsum(0)
    means, after = running_mean(features[spoken], memory, LONGEST)
    return torch.cat([before, means])[new], (memory.count + new).to(features.dtype), after
