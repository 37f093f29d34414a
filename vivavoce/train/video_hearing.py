"""What a video network takes from speech, measured without making a video: it is sure long before lips can be judged.

How much smaller speech makes the error of the latents is no measure of it: a network whose lips took nothing from the sound had 3
% less, for speech also tells that somebody talks at all. What counts is whether lips open when they did.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.path import interpolate
from vivavoce.nets.video import VideoTransformer
from vivavoce.train.lip_readout import CURVES, LipReadout
from vivavoce.train.loop import mixed_precision
from vivavoce.train.video_windows import Batch, WindowConfig, Windows

TIME = 0.05  # of the flow: nearly noise, in which no lips can be seen


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """Correlations of what a `LipReadout` reads with the tracked lips, each window about its own mean: ``opening`` and ``width``
    of the network's guess at flow time TIME, ``deaf``: the opening without speech, and ``most``: the opening of the recordings'
    own latents, more than which can't be read."""

    opening: float
    width: float
    deaf: float
    most: float


def whole_windows(config: WindowConfig) -> WindowConfig:
    """The same windows, nothing of which is dropped or disturbed."""
    return replace(config, dropout={}, prefix_noise=0.0)


@torch.no_grad()
def hearing(net: VideoTransformer, windows: Windows, readout: LipReadout, *, steps: int = 30, batch: int = 4) -> Hearing:
    """Over so many batches of windows (`whole_windows`), with and without speech from the same noise. Who does not talk counts
    for nothing. ValueError where nobody does, or no lips were tracked."""
    read: dict[str, list[Tensor]] = {"heard": [], "deaf": [], "recorded": [], "tracked": []}
    for step in range(steps):
        drawn = windows.draw(step, range(batch), lip_mask=False)
        drawn = replace(drawn, time=torch.where(drawn.time < 1, TIME, drawn.time))
        talks = drawn.shown.keep["speech"]
        quiet = replace(drawn.shown, keep={**drawn.shown.keep, "speech": torch.zeros_like(talks)})
        made = {"heard": _guess(net, drawn), "deaf": _guess(net, replace(drawn, shown=quiet)), "recorded": drawn.data}
        found = {name: readout(latents, drawn.lips) for name, latents in made.items()} | {"tracked": drawn.mouth}
        good = drawn.counts & ~drawn.mouth.isnan().any(-1) & (drawn.lips.sum((2, 3)) > 0)
        for i in torch.nonzero(talks).flatten().tolist():
            for name, values in found.items():
                own = values[i][good[i]]
                read[name].append(own - own.mean(0) if len(own) else own)
    every = {name: torch.cat(values) if values else torch.zeros(0, CURVES) for name, values in read.items()}
    if not len(every["tracked"]):
        raise ValueError(f"nobody whose lips were tracked talks in the {steps * batch} windows drawn: give more recordings")
    tracked = every.pop("tracked")
    opening = {name: _correlation(values, tracked, 0) for name, values in every.items()}
    return Hearing(
        opening=opening["heard"], width=_correlation(every["heard"], tracked, 1), deaf=opening["deaf"], most=opening["recorded"]
    )


def _guess(net: VideoTransformer, batch: Batch) -> Float[Tensor, "b t c h w"]:
    """The latents at the end of the path, were it straight."""
    point = interpolate(batch.noise, batch.data, batch.time).point
    with mixed_precision():
        velocity = net(point, batch.time, batch.shown.heard(net))
    return point + (1 - batch.time)[:, :, None, None, None] * velocity.float()


def _correlation(read: Float[Tensor, "n r"], tracked: Float[Tensor, "n r"], curve: int) -> float:
    a, b = (values.unflatten(1, (-1, 2))[..., curve].flatten() for values in (read, tracked))
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt().clamp(min=1e-12))
