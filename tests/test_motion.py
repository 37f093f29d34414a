"""Face geometry: similarity transforms, the face model, motion and retargeting."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.latent.blink import Blinks
from vivavoce.latent.mesh import REGIONS, FaceModel, Pose, eye_opening, lip_opening, rigid_fit, rotation_matrices
from vivavoce.latent.motion import MOTION_RATE_HZ, Layout, Motion
from vivavoce.latent.motion_space import MotionSpace
from vivavoce.latent.retarget import Rest, landmarks_of, motion_of, rest_of_picture
from vivavoce.latent.topology import INNER_LOWER, INNER_UPPER, LIPS

WEIGHTS = Path(str(resources.files("vivavoce") / "weights"))


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(WEIGHTS / "face.safetensors")


def pixels(scale: float = 120.0) -> Pose:
    return Pose(rotation_matrices(np.array([[0.05, 0.1, -0.03]])), np.array([scale]), np.array([[200.0, 180.0, 10.0]]))


def random_motion(model: FaceModel, frames: int, seed: int, expression: float = 0.5) -> Motion:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(frames, Layout.of(model.widths()).width, generator=generator)
    motion = Layout.of(model.widths()).unpack(values)
    scales = {"gaze": 0.1, "rotation": 0.1, "translation": 0.1, "log_scale": 0.05, **dict.fromkeys(REGIONS, expression)}
    return motion.amplified(scales)


def test_rigid_fit_recovers_a_known_similarity(model: FaceModel) -> None:
    rotation = rotation_matrices(np.array([[0.2, -0.4, 0.1], [0.0, 0.3, -0.2]]))
    truth = Pose(rotation, np.array([80.0, 133.0]), np.array([[5.0, -7.0, 2.0], [100.0, 50.0, 0.0]]))
    points = truth.apply(np.stack([model.mean, model.mean]).astype(np.float64))
    found = rigid_fit(model.mean, points)
    np.testing.assert_allclose(found.rotation, truth.rotation, atol=1e-5)
    np.testing.assert_allclose(found.scale, truth.scale, rtol=1e-5)
    np.testing.assert_allclose(found.translation, truth.translation, atol=1e-3)
    np.testing.assert_allclose(truth.remove(points), np.stack([model.mean, model.mean]), atol=1e-5)


def test_packing_is_a_bijection(model: FaceModel) -> None:
    layout = Layout.of(model.widths())
    values = torch.randn(7, layout.width)
    assert torch.equal(layout.pack(layout.unpack(values)), values)
    with pytest.raises(ValueError, match="another face model"):
        layout.unpack(values[:, :-1])


def test_motion_of_landmarks_of_is_the_identity(model: FaceModel) -> None:
    rest = Rest(neutral=model.mean.astype(np.float64), pose=pixels())
    motion = random_motion(model, 40, seed=1, expression=0.2)
    back = motion_of(landmarks_of(motion, rest, model), rest, model)
    # The brows region holds some landmarks that define the pose, so a part of its motion reads as pose; all else returns.
    for name, tolerance in (("lips_jaw", 0.06), ("gaze", 2e-3), ("rotation", 0.01), ("translation", 0.01), ("log_scale", 0.01)):
        error = (vars(back)[name] - vars(motion)[name]).abs().mean()
        assert error < tolerance, (name, float(error))
    assert float((back.lips_jaw - motion.lips_jaw).abs().mean()) < 0.3 * float(motion.lips_jaw.abs().mean())


@pytest.mark.parametrize("opening", [1.0, 2.0, 3.0])
def test_an_open_mouth_has_a_neutral_face_with_closed_lips(model: FaceModel, opening: float) -> None:
    """Absolute retargeting: zero motion closes the lips of a portrait that shows them open."""
    directions = model.expression["lips_jaw"]
    gaps = [float((d[INNER_LOWER, 1] - d[INNER_UPPER, 1]).mean()) for d in directions]
    widest = int(np.argmax(np.abs(gaps)))
    shown = model.mean + np.sign(gaps[widest]) * opening * directions[widest]
    assert lip_opening(shown) > 2 * lip_opening(model.mean)
    points = pixels().apply(shown[None].astype(np.float64))[0]
    rest = rest_of_picture(points, model)
    assert lip_opening(rest.neutral) < 0.5 * lip_opening(model.mean) + 0.03
    still = Layout.of(model.widths()).unpack(torch.zeros(1, Layout.of(model.widths()).width))
    closed = landmarks_of(still, rest, model)[0]
    assert lip_opening(closed) < 0.35 * lip_opening(points)


def test_the_portrait_is_at_rest_where_it_is(model: FaceModel) -> None:
    """A closed-mouth portrait with zero motion keeps its own landmarks, personal detail included."""
    rng = np.random.default_rng(0)
    person = model.mean + np.einsum("k,knc->nc", rng.standard_normal(len(model.identity)), model.identity)
    points = pixels().apply(person[None].astype(np.float64))[0]
    rest = rest_of_picture(points, model)
    still = Layout.of(model.widths()).unpack(torch.zeros(1, Layout.of(model.widths()).width))
    moved = np.abs(landmarks_of(still, rest, model)[0] - points)[:, :2] / 120
    others = np.setdiff1d(np.arange(468), LIPS)
    assert moved[others].mean() < 0.01
    assert moved[LIPS].mean() < 0.05


def test_full_closure_shuts_the_eyes(model: FaceModel) -> None:
    space = MotionSpace(model)
    rest = rest_of_picture(pixels().apply(model.mean[None].astype(np.float64))[0], model)
    lids = space.blink_amount(rest.neutral)
    zero = space.layout.unpack(torch.zeros(2, space.layout.width))
    blinked = space.with_blinks(zero, np.array([0.0, 1.0]), lids)
    opening = eye_opening(landmarks_of(blinked, rest, model))
    assert opening[1] < 0.25 * opening[0]


@given(cuts=st.lists(st.integers(1, 90), min_size=1, max_size=20), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_blinks_are_a_function_of_seed_and_frame(cuts: list[int], seed: int) -> None:
    profile = np.array([0.0, 0.7, 1.0, 0.8, 0.3, 0.0])
    whole = Blinks(profile, seed=seed).closure(0, sum(cuts))
    stepwise = Blinks(profile, seed=seed)
    starts = np.cumsum([0, *cuts[:-1]])
    np.testing.assert_array_equal(np.concatenate([stepwise.closure(int(a), n) for a, n in zip(starts, cuts, strict=True)]), whole)


def test_people_blink_at_a_human_rate_and_not_in_step() -> None:
    profile = np.array([0.0, 0.7, 1.0, 0.8, 0.3, 0.0])
    minutes = 10
    frames = int(minutes * 60 * MOTION_RATE_HZ)
    trains = [Blinks(profile, seed=s).closure(0, frames) == 1.0 for s in range(4)]
    for train in trains:
        assert 10 <= train.sum() / minutes <= 30
        assert np.diff(np.flatnonzero(train)).std() > 10  # irregular
    assert not np.array_equal(trains[0], trains[1])
    assert Blinks(profile, seed=0, rate=0.0).closure(0, frames).max() == 0.0
