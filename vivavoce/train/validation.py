"""`vivavoce bench metrics`: docs/metrics.md, what every figure is and what it does under controlled damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from vivavoce.animate import Animator
from vivavoce.judge.evaluation import evaluate
from vivavoce.judge.pairs import Pair
from vivavoce.judge.results import Described
from vivavoce.media.video import video_seconds
from vivavoce.train.damage import DAMAGES, Damage, Scene, damaged, undamaged
from vivavoce.train.data import Clip, Progress, read_manifest
from vivavoce.train.response import INTACT, Curve, curves, system, verdict
from vivavoce.train.takes import Take, TakeConfig, drawn, keep_to, recorded_motion, take_all, write

WORDED = 2  # recordings whose words are known, besides the others: closures at p, b and m need them
CURVES, MAP = "metrics-curves.png", "metrics-map.png"

SOURCES: Mapping[str, str] = {
    "lip_activity": "ours", "lip_": "judge.py", "width_": "judge.py", "closure_": "judge.py", "head_ratio": "judge.py",
    "jerk_": "judge.py", "brow_ratio": "judge.py", "blink_per": "judge.py", "mouth_sharp": "judge.py", "face_sharp": "judge.py",
    "flicker": "judge.py", "identity": "judge.py; dlib", "mesh_": "judge.py; after Heusel et al. 2017 (FID)",
    "beat_align": "BeatAlign, Siyao et al. 2022", "beat_above": "BeatAlign, less chance: ours",
    "head_sync": "scales after Airale et al. 2023; a correlation instead of networks",
    "sound_": "after SyncNet's offset, Chung and Zisserman 2016; no network", "sync_": "SyncNet's, by an expert of our own",
    "theval_": "THEval, Quignon et al. 2025", "ssim": "Wang et al. 2004", "bilabial": "ours; words aligned by pocketsphinx",
}
"""Beginning of a figure's name -> whose definition it is; the others are ours."""


def bench_metrics(
    data: Path, out: Path, config: TakeConfig, weights: str, animator: Animator, progress: Progress, report: Callable[[str], None]
) -> tuple[str, tuple[Path, ...]]:
    """Damages, judges and draws; returns the document in Markdown and its pictures, which lie in ``out``."""
    clips = picked(read_manifest(data, "val"), config)
    keep_to(out, config, weights)
    takes = take_all(clips, animator, out, config, progress, report)
    pairs = list(acted(takes, out, animator, progress))
    evaluation = evaluate(pairs, out / "report", progress=lambda what, done, total: progress(what, done, total or done))
    found = curves(evaluation)
    pictures = (out / CURVES, out / MAP)
    plot_curves(found, pictures[0])
    plot_map(found, pictures[1])
    return document(found, evaluation.figures, takes, config), pictures


def picked(clips: Sequence[Clip], config: TakeConfig) -> list[Clip]:
    """The longest recording of each person, of so many people, who lie evenly in the list of those whose recordings are long
    enough (or have the longest); and some whose words are known."""
    length = {clip.name: min(video_seconds(clip.path) or 0.0, config.seconds) for clip in clips if clip.talks}
    best: dict[str, Clip] = {}
    for clip in clips:
        if clip.talks and (clip.person not in best or length[clip.name] > length[best[clip.person].name]):
            best[clip.person] = clip
    people = len(best) if config.people is None else min(config.people, len(best))
    least = sorted(length[clip.name] for clip in best.values())[-people]
    longest = [clip for clip in best.values() if length[clip.name] >= least]
    longest = [longest[i] for i in np.linspace(0, len(longest) - 1, people).round().astype(int)]
    worded = [c for c in clips if c.talks and c.person.startswith("grid") and c not in longest][:WORDED]
    return [*longest, *worded]


def acted(takes: Sequence[Take], out: Path, animator: Animator, progress: Progress) -> Iterator[Pair]:
    """Videos of every take under every damage, made unless they are there; the undamaged one first."""
    space = animator.space
    for i, made in enumerate(takes):
        other = next((t for t in chain(takes[i + 1 :], takes[:i]) if t.person != made.person), None)
        if other is None:
            raise ValueError("faces can't be blended: give recordings of at least two people")
        video = out / INTACT / f"{made.name}.mp4"
        if not video.is_file():
            write(video, drawn(made, space, recorded_motion(made, space)), made.sound)
        yield made.pair(INTACT, video)
        for j, damage in enumerate(DAMAGES):
            progress("damaging", i * len(DAMAGES) + j, len(takes) * len(DAMAGES))
            scene: Scene | None = None
            for amount in (a for a in damage.amounts if a != damage.intact):
                name = system(damage, amount)
                video = out / name.replace(" ", "-") / f"{made.name}.mp4"
                if not video.is_file():
                    scene = scene or (undamaged(made, space, other, damage.name) if damage.pictures is not None else None)
                    write(video, damaged(made, damage, amount, space, other, scene), made.sound)
                yield made.pair(name, video)
    progress("damaging", len(takes) * len(DAMAGES), len(takes) * len(DAMAGES))


def source(figure: Described) -> str:
    """Whose definition a figure is."""
    return next((whose for begin, whose in SOURCES.items() if figure.name.startswith(begin)), "ours")


def document(found: Sequence[Curve], figures: Sequence[Described], takes: Sequence[Take], config: TakeConfig) -> str:
    """docs/metrics.md."""
    people = len({t.person for t in takes})
    made = f"{len(takes)} recordings of {people} people of `val`, the first {config.seconds:g} seconds of each"
    parts = [
        "# What the figures are, and what they see", "",
        f"Written by `vivavoce bench metrics recordings/ -o runs/metrics --document docs`, from {made}.", "",
        "## The figures", "", _GOOD, "", "| figure | unit | good | what it is | source |", "|---|---|---|---|---|",
        *(f"| {f.name} | {f.unit or '–'} | {f.better} | {_cell(f.what)} | {source(f)} |" for f in figures), "",
        "## Under damage", "", _DAMAGED, "",
        "| damage | what is done | amounts |", "|---|---|---|", *map(_damage_row, DAMAGES), "",
        _VERDICTS, "", "| figure | damage | should | values along the amounts | monotone |", "|---|---|---|---|---|",
        *map(_curve_row, (c for c in found if c.wanted is not None)), "",
        f"![Curves of the declared figures]({CURVES})", "", _MAPPED, "", f"![Every figure under every damage]({MAP})", "",
        *_undeclared(found, figures),
    ]
    return "\n".join(parts) + "\n"


_GOOD = """\
Good is higher, lower, near 0, near 1, or near real: where the recording's own is. The formulas are in `vivavoce/metrics/`."""
_DAMAGED = """\
The recorded motion is drawn on one of the recording's own frames ("intact"), and damaged in one way by degrees: motion before it
is drawn, pictures after. For each figure it was declared beforehand which damages it should see and where its value should go
(`train/response.py`)."""
_VERDICTS = """\
"yes": every step of the mean over clips goes the declared way. "yes, but for noise": some step does not, but none surely, and
from end to end it surely does (95 % paired bootstrap over clips). "weak": no step surely goes wrong, but from end to end it is
not sure. "no": some step surely goes the wrong way, or the end lies on the wrong side of the beginning."""
_MAPPED = """\
What else each damage does: how far its largest amount (of "lips scaled" 0 and 2) moves the mean over clips, in standard
deviations of the undamaged clips. Framed: declared."""


def _cell(text: str) -> str:
    """Text that does not end a cell of a table."""
    return text.replace("|", "\\|")


def _damage_row(damage: Damage) -> str:
    amounts = ", ".join(f"{a:g}" for a in damage.amounts)
    return f"| {damage.name} | {damage.says} | {amounts} {damage.unit} |"


def _curve_row(curve: Curve) -> str:
    values = " → ".join(f"{m.value:.3g}" for m in curve.means)
    return f"| {curve.figure.name} | {curve.damage.name} | {curve.wanted} | {values} | {verdict(curve)} |"


def _undeclared(found: Sequence[Curve], figures: Sequence[Described]) -> list[str]:
    """Figures that no damage here is meant for, or that could not be measured."""
    measured = {c.figure.name for c in found}
    idle = [f.name for f in figures if f.name in measured and not any(c.wanted for c in found if c.figure.name == f.name)]
    silent = [f.name for f in figures if f.name not in measured]
    lines = []
    if idle:
        lines.append(f"No damage here is meant for {', '.join(idle)}.")
    if silent:
        lines.append(f"Not measured on these recordings: {', '.join(silent)}.")
    return lines


def plot_curves(found: Sequence[Curve], path: Path) -> None:
    """A panel per figure: the damages that it should see, each from its smallest to its largest amount."""
    from matplotlib.figure import Figure as Sheet
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(c.figure.name for c in found if c.wanted is not None))
    colours = dict(zip((d.name for d in DAMAGES), (*(f"C{i}" for i in range(10)), "black", "gold"), strict=True))
    columns = 6
    rows = max(1, -(-len(names) // columns))
    sheet = Sheet(figsize=(2.4 * columns, 1.75 * rows + 0.6), layout="constrained")
    panels = sheet.subplots(rows, columns, squeeze=False).ravel()
    shown: dict[str, Line2D] = {}
    for panel, name in zip(panels, names, strict=False):
        own = [c for c in found if c.figure.name == name and c.wanted is not None]
        for curve in own:
            place = np.array(curve.damage.amounts) / curve.damage.amounts[-1]
            value, low, high = (np.array([getattr(m, end) for m in curve.means]) for end in ("value", "low", "high"))
            colour = colours[curve.damage.name]
            (line,) = panel.plot(place, value, "o-", color=colour, markersize=2.5, linewidth=1.2)
            panel.fill_between(place, low, high, color=colour, alpha=0.15, linewidth=0)
            shown[curve.damage.name] = line
        unit = own[0].figure.unit
        panel.set_title(f"{name}, {unit}" if unit else name, fontsize=8)
        panel.set_xticks([0, 0.5, 1], ["", "", ""])
        panel.tick_params(labelsize=6, length=2)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    sheet.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=len(shown), fontsize=7, frameon=False)
    sheet.savefig(path, dpi=85)


def plot_map(found: Sequence[Curve], path: Path) -> None:
    """Every figure under the ends of every damage."""
    from matplotlib.figure import Figure as Sheet
    from matplotlib.patches import Rectangle

    names = list(dict.fromkeys(c.figure.name for c in found if c.clips is not None))
    ends = [(d, i) for d in DAMAGES for i in (0, 1) if d.amounts[-i] != d.intact]
    table = np.full((len(names), len(ends)), np.nan)
    sheet = Sheet(figsize=(2.2 + 0.5 * len(ends), 1.6 + 0.19 * len(names)), layout="constrained")
    panel = sheet.subplots()
    for curve in found:
        for column, (damage, last) in enumerate(ends):
            if curve.damage is damage and curve.clips is not None:
                row = names.index(curve.figure.name)
                table[row, column] = curve.shift[last]
                if curve.wanted is not None:
                    panel.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.2))
    picture = panel.imshow(table, cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            shade = "white" if abs(value) > 1.8 else "black"
            said = f"{value:.1f}" if abs(value) < 10 else f"{value:.0f}" if abs(value) < 100 else ">99" if value > 0 else "<-99"
            panel.text(column, row, said, ha="center", va="center", fontsize=6, color=shade)
    panel.set_xticks(range(len(ends)), [system(d, d.amounts[-i]) for d, i in ends], rotation=45, ha="left", fontsize=7)
    panel.xaxis.tick_top()
    panel.set_yticks(range(len(names)), names, fontsize=7)
    sheet.colorbar(picture, ax=panel, shrink=0.4, label="standard deviations of clips")
    sheet.savefig(path, dpi=85)
