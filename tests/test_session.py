"""Sessions: streaming equals offline, seeds, clocks, interruption, silence."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivavoce import Animator, Audio, Controls, Portrait
from vivavoce.animate import OutputClock, Settings
from vivavoce.latent.mesh import eye_opening, lip_opening
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.motion_space import Reference
from vivavoce.media.speak import speak


def part(audio: Audio, start: float, stop: float) -> Audio:
    return Audio(samples=audio.samples[:, int(start * audio.rate) : int(stop * audio.rate)], rate=audio.rate)


def stream(animator: Animator, reference: Reference, audio: Audio, cuts: list[int], **how) -> np.ndarray:
    session = animator.session(reference, Settings(**how))
    frames = []
    for samples in audio.samples.split(cuts, dim=1):
        frames += session.push(Audio(samples=samples, rate=audio.rate))
    return np.stack([*frames, *session.finish()])


@pytest.fixture(scope="module")
def short(sentence: Audio) -> Audio:
    return part(sentence, 0.0, 1.7)


@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_chunking_gives_the_same_frames(animator: Animator, small: Reference, short: Audio, data: st.DataObject) -> None:
    total = short.samples.shape[1]
    sizes = data.draw(st.lists(st.one_of(st.integers(1, 400), st.integers(1, 20_000)), min_size=1, max_size=12))
    cuts = [n for n in sizes if n > 0]
    left = total - sum(cuts)
    cuts = cuts + [left] if left > 0 else [total]
    np.testing.assert_array_equal(stream(animator, small, short, cuts), stream(animator, small, short, [total]))


def test_offline_is_push_and_finish(animator: Animator, astronaut: Portrait, small: Reference, short: Audio) -> None:
    offline = np.stack(list(animator.animate(astronaut, short, size=128, crop=True)))
    np.testing.assert_array_equal(offline, stream(animator, small, short, [short.samples.shape[1]]))


def test_equal_seeds_give_equal_frames_and_others_do_not(animator: Animator, small: Reference, short: Audio) -> None:
    whole = [short.samples.shape[1]]
    first = stream(animator, small, short, whole, seed=7)
    np.testing.assert_array_equal(first, stream(animator, small, short, whole, seed=7))
    assert not np.array_equal(first, stream(animator, small, short, whole, seed=8))


@pytest.mark.parametrize("fps", [10.0, 23.976, 25.0, 60.0])
def test_there_is_a_frame_for_every_tick_of_the_sound(animator: Animator, small: Reference, short: Audio, fps: float) -> None:
    frames = stream(animator, small, short, [short.samples.shape[1]], fps=fps)
    assert len(frames) == round(short.duration * fps)


def test_the_shortest_sound_has_a_frame_and_none_has_none(animator: Animator, small: Reference) -> None:
    click, nothing = Audio(samples=torch.full((1, 40), 0.1), rate=16000), Audio(samples=torch.zeros(1, 0), rate=16000)
    for sound, count in ((click, 1), (nothing, 0)):
        session = animator.session(small)
        assert len([*session.push(sound), *session.finish()]) == count
    assert list(animator.session(small).finish()) == []


def test_motion_is_resampled_not_repeated() -> None:
    """A steady movement is steady at every frame rate: frame i shows the motion at i / fps seconds."""
    ramp = np.arange(26.0)[:, None]
    for fps in (10.0, 30.0, 60.0):
        clock = OutputClock(fps)
        values = [float(clock.pick(ramp, 0, i)[0]) for i in range(clock.frames(1.0))]
        np.testing.assert_allclose(values, np.arange(len(values)) * 25 / fps, atol=1e-9)


def test_frames_come_before_the_sound_ends(animator: Animator, small: Reference, sentence: Audio) -> None:
    session = animator.session(small)
    early = list(session.push(part(sentence, 0.0, 1.0)))
    assert len(early) >= 10  # the declared window and lookahead, not the end of the sound, decide


def test_interrupt_drops_what_was_not_shown(animator: Animator, small: Reference, sentence: Audio) -> None:
    session = animator.session(small)
    waiting = session.push(part(sentence, 0.0, 2.5))
    shown = [next(waiting) for _ in range(12)]
    session.interrupt()
    assert list(waiting) == []
    silence = Audio(samples=torch.zeros(1, int(1.2 * sentence.rate)), rate=sentence.rate)
    after = [*session.push(silence), *session.finish()]
    assert 28 <= len(after) <= 31  # only the silence's own frames: none of the dropped speech
    step = np.abs(after[0].astype(int) - shown[-1]).mean()
    usual = np.mean([np.abs(b.astype(int) - a).mean() for a, b in pairwise(shown)])
    assert step < 4 * usual + 0.5  # the face goes on from where it was


def test_a_head_sways_on_through_what_is_forgotten_interrupted_and_begun_anew(
    animator: Animator, small: Reference, sentence: Audio
) -> None:
    """The slow part of every frame that is kept follows from the one before, whatever happened in between."""
    session, windows = animator.session(small), animator.generator.windows
    assert windows.sway > 1
    share = 1 / (windows.sway_seconds * MOTION_RATE_HZ)

    def followed() -> None:
        slow, packed = session._slow, session._packed
        assert len(slow) == len(packed) == len(session._landmarks) > 1
        torch.testing.assert_close(slow[1:], torch.lerp(slow[:-1], packed[1:], share))

    sound = torch.cat([sentence.samples] * 2, 1)
    whole = Audio(samples=sound, rate=sentence.rate)
    list(session.push(part(whole, 0.0, 4.5)))
    assert session._first > 0
    followed()
    frames = session.push(part(whole, 4.5, 6.0))
    next(frames)
    before = session._slow
    session.interrupt()
    assert 1 < len(session._slow) < len(before)
    assert torch.equal(session._slow, before[: len(session._slow)])
    list(session.push(part(whole, 1.0, 2.5)))
    followed()
    list(session.finish())
    list(session.push(part(whole, 0.0, 2.0)))
    followed()


@pytest.mark.parametrize(("seconds", "segments"), [(0.73, 6), (0.01, 100)])
def test_segments_follow_each_other_without_delay(
    animator: Animator, small: Reference, sentence: Audio, seconds: float, segments: int
) -> None:
    session = animator.session(small)
    frames = []
    for i in range(segments):
        frames += [*session.push(part(sentence, 0.1 + 0.01 * i, 0.1 + 0.01 * i + seconds)), *session.finish()]
    samples = int(seconds * sentence.rate) / sentence.rate
    assert abs(len(frames) - segments * samples * 25) <= 1
    steps = np.array([np.abs(b.astype(int) - a).mean() for a, b in pairwise(frames)])
    ends = [round((i + 1) * seconds * 25) - 1 for i in range(segments - 1)]
    seams = steps[[end for end in ends if end < len(steps)]]
    assert seams.mean() < 2 * steps.mean() + 1  # the face goes on from where it was


def test_silence_is_closed_lips_and_quiet_life(animator: Animator, astronaut: Portrait) -> None:
    reference = animator.prepare(astronaut, size=256, crop=True)
    rate, seconds = 16000, 8.0
    silence = Audio(samples=torch.zeros(1, int(seconds * rate)), rate=rate)
    frames = list(animator.session(reference, Settings(seed=3)).push(silence))
    points = animator.space.track(frames)
    opening, eyes = lip_opening(points), eye_opening(points)
    assert np.percentile(opening, 90) < 0.06
    assert points[:, 1, :2].std(0).max() > 0.1  # not a frozen picture
    assert (eyes < 0.6 * np.median(eyes)).any()  # blinks


def test_lips_move_while_there_is_speech_and_rest_while_there_is_none(animator: Animator, astronaut: Portrait) -> None:
    """Seen from outside: speech and silence in turns, rendered and tracked again."""
    words = speak("Many people may remember what I was talking about yesterday afternoon.")
    silence = torch.zeros(1, words.rate)
    turns = [torch.cat([part(words, 0.2 + i, 1.2 + i).samples, silence], 1) for i in range(3)]
    sound = Audio(samples=torch.cat(turns, 1), rate=words.rate)
    frames = list(animator.animate(astronaut, sound, size=256, crop=True, seed=1))
    opening = lip_opening(animator.space.track(frames))
    loud = np.repeat([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], 25)
    at = {shift: float(np.corrcoef(np.roll(loud, shift), opening)[0, 1]) for shift in (0, 12, 25)}
    assert at[0] > 0.4
    assert at[0] > at[12] + 0.2  # half a second off it is visibly wrong, a whole one it is the opposite
    assert at[25] < -0.3


def test_amplitudes_are_independent(animator: Animator, small: Reference, short: Audio) -> None:
    """Zero head amplitude stills the head and leaves the lips alone; zero blink leaves the head alone."""
    def landmarks(**amplitudes: float) -> np.ndarray:
        session = animator.session(small, Settings(controls=Controls(**amplitudes)))
        session.push(short)
        return session._landmarks

    natural, still = landmarks(), landmarks(head=0.0)
    bridge = [168, 6]
    assert still[:, bridge].std(0).max() < 0.3 * natural[:, bridge].std(0).max()
    np.testing.assert_allclose(lip_opening(still), lip_opening(natural), atol=0.01)
    np.testing.assert_allclose(landmarks(blink=0.0)[:, bridge], natural[:, bridge], atol=1e-4)


@pytest.mark.parametrize("amplitude", [0.0, 2.0])
@pytest.mark.parametrize(("control", "fields"), [
    ("expression", {"cheeks_brows", "eyelids"}), ("head", {"rotation", "translation", "log_scale"}), ("gaze", {"gaze"}),
    ("blink", set()),  # blinks are added later
])
def test_an_amplitude_touches_its_own_fields_only(
    animator: Animator, control: str, fields: set[str], amplitude: float
) -> None:
    packed = torch.randn(20, animator.space.layout.width, generator=torch.Generator().manual_seed(0))
    natural = animator.space.layout.unpack(packed)
    changed = Controls(**{control: amplitude}).apply(natural)
    for name, values in vars(natural).items():
        assert torch.equal(vars(changed)[name], amplitude * values if name in fields else values), name


@pytest.mark.parametrize(("how", "said"), [
    ({"fps": 5.0}, "5.0 frames per second"), ({"fps": 61.0}, "61"), ({"steps": 0}, "0 solver steps"), ({"guidance": -1.0}, "-1"),
    ({"seed": -3}, "-3"),
])
def test_settings_out_of_range_are_refused(animator: Animator, small: Reference, how: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        animator.session(small, Settings(**how))


def test_amplitudes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="head is -1"):
        Controls(head=-1.0)


def test_pictures_that_will_not_do_are_refused_before_any_work(animator: Animator, astronaut: Portrait) -> None:
    with pytest.raises(ValueError, match="no face"):
        animator.prepare(Portrait(image=np.full((300, 300, 3), 128, np.uint8), name="grey wall"))
    with pytest.raises(ValueError, match="face 5"):
        animator.prepare(Portrait(image=astronaut.image, name="astronaut", face=5))
    tiny = astronaut.image[::4, ::4].copy()
    with pytest.raises(ValueError, match=r"pixels large|no face"):
        animator.prepare(Portrait(image=tiny, name="tiny"))
    with pytest.raises(ValueError, match="output size of 10"):
        animator.prepare(astronaut, size=10)


def test_faces_are_counted_from_the_largest(animator: Animator, astronaut: Portrait) -> None:
    """Which is number 0, and the one that is taken without a number."""
    face = astronaut.image[:300, 80:380]
    canvas = np.full((300, 540, 3), 127, np.uint8)
    canvas[30:270, :240], canvas[:, 240:] = cv2.resize(face, (240, 240), interpolation=cv2.INTER_AREA), face
    left = [animator.prepare(Portrait(image=canvas, name="two", face=number)).corner[0] for number in (None, 0, 1)]
    assert left[0] == left[1] > left[2]
    with pytest.raises(ValueError, match="face 2 of two"):
        animator.prepare(Portrait(image=canvas, name="two", face=2))


@pytest.mark.parametrize("name", ["man-mouth-wide-open.jpg", "woman-mouth-open-long-hair.jpg"])
def test_a_grey_mouth_is_found_as_wide_open_as_it_is(animator: Animator, recordings: Path, name: str) -> None:
    """Without colours the tracker takes these mouths to be half as open; drawn with its lips they would have a second mouth."""
    colour = Portrait.open(recordings / "portraits" / name)
    grey = Portrait(image=np.repeat(cv2.cvtColor(colour.image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2), name="grey")
    prepared = animator.prepare(grey, crop=True).prepared
    tracked, found = (lip_opening(p) for p in (prepared.points - prepared.shift, prepared.points))
    assert found > 1.2 * tracked
    still = lip_opening(animator.prepare(colour, crop=True).prepared.points)
    assert 0.8 * still < found < 1.3 * still


def test_a_profile_is_refused(animator: Animator, recordings) -> None:
    with pytest.raises(ValueError, match="turned"):
        animator.prepare(Portrait.open(recordings / "portraits" / "near-profile.jpg"))


def test_two_portraits_that_hear_the_same_do_not_nod_as_one(animator: Animator, astronaut: Portrait, short: Audio) -> None:
    def turns(image: np.ndarray, seed: int) -> np.ndarray:
        reference = animator.prepare(Portrait(image=image, name="astronaut"), size=128, crop=True)
        session = animator.session(reference, Settings(seed=seed))
        session.push(short)
        return np.asarray(animator.space.layout.unpack(session._packed).rotation)

    darker = (astronaut.image * 0.9).astype(np.uint8)
    first, other, take = turns(astronaut.image, 0), turns(darker, 0), turns(astronaut.image, 1)
    np.testing.assert_array_equal(first, turns(astronaut.image.copy(), 0))
    for different in (other, take):
        assert abs(first - different).max() > 0.02


def test_two_faces_of_one_picture_do_not_nod_as_one(animator: Animator, astronaut: Portrait) -> None:
    pair = np.concatenate([astronaut.image, astronaut.image], 1)
    seeds = {animator.prepare(Portrait(image=pair, name="pair", face=face), size=256).seed(0) for face in (0, 1)}
    assert len(seeds) == 2
