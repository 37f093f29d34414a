"""Figures of pictures and of sets: likeness, stillness, distances of distributions, intervals."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vivavoce.metrics.confidence import bootstrap, bootstrap_of, difference
from vivavoce.metrics.distances import (
    Moments,
    cosine,
    frechet,
    frechet_of_gaussians,
    frechet_of_moments,
    mesh_frechet,
    principal,
)
from vivavoce.metrics.pictures import (
    background_stability,
    border_change,
    colour_drift,
    crop,
    flicker,
    mean_colour,
    psnr,
    sharpness,
    ssim,
)

RATE_HZ = 25.0


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return skimage.data.astronaut()[:200, 100:330]


def noisy(picture: np.ndarray, levels: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, levels, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture


# Pictures


def test_likeness_is_scikit_images(picture: np.ndarray) -> None:
    other = noisy(blurred(picture, 1), 12)
    assert psnr(picture, other) == pytest.approx(peak_signal_noise_ratio(picture, other))
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (picture, other)]
    theirs = structural_similarity(*grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    assert ssim(picture, other) == pytest.approx(theirs, abs=1e-5)


def test_likeness_falls_with_every_damage(picture: np.ndarray) -> None:
    assert psnr(picture, picture) == float("inf")
    assert ssim(picture, picture) == pytest.approx(1)
    for damage in (blurred, noisy):
        worse = [damage(picture, amount) for amount in (1, 2, 4, 8)]
        for likeness in (psnr, ssim):
            found = [likeness(picture, w) for w in worse]
            assert found == sorted(found, reverse=True)


def test_sharpness_falls_with_blur_and_sees_no_brightness(picture: np.ndarray) -> None:
    found = [sharpness(blurred(picture, sigma)) for sigma in (0, 0.5, 1, 2, 4)]
    assert found == sorted(found, reverse=True)
    assert sharpness(picture // 2 + 40) == pytest.approx(sharpness(picture // 2), rel=1e-6)
    assert sharpness(np.full((20, 20, 3), 77, np.uint8)) == 0


def test_crops_outside_the_picture_are_none(picture: np.ndarray) -> None:
    np.testing.assert_array_equal(crop(picture, (10, 20, 60, 70), 50), picture[20:70, 10:60])
    assert crop(picture, (-30, -30, 20, 20), 16) is not None
    assert crop(picture, (500, 500, 520, 520), 16) is None


def test_the_border_changes_by_as_much_as_its_pixels(picture: np.ndarray) -> None:
    darker = picture // 2
    assert border_change(darker, darker + 7) == 7
    inside = darker.copy()
    inside[8:, 8:-8] = 200  # the face, and the bottom, where the body moves
    assert border_change(darker, inside) == 0
    levels = [border_change(picture, noisy(picture, s)) for s in (0, 1, 3, 9)]
    assert levels == sorted(levels)
    assert levels[0] == 0


def test_a_background_is_as_unstable_as_its_pixels(picture: np.ndarray) -> None:
    mask = np.zeros(picture.shape[:2], bool)
    mask[:, :40] = True
    grey = np.full_like(picture, 120)
    moving = [grey.copy() for _ in range(6)]
    for i, frame in enumerate(moving):
        frame[~mask] = 40 * i  # only the person moves
    assert background_stability(moving, mask) == 0
    swaying = [grey + np.uint8(2 * (i % 2)) for i in range(6)]
    assert background_stability(swaying, mask) == pytest.approx(1)
    trembling = [background_stability([noisy(grey, s, i) for i in range(30)], mask) for s in (2.0, 4.0, 8.0)]
    np.testing.assert_allclose(trembling, [2, 4, 8], rtol=0.05)
    assert np.isnan(background_stability([], mask))
    assert np.isnan(background_stability(moving, np.zeros_like(mask)))


def test_drift_and_flicker_each_see_their_own() -> None:
    seconds = np.arange(250) / RATE_HZ
    steady = np.tile([100.0, 120.0, 90.0], (250, 1))
    assert colour_drift(steady, RATE_HZ) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    drifting = steady + seconds[:, None] * [0.3, 0.0, -0.4]  # half a level a second
    slope, furthest = colour_drift(drifting, RATE_HZ)
    assert slope == pytest.approx(30)
    assert furthest == pytest.approx(0.5 * 9)
    assert flicker(drifting) == pytest.approx(0, abs=1e-9)
    alternating = steady + np.where(np.arange(250) % 2, 1.0, -1.0)[:, None] * [0, 1, 0]
    assert flicker(alternating) == pytest.approx(4)
    assert colour_drift(alternating, RATE_HZ)[0] < 0.5
    assert np.isnan(colour_drift(steady[:49], RATE_HZ)).all()


def test_mean_colours_are_those_of_the_mask(picture: np.ndarray) -> None:
    mask = np.zeros(picture.shape[:2], bool)
    mask[3, 4:6] = True
    np.testing.assert_allclose(mean_colour(picture, mask), picture[3, 4:6].mean(0))
    np.testing.assert_allclose(mean_colour(picture), picture.mean((0, 1)))


# Distances


def test_the_frechet_distance_has_its_closed_forms() -> None:
    eye = np.eye(3)
    assert frechet_of_gaussians(np.zeros(3), eye, np.array([1.0, 2, 2]), eye) == pytest.approx(9)
    assert frechet_of_gaussians(np.zeros(3), 4 * eye, np.zeros(3), 9 * eye) == pytest.approx(3 * (3 - 2) ** 2)
    turned = np.array([[1.0, 0.9], [0.9, 1.0]])  # and its mirror image, which does not commute with diag(1, 4)
    one, other = np.diag([1.0, 4.0]), turned
    assert frechet_of_gaussians(np.zeros(2), one, np.zeros(2), other) == pytest.approx(
        frechet_of_gaussians(np.zeros(2), other, np.zeros(2), one)
    )


@given(seed=st.integers(0, 30))
@settings(max_examples=15, deadline=None)
def test_the_frechet_distance_is_a_distance_that_sees_no_turning(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, (60, 5)), rng.normal(0.5, 1, (50, 5)) @ rng.normal(0, 1, (5, 5))
    turn, _ = np.linalg.qr(rng.normal(0, 1, (5, 5)))
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a))
    assert frechet(a @ turn + 3, b @ turn + 3) == pytest.approx(frechet(a, b))
    assert frechet(a[rng.permutation(60)], b) == pytest.approx(frechet(a, b))


def meshes(seed: int, frames: int = 150) -> np.ndarray:
    """Rows that vary mostly in 24 directions, as those of faces."""
    rng = np.random.default_rng(7)
    directions = rng.normal(0, 1, (30, 90)) * 0.8 ** np.arange(30)[:, None]
    return np.random.default_rng(seed).normal(0, 1, (frames, 30)) @ directions


def test_mesh_distance_rises_with_every_damage() -> None:
    real, rng = meshes(0), np.random.default_rng(1)
    assert mesh_frechet(real, real) == pytest.approx(0, abs=1e-9)
    for damaged in (
        [real.mean(0) + share * (real - real.mean(0)) for share in (0.9, 0.6, 0.3, 0.0)],  # frozen
        [real.mean(0) + share * (real - real.mean(0)) for share in (1.1, 1.5, 2.0)],  # exaggerated
        [real + shift for shift in (0.1, 0.3, 0.9)],
        [real + rng.normal(0, s, real.shape) for s in (0.2, 0.6, 1.8)],
    ):
        found = [mesh_frechet(real, d) for d in damaged]
        assert found == sorted(found)
        assert found[0] > 0.01


def test_fewer_frames_than_components_are_compared_in_fewer() -> None:
    real = meshes(0, 12)
    assert np.isfinite(mesh_frechet(real, meshes(1, 12)))
    assert principal(real, 24)[1].shape == (90, 12)


def test_sets_of_clips_are_compared_without_their_frames() -> None:
    clips, others = [meshes(i, 40 + i) for i in range(4)], [1.2 * meshes(i + 9, 50) for i in range(4)]
    whole, generated = np.concatenate(clips), np.concatenate(others)
    mean, basis = principal(whole, 24)
    ours, theirs = ([Moments.of((c - mean) @ basis) for c in parts] for parts in (clips, others))
    assert frechet_of_moments(ours, theirs) == pytest.approx(mesh_frechet(whole, generated))


def test_cosines() -> None:
    assert cosine(np.array([1.0, 0]), np.array([3.0, 0])) == 1
    assert cosine(np.array([1.0, 0]), np.array([0, 2.0])) == 0
    assert cosine(np.array([1.0, 1]), np.array([-1.0, -1])) == pytest.approx(-1)
    assert np.isnan(cosine(np.zeros(2), np.ones(2)))


# Confidence


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for statistic in (np.nanmean, np.nanmedian):
        held = 0
        for trial in range(150):
            interval = bootstrap(rng.normal(3, 2, 40), statistic=statistic, seed=trial, resamples=300)
            held += interval.low <= 3 <= interval.high
        assert 0.87 <= held / 150 <= 0.99


def test_intervals_are_seeded_narrow_with_clips_and_widen_with_the_level() -> None:
    values = np.random.default_rng(0).normal(0, 1, 400)
    assert bootstrap(values) == bootstrap(values)
    few, many = bootstrap(values[:25]), bootstrap(values)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.35)
    assert bootstrap(values, level=0.99).low < many.low < bootstrap(values, level=0.8).low < many.value


def test_unknown_values_are_left_out_and_one_clip_has_no_interval() -> None:
    known = np.random.default_rng(0).normal(0, 1, 20)
    assert bootstrap(np.concatenate([known, [np.nan] * 3])) == bootstrap(known)
    one = bootstrap(np.array([2.0, np.nan]))
    assert (one.value, one.count) == (2, 1)
    assert np.isnan([one.low, one.high]).all()
    assert not one.excludes_zero
    none = bootstrap(np.array([np.nan]))
    assert none.count == 0
    assert np.isnan(none.value)


def test_a_paired_difference_sees_what_two_intervals_cannot() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.normal(0, 5, 30)
    ours, theirs = hardness + rng.normal(0.5, 0.3, 30), hardness + rng.normal(0, 0.3, 30)
    paired = difference(ours, theirs)
    assert paired.excludes_zero
    assert paired.value == pytest.approx(ours.mean() - theirs.mean())
    assert bootstrap(ours).low < bootstrap(theirs).high
    assert not difference(ours, rng.permutation(ours)).excludes_zero
    theirs[3] = np.nan
    assert difference(ours, theirs).count == 29


def test_clips_of_one_person_do_not_count_as_many_people() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(0, 1, 12)
    values, names = np.repeat(people, 10) + rng.normal(0, 0.1, 120), [f"person {i // 10}" for i in range(120)]
    by_clip, by_person = bootstrap(values), bootstrap(values, groups=names)
    assert by_person.value == by_clip.value
    assert (by_person.high - by_person.low) / (by_clip.high - by_clip.low) == pytest.approx(np.sqrt(10), rel=0.3)
    alone = bootstrap(values[:10], groups=names[:10])
    assert alone.count == 10
    assert np.isnan(alone.low)


def test_figures_of_whole_sets_are_resampled_by_clip() -> None:
    clips = [meshes(i, 30) for i in range(12)]
    mean, basis = principal(np.concatenate(clips), 24)
    real = [Moments.of((c - mean) @ basis) for c in clips]
    made = [Moments.of(1.5 * (c - mean) @ basis) for c in clips]
    interval = bootstrap_of(
        12, lambda chosen: frechet_of_moments([real[i] for i in chosen], [made[i] for i in chosen]), resamples=100
    )
    assert interval.low < interval.value < interval.high
    np.testing.assert_allclose(bootstrap_of(12, lambda chosen: float(chosen.mean())).value, 5.5)
