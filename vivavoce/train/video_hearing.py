"""What a video network takes from speech, measured without making a video: it is sure long before lips can be judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.loss import flow_matching_loss
from vivavoce.latent.regions import RegionWeights
from vivavoce.nets.video import VideoTransformer
from vivavoce.train.loop import mixed_precision
from vivavoce.train.video_windows import Batch, WindowConfig, Windows

TIME = 0.05  # of the flow: nearly noise, in which no lips can be seen


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """Squared errors of the lips' velocity at flow time TIME, of a network that hears the speech, and of the same without it."""

    heard: float
    deaf: float

    @property
    def explained(self) -> float:
        """Share of the error without speech that speech takes away; 0 for a network that does not hear."""
        return 1 - self.heard / self.deaf


def lips_only(config: WindowConfig) -> WindowConfig:
    """The same windows, of which lips are all that counts, and nothing is dropped."""
    return replace(config, weights=RegionWeights(lips=1.0, face=0.0, rest=1e-6), dropout={}, prefix_noise=0.0)


@torch.no_grad()
def hearing(net: VideoTransformer, windows: Windows, *, steps: int = 60, batch: int = 4) -> Hearing:
    """Over so many batches of windows (`lips_only`), with the same noise both times. Who does not talk counts for nothing."""
    heard, deaf = [], []
    for step in range(steps):
        drawn = windows.draw(step, range(batch), lip_mask=False)
        drawn = replace(drawn, time=torch.where(drawn.time < 1, TIME, drawn.time))
        talks = drawn.shown.keep["speech"]
        quiet = replace(drawn.shown, keep={**drawn.shown.keep, "speech": torch.zeros_like(talks)})
        heard.append(_errors(net, drawn)[talks])
        deaf.append(_errors(net, replace(drawn, shown=quiet))[talks])
    return Hearing(heard=float(torch.cat(heard).mean()), deaf=float(torch.cat(deaf).mean()))


def _errors(net: VideoTransformer, batch: Batch) -> Float[Tensor, " b"]:
    with mixed_precision():
        return flow_matching_loss(
            net, batch.data, batch.shown.heard(net), noise=batch.noise, time=batch.time, mask=batch.counts, weight=batch.weight
        )
