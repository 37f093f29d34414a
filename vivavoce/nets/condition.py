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

    ``levels``: speech at every level for every latent frame. ``style``: embedded motion style. ``no_levels``, ``no_style``: the
    learned embeddings of their absence.
    """

    levels: Float[Tensor, "b l t d"]
    style: Float[Tensor, "b w"]
    no_levels: Float[Tensor, "l d"]
    no_style: Float[Tensor, " w"]

    def without(self, name: str) -> Condition:
        """The same with one part, "speech" or "style", absent."""
        if name == "speech":
            return replace(self, levels=self.no_levels[:, None].expand_as(self.levels))
        if name == "style":
            return replace(self, style=self.no_style.expand_as(self.style))
        raise ValueError(f"no condition is called {name!r}: expected 'speech' or 'style'")

    @staticmethod
    def stack(conditions: Sequence[Condition]) -> Condition:
        """One after the other along the batch axis, for one network call."""
        return replace(
            conditions[0], levels=torch.cat([c.levels for c in conditions]), style=torch.cat([c.style for c in conditions])
        )
