"""Skeletons: where joints are found, drawn and driven, and that pictures without people have none."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch

from vivavoce import Animator
from vivavoce.latent.motion import Motion
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.skeleton import (
    FOLLOW,
    JOINTS,
    NOSE,
    SHOULDERS,
    UPPER_BODY,
    draw_skeleton,
    driven_skeleton,
    find_skeleton,
    head_joints,
    track_skeletons,
)
from vivavoce.latent.tracker import find_faces


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def skeleton(picture: np.ndarray) -> np.ndarray:
    return find_skeleton(picture)


@pytest.fixture(scope="module")
def face(picture: np.ndarray) -> np.ndarray:
    return find_faces(picture)[0]


def test_the_two_trackers_agree_about_the_head(picture: np.ndarray, skeleton: np.ndarray, face: np.ndarray) -> None:
    """The body's model and the face's find eyes, nose and mouth within a twentieth of the picture of each other."""
    head = head_joints(face[None], (512, 512))[0]
    near = [0, 1, 2, 3, 4, 5, 6, 9, 10]
    assert np.abs(head[near, :2] - skeleton[near, :2]).max() < 0.05
    assert (skeleton[near, 2] > 0.9).all() and (head[11:] == 0).all()
    assert skeleton[SHOULDERS[0], 0] > skeleton[NOSE, 0] > skeleton[SHOULDERS[1], 0]  # her own left is the picture's right
    assert (skeleton[list(SHOULDERS), 1] > skeleton[NOSE, 1]).all()


def test_nobody_has_no_skeleton(picture: np.ndarray, face: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    blank = np.full((96, 128, 3), 127, np.uint8)
    found = track_skeletons([blank, picture[:, :400], blank])
    assert not found[0].any() and found[1, NOSE, 2] > 0.9
    lost = head_joints(np.stack([face, np.full_like(face, np.nan)]), (512, 512))
    assert lost[0, NOSE, 2] == 1 and not lost[1].any()
    assert capfd.readouterr().err == ""


def test_units_do_not_know_the_pictures_size(picture: np.ndarray, skeleton: np.ndarray, face: np.ndarray) -> None:
    """Twice the picture gives the same numbers; a picture cut at its right side moves x alone, by half of what was cut."""
    double = head_joints(2 * face[None], (1024, 1024))
    np.testing.assert_allclose(double, head_joints(face[None], (512, 512)), atol=1e-6)
    cut = head_joints(face[None], (400, 512))[0, :11]
    whole = head_joints(face[None], (512, 512))[0, :11]
    np.testing.assert_allclose(cut[:, :2] - whole[:, :2], np.tile([(512 - 400) / 2 / 512, 0], (11, 1)), atol=1e-6)


def test_joints_outside_the_picture_are_not_seen(picture: np.ndarray, face: np.ndarray) -> None:
    away = face + np.array([260.0, 0, 0])
    seen = head_joints(away[None], (512, 512))[0, :11, 2]
    assert ((away[:, 0].min() < 512) and 0 < seen.sum() < 11)
    whole = find_skeleton(picture)
    outside = (np.abs(whole[:, :2]) > 0.5).any(1)
    assert outside.any() and not whole[outside, 2].any()


def test_drawings_are_where_the_joints_are(skeleton: np.ndarray) -> None:
    only = np.zeros_like(skeleton)
    only[NOSE] = (0.25, -0.125, 1.0)
    drawn = draw_skeleton(only, (320, 256)).sum(-1).astype(float)
    y, x = np.indices(drawn.shape) + 0.5
    assert (drawn * x).sum() / drawn.sum() == pytest.approx(160 + 64, abs=0.3)
    assert (drawn * y).sum() / drawn.sum() == pytest.approx(128 - 32, abs=0.3)
    unseen = skeleton.copy()
    unseen[:, 2] = 0
    assert not draw_skeleton(unseen, (64, 64)).any()
    hands = [j for j in UPPER_BODY if j > 12]
    assert draw_skeleton(skeleton, (256, 256), joints=range(JOINTS)).any()
    assert (draw_skeleton(skeleton, (256, 256)) != draw_skeleton(skeleton, (256, 256), joints=hands)).any()


def test_a_still_face_leaves_its_skeleton_alone(skeleton: np.ndarray, face: np.ndarray) -> None:
    driven = driven_skeleton(skeleton, np.stack([face, face]), face, (512, 512))
    np.testing.assert_allclose(driven, np.stack([skeleton, skeleton]), atol=1e-6)


def test_a_moving_head_takes_the_shoulders_part_of_the_way(skeleton: np.ndarray, face: np.ndarray) -> None:
    driven = driven_skeleton(skeleton, face[None] + np.array([25.6, -51.2, 0]), face, (512, 512))[0]
    moved = driven[:, :2] - skeleton[:, :2]
    np.testing.assert_allclose(moved[:11], np.tile([0.05, -0.1], (11, 1)), atol=1e-5)
    np.testing.assert_allclose(moved[list(SHOULDERS)], FOLLOW * np.tile([0.05, -0.1], (2, 1)), atol=1e-5)
    assert not driven_skeleton(np.zeros_like(skeleton), face[None] + 10, face, (512, 512)).any()
    assert not driven_skeleton(skeleton, np.full_like(face, np.nan)[None], face, (512, 512)).any()


def test_our_own_motion_drives_a_skeleton(animator: Animator, small: Reference) -> None:
    """A head that turns right in MotionSpace turns its nose that way, against its ears, in the skeleton."""
    layout = animator.space.layout
    motion = layout.unpack(torch.zeros(2, layout.width))
    turn = motion.rotation.clone()
    turn[1, 1] = -0.3
    points = animator.space.landmarks(Motion(**{**vars(motion), "rotation": turn}), small)
    size = small.size
    driven = driven_skeleton(head_joints(points[:1], size)[0], points, points[0], size)
    np.testing.assert_allclose(driven, head_joints(points, size), atol=1e-5)
    lead = driven[:, NOSE, 0] - driven[:, [7, 8], 0].mean(1)
    assert abs(lead[1] - lead[0]) > 0.02
