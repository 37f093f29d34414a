"""GRPO of the motion network: takes drawn by SDE steps, scored, and made more or less likely by how they did in their group.

On-policy throughout (Flow-GRPO, Liu et al. 2025, arXiv 2505.05470; DanceGRPO, Xue et al. 2025, arXiv 2505.07818): a batch is some
moments of recordings with what was recorded before them, and several takes of each, of a few windows, each window after the
take's own last. The first solver steps of a window are draws (`flow.sde`); the last ones are Euler's, or the noise of the last
step would be seen in the motion. What is scored is the motion as it comes out, with amplitudes, closed lips and inertia.
Guided as in use: the policy is the guided field. Left out: credit by window (a take shares its advantage), and learned rewards.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce.flow.guide import guided, pinned
from vivavoce.flow.sde import Transition, sde_step
from vivavoce.generate import MotionGenerator
from vivavoce.media.figures import to_json
from vivavoce.nets.condition import Condition
from vivavoce.nets.hearing import cut, hear_all, hear_silence
from vivavoce.nets.motion import MotionTransformer
from vivavoce.train.data import Example, Progress
from vivavoce.train.loop import Run, Schedule, claim, forget
from vivavoce.train.motion import FILES
from vivavoce.train.objectives import Loss, advantages, grpo
from vivavoce.train.post import JUDGED, Watch, distance, identity_of, look, save, with_network
from vivavoce.train.scorers import WEIGHTS, Scorer, Takes

TRIES = 8  # batches without any group that a reward tells apart, until training gives up


@dataclass(frozen=True, kw_only=True)
class PolicyRecipe:
    """``out``: checkpoint, log and weights. ``steps``: updates of the weights, ``updates`` of them on each batch of takes.

    ``groups`` moments with ``takes`` each, of ``windows`` windows. ``draws``: solver steps of a window that are draws, the first
    ones, with noise ``level``; ``share`` of all draws of a batch train. ``same_noise``: takes of a group begin with the same
    noise (DanceGRPO) and differ by the draws alone. ``clip``, ``kl``: see `objectives.grpo`. ``rewards``: weights of the
    scorers' rewards.
    """

    out: Path
    steps: int = 200
    updates: int = 2
    groups: int = 6
    takes: int = 8
    windows: int = 3
    draws: int = 3
    level: float = 0.5
    share: float = 0.6
    same_noise: bool = True
    clip: float = 1e-3
    kl: float = 0.04
    rewards: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    learning_rate: float = 3e-5
    warmup: int = 20
    person_power: float = 0.4
    log_every: int = 10
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps were asked for: give 1 or more")
        for name in ("steps", "log_every", "checkpoint_every"):
            if getattr(self, name) % self.updates:
                raise ValueError(f"{name} is {getattr(self, name)}: give a multiple of {self.updates}, the updates of a batch")
        if self.checkpoint_every % self.log_every:
            raise ValueError(f"checkpoint_every is {self.checkpoint_every}: give a multiple of {self.log_every}, log_every")
        if self.takes < 2:
            raise ValueError(f"groups of {self.takes} take have nothing to compare: give 2 or more")
        if self.updates > max(1, round(self.share * self.windows * self.draws)):
            raise ValueError(f"{self.updates} updates want as many of the draws: take fewer updates or a larger share")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One drawn step of all takes: ``before`` and ``after``, points of windows that begin with ``prefix``; ``speech``: what each
    group heard; ``old``: log-probability of the step when it was drawn."""

    speech: Float[Tensor, "g s v"]
    prefix: Float[Tensor, "g k p d"]
    before: Float[Tensor, "g k t d"]
    after: Float[Tensor, "g k t d"]
    time: float
    dt: float
    old: Float[Tensor, "g k"]

    def of(self, kept: Bool[Tensor, " g"]) -> Draw:
        """That of some groups only."""
        parts = {name: vars(self)[name][kept] for name in ("speech", "prefix", "before", "after", "old")}
        return replace(self, **parts)


class Moments:
    """Moments of recordings: what is heard in each window, the motion before, and what the person did."""

    def __init__(self, generator: MotionGenerator, examples: Sequence[Example], recipe: PolicyRecipe):
        """ValueError where no recording with speech is long enough."""
        windows, self.levels = generator.windows, generator.net.config.levels
        self.prefix, self.hop, self.count = windows.prefix, windows.hop, recipe.windows
        self.frames = self.prefix + self.hop * recipe.windows
        self.examples, self.generator = examples, generator
        self.silence = hear_silence(generator.silence, self.levels)
        people: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            if example.speech is not None and len(example.motion) >= self.frames:
                people.setdefault(example.person, []).append(i)
        if not people:
            raise ValueError(f"no recording with speech has {self.frames} frames without a cut: take fewer windows")
        self.people = list(people.values())
        share = np.array([sum(len(examples[i].motion) for i in group) for group in self.people]) ** recipe.person_power
        self.share = share / share.sum()

    def draw(self, rng: np.random.Generator) -> tuple[Example, int, list[Float[Tensor, "s v"]], Float[Tensor, "p d"]]:
        """An example, the frame that its takes begin at, what each window hears, and the normalised motion before them."""
        group = self.people[int(rng.choice(len(self.people), p=self.share))]
        example = self.examples[group[int(rng.integers(len(group)))]]
        assert example.speech is not None
        begin, levels = int(rng.integers(len(example.motion) - self.frames + 1)), self.levels
        heard, windows = hear_all(example.speech, levels), []
        for w in range(self.count):
            at = example.first + levels.stride * (begin + w * self.hop)
            span = range(at - levels.history, at + levels.stride * (self.prefix + self.hop - 1) + 1 + levels.lookahead)
            windows.append(cut(heard, span, self.silence))
        before = (example.motion[begin : begin + self.prefix] - self.generator.mean) / self.generator.std
        return example, begin + self.prefix, windows, before


def transition(
    net: MotionTransformer, generator: MotionGenerator, draw: Draw, condition: Condition, noise: Tensor, level: float
) -> Transition:
    """The guided network's step from ``draw.before``, groups and takes flattened; ``condition`` is of the groups."""
    takes = draw.before.shape[1]
    each = for_takes(condition, takes)
    field = pinned(guided(net, {"speech": generator.windows.guidance}), draw.prefix.flatten(0, 1))

    def velocity(point: Tensor, time: float) -> Tensor:
        return field(point, torch.full(point.shape[:2], time), each)

    return sde_step(velocity, draw.before.flatten(0, 1), draw.time, draw.dt, level=level, noise=noise)


def listened(net: MotionTransformer, generator: MotionGenerator, speech: Float[Tensor, "g s v"], frames: int) -> Condition:
    """What the groups hear, at the default style."""
    yes = torch.ones(len(speech), dtype=torch.bool)
    return net.listen(speech, generator.style.expand(len(speech), -1), frames, has_speech=yes, has_style=yes)


def for_takes(condition: Condition, takes: int) -> Condition:
    """The condition of each group for all its takes, side by side."""

    def repeated(part: Tensor) -> Tensor:
        return part.repeat_interleave(takes, 0)

    return replace(
        condition, speech=tuple(map(repeated, condition.speech)), estimate=repeated(condition.estimate),
        style=repeated(condition.style),
    )


def fresh(draw: Draw) -> Bool[Tensor, "n t"]:
    """The frames of a flattened window that are made, not known."""
    groups, takes, frames = draw.before.shape[:3]
    return (torch.arange(frames) >= draw.prefix.shape[2]).expand(groups * takes, -1)


@torch.no_grad()
def act(
    net: MotionTransformer, generator: MotionGenerator, speech: Sequence[Float[Tensor, "g s v"]], before: Float[Tensor, "g p d"],
    recipe: PolicyRecipe, made: torch.Generator,
) -> tuple[Float[Tensor, "g k t d"], list[Draw]]:
    """Takes of each group, normalised, and the draws that made them; ``speech``: of each window, ``before``: known motion."""
    steps, hop, width = generator.windows.steps, generator.windows.hop, before.shape[-1]
    groups, takes = len(before), recipe.takes
    prefix, draws, parts = before[:, None].expand(-1, takes, -1, -1), [], []
    for heard in speech:
        frames = prefix.shape[2] + hop
        condition = listened(net, generator, heard, frames)
        first = torch.randn(groups, 1 if recipe.same_noise else takes, hop, width, generator=made) * generator.noise_scale
        point = torch.cat([prefix, first.expand(-1, takes, -1, -1)], 2)
        for i in range(steps):
            level = recipe.level if i < recipe.draws else 0.0
            draw = Draw(
                speech=heard, prefix=prefix, before=point, after=point, time=i / steps, dt=1 / steps,
                old=point.new_zeros(groups, takes),
            )
            noise = torch.randn(groups * takes, frames, width, generator=made)
            went = transition(net, generator, draw, condition, noise, level)
            point = went.point.unflatten(0, (groups, takes))
            if level > 0:
                old = went.log_probability(went.point, fresh(draw)).unflatten(0, (groups, takes))
                draws.append(replace(draw, after=point, old=old))
        parts.append(point[:, :, -hop:])
        prefix = torch.cat([prefix, parts[-1]], 2)[:, :, hop:]
    return torch.cat(parts, 2), draws


def update_loss(
    net: MotionTransformer, anchor: MotionTransformer, generator: MotionGenerator, draws: Sequence[Draw],
    advantage: Float[Tensor, "g k"], recipe: PolicyRecipe,
) -> Loss:
    """`objectives.grpo` of several draws of the same takes, their log-probabilities computed anew."""
    now, old, gone = [], [], []
    for draw in draws:
        mask, after = fresh(draw), draw.after.flatten(0, 1)
        frames, still = draw.before.shape[2], torch.zeros_like(after)
        went = transition(net, generator, draw, listened(net, generator, draw.speech, frames), still, recipe.level)
        now.append(went.log_probability(after, mask))
        old.append(draw.old.flatten())
        with torch.no_grad():
            held = transition(anchor, generator, draw, listened(anchor, generator, draw.speech, frames), still, recipe.level)
        apart = ((went.mean - held.mean) / went.std).square().flatten(2).mean(-1)
        gone.append(0.5 * torch.where(mask, apart, 0.0).sum(1) / mask.sum(1))
    told = advantage.flatten().repeat(len(draws))
    return grpo(torch.cat(now), torch.cat(old), told, torch.cat(gone), clip=recipe.clip, kl=recipe.kl)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A batch of takes: ``rewards`` by name, ``advantage`` in their group, ``draws`` of the groups that were kept."""

    rewards: Mapping[str, Float[Tensor, "g k"]]
    advantage: Float[Tensor, "n k"]
    draws: Sequence[Draw]
    dropped: int


def batch(
    net: MotionTransformer, generator: MotionGenerator, moments: Moments, scorers: Sequence[Scorer], recipe: PolicyRecipe,
    rng: np.random.Generator,
) -> Scored:
    """Takes of new moments and how they did. ValueError where rewards and weights do not match."""
    drawn = [moments.draw(rng) for _ in range(recipe.groups)]
    speech = [torch.stack([windows[w] for _, _, windows, _ in drawn]) for w in range(recipe.windows)]
    before = torch.stack([prefix for *_, prefix in drawn])
    made = torch.Generator().manual_seed(int(rng.integers(2**62)))
    takes, draws = act(net, generator, speech, before, recipe, made)
    rewards: dict[str, list[Tensor]] = {}
    for (example, start, _, prefix), own in zip(drawn, takes, strict=True):
        group = as_shown(generator, example, start, prefix, own)
        for name, values in (pair for scorer in scorers for pair in scorer(group).items()):
            rewards.setdefault(name, []).append(values)
    if rewards.keys() != recipe.rewards.keys():
        raise ValueError(f"there are rewards for {sorted(rewards)} and weights for {sorted(recipe.rewards)}: give one for each")
    stacked = {name: torch.stack(values).float() for name, values in rewards.items()}
    found = advantages(list(stacked.values()), [recipe.rewards[name] for name in stacked])
    return Scored(
        rewards=stacked, advantage=found.values[found.kept], draws=[draw.of(found.kept) for draw in draws],
        dropped=int((~found.kept).sum()),
    )


def as_shown(
    generator: MotionGenerator, example: Example, start: int, before: Float[Tensor, "p d"], takes: Float[Tensor, "k t d"]
) -> Takes:
    """Normalised takes as they come out after ``before``, beside what was recorded."""
    assert example.speech is not None
    whole = torch.cat([before.expand(len(takes), -1, -1), takes], 1)
    first = example.first + generator.net.config.levels.stride * (start - len(before))
    motion = generator.shown(whole, example.speech, first)[:, len(before) :]
    return Takes(example=example, start=start, motion=motion, recorded=example.motion[start : start + takes.shape[1]])


def told_apart(
    net: MotionTransformer, generator: MotionGenerator, moments: Moments, scorers: Sequence[Scorer], recipe: PolicyRecipe,
    step: int,
) -> tuple[Scored, int]:
    """A batch with at least one group whose takes differ, and how many groups were dropped on the way to it."""
    dropped = 0
    for attempt in range(TRIES):
        scored = batch(net, generator, moments, scorers, recipe, np.random.default_rng((recipe.seed, step, attempt)))
        dropped += scored.dropped
        if scored.dropped < recipe.groups:
            return scored, dropped
    raise ValueError(f"no reward told the takes of {dropped} groups apart: give other rewards, more takes or a higher level")


def train_policy(
    recipe: PolicyRecipe, base: MotionGenerator, examples: Sequence[Example], scorers: Sequence[Scorer], progress: Progress,
    report: Callable[[str], None], *, watch: Watch | None = None,
) -> Path:
    """Train with checkpoints; returns the weights' path. What to watch goes to ``out/log.jsonl``: the rewards' means, groups that
    were dropped, ratios, clipped steps, KL; what ``watch`` says at every checkpoint to ``out/judged.jsonl``. A run that is
    interrupted and started again gives the curves of one that was not."""
    if recipe.draws > base.windows.steps:
        raise ValueError(f"{recipe.draws} draws in {base.windows.steps} solver steps: give as many or fewer")
    claim(recipe.out, identity_of(recipe, base), FILES)
    net, anchor = copy.deepcopy(base.net).eval(), copy.deepcopy(base.net).eval().requires_grad_(False)
    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, weight_decay=0.0, ema=0.98,
    )
    run, log = Run(net, schedule, recipe.out / "checkpoint.pt"), recipe.out / "log.jsonl"
    if run.restore():
        report(f"going on at step {run.step}")
    forget(log, run.step)
    forget(recipe.out / JUDGED, run.step)
    moments = Moments(base, examples, recipe)
    seen: list[dict[str, float]] = []
    while not run.done:
        scored, dropped = told_apart(net, base, moments, scorers, recipe, run.step)
        means = {f"reward_{name}": float(values.mean()) for name, values in scored.rewards.items()}
        for part in chosen(scored.draws, recipe, np.random.default_rng((recipe.seed, run.step, TRIES))):
            # In full precision: a ratio's clip is finer than what half precision makes of equal numbers in other batches.
            loss = update_loss(net, anchor, base, part, scored.advantage, recipe)
            run.update(loss.value)
            seen.append({"loss": float(loss.value.detach()), **loss.figures, **means, "dropped": dropped / recipe.updates})
        progress("post-training", run.step, recipe.steps)
        if run.step % recipe.log_every == 0 or run.done:
            entry = {key: float(np.mean([s[key] for s in seen])) for key in seen[0]}
            entry |= {"step": run.step, "dropped": round(sum(s["dropped"] for s in seen)), "distance": distance(net, anchor)}
            with log.open("a") as file:
                file.write(to_json(entry) + "\n")
            seen.clear()
        if run.step % recipe.checkpoint_every == 0 or run.done:
            look(watch, recipe.out, run, base)
            run.save()
    settings = {k: v for k, v in asdict(recipe).items() if k != "out"}
    made = with_network(base, run.averaged(), base.windows.amplitude)  # rewards saw motion with these: they are not matched
    return save(recipe.out, {"objective": "grpo", **settings}, made)


def chosen(draws: Sequence[Draw], recipe: PolicyRecipe, rng: np.random.Generator) -> Iterator[list[Draw]]:
    """The recipe's share of the draws, in random order, dealt out to the updates of a batch."""
    count = max(recipe.updates, round(recipe.share * len(draws)))
    order = rng.permutation(len(draws))[:count]
    for update in range(recipe.updates):
        yield [draws[i] for i in order[update :: recipe.updates]]
