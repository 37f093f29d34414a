"""`vivavoce bench post`: ways of post-training side by side, from one start, on the same recordings, for as many steps.

Every way is run with several seeds and judged on other people's recordings (`verdict`); docs/post-training.md has what came out.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.figures import from_json, to_json
from vivavoce.metrics.confidence import Interval
from vivavoce.train.data import Example, Progress
from vivavoce.train.loop import mixed_precision
from vivavoce.train.motion import MotionRecipe, loss_weight
from vivavoce.train.policy import PolicyRecipe, train_policy
from vivavoce.train.post import PostRecipe, train_post
from vivavoce.train.preferences import best_and_worst, chosen_by
from vivavoce.train.rollout import Rollout, RolloutRecipe, as_recorded, fingerprint, rollouts
from vivavoce.train.scorers import CHOOSING, REWARDS, composed, rewarded
from vivavoce.train.verdict import Judged, against, judge_all, summary

TAKES_OF_A_GROUP = 4  # that scorers, or the stand-in for people, compare


@dataclass(frozen=True, kw_only=True)
class Way:
    """What is changed in the recipe (`PostRecipe`, or `PolicyRecipe` for GRPO) and in the rollouts (`RolloutRecipe`)."""

    says: str
    objective: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    rollouts: Mapping[str, Any] = field(default_factory=dict)


HELD = {"beta": 1000.0, "sft_weight": 1.0, "norm_weight": 2.0}  # from likelihood displacement, and from inflated velocities
OWN = {**HELD, "recorded": False}
WAYS: Mapping[str, Way] = {
    "sft": Way(says="SFT on the recordings", objective="sft"),
    "ladder": Way(says="ladder DPO, recording on top, held", objective="ladder_dpo", recipe=HELD),
    "ladder-own": Way(says="ladder DPO, own takes only, held", objective="ladder_dpo", recipe=OWN),
    "forward": Way(says="forward process, recording on top", objective="forward_process"),
    "forward-own": Way(says="forward process, own takes only", objective="forward_process", recipe={"recorded": False}),
    "forward-sft": Way(
        says="forward process, recording on top and on its own", objective="forward_process", recipe={"sft_weight": 0.5}
    ),
    "forward-scored": Way(
        says="forward process, own takes, rewards from scorers", objective="forward_process",
        recipe={"recorded": False, "rewards": "scores"}, rollouts={"group": TAKES_OF_A_GROUP},
    ),
    "pairs": Way(
        says="pair DPO on choices of a stand-in for people, held", objective="pair_dpo", recipe=OWN,
        rollouts={"group": TAKES_OF_A_GROUP},
    ),
    "grpo": Way(
        says="GRPO on the composite reward", objective="grpo",
        recipe={"groups": 4, "takes": 6, "windows": 2, "learning_rate": 1e-4},
    ),
    "free": Way(says="ladder DPO, recording on top, not held", objective="ladder_dpo", recipe={"beta": 200.0}),
    "own-ends": Way(says="own takes, ends only", objective="ladder_dpo", recipe={**OWN, "pairs": "ends"}),
    "own-ema": Way(says="own takes, reference a moving average", objective="ladder_dpo", recipe={**OWN, "reference": 0.98}),
    "own-masked": Way(
        says="own takes, losers under their own condition", objective="ladder_dpo", recipe={**OWN, "loser_hears": "masked"}
    ),
    "own-10-20": Way(
        says="own takes, masks 0/10/20", objective="ladder_dpo", recipe=OWN, rollouts={"ratios": (0.0, 0.1, 0.2)}
    ),
    "own-40-80": Way(
        says="own takes, masks 0/40/80", objective="ladder_dpo", recipe=OWN, rollouts={"ratios": (0.0, 0.4, 0.8)}
    ),
    "forward-ema": Way(
        says="forward process, recording on top, v_old a moving average", objective="forward_process", recipe={"reference": 0.98}
    ),
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``out``: rollouts and a folder per run. ``count``: recorded stretches that are rolled out."""

    out: Path
    steps: int = 150
    seeds: int = 3
    ways: tuple[str, ...] = tuple(WAYS)
    count: int = RolloutRecipe.count

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seeds < 1:
            raise ValueError(f"{self.steps} steps and {self.seeds} seeds were asked for: give at least one of each")
        if self.count < 1:
            raise ValueError(f"{self.count} stretches were asked for: give 1 or more")
        unknown = [name for name in self.ways if name not in WAYS]
        if unknown:
            raise ValueError(f"no way of post-training is called {unknown[0]!r}: give some of {', '.join(WAYS)}")
        for name in self.ways:
            self.recipe(name, 0)  # which refuses steps that will not do

    def folder(self, name: str, seed: int) -> Path:
        """Of one run; it tells way, steps and seed, so that other runs are not mistaken for it."""
        return self.out / f"{name}-{self.steps}-{seed}"

    def recipe(self, name: str, seed: int) -> PostRecipe | PolicyRecipe:
        """Of one run."""
        way, out = WAYS[name], self.folder(name, seed)
        if way.objective == "grpo":
            return PolicyRecipe(out=out, steps=self.steps, seed=seed, **way.recipe)
        return PostRecipe(out=out, objective=way.objective, steps=self.steps, seed=seed, **way.recipe)  # type: ignore[arg-type]

    def rollouts(self, way: Way) -> RolloutRecipe:
        """Those that a way learns from."""
        return replace(RolloutRecipe(count=self.count), **way.rollouts)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One run: ``figures`` by group and name, how much ``better`` than the start they are (`verdict.against`), and what was
    watched meanwhile, a row for every ten steps or so."""

    figures: Mapping[str, Mapping[str, Interval]]
    better: Mapping[str, Mapping[str, Interval]]
    watched: Sequence[Mapping[str, float]]


def compare(
    comparison: Comparison, base: MotionGenerator, model: FaceModel, examples: Mapping[str, Sequence[Example]],
    progress: Progress, report: Callable[[str], None],
) -> None:
    """Run and judge what is not there yet; ``examples``: of the splits train and val. A run that was interrupted goes on from its
    checkpoint. ValueError where the folder holds runs from another start."""
    comparison.out.mkdir(parents=True, exist_ok=True)
    mark(comparison, base)
    before: list[Judged] | None = None
    for seed in range(comparison.seeds):
        for name in comparison.ways:
            done = comparison.folder(name, seed) / "figures.json"
            if not done.exists():
                report(f"{WAYS[name].says}, seed {seed}")
                weights = train_way(comparison, name, seed, base, model, examples["train"], progress, report)
                with mixed_precision():
                    before = before or judge_all(base, examples["val"], model, progress)
                    after = judge_all(MotionGenerator.load(weights), examples["val"], model, progress)
                write_finding(done, after, before)
                del after
                gc.collect()


def mark(comparison: Comparison, base: MotionGenerator) -> None:
    """Tell the folder what its runs begin with; ValueError where they began with something else."""
    stamp = json.dumps({"weights": fingerprint(base), "count": comparison.count})
    file = comparison.out / "start.json"
    if file.exists() and file.read_text() != stamp:
        raise ValueError(f"{comparison.out} holds runs from other weights or stretches: give another folder, or remove it")
    file.write_text(stamp)


def train_way(
    comparison: Comparison, name: str, seed: int, base: MotionGenerator, model: FaceModel, examples: Sequence[Example],
    progress: Progress, report: Callable[[str], None],
) -> Path:
    """One run; its weights' path."""
    way, recipe = WAYS[name], comparison.recipe(name, seed)
    if isinstance(recipe, PolicyRecipe):
        return train_policy(recipe, base, examples, [composed(REWARDS, base, model)], progress, report)
    if way.objective == "pair_dpo" or recipe.rewards == "scores":
        examples = as_recorded(examples)  # a person would hear the recording's own sound
    ladder = comparison.rollouts(way)
    rolled = kept_rollouts(comparison, ladder, base, examples, progress)
    if way.objective == "pair_dpo":
        choices = chosen_by(CHOOSING, rolled, examples, base, model)
        rolled = best_and_worst(choices, rolled, examples)
        report(f"{len(choices)} choices; in {len(rolled)} stretches a take is better than another")
    if recipe.rewards == "scores":
        rolled = rewarded(rolled, examples, base, model)
        report(f"takes of {len(rolled)} stretches were told apart by rewards")
    weight = loss_weight(MotionRecipe(data=comparison.out, out=comparison.out), base.layout, model, base.std)
    return train_post(recipe, base, examples, rolled, ladder, weight, progress, report)


def kept_rollouts(
    comparison: Comparison, ladder: RolloutRecipe, base: MotionGenerator, examples: Sequence[Example], progress: Progress
) -> list[Rollout]:
    """Made once for all ways that want the same."""
    kind = f"group-{ladder.group}" if ladder.group else "masks-" + "-".join(f"{100 * r:.0f}" for r in ladder.ratios)
    with mixed_precision():
        folder = comparison.out / f"rollouts-{kind}"
        return rollouts(base, examples, ladder, folder, rate_hz=MOTION_RATE_HZ, progress=progress)


def write_finding(path: Path, after: Sequence[Judged], before: Sequence[Judged]) -> None:
    """Figures of a run, beside its log."""
    parts = {"figures": summary(after), "better": against(after, before)}
    named = {k: {g: {n: asdict(i) for n, i in row.items()} for g, row in v.items()} for k, v in parts.items()}
    partial = path.with_suffix(".part")
    partial.write_text(to_json(named, indent=1))
    partial.rename(path)


def read_finding(folder: Path) -> Finding:
    """What `write_finding` wrote, with the log of the run."""
    kept = from_json((folder / "figures.json").read_text())
    parts = {
        k: {g: {n: Interval(**i) for n, i in row.items()} for g, row in kept[k].items()} for k in ("figures", "better")
    }
    watched = [from_json(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return Finding(figures=parts["figures"], better=parts["better"], watched=watched)


def findings(comparison: Comparison) -> dict[str, list[Finding]]:
    """All runs that are done, by way."""
    folders = {name: [comparison.folder(name, seed) for seed in range(comparison.seeds)] for name in comparison.ways}
    found = {name: [read_finding(f) for f in every if (f / "figures.json").exists()] for name, every in folders.items()}
    return {name: runs for name, runs in found.items() if runs}
