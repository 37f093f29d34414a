"""Training data and the training loop."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from claims import assert_other_run, assert_unknown_run, files_of
from safetensors.torch import load_file, save_file

from vivavoce import Animator
from vivavoce.latent.mesh import FaceModel, lip_opening
from vivavoce.latent.motion import Layout
from vivavoce.latent.stretches import stretches
from vivavoce.nets.hearing import cut
from vivavoce.nets.levels import LevelsConfig
from vivavoce.speech.analysis import Analysis
from vivavoce.speech.encoder import SAMPLE_RATE_HZ, features
from vivavoce.train import motion
from vivavoce.train.data import (
    PLAIN,
    Augmentation,
    Clip,
    Example,
    blinking,
    examples_of,
    load_examples,
    mirror_pairs,
    mirrored,
    read_manifest,
    save_examples,
    style_of,
    track_clips,
    without_blinks,
)
from vivavoce.train.disguise import disguise
from vivavoce.train.expectation import ExpectationRecipe
from vivavoce.train.loop import digest
from vivavoce.train.motion import MotionRecipe, Sampler, loss_weight, prepare, statistics, train_motion


@pytest.fixture(scope="module")
def model(animator: Animator) -> FaceModel:
    return animator.space.model


def face_in_pixels(model: FaceModel, frames: int) -> np.ndarray:
    return np.repeat(model.mean[None] * 100 + 200, frames, 0).astype(np.float64)


def toy_examples(model: FaceModel, count: int = 6) -> list[Example]:
    """Lips that follow the loudness of noise bursts: something that can be learned."""
    layout = Layout.of(model.widths())
    examples = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        loud = torch.rand(10, generator=generator).repeat_interleave(10)
        sound = 0.3 * torch.randn(4 * SAMPLE_RATE_HZ, generator=generator) * loud.repeat_interleave(4 * SAMPLE_RATE_HZ // 100)
        motion = loud[:, None] * torch.linspace(-1, 1, layout.width) + 0.01 * torch.randn(100, layout.width, generator=generator)
        speech = features(Analysis(), sound).values[0]
        style = style_of(motion.numpy(), layout)
        examples.append(Example(person=f"p{i % 3}", clip=f"c{i}", motion=motion, speech=speech, first=0, style=style))
    return examples


def toy_recipe(out: Path, model: FaceModel, **changes: float) -> MotionRecipe:
    out.mkdir(parents=True)
    save_examples(toy_examples(model), out / "examples-train.safetensors")
    levels = {"listen": ("acoustic", "prosodic")}
    lips = ExpectationRecipe(steps=2, batch=2, frames=20, members=2, width=16)
    recipe = MotionRecipe(
        data=Path("nowhere"), out=out, steps=6, batch=4, warmup=2, checkpoint_every=3, levels=levels, lips=lips
    )
    return replace(recipe, **changes)


def quiet(*_: object) -> None:
    return None


def test_an_interrupted_run_gives_the_weights_of_an_unbroken_one(model: FaceModel, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(_: str, step: int, __: int) -> None:
        if step == 5:
            raise Stopped

    unbroken = train_motion(toy_recipe(tmp_path / "a", model), model, Analysis(), quiet, quiet)
    recipe = toy_recipe(tmp_path / "b", model)
    with pytest.raises(Stopped):
        train_motion(recipe, model, Analysis(), stop, quiet)
    said: list[str] = []
    resumed = train_motion(recipe, model, Analysis(), quiet, said.append)
    assert said[0] == "going on at step 3"
    from safetensors.torch import load_file

    first, second = load_file(unbroken), load_file(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_folder_is_of_one_run(model: FaceModel, tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path / "a", model, steps=1, checkpoint_every=1)
    train_motion(recipe, model, Analysis(), quiet, quiet)
    for changed in (replace(recipe, seed=1), replace(recipe, batch=5)):
        assert_other_run(recipe.out, partial(train_motion, changed, model, Analysis(), quiet, quiet))
    others = toy_examples(model)[:5]
    assert_other_run(recipe.out, partial(train_motion, recipe, model, Analysis(), quiet, quiet, examples=others))
    other_face = replace(model, mean=1.01 * model.mean)
    assert_other_run(recipe.out, partial(train_motion, recipe, other_face, Analysis(), quiet, quiet))
    longer, said = replace(recipe, steps=2, checkpoint_every=2), list[str]()
    train_motion(longer, model, Analysis(), quiet, said.append)
    assert said[0] == "going on at step 1"
    assert_unknown_run(recipe.out, partial(train_motion, longer, model, Analysis(), quiet, quiet))
    # Without a checkpoint the folder's recordings are nobody's yet: nothing is made of them where weights lie in the way.
    (recipe.out / "checkpoint.pt").unlink()
    (recipe.out / "examples-train.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds a motion\.safetensors that is not of this run"):
        train_motion(recipe, model, Analysis(), quiet, quiet)


def test_digests_tell_data_apart() -> None:
    one, two = torch.arange(6.0), torch.arange(4)
    assert digest([one, two]) == digest(iter([one.numpy(), two])) != digest([two, one])
    told = [digest(values) for values in ([one.view(2, 3)], [one.view(3, 2)], [one.int()], ["a", "b"], ["ab"], [])]
    assert len(set(told)) == len(told)


def test_training_learns(model: FaceModel, tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path / "a", model, steps=60, batch=8, warmup=5, checkpoint_every=15)
    train_motion(recipe, model, Analysis(), quiet, quiet)
    losses = [json.loads(line)["loss"] for line in (recipe.out / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 4
    assert losses[-1] < 0.75 * losses[0]


def test_examples_come_back_from_their_file(model: FaceModel, tmp_path: Path) -> None:
    examples = toy_examples(model, 3)
    examples = [examples[0], replace(examples[1], speech=examples[0].speech, first=7), replace(examples[2], speech=None)]
    examples.append(examples[2])  # one that counts twice
    save_examples(examples, tmp_path / "x.safetensors")
    for here, there in zip(examples, load_examples(tmp_path / "x.safetensors"), strict=True):
        assert (here.person, here.clip, here.first) == (there.person, there.clip, there.first)
        assert torch.equal(here.motion, there.motion)
        assert (there.speech is None) if here.speech is None else torch.equal(here.speech, there.speech)


def test_a_person_is_sampled_by_who_not_by_how_much(model: FaceModel) -> None:
    recipe = MotionRecipe(data=Path("."), out=Path("."), person_power=0.0)
    examples = [*toy_examples(model, 2), *[replace(e, person="often") for e in toy_examples(model, 6) for _ in range(10)]]
    mean, std, style_mean, style_std = statistics(examples, recipe)
    levels = LevelsConfig(streams=dict(Analysis().spec.streams), listen=("acoustic", "prosodic"))
    sampler = Sampler(examples, levels, torch.zeros(Analysis().spec.width), mean, std, style_mean, style_std, 0.0)
    np.testing.assert_allclose(sampler.stretches.person_weight, 1 / 3)


def test_statistics_weigh_people_as_they_are_sampled(model: FaceModel) -> None:
    a, b = toy_examples(model, 2)
    a, b = replace(a, motion=torch.zeros(50, 31), person="a"), replace(b, motion=torch.ones(200, 31), person="b")
    mean, std, _, _ = statistics([a, b], MotionRecipe(data=Path("."), out=Path("."), person_power=0.0))
    torch.testing.assert_close(mean, torch.full((31,), 0.5))
    torch.testing.assert_close(std, torch.full((31,), 0.5))


def test_what_was_not_heard_is_silence() -> None:
    speech, silence = torch.arange(10.0)[:, None], torch.tensor([-1.0])
    assert cut(speech, range(-2, 3), silence)[:, 0].tolist() == [-1, -1, 0, 1, 2]
    assert cut(speech, range(8, 12), silence)[:, 0].tolist() == [8, 9, -1, -1]
    assert cut(None, range(2), silence)[:, 0].tolist() == [-1, -1]


def test_stretches_end_at_cuts_lost_faces_and_profiles(model: FaceModel) -> None:
    points = face_in_pixels(model, 200)
    points[80:] += 40  # a cut
    points[140] = np.nan
    points[150:160, 1, 0] += 80  # nose beyond the cheek: a profile
    assert [(s.start, s.stop) for s in stretches(points)] == [(0, 80), (80, 140), (160, 200)]


def test_blinks_are_taken_out_and_nothing_else() -> None:
    opening = np.full(100, 0.3)
    opening[50:54] = [0.15, 0.03, 0.05, 0.15]
    squint = np.linspace(0, 1, 100)[:, None]
    lids = squint.copy()
    lids[50:54] += 3.0
    assert np.flatnonzero(blinking(opening)).tolist() == [50, 51, 52, 53]
    np.testing.assert_allclose(without_blinks(lids, opening), squint, atol=1e-9)


def test_mirroring_twice_is_nothing_and_once_swaps_sides(model: FaceModel) -> None:
    pairs = mirror_pairs(model)
    assert np.array_equal(pairs[pairs], np.arange(len(pairs)))
    points = face_in_pixels(model, 3) + np.random.default_rng(0).normal(0, 1, (3, 478, 3))
    np.testing.assert_allclose(mirrored(mirrored(points, 400.0, pairs), 400.0, pairs), points)
    assert mirrored(points, 400.0, pairs)[0, 33, 0] == pytest.approx(400 - points[0, 263, 0])


def test_a_disguise_is_seeded_keeps_the_words_and_says_how_long_they_last() -> None:
    sound = torch.sin(torch.arange(SAMPLE_RATE_HZ) * 0.05) * torch.linspace(0, 0.5, SAMPLE_RATE_HZ)
    for seed in range(8):
        changed, stretch = disguise(sound, [sound], np.random.default_rng(seed))
        again, _ = disguise(sound, [sound], np.random.default_rng(seed))
        assert torch.equal(changed, again)
        assert len(changed) == pytest.approx(len(sound) * stretch, abs=1)
        assert torch.isfinite(changed).all()
        assert changed[len(changed) // 2 :].square().mean() > changed[: len(changed) // 2].square().mean()  # it still grows


def test_loss_weights_share_a_regions_weight_out_by_what_moves(model: FaceModel) -> None:
    layout = Layout.of(model.widths())
    recipe = MotionRecipe(data=Path("."), out=Path("."), energy_power=1.0)
    weight = loss_weight(recipe, layout, model, torch.ones(layout.width))
    assert float(weight.mean()) == pytest.approx(1.0)
    fields = layout.unpack(weight)
    assert fields.lips_jaw[0] > 3 * fields.lips_jaw[-1]  # the first direction moves the most
    equal = layout.unpack(loss_weight(replace(recipe, energy_power=0.0), layout, model, torch.ones(layout.width)))
    torch.testing.assert_close(fields.lips_jaw.sum(), equal.lips_jaw.sum())
    assert equal.lips_jaw.std() < 1e-6


def test_a_recording_becomes_an_example_with_its_lips(model: FaceModel, recordings: Path, tmp_path: Path) -> None:
    clip = next(c for c in read_manifest(recordings, "val") if c.person.startswith("grid"))
    points = track_clips([clip], tmp_path, quiet)[clip.name]
    again = track_clips([clip], tmp_path, quiet)[clip.name]  # from the cache
    np.testing.assert_array_equal(points, again)
    layout = Layout.of(model.widths())
    plain, = examples_of(clip, points, model, Analysis(), PLAIN, mirror_pairs(model))
    lips = layout.unpack(plain.motion).expression()
    opening = lip_opening(model.mean + model.displacement({k: v.numpy() for k, v in lips.items()}))
    assert np.corrcoef(opening, lip_opening(points))[0, 1] > 0.97
    lengths = set()
    for seed in range(4):
        how = Augmentation(mirror=True, seed=seed)
        other, = examples_of(clip, points, model, Analysis(), how, mirror_pairs(model), [clip])
        assert other.speech is not None
        # Whatever the disguise did to the tempo, the motion has gone along.
        assert len(other.speech) / len(other.motion) == pytest.approx(2.0, abs=0.05)
        lengths.add(len(other.motion))
    assert len(lengths) > 1
    assert plain.speech is not None
    assert len(plain.speech) >= 2 * len(plain.motion) - 2


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"MANIFEST\.csv"):
        read_manifest(tmp_path, "train")


@pytest.mark.parametrize(("text", "complaint"), [
    (b"file,speaker\na.mp4,p\n", "no column split, kind"), (b"file,split,speaker,kind\n\xe9.mp4,train,p,talk\n", "in UTF-8"),
    (b"file,split,speaker,kind\na.mp4,train\n", "a row that ends before"), (b"", "no column file"),
    (b"file,split,speaker,kind\np/a.mp4,train,p,talk\nq/a.mp4,train,q,talk\n", "called 'a': rename them"),
])
def test_a_manifest_that_will_not_do_is_refused_in_a_sentence(text: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.csv").write_bytes(text)
    with pytest.raises(ValueError, match=complaint):
        read_manifest(tmp_path, "train")


def test_prepared_recordings_are_of_the_folder_that_is_given(model: FaceModel, tmp_path: Path) -> None:
    rows = "file,split,speaker,kind\n{}.mp4,train,p,{}\n"
    recipe = MotionRecipe(data=tmp_path, out=tmp_path / "run")
    recipe.out.mkdir()
    kept, = toy_examples(model)[:1]
    save_examples([replace(kept, person="p", clip="a")], recipe.out / "examples-train.safetensors")
    (tmp_path / "MANIFEST.csv").write_text(rows.format("a", "talk"))
    assert [e.clip for e in prepare(recipe, "train", model, Analysis(), quiet)] == ["a"]
    (tmp_path / "MANIFEST.csv").write_text(rows.format("b", "talk"))
    with pytest.raises(ValueError, match="of other recordings"):
        prepare(recipe, "train", model, Analysis(), quiet)
    (tmp_path / "MANIFEST.csv").write_text(rows.format("a", "talk"))
    (tmp_path / "MANIFEST.csv").write_text(rows.format("a", "talk") + "b.mp4,train,p,talk\n")
    with pytest.raises(ValueError, match=r"lacks 1 of the 2 recordings .* such as 'b': remove that file, and all are prepared"):
        prepare(recipe, "train", model, Analysis(), quiet)
    (recipe.out / "tracks").mkdir()
    (recipe.out / "tracks" / "train__b.npy").touch()  # it was there, but of no use
    assert [e.clip for e in prepare(recipe, "train", model, Analysis(), quiet)] == ["a"]
    (tmp_path / "MANIFEST.csv").write_text(rows.format("a", "talk"))
    (recipe.out / "examples-train.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="is damaged: remove it"):
        prepare(recipe, "train", model, Analysis(), quiet)
    (recipe.out / "examples-train.safetensors").unlink()
    (tmp_path / "MANIFEST.csv").write_text(rows.format("a", "silent"))
    with pytest.raises(ValueError, match="no clip of the split 'train' and the kind 'talk'"):
        prepare(recipe, "train", model, Analysis(), quiet)


def test_what_was_prepared_is_used_for_just_what_it_was_made_of(
    model: FaceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    tracks = {name: np.zeros((0, 478, 3)) for name in "abc"}

    def of(clip: Clip, *_: object) -> list[Example]:
        made.append(clip.name)
        if clip.name == stopped:
            raise KeyboardInterrupt
        return [replace(toy_examples(model)[0], person=clip.person, clip=clip.name)] if clip.name != "b" else []

    def listed(*names: str) -> None:
        rows = [f"{name}.mp4,train,{name},talk" for name in names]
        (tmp_path / "MANIFEST.csv").write_text("\n".join(["file,split,speaker,kind", *rows]))

    monkeypatch.setattr(motion, "track_clips", lambda *_: tracks)
    monkeypatch.setattr(motion, "examples_of", of)
    recipe, stopped = MotionRecipe(data=tmp_path, out=tmp_path / "run", variants=0, plain=1), "b"
    listed("a", "b")
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, "train", model, Analysis(), quiet)
    listed("a", "b", "c")
    with pytest.raises(KeyboardInterrupt):  # what was drawn for "a" among two is not what is drawn among three
        prepare(recipe, "train", model, Analysis(), quiet)
    stopped, made = "", []
    assert [e.clip for e in prepare(recipe, "train", model, Analysis(), quiet)] == ["a", "c"]
    assert made == ["b", "c"]
    before = files_of(recipe.out)
    assert [e.clip for e in prepare(recipe, "train", model, Analysis(), quiet)] == ["a", "c"]  # "b" was of no use, and is known
    for changed, said in ((replace(recipe, seed=1), "another seed"), (replace(recipe, variants=1), "another variants")):
        with pytest.raises(ValueError, match=f"was made with {said}: give another folder, or remove that file"):
            prepare(changed, "train", model, Analysis(), quiet)
    with pytest.raises(ValueError, match="another face"):
        prepare(recipe, "train", replace(model, mean=2 * model.mean), Analysis(), quiet)
    tracks["d"] = tracks["a"]
    listed("a", "b", "c", "d")
    with pytest.raises(ValueError, match=r"lacks 1 of the 4 recordings .* such as 'd'"):
        prepare(recipe, "train", model, Analysis(), quiet)
    listed("a", "c")
    with pytest.raises(ValueError, match="of other recordings"):
        prepare(recipe, "train", model, Analysis(), quiet)
    assert files_of(recipe.out) == before
    (tmp_path / "MANIFEST.csv").unlink()
    gone = replace(recipe, data=tmp_path / "gone")  # what is prepared does not need them any more
    assert len(prepare(gone, "train", model, Analysis(), quiet)) == 2


def test_weights_are_averaged_and_other_networks_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).parents[1] / "scripts" / "average_weights.py"
    spec = importlib.util.spec_from_file_location("average_weights", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    first, second, other = (tmp_path / f"{name}.safetensors" for name in "abc")
    save_file({"x": torch.tensor([1.0, 4.0])}, first, {"config": "kept"})
    save_file({"x": torch.tensor([4.0, 1.0])}, second)
    save_file({"x": torch.zeros(3)}, other)
    tensors, metadata = module.averaged([first, second, second])
    torch.testing.assert_close(tensors["x"], torch.tensor([3.0, 2.0]))
    assert metadata == {"config": "kept"}
    with pytest.raises(ValueError, match=r"c\.safetensors holds other tensors"):
        module.averaged([first, other])
    monkeypatch.setattr("sys.argv", ["average_weights.py", str(first), "-o", str(second)])
    with pytest.raises(SystemExit):
        module.main()
    assert torch.equal(load_file(second)["x"], torch.tensor([4.0, 1.0]))  # what was there is not replaced
