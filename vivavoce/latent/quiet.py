"""Silence for native libraries that log to file descriptor 2 whatever one asks of them."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

# glog and absl lines below ERROR ("W0000 00:00:17.4 1483 file.cc:114] ..."), and two that come without that prefix.
_CHATTER = re.compile(rb"^(?:[IW]\d{4} \d|INFO: Created TensorFlow Lite|WARNING: All log messages before absl)")


class _Diversion:
    """Descriptor 2 is one per process, so all threads share one diversion: the first block starts it, the last ends it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.saved: int | None = None
        self.spool: BinaryIO | None = None

    def enter(self) -> None:
        with self.lock:
            self.depth += 1
            if self.depth > 1:
                return
            try:
                self.saved = os.dup(2)
            except OSError:  # the process runs without a stderr: there is nobody to disturb
                return
            self.spool = _spool()
            # Threads that write at once must not overwrite each other: not every kernel guards a shared file position.
            fcntl.fcntl(self.spool.fileno(), fcntl.F_SETFL, os.O_APPEND)
            os.dup2(self.spool.fileno(), 2)

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth > 0 or self.saved is None or self.spool is None:
                return
            os.dup2(self.saved, 2)
            self.spool.seek(0)
            kept = b"".join(line for line in self.spool if not _CHATTER.match(line))
            self.spool.close()
            # To the descriptor itself and under the lock: descriptor 2 may be another thread's diversion as soon as it is free.
            while kept:
                kept = kept[os.write(self.saved, kept) :]
            os.close(self.saved)
            self.saved = self.spool = None


def _spool() -> BinaryIO:
    if sys.platform == "linux":  # in memory: a block per video frame costs microseconds, and a full disk does not matter
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()


_diversion = _Diversion()


@contextmanager
def quiet_native_stderr() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2 while the block runs, and drop the known chatter from it.

    MediaPipe's lines obey no environment variable and no logging level. They come from its own threads, soon after a graph is
    built and when it finds its first face, so a block has to reach up to the graph's first answer. Only those lines are dropped:
    everything else that was written meanwhile by any thread, Python's own tracebacks included, appears unchanged when the block
    ends, also when an exception ends it. Blocks nest, and may overlap in several threads.
    """
    _diversion.enter()
    try:
        yield
    finally:
        _diversion.leave()
