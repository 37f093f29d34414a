"""A track is a function of time: its samples, straight lines between them, and a clock."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.media import Track

RATES = st.sampled_from([10.0, 23.976, 25.0, 30000 / 1001, 50.0, 60.0])


@given(rate=RATES, start=st.floats(-100, 100), count=st.integers(1, 400))
def test_a_value_is_found_at_its_own_time(rate: float, start: float, count: int) -> None:
    track = Track(values=torch.randn(2, count, 3, generator=torch.Generator().manual_seed(count)), rate=rate, start=start)
    assert torch.equal(track.at(track.times), track.values)
    assert track.times[0] == start
    assert track.duration == pytest.approx(count / rate)


@given(rate=RATES, other=RATES, count=st.integers(2, 200))
def test_straight_lines_survive_any_rate(rate: float, other: float, count: int) -> None:
    slope = torch.tensor([[1.5, -0.25]], dtype=torch.float64)
    times = torch.arange(count, dtype=torch.float64) / rate
    track = Track(values=(times[:, None] * slope)[None], rate=rate, start=0.5)
    resampled = track.resample(other)
    assert resampled.rate == other
    assert abs(resampled.duration - track.duration) <= 0.5 / other + 1e-9 or resampled.values.shape[1] == 1
    inside = (resampled.times - 0.5).clamp(max=float(times[-1]))
    assert torch.allclose(resampled.values[0], inside[:, None] * slope, atol=1e-9)


def test_the_ends_hold_and_the_middle_is_the_mean() -> None:
    track = Track(values=torch.tensor([[1.0, 3.0, -1.0]]), rate=2.0, start=1.0)
    times = torch.tensor([-9.0, 1.0, 1.25, 1.75, 2.0, 99.0])
    assert torch.equal(track.at(times), torch.tensor([[1.0, 1.0, 2.0, 1.0, -1.0, -1.0]]))


def test_the_same_rate_changes_nothing() -> None:
    track = Track(values=torch.randn(1, 251, 4), rate=25.0, start=3.2)
    assert torch.equal(track.resample(25.0).values, track.values)


def test_what_has_no_clock_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Track(values=torch.zeros(3), rate=25.0)
    with pytest.raises(ValueError, match="int64"):
        Track(values=torch.zeros(1, 3, dtype=torch.int64), rate=25.0)
    with pytest.raises(ValueError, match=r"0\.0 Hz"):
        Track(values=torch.zeros(1, 3), rate=0.0)
    with pytest.raises(ValueError, match="without values"):
        Track(values=torch.zeros(1, 0, 2), rate=25.0).at(torch.zeros(1))
