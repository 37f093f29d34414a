"""The page for people: one file that needs no other, on any screen, light or dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import groupby

import numpy as np
from PIL import Image

from vivavoce.judge.evidence import Evidence
from vivavoce.judge.figures import SUFFIX
from vivavoce.judge.look import RATE_HZ, Look
from vivavoce.judge.pairs import Pair
from vivavoce.judge.plots import Band, Curve, Line, curves, distribution
from vivavoce.judge.results import ALL, Described, Evaluation, Row, Summary
from vivavoce.judge.sound import WAVE_RATE_HZ
from vivavoce.judge.style import STYLE
from vivavoce.judge.words import BETTER, by_topic, counted, number, with_interval
from vivavoce.judge.worst import Ranked, worst_first
from vivavoce.latent.mesh import lip_opening
from vivavoce.speech.phones import BILABIAL, PHONES

SHOWN_CLIPS = 40  # with plots and pictures, about 60 kB each; report.json has all
OPEN_CLIPS = 3
PLOTTED_SECONDS = 30.0
SHEET_COLUMNS = 8
FEWEST_DOTS = 3  # clips under which a distribution shows nothing
COLOURS = 8  # of systems, in the style
_JPEG_QUALITY = 82


def page(
    evaluation: Evaluation, evidence: Callable[[Pair], Evidence], report: Callable[[str, int, int | None], None]
) -> str:
    """The whole page as HTML."""
    ranked = worst_first(evaluation)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Evaluation of {escape(', '.join(evaluation.systems))}</title><style>{STYLE}</style></head><body><main>",
        f"<header><h1>Evaluation</h1><p>{escape(counted(evaluation))}</p>", *_notes(evaluation), "</header>",
        *_tables(evaluation), *_differences(evaluation), *_distributions(evaluation), *_list(ranked, evaluation),
    ]
    shown = ranked[:SHOWN_CLIPS]
    for i, clip in enumerate(shown):
        report("drawing", i, len(shown))
        parts += _clip(clip, evidence(clip.row.pair), i, evaluation)
    report("drawing", len(shown), len(shown))
    parts += [*_problems(evaluation), *_glossary(evaluation), "</main></body></html>\n"]
    return "".join(parts)


def _notes(evaluation: Evaluation) -> Iterator[str]:
    rewards = sorted({summary.figure for summary in evaluation.summaries if summary.reward})
    if rewards:
        yield (
            f'<p class="note">Systems were trained against figures marked <span class="reward">reward</span> '
            f"({escape(', '.join(rewards))}): there they judge nothing.</p>"
        )


# --- Tables ------------------------------------------------------------------------------------------------------------------


def _tables(evaluation: Evaluation) -> Iterator[str]:
    for i, group in enumerate(evaluation.groups):
        title = "All clips" if group == ALL else group
        if len(evaluation.groups) == 1:
            yield f"<section><h2>{escape(title)}</h2>"
        else:
            yield f'<section><details{" open" if i == 0 else ""}><summary><h2>{escape(title)}</h2></summary>'
        yield from _table(evaluation, group)
        yield "</section>" if len(evaluation.groups) == 1 else "</details></section>"


def _table(evaluation: Evaluation, group: str) -> Iterator[str]:
    heads = "".join(f'<th class="n">{_swatch(evaluation, system)}{escape(system)}</th>' for system in evaluation.systems)
    yield f'<div class="scroll"><table><thead><tr><th>Figure</th>{heads}<th class="n">Recordings</th><th>Best</th></tr></thead>'
    for topic, figures in groupby(by_topic(evaluation), key=lambda figure: figure.topic):
        rows = [row for figure in figures if (row := _row(figure, evaluation, group))]
        if rows:
            yield f'<tbody><tr class="topic"><th colspan="{len(evaluation.systems) + 3}">{escape(topic)}</th></tr>'
            yield "".join(rows) + "</tbody>"
    yield "</table></div>"


def _row(figure: Described, evaluation: Evaluation, group: str) -> str:
    """A row of the table; empty where nobody has the figure."""
    found = [evaluation.summary(system, figure.name, group) for system in evaluation.systems]
    if not any(found):
        return ""
    real = next((s.real for s in found if s is not None and s.real is not None), None)
    unit = f' <span class="unit">{escape(figure.unit)}</span>' if figure.unit else ""
    recorded = "" if real is None else number(real.value)
    return (
        f'<tr><td title="{escape(figure.what, quote=True)}">{escape(figure.title)}{unit}</td>'
        + "".join(f'<td class="n">{_cell(summary)}</td>' for summary in found)
        + f'<td class="n">{recorded}</td><td class="best">{_best(figure)}</td></tr>'
    )


def _best(figure: Described) -> str:
    return {"higher": "high ↑", "lower": "low ↓", "near 1": "1", "near 0": "0", "near real": "as recorded", "none": ""}[
        figure.better
    ]


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return '<span class="unit">–</span>'
    mean = summary.mean
    said = [] if np.isnan(mean.low) else [f"{number(mean.low)}\u00a0…\u00a0{number(mean.high)}"]
    if summary.median is not None and mean.count > 1:
        said.append(f"median\u00a0{number(summary.median.value)}")
    reward = ' <span class="reward">reward</span>' if summary.reward else ""
    detail = f'<span class="interval" title="{mean.count} clips">{" · ".join(said)}</span>' if said else ""
    return f"<b>{number(mean.value)}</b>{reward}{detail}"


def _differences(evaluation: Evaluation) -> Iterator[str]:
    if len(evaluation.systems) < 2:
        return
    first = evaluation.systems[0]
    yield f"<section><h2>Differences to {escape(first)}</h2><p>Means over the clips that both have, paired, with 95% intervals. "
    yield "Only where the interval leaves out 0 (in bold) is there a difference to speak of.</p>"
    heads = "".join(f'<th class="n">{_swatch(evaluation, system)}{escape(system)}</th>' for system in evaluation.systems[1:])
    yield f'<div class="scroll"><table><thead><tr><th>Figure</th>{heads}<th>Best</th></tr></thead><tbody>'
    for figure in by_topic(evaluation):
        found = {d.system: d.mean for d in evaluation.differences if d.figure == figure.name and d.group == ALL}
        if found:
            cells = []
            for system in evaluation.systems[1:]:
                text = with_interval(found[system], signed=True) if system in found else "–"
                sure = system in found and found[system].excludes_zero
                cells.append(f'<td class="n">{"<b>" if sure else ""}{text}{"</b>" if sure else ""}</td>')
            yield f'<tr><td>{escape(figure.title)}</td>{"".join(cells)}<td class="best">{_best(figure)}</td></tr>'
    yield "</tbody></table></div></section>"


# --- Distributions -----------------------------------------------------------------------------------------------------------


def _distributions(evaluation: Evaluation) -> Iterator[str]:
    drawn = [plot for figure in by_topic(evaluation) if (plot := _distribution(figure, evaluation))]
    if drawn:
        yield "<section><h2>Distributions</h2><p>A dot is a clip, the bar its mean, the line the 95% interval of the mean"
        yield '; the dashed line is where the figure should be.</p><div class="grid2">' + "".join(drawn) + "</div></section>"


def _distribution(figure: Described, evaluation: Evaluation) -> str:
    lines = []
    for system in evaluation.systems:
        values = _values(evaluation, system, figure.name)
        summary = evaluation.summary(system, figure.name)
        if len(values) >= FEWEST_DOTS and summary is not None:
            mean = summary.mean
            style = f"s{evaluation.systems.index(system) % COLOURS}"
            lines.append(Line(name=system, values=values, mean=mean.value, low=mean.low, high=mean.high, style=style))
    real = _values(evaluation, evaluation.systems[0], figure.name + SUFFIX)
    summary = evaluation.summary(evaluation.systems[0], figure.name)
    if lines and len(real) >= FEWEST_DOTS and summary is not None and summary.real is not None:
        mean = summary.real
        lines.append(Line(name="recordings", values=real, mean=mean.value, low=mean.low, high=mean.high, style="rec"))
    if not lines:
        return ""
    target = {"near 1": 1.0, "near 0": 0.0}.get(figure.better)
    unit = f' <span class="unit">{escape(figure.unit)}</span>' if figure.unit else ""
    drawing = distribution(lines, title=f"Distribution of {figure.title}", target=target)
    return f"<figure><figcaption>{escape(figure.title)}{unit}</figcaption>{drawing}</figure>"


def _values(evaluation: Evaluation, system: str, name: str) -> np.ndarray:
    return np.array([row.figures[name] for row in evaluation.rows if row.pair.system == system and name in row.figures])


# --- Clips -------------------------------------------------------------------------------------------------------------------


def _list(ranked: Sequence[Ranked], evaluation: Evaluation) -> Iterator[str]:
    if not ranked:
        return
    more = f" The {SHOWN_CLIPS} worst are shown; report.json has the figures of all." if len(ranked) > SHOWN_CLIPS else ""
    yield "<section><h2>Clips, worst first</h2><p>By the mean rank over all figures that have a better side."
    yield f"{more}</p><div class=\"scroll\"><table><thead><tr><th class=\"n\">#</th><th>Clip</th>"
    yield "<th>System</th>" if len(evaluation.systems) > 1 else ""
    yield '<th class="n">Mean rank</th><th>Worst in</th></tr></thead><tbody>'
    for i, clip in enumerate(ranked[:SHOWN_CLIPS]):
        pair = clip.row.pair
        named = f'<td class="s">{_swatch(evaluation, pair.system)}{escape(pair.system)}</td>'
        system = named if len(evaluation.systems) > 1 else ""
        said = ", ".join(f"{escape(f.title)} {_value(f, clip.row)}" for f in clip.worst)
        yield f'<tr><td class="n">{i + 1}</td><td><a href="#clip{i + 1}">{escape(pair.name)}</a></td>{system}'
        yield f'<td class="n">{clip.badness:.2f}</td><td class="said">{said}</td></tr>'
    yield "</tbody></table></div></section>"


def _value(figure: Described, row: Row) -> str:
    unit = f" {figure.unit}" if figure.unit and figure.unit != "×" else figure.unit
    return f"<b>{number(row.figures[figure.name])}</b>{escape(unit)}"


def _clip(clip: Ranked, evidence: Evidence, index: int, evaluation: Evaluation) -> Iterator[str]:
    row, pair = clip.row, clip.row.pair
    system = f" · {_swatch(evaluation, pair.system)}{escape(pair.system)}" if len(evaluation.systems) > 1 else ""
    group = f" · {escape(pair.group)}" if pair.group != ALL else ""
    yield f'<details class="clip" id="clip{index + 1}"{" open" if index < OPEN_CLIPS else ""}><summary><h3>{index + 1}. '
    yield f'{escape(pair.name)}<span class="unit">{system}{group} · {evidence.shown.seconds:.1f} s</span></h3></summary>'
    for note in row.notes:
        yield f'<p class="note">{escape(note)}</p>'
    legend = '<span class="key gen">generated</span>'
    if evidence.example is not None:
        legend += f'<span class="key real">{"recorded" if evidence.recording is not None else "driving"}</span>'
    yield f'<p class="legend">{legend}</p>'
    yield f'<div class="scroll">{_lips(evidence)}</div><div class="scroll">{_head(evidence)}</div>'
    yield f'<div class="scroll">{_sheet(evidence)}</div>'
    yield '<ul class="chips">'
    for figure in by_topic(evaluation):
        if figure.name in row.figures:
            real = row.figures.get(figure.name + SUFFIX)
            recorded = "" if real is None else f' <span class="unit">recorded {number(real)}</span>'
            mark = ' class="bad"' if figure in clip.worst else ""
            yield f"<li{mark}>{escape(figure.title)} {_value(figure, row)}{recorded}</li>"
    yield "</ul></details>"


def _cut(values: np.ndarray, rate_hz: float) -> np.ndarray:
    return values[: round(PLOTTED_SECONDS * rate_hz)]


def _seconds(evidence: Evidence) -> float:
    return min(PLOTTED_SECONDS, evidence.shown.seconds)


def _lips(evidence: Evidence) -> str:
    looks = [(evidence.shown, "curve gen")] + ([(evidence.example, "curve real")] if evidence.example is not None else [])
    lines = [Curve(values=_cut(lip_opening(look.points), RATE_HZ), style=style) for look, style in reversed(looks)]
    heard, wave, bands = evidence.heard, None, []
    if heard is not None:
        wave = (heard.wave[: round(_seconds(evidence) * WAVE_RATE_HZ)], float(WAVE_RATE_HZ))
        spoken = zip(heard.starts, heard.ends, heard.phones, strict=True)
        bands = [
            Band(start=float(a), end=float(b), word=PHONES[int(p)]) for a, b, p in spoken
            if int(p) in BILABIAL and b < _seconds(evidence)
        ]
    return curves(
        [("lip opening", lines)], rate_hz=RATE_HZ, seconds=_seconds(evidence), height=130, wave=wave, bands=bands,
        title="Opening of the lips over the waveform",
    )


def _head(evidence: Evidence) -> str:
    rows = []
    for axis, name in enumerate(("pitch °", "yaw °", "roll °")):
        looks = [(evidence.example, "curve real")] if evidence.example is not None else []
        looks.append((evidence.shown, "curve gen"))
        lines = [
            Curve(values=_cut(np.degrees(look.rotation()[:, axis]), RATE_HZ), style=style) for look, style in looks
            if look is not None
        ]
        rows.append((name, lines))
    return curves(rows, rate_hz=RATE_HZ, seconds=_seconds(evidence), height=56, title="Rotation of the head")


def _sheet(evidence: Evidence) -> str:
    """Pictures of the generated video over those of the recording at the same times, as one picture in the page."""
    chosen = np.linspace(0, len(evidence.shown.times) - 1, min(SHEET_COLUMNS, len(evidence.shown.times))).round().astype(int)
    times = evidence.shown.times[chosen]
    rows = [_strip(evidence.shown, times)]
    if evidence.example is not None:
        rows.append(_strip(evidence.example, times))
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])[:-4]
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    said = "Generated" + (" (above) and recorded" if evidence.example is not None else "") + " frames at "
    said += ", ".join(f"{time:.1f}" for time in times) + " s"
    return f'<img class="sheet" alt="{said}" src="data:image/jpeg;base64,{data}"><p class="unit">{said}</p>'


def _strip(look: Look, times: np.ndarray) -> np.ndarray:
    nearest = [int(np.abs(look.times - time).argmin()) for time in times]
    return np.concatenate([look.thumbs[i] for i in nearest], axis=1)


# --- The end of the page -----------------------------------------------------------------------------------------------------


def _problems(evaluation: Evaluation) -> Iterator[str]:
    said = [(row, text) for row in evaluation.rows for text in ([row.problem] if row.problem else []) + list(row.notes)]
    if said or evaluation.notes:
        yield "<section><h2>What could not be judged, and why</h2><ul>"
        yield "".join(f"<li>{escape(note)}</li>" for note in evaluation.notes)
        for row, text in said:
            yield f"<li><b>{escape(row.pair.name)}</b> ({escape(row.pair.system)}): {escape(text)}</li>"
        yield "</ul></section>"


def _glossary(evaluation: Evaluation) -> Iterator[str]:
    yield "<section><details><summary><h2>What the figures mean</h2></summary><dl>"
    for figure in by_topic(evaluation):
        better = f" <i>{BETTER[figure.better]}</i>" if BETTER[figure.better] else ""
        yield f"<dt>{escape(figure.title)} <code>{escape(figure.name)}</code></dt><dd>{escape(figure.what)}{better}</dd>"
    yield "</dl></details></section>"


def _swatch(evaluation: Evaluation, system: str) -> str:
    if len(evaluation.systems) < 2:
        return ""
    return f'<i class="swatch s{evaluation.systems.index(system) % COLOURS}"></i>'
