"""Objectives of post-training: pure functions of velocity fields and of several motions for the same recording.

All see motion through the error of a field on a point of the path, e(u, x) = mean(weight |u(x_t, t, c) - (x_1 - x_0)|^2) over the
frames that count, so they know neither networks nor faces, and one set of draws serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vivavoce.flow.path import VelocityField, interpolate, per_event

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Rungs(Generic[C]):
    """Motions for the same recordings, the best first, and the draws at which fields are compared on them.

    ``data``: k motions for each of b recordings; ``given``: the condition that each of the k is seen under; ``noise``, ``time``,
    ``mask``: shared by all k, so that fields differ in nothing but the motion; ``weight``: of the numbers of an event, mean 1,
    by recording and frame where they differ; ``rewards``: how good each motion is, 0 to 1, where they were scored.
    """

    data: Float[Tensor, "k b t *event"]
    given: Sequence[C]
    noise: Float[Tensor, "b t *event"]
    time: Float[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    weight: Float[Tensor, "*#weighed"]
    rewards: Float[Tensor, "k b"] | None = None

    def seen(self, field: VelocityField[C], rung: int) -> tuple[Tensor, Tensor]:
        """The field's velocity at the point of one rung's path, "b t *event", and the path's own."""
        sample = interpolate(self.noise, self.data[rung], self.time)
        return field(sample.point, self.time, self.given[rung]), sample.velocity

    def mean(self, values: Float[Tensor, "b t *event"]) -> Float[Tensor, " b"]:
        """Weighed, over the frames that count and over the numbers of an event."""
        per_frame = torch.where(per_event(self.mask, values), values * self.weight, 0.0).flatten(2).mean(-1)
        return per_frame.sum(1) / self.mask.sum(1).clamp(min=1)

    def error(self, field: VelocityField[C], rung: int) -> tuple[Float[Tensor, " b"], Tensor]:
        """Mean squared error on one rung, and the velocity that made it."""
        velocity, wanted = self.seen(field, rung)
        return self.mean((velocity - wanted).square()), velocity


@dataclass(frozen=True, kw_only=True)
class Loss:
    """``value``: to descend; ``figures``: what to watch meanwhile."""

    value: Float[Tensor, ""]
    figures: dict[str, float]


def sft(policy: VelocityField[C], rungs: Rungs[C]) -> Loss:
    """Flow matching on the first rung: what every other objective must beat at the same number of steps."""
    error, velocity = rungs.error(policy, 0)
    return Loss(value=error.mean(), figures=_watched(error, rungs.mean(velocity.square())))


def _watched(winner_error: Tensor, speed: Tensor) -> dict[str, float]:
    """The winner's own error, which says whether its likelihood falls, and squared velocities, which post-training inflates."""
    return {"winner_error": float(winner_error.detach().mean()), "speed": float(speed.detach().mean())}


def ladder_dpo(
    policy: VelocityField[C], reference: VelocityField[C], rungs: Rungs[C], *, beta: float,
    pairs: Literal["all", "ends"] = "all", sft_weight: float = 0.0, norm_weight: float = 0.0,
) -> Loss:
    """ReFree-S2V's loss (arXiv 2606.13304), Flow-DPO on every ordered pair of a ladder, or on its ends only (Hallo4):

        L = -sum_{i<j} log sigma(-beta/2 [ (e_i(policy) - e_i(reference)) - (e_j(policy) - e_j(reference)) ]).

    The factor 1/2 is Flow-DPO's; beta multiplies mean-reduced errors. Noise and time are shared inside a pair. ``sft_weight``:
    of the winner's own error, which keeps its likelihood from falling with the loser's (Reg-DPO, PG-DPO). ``norm_weight``: of a
    hinge on squared velocities beyond the reference's (NormGuard). Left out: the paper's time weight, whose form it does not
    state (constant here, as VideoAlign prefers). What the reference is, frozen or a moving average, is the caller's business,
    as is under which condition a loser is seen.
    """
    ours, theirs, speeds, excess = [], [], [], []
    for rung in range(len(rungs.data)):
        error, velocity = rungs.error(policy, rung)
        with torch.no_grad():
            known, before = rungs.error(reference, rung)
        ours.append(error)
        theirs.append(known)
        speeds.append(rungs.mean(velocity.square()))
        excess.append(functional.relu(speeds[-1] - rungs.mean(before.square())))
    gained = [a - b for a, b in zip(ours, theirs, strict=True)]
    chosen = list(combinations(range(len(gained)), 2)) if pairs == "all" else [(0, len(gained) - 1)]
    margins = torch.stack([gained[j] - gained[i] for i, j in chosen])
    value = -functional.logsigmoid(0.5 * beta * margins).sum(0).mean()
    value = value + sft_weight * ours[0].mean() + norm_weight * torch.stack(excess).mean()
    return Loss(value=value, figures={
        "accuracy": float((margins > 0).float().mean()), "margin": float(0.5 * beta * margins.detach().mean()),
        "winner_gain": float(gained[0].detach().mean()), **_watched(ours[0], speeds[0]),
    })


def pair_dpo(
    policy: VelocityField[C], reference: VelocityField[C], rungs: Rungs[C], *, beta: float, sft_weight: float = 0.0,
    norm_weight: float = 0.0,
) -> Loss:
    """Flow-DPO on what people chose: of the takes of a recording the best against the worst (Hallo4, arXiv 2505.23525),

        L = -log sigma(-beta/2 [ (e_best(policy) - e_best(reference)) - (e_worst(policy) - e_worst(reference)) ]).

    Hallo4 has no 1/2, so its beta is half of ours. It is `ladder_dpo` on two rungs, but these differ in noise: much of what sets
    them apart is nothing that anybody compared, and DenseDPO found that such pairs favour little motion. A window bears the
    choice that was made about the whole take. Left out: Hallo4's time weight, and its candidates from five other systems.
    """
    assert len(rungs.data) == 2, "a pair is the best and the worst"
    return ladder_dpo(policy, reference, rungs, beta=beta, pairs="ends", sft_weight=sft_weight, norm_weight=norm_weight)


def forward_process(
    policy: VelocityField[C], old: VelocityField[C], rungs: Rungs[C], rewards: Float[Tensor, "k b"], *, beta: float,
    sft_weight: float = 0.0,
) -> Loss:
    """DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): with v+ = (1 - beta) v_old + beta v and v- = (1 + beta) v_old - beta v,

        L = E[ r |v+ - u|^2 + (1 - r) |v- - u|^2 ],   u the path's velocity, r in [0, 1] how good the motion is.

    The pull away from a bad motion ends at v_old + (v_old - u) / beta: it is bounded, where a loser's term in DPO is not. Rewards
    may come of scorers, or of how much speech a motion was made without. Left out: the paper's self-normalised error of the
    predicted data, and its small KL to the base. For its theorem motions are drawn from ``old``; a recorded one is off-policy.
    ``sft_weight``: of the first rung's own error besides.
    """
    assert rewards.shape == rungs.data.shape[:2] and bool(((rewards >= 0) & (rewards <= 1)).all()), "rewards are 0 to 1"
    total, figures = rungs.noise.new_zeros(()), dict[str, float]()
    for rung, reward in enumerate(rewards):
        velocity, wanted = rungs.seen(policy, rung)
        with torch.no_grad():
            before, _ = rungs.seen(old, rung)
        better = rungs.mean((torch.lerp(before, velocity, beta) - wanted).square())
        worse = rungs.mean(((1 + beta) * before - beta * velocity - wanted).square())
        total = total + (reward * better + (1 - reward) * worse).mean()
        if not figures:
            error = rungs.mean((velocity - wanted).square())
            total, figures = total + sft_weight * len(rewards) * error.mean(), _watched(error, rungs.mean(velocity.square()))
    return Loss(value=total / len(rewards), figures=figures)


@dataclass(frozen=True)
class Advantages:
    """``values``: 0 for groups that were dropped, ``kept``: which were not."""

    values: Float[Tensor, "g k"]
    kept: Bool[Tensor, " g"]


def advantages(
    rewards: Sequence[Float[Tensor, "g k"]], weights: Sequence[float], *, least: float = 1e-6, most: float = 5.0
) -> Advantages:
    """Each reward normalised within its group of k takes, then summed with weights (FlowPortrait, DanceGRPO), so that no reward
    rules by its unit. A group whose takes no reward tells apart teaches nothing and is dropped. Clamped to +- ``most``."""
    total = torch.zeros_like(rewards[0])
    told = torch.zeros(len(rewards[0]), dtype=torch.bool)
    for reward, weight in zip(rewards, weights, strict=True):
        spread = reward.std(1, keepdim=True, correction=0)
        apart = spread > least
        told |= apart[:, 0]
        total = total + weight * torch.where(apart, (reward - reward.mean(1, keepdim=True)) / spread.clamp(min=least), 0.0)
    return Advantages(total.clamp(-most, most), told)


def grpo(
    log_probability: Float[Tensor, " n"], old_log_probability: Float[Tensor, " n"], advantage: Float[Tensor, " n"],
    distance: Float[Tensor, " n"], *, clip: float = 1e-3, kl: float = 0.04,
) -> Loss:
    """Clipped policy gradient on single steps of `flow.sde.sde_step` (Flow-GRPO, Liu et al. 2025; DanceGRPO, Xue et al. 2025):

        L = -mean min(rho A, clamp(rho, 1 - clip, 1 + clip) A) + kl mean |mu - mu_anchor|^2 / (2 std^2),   rho = p / p_old.

    ``distance``: the last fraction, per step, mean over its numbers as the log-probabilities are. Clips are small because
    mean-reduced log-probabilities hardly move. Left out: entropy terms, and credit by frame: a whole take shares its advantage.
    """
    ratio = torch.exp(log_probability - old_log_probability)
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return Loss(value=-gain.mean() + kl * distance.mean(), figures={
        "ratio": float(ratio.detach().mean()), "clipped": float(((ratio - 1).abs() > clip).float().mean()),
        "kl": float(distance.detach().mean()),
    })
