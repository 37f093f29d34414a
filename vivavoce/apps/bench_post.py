"""What `vivavoce bench post` found, as tables and pictures: differences to the start, and what was watched meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vivavoce.metrics.confidence import Interval
from vivavoce.train.comparison import WAYS, Finding
from vivavoce.train.verdict import MESH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES: Mapping[str, str] = {
    MESH: "Mesh-FID", "lip_corr": "lip_corr", "width_corr": "width_corr", "closure_f1": "closure_f1", "lip_gain": "lip_gain",
    "brow_ratio": "brows", "head_ratio": "head", "dynamic": "speed of the head", "jerk": "jerk", "diversity": "diversity",
}
"""Columns of the table by figure of `verdict`."""
SHOWN = (MESH, "lip_corr", "width_corr", "closure_f1", "jerk", "diversity")
WATCHED: Mapping[str, str] = {
    "accuracy": "implicit accuracy", "margin": "margin", "winner_error": "winner's own error", "speed": "squared velocity",
    "distance": "distance to the anchor",
}
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")


def table(found: Mapping[str, Sequence[Finding]], group: str) -> str:
    """A row per way: the mean over seeds of the difference to the start, the range over seeds in brackets, or the interval of the
    only seed in square ones, and a star for each seed whose interval excludes 0."""
    lines = ["| | " + " | ".join(NAMES.values()) + " |", "|---|" + "---:|" * len(NAMES)]
    for way, runs in found.items():
        cells = [_cell([run.better[group][name] for run in runs], share=name == MESH) for name in NAMES]
        lines.append(f"| {WAYS[way].says} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(runs: Sequence[Interval], *, share: bool) -> str:
    def text(value: float) -> str:
        return f"{100 * value:+.0f} %" if share else f"{value:+.3f}"

    stars = "".join("*" for run in runs if run.excludes_zero)
    if len(runs) == 1:
        return f"{text(runs[0].value)} [{text(runs[0].low)}, {text(runs[0].high)}] {stars}".rstrip()
    values = [run.value for run in runs]
    return f"{text(float(np.mean(values)))} ({text(min(values))} to {text(max(values))}) {stars}".rstrip()


def plot_differences(found: Mapping[str, Sequence[Finding]], group: str, picture: Path) -> None:
    """A row per way, a column per figure: the difference to the start, a point and its 95 % interval for each seed."""
    from matplotlib.figure import Figure

    ways = list(found)
    figure = Figure(figsize=(2.1 * len(SHOWN) + 3, 0.34 * len(ways) + 1.1), layout="constrained")
    columns: Sequence[Axes] = figure.subplots(1, len(SHOWN), sharey=True)
    for axes, name in zip(columns, SHOWN, strict=True):
        axes.axvline(0, color="0.6", linewidth=0.8)
        for row, way in enumerate(ways):
            for seed, run in enumerate(found[way]):
                found_here = run.better[group][name]
                height = row + 0.22 * (seed - (len(found[way]) - 1) / 2)
                colour = COLOURS[row % len(COLOURS)]
                axes.plot([found_here.low, found_here.high], [height, height], color=colour, linewidth=1.1)
                axes.plot(found_here.value, height, "o", color=colour, markersize=3)
        axes.set_title(NAMES[name], fontsize=9)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=4)
    columns[0].set_yticks(range(len(ways)), [WAYS[way].says for way in ways], fontsize=8)
    columns[0].invert_yaxis()
    figure.savefig(picture, dpi=110)


def plot_watched(found: Mapping[str, Sequence[Finding]], picture: Path) -> None:
    """What was watched over the steps, the mean over seeds; a way that does not know a number is not in its panel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.7 * len(WATCHED), 3.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(WATCHED)), WATCHED.items(), strict=True):
        for row, (way, runs) in enumerate(found.items()):
            if name in runs[0].watched[0]:
                count = min(len(run.watched) for run in runs)
                steps = [entry["step"] for entry in runs[0].watched[:count]]
                mean = np.mean([[entry[name] for entry in run.watched[:count]] for run in runs], 0)
                axes.plot(steps, mean, color=COLOURS[row % len(COLOURS)], linewidth=1.2, label=WAYS[way].says)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
    handles = {label: h for axes in figure.axes for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [WAYS[way].says for way in found]
    figure.legend([handles[name] for name in order], order, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.savefig(picture, dpi=110)


def write(found: Mapping[str, Sequence[Finding]], folder: Path, name: str) -> str:
    """``name``.md with a table per group of recordings, and its two pictures, into the folder; the table of all recordings."""
    groups = list(next(iter(found.values()))[0].better)
    tables = {group: table(found, group) for group in groups}
    text = "\n".join(f"## {group}\n\n{tables[group]}" for group in groups)
    (folder / f"{name}.md").write_text(text)
    plot_differences(found, groups[-1], folder / f"{name}.png")
    plot_watched(found, folder / f"{name}-training.png")
    return tables[groups[-1]]
