"""The project's figures against those of the independent judge, and every figure under the damage that it is meant to see.

On made-up curves, and on two recordings as the judge tracks them; both are skipped where ../shared is not.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import skimage.data

from vivavoce.latent.mesh import (
    brow_height,
    eye_opening,
    face_box,
    face_height,
    flat_mesh,
    head_rotation,
    lip_opening,
    mouth_box,
    mouth_width,
)
from vivavoce.metrics.distances import mesh_frechet
from vivavoce.metrics.dynamics import activity, jerk
from vivavoce.metrics.eyes import blinks_per_minute
from vivavoce.metrics.head import diversity, rotation_spread, speed
from vivavoce.metrics.lips import best_lag, closed, closure_f1, correlation, gain, silent_stability
from vivavoce.metrics.pictures import border_change, crop, sharpness

JUDGE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "judge.py"
CLIPS = ("val/freedomintelligence-19_30_1.mp4", "val/grid-s4-bbilzs.mp4")
RATE_HZ = 25.0


@pytest.fixture(scope="module")
def judge() -> Iterator[ModuleType]:
    if not JUDGE.is_file():
        pytest.skip("the judge (../shared/tools/judge.py) is not here")
    spec = importlib.util.spec_from_file_location("judge", JUDGE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["judge"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["judge"]


@pytest.fixture(scope="module", params=CLIPS)
def clip(request: pytest.FixtureRequest, recordings: Path) -> Path:
    return recordings / request.param


@pytest.fixture(scope="module")
def tracked(judge: ModuleType, clip: Path):
    return judge.track(str(clip))


def curve(seed: int, frames: int = 120) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.convolve(rng.random(frames + 8), np.ones(5) / 5, "same")[4:-4]


def same_curve_figures(judge: ModuleType, a: np.ndarray, b: np.ndarray) -> None:
    assert correlation(a, b) == pytest.approx(judge.corr(a, b))
    assert best_lag(a, b) == judge.best_lag(a, b)
    assert gain(a, b) == pytest.approx(a.std() / b.std())
    np.testing.assert_array_equal(closed(a), judge.closed(a))
    assert closure_f1(a, b) == pytest.approx(judge.closure_f1(a, b), nan_ok=True)


def same_rotation_figures(judge: ModuleType, degrees: np.ndarray) -> None:
    radians = np.radians(degrees)
    assert np.degrees(rotation_spread(radians)) == pytest.approx(judge.spread(degrees))
    assert np.degrees(jerk(radians, RATE_HZ)) == pytest.approx(judge.jerk(degrees))


def test_figures_of_curves_are_the_judges(judge: ModuleType) -> None:
    for seed in range(5):
        same_curve_figures(judge, curve(seed), curve(seed + 100))
        same_rotation_figures(judge, np.random.default_rng(seed).normal(0, 5, (50, 3)))
        same_rotation_figures(judge, np.random.default_rng(seed).normal(0, 5, (6, 3)))
        opening = 0.3 * np.random.default_rng(seed).random(200) ** 0.3
        assert blinks_per_minute(opening, RATE_HZ) == pytest.approx(judge.blinks(opening))


def test_figures_of_points_are_the_judges(judge: ModuleType) -> None:
    real, generated = (np.random.default_rng(seed).normal(0, 50, (60, 478, 3)) for seed in range(2))
    look = judge.Tracked(real, np.zeros((60, 3)), np.ones(60, bool), 0.0, 0.0, 0.0, [], (1, 1))
    figures = judge.curves(look)
    for name, ours in (("gap", lip_opening), ("width", mouth_width), ("eye", eye_opening), ("brow", brow_height)):
        np.testing.assert_allclose(ours(real), figures[name])
    np.testing.assert_allclose(face_height(real), judge.height(real))
    np.testing.assert_allclose(flat_mesh(real), judge.flat_mesh(look))
    template = np.median(real, 0)
    turns = np.stack([judge.rotation_of(p, template) for p in real])
    np.testing.assert_allclose(np.degrees(head_rotation(real)), turns, atol=1e-8)
    a, b = (flat_mesh(p)[:, :90] for p in (real, generated))
    assert mesh_frechet(a, b) == pytest.approx(judge.frechet(a, b), rel=1e-6)


def test_figures_of_pictures_are_the_judges(judge: ModuleType) -> None:
    image = skimage.data.astronaut()
    points = np.random.default_rng(0).uniform(100, 300, (478, 3))
    face, mouth = judge._boxes(points)
    np.testing.assert_allclose(face_box(points), face)
    np.testing.assert_allclose(mouth_box(points), mouth)
    for box, side in ((face, 192), (mouth, 96), ((-20.0, 30.4, 80.5, 90.6), 64), ((600.0, 600.0, 700.0, 700.0), 64)):
        ours, theirs = crop(image, box, side), judge._crop(image, box, side)
        if theirs is None:
            assert ours is None
            continue
        np.testing.assert_array_equal(ours, theirs)
        assert sharpness(ours) == pytest.approx(judge._laplace_energy(theirs.astype(float)))


def test_a_recordings_figures_are_the_judges(judge: ModuleType, clip: Path, tracked) -> None:
    points, figures = tracked.landmarks, judge.curves(tracked)
    for name, ours in (("gap", lip_opening), ("width", mouth_width), ("eye", eye_opening), ("brow", brow_height)):
        np.testing.assert_allclose(ours(points), figures[name])
    np.testing.assert_allclose(np.degrees(head_rotation(points)), tracked.rotation, atol=1e-6)
    np.testing.assert_allclose(flat_mesh(points), judge.flat_mesh(tracked))
    gap = figures["gap"]
    for other in (np.roll(gap, 3), 0.5 * gap + 0.02, figures["width"], gap[::-1]):
        same_curve_figures(judge, other, gap)
    same_rotation_figures(judge, tracked.rotation)
    assert blinks_per_minute(figures["eye"], RATE_HZ) == pytest.approx(judge.blinks(figures["eye"]))
    half = len(points) // 2
    a, b = flat_mesh(points)[:half], flat_mesh(points)[half:]
    assert mesh_frechet(a, b) == pytest.approx(judge.frechet(a, b), rel=1e-6)


def test_a_recordings_border_flickers_as_the_judge_says(clip: Path, tracked) -> None:
    with av.open(str(clip)) as box:  # `media.video` rounds colours differently, which makes two in a thousand
        frames = [frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)]
    changes = [border_change(a, b) for a, b in pairwise(frames)]
    assert np.mean(changes) == pytest.approx(tracked.border, rel=1e-6)


# Under damage


def falls(figure: Callable[[float], float], amounts: list[float], *, at_least: float = 1e-6) -> None:
    """Each damage is worse than the one before it."""
    found = [figure(amount) for amount in amounts]
    assert all(a > b + at_least for a, b in pairwise(found)), found


def test_delayed_and_flattened_lips_are_seen(tracked) -> None:
    gap = lip_opening(tracked.landmarks)

    def late(frames: float) -> np.ndarray:
        return np.concatenate([np.full(int(frames), gap[0]), gap])[: len(gap)]

    falls(lambda k: correlation(late(k), gap), [0, 1, 2, 3])
    falls(lambda k: closure_f1(late(k), gap), [1, 3, 5])  # one frame is tolerated
    assert [best_lag(late(k), gap) for k in (0, 2, 5, 8)] == [0, 2, 5, 8]
    assert [gain(scale * gap, gap) for scale in (0, 0.5, 2)] == pytest.approx([0, 0.5, 2])
    rng = np.random.default_rng(0)
    noise = rng.normal(0, gap.std(), len(gap))
    falls(lambda s: correlation(gap + s * noise, gap), [0, 0.3, 1, 3])
    falls(lambda s: -activity(gap + s * noise, RATE_HZ), [0, 0.3, 1, 3])
    falls(lambda s: -silent_stability(0.02 + s * noise, np.ones(len(gap), bool)), [0, 0.3, 1, 3])


def test_frozen_and_trembling_heads_are_seen(tracked) -> None:
    turning = np.radians(tracked.rotation)
    for figure in (rotation_spread, lambda r: speed(r, RATE_HZ), lambda r: jerk(r, RATE_HZ)):
        falls(lambda share, figure=figure: figure(share * turning), [1.5, 1, 0.5, 0.2, 0])
    noise = np.random.default_rng(0).normal(0, np.radians(1), turning.shape)
    falls(lambda s: -jerk(turning + s * noise, RATE_HZ), [0, 0.1, 0.3, 1])
    falls(lambda s: -speed(turning + s * noise, RATE_HZ), [0, 0.3, 1])
    falls(lambda share: diversity([turning, share * turning[::-1] + (1 - share) * turning]), [1, 0.5, 0])


def test_blinks_that_are_held_open_are_missed(tracked) -> None:
    eye = eye_opening(tracked.landmarks)
    median = float(np.median(eye))
    blinking = eye.copy()
    blinking[30:34] = 0.2 * median
    assert blinks_per_minute(blinking, RATE_HZ) > blinks_per_minute(np.maximum(eye, 0.7 * median), RATE_HZ) == 0


def test_frozen_and_trembling_meshes_are_seen(tracked) -> None:
    points = tracked.landmarks
    real, mean = flat_mesh(points), points.mean(0)
    falls(lambda share: -mesh_frechet(real, flat_mesh(mean + share * (points - mean))), [1, 0.7, 0.4, 0])
    noise = np.random.default_rng(0).normal(0, face_height(points).mean(), (len(points), 1, 3))
    falls(lambda s: -mesh_frechet(real, flat_mesh(points + s * noise)), [0, 0.03, 0.1, 0.3])
