"""Live streams: speech placed in an endless timeline, frames in time with a clock, interruptions, and clients that are slow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivavoce import Animator, Audio
from vivavoce.animate import Controls, Settings
from vivavoce.latent.motion_space import Reference
from vivavoce.live.avatar import AudioFrame, AudioSegmentEnd, LiveAvatar, VideoFrame
from vivavoce.live.feed import Feed, StreamBroken
from vivavoce.live.scheduler import LOST_SECONDS, MOST_LEFT_OUT, Scheduler
from vivavoce.live.stream import FORGOTTEN_SECONDS, BufferFull, LiveFrame, LiveStream
from vivavoce.media.audio import Resampler, concatenate

RATE = 16000
FRAME = RATE // 25


@pytest.fixture(scope="module")
def live(animator: Animator) -> Animator:
    return animator.live()


@pytest.fixture(scope="module")
def speech(sentence: Audio) -> Audio:
    resampler = Resampler(sentence.rate, RATE)
    whole = concatenate([resampler.push(sentence), resampler.finish()])
    loud = torch.nonzero(whole.samples[0].abs() > 0.01)[0, 0]
    return Audio(samples=whole.samples[:, loud : loud + RATE], rate=RATE)  # a second of it, without a pause at its beginning


class Mute:
    """A session without a face: a frame for each 0.04 s of sound, two at a time."""

    def __init__(self, animator: Animator):
        self.heard, self.shown, self.ahead = 0, 0, animator.delay_seconds

    @property
    def awaited_seconds(self) -> float:
        return 2 * (self.shown // 2) / 25 + self.ahead - self.heard / RATE

    def push(self, audio: Audio) -> Iterator[np.ndarray]:
        self.heard += audio.samples.shape[1]
        while self.awaited_seconds <= 1e-6:
            self.shown += 1
            yield np.zeros((2, 2, 3), np.uint8)


def opened(live: Animator, small: Reference, **how) -> LiveStream:
    return LiveStream(live, small, Settings(), rate=RATE, **how)


def steps(stream: LiveStream, count: int) -> list[LiveFrame]:
    return [stream.step() for _ in range(count)]


def sound(frames: list[LiveFrame]) -> np.ndarray:
    return np.concatenate([frame.sound.samples[0].numpy() for frame in frames])


def changes(frames: list[LiveFrame]) -> list[float]:
    """How much each picture differs from the one before."""
    return [float(np.abs(a.picture.astype(int) - b.picture).mean()) for a, b in pairwise(frames)]


def silence(seconds: float) -> Audio:
    return Audio(samples=torch.zeros(1, round(seconds * RATE)), rate=RATE)


def test_a_live_stream_is_a_session_that_hears_silence_and_speech(live: Animator, small: Reference, speech: Audio) -> None:
    stream = opened(live, small)
    frames = steps(stream, 20)
    stream.push(speech)
    stream.end_segment()
    frames += steps(stream, 50)
    session = live.session(small)
    hearing = Audio(samples=torch.from_numpy(sound(frames))[None], rate=RATE)
    expected = [*session.push(hearing), *session.push(silence(1.0))]
    for i, (frame, picture) in enumerate(zip(frames, expected, strict=False)):
        np.testing.assert_array_equal(frame.picture, picture, err_msg=f"frame {i}")
        assert frame.index == i and frame.seconds == pytest.approx(i / 25)


def test_speech_is_heard_whole_within_the_declared_delay(live: Animator, small: Reference, speech: Audio) -> None:
    for before in (0, 1, 7, 30):
        stream = opened(live, small)
        steps(stream, before)
        stream.push(speech)
        stream.end_segment()
        frames = steps(stream, 50)
        marks = {mark.kind: mark for frame in frames for mark in frame.marks}
        start = round((marks["started"].seconds - before / 25) * RATE)
        assert 0 <= start / RATE <= stream.delay_seconds
        heard = sound(frames)
        np.testing.assert_array_equal(heard[start : start + RATE], speech.samples[0].numpy())
        assert not heard[:start].any() and not heard[start + RATE :].any()
        assert marks["finished"].seconds - marks["started"].seconds == pytest.approx(1.0, abs=1e-3)
        assert all(frame.sound.samples.shape[1] == FRAME for frame in frames)


@given(data=st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_chunking_gives_the_same_frames(live: Animator, small: Reference, speech: Audio, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4000), min_size=1, max_size=12))
    sizes = [n for n in sizes if n]
    rest = RATE - sum(sizes)
    cuts = [*sizes, rest] if rest > 0 else [RATE]
    taken = []
    for cut in ([RATE], cuts):
        stream = opened(live, small)
        for part in speech.samples.split(cut, dim=1):
            stream.push(Audio(samples=part, rate=RATE))
        stream.end_segment()
        taken.append(steps(stream, 12))
    for one, other in zip(*taken, strict=True):
        np.testing.assert_array_equal(one.picture, other.picture)
        assert torch.equal(one.sound.samples, other.sound.samples) and one.marks == other.marks


def test_speech_that_comes_as_it_is_spoken_is_not_torn(live: Animator, small: Reference, speech: Audio) -> None:
    stream = opened(live, small)
    frames = steps(stream, 5)
    for part in speech.samples.split(FRAME, dim=1):  # the sound of a frame's time for each frame
        stream.push(Audio(samples=part, rate=RATE))
        frames += steps(stream, 1)
    stream.end_segment()
    frames += steps(stream, 15)
    start = next(round(mark.seconds * RATE) for frame in frames for mark in frame.marks if mark.kind == "started")
    np.testing.assert_array_equal(sound(frames)[start : start + RATE], speech.samples[0].numpy())
    assert stream.underruns == 0


def test_speech_that_runs_dry_is_counted_and_goes_on(live: Animator, small: Reference, speech: Audio) -> None:
    stream = opened(live, small)
    half = RATE // 2
    stream.push(Audio(samples=speech.samples[:, :half], rate=RATE))
    frames = steps(stream, 20)
    stream.push(Audio(samples=speech.samples[:, half:], rate=RATE))
    stream.end_segment()
    frames += steps(stream, 40)
    assert stream.underruns == 1
    kinds = [mark.kind for frame in frames for mark in frame.marks]
    assert kinds == ["started", "finished"]
    heard = sound(frames)
    assert np.abs(heard).sum() == pytest.approx(float(speech.samples.abs().sum()), rel=1e-5)


def test_a_segment_that_nobody_ends_is_over_after_a_while(live: Animator, small: Reference, speech: Audio) -> None:
    stream = opened(live, small)
    stream.push(Audio(samples=speech.samples[:, :FRAME], rate=RATE))
    frames = steps(stream, round(25 * (FORGOTTEN_SECONDS + 1)))
    assert [mark.kind for frame in frames for mark in frame.marks] == ["started", "finished"]
    stream.push(Audio(samples=speech.samples[:, :FRAME], rate=RATE))
    stream.end_segment()
    assert [mark.segment for frame in steps(stream, 20) for mark in frame.marks] == [1, 1]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_when_speech_is_neither_lost_nor_doubled(live: Animator, small: Reference, data: st.DataObject) -> None:
    stream = opened(live, small)
    stream._session = Mute(live)  # type: ignore[assignment]
    heard: list[np.ndarray] = []
    pushed = 0
    chunks = data.draw(st.sampled_from([st.integers(1, 3 * FRAME), st.sampled_from([FRAME // 2, FRAME, 2 * FRAME])]))
    acts = st.one_of(chunks, st.just("step"), st.sampled_from(["step", "step", "step", "end"]))
    for act in data.draw(st.lists(acts, min_size=30, max_size=80)):
        if act == "end":
            stream.end_segment()
        elif act == "step":
            heard.append(stream.step().sound.samples[0].numpy())
        else:
            stream.push(Audio(samples=1.0 + pushed + torch.arange(act, dtype=torch.float32)[None], rate=RATE))
            pushed += act
    stream.end_segment()
    heard += [stream.step().sound.samples[0].numpy() for _ in range(pushed // FRAME + 20)]
    whole = np.concatenate(heard)
    np.testing.assert_array_equal(whole[whole > 0], 1 + np.arange(pushed, dtype=np.float32))


def test_an_interruption_is_silent_from_the_next_frame_on(live: Animator, small: Reference, speech: Audio) -> None:
    stream = opened(live, small)
    stream.push(speech)
    before = steps(stream, 18)
    assert before[-1].speaking
    stream.interrupt()
    after = steps(stream, 30)
    assert not sound(after).any() and not any(frame.speaking for frame in after)
    (mark,) = (mark for frame in after for mark in frame.marks)
    assert mark.kind == "interrupted" and mark.segment == 0 and mark.seconds == pytest.approx(18 / 25)
    assert mark in after[0].marks
    assert changes([before[-1], after[0]])[0] < 2 * max(changes(before[8:]))  # no jump
    stream.push(speech)
    stream.end_segment()
    assert sound(steps(stream, 45)).any()


def test_interrupting_silence_does_no_harm(live: Animator, small: Reference) -> None:
    stream = opened(live, small)
    stream.interrupt()
    steps(stream, 3)
    for _ in range(5):
        stream.interrupt()
        (mark,) = stream.step().marks
        assert mark.kind == "interrupted" and mark.segment is None


def test_frames_that_are_left_out_change_no_other(live: Animator, small: Reference, speech: Audio) -> None:
    whole, gaps = opened(live, small), opened(live, small)
    for stream in (whole, gaps):
        stream.push(speech)
        stream.end_segment()
    every = steps(whole, 30)
    some = [gaps.step(n) for n in (0, 3, 0, 1, 7, 0, 2)]
    for frame in some:
        np.testing.assert_array_equal(frame.picture, every[frame.index].picture)
    np.testing.assert_array_equal(sound(some), sound(every)[: len(sound(some))])
    assert [frame.left_out for frame in some] == [0, 3, 0, 1, 7, 0, 2]
    assert some[-1].index == 7 + 13 - 1
    assert [m for f in some for m in f.marks] == [m for f in every[: some[-1].index + 1] for m in f.marks]


def test_too_much_speech_is_refused_whole(live: Animator, small: Reference, speech: Audio) -> None:
    stream = opened(live, small, longest=1.5)
    stream.push(speech)
    with pytest.raises(BufferFull, match="at most 1"):
        stream.push(speech)
    assert stream.buffered_seconds == pytest.approx(1.0)
    with pytest.raises(ValueError, match="opened for 16000 Hz"):
        stream.push(Audio(samples=torch.zeros(1, 10), rate=8000))
    with pytest.raises(ValueError, match="8000 to 48000"):
        LiveStream(live, small, Settings(), rate=4000)
    with pytest.raises(ValueError, match="cannot be resampled"):
        LiveStream(live, small, Settings(), rate=47999)


def test_heads_can_be_stilled_while_they_speak(live: Animator, small: Reference) -> None:
    lively, still = opened(live, small), opened(live, small)
    still.control(Controls(head=0, expression=0, gaze=0, blink=0))
    assert np.mean(changes(steps(still, 40)[10:])) < 0.5 * np.mean(changes(steps(lively, 40)[10:]))


def test_any_rate_and_frame_rate_stay_aligned(live: Animator, small: Reference) -> None:
    for rate, fps in ((24000, 25.0), (11025, 30.0), (48000, 12.5)):
        stream = LiveStream(live, small, Settings(fps=fps), rate=rate)
        frames = steps(stream, 20)
        total = sum(frame.sound.samples.shape[1] for frame in frames)
        assert total == round(20 * rate / fps)
        assert frames[7].sound_seconds == pytest.approx(7 / fps, abs=1 / rate)


class Clockwork:
    """A stream without a face, for the scheduler."""

    def __init__(self, fps: float = 50.0, costs: float = 0.0, breaks_at: int | None = None):
        self.fps, self.costs, self.breaks_at, self.index = fps, costs, breaks_at, 0

    def step(self, leave_out: int = 0) -> LiveFrame:
        time.sleep(self.costs)
        self.index += leave_out + 1
        if self.breaks_at is not None and self.index > self.breaks_at:
            raise RuntimeError("broken on purpose")
        return LiveFrame(
            index=self.index - 1, seconds=(self.index - 1) / self.fps, picture=np.zeros((2, 2, 3), np.uint8),
            sound=Audio(samples=torch.zeros(1, 10), rate=1000), sound_seconds=0.0, marks=(), left_out=leave_out, speaking=False,
        )


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler(2)
    yield made
    made.close()


def gathered(scheduler: Scheduler, stream: object) -> tuple[list[tuple[float, LiveFrame]], threading.Event, object]:
    frames: list[tuple[float, LiveFrame]] = []
    failed = threading.Event()
    running = scheduler.add(stream, lambda frame: frames.append((time.monotonic(), frame)), failed.set)  # type: ignore[arg-type]
    return frames, failed, running


def test_streams_are_stepped_by_the_clock(scheduler: Scheduler) -> None:
    frames, failed, running = gathered(scheduler, Clockwork(fps=50.0))
    time.sleep(1.0)
    scheduler.remove(running)  # type: ignore[arg-type]
    assert 40 <= len(frames) <= 52 and not failed.is_set()
    count = len(frames)
    time.sleep(0.1)
    assert len(frames) == count  # and not any more
    first = frames[0][0]
    late = [at - first - frame.seconds for at, frame in frames]
    assert np.percentile(late, 90) < 0.03


def test_a_frame_can_be_hurried_but_not_the_clock(scheduler: Scheduler) -> None:
    frames, _, running = gathered(scheduler, Clockwork(fps=2.0))
    time.sleep(0.6)  # the second frame has just been made, the third is due in 0.4 seconds
    count, asked = len(frames), time.monotonic()
    for _ in range(20):
        scheduler.hurry(running)  # type: ignore[arg-type]
        time.sleep(0.005)
    scheduler.remove(running)  # type: ignore[arg-type]
    assert len(frames) == count + 1
    assert frames[count][0] - asked < 0.15


def test_a_stream_that_cannot_keep_up_leaves_frames_out_and_keeps_its_time(scheduler: Scheduler) -> None:
    frames, _, running = gathered(scheduler, Clockwork(fps=50.0, costs=0.05))
    time.sleep(1.5)
    scheduler.remove(running)  # type: ignore[arg-type]
    first = frames[0][0]
    assert max(at - first - frame.seconds for at, frame in frames) < 0.3
    assert sum(frame.left_out for _, frame in frames) > 20
    shown = sum(frame.left_out for _, frame in frames)
    assert shown <= running.tally.left_out <= shown + MOST_LEFT_OUT  # type: ignore[attr-defined]


def test_a_stream_that_is_far_too_slow_still_shows_frames(scheduler: Scheduler) -> None:
    frames, _, running = gathered(scheduler, Clockwork(fps=100.0, costs=0.15))
    time.sleep(3.0)
    scheduler.remove(running)  # type: ignore[arg-type]
    assert len(frames) > 12 and max(frame.left_out for _, frame in frames) == MOST_LEFT_OUT
    assert running.tally.lost_seconds > LOST_SECONDS  # type: ignore[attr-defined]


def test_a_stream_that_breaks_harms_no_other(scheduler: Scheduler) -> None:
    good, good_failed, running = gathered(scheduler, Clockwork())
    bad, bad_failed, _ = gathered(scheduler, Clockwork(breaks_at=5))
    time.sleep(0.6)
    scheduler.remove(running)  # type: ignore[arg-type]
    assert bad_failed.is_set() and len(bad) == 5
    assert not good_failed.is_set() and len(good) > 20
    assert scheduler.streams == ()


def test_work_that_can_wait_is_done_in_between(scheduler: Scheduler) -> None:
    frames, _, running = gathered(scheduler, Clockwork(fps=20.0))
    closed = threading.Event()

    begun = threading.Event()

    def work(count: int) -> Generator[None, None, None]:
        try:
            for _ in range(count):
                begun.set()
                time.sleep(0.005)
                yield
        finally:
            closed.set()

    scheduler.background(work(30)).done.result(10)
    assert closed.is_set()
    closed.clear()
    begun.clear()
    endless = scheduler.background(work(10**6))
    assert begun.wait(5)
    endless.cancel()
    assert closed.wait(5)
    with pytest.raises(ZeroDivisionError):
        scheduler.background(1 / 0 for _ in range(1)).done.result(5)
    scheduler.remove(running)  # type: ignore[arg-type]
    assert len(frames) > 2


def test_what_can_wait_is_not_starved(scheduler: Scheduler) -> None:
    busy = [gathered(scheduler, Clockwork(fps=50.0, costs=0.03)) for _ in range(3)]  # more than two threads can do
    done = 0

    def count() -> Generator[None, None, None]:
        nonlocal done
        while True:
            done += 1
            yield

    task = scheduler.background(count())
    time.sleep(1.5)
    task.cancel()
    for _, _, running in busy:
        scheduler.remove(running)  # type: ignore[arg-type]
    assert 4 <= done <= 12


def test_a_slow_consumer_gets_the_newest_frames(scheduler: Scheduler) -> None:
    async def consume(whole: bool) -> tuple[list[int], int]:
        feed = Feed(scheduler, Clockwork(fps=50.0), lambda frame: frame.index, whole=whole)  # type: ignore[arg-type]
        await asyncio.sleep(1.5)
        got = [await anext(feed) for _ in range(3)]
        await feed.close()
        return got, feed.dropped

    got, dropped = asyncio.run(consume(False))
    assert dropped >= 15 and got[0] >= 15 and got == list(range(got[0], got[0] + 3))
    with pytest.raises(StreamBroken, match="too slowly"):
        asyncio.run(consume(True))


def test_a_feed_ends_when_its_stream_breaks(scheduler: Scheduler) -> None:
    async def consume() -> int:
        feed = Feed(scheduler, Clockwork(breaks_at=3), lambda frame: frame.index)  # type: ignore[arg-type]
        return len([index async for index in feed])

    with pytest.raises(StreamBroken, match="internal error"):
        asyncio.run(consume())
    assert scheduler.streams == ()


def test_an_avatar_has_the_shape_of_livekits(scheduler: Scheduler, live: Animator, small: Reference, speech: Audio) -> None:
    """push_audio, clear_buffer and async iteration over pictures, their sound, and ends of segments."""
    samples = (speech.samples[0].numpy() * 32767).astype(np.int16)

    async def talk() -> tuple[list[VideoFrame], list[AudioFrame], int]:
        pictures: list[VideoFrame] = []
        sounds: list[AudioFrame] = []
        ends = 0
        async with LiveAvatar(scheduler, live, small, Settings(), rate=RATE) as avatar:
            for part in np.split(samples[: 20 * 400], 20):
                await avatar.push_audio(AudioFrame(samples=part, sample_rate=RATE))
            await avatar.push_audio(AudioSegmentEnd())
            async with asyncio.timeout(30):
                async for frame in avatar:
                    match frame:
                        case VideoFrame():
                            pictures.append(frame)
                        case AudioFrame():
                            sounds.append(frame)
                        case AudioSegmentEnd():
                            ends += 1
                            break
            avatar.clear_buffer()
        return pictures, sounds, ends

    pictures, sounds, ends = asyncio.run(talk())
    assert ends == 1
    heard = np.concatenate([part.samples for part in sounds])
    start = int(np.flatnonzero(heard)[0]) - int(np.flatnonzero(samples)[0])
    np.testing.assert_array_equal(heard[start : start + 8000], samples[:8000])
    assert all(p.seconds >= s.seconds - 1e-6 for p, s in zip(pictures, sounds, strict=True))  # a frame may have been left out
    assert pictures[0].image.shape == (128, 128, 3)
    assert scheduler.streams == ()
