"""Training the refiner: pairs from recordings, mirror images, losses, and a run that learns and goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from claims import assert_other_run, assert_unknown_run
from safetensors.torch import load_file

from vivavoce import Animator
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.refine import SIDE
from vivavoce.train import pairs
from vivavoce.train.data import Clip, read_manifest, track_clips
from vivavoce.train.pairs import DISPLACEMENT_GRAIN, FLOW_GRAIN, PairConfig, Units, load_units, make_pairs
from vivavoce.train.renderer import (
    WHOLE,
    Adversary,
    RendererRecipe,
    batch_of,
    mouths,
    prepare_units,
    time_loss,
    train_renderer,
    windows,
)


def quiet(*_: object) -> None:
    return None


def smooth(generator: torch.Generator, *shape: int) -> torch.Tensor:
    small = torch.rand(*shape, 9, 9, generator=generator)
    return F.interpolate(small, size=(SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)


def toy_units(count: int = 12, seed: int = 0) -> Units:
    """Portraits that are shifted by three pixels, and whose openings should have become bright, as they were drawn."""
    generator = torch.Generator().manual_seed(seed)
    own = (200 * smooth(generator, count, 3)).to(torch.uint8).permute(0, 2, 3, 1)
    plain = torch.stack([own.roll(3, 2), own.roll(4, 2)], 1)
    openings = torch.zeros(count, 2, SIDE, SIDE, dtype=torch.uint8)
    openings[:, :, 95:110, 55:90] = 255
    truth = torch.where(openings[..., None] > 0, torch.tensor(240, dtype=torch.uint8), plain)
    displacement = torch.zeros(count, 2, SIDE, SIDE, 2)
    displacement[:, 0, ..., 0], displacement[:, 1, ..., 0] = -3.0, -4.0
    flow = torch.zeros(count, SIDE, SIDE, 2)
    flow[..., 0] = -1.0
    return Units(
        own=own, plain=plain, drawn=truth.clone(), truth=truth, openings=openings, gate=torch.full_like(openings, 255),
        displacement=(displacement / DISPLACEMENT_GRAIN).to(torch.int8), flow=(flow / FLOW_GRAIN).to(torch.int8),
    )


def fetched(picture: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Pictures (b, c, s, s) seen through displacements (b, s, s, 2) px."""
    ticks = torch.arange(picture.shape[-1], dtype=torch.float32)
    there = torch.stack(torch.broadcast_tensors(ticks[None, :], ticks[:, None]), -1) + displacement
    return F.grid_sample(picture, (2 * there + 1) / picture.shape[-1] - 1, align_corners=False, padding_mode="border")


def through_itself(units: Units, generator: torch.Generator | None) -> float:
    """How far plain pictures are from the portraits seen through their displacement, over how far from the portraits as such."""
    batch = batch_of(units, generator)
    plain, own, displacement = batch.seen[:, :3], batch.seen[:, 6:9], 6.0 * batch.seen[:, 10:].permute(0, 2, 3, 1)
    inside = batch.gate > 0.9
    error = ((fetched(own, displacement) - plain).abs() * inside).sum() / ((own - plain).abs() * inside).sum()
    return float(error)


def mirroring(yes: bool) -> torch.Generator:
    """A generator whose batch is mirrored, or not."""
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        batch_of(toy_units(1), generator)
        after = generator.get_state()
        generator = torch.Generator().manual_seed(seed)
        mirrored = bool((batch_of(toy_units(1), generator).seen[:, 10] > 0).all())
        assert torch.equal(after, generator.get_state())
        if mirrored == yes:
            return torch.Generator().manual_seed(seed)
    raise AssertionError("a hundred seeds gave the same")


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mirrored_batch_is_still_true(mirrored: bool) -> None:
    assert through_itself(toy_units(1), mirroring(mirrored)) < 0.2


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_moves_as_the_mesh_does_costs_no_consistency(mirrored: bool) -> None:
    batch = batch_of(toy_units(1), mirroring(mirrored))
    inside = replace(batch, gate=batch.gate * (F.pad(torch.ones(1, 1, SIDE - 20, SIDE - 20), (10, 10, 10, 10))))
    steady = time_loss(batch.seen[:, :3], inside)
    flicker = batch.seen[:, :3].clone()
    flicker[1:] += 0.2
    assert steady < 0.01 and time_loss(flicker, inside) > steady + 0.05


def test_windows_show_less_first_and_everything_in_the_end() -> None:
    recipe = RendererRecipe(data=Path("nowhere"), out=Path("nowhere"), steps=100)
    generator = torch.Generator().manual_seed(0)
    batches = [batch_of(toy_units(1), None, windows(step, recipe, generator)) for step in range(0, 80, 4)]
    assert {b.seen.shape[-1] for b in batches} == {96}
    assert 0.4 < sum(b.mouth is not None for b in batches) / len(batches) <= 1
    with_mouth = next(b for b in batches if b.mouth is not None)
    assert mouths(with_mouth.truth, with_mouth).shape[-2:] == (72, 72)
    assert windows(90, recipe, generator) == WHOLE


def toy_recipe(out: Path, **changes: float) -> RendererRecipe:
    recipe = RendererRecipe(
        data=Path("nowhere"), out=out, steps=24, batch=2, warmup=4, checkpoint_every=8, check_every=12, adversary_from=6, ema=0.5,
        small=0.7, learning_rate=2e-3,
    )
    return replace(recipe, **changes)


def test_training_learns(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, steps=40, batch=2, check_every=20, adversary_from=100, learning_rate=4e-3)
    train_renderer(recipe, {"train": toy_units(), "val": toy_units(6, seed=1)}, quiet, quiet)
    first, last = (json.loads(line) for line in (recipe.out / "renderer.jsonl").read_text().splitlines())
    assert last["refined_mouth"] > first["refined_mouth"] + 1  # it learns to trust the drawn layers
    assert last["refined_mouth"] > last["plain_mouth"] + 6


def test_an_interrupted_run_gives_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(_: str, step: int, __: int) -> None:
        if step == 11:
            raise Stopped

    units = {"train": toy_units(), "val": toy_units(2, seed=1)}
    unbroken = train_renderer(toy_recipe(tmp_path / "a"), units, quiet, quiet)
    broken = toy_recipe(tmp_path / "b")
    with pytest.raises(Stopped):
        train_renderer(broken, units, stop, quiet)
    said: list[str] = []
    resumed = train_renderer(broken, units, quiet, said.append)
    assert said[0] == "going on at step 8"
    a, b = load_file(unbroken), load_file(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)
    again = partial(train_renderer, progress=quiet, say=quiet)
    assert_other_run(broken.out, partial(again, replace(broken, seed=1), units), "renderer-run.json")
    assert_other_run(broken.out, partial(again, broken, {**units, "train": toy_units(seed=5)}), "renderer-run.json")
    assert_other_run(broken.out, partial(prepare_units, replace(broken, batch=3), None, quiet), "renderer-run.json")  # type: ignore[arg-type]
    assert_unknown_run(broken.out, partial(again, broken, units), "renderer-run.json")


def test_checkpoints_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    units = {"train": toy_units(4), "val": toy_units(2)}
    recipe = RendererRecipe(data=Path("nowhere"), out=tmp_path, steps=2, batch=1, checkpoint_every=1)
    train_renderer(recipe, units, quiet, quiet)
    (tmp_path / "adversary.pt").unlink()
    with pytest.raises(ValueError, match="adversary"):
        train_renderer(replace(recipe, steps=4), units, quiet, quiet)


def test_the_adversary_sees_what_differs() -> None:
    torch.manual_seed(0)
    batch = batch_of(toy_units(2))
    a, b = (Adversary()(mouths(picture, batch))[-1] for picture in (batch.truth, batch.seen[:, :3]))
    assert a.shape == b.shape and not torch.allclose(a, b)


def test_no_faces_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="no recording has a face"):
        load_units([])


def test_units_are_made_again_where_a_person_has_other_clips_now(
    animator: Animator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []

    def units(clip: Clip, sources: int, *_: object) -> list[dict[str, torch.Tensor]]:
        made.append((clip.name, sources))
        whole = toy_units(sources)
        return [{name: values[i] for name, values in vars(whole).items()} for i in range(sources)]

    monkeypatch.setattr(pairs, "_units_of", units)
    clips = [Clip(path=Path(f"{name}.mp4"), split="train", person="p", talks=True) for name in "abc"]
    tracks = {clip.name: np.zeros((1, 478, 3)) for clip in clips}
    model, config = animator.space.model, PairConfig(units=24, targets=4)

    def count(some: list[Clip], model: FaceModel = model, config: PairConfig = config) -> int:
        made.clear()
        return len(load_units(make_pairs(some, tracks, model, tmp_path, config, quiet)))

    assert count(clips[:2]) == 6 and sorted(made) == [("a", 3), ("b", 3)]
    assert count(clips[:2]) == 6 and made == []
    assert count(clips) == 6 and sorted(made) == [("a", 2), ("b", 2), ("c", 2)]  # as if all had been there from the first
    assert count(clips[:1]) == 6 and made == [("a", 6)]
    assert count(clips[:1], replace(model, mean=2 * model.mean)) == 6 and made == [("a", 6)]
    assert count(clips[:1], config=replace(config, seed=1)) == 6 and made == [("a", 6)]


def test_pairs_of_a_recording_fit_together(animator: Animator, recordings: Path, tmp_path: Path) -> None:
    clips = [c for c in read_manifest(recordings, "val") if c.person.startswith("grid")][:1]
    tracks = track_clips(clips, tmp_path / "tracks", quiet)
    config = PairConfig(units=16)
    files = make_pairs(clips, tracks, animator.space.model, tmp_path / "pairs", config, quiet)
    units = load_units(files)
    assert len(units) == 16
    made = files[0].stat().st_mtime_ns
    assert make_pairs(clips, tracks, animator.space.model, tmp_path / "pairs", config, quiet)[0].stat().st_mtime_ns == made
    batch = batch_of(units)

    def error(a: torch.Tensor) -> float:
        return float(((a - batch.truth).abs() * batch.gate).sum() / batch.gate.sum())

    assert error(batch.seen[:, :3]) < 0.85 * error(batch.seen[:, 6:9])  # the warp is nearer to the truth than the portrait
    assert through_itself(units, None) < 0.5
