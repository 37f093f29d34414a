"""`vivavoce bench render`: what it measures is there, fits together, and is shown."""

from __future__ import annotations

import os

import pytest

from vivavoce.apps import bench
from vivavoce.apps.stages import Stages, peak, resident, thread_seconds


@pytest.fixture(scope="module")
def result() -> dict:
    return bench.measure((64,), 6, lambda *_: None)


def test_stages_are_parts_of_the_whole(result: dict) -> None:
    found = result["sizes"]["64"]
    assert set(found["milliseconds"]) == set(bench.STAGES)
    inside = sum(ms for name, ms in found["milliseconds"].items() if name != "encoding")
    assert 0 < inside <= 1000 / found["frames_per_second"]
    assert all(ms > 0 for name, ms in found["milliseconds"].items() if name != "encoding")
    assert found["over_floor"] == pytest.approx(found["floor_frames_per_second"] / found["frames_per_second"])
    assert 0 < found["prepare_seconds"] <= found["first_frame_seconds"]
    assert found["peak_mib"] > 100


def test_the_table_shows_every_size(result: dict) -> None:
    lines = bench.table({**result, "sizes": {"64": result["sizes"]["64"], "65": result["sizes"]["64"]}}).splitlines()
    assert lines[0].split() == ["64", "px", "65", "px"]
    assert sum(line.strip().startswith(tuple(bench.STAGES)) for line in lines) == len(bench.STAGES)


def test_time_and_memory_are_what_the_system_says() -> None:
    class Work:
        def sum(self, n: int) -> int:
            return sum(range(n))

    stages = Stages()
    stages.watch(Work, "sum", "adding")
    assert Work().sum(200_000) == 199_999 * 100_000
    assert stages.busy["adding"] > 0 and 0 < stages.wall["adding"] < 5
    assert 0 < resident() <= peak() * 1.01
    assert os.getpid() in thread_seconds()
