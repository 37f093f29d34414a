"""`vivavoce train post`: a trained motion network made better by what it makes itself (docs/post-training.md)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.path import VelocityField
from vivavoce.generate import MotionGenerator
from vivavoce.media.figures import to_json
from vivavoce.nets.hearing import cut, hear_all, hear_silence
from vivavoce.nets.motion import MotionTransformer
from vivavoce.train.data import Example, Progress
from vivavoce.train.loop import Run, Schedule, claim, forget, mixed_precision
from vivavoce.train.motion import FILES, habits
from vivavoce.train.objectives import Loss, Rungs, forward_process, ladder_dpo, pair_dpo, sft
from vivavoce.train.rollout import Rollout, RolloutRecipe, bare, fingerprint, finish, masked, roll

Objective = Literal["sft", "ladder_dpo", "pair_dpo", "forward_process"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
MATCHED = 24  # rollouts over which amplitudes are matched
JUDGED = "judged.jsonl"

Watch = Callable[[MotionGenerator], Mapping[str, float]]
"""Figures of a network that is still learning, such as `verdict.glance` on the split `val`."""


@dataclass(frozen=True, kw_only=True)
class PostRecipe:
    """``out``: checkpoint, log and weights. ``recorded``: the recording is the best rung of the ladder. ``pairs``, ``beta``,
    ``sft_weight``, ``norm_weight``: see `objectives`. ``reference``: how much of itself the reference keeps at each step, 1:
    frozen. ``loser_hears``: the condition that rungs made without part of the speech are seen under. ``rewards``: of the forward
    process, how little of the speech was masked, or `scorers.rewarded`. ``prefix_noise``: on clean
    prefixes, as in training. What is kept is the moving average of the weights."""

    out: Path
    objective: Objective
    steps: int = 400
    batch: int = 16
    learning_rate: float = 1e-4
    warmup: int = 20
    beta: float = 200.0
    pairs: Literal["all", "ends"] = "all"
    recorded: bool = True
    reference: float = 1.0
    loser_hears: Literal["all", "masked"] = "all"
    rewards: Literal["ladder", "scores"] = "ladder"
    sft_weight: float = 0.0
    norm_weight: float = 0.0
    prefix_noise: float = 0.1
    log_every: int = 10
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"no objective is called {self.objective!r}: give one of {', '.join(OBJECTIVES)}")
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps were asked for: give 1 or more")
        if self.rewards == "scores" and (self.objective != "forward_process" or self.loser_hears == "masked"):
            raise ValueError("scores are rewards of forward_process, with losers that hear all: leave rewards='scores' out")
        if self.objective == "pair_dpo" and (self.recorded or self.loser_hears == "masked"):
            raise ValueError("people compared takes with all of the speech: for pair_dpo give recorded=False, loser_hears='all'")


@dataclass(frozen=True)
class Given:
    """What a window is seen under: ``speech`` as it is heard, and the mean and spread that its speaker's estimate is given
    (`motion.habits`), 0 and 1 for a take, which speaks as the average speaker."""

    speech: Float[Tensor, "b s v"]
    habit: Float[Tensor, "b 1 d"]
    range: Float[Tensor, "b 1 d"]


def policy_of(net: MotionTransformer, style: Float[Tensor, " k"]) -> VelocityField[Given]:
    """The network as a velocity field that listens, at the default style."""

    def velocity(point: Tensor, time: Tensor, given: Given) -> Tensor:
        yes = torch.ones(len(point), dtype=torch.bool)
        condition = net.listen(given.speech, style.expand(len(point), -1), point.shape[1], has_speech=yes, has_style=yes)
        own = condition.estimate.float() * given.range + given.habit
        return net(point, time, replace(condition, estimate=own)).float()

    return velocity


class Windows:
    """Random windows of rollouts, with all their rungs."""

    def __init__(self, generator: MotionGenerator, examples: Sequence[Example], rolled: Sequence[Rollout], ladder: RolloutRecipe,
                 recipe: PostRecipe, weight: Float[Tensor, " d"]):
        self.levels, self.windows, self.recipe, self.weight = generator.net.config.levels, generator.windows, recipe, weight
        self.silence = hear_silence(generator.silence, self.levels)
        self.habits = habits([examples[r.example] for r in rolled], generator.mean, generator.std)
        self.items = []
        for rollout in rolled:
            example = examples[rollout.example]
            assert example.speech is not None
            count = rollout.takes.shape[1]
            recorded = ((example.motion[:count] - generator.mean) / generator.std)[None]
            whole = hear_all(example.speech, self.levels)
            heard = [whole] * (len(rollout.takes) + 1)
            if recipe.loser_hears == "masked":
                seed = ladder.seed + rollout.example
                for rung, ratio in enumerate(ladder.ratios):
                    mask = masked(len(example.speech), ratio, seed)[:, None]
                    heard[rung + 1] = hear_all(torch.where(mask, generator.silence, example.speech), self.levels)
            motion, own = torch.cat([recorded, rollout.takes]), [True] + [False] * len(rollout.takes)
            if not recipe.recorded:
                motion, heard, own = motion[1:], heard[1:], own[1:]
            rewards = None
            if recipe.rewards == "scores":
                assert rollout.rewards is not None, "rollouts without scores"
                rewards = torch.cat([torch.ones(int(recipe.recorded)), rollout.rewards])
            self.items.append((motion, heard, own, example.first, example.person, rewards))
        longest, wanted = max((item[0].shape[1] for item in self.items), default=0), self.windows.prefix + 2 * self.windows.hop
        if longest < wanted:
            raise ValueError(
                f"the longest of {len(self.items)} stretches to learn from has {longest} frames, and a window {wanted}: "
                "give longer recordings, or takes of more seconds"
            )

    def draw(self, rng: np.random.Generator) -> Rungs[Given]:
        """A batch of windows, the first frames of which may be clean, as in training."""
        hop, levels, count = self.windows.hop, self.levels, self.recipe.batch
        known = hop * int(rng.integers(self.windows.prefix // hop + 1))
        frames = known + hop * int(rng.integers(1, 3))
        long = [item for item in self.items if item[0].shape[1] >= frames]
        data, speech, habit, spread, rewards = [], [], [], [], []
        for i in rng.integers(len(long), size=count):
            motion, heard, own, first, person, good = long[i]
            rewards.append(good)
            start = int(rng.integers(motion.shape[1] - frames + 1))
            at = first + levels.stride * start
            span = range(at - levels.history, at + levels.stride * (frames - 1) + 1 + levels.lookahead)
            data.append(motion[:, start : start + frames])
            speech.append([cut(part, span, self.silence) for part in heard])
            mean, deviation = self.habits[person]
            nobody = torch.zeros_like(mean), torch.ones_like(deviation)
            chosen = [(mean, deviation) if mine else nobody for mine in own]
            habit.append([c[0][None] for c in chosen])
            spread.append([c[1][None] for c in chosen])
        made = torch.Generator().manual_seed(int(rng.integers(2**62)))
        stacked = torch.stack(data, 1)
        noise = torch.randn(stacked.shape[1:], generator=made)
        time = torch.rand(count, 1, generator=made).expand(-1, frames).clone()
        time[:, :known] = 1.0
        stacked[:, :, :known] += self.recipe.prefix_noise * torch.randn(stacked[0, :, :known].shape, generator=made)
        given = [
            Given(*(torch.stack([one[k] for one in every]) for every in (speech, habit, spread))) for k in range(len(stacked))
        ]
        told = [good for good in rewards if good is not None]
        return Rungs(
            data=stacked, given=given, noise=noise, time=time, mask=time < 1.0, weight=self.weight,
            rewards=torch.stack(told, 1) if told else None,
        )


def rewards_of(ratios: Sequence[float], recorded: bool, count: int) -> Float[Tensor, "k b"]:
    """Reward-free rewards: 1 for all of the speech (and for the recording), falling to 0 for the most masked."""
    most = max(max(ratios), 1e-9)
    each = [1.0] * recorded + [1.0 - r / most for r in ratios]
    return torch.tensor(each)[:, None].expand(-1, count)


def train_post(
    recipe: PostRecipe, base: MotionGenerator, examples: Sequence[Example], rolled: Sequence[Rollout],
    ladder: RolloutRecipe, weighing: Float[Tensor, " d"], progress: Progress, report: Callable[[str], None], *,
    watch: Watch | None = None,
) -> Path:
    """Post-train with checkpoints; returns the weights' path. ``weighing``: of packed numbers (`motion.loss_weight`).

    What to watch goes to ``out/log.jsonl``, and what ``watch`` says at every checkpoint to ``out/judged.jsonl``. A run that is
    interrupted and started again gives the weights of one that was not.
    """
    claim(recipe.out, identity_of(recipe, base), FILES)
    net, anchor = copy.deepcopy(base.net).eval(), copy.deepcopy(base.net).eval().requires_grad_(False)
    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, weight_decay=0.0, ema=0.98,
    )
    reference = copy.deepcopy(anchor)
    run, log = Run(net, schedule, recipe.out / "checkpoint.pt", reference.state_dict()), recipe.out / "log.jsonl"
    if run.restore():
        report(f"going on at step {run.step}")
    forget(log, run.step)
    forget(recipe.out / JUDGED, run.step)
    windows = Windows(base, examples, rolled, ladder, recipe, weighing)
    fields = [policy_of(n, base.style) for n in (net, reference)]
    seen: list[dict[str, float]] = []
    while not run.done:
        rng = np.random.default_rng((recipe.seed, run.step))
        with mixed_precision():
            loss = objective(recipe, fields[0], fields[1], windows.draw(rng), ladder.ratios)
        run.update(loss.value)
        follow(reference, net, recipe.reference)
        seen.append({"loss": float(loss.value.detach()), **loss.figures})
        progress("post-training", run.step, recipe.steps)
        if run.step % recipe.log_every == 0 or run.done:
            entry = {key: float(np.mean([s[key] for s in seen])) for key in seen[0]}
            entry = {"step": run.step, **entry, "distance": distance(net, anchor)}
            with log.open("a") as file:
                file.write(to_json(entry) + "\n")
            seen.clear()
        if run.step % recipe.checkpoint_every == 0 or run.done:
            look(watch, recipe.out, run, base)
            run.save()
    made = with_network(base, run.averaged(), base.windows.amplitude)
    with mixed_precision():
        amplitude = matched(made, examples, rolled, ladder, weighing)
    settings = {k: v for k, v in asdict(recipe).items() if k != "out"}
    return save(recipe.out, settings, with_network(base, made.net, amplitude))


def objective(
    recipe: PostRecipe, policy: VelocityField[Given], reference: VelocityField[Given], rungs: Rungs[Given],
    ratios: Sequence[float],
) -> Loss:
    """The recipe's."""
    if recipe.objective == "sft":
        return sft(policy, rungs)
    if recipe.objective == "ladder_dpo":
        return ladder_dpo(
            policy, reference, rungs, beta=recipe.beta, pairs=recipe.pairs, sft_weight=recipe.sft_weight,
            norm_weight=recipe.norm_weight,
        )
    if recipe.objective == "pair_dpo":
        return pair_dpo(
            policy, reference, rungs, beta=recipe.beta, sft_weight=recipe.sft_weight, norm_weight=recipe.norm_weight
        )
    rewards = rewards_of(ratios, recipe.recorded, len(rungs.noise)) if rungs.rewards is None else rungs.rewards
    return forward_process(policy, reference, rungs, rewards, beta=1.0, sft_weight=recipe.sft_weight)


def look(watch: Watch | None, out: Path, run: Run[MotionTransformer], base: MotionGenerator) -> None:
    """Add what ``watch`` says of the averaged network, at the base's amplitudes, to the folder's file."""
    if watch is not None:
        with mixed_precision():
            figures = watch(with_network(base, run.averaged(), base.windows.amplitude))
        with (out / JUDGED).open("a") as file:
            file.write(to_json({"step": run.step, **figures}) + "\n")


@torch.no_grad()
def follow(reference: MotionTransformer, net: MotionTransformer, keep: float) -> None:
    """Move the reference towards the network; at 1 it stays."""
    if keep < 1:
        for theirs, ours in zip(reference.parameters(), net.parameters(), strict=True):
            theirs.lerp_(ours, 1 - keep)


@torch.no_grad()
def distance(net: MotionTransformer, anchor: MotionTransformer) -> float:
    """How far the weights have gone, as a share of their length."""
    pairs = list(zip(net.parameters(), anchor.parameters(), strict=True))
    gone = sum(float((a - b).square().sum()) for a, b in pairs)
    return float((gone / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5)


def matched(
    made: MotionGenerator, examples: Sequence[Example], rolled: Sequence[Rollout], ladder: RolloutRecipe,
    weighing: Float[Tensor, " d"],
) -> dict[str, float]:
    """Amplitudes with which each motion field moves as far as in the base's takes, over the first MATCHED rollouts; numbers
    count by ``weighing``, which tells how far they move landmarks.

    Post-training changes how far samples go, mostly upwards; what it is judged by should be how they go.
    """
    few = rolled[:MATCHED]
    plain = replace(ladder, ratios=(0.0,), group=0)
    ours = [roll(bare(made), examples[r.example], r.example, plain, r.takes.shape[1]).takes[0] for r in few]
    widths = list(made.layout.widths.values())

    def spreads(takes: Sequence[Tensor]) -> list[Tensor]:
        moved = torch.stack([take.var(0) for take in takes]).mean(0) * weighing.square()
        return [part.sum().sqrt() for part in moved.split(widths)]

    ratios = [float(a / b) for a, b in zip(spreads([r.takes[0] for r in few]), spreads(ours), strict=True)]
    return {
        name: made.windows.amplitude.get(name, 1.0) * ratio for name, ratio in zip(made.layout.widths, ratios, strict=True)
    }


def with_network(base: MotionGenerator, net: MotionTransformer, amplitude: Mapping[str, float]) -> MotionGenerator:
    """The base with another network and other amplitudes."""
    return MotionGenerator(
        net, base.layout, replace(base.windows, amplitude=amplitude), mean=base.mean, std=base.std, style=base.style,
        silence=base.silence, closure=base.closure, vivacity=base.vivacity, lips=base.lips, metadata=base.metadata,
    )


def identity_of(recipe: Any, base: MotionGenerator) -> dict[str, Any]:
    """What tells a run from others, for `loop.claim`: its recipe, but for its length and how often it is kept, and the start."""
    free = ("out", "steps", "log_every", "checkpoint_every")
    return {**{k: v for k, v in asdict(recipe).items() if k not in free}, "weights": fingerprint(base), "finish": finish(base)}


def save(out: Path, settings: Mapping[str, object], made: MotionGenerator) -> Path:
    """What was made, with where it comes from; complete at every moment."""
    path, partial = out / "motion.safetensors", out / "motion.part"
    made.save(partial, {**made.metadata, "post": json.dumps(dict(settings))})
    partial.rename(path)
    return path
