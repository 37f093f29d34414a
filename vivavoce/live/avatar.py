"""A live portrait in the shape that LiveKit's avatar workers expect: push_audio, clear_buffer, async iteration.

LiveKit's own frame types carry the same numbers, so a worker for it only renames them (examples/livekit_worker.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int16

from vivavoce.animate import Animator, Settings
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.space import Frame
from vivavoce.live.feed import Feed
from vivavoce.live.scheduler import Scheduler
from vivavoce.live.stream import BufferFull, LiveFrame, LiveStream
from vivavoce.media.audio import Audio


@dataclass(frozen=True, kw_only=True)
class AudioFrame:
    """Mono sound. ``seconds``: of the stream at which it begins."""

    samples: Int16[np.ndarray, " n"]
    sample_rate: int
    seconds: float = 0.0


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

    Made and used on one event loop; the frames are made by the scheduler's threads.
    """

    def __init__(
        self, scheduler: Scheduler, animator: Animator, reference: Reference, settings: Settings, *, rate: int,
        longest: float = 60.0,
    ):
        """See `LiveStream` for ``rate`` (Hz) and ``longest`` (seconds)."""
        self.stream = LiveStream(animator, reference, settings, rate=rate, longest=longest)
        self._feed = Feed(scheduler, self.stream, _frames_of)
        self._waiting: deque[VideoFrame | AudioFrame | AudioSegmentEnd] = deque()

    async def push_audio(self, frame: AudioFrame | AudioSegmentEnd) -> None:
        """Speech at the stream's rate, or the end of a segment of it. Waits while as much as may wait is waiting."""
        if isinstance(frame, AudioSegmentEnd):
            self.stream.end_segment()
            return
        sound = Audio(samples=torch.from_numpy(frame.samples.astype(np.float32) / 32768)[None], rate=frame.sample_rate)
        if sound.duration > self.stream.longest:
            self.stream.push(sound)  # which says what is wrong
        while True:
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

    async def __aiter__(self) -> AsyncIterator[VideoFrame | AudioFrame | AudioSegmentEnd]:
        async for parts in self._feed:
            self._waiting.extend(parts)
            while self._waiting:
                yield self._waiting.popleft()

    async def __aenter__(self) -> LiveAvatar:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop making frames."""
        await self._feed.close()


def _frames_of(live: LiveFrame) -> list[VideoFrame | AudioFrame | AudioSegmentEnd]:
    sound = live.sound.samples[0].numpy()
    samples = np.clip(np.round(sound * 32768), -32768, 32767).astype(np.int16)
    return [
        VideoFrame(image=live.picture, seconds=live.seconds),
        AudioFrame(samples=samples, sample_rate=live.sound.rate, seconds=live.sound_seconds),
        *(AudioSegmentEnd() for mark in live.marks if mark.kind == "finished"),
    ]
