"""Figures as JSON: what is written any reader can read, and it comes back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.media.figures import from_json, to_json

FIGURES = st.recursive(
    st.floats() | st.integers() | st.text() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12,
)


def strict(text: str) -> Any:
    """JSON as others read it, who know no NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def unknown(value: Any) -> Any:
    """The same with a word for what is not finite, which can be compared."""
    if isinstance(value, dict):
        return {key: unknown(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [unknown(inner) for inner in value]
    return "unknown" if isinstance(value, float) and not math.isfinite(value) else value


@given(FIGURES)
def test_figures_come_back_and_everybody_can_read_them(figures: Any) -> None:
    text = to_json(figures)
    strict(text)
    assert unknown(from_json(text)) == unknown(figures)


def test_what_is_not_known_is_null() -> None:
    assert to_json({"low": float("nan"), "high": (np.float64("inf"), 1.5)}) == '{"low": null, "high": [null, 1.5]}'
    assert from_json("[null, NaN, 2.0]") == pytest.approx([math.nan, math.nan, 2.0], nan_ok=True)  # also what Python wrote before
