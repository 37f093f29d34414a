"""Where time and memory go: methods timed from outside, and what the operating system says about this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEBIBYTE = 2**20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Stages:
    """Seconds of the main thread by stage: on the clock, and of its processor time."""

    wall: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # the encoder resamples as well
            yield
            return
        wall, busy = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.wall[stage] = self.wall.get(stage, 0.0) + time.perf_counter() - wall
            self.busy[stage] = self.busy.get(stage, 0.0) + time.thread_time() - busy

    def watch(self, owner: type, name: str, stage: str) -> None:
        """Time every call of a method, which is replaced for as long as the process lives."""
        method: Callable[..., Any] = vars(owner)[name]

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.during(stage):
                return method(*args, **kwargs)

        setattr(owner, name, timed)

    def iterate(self, items: Iterator[Any], stage: str) -> Iterator[Any]:
        """Time how long each item takes to come."""
        while True:
            with self.during(stage):
                item = next(items, None)
            if item is None:
                return
            yield item


def thread_seconds() -> dict[int, float]:
    """Processor time of every living thread of this process."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # it has just ended
            numbers = (folder / "stat").read_text().rpartition(")")[2].split()
            found[int(folder.name)] = (int(numbers[11]) + int(numbers[12])) / TICKS
    return found


def resident() -> float:
    """Resident memory now, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


def peak() -> float:
    """The most resident memory there has been, MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
