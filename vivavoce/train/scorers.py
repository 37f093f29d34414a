"""What GRPO rewards: plain functions of how a face moves beside the recorded one, higher is better, whatever their units.

After FlowPortrait (arXiv 2603.00159): lip sync, expressiveness and motion quality, and a perceptual and a temporal regulariser.
Its judges are multimodal models and its regularisers look at pixels; these look at motion. `apps.model_judge` has such a judge.
The figures that post-training is judged by (`verdict`) are others, though of the same curves: a reward can be gamed, so look at
both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel, brow_height, lip_opening, mouth_width
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.metrics.dynamics import jerk
from vivavoce.metrics.head import rotation_spread, speed
from vivavoce.train.data import Example
from vivavoce.train.objectives import advantages
from vivavoce.train.rollout import Rollout

STILL = 5e-3  # of spreads (face heights, radians) and rates: nobody sees less, and logarithms stay finite


@dataclass(frozen=True, kw_only=True)
class Takes:
    """Several takes of the same moment: ``motion``, packed as it comes out, from the ``example``'s frame ``start`` on, and
    ``recorded``, what the person did then."""

    example: Example
    start: int
    motion: Float[Tensor, "k t d"]
    recorded: Float[Tensor, "t d"]


Scorer = Callable[[Takes], Mapping[str, Float[Tensor, " k"]]]
"""Rewards by name, one for each take. Each is normalised within its group, so units do not matter."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """The mean face under a motion: ``points`` without the head's pose and ``opening``, ``width`` and ``brow``, in face heights;
    ``rotation`` of the head, radians; ``importance``: of the points."""

    points: Float[np.ndarray, "t n 3"]
    opening: Float[np.ndarray, " t"]
    width: Float[np.ndarray, " t"]
    brow: Float[np.ndarray, " t"]
    rotation: Float[np.ndarray, "t 3"]
    importance: Float[np.ndarray, " n"]


def face_of(packed: Float[Tensor, "t d"], generator: MotionGenerator, model: FaceModel) -> Face:
    """The face that a packed motion makes."""
    motion = generator.layout.unpack(packed)
    points = model.mean + model.displacement({region: v.numpy() for region, v in motion.expression().items()})
    return Face(
        points=points, opening=lip_opening(points), width=mouth_width(points), brow=brow_height(points),
        rotation=motion.rotation.numpy(), importance=model.importance,
    )


def lip_sync(made: Face, real: Face) -> float:
    """Minus the mean absolute error of the lips' opening and the mouth's width, each over the recorded spread."""
    curves = ((made.opening, real.opening), (made.width, real.width))
    return -float(np.mean([np.abs(a - b).mean() / (b.std() + STILL) for a, b in curves]))


def expressiveness(made: Face, real: Face) -> float:
    """Minus how far the spreads of lips, brows and head are from the recorded ones, mean |log ratio|: not dull, not overdone."""
    spreads = [[face.opening.std(), face.brow.std(), rotation_spread(face.rotation)] for face in (made, real)]
    return -_apart(*spreads)


def motion_quality(made: Face, real: Face) -> float:
    """Minus how far the head's speed and jerk are from the recorded ones, mean |log ratio|: neither gliding nor trembling."""
    rates = [[speed(face.rotation, MOTION_RATE_HZ), jerk(face.rotation, MOTION_RATE_HZ)] for face in (made, real)]
    return -_apart(*rates)


def perceptual(made: Face, real: Face) -> float:
    """Minus the root mean square distance of the face's points, without the head's pose, weighed by their importance: where a
    video model would compare features of pixels."""
    square = ((made.points - real.points) ** 2).sum(-1).mean(0)
    return -float(np.sqrt((square * made.importance).sum() / made.importance.sum()))


def temporal(made: Face, real: Face) -> float:
    """Minus how much more the face's points accelerate than the recorded ones, 0 if they do not: a regulariser must not pay for
    standing still."""
    shaking = [float(np.abs(np.diff(face.points, 2, axis=0)).mean()) for face in (made, real)]
    return -max(shaking[0] - shaking[1], 0.0)


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return float(np.abs(np.log((np.array(ours) + STILL) / (np.array(theirs) + STILL))).mean())


Figure = Callable[[Face, Face], float]
REGULARISERS: Mapping[str, Figure] = {"perceptual": perceptual, "temporal": temporal}
REWARDS: Mapping[str, Figure] = {
    "lip_sync": lip_sync, "expressiveness": expressiveness, "motion_quality": motion_quality, **REGULARISERS,
}
WEIGHTS: Mapping[str, float] = {
    "lip_sync": 1.0, "expressiveness": 0.5, "motion_quality": 0.5, "perceptual": 0.25, "temporal": 0.25,
}
CHOOSING: Mapping[str, Figure] = {"sync": lip_sync, "naturalness": motion_quality}
"""A stand-in for people, by the questions that they are asked (`preferences.chosen_by`)."""


def composed(figures: Mapping[str, Figure], generator: MotionGenerator, model: FaceModel) -> Scorer:
    """A scorer of plain functions."""

    def score(takes: Takes) -> dict[str, Float[Tensor, " k"]]:
        real = face_of(takes.recorded, generator, model)
        made = [face_of(take, generator, model) for take in takes.motion]
        return {name: torch.tensor([figure(face, real) for face in made]) for name, figure in figures.items()}

    return score


def takes_of(rollout: Rollout, example: Example, generator: MotionGenerator) -> Takes:
    """A stretch's takes as they would be shown, for a scorer."""
    assert example.speech is not None
    recorded = example.motion[: rollout.takes.shape[1]]
    motion = generator.shown(rollout.takes, example.speech, example.first)
    return Takes(example=example, start=0, motion=motion, recorded=recorded)


def rewarded(
    rolled: Sequence[Rollout], examples: Sequence[Example], generator: MotionGenerator, model: FaceModel
) -> list[Rollout]:
    """Groups of takes with their rewards for DiffusionNFT (arXiv 2509.16117), r = 1/2 + 1/2 clip(A / Z, -1, 1): A the composite
    reward's advantage within the group (`objectives.advantages`), Z the sum of its weights. Groups that no reward tells apart are
    left out. The recording is not among them: it scores best by construction."""
    score, weights = composed(REWARDS, generator, model), [WEIGHTS[name] for name in REWARDS]
    found = []
    for rollout in rolled:
        values = score(takes_of(rollout, examples[rollout.example], generator))
        advantage = advantages([values[name][None].float() for name in REWARDS], weights)
        if bool(advantage.kept[0]):
            rewards = 0.5 + 0.5 * (advantage.values[0] / sum(weights)).clamp(-1, 1)
            found.append(replace(rollout, rewards=rewards))
    return found
