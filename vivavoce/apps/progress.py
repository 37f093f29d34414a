"""How far a job is: a bar with the time left on a terminal, an occasional plain line elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

LINE_SECONDS = 10.0  # between plain lines: a log of an hour's job stays readable


def shown(items: Iterable[T], *, total: int | None, what: str) -> Generator[T, None, None]:
    """Passes ``items`` on and shows how many of ``total`` (None: not known) went by; the first may take long to come."""
    if sys.stderr.isatty():
        yield from _bar(items, total, what)
    else:
        yield from _lines(items, total, what)


def _bar(items: Iterable[T], total: int | None, what: str) -> Generator[T, None, None]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("getting ready", total=total, start=False)
        for item in items:
            if not progress.tasks[0].started:
                progress.start_task(task)
                progress.update(task, description=what)
            yield item
            progress.advance(task)
        # The length is an estimate until the sound has been read to its end.
        progress.update(task, total=progress.tasks[0].completed)


def _lines(items: Iterable[T], total: int | None, what: str) -> Generator[T, None, None]:
    started = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == 1:
            started = now  # getting ready is not part of the pace
        if now - said >= LINE_SECONDS and done > 1:
            said = now
            print(_line(done, total, now - started, what), file=sys.stderr, flush=True)


def _line(done: int, total: int | None, seconds: float, what: str) -> str:
    if total is None:
        return f"{what}: {done} frames"
    return f"{what}: {done} of {total} frames, about {max(total - done, 0) * seconds / (done - 1):.0f} s left"
