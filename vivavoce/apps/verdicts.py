"""What post-training bought, as a table, a file and curves of what was watched meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path

from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.media.figures import from_json, to_json
from vivavoce.metrics.confidence import Interval
from vivavoce.train.data import Example
from vivavoce.train.loop import mixed_precision
from vivavoce.train.post import JUDGED
from vivavoce.train.verdict import against, judge_all, summary

Figures = Mapping[str, Mapping[str, Interval]]
FEW = 12  # entries of a log that are shown as points as well: a line of one would not be seen


def write_verdict(
    folder: Path, made: MotionGenerator, base: MotionGenerator, examples: Sequence[Example], model: FaceModel,
    progress: Callable[[str, int, int], None],
) -> str:
    """Judge both; verdict.json and training.png go to the folder. The table, as Markdown."""
    with mixed_precision():
        after, before = (judge_all(generator, examples, model, progress) for generator in (made, base))
    figures, better = summary(after), against(after, before)
    kept = {"figures": figures, "before": summary(before), "better": better}
    named = {k: {g: {n: asdict(i) for n, i in row.items()} for g, row in v.items()} for k, v in kept.items()}
    (folder / "verdict.json").write_text(to_json(named, indent=1))
    plot([folder / "log.jsonl", folder / JUDGED], folder / "training.png")
    return table(figures, better)


def table(figures: Figures, better: Figures) -> str:
    """A row per figure; what has a sign at 95 % is marked with a star."""
    groups = list(figures)
    lines = ["| figure | " + " | ".join(f"{g} | better by" for g in groups) + " |", "|---|" + "---:|---:|" * len(groups)]
    for name in figures[groups[0]]:
        cells = [cell for g in groups for cell in (f"{figures[g][name].value:.3f}", _gain(better[g][name]))]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gain(interval: Interval) -> str:
    if not isfinite(interval.low):  # of a single clip
        return f"{interval.value:+.3f}"
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]" + ("*" if interval.excludes_zero else "")


def plot(logs: Sequence[Path], picture: Path) -> None:
    """Each of the logged figures over the steps, a row for each log that is there."""
    from matplotlib.figure import Figure

    told = [[from_json(line) for line in log.read_text().splitlines()] for log in logs if log.exists()]
    rows = [(entries, [name for name in entries[0] if name != "step"]) for entries in told]
    columns = max(len(names) for _, names in rows)
    figure = Figure(figsize=(2.6 * columns, 2.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for (entries, names), row in zip(rows, panels, strict=True):
        steps = [e["step"] for e in entries]
        for axes, name in zip(row, names, strict=False):
            axes.plot(steps, [e[name] for e in entries], linewidth=1.2, marker="." if len(steps) < FEW else "")
            axes.set_xlabel("step", fontsize=8)
            axes.set_title(name.replace("_", " "), fontsize=9)
            axes.tick_params(labelsize=7)
        for axes in row[len(names) :]:
            axes.set_axis_off()
    figure.savefig(picture, dpi=110)
