"""From the scheduler's threads to one asyncio consumer: what a stream makes, in order, and never more than a little of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from vivavoce.live.scheduler import Running, Scheduler
from vivavoce.live.stream import LiveFrame, LiveStream

T = TypeVar("T")

log = logging.getLogger(__name__)

WAITING_SECONDS = 1.0  # of frames that may wait for a slow consumer; then the oldest are dropped


class StreamBroken(RuntimeError):
    """The stream ended, and the message says why."""


class Feed(Generic[T]):
    """An async iterator over a stream's frames, each made into what the consumer wants by ``encode``, off the event loop.

    Made and used on one event loop. ``dropped``: frames that the consumer was too slow for. ``whole``: each of them needs the
    ones before it, so none can be left out: a consumer that is too slow ends the feed.
    """

    def __init__(self, scheduler: Scheduler, stream: LiveStream, encode: Callable[[LiveFrame], T], *, whole: bool = False):
        self._whole = whole
        self.stream, self.dropped = stream, 0
        self._scheduler, self._encode = scheduler, encode
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._ready: deque[T] = deque()
        self._most = max(2, round(WAITING_SECONDS * stream.fps))
        self._closed = False
        self._broken: str | None = None
        self.running: Running = scheduler.add(stream, self._deliver, self._fail)

    def _deliver(self, frame: LiveFrame) -> None:
        self._tell(self._take, self._encode(frame))

    def _fail(self) -> None:
        self._tell(self._break)

    def _tell(self, call: Callable[..., None], *given: T) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *given)

    def _take(self, made: T) -> None:
        self._ready.append(made)
        if len(self._ready) > self._most:
            self._ready.popleft()
            self.dropped += 1
            if self._whole:
                self._broken = "the session was fetched too slowly, and its pieces cannot be left out: open one with pictures"
        self._news.set()

    def _break(self) -> None:
        self._broken = "the live session ended by an internal error: open another one"
        self._news.set()

    def clear(self) -> None:
        """After an interruption: forget what has not been consumed, if that may be left out, and make the next frame at once."""
        if not self._whole:
            self._ready.clear()
        self._scheduler.hurry(self.running)

    def __aiter__(self) -> Feed[T]:
        return self

    async def __anext__(self) -> T:
        """The next of them; StreamBroken where the stream broke, the end where the feed was closed."""
        while self._broken or not self._ready:
            if self._broken:
                raise StreamBroken(self._broken)
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._ready.popleft()

    async def close(self) -> None:
        """Stop the stream: no step of it begins after this returns, and none is under way unless it takes longer than
        `Scheduler.remove` waits, which the log says. What such a step makes goes nowhere."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        if not await asyncio.to_thread(self._scheduler.remove, self.running):
            log.warning("a stream was closed while a frame of it was still being made")
