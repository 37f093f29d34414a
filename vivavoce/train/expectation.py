"""The networks that expect lips from speech alone (`nets.expectation`): a stage of `vivavoce train motion`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.latent.closure import lip_directions
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import MOTION_RATE_HZ, Layout
from vivavoce.nets.expectation import LipExpectation
from vivavoce.nets.levels import LevelsConfig
from vivavoce.train.data import Example, Progress
from vivavoce.train.loop import Run, Schedule
from vivavoce.train.windows import Stretches

CHECKPOINT = "lips.pt"
_SAVED = 50  # updates between checkpoints
_SHORTEST = 10  # frames of a window


@dataclass(frozen=True, kw_only=True)
class ExpectationRecipe:
    """How lips are learned to be expected. ``batch``: windows of ``frames`` frames for each member. ``noise``: deviation of noise
    on normalised features; ``silenced``: probability that one of the streams is not heard in a window; ``tempo``: windows are
    played up to so much faster, or as much slower, all of an update alike. The rest: see `Schedule` and
    `LipExpectation.Config`."""

    steps: int = 280
    batch: int = 32
    frames: int = 50
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.05
    ema: float = 0.99
    noise: float = 0.4
    silenced: float = 0.3
    tempo: float = 0.2
    members: int = 6
    width: int = 96
    share: float = 0.7


def unfollowed(
    expected: Float[Tensor, "*b t k"], recorded: Float[Tensor, "*b t k"]
) -> Float[Tensor, "*b k"]:
    """1 - the correlation over a window.

    How far and from where somebody opens the mouth, in this sentence or another, does not count: only when. A squared error is
    shrunk where speech tells little, and learns voices by heart to know the rest. Curves that hardly move are divided by more:
    a twentieth of the mean, over all windows and curves, is added to what the two move.
    """
    a, b = (values - values.mean(-2, keepdim=True) for values in (expected, recorded))
    lengths = a.norm(dim=-2) * b.norm(dim=-2)
    least = 0.05 * lengths.detach().mean() + 1e-6
    return 1 - (a * b).sum(-2) / (lengths + least)


def learn_expectation(
    recipe: ExpectationRecipe, examples: Sequence[Example], levels: LevelsConfig, model: FaceModel, silence: Float[Tensor, " w"],
    *, person_power: float, seed: int, out: Path, progress: Progress,
) -> LipExpectation:
    """Train the members, each on windows of its own, and set unit and level. Goes on from the checkpoint in ``out``, if there is
    one. ValueError where nobody talks for as long as the shortest window."""
    talking = [example for example in examples if example.speech is not None]
    longest = max((len(example.motion) for example in talking), default=0)
    fastest = 1 + recipe.tempo
    frames = min(recipe.frames, int((longest - 1) / fastest))
    if frames < _SHORTEST:
        least = (fastest * _SHORTEST + 1) / MOTION_RATE_HZ
        raise ValueError(f"nobody talks for {least:.1f} seconds in the recordings: give longer ones, or recipes without lips")
    torch.manual_seed(seed)
    listened = {name: levels.streams[name] for name in levels.listen}
    net = LipExpectation(LipExpectation.Config(
        heard=levels.heard, plain=sum(listened.values()), event=Layout.of(model.widths()).width, stride=levels.stride,
        members=recipe.members, width=recipe.width, ahead=levels.ahead, share=recipe.share,
    ))
    if not net.config.fits(levels.history, levels.lookahead):
        raise ValueError(
            f"lips are expected from {levels.stride * net.config.past} features before a frame on, and the levels hear from "
            f"{levels.history} on, {levels.lookahead} ahead: give wider levels, or a recipe without lips"
        )
    stretches = Stretches(talking, levels, silence, person_power)
    net.directions.copy_(lip_directions(model))
    _normalise(net, stretches)
    # The loss is the members' mean, so this clips each of them loosely: it is there for the one batch that goes wrong.
    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, weight_decay=recipe.weight_decay,
        ema=recipe.ema, clip=recipe.members**0.5,
    )
    run = Run(net, schedule, out / CHECKPOINT)
    run.restore()
    while not run.done:
        rng = np.random.default_rng((seed, run.step))
        torch.manual_seed(int(rng.integers(2**62)))
        run.update(_loss(net.train(), stretches, recipe, frames, list(listened.values()), rng))
        progress("lips", run.step, recipe.steps)
        if run.step % _SAVED == 0 or run.done:
            run.save()
    learned = run.averaged()
    _calibrate(learned, stretches)
    return learned


def _loss(
    net: LipExpectation, stretches: Stretches, recipe: ExpectationRecipe, frames: int, streams: Sequence[int],
    rng: np.random.Generator,
) -> Tensor:
    """Mean of the members' errors, each on its own windows."""
    members = net.config.members
    tempo = (1 + recipe.tempo) ** float(rng.uniform(-1, 1))
    drawn = stretches.draw(members * recipe.batch, frames, rng, tempo=tempo)
    given = net.given(drawn.speech, frames)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    given = given + recipe.noise * torch.randn(given.shape, generator=generator)
    chosen = torch.randint(len(streams), (len(given),), generator=generator)
    silenced = torch.rand(len(given), generator=generator) < recipe.silenced
    number = torch.arange(len(streams)).repeat_interleave(torch.tensor([*streams]))
    number = number.repeat(given.shape[-1] // len(number))  # beside each other lie features, their means, and neighbours
    heard = ~(silenced[:, None] & (number == chosen[:, None]))
    given = given * heard[:, None]
    expected = net.each(given.unflatten(0, (members, -1)))
    recorded = (drawn.motion @ net.directions.T).unflatten(0, (members, -1))
    return unfollowed(expected, recorded).mean()


def _normalise(net: LipExpectation, stretches: Stretches) -> None:
    """Mean and deviation of what is heard, every feature weighing alike."""
    heard = torch.cat([*stretches.heard.values()])
    net.mean.copy_(heard.mean(0))
    net.deviation.copy_(heard.std(0) + 1e-3)


@torch.inference_mode()
def _calibrate(net: LipExpectation, stretches: Stretches) -> None:
    """The average speaker's lips are expected where they were recorded on the mean, and to vary as much."""
    found: dict[str, list[Tensor]] = {}
    recorded: dict[str, list[Tensor]] = {}
    for example in stretches.examples:
        heard = stretches.around(example, 0, len(example.motion))
        found.setdefault(example.person, []).append(net(heard[None], len(example.motion))[0])
        recorded.setdefault(example.person, []).append(example.motion @ net.directions.T)
    ours, theirs = ([torch.cat(parts) for parts in people.values()] for people in (found, recorded))
    net.scale.mul_(torch.stack([p.std(0) for p in theirs]).mean(0) / torch.stack([p.std(0) for p in ours]).mean(0))
    middle = net.scale * torch.stack([p.mean(0) for p in ours]).mean(0)  # ours were of unit scale
    net.level.copy_(torch.stack([p.mean(0) for p in theirs]).mean(0) - middle)
