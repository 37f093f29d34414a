"""Ways of post-training side by side: their recipes, that runs go on, the table and the pictures; and the stand-in for people."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_media_figures import strict
from test_train import quiet
from toy import base, examples, model  # noqa: F401

from vivavoce.apps import bench_post
from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.metrics.confidence import Interval
from vivavoce.train import comparison as module
from vivavoce.train.comparison import WAYS, Comparison, Finding, compare, findings
from vivavoce.train.data import Example
from vivavoce.train.preferences import best_and_worst, chosen_by
from vivavoce.train.rollout import Rollout
from vivavoce.train.scorers import CHOOSING, rewarded


def test_unknown_ways_and_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"called 'dpo'.*sft, ladder"):
        Comparison(out=tmp_path, ways=("dpo",))
    with pytest.raises(ValueError, match="0 steps"):
        Comparison(out=tmp_path, steps=0)
    with pytest.raises(ValueError, match="0 stretches"):
        Comparison(out=tmp_path, count=0)
    with pytest.raises(ValueError, match="steps is 151: give a multiple of 2"):
        Comparison(out=tmp_path, steps=151)


def test_runs_are_made_once_and_told_in_tables_and_pictures(
    tmp_path: Path, base: MotionGenerator, model: FaceModel, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = replace(examples[0], clip="v", person="p")
    comparison = Comparison(out=tmp_path, steps=4, seeds=2, ways=("sft", "pairs", "forward-scored"), count=3)
    for name in ("pairs", "forward-scored"):
        monkeypatch.setitem(WAYS, name, replace(WAYS[name], recipe={**WAYS[name].recipe, "batch": 2}))
    told: list[str] = []
    sets = {"train": examples, "val": [judged]}
    compare(comparison, base, model, sets, quiet, told.append)
    assert [line for line in told if "seed" in line] == [f"{WAYS[w].says}, seed {s}" for s in (0, 1) for w in comparison.ways]

    def again(*args: object) -> Path:
        raise AssertionError("a finished run was made again")

    monkeypatch.setattr(module, "train_way", again)
    compare(comparison, base, model, sets, quiet, told.append)
    with pytest.raises(ValueError, match="other weights or stretches: give another folder"):
        compare(replace(comparison, count=2), base, model, sets, quiet, told.append)
    found = findings(comparison)
    assert {way: len(runs) for way, runs in found.items()} == {"sft": 2, "pairs": 2, "forward-scored": 2}
    kept = strict((comparison.folder("sft", 0) / "figures.json").read_text())["better"]["all"]["lip_corr"]
    assert kept["low"] is None  # of one clip
    assert math.isnan(found["sft"][0].better["all"]["lip_corr"].low)
    first = bench_post.write(found, tmp_path, "post-4")
    assert first.count("\n") == 5 and WAYS["pairs"].says in first
    assert (tmp_path / "post-4.md").read_text().startswith("## ")
    for picture in ("post-4.png", "post-4-training.png"):
        assert (tmp_path / picture).stat().st_size > 5000


def test_cells_tell_mean_range_and_stars() -> None:
    def finding(value: float, low: float, high: float) -> Finding:
        row = dict.fromkeys(bench_post.NAMES, Interval(value=value, low=low, high=high, count=9))
        return Finding(figures={}, better={"all": row}, watched=[])

    runs = {"sft": [finding(0.1, 0.05, 0.2), finding(0.3, -0.1, 0.5)], "ladder": [finding(-0.2, -0.3, -0.1)]}
    lines = bench_post.table(runs, "all").splitlines()
    assert lines[2].split(" | ")[1:3] == ["+20 % (+10 % to +30 %) *", "+0.200 (+0.100 to +0.300) *"]
    assert lines[3].split(" | ")[2] == "-0.200 [-0.300, -0.100] *"


def test_the_stand_in_and_rewards_prefer_what_is_nearer_to_the_recording(
    base: MotionGenerator, model: FaceModel, examples: list[Example]
) -> None:
    number = next(i for i, e in enumerate(examples) if e.speech is not None)
    recorded = (examples[number].motion - base.mean) / base.std
    noise = torch.randn(recorded.shape, generator=torch.Generator().manual_seed(0))
    rolled = [Rollout(example=number, takes=torch.stack([recorded + 2 * noise, recorded, recorded + noise]))]
    scored, = rewarded(rolled, examples, base, model)
    assert scored.rewards is not None and float(scored.rewards.min()) >= 0 and float(scored.rewards.max()) <= 1
    assert scored.rewards.argsort().tolist() == [0, 2, 1]  # the noisier, the worse
    alike = Rollout(example=number, takes=recorded.expand(3, -1, -1))
    assert rewarded([alike], examples, base, model) == []
    choices = chosen_by(CHOOSING, rolled, examples, base, model)
    assert [choice.takes for choice in choices] == [(0, 1), (0, 2), (1, 2)]
    (pair,) = best_and_worst(choices, rolled, examples)
    assert torch.equal(pair.takes, rolled[0].takes[[1, 0]])


