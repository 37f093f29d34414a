"""Learning the face model: what is put into recordings comes out, whatever the camera did."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from claims import assert_other_run, assert_unknown_run
from scipy.spatial.transform import Rotation

from vivavoce import Animator
from vivavoce.latent.mesh import REGIONS, FaceModel, Pose, clip_neutral, rigid_fit
from vivavoce.latent.motion_space import BROWS_READ, OPENING_AS_WIDTH, WIDTH_READ, as_drawn
from vivavoce.latent.topology import BROWS, NOSE_BASE, SKULL
from vivavoce.train.data import Clip
from vivavoce.train.face import FaceConfig, balanced_clips, train_face

PEOPLE, FRAMES = 8, 60
SMALL = FaceConfig(identity=4, lips_jaw=3, cheeks_brows=2, eyelids=2, frames_per_person=40)


def recordings(folder: Path, model: FaceModel, *, people: int = PEOPLE, camera: int = 0) -> tuple[Path, Path]:
    """A folder of recordings, and one with their tracks: the model's own faces, each before a camera of its own."""
    rng, cameras = np.random.default_rng(0), np.random.default_rng(camera)
    data, out = folder / "data", folder / "out"
    data.mkdir(parents=True)
    (out / "tracks").mkdir(parents=True)
    rows = []
    for person in range(people):
        neutral = model.mean + np.einsum("k,knc->nc", rng.normal(0, 0.5, 4), model.identity[:4])
        time = np.arange(FRAMES)[:, None] / 9
        waves = {r: 0.4 * np.abs(np.sin(time * rng.uniform(1, 2, 3) + rng.uniform(0, 3, 3))) for r in REGIONS}
        blink = np.zeros(FRAMES)
        blink[20:33] = model.blink_profile
        coefficients = {r: np.pad(waves[r], ((0, 0), (0, len(model.expression[r]) - 3))) for r in REGIONS}
        coefficients["eyelids"] = 0.1 * coefficients["eyelids"] + blink[:, None] * model.blink_direction
        turn = Rotation.from_rotvec(cameras.normal(0, 0.1, 3)).as_matrix()[None].repeat(FRAMES, 0)
        place = Pose(turn, np.full(FRAMES, cameras.uniform(60, 200)), np.tile(cameras.uniform(50, 200, 3), (FRAMES, 1)))
        points = place.apply(neutral + model.displacement(coefficients))
        points[:3] = np.nan  # found late
        np.save(out / "tracks" / f"train__clip{person}.npy", points)
        rows.append({"file": f"train/clip{person}.mp4", "split": "train", "speaker": f"p{person}", "kind": "talk"})
    with (data / "MANIFEST.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return data, out


def quiet(*_: object) -> None: ...


def test_the_model_spans_the_faces_it_was_learned_from_and_forgets_the_cameras(animator: Animator, tmp_path: Path) -> None:
    truth = animator.space.model
    models = [
        FaceModel.load(train_face(*recordings(tmp_path / str(camera), truth, camera=camera), quiet, SMALL)) for camera in (1, 2)
    ]
    np.testing.assert_allclose(models[0].mean, models[1].mean, atol=1e-5)
    for region in REGIONS:
        similarity = [np.abs((a * b).sum()) / (a * a).sum() for a, b in zip(*(m.expression[region] for m in models), strict=True)]
        assert similarity == pytest.approx(np.ones(len(similarity)), abs=1e-3)
    learned = models[0]
    points = np.load(tmp_path / "1" / "out" / "tracks" / "train__clip5.npy")[3:]
    neutral = clip_neutral(learned.normalise(points)[0], learned)
    moves = rigid_fit(neutral, points).remove(points) - neutral
    weight = learned.importance[:, None] * (sum(learned.mask.values()) > 0.5)[:, None]
    left = moves - learned.displacement(learned.project(moves))
    assert ((left * weight) ** 2).mean() < 0.1 * ((moves * weight) ** 2).mean()
    assert learned.blink_profile.argmax() == truth.blink_profile.argmax()


def test_a_folder_is_of_one_run(animator: Animator, tmp_path: Path) -> None:
    data, out = recordings(tmp_path, animator.space.model)
    model = FaceModel.load(train_face(data, out, quiet, SMALL))
    assert_other_run(out, partial(train_face, data, out, quiet, replace(SMALL, seed=1)), "face-run.json")
    np.testing.assert_array_equal(FaceModel.load(train_face(data, out, quiet, SMALL)).identity, model.identity)
    rows = (data / "MANIFEST.csv").read_text().splitlines()
    (data / "MANIFEST.csv").write_text("\n".join(rows[:-1]))
    assert_other_run(out, partial(train_face, data, out, quiet, SMALL), "face-run.json")
    assert_unknown_run(out, partial(train_face, data, out, quiet, SMALL), "face-run.json")


def test_too_few_people_are_refused(animator: Animator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clips of 4 people .* at least 5"):
        train_face(*recordings(tmp_path, animator.space.model, people=4), quiet, SMALL)


def test_only_the_person_with_most_clips_is_cut_down() -> None:
    people = ["a"] * 9 + ["b"] * 5 + ["c"]
    clips = [Clip(path=Path(f"{99 - i}.mp4"), split="train", person=p, talks=True) for i, p in enumerate(people)]
    chosen = balanced_clips(clips, 4)
    assert Counter(clip.person for clip in chosen) == {"a": 4, "b": 5, "c": 1}
    names = [clip.name for clip in chosen]
    assert names == sorted(names)
    assert {clip.name for clip in chosen if clip.person == "a"} == {"91", "92", "93", "94"}


def test_expressions_leave_the_skull_where_it_is(animator: Animator) -> None:
    model = animator.space.model
    moved = np.abs(np.concatenate([model.expression[region] for region in REGIONS]))
    assert moved[:, SKULL].max() < 0.05 * moved.max()


def test_brows_are_drawn_further_than_they_are_tracked(animator: Animator) -> None:
    model = animator.space.model
    drawn = as_drawn(model)
    assert drawn.expression["cheeks_brows"][:, BROWS] == pytest.approx(model.expression["cheeks_brows"][:, BROWS] / BROWS_READ)
    lower = model.mean[:, 1] > model.mean[NOSE_BASE, 1]
    assert drawn.expression["cheeks_brows"][:, lower] == pytest.approx(model.expression["cheeks_brows"][:, lower], abs=1e-4)
    assert drawn.expression["eyelids"] is model.expression["eyelids"]


def test_mouths_are_drawn_so_wide_that_the_tracker_reads_what_was_meant(animator: Animator) -> None:
    model = animator.space.model
    (opening, width), (drawn_opening, drawn_width) = model.lips(), as_drawn(model).lips()
    np.testing.assert_allclose(drawn_opening, opening, atol=1e-6)
    np.testing.assert_allclose(WIDTH_READ * drawn_width + OPENING_AS_WIDTH * drawn_opening, width, atol=1e-6)
    assert np.abs(drawn_width - width).max() > 1e-3
