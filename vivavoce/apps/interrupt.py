"""Ctrl-C and SIGTERM that cannot get lost.

Python raises an exception wherever it happens to be when a signal comes, and that may be a destructor or a callback of the
importer: there the exception is printed and dropped, and the job goes on. So the signal is remembered as well, and asked for at
every step of a job and before its output appears.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vivavoce.apps.errors import TERMINATED


class _Signals:
    """Of the process, as signals are."""

    reason: BaseException | None = None
    holding = False


def install() -> None:
    """Take over Ctrl-C and SIGTERM: both raise, as exceptions, so that half-written files are removed on the way out."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's background jobs want it
            signal.signal(number, _take)
    sys.unraisablehook = _unraisable


def reason() -> BaseException | None:
    """The KeyboardInterrupt or SystemExit that a signal stands for; None if none has come."""
    return _Signals.reason


def check() -> None:
    """Raises KeyboardInterrupt or SystemExit if a signal has come, although it was raised before and got lost."""
    if _Signals.reason is not None:
        raise _Signals.reason


@contextmanager
def held() -> Iterator[None]:
    """Signals that come meanwhile are raised at the end. For imports: interrupted ones leave modules half made."""
    _Signals.holding = True
    try:
        yield
    finally:
        _Signals.holding = False
    check()


def _take(number: int, _frame: FrameType | None) -> None:
    _Signals.reason = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED)
    if not _Signals.holding:
        raise _Signals.reason


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    if _Signals.reason is None:  # after a signal it is only the noise of things cut short
        sys.__unraisablehook__(what)
