"""What a video network takes from speech, measured on its first guess instead of on whole videos, which take long.

What counts is whether lips open when they did in the recording, in the pictures that the guess decodes to. Two cheaper figures
don't tell: speech took 3 % off the error of the lips' latents in a network whose lips did not follow it, and what is read
linearly out of latents can be right while the pictures show nothing of it. What speech adds to small pictures
(`added`) grew with hearing on clips that the motion engine taught; on recordings it stays small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.path import interpolate
from vivavoce.latent.video import VideoSpace
from vivavoce.nets.video import VideoTransformer
from vivavoce.train.loop import mixed_precision
from vivavoce.train.video_sight import Sight
from vivavoce.train.video_vae_check import tracked_lips
from vivavoce.train.video_windows import Batch, WindowConfig, Windows


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """Correlations of tracked lips with the recorded ones, each window about its own mean: ``opening`` and ``width`` in the guess
    from pure noise, ``deaf``: the opening in the guess without speech, ``most``: the opening in what the autoencoder makes of
    the recordings."""

    opening: float
    width: float
    deaf: float
    most: float


def whole_windows(config: WindowConfig) -> WindowConfig:
    """Such windows as begin a video with one known picture, nothing of which is dropped."""
    return replace(config, opening=1.0, prefix=1, dropout={}, prefix_noise=0.0, elsewhere=0.0)


@torch.no_grad()
def hearing(net: VideoTransformer, windows: Windows, space: VideoSpace, *, steps: int = 12, batch: int = 4) -> Hearing:
    """Over so many batches of `whole_windows`, with and without speech from the same noise. Who does not talk counts for nothing,
    as do pictures without a face; not a number where nothing is left."""
    found: dict[str, list[np.ndarray]] = {"heard": [], "deaf": [], "recorded": []}
    for step in range(steps):
        drawn = _at_noise(windows.draw(step, range(batch), lip_mask=False))
        made = {"heard": _guess(net, drawn), "deaf": _guess(net, _deafened(drawn)), "recorded": drawn.data}
        for i in torch.nonzero(drawn.shown.keep["speech"]).flatten().tolist():
            recorded = drawn.mouth[i, 1:].flatten(0, 1).numpy()
            for name, latents in made.items():
                pictures = space.decode(latents[i : i + 1], space.start())[0][1:]  # all but the one that is known
                pair = np.array([tracked_lips(np.array(pictures)), recorded])
                pair = pair[:, ~np.isnan(pair).any((0, 2))]
                found[name].append(pair - pair.mean(1, keepdims=True) if pair.size else pair)
    every = {name: np.concatenate(pairs, 1) if pairs else np.zeros((2, 0, 2)) for name, pairs in found.items()}
    opening = {name: _correlation(pairs[..., 0]) for name, pairs in every.items()}
    return Hearing(
        opening=opening["heard"], width=_correlation(every["heard"][..., 1]), deaf=opening["deaf"], most=opening["recorded"]
    )


@torch.no_grad()
def added(net: VideoTransformer, windows: Windows, *, close: int, steps: int = 20, batch: int = 12) -> float:
    """How what speech adds to the first guess goes with the recordings, each window about its own mean: the correlation in what
    is seen (`video_sight`) of the lips' cells, in ``close`` latents around them. It knows the guess without
    speech, but much of what varies there is none of speech's business."""
    assert windows.common.sight is not None
    sight, sums = Sight(windows.common.sight), torch.zeros(3)
    for step in range(steps):
        drawn = _at_noise(windows.draw(step, range(batch), lip_mask=False, close=close))
        talks, weight = drawn.shown.keep["speech"], drawn.weight[:, 1:]
        lips = weight >= weight.amax((1, 2, 3, 4), keepdim=True) / 2
        pair = [sight(_guess(net, drawn) - _guess(net, _deafened(drawn))), sight(drawn.data)]
        a, b = ((lips * (seen[:, 1:] - seen[:, 1:].mean(1, keepdim=True)))[talks] for seen in pair)
        sums += torch.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()])
    return float(sums[0] / (sums[1] * sums[2]).sqrt().clamp(min=1e-12))


def _at_noise(batch: Batch) -> Batch:
    """All that is not known is pure noise."""
    return replace(batch, time=torch.where(batch.time < 1, 0.0, batch.time))


def _deafened(batch: Batch) -> Batch:
    """Nobody is heard."""
    keep = {**batch.shown.keep, "speech": torch.zeros_like(batch.shown.keep["speech"])}
    return replace(batch, shown=replace(batch.shown, keep=keep))


def _guess(net: VideoTransformer, batch: Batch) -> Float[Tensor, "b t c h w"]:
    """The latents at the end of the path, were it straight; the first one is known."""
    point = interpolate(batch.noise, batch.data, batch.time).point
    with mixed_precision():
        velocity = net(point, batch.time, batch.shown.heard(net))
    guess = point + (1 - batch.time)[:, :, None, None, None] * velocity.float()
    return torch.cat([batch.data[:, :1], guess[:, 1:]], 1)


def _correlation(pair: Float[np.ndarray, "2 n"]) -> float:
    a, b = pair
    if not len(a):
        return float("nan")
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12))
