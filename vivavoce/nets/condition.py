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

    ``speech``: for each block what its injection made of the levels, for every latent frame. ``estimate``: the motion that speech
    alone makes one expect. ``style``: embedded motion style. ``no_...``: the same of their absence, which was learned; its batch
    axis (and time, for what comes of speech) has length one.
    """

    speech: tuple[Float[Tensor, "b t ..."], ...]
    estimate: Float[Tensor, "b t d"]
    style: Float[Tensor, "b w"]
    no_speech: tuple[Float[Tensor, "1 1 ..."], ...]
    no_estimate: Float[Tensor, "1 1 d"]
    no_style: Float[Tensor, " w"]

    def without(self, name: str) -> Condition:
        """The same with one part, "speech" or "style", absent."""
        if name == "speech":
            absent = tuple(no.expand_as(yes) for no, yes in zip(self.no_speech, self.speech, strict=True))
            return replace(self, speech=absent, estimate=self.no_estimate.expand_as(self.estimate))
        if name == "style":
            return replace(self, style=self.no_style.expand_as(self.style))
        raise ValueError(f"no condition is called {name!r}: expected 'speech' or 'style'")

    @staticmethod
    def stack(conditions: Sequence[Condition]) -> Condition:
        """One after the other along the batch axis, for one network call."""
        speech = tuple(torch.cat(parts) for parts in zip(*(c.speech for c in conditions), strict=True))
        estimate = torch.cat([c.estimate for c in conditions])
        return replace(conditions[0], speech=speech, estimate=estimate, style=torch.cat([c.style for c in conditions]))
