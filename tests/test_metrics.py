"""The figures that motion is judged by: closed forms and invariances."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.latent.mesh import brow_height, mouth_width
from vivavoce.metrics.head import rotation_spread
from vivavoce.metrics.lips import best_lag, closed, closure_f1, correlation

JUDGE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "judge.py"


def curve(seed: int, frames: int = 120) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.convolve(rng.random(frames + 8), np.ones(5) / 5, "same")[4:-4]


def test_correlation_sees_neither_scale_nor_offset() -> None:
    a, b = curve(0), curve(1)
    assert correlation(a, 3 * a + 2) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)
    assert correlation(2 * a + 1, b) == pytest.approx(correlation(a, b))
    assert correlation(a, np.ones_like(a)) == 0
    assert correlation(a[:9], a[:9]) == 0


@given(lag=st.integers(-8, 8), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_delay_is_found_with_its_sign(lag: int, seed: int) -> None:
    whole = curve(seed, 160)
    assert best_lag(whole[20 - lag : 120 - lag], whole[20:120]) == lag


def test_closed_lips_are_those_near_the_bottom_of_their_own_range() -> None:
    opening = np.concatenate([np.zeros(20), np.linspace(0.0, 1.0, 100)])
    mask = closed(opening)
    np.testing.assert_array_equal(mask, closed(5 * opening + 3))
    np.testing.assert_allclose(opening[mask].max(), 0.12 * np.percentile(opening, 95), atol=0.011)


def test_closures_may_be_a_frame_off_and_no_more() -> None:
    real = np.ones(100)
    real[20:26] = real[60:66] = 0.0
    assert closure_f1(real, real) == 1
    assert closure_f1(np.roll(real, 1), real) == 1
    assert closure_f1(np.roll(real, 7), real) == 0  # a gap of one frame between theirs and ours would still be in reach
    half = np.ones(100)
    half[20:26] = 0.0
    assert closure_f1(half, real) == pytest.approx(2 * 0.5 / 1.5)  # all precise, half recalled
    assert np.isnan(closure_f1(real, np.ones(100)))


def test_figures_are_the_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    if not JUDGE.is_file():
        pytest.skip("the judge (../shared/tools/judge.py) is not here")
    spec = importlib.util.spec_from_file_location("judge", JUDGE)
    assert spec is not None and spec.loader is not None
    judge = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "judge", judge)
    spec.loader.exec_module(judge)
    for seed in range(5):
        a, b = curve(seed), curve(seed + 100)
        assert correlation(a, b) == pytest.approx(judge.corr(a, b))
        assert best_lag(a, b) == judge.best_lag(a, b)
        assert closure_f1(a, b) == pytest.approx(judge.closure_f1(a, b))
        turns = np.random.default_rng(seed).normal(0, 0.1, (50, 3))
        assert rotation_spread(turns) == pytest.approx(np.radians(judge.spread(np.degrees(turns))))
        points = np.random.default_rng(seed).normal(0, 1, (7, 478, 3))
        figures = judge.curves(judge.Tracked(points, turns, np.ones(7, bool), 0.0, 0.0, 0.0, [], (1, 1)))
        np.testing.assert_allclose(mouth_width(points), figures["width"])
        np.testing.assert_allclose(brow_height(points), figures["brow"])
