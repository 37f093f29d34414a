"""Figures as JSON and back: JSON has no numbers that are not known, so they are null in it."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any, **options: Any) -> str:
    """JSON of a value, for any reader; ``options`` are those of json.dumps."""
    return json.dumps(without_nan(value), allow_nan=False, **options)


def from_json(text: str) -> Any:
    """What `to_json` wrote of figures, NaN where it says null. Also reads the NaN that Python itself would write."""
    return _with_nan(json.loads(text))


def without_nan(value: Any) -> Any:
    """The same lists and dicts with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_nan(inner) for inner in value]
    return math.nan if value is None else value
