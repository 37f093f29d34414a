"""A live portrait in the shape that LiveKit's avatar workers expect: push_audio, clear_buffer, async iteration.

LiveKit's own frame types carry the same numbers, so a worker for it only renames them (examples/livekit_worker.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16

from vivavoce.animate import Animator, Settings
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.space import Frame
from vivavoce.live.feed import Feed
from vivavoce.live.scheduler import Scheduler
from vivavoce.live.stream import BufferFull, LiveFrame, LiveStream
from vivavoce.media.audio import Audio, Resampler

CATCH_UP_SECONDS = 0.2  # behind the clock, a consumer is given no more silent frames until it is in time
SETTLED_SECONDS = 1.0  # after it was interrupted, a stream's frames are surely made after the interruption


@dataclass(frozen=True, kw_only=True)
class AudioFrame:
    """Mono sound. ``seconds``: of the stream at which it begins; ``speaking``: whether there is speech in it."""

    samples: Int16[np.ndarray, " n"]
    sample_rate: int
    seconds: float = 0.0
    speaking: bool = True


@dataclass(frozen=True, kw_only=True)
class VideoFrame:
    """A picture, RGB. ``seconds``: of the stream at which it is shown."""

    image: Frame
    seconds: float


@dataclass(frozen=True)
class AudioSegmentEnd:
    """All speech of a segment has been pushed; or, coming out, has been spoken."""


class LiveAvatar:
    """Speech in, frames with their sound out, endlessly, in time with the clock.

        async with LiveAvatar(scheduler, animator.live(), reference, Settings(), rate=24000) as avatar:
            await avatar.push_audio(AudioFrame(samples=..., sample_rate=24000))
            async for frame in avatar: ...

    Made and used on one event loop; the frames are made by the scheduler's threads. A consumer that shows frames no faster than
    they come, and was late once, would stay late for ever: it catches up with `CATCH_UP_SECONDS` while nothing is said.
    """

    def __init__(
        self, scheduler: Scheduler, animator: Animator, reference: Reference, settings: Settings, *, rate: int,
        longest: float = 60.0,
    ):
        """See `LiveStream` for ``rate`` (Hz) and ``longest`` (seconds)."""
        self.stream = LiveStream(animator, reference, settings, rate=rate, longest=longest)
        self._feed = Feed(scheduler, self.stream, lambda live: live)
        self._waiting: deque[VideoFrame | AudioFrame | AudioSegmentEnd] = deque()
        self._resampler: Resampler | None = None
        self._clears = 0
        self._hushed_until = -1.0  # seconds of the stream, or until the interruption comes

    async def push_audio(self, frame: AudioFrame | AudioSegmentEnd) -> None:
        """Speech at any rate, or the end of a segment of it. Waits while as much as may wait is waiting."""
        if isinstance(frame, AudioSegmentEnd):
            if self._resampler is not None:
                await self._push(self._resampler.finish())
                self._resampler = None
            self.stream.end_segment()
            return
        sound = Audio.from_pcm16(frame.samples.astype("<i2").tobytes(), frame.sample_rate)
        if self._resampler is None or self._resampler.rate_in != frame.sample_rate:
            self._resampler = Resampler(frame.sample_rate, self.stream.rate)
        await self._push(self._resampler.push(sound))

    async def _push(self, sound: Audio) -> None:
        if sound.duration > self.stream.longest:
            self.stream.push(sound)  # which says what is wrong
        clears = self._clears
        while clears == self._clears:  # or what waits belongs to what was cleared
            try:
                self.stream.push(sound)
            except BufferFull:
                await asyncio.sleep(1 / self.stream.fps)
            else:
                return

    def clear_buffer(self) -> None:
        """Be silent from the next frame on (barge-in)."""
        self.stream.interrupt()
        self._feed.clear()
        self._waiting.clear()
        self._resampler = None
        self._clears += 1
        self._hushed_until = self._feed.running.due - self._feed.running.began + SETTLED_SECONDS

    async def __aiter__(self) -> AsyncIterator[VideoFrame | AudioFrame | AudioSegmentEnd]:
        async for live in self._feed:
            late = self._feed.running.due - self._feed.running.began - live.seconds
            if late > CATCH_UP_SECONDS and not live.speaking and not live.marks:
                continue
            if any(mark.kind == "interrupted" for mark in live.marks):
                self._hushed_until = -1.0
            self._waiting.extend(_frames_of(live, hushed=live.seconds <= self._hushed_until))
            while self._waiting:
                yield self._waiting.popleft()

    async def __aenter__(self) -> LiveAvatar:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop making frames."""
        await self._feed.close()


def _frames_of(live: LiveFrame, *, hushed: bool) -> list[VideoFrame | AudioFrame | AudioSegmentEnd]:
    samples = live.sound.to_pcm16() * (not hushed)
    return [
        VideoFrame(image=live.picture, seconds=live.seconds),
        AudioFrame(
            samples=samples, sample_rate=live.sound.rate, seconds=live.sound_seconds, speaking=live.speaking and not hushed
        ),
        *(AudioSegmentEnd() for mark in live.marks if mark.kind == "finished" and not hushed),
    ]
