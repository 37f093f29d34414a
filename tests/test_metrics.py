"""Figures of curves: lips, heads, blinks, synchrony. Closed forms, invariances, and what each must see or must not see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vivavoce.latent.mesh import brow_to_eye, eyes_apart, face_box, flat_mesh, head_rotation, lip_opening, mouth_box
from vivavoce.latent.topology import LIP_CONTOURS, RIGID
from vivavoce.metrics import theval
from vivavoce.metrics.dynamics import activity, jerk, spread
from vivavoce.metrics.eyes import blink_shape, blinks, blinks_per_minute
from vivavoce.metrics.head import (
    beat_align,
    beat_align_above_chance,
    diversity,
    kinematic_beats,
    rotation_spread,
    speech_synchrony,
    speed,
    windows,
)
from vivavoce.metrics.lips import best_lag, bilabial_closures, closed, closure_f1, correlation, gain, silent_stability, touching
from vivavoce.metrics.sync import distances_by_offset, offset_and_confidence, sound_offset

RATE_HZ = 25.0


def curve(seed: int, frames: int = 120) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.convolve(rng.random(frames + 8), np.ones(5) / 5, "same")[4:-4]


def turning(seed: int, frames: int = 250) -> np.ndarray:
    """A head that moves by some degrees."""
    return np.radians(20) * (np.stack([curve(3 * seed + i, frames) for i in range(3)], 1) - 0.5)


# Lips


def test_correlation_sees_neither_scale_nor_offset() -> None:
    a, b = curve(0), curve(1)
    assert correlation(a, 3 * a + 2) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)
    assert correlation(2 * a + 1, b) == pytest.approx(correlation(a, b))
    assert correlation(a, np.ones_like(a)) == 0
    assert correlation(a[:9], a[:9]) == 0


@given(lag=st.integers(-8, 8), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_delay_is_found_with_its_sign(lag: int, seed: int) -> None:
    whole = curve(seed, 160)
    assert best_lag(whole[20 - lag : 120 - lag], whole[20:120]) == lag


def test_closed_lips_are_those_near_the_bottom_of_their_own_range() -> None:
    opening = np.concatenate([np.zeros(20), np.linspace(0.0, 1.0, 100)])
    mask = closed(opening)
    np.testing.assert_array_equal(mask, closed(5 * opening + 3))
    np.testing.assert_allclose(opening[mask].max(), 0.12 * np.percentile(opening, 95), atol=0.011)


def test_closures_may_be_a_frame_off_and_no_more() -> None:
    real = np.ones(100)
    real[20:26] = real[60:66] = 0.0
    assert closure_f1(real, real) == 1
    assert closure_f1(np.roll(real, 1), real) == 1
    assert closure_f1(np.roll(real, 7), real) == 0  # a gap of one frame between theirs and ours would still be in reach
    half = np.ones(100)
    half[20:26] = 0.0
    assert closure_f1(half, real) == pytest.approx(2 * 0.5 / 1.5)  # all precise, half recalled
    assert np.isnan(closure_f1(real, np.ones(100)))


@given(factor=st.floats(0, 3), offset=st.floats(-1, 1))
@settings(max_examples=20, deadline=None)
def test_gain_is_the_factor(factor: float, offset: float) -> None:
    assert gain(factor * curve(0) + offset, curve(0)) == pytest.approx(factor, abs=1e-6)
    assert np.isnan(gain(curve(0), np.ones(120)))


def test_bilabials_are_met_where_lips_touch_in_reach() -> None:
    opening = np.full(100, 0.1)
    opening[40:42] = 0.0  # 1.60 s to 1.64 s
    assert bilabial_closures(opening, np.array([[1.60, 1.65], [3.0, 3.1]]), RATE_HZ) == 0.5
    assert bilabial_closures(opening, np.array([[1.68, 1.70]]), RATE_HZ) == 1  # frame 41 is 40 ms before it
    assert bilabial_closures(opening, np.array([[1.69, 1.75]]), RATE_HZ) == 0
    assert bilabial_closures(opening, np.array([[1.50, 1.56]]), RATE_HZ) == 1
    assert bilabial_closures(opening, np.array([[1.50, 1.55]]), RATE_HZ) == 0
    assert np.isnan(bilabial_closures(opening, np.zeros((0, 2)), RATE_HZ))
    assert np.isnan(bilabial_closures(opening, np.array([[9.0, 9.1]]), RATE_HZ))  # after the end of the clip


def test_lips_that_stay_ajar_or_still_meet_no_bilabial() -> None:
    opening = 0.15 * np.abs(np.sin(np.arange(200) / 4))
    times = np.array([[t / RATE_HZ - 0.02, t / RATE_HZ + 0.02] for t in np.flatnonzero(opening < 0.02)])
    assert bilabial_closures(opening, times, RATE_HZ) == 1
    assert bilabial_closures(opening + 0.05, times, RATE_HZ) == 0
    assert bilabial_closures(np.zeros(200), times, RATE_HZ) == 0
    lifted = [touching(opening + up).mean() for up in (0, 0.005, 0.01, 0.02, 0.03, 0.04)]
    assert lifted == sorted(lifted, reverse=True)
    assert lifted[-1] == 0
    floors = [touching(np.maximum(opening, low)).mean() for low in (0, 0.01, 0.02, 0.03, 0.05)]
    assert floors == sorted(floors, reverse=True)
    assert floors[-1] == 0


def test_silence_is_judged_by_movement_within_each_stretch() -> None:
    opening, silent = 0.1 * curve(0, 200), np.zeros(200, bool)
    silent[20:60] = silent[100:140] = silent[190:195] = True
    still = opening.copy()
    still[20:60], still[100:140] = 0.03, 0.07  # at rest in different places; the third stretch is too short to tell
    assert silent_stability(still, silent) == pytest.approx(0)
    rng = np.random.default_rng(0)
    fluttering = [silent_stability(still + s * rng.normal(0, 1, 200), silent) for s in (0.005, 0.01, 0.02)]
    np.testing.assert_allclose(fluttering, [0.005, 0.01, 0.02], rtol=0.2)
    assert np.isnan(silent_stability(opening, np.zeros(200, bool)))


# Heads


def test_a_rotation_about_each_axis_is_read_off_the_mesh() -> None:
    rng = np.random.default_rng(0)
    face = rng.normal(0, 50, (478, 3))
    angles = np.radians(np.array([[10.0, 0, 0], [0, -25, 0], [0, 0, 40], [5, 10, -15]]))
    turns = Rotation.from_euler("xyz", angles).as_matrix()  # about fixed axes: first x, last z
    points = np.stack([1.3 * face @ turn.T + [9, 8, 7] for turn in turns])
    np.testing.assert_allclose(head_rotation(points, face), angles, atol=1e-9)
    moved = points.copy()
    moved[:, np.setdiff1d(np.arange(478), RIGID)] += 20  # a grimace
    np.testing.assert_allclose(head_rotation(moved, face), angles, atol=1e-9)


def test_meshes_are_compared_without_size_and_place_of_the_video() -> None:
    points = np.random.default_rng(0).normal(0, 1, (9, 478, 3))
    np.testing.assert_allclose(flat_mesh(3 * points + 5), flat_mesh(points), atol=1e-9)
    assert np.abs(flat_mesh(np.flip(points, 0)) - flat_mesh(points)).max() > 0.1


def test_boxes_hold_what_they_are_of() -> None:
    points = np.zeros((478, 3))
    points[[61, 291, 0, 17], :2] = [[90, 100], [110, 100], [100, 95], [100, 105]]
    assert mouth_box(points) == (85, 85, 115, 115)
    assert face_box(points) == (0, 0, 110, 105)


@given(factor=st.floats(0.1, 4), seed=st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_spread_speed_and_jerk_grow_with_the_motion(factor: float, seed: int) -> None:
    motion = turning(seed)
    assert rotation_spread(factor * motion) == pytest.approx(factor * rotation_spread(motion), rel=1e-2)
    assert speed(factor * motion, RATE_HZ) == pytest.approx(factor * speed(motion, RATE_HZ))
    assert jerk(factor * motion, RATE_HZ) == pytest.approx(factor * jerk(motion, RATE_HZ))
    assert activity(factor * motion, RATE_HZ) == pytest.approx(factor * activity(motion, RATE_HZ))
    assert spread(factor * motion[:, 0]) == pytest.approx(factor * spread(motion[:, 0]))


def test_known_motions_have_known_dynamics() -> None:
    seconds = np.arange(100) / RATE_HZ
    steady = np.stack([0.3 * seconds, 0 * seconds, 0.4 * seconds], 1)
    assert speed(steady, RATE_HZ) == pytest.approx(0.5)
    assert activity(steady[:, 0], RATE_HZ) == pytest.approx(0.3)
    assert jerk(steady, RATE_HZ) == pytest.approx(0, abs=1e-6)
    assert jerk(seconds**3, RATE_HZ) == pytest.approx(6)  # a cubic survives the smoothing, and its third derivative is 3!
    assert speed(np.zeros((50, 3)), RATE_HZ) == jerk(np.zeros((50, 3)), RATE_HZ) == 0


def test_diversity_is_the_distance_of_takes() -> None:
    a = turning(0)
    assert diversity([a, a, a]) == 0
    assert diversity([a, a + np.array([0.3, 0, 0.4])]) == pytest.approx(0.5)
    assert np.isnan(diversity([a]))
    pieces = windows(a, 60)
    assert len(pieces) == 4
    assert diversity(pieces) > 0
    np.testing.assert_allclose([p.mean() for p in pieces], 0, atol=1e-12)


def nodding(beats_frames: range, frames: int) -> np.ndarray:
    """A head that rests at each of the frames and moves between them."""
    phase = np.interp(np.arange(frames), list(beats_frames), np.pi * np.arange(len(beats_frames)))
    return np.stack([0.1 * np.cos(phase), 0 * phase, 0 * phase], 1)


def test_beats_are_where_the_head_turns_back() -> None:
    motion = nodding(range(0, 280, 20), 250)
    np.testing.assert_allclose(kinematic_beats(motion, RATE_HZ), np.arange(20, 241, 20), atol=1)
    on = np.arange(20, 241, 20) / RATE_HZ
    scores = [beat_align(motion, on + delay, RATE_HZ) for delay in (0, 0.08, 0.16, 0.32)]
    assert scores[0] > 0.95
    assert scores == sorted(scores, reverse=True)
    assert beat_align(motion, on, RATE_HZ, tolerance_seconds=0.05) == pytest.approx(
        np.exp(-((np.abs(kinematic_beats(motion, RATE_HZ)[:, None] / RATE_HZ - on).min(1) / 0.05) ** 2) / 2).mean()
    )
    assert beat_align_above_chance(motion, on, RATE_HZ) > 0.4
    assert np.isnan(beat_align(np.zeros((250, 3)), on, RATE_HZ))
    assert np.isnan(beat_align(motion, np.zeros(0), RATE_HZ))


def test_many_beats_align_by_chance_and_that_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    often = np.sort(rng.uniform(0, 20, 80))
    raw = [beat_align(turning(s, 500), often, RATE_HZ) for s in range(12)]
    above = [beat_align_above_chance(turning(s, 500), often, RATE_HZ) for s in range(12)]
    assert np.mean(raw) > 0.5
    assert abs(np.mean(above)) < 0.06


def speaking_head(seed: int, seconds: float = 40.0, scale: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and loudness that are lively in the same moments, which last about ``scale`` seconds."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * RATE_HZ)
    lively = np.repeat(rng.uniform(0.05, 1, frames), round(scale * RATE_HZ))[:frames]
    rotation = np.cumsum(lively[:, None] * rng.normal(0, 0.01, (frames, 3)), axis=0)
    return rotation, np.cumsum(lively * rng.normal(0, 2, frames))


def test_synchrony_sees_motion_that_belongs_to_the_speech() -> None:
    own = np.mean([speech_synchrony(*speaking_head(s), RATE_HZ) for s in range(6)], axis=0)
    pairs = [(speaking_head(s)[0], speaking_head(s + 50)[1]) for s in range(12)]
    other = np.mean([speech_synchrony(*p, RATE_HZ) for p in pairs], axis=0)
    assert own.shape == (4,)
    assert (own > 0.3).all()
    assert (np.abs(other) < 0.1).all()


def test_synchrony_falls_with_delay_and_noise_and_not_with_amplitude() -> None:
    rotation, loudness = speaking_head(0, seconds=80)
    rng = np.random.default_rng(1)
    delayed = [speech_synchrony(np.roll(rotation, k, 0), loudness, RATE_HZ, windows_seconds=[0.4])[0] for k in (0, 3, 6, 12)]
    assert delayed == sorted(delayed, reverse=True)
    noisy = [
        speech_synchrony(rotation + rng.normal(0, s, rotation.shape), loudness, RATE_HZ, windows_seconds=[0.4])[0]
        for s in (0, 0.005, 0.05)
    ]
    assert noisy == sorted(noisy, reverse=True)
    whole = speech_synchrony(rotation, loudness, RATE_HZ)
    np.testing.assert_allclose(speech_synchrony(50 * rotation, loudness, RATE_HZ), whole, atol=0.05)
    np.testing.assert_allclose(speech_synchrony(rotation, np.stack([loudness, 7 * loudness], 1), RATE_HZ), whole)


def test_synchrony_of_a_still_head_is_none_and_without_speech_or_time_unknown() -> None:
    rotation, loudness = speaking_head(0, seconds=5)
    np.testing.assert_array_equal(speech_synchrony(np.zeros_like(rotation), loudness, RATE_HZ)[:3], 0)
    assert np.isnan(speech_synchrony(rotation, np.zeros_like(loudness), RATE_HZ)).all()
    assert np.isnan(speech_synchrony(rotation, loudness, RATE_HZ)).tolist() == [False, False, False, True]


# Eyes


def eyes_that_blink(at: list[int], frames: int = 500, lowest: float = 0.05) -> np.ndarray:
    """Lids that close within three frames and open within five, from 0.3."""
    opening = np.full(frames, 0.3)
    for centre in at:
        for offset, share in zip(range(-3, 6), [1, 0.67, 0.33, 0, 0.2, 0.4, 0.6, 0.8, 1], strict=True):
            opening[centre + offset] = lowest + share * (0.3 - lowest)
    return opening


def test_blinks_are_found_with_their_shape() -> None:
    opening = eyes_that_blink([50, 200, 333])
    found = blinks(opening, RATE_HZ)
    assert [b.lowest for b in found] == [50, 200, 333]
    assert blinks_per_minute(opening, RATE_HZ) == pytest.approx(60 * 3 / 20)
    shape = blink_shape(found, RATE_HZ)
    assert shape.depth == pytest.approx(0.25 / 0.3)
    # Lids reach nine tenths of their opening this much before and after the lowest frame.
    assert shape.closing_seconds == pytest.approx((3 - 0.12 / 0.33) / RATE_HZ, rel=0.02)
    assert shape.opening_seconds == pytest.approx((5 - 0.12 / 0.2) / RATE_HZ, rel=0.02)


def test_blinks_do_not_depend_on_how_wide_eyes_are() -> None:
    opening = eyes_that_blink([50, 200, 333])
    assert blinks(2 * opening, RATE_HZ) == blinks(opening, RATE_HZ)


def test_half_closed_and_long_closed_eyes_are_no_blinks() -> None:
    assert blinks(eyes_that_blink([50, 200], lowest=0.2), RATE_HZ) == []
    resting = np.full(500, 0.3)
    resting[100:116] = 0.02  # 0.64 s
    assert blinks(resting, RATE_HZ) == []
    assert len(blinks(np.concatenate([resting[:115], np.full(300, 0.3)]), RATE_HZ)) == 1
    assert np.isnan(blink_shape([], RATE_HZ)).all()


def test_a_blink_at_the_edge_of_a_clip_is_counted() -> None:
    opening = eyes_that_blink([50])
    assert blinks_per_minute(opening[50:], RATE_HZ) > 0
    assert blinks_per_minute(opening[:51], RATE_HZ) > 0


# Sound and picture


@given(offset=st.integers(-5, 5), seed=st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_the_offset_of_embeddings_is_found_with_its_sign(offset: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.normal(0, 1, (80, 16))
    audio, video = whole[10:70], whole[10 - offset : 70 - offset] + rng.normal(0, 0.3, (60, 16))
    for padded in (False, True):
        found, confidence = offset_and_confidence(distances_by_offset(video, audio, 8, padded=padded))
        assert found == offset  # the video shows what sounded `offset` windows before
        assert confidence > 1


def test_confidence_falls_with_noise_and_is_small_without_relation() -> None:
    rng = np.random.default_rng(0)
    audio, noise = rng.normal(0, 1, (2, 200, 16))
    scores = [offset_and_confidence(distances_by_offset(audio + s * noise, audio, 8))[1] for s in (0, 0.5, 1, 2, 4)]
    assert scores == sorted(scores, reverse=True)
    assert offset_and_confidence(distances_by_offset(noise, audio, 8))[1] < 0.1 * scores[0]
    assert distances_by_offset(audio, audio, 3)[3] == 0
    with pytest.raises(ValueError, match="8 windows, but offsets of up to 8"):
        distances_by_offset(audio[:8], audio[:8], 8)


def test_padded_distances_are_those_to_silence() -> None:
    video, audio = np.ones((4, 1)), np.ones((4, 1))
    np.testing.assert_allclose(distances_by_offset(video, audio, 2, padded=True), [0.5, 0.25, 0, 0.25, 0.5])
    np.testing.assert_allclose(distances_by_offset(video, audio, 2), 0)


@given(lag=st.integers(-8, 8), seed=st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_lips_late_on_loudness_are_found_with_their_sign(lag: int, seed: int) -> None:
    whole = curve(seed, 260)
    seconds, sure = sound_offset(0.1 * whole[20 - lag : 220 - lag], whole[20:220], RATE_HZ)
    assert seconds == pytest.approx(lag / RATE_HZ)
    assert sure > 0.9  # not 1: differences at the ends are one-sided


# THEval's


def test_thevals_figures_have_closed_forms() -> None:
    lips = np.zeros((3, 2, 2))
    lips[:, 1, 0] = [2, 4, 6]
    assert theval.lip_dynamics(lips, np.full(3, 2.0)) == pytest.approx(np.var([1, 2, 3]))
    still, sideways = np.zeros((4, 3)), np.array([[0.0, 0], [2, 0], [0, 0], [2, 0]])
    assert theval.head_dynamics(still, sideways) == pytest.approx(np.sqrt(0.5))
    assert theval.head_dynamics(still, 0 * sideways) == 0
    assert theval.brow_dynamics(np.array([[0.5, 0.5], [0.6, 0.5], [0.6, 0.7]])) == pytest.approx((0.1 + 0.2) / 4)
    silent = np.array([True] * 5 + [False])
    assert theval.silent_lips(np.array([0, 0, 1, 2, 2, 50.0]), silent) == 1
    ramp = np.linspace(0, 1, 11)
    assert theval.lip_sync(0.1 * ramp, 30 * ramp + 5, np.ones(11, bool)) == pytest.approx(0, abs=1e-6)
    assert theval.lip_sync(ramp, ramp[::-1], np.ones(11, bool)) == pytest.approx(np.abs(2 * ramp - 1).mean())
    assert theval.closeness(1.5, 2) == theval.closeness(2.5, 2) == 0.75
    assert theval.score([1.0, 0.5]) == 0.75
    assert np.isnan(theval.score([1.0, theval.closeness(1, 0)]))


def test_thevals_curves_do_not_depend_on_size() -> None:
    points = np.random.default_rng(0).normal(0, 1, (6, 478, 2))
    assert LIP_CONTOURS.shape == (40,)
    np.testing.assert_allclose(brow_to_eye(4 * points), brow_to_eye(points))
    np.testing.assert_allclose(
        theval.lip_dynamics(4 * points[:, LIP_CONTOURS], eyes_apart(4 * points)),
        theval.lip_dynamics(points[:, LIP_CONTOURS], eyes_apart(points)),
    )
    assert np.isfinite(lip_opening(np.random.default_rng(0).normal(0, 1, (6, 478, 3)))).all()
