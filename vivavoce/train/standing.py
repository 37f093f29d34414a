"""`vivavoce bench baselines`: the engine, the recording and the baselines in one table, and whether they stand in order.

A figure that tells how well lips follow speech has to put the recording above the engine and the engine above every rule that a
child could write. Where it does not, either the figure or the engine is at fault, and the report says where that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from vivavoce.animate import Animator
from vivavoce.judge.evaluation import evaluate
from vivavoce.judge.figures import SUFFIX, Better
from vivavoce.judge.pairs import Pair
from vivavoce.judge.results import Described, Evaluation
from vivavoce.latent.space import Frame
from vivavoce.metrics.confidence import Interval, difference
from vivavoce.train.baselines import (
    Cue,
    Opening,
    fit_ridge,
    fitted,
    hear,
    mouth_shapes,
    mouthed,
    nearest,
    regressed,
    shuffled,
    still,
    training_examples,
)
from vivavoce.train.data import Progress, read_manifest
from vivavoce.train.takes import Take, TakeConfig, chosen, drawn, keep_to, recorded_motion, spoken_motion, take_all, write

CEILING, REDRAWN, OURS = "recording", "redrawn", "ours"
BASELINES = ("shuffled", "nearest", "ridge", "loudness", "rhubarb", "still")
SYSTEMS = (CEILING, REDRAWN, OURS, *BASELINES)

Packed = Callable[[Take], Tensor]
Picturing = Callable[[Take], Iterable[Frame]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """``data``: folder with MANIFEST.csv (train and val). ``out``: videos, report and tables; what is there is not made again.
    ``weights``: fingerprint of the engine. ``mouths``: cues of each clip by its name, where another program named them."""

    data: Path
    out: Path
    config: TakeConfig
    weights: str
    mouths: Mapping[str, Sequence[Cue]] | None = None


def bench_baselines(
    bench: Bench, animator: Animator, progress: Progress, report: Callable[[str], None]
) -> tuple[Evaluation, str]:
    """Makes and judges the videos of all systems; returns what was found and the table in Markdown."""
    takes = make_ready(bench, animator, progress, report)
    pairs = list(acted(bench, takes, animator, progress))
    evaluation = evaluate(pairs, bench.out / "report", progress=lambda what, done, total: progress(what, done, total or done))
    return evaluation, table(evaluation, takes, bench.config)


def make_ready(bench: Bench, animator: Animator, progress: Progress, report: Callable[[str], None]) -> list[Take]:
    """The recordings that are taken from the validation split."""
    clips = chosen(read_manifest(bench.data, "val"), bench.config)
    read_manifest(bench.data, "train")  # before anything is made
    keep_to(bench.out, bench.config, bench.weights)
    return take_all(clips, animator, bench.out, bench.config, progress, report)


def acted(bench: Bench, takes: Sequence[Take], animator: Animator, progress: Progress) -> Iterator[Pair]:
    """Every system's video of every take, made unless it is there; ours first, which the report's differences are against."""
    systems = motions(bench, takes, animator, progress)
    for i, made in enumerate(takes):
        progress("rendering", i, len(takes))
        for name, system in systems.items():
            video = bench.out / name / f"{made.name}.mp4"
            if not video.is_file():
                write(video, system(made), made.sound)
            yield made.pair(name, video)
            if name == OURS:
                yield made.pair(CEILING, made.recording)
    progress("rendering", len(takes), len(takes))


def motions(
    bench: Bench, takes: Sequence[Take], animator: Animator, progress: Progress
) -> dict[str, Picturing]:
    """What makes the pictures of each system."""
    examples = training_examples(read_manifest(bench.data, "train"), animator, bench.out, progress)
    space, spec, model = animator.space, animator.encoder.spec, animator.space.model
    opening, ridge = Opening.of(examples, model), fit_ridge(examples, spec)
    heard = {t.name: hear(animator, t.sound, t.frames) for t in takes}
    sounds = {t.name: t.sound for t in takes}

    def engine(made: Take, features: Tensor) -> Tensor:
        return animator.generator.samples(features[None], [made.reference.seed(0)])[0, : made.frames]

    def exchanged(made: Take) -> Tensor:
        other = partners[made.name]
        return engine(made, hear(animator, fitted(sounds[other], len(made.sound)), made.frames).features)

    rules: dict[str, Packed] = {
        OURS: lambda t: engine(t, heard[t.name].features),
        "nearest": lambda t: nearest(heard[t.name], examples, spec),
        "ridge": lambda t: regressed(heard[t.name], ridge, spec),
        "loudness": lambda t: opening(heard[t.name]),
    }
    if len(takes) > 1:
        partners = shuffled([t.name for t in takes], {t.name: t.person for t in takes}, {t.name: len(t.sound) for t in takes})
        rules["shuffled"] = exchanged
    if bench.mouths is not None:
        mouths, shapes = bench.mouths, mouth_shapes(examples, spec, model)
        rules["rhubarb"] = lambda t: mouthed(heard[t.name], mouths[t.name], shapes)

    def speaking(rule: Packed) -> Picturing:
        return lambda t: drawn(t, space, spoken_motion(t, animator, rule(t)))

    made = {name: speaking(rule) for name, rule in rules.items()}
    made[REDRAWN] = lambda t: drawn(t, space, recorded_motion(t, space))
    made["still"] = lambda t: drawn(t, space, space.layout.unpack(still(heard[t.name], space.layout)))
    return {name: made[name] for name in (OURS, REDRAWN, *BASELINES) if name in made}


def merit(better: Better, values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Values turned so that more is better: for figures that should be near something, minus the distance to it."""
    match better:
        case "higher":
            return values
        case "lower":
            return -values
        case "near 1":
            return -np.abs(values - 1)
        case "near 0":
            return -np.abs(values)
        case "near real":
            return -np.abs(values - real)
    return np.full_like(values, np.nan)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Whether one system stands above another by a figure: ``gap`` is the mean paired difference of their merits."""

    figure: str
    above: str
    below: str
    gap: Interval

    @property
    def verdict(self) -> str:
        """"holds" or "violated", or "open" where the interval holds 0."""
        if np.isnan(self.gap.value):
            return "open"
        return "open" if not self.gap.excludes_zero else "holds" if self.gap.value > 0 else "violated"


def ordering(evaluation: Evaluation, figures: Sequence[Described]) -> list[Step]:
    """recording > ours, ours > every baseline, for each of the figures that were measured."""
    steps = []
    for figure in figures:
        merits = {s: _merits(evaluation, s, figure) for s in evaluation.systems}
        wanted = [(CEILING, OURS), *((OURS, name) for name in BASELINES)]
        for above, below in wanted:
            if above in merits and below in merits:
                names = [n for n in merits[above] if n in merits[below]]
                a, b = (np.array([merits[s][n] for n in names], float) for s in (above, below))
                if len(names):
                    steps.append(Step(figure=figure.name, above=above, below=below, gap=difference(a, b)))
    return steps


def _merits(evaluation: Evaluation, system: str, figure: Described) -> dict[str, float]:
    rows = [r for r in evaluation.rows if r.pair.system == system and figure.name in r.figures]
    if not rows:
        return {}
    values = np.array([r.figures[figure.name] for r in rows], float)
    real = np.array([r.figures.get(figure.name + SUFFIX, np.nan) for r in rows], float)
    return dict(zip([r.pair.name for r in rows], merit(figure.better, values, real), strict=True))


def table(evaluation: Evaluation, takes: Sequence[Take], config: TakeConfig) -> str:
    """docs/baselines.md: a row per figure, a column per system; under it what of the order holds and what does not."""
    systems = [s for s in SYSTEMS if s in evaluation.systems]
    lines = ["| figure | good | " + " | ".join(systems) + " |", "|---|---|" + "---:|" * len(systems)]
    for figure in evaluation.figures:
        cells = [_cell(evaluation, system, figure.name) for system in systems]
        if any(cell != NOTHING for cell in cells):
            lines.append(f"| {figure.name} | {figure.better} | " + " | ".join(cells) + " |")
    people = len({t.person for t in takes})
    made = f"{len(takes)} recordings of {people} people of `val`, the first {config.seconds:g} seconds of each"
    return "\n".join([
        "# The engine among baselines", "",
        f"Written by `vivavoce bench baselines recordings/ -o runs/baselines --document docs`, from {made}.", "",
        _SYSTEMS, "", "Means over clips with 95 % bootstrap intervals over clips:", "", *lines, "", _ORDER, "",
        *order_lines(ordering(evaluation, [f for f in evaluation.figures if tells_sync(f)])),
    ]) + "\n"


NOTHING = "–"
_SYSTEMS = """\
All but "recording" are drawn by the same painter on the same frame of the recording: "redrawn" moves as recorded, "ours" is the
engine, "shuffled" the engine hearing another clip, "nearest" cross-faded motion of the training windows that sound most alike,
"ridge" a ridge regression of motion on log-mel energies 0.2 s to each side, "loudness" opens the mouth with the level, "rhubarb"
takes mouth shapes from Rhubarb Lip Sync (only where it is installed), "still" is the portrait."""
_ORDER = """\
What tells how well lips and speech agree should put recording > ours > every baseline. In brackets the mean paired difference,
more being better, and its interval; "open" where that holds 0."""


def _cell(evaluation: Evaluation, system: str, figure: str) -> str:
    found = evaluation.summary(system, figure)
    if found is None or np.isnan(found.mean.value):
        return NOTHING
    low, high = found.mean.low, found.mean.high
    return f"{found.mean.value:.3g}" + ("" if np.isnan(low) else f" ({low:.2g} … {high:.2g})")


SYNC = (
    "lip_corr", "lip_lag_ms", "width_corr", "closure_f1", "bilabial_closure", "sound_corr", "sound_lag_ms", "theval_sync",
)


def tells_sync(figure: Described) -> bool:
    """Whether a figure tells how well lips and speech agree: those above, and what the sync expert says."""
    return figure.name in SYNC or figure.name.startswith("sync_")


def order_lines(steps: Sequence[Step]) -> list[str]:
    """What holds, what cannot be told, what is violated: a line per figure."""
    lines = []
    for figure in dict.fromkeys(step.figure for step in steps):
        own = [step for step in steps if step.figure == figure]
        parts = []
        for verdict in ("violated", "open", "holds"):
            some = [s for s in own if s.verdict == verdict]
            if some:
                parts.append(f"{verdict}: " + ", ".join(
                    f"{s.above} > {s.below} ({s.gap.value:+.3g}, {s.gap.low:+.2g} … {s.gap.high:+.2g})" for s in some
                ))
        lines.append(f"- {figure}: " + "; ".join(parts))
    return lines
