"""A live portrait as the type that LiveKit's avatar workers take: against stand-ins, and against LiveKit if it is installed."""

from __future__ import annotations

import abc
import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vivavoce import Animator, Audio
from vivavoce.animate import Settings
from vivavoce.latent.motion_space import Reference
from vivavoce.live.avatar import AudioFrame, AudioSegmentEnd, LiveAvatar, VideoFrame
from vivavoce.live.scheduler import Scheduler
from vivavoce.media.audio import Resampler, concatenate

RATE = 24000
WORKER = Path(__file__).parents[1] / "examples" / "livekit_worker.py"


@dataclass
class StandInVideo:
    width: int
    height: int
    type: str
    data: bytes


@dataclass
class StandInAudio:
    data: bytes
    sample_rate: int
    num_channels: int
    samples_per_channel: int


class StandInEnd:
    pass


class StandInGenerator(abc.ABC):
    @abc.abstractmethod
    async def push_audio(self, frame: object) -> None: ...

    @abc.abstractmethod
    def clear_buffer(self) -> None: ...

    @abc.abstractmethod
    def __aiter__(self) -> Any: ...


@pytest.fixture(params=["stand-ins", "livekit"])
def kit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """LiveKit's types by name."""
    if request.param == "livekit":
        avatar = pytest.importorskip("livekit.agents.voice.avatar", reason="livekit-agents is not installed")
        return SimpleNamespace(rtc=pytest.importorskip("livekit.rtc"), avatar=avatar)
    rtc = SimpleNamespace(VideoFrame=StandInVideo, AudioFrame=StandInAudio, VideoBufferType=SimpleNamespace(RGB24="rgb24"))
    avatar = SimpleNamespace(VideoGenerator=StandInGenerator, AudioSegmentEnd=StandInEnd)
    for name, attributes in {"livekit": {"rtc": rtc}, "livekit.agents": {}, "livekit.agents.voice": {"avatar": avatar}}.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(rtc=rtc, avatar=avatar)


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("livekit_worker", WORKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler(1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def speech(sentence: Audio) -> Audio:
    """A second of it, at 24 kHz."""
    resampler = Resampler(sentence.rate, RATE)
    whole = concatenate([resampler.push(sentence), resampler.finish()])
    return Audio(samples=whole.samples[:, RATE // 5 : RATE // 5 + RATE], rate=RATE)


def in_frames(kit: SimpleNamespace, speech: Audio, rate: int, channels: int) -> list[Any]:
    """Speech as an agent sends it, in pieces of 100 ms."""
    resampler = Resampler(speech.rate, rate)
    sound = concatenate([resampler.push(speech), resampler.finish()]).samples[0].numpy()
    samples = np.repeat(np.round(sound * 32767).astype(np.int16)[:, None], channels, axis=1)
    return [
        kit.rtc.AudioFrame(part.tobytes(), rate, channels, len(part))
        for part in np.split(samples, range(rate // 10, len(samples), rate // 10))
    ]


def samples_of(frame: Any) -> np.ndarray:
    return np.frombuffer(frame.data, np.int16)


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (48000, 2)])
def test_speech_comes_back_with_pictures_and_silence_does_not(
    kit: SimpleNamespace, worker: ModuleType, scheduler: Scheduler, animator: Animator, small: Reference, speech: Audio,
    rate: int, channels: int,
) -> None:
    async def talk() -> list[Any]:
        got: list[Any] = []
        async with LiveAvatar(scheduler, animator.live(), small, Settings(), rate=RATE) as avatar, asyncio.timeout(20):
            generator = worker.video_generator(avatar)
            assert isinstance(generator, kit.avatar.VideoGenerator)
            async for frame in generator:
                got.append(frame)
                if len(got) == 5:
                    for piece in in_frames(kit, speech, rate, channels):
                        await generator.push_audio(piece)
                    await generator.push_audio(kit.avatar.AudioSegmentEnd())
                if isinstance(frame, kit.avatar.AudioSegmentEnd) or len(got) > 200:
                    break
        return got

    got = asyncio.run(talk())
    assert all(isinstance(frame, kit.rtc.VideoFrame) for frame in got[:5])
    pictures = [frame for frame in got if isinstance(frame, kit.rtc.VideoFrame)]
    sounds = [frame for frame in got if isinstance(frame, kit.rtc.AudioFrame)]
    assert len(pictures) + len(sounds) + 1 == len(got)
    for picture in pictures:
        assert (picture.width, picture.height, picture.type) == (128, 128, kit.rtc.VideoBufferType.RGB24)
        assert len(picture.data) == 128 * 128 * 3
    assert np.frombuffer(pictures[0].data, np.uint8).std() > 20
    assert all((sound.sample_rate, sound.num_channels) == (RATE, 1) for sound in sounds)
    assert all(sound.samples_per_channel == len(samples_of(sound)) for sound in sounds)
    heard = np.concatenate([samples_of(sound) for sound in sounds]) / 32767
    longest = max(sound.samples_per_channel for sound in sounds) / RATE  # more than a frame's where the machine was too slow
    assert 0 <= len(heard) / RATE - speech.duration < 0.02 + 2 * longest  # LiveKit takes it for the time spoken
    said = speech.samples[0].numpy()
    start = int(np.argmax(heard)) - int(np.argmax(said))
    assert np.abs(heard[start + 1000 : start + 20000] - said[1000:20000]).max() < 0.02


def test_nothing_is_heard_after_an_interruption_and_no_end_is_told(
    kit: SimpleNamespace, worker: ModuleType, scheduler: Scheduler, animator: Animator, small: Reference, speech: Audio
) -> None:
    async def talk() -> tuple[list[Any], list[Any]]:
        before: list[Any] = []
        after: list[Any] = []
        async with LiveAvatar(scheduler, animator.live(), small, Settings(), rate=RATE) as avatar, asyncio.timeout(20):
            generator = worker.video_generator(avatar)
            for piece in in_frames(kit, speech, RATE, 1):
                await generator.push_audio(piece)
            async for frame in generator:
                before.append(frame)
                if sum(isinstance(frame, kit.rtc.AudioFrame) for frame in before) == 6:
                    break
            generator.clear_buffer()
            await generator.push_audio(kit.avatar.AudioSegmentEnd())
            async for frame in generator:
                after.append(frame)
                if len(after) == 40:
                    break
        return before, after

    before, after = asyncio.run(talk())
    assert any(samples_of(frame).any() for frame in before if isinstance(frame, kit.rtc.AudioFrame))
    assert all(isinstance(frame, kit.rtc.VideoFrame) for frame in after)


def test_speech_that_waits_to_be_pushed_is_forgotten_with_the_rest(
    scheduler: Scheduler, animator: Animator, small: Reference, speech: Audio
) -> None:
    samples = np.round(speech.samples[0].numpy() * 32767).astype(np.int16)

    async def talk() -> float:
        async with LiveAvatar(scheduler, animator.live(), small, Settings(), rate=RATE, longest=1.2) as avatar:
            await avatar.push_audio(AudioFrame(samples=samples, sample_rate=RATE))
            waiting = asyncio.create_task(avatar.push_audio(AudioFrame(samples=samples, sample_rate=RATE)))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            avatar.clear_buffer()
            await waiting
            return avatar.stream.buffered_seconds

    assert asyncio.run(talk()) == 0


def test_a_consumer_that_was_late_catches_up_while_nothing_is_said(
    scheduler: Scheduler, animator: Animator, small: Reference, speech: Audio
) -> None:
    samples = np.round(speech.samples[0].numpy() * 32767).astype(np.int16)

    async def watch() -> list[Any]:
        got: list[Any] = []
        async with LiveAvatar(scheduler, animator.live(), small, Settings(), rate=RATE) as avatar, asyncio.timeout(20):
            while scheduler.streams[0].frames < 20:
                await asyncio.sleep(0.02)
            async for frame in avatar:
                got.append(frame)
                if len(got) == 1:
                    await avatar.push_audio(AudioFrame(samples=samples, sample_rate=RATE))
                    await avatar.push_audio(AudioSegmentEnd())
                elif len(got) == 20:
                    await asyncio.sleep(0.8)
                if isinstance(frame, AudioSegmentEnd):
                    break
        return got

    got = asyncio.run(watch())
    assert next(frame.seconds for frame in got if isinstance(frame, VideoFrame)) > 0.4
    spoken = [frame for frame in got if isinstance(frame, AudioFrame) and frame.speaking]
    ends = [frame.seconds + len(frame.samples) / RATE for frame in spoken]
    assert ends[:-1] == pytest.approx([frame.seconds for frame in spoken[1:]])  # no speech is left out


class Room:
    """As much of a room as an AvatarRunner needs."""

    def __init__(self) -> None:
        self.local_participant = self
        self.tracks: list[object] = []

    def on(self, *_: object) -> None: ...

    off = on

    def isconnected(self) -> bool:
        return True

    async def publish_track(self, track: object, options: object) -> Room:
        self.tracks.append(track)
        return self

    async def wait_for_subscription(self) -> None: ...


def test_livekits_own_runner_learns_how_much_was_spoken(
    worker: ModuleType, scheduler: Scheduler, animator: Animator, small: Reference, speech: Audio
) -> None:
    avatars = pytest.importorskip("livekit.agents.voice.avatar", reason="livekit-agents is not installed")
    from livekit import rtc

    pieces = in_frames(SimpleNamespace(rtc=rtc), Audio(samples=torch.tile(speech.samples, (1, 2)), rate=RATE), RATE, 1)

    async def talk() -> list[Any]:
        told: list[Any] = []
        output = avatars.QueueAudioOutput(sample_rate=RATE)
        output.on("playback_finished", told.append)
        options = avatars.AvatarOptions(128, 128, 25.0, RATE, 1)
        async with LiveAvatar(scheduler, animator.live(), small, Settings(), rate=RATE) as avatar, asyncio.timeout(30):
            runner = avatars.AvatarRunner(Room(), audio_recv=output, video_gen=worker.video_generator(avatar), options=options)
            await runner.start()
            await asyncio.sleep(1.0)
            for piece in pieces:
                await output.capture_frame(piece)
            output.flush()
            while len(told) < 1:
                await asyncio.sleep(0.02)
            for piece in pieces:
                await output.capture_frame(piece)
            output.flush()
            await asyncio.sleep(1.3)
            output.clear_buffer()
            while len(told) < 2:
                await asyncio.sleep(0.02)
            await runner.aclose()
        return told

    whole, cut = asyncio.run(talk())
    assert not whole.interrupted and whole.playback_position == pytest.approx(2.0, abs=0.1)
    assert cut.interrupted and 0.2 < cut.playback_position < 1.4
