"""`vivavoce train post`: options to recipes, and what each objective needs before it can begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivavoce.apps.clips import Stage
from vivavoce.apps.model_judge import CRITERIA, ModelJudge, judged
from vivavoce.apps.parts import shipped
from vivavoce.apps.progress import Bar, Lines
from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.motion_space import MotionSpace
from vivavoce.media.files import require_file
from vivavoce.media.portrait import Portrait
from vivavoce.train.data import Example, read_manifest
from vivavoce.train.loop import claim
from vivavoce.train.motion import FILES, MotionRecipe, loss_weight
from vivavoce.train.policy import PolicyRecipe, train_policy
from vivavoce.train.post import PostRecipe, Watch, identity_of, train_post
from vivavoce.train.preferences import best_and_worst, read_pairs
from vivavoce.train.rollout import Rollout, RolloutRecipe, as_recorded, fingerprint, made_by, read_rollouts, rollouts
from vivavoce.train.scorers import REGULARISERS, REWARDS, WEIGHTS, composed, rewarded

if TYPE_CHECKING:
    from vivavoce.apps.cli_train import TrainPost

Report = Bar | Lines
Trainer = Callable[[Sequence[Example], Report, Watch], Path]
"""Examples of the split `train` to weights, watched on the way."""

PAIRS, GROUPS = "pairs.jsonl", "groups"  # of `vivavoce prefer`, in its output folder
SCORED_TAKES = 4  # of a stretch, that rewards compare
JUDGED_PIXELS = 256  # sides of what the judge sees
# A judge wants to see a sentence's worth, and each take costs a request.
JUDGED_RECIPE: dict[str, Any] = {"groups": 2, "takes": 6, "windows": 4}


def check(options: TrainPost) -> None:
    """ValueError or OSError where options do not go together, before anything is begun."""
    if options.objective == "pair_dpo":
        require_file(_pairs(options), "file of answers of `vivavoce prefer`")
    elif options.pairs is not None:
        raise ValueError(f"--pairs goes with --objective pair_dpo, not {options.objective}: leave one of them out")
    if options.rewards == "scores" and options.objective != "forward_process":
        raise ValueError(f"--rewards goes with --objective forward_process, not {options.objective}: leave it out")
    told = [options.judge is not None, options.model is not None, options.portrait is not None]
    if any(told) and options.objective != "grpo":
        raise ValueError(f"--judge, --model and --portrait go with --objective grpo, not {options.objective}: leave them out")
    if any(told) and not all(told):
        raise ValueError("a judge needs --judge URL, --model NAME and --portrait PORTRAIT: give all three")


def trainer(options: TrainPost, base: MotionGenerator, model: FaceModel) -> Trainer:
    """What the options ask for, ready to begin, its folder made and told what it is of; ValueError where a recipe, the judge's
    address, the portrait or the folder will not do."""
    if options.objective == "grpo":
        return _grpo(options, base, model)
    recipe = PostRecipe(
        out=options.output, objective=options.objective, seed=options.seed, rewards=options.rewards,
        recorded=options.objective != "pair_dpo" and options.rewards == "ladder",
    )
    recipe = recipe if options.steps is None else replace(recipe, steps=options.steps)
    if options.objective == "pair_dpo":
        _check_weights(_pairs(options).parent / GROUPS, base)
    claim(recipe.out, identity_of(recipe, base), FILES)
    motion = MotionRecipe(data=options.data, out=options.output)
    ladder = RolloutRecipe(group=SCORED_TAKES if options.rewards == "scores" else 0)

    def train(examples: Sequence[Example], report: Report, watch: Watch) -> Path:
        if options.objective == "pair_dpo":
            rolled = preferred(_pairs(options), examples, report.say)
        else:
            examples = as_recorded(examples) if options.rewards == "scores" else examples
            rolled = rollouts(base, examples, ladder, options.output / "rollouts", rate_hz=MOTION_RATE_HZ, progress=report)
        if options.rewards == "scores":
            rolled = rewarded(rolled, examples, base, model)
        weight = loss_weight(motion, base.layout, model, base.std)
        return train_post(recipe, base, examples, rolled, ladder, weight, report, report.say, watch=watch)

    return train


def _check_weights(groups: Path, base: MotionGenerator) -> None:
    """ValueError where people compared takes of other weights: a reference that would not have made them tells nothing of how
    likely they were."""
    made = made_by(groups)
    if made is not None and made != fingerprint(base):
        raise ValueError(
            f"the takes in {groups} were made by other weights than those that are given: give with --weights the folder that "
            "`vivavoce prefer` was given"
        )


def preferred(pairs: Path, examples: Sequence[Example], say: Callable[[str], None]) -> list[Rollout]:
    """The best and the worst take of each recording that people judged, of the takes beside the pairs file."""
    choices = read_pairs(pairs)
    rolled = best_and_worst(choices, read_rollouts(pairs.parent / GROUPS), examples)
    judged = len({choice.example for choice in choices})
    if not rolled:
        raise ValueError(f"{pairs} tells the takes of none of {judged} recordings apart: judge more with `vivavoce prefer`")
    say(f"{len(choices)} pairs of {judged} recordings were judged; in {len(rolled)} of these a take is better than another")
    return rolled


def _grpo(options: TrainPost, base: MotionGenerator, model: FaceModel) -> Trainer:
    recipe = PolicyRecipe(out=options.output, seed=options.seed)
    recipe = recipe if options.steps is None else replace(recipe, steps=options.steps)
    if options.judge is None or options.model is None or options.portrait is None:
        claim(recipe.out, identity_of(recipe, base), FILES)
        scorer = composed(REWARDS, base, model)
        return lambda examples, report, watch: train_policy(
            recipe, base, examples, [scorer], report, report.say, watch=watch
        )
    own = (options.weights or shipped()) / "face.safetensors"
    space = MotionSpace.load(own if own.is_file() else shipped() / own.name, shipped() / "renderer.safetensors")
    reference = space.reference(Portrait.open(options.portrait), size=JUDGED_PIXELS, crop=True)
    stage = Stage(space, reference, base, {clip.name: clip for clip in read_manifest(options.data, "train")})
    judge = ModelJudge.of(options.judge, options.model, options.output / "scores")
    scorers = [judged(judge, stage), composed(REGULARISERS, base, model)]
    weights = {**{f"judge_{name}": 1.0 for name in CRITERIA}, **{name: WEIGHTS[name] for name in REGULARISERS}}
    recipe = replace(recipe, rewards=weights, **JUDGED_RECIPE)
    claim(recipe.out, identity_of(recipe, base), FILES)
    return lambda examples, report, watch: train_policy(
        recipe, base, as_recorded(examples), scorers, report, report.say, watch=watch
    )


def _pairs(options: TrainPost) -> Path:
    return options.pairs or options.output / PAIRS
