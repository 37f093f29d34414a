"""Rollouts and post-training, on a toy network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_media_figures import strict
from test_train import quiet
from toy import base, examples, model  # noqa: F401 - fixtures

from vivavoce.apps.verdicts import plot, table, write_verdict
from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.metrics.confidence import Interval
from vivavoce.train.data import Example
from vivavoce.train.motion import MotionRecipe, loss_weight
from vivavoce.train.policy import PolicyRecipe
from vivavoce.train.post import PostRecipe, Windows, train_post
from vivavoce.train.rollout import Rollout, RolloutRecipe, chosen, masked, read_rollouts, rollouts
from vivavoce.train.verdict import against, glance, judge_all, judge_clip

LADDER = RolloutRecipe(count=5, seconds=3.0)


@pytest.fixture(scope="module")
def rolled(base: MotionGenerator, examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> list[Rollout]:
    return rollouts(base, examples, LADDER, tmp_path_factory.mktemp("rolled"), rate_hz=25, progress=quiet)


SHORT = {"objective": "ladder_dpo", "steps": 6, "batch": 3, "log_every": 2, "checkpoint_every": 2}


def weighing(base: MotionGenerator, model: FaceModel) -> torch.Tensor:
    return loss_weight(MotionRecipe(data=Path("unused"), out=Path("unused")), base.layout, model, base.std)


def trained(
    out: Path, base: MotionGenerator, examples: list[Example], rolled: list[Rollout], model: FaceModel, **changes: object
) -> Path:
    recipe = PostRecipe(out=out, **{**SHORT, **changes})
    return train_post(recipe, base, examples, rolled, LADDER, weighing(base, model), quiet, quiet)


def test_masks_are_scattered_nested_and_as_large_as_asked_for() -> None:
    few, many = masked(997, 0.2, 3), masked(997, 0.4, 3)
    assert few.float().mean() == pytest.approx(0.2, abs=0.02)
    assert many.float().mean() == pytest.approx(0.4, abs=0.02)
    assert not (few & ~many).any()
    assert int(few.int().diff().clamp(min=0).sum()) > 20  # many windows, not one
    assert not masked(997, 0.0, 3).any()
    assert not torch.equal(many, masked(997, 0.4, 4))


def test_people_are_drawn_and_no_stretch_twice(examples: list[Example]) -> None:
    twice = [*examples, *examples, replace(examples[0], speech=None)]
    numbers = chosen(twice, RolloutRecipe(count=100), 50)
    assert len(numbers) == len(set(numbers)) == len(examples)
    assert not chosen(twice, RolloutRecipe(count=100), 101)


def test_takes_of_a_ladder_part_the_more_the_more_is_masked(
    base: MotionGenerator, examples: list[Example], rolled: list[Rollout]
) -> None:
    assert len(rolled) == LADDER.count
    for rollout in rolled:
        full, less, least = rollout.takes
        assert 0 < (full - less).abs().mean() < (full - least).abs().mean()
        assert full.shape == (min(75, len(examples[rollout.example].motion)), base.layout.width)


def test_takes_of_a_group_differ_and_come_back(base: MotionGenerator, examples: list[Example], tmp_path: Path) -> None:
    recipe = RolloutRecipe(count=2, group=3, seconds=3.0)
    seen: list[int] = []

    def stop(_what: str, done: int, _total: int | None) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollouts(base, examples, recipe, tmp_path, rate_hz=25, progress=stop)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    made = rollouts(base, examples, recipe, tmp_path, rate_hz=25, progress=lambda _, done, __: seen.append(done))
    assert [len(r.takes) for r in made] == [3, 3]
    assert min(float((r.takes[0] - r.takes[1]).abs().mean()) for r in made) > 0.01
    with pytest.raises(ValueError, match="another recipe"):
        rollouts(base, examples, replace(recipe, seed=1), tmp_path, rate_hz=25, progress=quiet)


def test_windows_hold_all_rungs_of_the_same_moment(base: MotionGenerator, examples: list[Example], rolled: list[Rollout]) -> None:
    recipe = PostRecipe(out=Path("nowhere"), objective="ladder_dpo", batch=4, prefix_noise=0.0)
    rungs = Windows(base, examples, rolled, LADDER, recipe, torch.ones(base.layout.width)).draw(np.random.default_rng(0))
    assert rungs.data.shape[:2] == (4, 4)
    for b in range(4):
        places = []
        for rollout in rolled:
            recorded = (examples[rollout.example].motion[: rollout.takes.shape[1]] - base.mean) / base.std
            for k, motion in enumerate([recorded, *rollout.takes]):
                windows = motion.unfold(0, rungs.data.shape[2], 1).transpose(1, 2)
                hits = (windows - rungs.data[k, b]).abs().amax((1, 2)) < 1e-5
                places += [(rollout.example, int(i)) for i in torch.nonzero(hits)]
        assert len(places) >= 4 and len(set(places)) == 1
    assert not torch.equal(rungs.given[0].habit, rungs.given[1].habit)
    assert not rungs.given[1].habit.any()


@pytest.mark.parametrize("changes", [
    {"objective": "sft"}, {"objective": "ladder_dpo", "reference": 0.9, "loser_hears": "masked"},
    {"objective": "forward_process", "recorded": False},
])
def test_interrupted_runs_give_the_weights_of_unbroken_ones(
    changes: dict, base: MotionGenerator, examples: list[Example], rolled: list[Rollout], model: FaceModel, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(_what: str, done: int, _total: int | None) -> None:
        if done == 5:  # behind the checkpoint of step 4, before that of step 6; a line is logged at each
            raise Stopped

    changes = {"log_every": 1, **changes}
    whole = trained(tmp_path / "whole", base, examples, rolled, model, **changes)
    recipe = PostRecipe(out=tmp_path / "broken", **{**SHORT, **changes})
    weight = weighing(base, model)

    def watch(made: MotionGenerator) -> dict[str, float]:
        return {"all": float(sum(weight.detach().double().sum() for weight in made.net.parameters()))}

    with pytest.raises(Stopped):
        train_post(recipe, base, examples, rolled, LADDER, weight, stop, quiet, watch=watch)
    broken = train_post(recipe, base, examples, rolled, LADDER, weight, quiet, quiet, watch=watch)
    seen = [json.loads(line) for line in (tmp_path / "broken" / "judged.jsonl").read_text().splitlines()]
    assert [e["step"] for e in seen] == [2, 4, 6] and len({e["all"] for e in seen}) == 3
    assert {"step": 6, **watch(MotionGenerator.load(broken))} == seen[-1]
    ours, theirs = load_file(broken), load_file(whole)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("broken", "whole")]
    assert logs[0] == logs[1]
    entries = [json.loads(line) for line in logs[1].splitlines()]
    assert [e["step"] for e in entries] == [1, 2, 3, 4, 5, 6]
    assert 0 < entries[0]["distance"] < entries[-1]["distance"]


def test_a_folder_is_of_one_run(
    base: MotionGenerator, examples: list[Example], rolled: list[Rollout], model: FaceModel, tmp_path: Path
) -> None:
    weights = trained(tmp_path / "run", base, examples, rolled, model, steps=2)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    for changes in ({"objective": "sft"}, {"seed": 1}, {"beta": 1.0}):
        with pytest.raises(ValueError, match="not of this run \\(its run"):
            trained(tmp_path / "run", base, examples, rolled, model, **{"steps": 2, **changes})
    with pytest.raises(ValueError, match="trained for 2 steps, more than the 1"):
        trained(tmp_path / "run", base, examples, rolled, model, steps=1)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    for name in ("checkpoint.pt", "motion.safetensors"):  # such as train motion left
        (tmp_path / name).mkdir()
        shutil.copy(weights.parent / name, tmp_path / name / name)
        with pytest.raises(ValueError, match=f"holds a {name} that is not of this run"):
            trained(tmp_path / name, base, examples, rolled, model, steps=2)
        assert [file.name for file in (tmp_path / name).iterdir()] == [name]
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")  # of a run that came to nothing
    trained(tmp_path / "begun", base, examples, rolled, model, steps=2)
    (weights.parent / "checkpoint.pt").write_bytes(before["checkpoint.pt"][:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        trained(tmp_path / "run", base, examples, rolled, model, steps=2)


def test_what_is_too_little_is_refused(
    base: MotionGenerator, examples: list[Example], rolled: list[Rollout], model: FaceModel, tmp_path: Path
) -> None:
    for kind in (partial(PostRecipe, objective="sft"), PolicyRecipe):
        with pytest.raises(ValueError, match="0 steps were asked for"):
            kind(out=tmp_path, steps=0)
    short = [replace(rollout, takes=rollout.takes[:, :30]) for rollout in rolled]
    with pytest.raises(ValueError, match="has 30 frames, and a window 50: give longer"):
        trained(tmp_path / "short", base, examples, short, model)


def test_damaged_takes_are_named(tmp_path: Path) -> None:
    (tmp_path / "3.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"3\.safetensors holds no takes, or it is damaged"):
        read_rollouts(tmp_path)


def test_curves_show_a_log_of_one_entry_and_tables_a_group_of_one_clip(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
    plot([tmp_path / "log.jsonl", tmp_path / "judged.jsonl"], tmp_path / "one.png")
    drawn = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).astype(int)
    assert (np.ptp(drawn, axis=2) > 60).any()  # something in colour
    alone = {"GRID": {"lip_corr": Interval(value=0.5, low=float("nan"), high=float("nan"), count=1)}}
    assert table(alone, alone).splitlines()[-1] == "| lip_corr | 0.500 | +0.500 |"


def test_the_ladder_is_learned(
    base: MotionGenerator, examples: list[Example], rolled: list[Rollout], model: FaceModel, tmp_path: Path
) -> None:
    trained(tmp_path / "run", base, examples, rolled, model, steps=40, batch=8, learning_rate=3e-4, log_every=1)
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert entries[0]["loss"] == pytest.approx(6 * np.log(2), rel=1e-4)  # six pairs, and nothing is preferred yet
    assert np.mean([e["accuracy"] for e in entries[-10:]]) > 0.75
    assert np.mean([e["loss"] for e in entries[-10:]]) < 0.8 * entries[0]["loss"]


def test_verdicts_are_of_the_same_clips(base: MotionGenerator, examples: list[Example], model: FaceModel, tmp_path: Path) -> None:
    judged = judge_all(base, examples, model, quiet)
    assert [j.clip for j in judged] == [e.clip for e in examples]
    same = against(judged, judged)["all"]
    assert all(i.value == pytest.approx(0.0, abs=1e-9) for i in same.values())
    seen = glance(base, examples, model)
    assert seen.keys() == same.keys()
    # One recording of each person, two takes: with as many of all recordings it would be the medians of the whole.
    people = sorted({e.person for e in examples})
    first = [judge_clip(base, [next(e for e in examples if e.person == person)], model, 2) for person in people]
    assert seen["lip_corr"] == pytest.approx(np.nanmedian([j.figures["lip_corr"] for j in first]))
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    (tmp_path / "judged.jsonl").write_text(json.dumps({"step": 2, **seen}) + "\n")
    table = write_verdict(tmp_path, base, base, examples, model, quiet)
    assert "| lip_corr |" in table and (tmp_path / "training.png").stat().st_size > 1000
    assert strict((tmp_path / "verdict.json").read_text())["better"]["all"]["lip_corr"]["count"] == len(examples)
    write_verdict(tmp_path, base, base, examples[:1], model, quiet)  # one clip tells no interval
    alone = strict((tmp_path / "verdict.json").read_text())["figures"]["all"]["lip_corr"]
    assert alone["low"] is None and alone["high"] is None
    assert alone["value"] == pytest.approx(judged[0].figures["lip_corr"], abs=0.01)
