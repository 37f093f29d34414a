"""Many live streams on a few threads: each gets its frames in time, soonest due first; what can wait is done in between."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from vivavoce.live.stream import LiveFrame, LiveStream

BEHIND_SECONDS = 0.12  # a stream that is further behind its clock leaves frames out
MOST_LEFT_OUT = 4  # at a time: of five frames at least one is shown, whatever happens
LOST_SECONDS = 1.0  # a stream that is so far behind all the same gives the time up as lost: its sound pauses
_SPARE_SECONDS = 0.03  # a step of what can wait is begun if no frame is due so soon
_STARVED_SECONDS = 0.2  # but after so long without any, one is done all the same

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """Frames made, made more than a frame's time late, and left out; time spent on them, and time given up. Numbers only grow."""

    made: int = 0
    late: int = 0
    left_out: int = 0
    lost_seconds: float = 0.0
    busy_seconds: float = 0.0


class Running:
    """A stream that is being stepped, and how it keeps up."""

    def __init__(self, stream: LiveStream, deliver: Callable[[LiveFrame], None], failed: Callable[[], None], now: float):
        self.stream, self.deliver, self.failed = stream, deliver, failed
        self.began, self.frames = now, 0  # the clock: frame n is due at began + n / fps
        self.tally = Tally()
        self.stepping = self.removed = self.hurried = False
        self.gone = threading.Event()

    @property
    def due(self) -> float:
        """Time of the monotonic clock at which the next frame is due."""
        return self.began + self.frames / self.stream.fps


class Task:
    """Work that can wait, done a step at a time. ``done``: its end; cancelled work ends with a CancelledError."""

    def __init__(self, steps: Generator[object, None, None]):
        self.steps, self.done, self.cancelled = steps, Future[None](), False

    def cancel(self) -> None:
        """Let it end before its next step."""
        self.cancelled = True

    def step(self) -> bool:
        """Do the next step; whether there is more to do."""
        try:
            if self.cancelled:
                self.steps.close()
                self.done.set_exception(CancelledError())
                return False
            next(self.steps)
        except StopIteration:
            self.done.set_result(None)
            return False
        except Exception as error:  # noqa: BLE001 - whoever waits for the end hears of it
            self.done.set_exception(error)
            return False
        return True


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Scheduler:
    """Steps streams by the clock. Each is stepped by one thread at a time; an error in one ends that one only."""

    def __init__(self, workers: int | None = None):
        """``workers``: threads; by default one for each processor. ValueError where that is none."""
        count = processors() if workers is None else workers
        if count < 1:
            raise ValueError(f"a scheduler of {count} threads would never make a frame: give 1 or more")
        self._ready = threading.Condition()
        self._streams: list[Running] = []
        self._tasks: deque[Task] = deque()
        self._closed = False
        self._waited = 0.0  # when a step of what can wait was last begun
        self.totals = Tally()  # over all streams that there have been
        self._threads = [threading.Thread(target=self._run, name=f"live-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def add(self, stream: LiveStream, deliver: Callable[[LiveFrame], None], failed: Callable[[], None]) -> Running:
        """Begin to step a stream. ``deliver`` is called with each frame, ``failed`` once if the stream breaks, both by a thread
        of the scheduler."""
        running = Running(stream, deliver, failed, time.monotonic())
        with self._ready:
            self._streams.append(running)
            self._ready.notify()
        return running

    def remove(self, running: Running, timeout: float = 5.0) -> bool:
        """Stop stepping a stream. Waits for the step that is under way, but no longer than ``timeout`` seconds; whether it has
        ended. If not, it is the last one, and what it makes is not delivered."""
        with self._ready:
            running.removed = True
            if running in self._streams:
                self._streams.remove(running)
            if not running.stepping:
                running.gone.set()
        return running.gone.wait(timeout)

    def hurry(self, running: Running) -> None:
        """Make a stream's next frame at once, unless it is already ahead of its clock."""
        with self._ready:
            running.hurried = running.due - time.monotonic() <= 1 / running.stream.fps
            self._ready.notify()

    def background(self, steps: Generator[object, None, None]) -> Task:
        """Do what can wait, a step at a time whenever no frame is due soon."""
        task = Task(steps)
        with self._ready:
            self._tasks.append(task)
            self._ready.notify()
        return task

    @property
    def streams(self) -> tuple[Running, ...]:
        with self._ready:
            return tuple(self._streams)

    def close(self) -> None:
        """Stop all threads; work that is not done is cancelled."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()
        for task in self._tasks:
            task.cancel()
            task.step()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if isinstance(job, Running):
                self._step(job)
            elif job.step():
                with self._ready:
                    self._tasks.append(job)
                    self._ready.notify()

    def _next(self) -> Running | Task | None:
        """A stream whose frame is due, or work that can wait; None when the scheduler closes."""
        with self._ready:
            while not self._closed:
                now = time.monotonic()
                waiting = (running for running in self._streams if not running.stepping)
                first = min(waiting, key=lambda running: now if running.hurried else running.due, default=None)
                wait = None if first is None else 0.0 if first.hurried else first.due - now
                # While another thread paints a frame, other work would slow it down.
                painting = any(running.stepping for running in self._streams)
                spare = not painting and (wait is None or wait > _SPARE_SECONDS)
                if self._tasks and (spare or now > self._waited + _STARVED_SECONDS):
                    self._waited = now
                    return self._tasks.popleft()
                if first is not None and wait is not None and wait <= 0:
                    first.stepping, first.hurried = True, False
                    return first
                self._ready.wait(min(wait or _STARVED_SECONDS, _STARVED_SECONDS) if self._tasks else wait)
        return None

    def _step(self, running: Running) -> None:
        fps = running.stream.fps
        began = time.monotonic()
        behind = began - running.due
        leave_out = min(int(behind * fps), MOST_LEFT_OUT) if behind > BEHIND_SECONDS else 0
        try:
            frame = running.stream.step(leave_out)
            if not running.removed:
                running.deliver(frame)
        except Exception:
            log.exception("a live stream broke")
            running.removed = True
            with self._ready:
                if running in self._streams:
                    self._streams.remove(running)
            running.failed()
        now = time.monotonic()
        with self._ready:
            running.frames += leave_out + 1
            lost = max(0.0, now - running.due) if now - running.due > LOST_SECONDS else 0.0
            running.began += lost
            for tally in (running.tally, self.totals):
                tally.made += 1
                tally.left_out += leave_out
                tally.lost_seconds += lost
                tally.late += now > running.due
                tally.busy_seconds += now - began
            running.stepping = False
            if running.removed:
                running.gone.set()
            self._ready.notify()
