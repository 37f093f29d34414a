"""Places for live sessions, and turns for the heavy work of requests: as many as the limits allow, whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vivavoce.apps.server.limits import Refusal

T = TypeVar("T")


class Places:
    """A context for each session, on the event loop. ``taken``: how many there are."""

    def __init__(self, most: int):
        self._most, self.taken = most, 0

    def __enter__(self) -> Places:
        if self.taken >= self._most:
            raise Refusal(503, "busy", f"{self._most} sessions are open, more are not allowed here: try again later")
        self.taken += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.taken -= 1


class Turns:
    """Work of seconds that requests ask for: done in one thread, one after the other, so that nothing else runs out of threads,
    memory or time. Used on one event loop."""

    def __init__(self, most: int):
        """``most``: how many may wait."""
        self._most, self._waiting = most, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="turns")

    async def take(self, work: Callable[[], T]) -> T:
        """What the work gives, when its turn has come; Refusal where too many wait."""
        if self._waiting > self._most:
            raise Refusal(503, "busy", f"{self._most} requests wait for their turn, more are not allowed: try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Wait for what is being done, and do nothing more."""
        self._thread.shutdown(cancel_futures=True)
