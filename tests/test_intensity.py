"""Motion intensity: closed forms, what it must not see, and that more motion is a higher number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vivavoce import Animator
from vivavoce.latent.intensity import LEVELS, Intensity, IntensityScale, Spread, spread_of
from vivavoce.latent.mesh import face_height
from vivavoce.latent.motion import Motion
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.topology import RIGID, SKIN

SCALE = IntensityScale(expression=(0.001, 0.004, 0.01, 0.02, 0.03, 0.05, 0.2), body=(0.001, 0.004, 0.01, 0.02, 0.04, 0.09, 0.4))


@pytest.fixture(scope="module")
def motion(animator: Animator) -> Motion:
    """Everything moves, smoothly, for three seconds."""
    layout = animator.space.layout
    drawn = torch.randn(3, layout.width, generator=torch.Generator().manual_seed(3))
    time = torch.arange(75)[:, None, None] / 25
    waves = (drawn * torch.sin(2 * np.pi * torch.tensor([0.6, 1.1, 1.9])[:, None] * time + drawn)).sum(1)
    moved = layout.unpack(waves)
    small = {"rotation": 0.04, "translation": 0.02, "log_scale": 0.01, "gaze": 0.05, "eyelids": 0.2}
    return moved.amplified({**small, "lips_jaw": 0.4, "cheeks_brows": 0.4})


def landmarks(animator: Animator, small: Reference, motion: Motion) -> np.ndarray:
    return animator.space.landmarks(motion, small)


def test_a_still_face_has_no_spread(small: Reference) -> None:
    points = np.repeat(small.prepared.points[None].astype(np.float64), 9, 0)
    spread = spread_of(points)
    assert spread.expression < 1e-6 and spread.body < 1e-6
    assert SCALE(spread) == Intensity(expression=0.0, body=0.0)


def test_a_swaying_head_in_closed_form(small: Reference) -> None:
    """A head that sways by a sine of one face height: a body of sqrt(1/2), no expression; turning adds no expression either."""
    still = small.prepared.points.astype(np.float64)
    height = float(face_height(still))
    phase = 2 * np.pi * np.arange(100) / 100
    swaying = still + np.stack([height * np.sin(phase), 0 * phase, 0 * phase], 1)[:, None]
    assert spread_of(swaying).body == pytest.approx(np.sqrt(0.5), rel=1e-6)
    assert spread_of(swaying).expression < 1e-6
    turning = Rotation.from_rotvec(np.stack([0.2 * np.sin(phase), 0.3 * np.cos(phase), 0.1 * np.sin(2 * phase)], 1)).as_matrix()
    turned = np.einsum("tij,nj->tni", turning, still - still.mean(0)) + still.mean(0)
    assert spread_of(turned).expression < 1e-6 and spread_of(turned).body > 0.05


def test_a_moving_cheek_in_closed_form(small: Reference) -> None:
    """One point that speech may move, to and fro by a face height: its part of the mean square, and no body."""
    still = small.prepared.points.astype(np.float64)
    cheek = next(i for i in range(SKIN) if i not in RIGID)
    points = np.repeat(still[None], 100, 0)
    points[:, cheek, 0] += float(face_height(still)) * np.sin(2 * np.pi * np.arange(100) / 100)
    assert spread_of(points).expression == pytest.approx(np.sqrt(0.5 / SKIN), rel=1e-5)
    assert spread_of(points).body == 0


def test_more_motion_is_more(animator: Animator, small: Reference, motion: Motion) -> None:
    """A scaled motion: each number rises with its own part of the motion, and hardly changes with the other."""
    face = ("lips_jaw", "cheeks_brows", "eyelids")
    head = ("rotation", "translation", "log_scale")
    factors = (0.25, 0.5, 1.0, 1.5, 2.0)
    by_face = [SCALE(spread_of(landmarks(animator, small, motion.amplified(dict.fromkeys(face, f))))) for f in factors]
    by_head = [SCALE(spread_of(landmarks(animator, small, motion.amplified(dict.fromkeys(head, f))))) for f in factors]
    assert (np.diff([i.expression for i in by_face]) > 0.001).all()
    assert (np.diff([i.body for i in by_head]) > 0.001).all()
    assert np.ptp([i.expression for i in by_head]) < 0.02
    assert np.ptp([i.body for i in by_face]) < 0.1


def test_size_rate_and_lost_pictures_do_not_count(animator: Animator, small: Reference, motion: Motion) -> None:
    points = landmarks(animator, small, motion)
    whole = spread_of(points)
    holes = np.concatenate([points, np.full_like(points[:20], np.nan)])
    for other in (3 * points, points + [100.0, -50.0, 0.0], holes, points[::2]):
        spread = spread_of(other)
        assert spread.expression == pytest.approx(whole.expression, rel=0.05)
        assert spread.body == pytest.approx(whole.body, rel=0.05)


def test_joints_that_are_seen_count_as_much_as_the_head(small: Reference) -> None:
    still = np.repeat(small.prepared.points[None].astype(np.float64), 100, 0)
    wave = float(face_height(still[0])) * np.sin(2 * np.pi * np.arange(100) / 100)
    joints = np.zeros((100, 2, 3))
    joints[:, 0, 0], joints[:, 0, 2] = wave, 1.0
    joints[:, 1, 0], joints[:, 1, 2] = 5 * wave, 0.2  # not seen
    assert spread_of(still, joints).body == pytest.approx(np.sqrt(0.5 / 2), rel=1e-6)
    assert spread_of(still, joints[:, 1:]).body == 0


def test_a_scale_is_its_recordings_distribution() -> None:
    """The median is neutral, a quarter of the recordings lie below 0.25, and a saved scale is the same."""
    rng = np.random.default_rng(0)
    spreads = [Spread(expression=e, body=b) for e, b in np.exp(rng.normal((-4.4, -4.2), (0.3, 0.7), (801, 2)))]
    scale = IntensityScale.measured(spreads)
    placed = np.array([(i.expression, i.body) for i in map(scale, spreads)])
    np.testing.assert_allclose(np.quantile(placed, LEVELS, axis=0), np.array(LEVELS)[:, None] * [1, 1], atol=1e-6)
    assert np.abs(np.quantile(placed, [0.1, 0.4, 0.6, 0.9], axis=0) - np.array([[0.1], [0.4], [0.6], [0.9]])).max() < 0.06
    middle = Spread(expression=scale.expression[3], body=scale.body[3])
    assert scale(middle) == Intensity()
    order = np.argsort([s.body for s in spreads])
    assert (np.diff(placed[order, 1]) > 0).all()
    assert IntensityScale.loaded(scale.saved()) == scale
    assert scale(Spread(expression=9.0, body=0.0)) == Intensity(expression=1.0, body=0.0)


def test_what_cannot_be_measured_is_said(small: Reference) -> None:
    lost = np.full((5, 478, 3), np.nan)
    with pytest.raises(ValueError, match="tracked in 0 of 5 pictures"):
        spread_of(lost)
    with pytest.raises(ValueError, match="3 recordings were measured: give 7 or more"):
        IntensityScale.measured([Spread(expression=0.1, body=0.1)] * 3)
    with pytest.raises(ValueError, match="one and the same spread of expression"):
        IntensityScale.measured([Spread(expression=0.1, body=0.1)] * 9)
    with pytest.raises(ValueError, match="the intensity of body is 1.2"):
        Intensity(body=1.2)
    with pytest.raises(ValueError, match="rising quantiles"):
        replace(SCALE, body=SCALE.body[::-1])

