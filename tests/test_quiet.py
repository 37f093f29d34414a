"""Holding back native chatter loses nothing else."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivavoce.latent.quiet import quiet_native_stderr

CHATTER = [
    b"I0000 00:00:1795244409.668377    3629 gl_context.cc:344] GL version\n",
    b"W0000 00:00:1795244409.668377    3629 inference_feedback_manager.cc:114] Feedback manager requires a model\n",
    b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n",
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
]
KEPT = [b"E0000 00:00:1795244409.668377    3629 graph.cc:1] failed\n", b"Traceback (most recent call last):\n", b"INFO: ours\n"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(lines=st.lists(st.sampled_from(CHATTER + KEPT)), depth=st.integers(1, 3))
def test_only_chatter_is_dropped_and_order_kept(capfd: pytest.CaptureFixture[str], lines: list[bytes], depth: int) -> None:
    def write(level: int) -> None:
        with quiet_native_stderr():
            if level > 1:
                write(level - 1)
                return
            for line in lines:
                os.write(2, line)

    write(depth)
    assert capfd.readouterr().err.encode() == b"".join(line for line in lines if line in KEPT)


def test_what_python_says_meanwhile_and_an_exception_come_through(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with quiet_native_stderr():
            print("said in the block", file=sys.stderr, flush=True)
            os.write(2, CHATTER[0] + b"the last line without an end")
            raise ValueError("seen")

    with pytest.raises(ValueError, match="seen"):
        work()
    os.write(2, CHATTER[1])  # afterwards nothing is held back
    assert capfd.readouterr().err.encode() == b"said in the block\nthe last line without an end" + CHATTER[1]


def test_blocks_of_many_threads_overlap(capfd: pytest.CaptureFixture[str]) -> None:
    def work(number: int) -> None:
        for turn in range(50):
            with quiet_native_stderr():
                os.write(2, CHATTER[1])
                os.write(2, b"%d %d\n" % (number, turn))

    open_files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == sorted(f"{number} {turn}" for number in range(4) for turn in range(50))
    if open_files:
        assert len(os.listdir("/proc/self/fd")) == open_files
