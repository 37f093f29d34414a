"""GRPO: scorers that are best for the recording, draws whose probabilities are known, rewards that rise."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_train import quiet
from toy import base, examples, model  # noqa: F401 - fixtures

from vivavoce.flow.guide import with_prefix
from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.train.data import Example
from vivavoce.train.policy import Moments, PolicyRecipe, Takes, act, batch, train_policy, update_loss
from vivavoce.train.scorers import REWARDS, WEIGHTS, composed, face_of

RECIPE = PolicyRecipe(
    out=Path("nowhere"), steps=8, groups=2, takes=4, windows=2, draws=2, share=0.5, log_every=2, checkpoint_every=4, warmup=1,
    rewards={"high": 1.0},
)


def high(takes: Takes) -> dict[str, torch.Tensor]:
    """Somebody who likes open mouths."""
    return {"high": takes.motion[..., 0].mean(1)}


def asked(moments: Moments, recipe: PolicyRecipe, seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    rng = np.random.default_rng(seed)
    drawn = [moments.draw(rng) for _ in range(recipe.groups)]
    return [torch.stack([d[2][w] for d in drawn]) for w in range(recipe.windows)], torch.stack([d[3] for d in drawn])


def test_nothing_scores_better_than_the_recording(base: MotionGenerator, model: FaceModel) -> None:
    made = torch.Generator().manual_seed(0)
    recorded = torch.randn(60, base.layout.width, generator=made).cumsum(0) * 0.1
    changed = {
        "late": recorded.roll(4, 0), "still": recorded.mean(0).expand(60, -1), "overdone": 2 * recorded,
        "trembling": recorded + 0.3 * torch.randn(recorded.shape, generator=made),
    }
    real = face_of(recorded, base, model)
    for name, figure in REWARDS.items():
        assert figure(real, real) == 0.0, name
        for how, motion in changed.items():
            lost = figure(face_of(motion, base, model), real)
            if (name, how) == ("temporal", "still"):
                assert lost == 0.0  # standing still is not paid, but not punished by this one either
            elif (name, how) not in {("expressiveness", "late"), ("motion_quality", "late"), ("temporal", "late")}:
                assert lost < -1e-3, (name, how)
    assert REWARDS.keys() == WEIGHTS.keys()


def test_without_draws_takes_are_the_samplers_own(base: MotionGenerator, examples: list[Example]) -> None:
    recipe = replace(RECIPE, draws=0, windows=1, updates=1, share=0.0, same_noise=False)
    (speech,), before = asked(Moments(base, examples, recipe), recipe)
    takes, draws = act(base.net, base, [speech], before, recipe, torch.Generator().manual_seed(3))
    assert draws == []
    windows = base.windows
    shape = (recipe.groups, recipe.takes, windows.hop, base.layout.width)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    for g in range(recipe.groups):
        prefix = before[g].expand(recipe.takes, -1, -1)
        with torch.no_grad():
            expected = base._solved(speech[g][None], prefix, noise[g], windows.steps, windows.guidance)
        torch.testing.assert_close(takes[g], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(with_prefix(torch.cat([prefix, takes[g]], 1), prefix)[:, windows.prefix :], takes[g])


def test_takes_that_begin_alike_part_by_their_draws_alone(base: MotionGenerator, examples: list[Example]) -> None:
    apart = {}
    for same_noise in (True, False):
        recipe = replace(RECIPE, same_noise=same_noise, level=1e-4)
        speech, before = asked(Moments(base, examples, recipe), recipe)
        takes, draws = act(base.net, base, speech, before, recipe, torch.Generator().manual_seed(0))
        assert takes.shape == (2, 4, recipe.windows * base.windows.hop, base.layout.width)
        assert len(draws) == recipe.windows * recipe.draws
        apart[same_noise] = float((takes[:, 0] - takes[:, 1]).abs().mean())
    assert apart[True] < 1e-2 * apart[False]


def test_probabilities_are_those_of_the_draws_until_the_policy_moves(
    base: MotionGenerator, examples: list[Example]
) -> None:
    scored = batch(base.net, base, Moments(base, examples, RECIPE), [high], RECIPE, np.random.default_rng(0))
    net = copy.deepcopy(base.net)
    loss = update_loss(net, base.net, base, scored.draws, scored.advantage, RECIPE)
    assert loss.figures["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert loss.figures["clipped"] == 0.0
    assert loss.figures["kl"] == pytest.approx(0.0, abs=1e-8)
    loss.value.backward()
    with torch.no_grad():
        for weight in net.parameters():
            weight -= 3e-3 * weight.grad / weight.grad.norm().clamp(min=1e-9)
    after = update_loss(net, base.net, base, scored.draws, scored.advantage, replace(RECIPE, kl=0.0, clip=1.0))
    before = update_loss(base.net, base.net, base, scored.draws, scored.advantage, replace(RECIPE, kl=0.0, clip=1.0))
    assert float(after.value.detach()) < float(before.value.detach())
    assert after.figures["kl"] > 0


def test_the_reward_rises(base: MotionGenerator, examples: list[Example], tmp_path: Path) -> None:
    recipe = replace(RECIPE, out=tmp_path, steps=24, learning_rate=2e-3, clip=0.1, kl=0.0, groups=3, checkpoint_every=8)
    better = MotionGenerator.load(train_policy(recipe, base, examples, [high], quiet, quiet))
    moments, fixed = Moments(base, examples, recipe), replace(recipe, groups=6, level=0.0, draws=0, updates=1, same_noise=False)
    means = [
        float(batch(g.net, base, moments, [high], fixed, np.random.default_rng(7)).rewards["high"].mean()) for g in (base, better)
    ]
    assert means[1] > means[0] + 0.1 * float(base.std[0])
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"reward_high", "ratio", "clipped", "kl", "dropped", "distance", "loss"} < entries[0].keys()
    assert "grpo" in better.metadata["post"]


def test_interrupted_runs_give_the_curves_of_unbroken_ones(
    base: MotionGenerator, examples: list[Example], model: FaceModel, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(_what: str, done: int, _total: int | None) -> None:
        if done == 6:
            raise Stopped

    recipe, scorer = replace(RECIPE, rewards=WEIGHTS), composed(REWARDS, base, model)
    whole = train_policy(replace(recipe, out=tmp_path / "whole"), base, examples, [scorer], quiet, quiet)
    broken = replace(recipe, out=tmp_path / "broken")
    with pytest.raises(Stopped):
        train_policy(broken, base, examples, [scorer], stop, quiet)
    again = train_policy(broken, base, examples, [scorer], quiet, quiet)
    ours, theirs = load_file(again), load_file(whole)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("broken", "whole")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [2, 4, 6, 8]


def test_flat_groups_are_dropped_and_counted(base: MotionGenerator, examples: list[Example], tmp_path: Path) -> None:
    def moody(takes: Takes) -> dict[str, torch.Tensor]:
        return high(takes) if takes.example.person == "p0" else {"high": torch.zeros(len(takes.motion))}

    recipe = replace(RECIPE, out=tmp_path / "run", groups=6, steps=2, checkpoint_every=2)
    scored = batch(base.net, base, Moments(base, examples, recipe), [moody], recipe, np.random.default_rng(0))
    flat = int((scored.rewards["high"].std(1) == 0).sum())
    assert 0 < flat == scored.dropped < 6
    assert len(scored.advantage) == len(scored.draws[0].before) == 6 - flat
    train_policy(recipe, base, examples, [moody], quiet, quiet)
    (entry,) = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert entry["dropped"] == flat
    with pytest.raises(ValueError, match="no reward told the takes of 16 groups apart"):
        train_policy(replace(RECIPE, out=tmp_path / "flat"), base, examples, [lambda t: {"high": torch.ones(4)}], quiet, quiet)


def test_what_does_not_fit_is_refused(base: MotionGenerator, examples: list[Example]) -> None:
    def low(takes: Takes) -> dict[str, torch.Tensor]:
        return {"low": -high(takes)["high"]}

    with pytest.raises(ValueError, match="weights for"):
        batch(base.net, base, Moments(base, examples, RECIPE), [low], RECIPE, np.random.default_rng(0))
    with pytest.raises(ValueError, match="take fewer windows"):
        Moments(base, examples, replace(RECIPE, windows=20))
    with pytest.raises(ValueError, match="5 draws in 4 solver steps"):
        train_policy(replace(RECIPE, draws=5), base, examples, [high], quiet, quiet)
    for change in ({"steps": 7}, {"takes": 1}, {"updates": 4, "log_every": 4}, {"checkpoint_every": 6, "log_every": 4}):
        with pytest.raises(ValueError, match=r"give|take"):
            replace(RECIPE, **change)
