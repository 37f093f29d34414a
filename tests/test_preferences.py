"""What people prefer, from their answers to weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_objectives import field, optimum, rungs
from test_train import quiet, toy_recipe
from toy import base, examples, model  # noqa: F401 - fixtures

from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.train.data import Example
from vivavoce.train.motion import loss_weight
from vivavoce.train.objectives import pair_dpo
from vivavoce.train.post import PostRecipe, Windows, train_post
from vivavoce.train.preferences import Answer, Choice, best_and_worst, read_pairs, scores
from vivavoce.train.rollout import Rollout, RolloutRecipe, as_recorded, read_rollouts, rollouts

GROUPS = RolloutRecipe(count=4, group=3, seconds=3.0)
CHOICE = Choice(example=7, clip="c7", takes=(2, 0), sync="A", naturalness="same")


def test_pairs_move_the_policy_from_the_reference_by_log_odds_over_beta() -> None:
    held = field(torch.tensor(0.2))
    found = optimum(lambda policy: pair_dpo(policy, held, rungs(1.0, -1.0, swapped=0.3), beta=2.0), 0.2, steps=80)
    assert found == pytest.approx(0.2 + math.log(0.7 / 0.3) / 4, abs=0.01)


def test_choices_come_back_and_the_last_answer_counts(tmp_path: Path) -> None:
    other = replace(CHOICE, takes=(0, 1), sync="B")
    again = replace(CHOICE, takes=(0, 2), naturalness="B")  # the same pair, shown the other way round
    (tmp_path / "pairs.jsonl").write_text(CHOICE.line() + other.line() + again.line())
    assert read_pairs(tmp_path / "pairs.jsonl") == [again, other]


@pytest.mark.parametrize(("change", "complaint"), [
    ({"sync": "left"}, "sync is 'left'"), ({"takes": [1, 1]}, "no two numbers"), ({"takes": [1]}, "no two numbers"),
    ({"takes": [True, 0]}, "no two numbers"), ({"example": "7"}, "no two numbers"), ({"mood": "A"}, "an object with"),
])
def test_wrong_lines_are_named(tmp_path: Path, change: dict, complaint: str) -> None:
    row = {**json.loads(CHOICE.line()), **change}
    (tmp_path / "pairs.jsonl").write_text(CHOICE.line() + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"line 2: .*{complaint}"):
        read_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text(CHOICE.line()[:-5])
    for damaged in (CHOICE.line()[:-5].encode(), CHOICE.line().encode("utf-16"), b"[" * 99999):
        (tmp_path / "pairs.jsonl").write_bytes(damaged)
        with pytest.raises(ValueError, match="line 1: "):
            read_pairs(tmp_path / "pairs.jsonl")


def test_best_and_worst_of_three_takes() -> None:
    def choice(a: int, b: int, sync: Answer, naturalness: Answer, example: int = 0) -> Choice:
        return Choice(example=example, clip=f"c{example}", takes=(a, b), sync=sync, naturalness=naturalness)

    told = [choice(0, 1, "A", "A"), choice(2, 0, "A", "same"), choice(1, 2, "B", "B")]
    flat = [choice(0, 1, "A", "B", 1)]
    found = scores([*told, *flat])
    assert found[0] == pytest.approx({0: 0.25, 1: -1.0, 2: 0.75})
    assert found[1] == {0: 0.0, 1: 0.0}
    takes = torch.arange(3.0)[:, None, None].expand(3, 5, 2)
    rolled = [Rollout(example=i, takes=takes) for i in range(2)]
    clips = [Example(person="p", clip=f"c{i}", motion=takes[0], speech=None, first=0, style=torch.zeros(3)) for i in range(2)]
    (best,) = best_and_worst([*told, *flat], rolled, clips)
    assert best.example == 0
    assert best.takes[:, 0, 0].tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="no take 3"):
        best_and_worst([choice(0, 3, "A", "A")], rolled, clips)
    with pytest.raises(ValueError, match="was 'c1' and is 'c0'"):
        best_and_worst([replace(told[0], clip="c1")], rolled, clips)


def test_only_what_sounds_as_recorded_is_judged(examples: list[Example]) -> None:
    first, second = examples[:2]
    disguised = replace(first, speech=first.speech + 1, motion=first.motion + 1)
    found = as_recorded([first, disguised, first, second, replace(second, speech=None)])
    assert [e.speech is None for e in found] == [False, True, False, False, True]
    assert found[2].motion is first.motion


def test_what_people_preferred_becomes_likelier(
    base: MotionGenerator, examples: list[Example], model: FaceModel, tmp_path: Path
) -> None:
    """Somebody who likes the higher of two takes' first coefficients."""
    rolled = rollouts(base, examples, GROUPS, tmp_path / "groups", rate_hz=25, progress=quiet)
    kept = read_rollouts(tmp_path / "groups")
    assert [k.example for k in kept] == sorted(r.example for r in rolled)
    choices = []
    for rollout in rolled:
        level = rollout.takes[..., 0].mean(1)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            answer: Answer = "A" if level[a] > level[b] else "B"
            choices.append(Choice(
                example=rollout.example, clip=examples[rollout.example].clip, takes=(a, b), sync=answer, naturalness=answer,
            ))
    (tmp_path / "pairs.jsonl").write_text("".join(c.line() for c in choices))
    pairs = best_and_worst(read_pairs(tmp_path / "pairs.jsonl"), kept, examples)
    assert [len(p.takes) for p in pairs] == [2] * GROUPS.count
    assert all(p.takes[0, :, 0].mean() > p.takes[1, :, 0].mean() for p in pairs)
    recipe = PostRecipe(
        out=tmp_path / "run", objective="pair_dpo", recorded=False, steps=30, batch=8, learning_rate=3e-3, warmup=4, log_every=1
    )
    weight = loss_weight(toy_recipe(tmp_path / "unused", model), base.layout, model, base.std)
    rungs = Windows(base, examples, pairs, GROUPS, recipe, weight).draw(np.random.default_rng(0))
    assert rungs.data.shape[:2] == (2, 8)
    train_post(recipe, base, examples, pairs, GROUPS, weight, quiet, quiet)
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert entries[0]["loss"] == pytest.approx(np.log(2), rel=1e-4)
    assert np.mean([e["accuracy"] for e in entries[-10:]]) > 0.75


def test_a_pair_is_of_takes_alone() -> None:
    with pytest.raises(ValueError, match="recorded=False"):
        PostRecipe(out=Path("nowhere"), objective="pair_dpo")
