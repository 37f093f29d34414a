"""How far a job is: a bar with the time left on a terminal, an occasional plain line elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vivavoce.apps import interrupt

T = TypeVar("T")

LINE_SECONDS = 10.0  # between plain lines: the log of an hour's job stays readable


class Bar:
    """A bar on a terminal. Call it with (what, done, total or None) after each step; another ``what`` starts another bar.

    Every step also asks for a Ctrl-C that got lost.
    """

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=Console(stderr=True),
        )
        self._task = self._progress.add_task("getting ready", total=None)
        self._what = ""

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        interrupt.check()
        if what != self._what:
            self._what = what
            self._progress.reset(self._task, description=what)
        self._progress.update(self._task, completed=done, total=total)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False)


class Lines:
    """The same where nobody watches: a plain line now and then."""

    def __init__(self) -> None:
        self._what = ""
        self._first, self._started, self._said = 0, 0.0, 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def __call__(self, what: str, done: int, total: int | None) -> None:
        interrupt.check()
        now = time.monotonic()
        if what != self._what:
            # The first step may have taken long: no measure of pace.
            self._what, self._first, self._started, self._said = what, done, now, now
        if now - self._said >= LINE_SECONDS and done > self._first:
            self._said = now
            left = "" if total is None else f" of {total}, about {self._left(done, total, now)} s left"
            self.say(f"{what}: {done}{left}")

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _left(self, done: int, total: int, now: float) -> str:
        return f"{max(total - done, 0) * (now - self._started) / (done - self._first):.0f}"


def reporter() -> Bar | Lines:
    """The one that suits stderr."""
    return Bar() if sys.stderr.isatty() else Lines()


def shown(items: Iterable[T], *, total: int | None, what: str) -> Generator[T, None, None]:
    """Passes ``items`` on and shows how many of ``total`` (an estimate; None: not known) went by."""
    done = 0
    with reporter() as report:
        for item in items:
            yield item
            done += 1
            report(what, done, None if total is None else max(done, total))
        if done:
            report(what, done, done)
