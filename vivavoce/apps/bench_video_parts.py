"""What `vivavoce bench video-parts` found, as a table: a row per way of training, means over the clips of `val`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vivavoce.judge.results import Evaluation
from vivavoce.metrics.confidence import Interval
from vivavoce.train.video_study import CEILING, INTENSITIES, RECORDED, TAUGHT, WAYS, Findings

COLUMNS: Mapping[str, str] = {
    "lip_corr": "lip_corr", "lip_gain": "lip_gain", "width_corr": "width_corr", "closure_f1": "closure_f1",
    "lip_lag_ms": "lip_lag_ms", "mesh_frechet": "Mesh-FID", "head_ratio": "head", "mouth_sharp": "mouth_sharp",
    "face_found": "face found", "identity": "identity",
}
"""Columns by the judge's figures."""
MOVING: Mapping[str, str] = {
    "lip_activity": "lips, face heights/s", "brow_activity": "brows, face heights/s", "head_spread": "head, °",
    "head_speed": "head, °/s",
}
ROWS: Mapping[str, str] = {
    **{name: way.says for name, way in WAYS.items()}, "base": "the base alone, which hears nothing",
    CEILING: "the clips through the autoencoder",
}
TITLES: Mapping[str, str] = {TAUGHT: "taught clips of `val`", RECORDED: "recordings of `val`"}


def table(findings: Findings) -> str:
    """Means, of taught clips and of recordings; **bold** where the paired difference to the first row is more than chance (95 %).
    "added": how what speech adds to a first guess goes with the clip; "heard": how lips in a first guess open with the recorded
    ones (`video_hearing`); one figure for each seed."""
    guessed = {
        TAUGHT: ("added", findings.added),
        RECORDED: ("heard", {name: [run.opening for run in runs] for name, runs in findings.heard.items()}),
    }
    return "\n".join(_group(findings.judged, group, says, figures) for group, (says, figures) in guessed.items())


def _group(judged: Evaluation, group: str, says: str, guessed: Mapping[str, Sequence[float]]) -> str:
    lines = [
        f"| {TITLES[group]} | {says} | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---:|" * (len(COLUMNS) + 1),
    ]
    for name, title in ROWS.items():
        if name in judged.systems:
            cells = [_cell(judged, name, figure, group) for figure in COLUMNS]
            lines.append("| " + " | ".join([title, _figures(guessed.get(name, ())), *cells]) + " |")
    return "\n".join(lines) + "\n"


def intensities(found: Evaluation) -> str:
    """What the dial does: a row per intensity of the full network, on the recordings' portraits."""
    lines = ["| intensity | " + " | ".join(MOVING.values()) + " |", "|---|" + "---:|" * len(MOVING)]
    for value in INTENSITIES:
        name = f"intensity {value:g}"
        if name in found.systems:
            lines.append(f"| {value:g} | " + " | ".join(_mean(found, name, figure, RECORDED) for figure in MOVING) + " |")
    recorded = [found.summary(found.systems[0], figure, RECORDED) for figure in MOVING]
    real = ["" if one is None or one.real is None else _number(one.real.value) for one in recorded]
    return "\n".join([*lines, "| recorded | " + " | ".join(real) + " |"]) + "\n"


def _figures(values: Sequence[float]) -> str:
    return ", ".join("" if math.isnan(value) else f"{value:.3f}" for value in values)


def _cell(found: Evaluation, system: str, figure: str, group: str) -> str:
    apart = [d.mean for d in found.differences if (d.system, d.figure, d.group) == (system, figure, group)]
    text = _mean(found, system, figure, group)
    return f"**{text}**" if text and any(map(_sure, apart)) else text


def _sure(apart: Interval) -> bool:
    return apart.excludes_zero


def _mean(found: Evaluation, system: str, figure: str, group: str) -> str:
    summary = found.summary(system, figure, group)
    return "" if summary is None else _number(summary.mean.value)


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
