"""`vivavoce bench speech`: what the streams, the widths, the selectors and FiLM are worth (docs/ has the table).

The same network is trained on the same data for the same number of steps with one thing changed, each several times, and judged
on recordings of other people. Curves are those of the motion itself: nothing is drawn.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.loss import flow_matching_loss
from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel, brow_height, lip_opening, mouth_width
from vivavoce.media.figures import from_json, to_json
from vivavoce.metrics.head import rotation_spread
from vivavoce.metrics.lips import best_lag, closure_f1, correlation
from vivavoce.speech.encoder import SpeechEncoder
from vivavoce.train.data import Example, Progress
from vivavoce.train.loop import mixed_precision
from vivavoce.train.motion import MotionRecipe, Sampler, loss_weight, prepare, train_motion

SAMPLES = 4  # motions of each recording
LOSS_WINDOWS = 256  # windows that the loss on `val` is measured on


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is changed in the levels (`LevelsConfig`) and in the network (`MotionTransformer.Config`)."""

    says: str
    levels: Mapping[str, Any] = field(default_factory=dict)
    net: Mapping[str, Any] = field(default_factory=dict)


LOCAL, GLOBAL = (7, 1), (10, 10)  # 300 ms and 4 s, of the widths of `LevelsConfig`
VARIANTS: Mapping[str, Variant] = {
    "full": Variant(says="both streams, all widths, learned selectors, FiLM"),
    "phonetic": Variant(says="phonetic stream only", levels={"listen": ("phonetic",)}),
    "prosodic": Variant(says="prosodic stream only", levels={"listen": ("prosodic",)}),
    "local": Variant(says="one width only: 300 ms", levels={"widths": (LOCAL,), "memory": None}),
    "global": Variant(says="one width only: 4 s", levels={"widths": (GLOBAL,), "memory": None}),
    "uniform": Variant(says="uniform instead of learned selectors", net={"selector": "uniform"}),
    "attention": Variant(says="windowed cross-attention instead of FiLM", net={"injection": "attention"}),
    "log-mel": Variant(says="log-mel instead of the phonetic stream", levels={"listen": ("acoustic", "prosodic")}),
    "all": Variant(says="log-mel beside both streams", levels={"listen": ("acoustic", "phonetic", "prosodic")}),
}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """``data``: folder with MANIFEST.csv. ``out``: the recordings' tracks and examples, a folder per run, and the tables.

    ``recipe``: of all runs, but for what a variant changes; by default the motion network's own.
    """

    data: Path
    out: Path
    steps: int = 1500
    seeds: int = 2
    variants: tuple[str, ...] = tuple(VARIANTS)
    recipe: MotionRecipe | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seeds < 1:
            raise ValueError(f"{self.steps} steps and {self.seeds} seeds were asked for: give at least one of each")
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown:
            raise ValueError(f"no variant is called {unknown[0]!r}: expected some of {', '.join(VARIANTS)}")

    @property
    def base(self) -> MotionRecipe:
        """What all runs have in common."""
        return self.recipe or MotionRecipe(data=self.data, out=self.out)

    def run(self, name: str, seed: int) -> MotionRecipe:
        """The recipe of one run; its folder tells variant, steps and seed, so that other runs are not mistaken for it. Lips are
        not led to what the sound makes one expect: that would hide what the network itself makes of it."""
        base, variant = self.base, VARIANTS[name]
        return replace(
            base, data=self.data, out=self.out / f"{name}-{self.steps}-{seed}", steps=self.steps, seed=seed,
            levels={**base.levels, **variant.levels}, net={**base.net, **variant.net}, lips=None,
        )


def ablate(
    ablation: Ablation, model: FaceModel, encoder: SpeechEncoder, progress: Progress, report: Callable[[str], None]
) -> Path:
    """Train and judge what is not there yet; returns the Markdown table's path, which is written anew after every run.

    All runs of a seed see the same windows in the same order. A run that was interrupted goes on from its checkpoint.
    """
    ablation.out.mkdir(parents=True, exist_ok=True)
    prepared = replace(ablation.base, data=ablation.data, out=ablation.out)
    examples = {split: prepare(prepared, split, model, encoder, progress) for split in ("train", "val")}
    results: dict[str, dict[int, dict[str, float]]] = {}
    table = ablation.out / f"speech-{ablation.steps}.md"
    for seed in range(ablation.seeds):
        for name in ablation.variants:
            recipe = ablation.run(name, seed)
            done = recipe.out / "figures.json"
            if not done.exists():
                report(f"{name}, seed {seed}")
                weights = train_motion(recipe, model, encoder, progress, report, examples=examples["train"])
                with mixed_precision():
                    figures = judge(MotionGenerator.load(weights), examples["val"], model, recipe, progress)
                _write(done, to_json(figures, indent=1))
                report(" ".join(f"{k} {v:.3f}" for k, v in figures.items()))
                gc.collect()
            results.setdefault(name, {})[seed] = from_json(done.read_text())
            _write(table.with_suffix(".json"), to_json({"steps": ablation.steps, "runs": results}, indent=1))
            _write(table, markdown(ablation.steps, results))
    return table


def judge(
    generator: MotionGenerator, examples: Sequence[Example], model: FaceModel, recipe: MotionRecipe, progress: Progress
) -> dict[str, float]:
    """Figures of a network on recordings with sound: medians over the clips of a group, named "group figure", and the loss."""
    clips: dict[str, list[Example]] = {}
    for example in examples:
        if example.speech is not None:
            clips.setdefault(example.clip, []).append(example)
    rows: dict[str, list[dict[str, float]]] = {}
    for i, (clip, parts) in enumerate(clips.items()):
        progress("judging", i, len(clips))
        rows.setdefault(group_of(parts[0].person), []).append(clip_figures(generator, parts, model))
        assert clip == parts[0].clip
    progress("judging", len(clips), len(clips))
    figures = {
        f"{group} {key}": float(np.nanmedian([row[key] for row in rows[group]]))
        for group in sorted(rows) for key in rows[group][0]
    }
    return {**figures, "loss": validation_loss(generator, examples, model, recipe)}


def group_of(person: str) -> str:
    """GRID's speakers were told to hold still and speak by a grammar; everybody else is "wild"."""
    return "GRID" if person.startswith("grid") else "wild"


def clip_figures(generator: MotionGenerator, parts: Sequence[Example], model: FaceModel) -> dict[str, float]:
    """One clip, heard as a whole in inference, judged on the stretches of it that were tracked, side by side.

    "lip_corr_mean4" and "lip_lag_frames" are of the mean curve of all samples, the others means over single samples.
    """
    speech = parts[0].speech
    assert speech is not None
    samples = generator.samples(speech[None], range(SAMPLES))
    stride = generator.net.config.levels.stride
    spans = [(p.first // stride, min(len(p.motion), samples.shape[1] - p.first // stride)) for p in parts]
    real = curves(torch.cat([p.motion[:count] for p, (_, count) in zip(parts, spans, strict=True)]), generator, model)
    made = [curves(torch.cat([s[first : first + count] for first, count in spans]), generator, model) for s in samples]
    lips = np.mean([m["opening"] for m in made], 0)

    def single(figure: Callable[[Mapping[str, np.ndarray]], float]) -> float:
        values = [figure(m) for m in made]
        return float("nan") if all(math.isnan(v) for v in values) else float(np.nanmean(values))

    return {
        "lip_corr": single(lambda m: correlation(m["opening"], real["opening"])),
        "lip_corr_mean4": correlation(lips, real["opening"]),
        "lip_lag_frames": float(best_lag(lips, real["opening"])),
        "lip_gain": single(lambda m: _ratio(m["opening"].std(), real["opening"].std())),
        "width_corr": single(lambda m: correlation(m["width"], real["width"])),
        "closure_f1": single(lambda m: closure_f1(m["opening"], real["opening"])),
        "head_ratio": single(lambda m: _ratio(rotation_spread(m["rotation"]), rotation_spread(real["rotation"]))),
        "brow_ratio": single(lambda m: _ratio(m["brow"].std(), real["brow"].std())),
    }


def curves(packed: Float[Tensor, "t d"], generator: MotionGenerator, model: FaceModel) -> dict[str, np.ndarray]:
    """Opening of the lips, width of the mouth and height of the brows of the neutral mean face, and rotation, under a motion."""
    motion = generator.layout.unpack(packed)
    points = model.mean + model.displacement({region: v.numpy() for region, v in motion.expression().items()})
    return {
        "opening": lip_opening(points), "width": mouth_width(points), "brow": brow_height(points),
        "rotation": motion.rotation.numpy(),
    }


@torch.inference_mode()
def validation_loss(
    generator: MotionGenerator, examples: Sequence[Example], model: FaceModel, recipe: MotionRecipe
) -> float:
    """Flow matching loss at the default style on windows with speech, after a clean prefix: the same windows, noise and times for
    every network."""
    windows, net, width = generator.windows, generator.net, generator.layout.width
    told = [e for e in examples if e.speech is not None and len(e.motion) >= windows.prefix + windows.hop]
    no_style = torch.zeros(1), torch.ones(1)
    sampler = Sampler(
        told, net.config.levels, generator.silence, generator.mean, generator.std, *no_style, recipe.person_power
    )
    frames = windows.prefix + windows.hop
    weight = loss_weight(recipe, generator.layout, model, generator.std)
    rng = np.random.default_rng(0)
    losses = []
    for first in range(0, LOSS_WINDOWS, recipe.batch):
        count = min(recipe.batch, LOSS_WINDOWS - first)
        batch = sampler.draw(count, frames, rng, drop_speech=0.0, drop_style=0.0)
        noise = torch.from_numpy(rng.standard_normal((count, frames, width), np.float32))
        time = torch.from_numpy(rng.random((count, 1), np.float32)).repeat(1, frames)
        time[:, : windows.prefix] = 1.0
        yes = torch.ones(count, dtype=torch.bool)
        condition = net.listen(batch.speech, generator.style.expand(count, -1), frames, has_speech=yes, has_style=yes)
        losses.append(flow_matching_loss(net, batch.motion, condition, noise=noise, time=time, mask=time < 1.0, weight=weight))
    return float(torch.cat(losses).mean())


def markdown(steps: int, results: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """A row per variant, a column per figure: the mean over seeds and, behind ±, half of their range."""
    figures = list(next(iter(next(iter(results.values())).values())))
    head = ["variant", "runs", *figures]
    lines = [
        f"{steps} steps each; mean over runs ± half of their range. Curves of the motion on `val`, medians over clips;",
        "lip_corr_mean4 and lip_lag_frames are of the mean of four samples, the others of single samples.", "",
        "| " + " | ".join(head) + " |", "|" + "---|" + "---:|" * (len(head) - 1),
    ]
    for name, runs in results.items():
        cells = [f"{VARIANTS[name].says}", str(len(runs))]
        for figure in figures:
            values = [run[figure] for run in runs.values()]
            cells.append(f"{np.mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ratio(ours: float, theirs: float) -> float:
    return float(ours / max(theirs, 1e-9))


def _write(path: Path, text: str) -> None:
    """A complete file at every moment."""
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text(text)
    partial.rename(path)
