"""What a velocity network hears besides the noisy latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Encoded once per window (`MotionTransformer.listen`), because neither part depends on flow time.

    ``speech``: for each block what its injection made of the levels, for every latent frame. ``style``: embedded motion style.
    ``no_speech``, ``no_style``: the same of their absence, which was learned; batch axis (and for speech time) of length one.
    """

    speech: tuple[Float[Tensor, "b t ..."], ...]
    style: Float[Tensor, "b w"]
    no_speech: tuple[Float[Tensor, "1 1 ..."], ...]
    no_style: Float[Tensor, " w"]

    def without(self, name: str) -> Condition:
        """The same with one part, "speech" or "style", absent."""
        if name == "speech":
            absent = tuple(no.expand_as(yes) for no, yes in zip(self.no_speech, self.speech, strict=True))
            return replace(self, speech=absent)
        if name == "style":
            return replace(self, style=self.no_style.expand_as(self.style))
        raise ValueError(f"no condition is called {name!r}: expected 'speech' or 'style'")

    @staticmethod
    def stack(conditions: Sequence[Condition]) -> Condition:
        """One after the other along the batch axis, for one network call."""
        speech = tuple(torch.cat(parts) for parts in zip(*(c.speech for c in conditions), strict=True))
        return replace(conditions[0], speech=speech, style=torch.cat([c.style for c in conditions]))
