"""Figures in words and digits, as all reports write them."""

from __future__ import annotations

import math

from vivavoce.judge.figures import TOPICS
from vivavoce.judge.results import Described, Evaluation
from vivavoce.metrics.confidence import Interval

BETTER = {
    "higher": "higher is better", "lower": "lower is better", "near 1": "best at 1", "near 0": "best at 0",
    "near real": "best as recorded", "none": "",
}


def counted(evaluation: Evaluation) -> str:
    """What was judged, in a sentence."""
    failed = sum(row.problem is not None for row in evaluation.rows)
    clips = len(evaluation.rows)
    systems = f" of {len(evaluation.systems)} systems" if len(evaluation.systems) > 1 else ""
    rest = f"; {failed} could not be judged" if failed else ""
    return f"{clips} clip{'s' * (clips != 1)}{systems}{rest}. Means over clips, with 95% bootstrap intervals and medians."


def by_topic(evaluation: Evaluation) -> list[Described]:
    """The figures in the order of TOPICS; those of other topics before the last."""
    order = {topic: i for i, topic in enumerate(TOPICS)}
    return sorted(evaluation.figures, key=lambda figure: order.get(figure.topic, len(TOPICS) - 1.5))


def number(value: float, *, signed: bool = False) -> str:
    """Three significant digits."""
    if math.isnan(value):
        return ""
    sign = "+" if signed else ""
    text = f"{value:{sign}.3g}"
    return f"{value:{sign}.0f}" if "e+" in text else text


def with_interval(interval: Interval, *, signed: bool = False) -> str:
    """A value and its interval: "0.67 [0.61, 0.72]"."""
    text = number(interval.value, signed=signed)
    if math.isnan(interval.low):
        return text
    return f"{text} [{number(interval.low, signed=signed)}, {number(interval.high, signed=signed)}]"


def short_table(evaluation: Evaluation) -> str:
    """Means with intervals of all clips, as plain text in columns."""
    rows = [("", *evaluation.systems, "recordings")]
    for figure in by_topic(evaluation):
        found = [evaluation.summary(system, figure.name) for system in evaluation.systems]
        if any(found):
            real = next((s.real for s in found if s is not None and s.real is not None), None)
            cells = ["-" if s is None else with_interval(s.mean) + "*" * s.reward for s in found]
            rows.append((figure.name, *cells, "" if real is None else number(real.value)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
