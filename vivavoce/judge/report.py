"""An evaluation as files: report.json for programs, report.md for repositories, index.html for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vivavoce.judge.evidence import Evidence
from vivavoce.judge.figures import Figure
from vivavoce.judge.page import page
from vivavoce.judge.pairs import Pair
from vivavoce.judge.results import ALL, Evaluation, Row, Summary
from vivavoce.judge.words import BETTER, by_topic, counted, number, with_interval
from vivavoce.media.figures import to_json, without_nan
from vivavoce.media.files import temporary_name
from vivavoce.metrics.confidence import Interval

KEPT = "kept"  # the folder of what was seen and heard
FILES = ("report.json", "report.md", "index.html")

def check_folder(out: Path) -> None:
    """Raises NotADirectoryError where ``out`` is a file, and FileExistsError where it holds a report that is not ours."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"the output {out} is a file: give the name of a folder")
    foreign = [name for name in FILES if (out / name).exists()]
    if foreign and not (out / KEPT).is_dir():
        raise FileExistsError(f"the folder {out} has a {foreign[0]} that no evaluation wrote: choose another folder")


def write_report(
    evaluation: Evaluation, out: Path, evidence: Callable[[Pair], Evidence], report: Callable[[str, int, int | None], None]
) -> None:
    """Writes the three files, each whole or not at all."""
    texts = {
        "report.json": to_json(as_json(evaluation), indent=1, ensure_ascii=False) + "\n",
        "report.md": markdown(evaluation),
        "index.html": page(evaluation, evidence, report),
    }
    for name, text in texts.items():
        part = out / temporary_name(Path(name).suffix)
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(out / name)
        finally:
            part.unlink(missing_ok=True)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, as JSON takes it: numbers that are not known are null."""
    whole = {
        "systems": evaluation.systems, "groups": evaluation.groups, "notes": evaluation.notes,
        "figures": [
            {"name": f.name, "title": f.title, "topic": f.topic, "unit": f.unit, "better": f.better, "what": f.what,
             "of": "clip" if isinstance(f, Figure) else "set"}
            for f in evaluation.figures
        ],
        "clips": [_clip(row) for row in evaluation.rows],
        "summaries": [asdict(summary) for summary in evaluation.summaries],
        "differences": [asdict(difference) for difference in evaluation.differences],
    }
    return without_nan(whole)


def _clip(row: Row) -> dict[str, Any]:
    pair = {name: str(value) if isinstance(value, Path) else value for name, value in vars(row.pair).items()}
    return {**pair, "problem": row.problem, "notes": row.notes, "figures": row.figures}


def markdown(evaluation: Evaluation) -> str:
    """Tables of means with intervals, medians and differences, and what could not be judged."""
    lines = ["# Evaluation", "", counted(evaluation), ""]
    for group in evaluation.groups:
        lines += ["", f"## {'All clips' if group == ALL else group}", "", *_table(evaluation, group)]
        lines += _differences(evaluation, group)
    rewarded = sorted({(s.system, s.figure) for s in evaluation.summaries if s.reward})
    if rewarded:
        lines += ["", "\\* The system was trained against this figure, which therefore judges nothing: "
                  + ", ".join(f"{figure} ({system})" for system, figure in rewarded) + "."]
    said = [*(f"- {note}" for note in evaluation.notes), *_said(evaluation)]
    if said:
        lines += ["", "## What could not be judged, and why", "", *said]
    return "\n".join(lines) + "\n"


def _table(evaluation: Evaluation, group: str) -> Iterator[str]:
    names = [name for system in evaluation.systems for name in (f"{system}: mean", "median")]
    yield "| figure | " + " | ".join([*names, "recordings", "better"]) + " |"
    yield "|---|" + "---:|" * (len(names) + 1) + "---|"
    for figure in by_topic(evaluation):
        found = [evaluation.summary(system, figure.name, group) for system in evaluation.systems]
        if any(found):
            cells = [cell for s in found for cell in _cells(s)]
            real = next((s.real for s in found if s is not None and s.real is not None), None)
            unit = f" ({figure.unit})" if figure.unit else ""
            recorded = "" if real is None else number(real.value)
            yield "| " + " | ".join([f"{figure.title}{unit} `{figure.name}`", *cells, recorded, BETTER[figure.better]]) + " |"


def _cells(summary: Summary | None) -> tuple[str, str]:
    if summary is None:
        return "", ""
    star = "\\*" if summary.reward else ""
    return with_interval(summary.mean) + star, "" if summary.median is None else number(summary.median.value)


def _differences(evaluation: Evaluation, group: str) -> Iterator[str]:
    chosen = [d for d in evaluation.differences if d.group == group]
    if chosen:
        yield from ("", f"Differences to {chosen[0].against}, paired by clip; **bold** where the interval leaves out 0:", "")
        yield "| figure | " + " | ".join(evaluation.systems[1:]) + " |"
        yield "|---|" + "---:|" * (len(evaluation.systems) - 1)
    for figure in by_topic(evaluation):
        found = {d.system: d.mean for d in chosen if d.figure == figure.name}
        if found:
            cells = [difference_cell(found[s]) if s in found else "" for s in evaluation.systems[1:]]
            yield f"| {figure.title} | " + " | ".join(cells) + " |"


def difference_cell(interval: Interval) -> str:
    """A difference as Markdown."""
    text = with_interval(interval, signed=True)
    return f"**{text}**" if interval.excludes_zero else text


def _said(evaluation: Evaluation) -> Iterator[str]:
    for row in evaluation.rows:
        for text in ([row.problem] if row.problem else []) + list(row.notes):
            yield f"- {row.pair.name} ({row.pair.system}): {text}"
