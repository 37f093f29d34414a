"""The study of the video engine's parts: runs differ in what they say, all is shown and kept, the table marks what is sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_video import SIDE, Loudness, make_recordings, quiet
from tiny_wan import VAE_2_1, save_vae

from vivavoce.apps import bench_video_parts
from vivavoce.apps.parts import shipped
from vivavoce.judge.pairs import Pair
from vivavoce.judge.results import Difference, Evaluation, Summary
from vivavoce.latent.mesh import FaceModel
from vivavoce.media.audio import has_sound
from vivavoce.media.video import read_frames
from vivavoce.metrics.confidence import Interval
from vivavoce.train import video_data, video_hearing, video_study
from vivavoce.train.video_clips import ClipConfig
from vivavoce.train.video_hearing import Hearing
from vivavoce.train.video_loop import make_accelerator
from vivavoce.train.video_study import (
    CEILING,
    INTENSITIES,
    RECORDED,
    TAUGHT,
    WAYS,
    Findings,
    NetShape,
    Study,
    study,
    way_recipe,
)  # fmt: skip
from vivavoce.train.video_windows import WindowConfig

pytest.importorskip("accelerate")
TINY = ("full", "pooled", "ladder")


@pytest.fixture(autouse=True)
def no_faces_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are none in what is made here, and looking for them takes minutes, as do many windows."""
    monkeypatch.setattr(video_study, "hearing", partial(video_hearing.hearing, steps=1))
    monkeypatch.setattr(video_study, "added", partial(video_hearing.added, steps=1))
    monkeypatch.setattr(video_hearing, "tracked_lips", lambda pictures: pictures.mean((2, 3))[:, :2])


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of recordings of nobody; the judge is left out, since there is no face."""
    clips, sounds = make_recordings(4, 17, FaceModel.load(shipped() / "face.safetensors"))
    clips = [replace(clip, split="val" if i > 2 else "train") for i, clip in enumerate(clips)]
    tests = [replace(clips[-1], name="taught")]
    monkeypatch.setattr(video_study, "make_clips", quiet)
    monkeypatch.setattr(video_study, "exchange_faces", lambda *_: [replace(clips[0], name="clip0+clip2", person="person2")])
    monkeypatch.setattr(video_study, "taught_clips", lambda _, __, out, *___: tests if out.name == "tests" else [])
    monkeypatch.setattr(video_study, "load_clips", lambda folder, split: tests if folder.name == "tests" else [
        clip for clip in clips if clip.split == split
    ])
    for place in (video_data, video_study):
        monkeypatch.setattr(place, "load_sound", lambda path: sounds[path])
    monkeypatch.setattr(video_study, "evaluate", lambda pairs, *_, **__: pairs)
    vae = save_vae(tmp_path / "given", **VAE_2_1 | {"z_dim": 4}) / "vae"
    return Study(
        out=tmp_path / "study", vae=vae, net=NetShape(layers=2, heads=2, head_width=12, feed_forward=24), base_steps=2, steps=5,
        post_steps=2, ways=TINY, batch=2, windows=WindowConfig(latents=4, prefix=2), close=2, times=2, latents=5, ears=2,
        clips=ClipConfig(side=SIDE),
    )


def run(plan: Study) -> Sequence[Pair]:
    """What was given to the judge."""
    animator: Any = SimpleNamespace(space=None, encoder=Loudness())
    found: Any = study(plan, [], {}, animator, make_accelerator("no"), quiet, quiet)
    assert found.heard.keys() == set(TINY)
    return found.judged


def test_every_way_is_trained_shown_and_kept(plan: Study) -> None:
    pairs = run(plan)
    systems = dict.fromkeys(pair.system for pair in pairs)
    assert list(systems) == [*TINY, "base", *(f"intensity {value:g}" for value in INTENSITIES), CEILING]
    for pair in pairs:
        assert pair.recording is not None
        made, recorded = (list(read_frames(path, 25)) for path in (pair.generated, pair.recording))
        assert len(made) == len(recorded) == 17
        assert has_sound(pair.generated)
        assert has_sound(pair.recording)
    assert list(plan.cache.glob("train__clip0+clip2__*.safetensors")), "exchanged faces are learned from"
    assert {path.name.split("__")[0] for path in plan.cache.glob("*__taught__*")} == {TAUGHT}, "nothing learns from it"
    groups = {(pair.system, pair.group) for pair in pairs}
    assert {group for group in groups if group[1] == RECORDED} == {(system, RECORDED) for system in systems}
    assert {name for name, group in groups if group == TAUGHT} == {*TINY, "base", CEILING}
    kept = {path: path.stat().st_mtime_ns for path in plan.out.rglob("*") if path.is_file()}
    assert run(plan) == pairs
    assert {path: path.stat().st_mtime_ns for path in plan.out.rglob("*") if path.is_file()} == kept

    first = plan.folder("full", 0) / "adapter.safetensors"
    before, video = load_file(first), pairs[0].generated.read_bytes()
    for path in (first, plan.folder("full", 0) / "checkpoint.pt", pairs[0].generated):
        path.unlink()
    run(plan)
    assert all(torch.equal(weight, before[name]) for name, weight in load_file(first).items())
    assert pairs[0].generated.read_bytes() == video


def test_what_is_post_trained_is_the_full_run(plan: Study) -> None:
    run(plan)
    full, ladder = (load_file(plan.folder(name, 0) / "adapter.safetensors") for name in ("full", "ladder"))
    assert full.keys() == ladder.keys()
    apart = [float((full[name] - ladder[name]).abs().max()) for name in full]
    assert 0 < max(apart) < 1e-3  # a few small steps away from it
    assert load_file(plan.folder("pooled", 0) / "adapter.safetensors").keys() == full.keys()


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if way.post is None])
def test_a_way_changes_only_what_it_says(plan: Study, name: str) -> None:
    """Equal steps, batches, seeds and rates: what is left is what the way is about."""
    ours, full = vars(way_recipe(plan, name, 1)), vars(way_recipe(plan, "full", 1))
    changed = {key for key in full if ours[key] != full[key]} - {"out"}
    said = {
        "one-level": "levels", "attention": "parts", "pooled": "parts", "no-lip-mask": "stages", "one-stage": "stages",
    }
    assert changed == ({said[name]} if name in said else set())
    assert sum(stage.steps for stage in ours["stages"]) == plan.steps
    last = ours["stages"][-1]
    assert last.steps > 0 and last.close is None, "every way ends with whole pictures"
    assert {stage.lip_mask for stage in ours["stages"] if stage.aligned} == {name != "no-lip-mask"}


@pytest.mark.parametrize(("wrong", "says"), [
    ({"steps": 0}, "steps is 0: give 1 or more"), ({"ways": ("best",)}, "no way is called 'best': give some of full"),
    ({"ways": ("ladder",)}, "ladder goes on from full: ask for that too"),
])  # fmt: skip
def test_a_study_that_will_not_do_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Study(out=Path("out"), **wrong)


def test_the_table_marks_what_is_more_than_chance() -> None:
    def interval(value: float, low: float, high: float) -> Interval:
        return Interval(value=value, low=low, high=high, count=9)

    def summary(group: str, system: str, value: float) -> Summary:
        return Summary(
            system=system, group=group, figure="lip_corr", mean=interval(value, 0, 1), median=None, real=None, reward=False
        )

    means = {RECORDED: {"full": 0.5, "pooled": 0.3, "attention": 0.6}, TAUGHT: {"full": 0.7, "pooled": 0.6, "attention": 0.7}}
    apart = [
        (RECORDED, "pooled", interval(-0.2, -0.3, -0.1)), (RECORDED, "attention", interval(0.1, -0.1, 0.3)),
        (TAUGHT, "pooled", interval(-0.1, -0.3, 0.1)),
    ]  # fmt: skip
    found = Evaluation(
        figures=(), systems=("full", "pooled", "attention"), groups=("all", RECORDED, TAUGHT), rows=(),
        summaries=tuple(summary(group, *row) for group, rows in means.items() for row in rows.items()),
        differences=tuple(Difference(system=s, against="full", group=g, figure="lip_corr", mean=i) for g, s, i in apart),
    )
    heard = {"full": [Hearing(opening=0.25, width=0.1, deaf=0.0, most=0.6)]}
    taught, recorded = bench_video_parts.table(Findings(judged=found, heard=heard, added={"full": [0.125, 0.15]})).split("\n\n")
    assert (cells(taught), cells(recorded)) == (
        {"full": ["0.125, 0.150", "0.700"], "pooled": ["", "0.600"], "attention": ["", "0.700"]},
        {"full": ["0.250", "0.500"], "pooled": ["", "**0.300**"], "attention": ["", "0.600"]},
    )


def cells(table: str) -> dict[str, list[str]]:
    """The first two of each way's row."""
    lines = [line.split(" | ") for line in table.splitlines() if " | " in line]
    rows = {line[0].strip("| "): line[1:3] for line in lines}
    return {name: rows[way.says] for name, way in WAYS.items() if way.says in rows}


def test_a_base_that_was_given_is_not_trained(plan: Study, tmp_path: Path) -> None:
    run(replace(plan, base_steps=1))
    base = plan.base
    before = {file: file.read_bytes() for file in base.rglob("*") if file.is_file()}
    pairs = run(replace(plan, vae=None, given=base, out=tmp_path / "other"))
    assert list(dict.fromkeys(pair.system for pair in pairs)) == [
        *TINY, *(f"intensity {value:g}" for value in INTENSITIES), CEILING
    ]
    assert not (tmp_path / "other" / "base").exists() and not (tmp_path / "other" / "autoencoder").exists()
    assert {file: file.read_bytes() for file in base.rglob("*") if file.is_file()} == before
