"""`vivavoce train motion`: flow matching of the motion network on tracked recordings."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.loss import flow_matching_loss
from vivavoce.generate import MotionGenerator, WindowConfig
from vivavoce.latent.closure import LipClosure
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import Layout
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.motion import MotionTransformer
from vivavoce.speech.encoder import SpeechEncoder, features
from vivavoce.speech.encoders import hearing, identity
from vivavoce.train.data import (
    PLAIN,
    Augmentation,
    Example,
    Progress,
    examples_of,
    face_digest,
    load_examples,
    made_of,
    mirror_pairs,
    read_manifest,
    save_examples,
    track_clips,
)
from vivavoce.train.expectation import CHECKPOINT as LIPS_CHECKPOINT
from vivavoce.train.expectation import ExpectationRecipe, learn_expectation
from vivavoce.train.loop import Run, Schedule, check_claim, claim, digest, mixed_precision, stamp_of
from vivavoce.train.vivacity import learn_vivacity
from vivavoce.train.windows import Stretches

FILES = ("checkpoint.pt", "motion.safetensors", LIPS_CHECKPOINT)  # what a run leaves in its folder


@dataclass(frozen=True, kw_only=True)
class MotionRecipe:
    """How the motion network is trained; for how the shipped one was, see its card.

    ``data``: folder with MANIFEST.csv; ``out``: tracks, features, checkpoints and log go there; a second call goes on where the
    first one stopped.
    """

    data: Path
    out: Path
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    ema: float = 0.999
    drop_speech: float = 0.12
    drop_style: float = 0.15
    loss_weight: Mapping[str, float] = field(default_factory=lambda: {
        "lips_jaw": 3.0, "cheeks_brows": 1.0, "eyelids": 0.5, "gaze": 0.5, "rotation": 1.0, "translation": 0.7, "log_scale": 0.3,
    })
    energy_power: float = 0.5  # see `loss_weight`
    estimate_weight: float = 1.0  # of the squared error of what the speech alone makes one expect
    person_power: float = 0.4  # a person is sampled in proportion to (seconds recorded) ** this
    variants: int = 2  # augmented copies of a clip; of the person with most clips one in four gets a second copy
    plain: int = 2  # how often the clip as it is counts beside them
    windows: WindowConfig = field(default_factory=lambda: WindowConfig(
        guidance=1.6, temperature={"lips_jaw": 0.6},
        amplitude={"lips_jaw": 1.08, "cheeks_brows": 2.5, "rotation": 1.3, "translation": 1.26, "log_scale": 1.8},
        sway=3.0,
        inertia={"cheeks_brows": 0.7, "rotation": 0.5, "translation": 0.5, "log_scale": 0.5},
    ))
    # Default style: deviations above the median person, for lips and jaw, cheeks and brows, rotation. GRID's speakers, a sixth of
    # the people, were told to hold still.
    liveliness: tuple[float, float, float] = (0.0, 0.0, 1.0)
    levels: Mapping[str, Any] = field(default_factory=dict)  # what differs from the defaults of LevelsConfig
    net: Mapping[str, Any] = field(default_factory=dict)  # and of MotionTransformer.Config
    lips: ExpectationRecipe | None = field(default_factory=ExpectationRecipe)
    dropout: float = 0.1
    speech_noise: float = 0.3  # deviation of noise on the speech features
    checkpoint_every: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Normalised motion, the speech features around it, style, and which of the two the network is told.

    ``habit``, ``range``: mean and spread of each speaker's motion, normalised (`habits`).
    """

    motion: Float[Tensor, "b t d"]
    speech: Float[Tensor, "b s w"]
    style: Float[Tensor, "b k"]
    has_speech: Tensor
    has_style: Tensor
    habit: Float[Tensor, "b 1 d"]
    range: Float[Tensor, "b 1 d"]


class Sampler:
    """Random windows (`Stretches`), normalised, with the style and the habits of who moves."""

    def __init__(self, examples: Sequence[Example], levels: LevelsConfig, silence: Tensor, mean: Tensor, std: Tensor,
                 style_mean: Tensor, style_std: Tensor, person_power: float):
        self.stretches = Stretches(examples, levels, silence, person_power)
        self.mean, self.std, self.style_mean, self.style_std = mean, std, style_mean, style_std
        self.habits = habits(examples, mean, std)

    def draw(self, count: int, frames: int, rng: np.random.Generator, drop_speech: float, drop_style: float) -> Batch:
        """``count`` windows of ``frames`` frames; the conditions are dropped with these probabilities."""
        drawn = self.stretches.draw(count, frames, rng)
        has = torch.tensor([example.speech is not None for example in drawn.examples])
        average = torch.zeros_like(self.mean), torch.ones_like(self.std)
        speakers = [self.habits.get(example.person, average) for example in drawn.examples]
        styles = torch.stack([(example.style - self.style_mean) / self.style_std for example in drawn.examples])
        has_speech = has & torch.from_numpy(rng.random(count) >= drop_speech)
        has_style = torch.from_numpy(rng.random(count) >= drop_style)
        habit, spread = (torch.stack(part)[:, None] for part in zip(*speakers, strict=True))
        motion = (drawn.motion - self.mean) / self.std
        return Batch(motion, drawn.speech, styles, has_speech, has_style, habit, spread)


def habits(examples: Sequence[Example], mean: Tensor, std: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and spread of the motion of each person who talks, both in everybody's deviations; a spread never comes near 0."""
    people: dict[str, list[Tensor]] = {}
    for example in examples:
        if example.speech is not None:
            people.setdefault(example.person, []).append((example.motion - mean) / std)
    found = {person: torch.cat(parts) for person, parts in people.items()}
    return {person: (motion.mean(0), (motion.std(0) + 0.1) / 1.1) for person, motion in found.items()}


def prepare(
    recipe: MotionRecipe, split: str, model: FaceModel, encoder: SpeechEncoder, progress: Progress
) -> list[Example]:
    """Examples of a split under all its augmentations; a validation split gets none. Cached in ``out``, clip by clip. ValueError
    where no clip talks, or the cache was made of other recordings than those that are listed now, or otherwise."""
    cache = recipe.out / f"examples-{split}.safetensors"
    kept = load_examples(cache) if cache.exists() else None
    how = making(recipe, split, model, encoder)
    if kept is not None:
        check_made(cache, kept, recipe, split, how)
        return kept
    clips = read_manifest(recipe.data, split)
    if not any(clip.talks for clip in clips):
        raise ValueError(f"{recipe.data} has no clip of the split {split!r} and the kind 'talk': nothing is said in it")
    how = {**how, "clips": [[c.person, c.name, c.talks] for c in clips]}
    tracks = track_clips(clips, recipe.out / "tracks", progress)
    parts = _parts(recipe.out / f"examples-{split}", how)
    pairs, talking = mirror_pairs(model), [c for c in clips if c.talks]
    most = Counter(c.person for c in clips).most_common(1)[0][0]  # of several the first that is listed
    examples: list[Example] = []
    for i, clip in enumerate(clips):
        progress("features", i, len(clips))
        part = parts / f"{clip.name}.safetensors"
        if not part.exists():
            rng = np.random.default_rng((recipe.seed, i))
            found: list[Example] = []
            for changed in augmentations(clip.person == most, recipe, rng) if split == "train" else [PLAIN]:
                others = [talking[j] for j in rng.integers(len(talking), size=2)]
                made = examples_of(clip, tracks[clip.name], model, encoder, changed, pairs, others)
                found += made * (recipe.plain if changed == PLAIN and clip.person != most else 1)
            save_examples(found, part)
        examples += load_examples(part)
    save_examples(examples, cache, how)
    shutil.rmtree(parts)
    return examples


def making(recipe: MotionRecipe, split: str, model: FaceModel, encoder: SpeechEncoder) -> dict[str, Any]:
    """How examples of a split are made, besides the recordings."""
    drawn = {"seed": recipe.seed, "variants": recipe.variants, "plain": recipe.plain} if split == "train" else {}
    return {"face": face_digest(model), "encoder": hearing(encoder), **drawn}


def check_made(cache: Path, kept: Sequence[Example], recipe: MotionRecipe, split: str, how: Mapping[str, Any]) -> None:
    """ValueError where prepared examples are of other recordings than are listed now, or were made otherwise. Recordings that are
    gone altogether are not needed any more."""
    said = made_of(cache)
    other = [key for key, value in how.items() if said is not None and said.get(key) != value]
    if other:
        raise ValueError(f"{cache} was made with another {', '.join(other)}: give another folder, or remove that file")
    if not recipe.data.exists():
        return
    clips = {(c.person, c.name): c.talks for c in read_manifest(recipe.data, split)}
    if said is None:  # of an earlier version: clips without a usable stretch are in no example, but were tracked
        tracked = {(p, n) for p, n in clips if (recipe.out / "tracks" / f"{split}__{n}.npy").exists()}
        used = {(e.person, e.clip): clips.get((e.person, e.clip), False) for e in kept} | {key: clips[key] for key in tracked}
    else:
        used = {(person, name): talks for person, name, talks in said["clips"]}
    if used.items() - clips.items():
        raise ValueError(f"{cache} is of other recordings than {recipe.data}: give those, or another folder")
    if new := sorted(name for _, name in clips.keys() - used.keys()):
        raise ValueError(
            f"{cache} lacks {len(new)} of the {len(clips)} recordings of {recipe.data}, such as {new[0]!r}: remove that file, "
            "and all are prepared, or give another folder"
        )


def _parts(folder: Path, how: Mapping[str, Any]) -> Path:
    """The folder of clips that are prepared already, empty where they were made otherwise or of another list of recordings: what
    is drawn for a clip depends on its place among them."""
    told, file = json.dumps(how), folder / "made_of.json"
    if not file.exists() or file.read_text() != told:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        file.write_text(told)
    return folder


def augmentations(most: bool, recipe: MotionRecipe, rng: np.random.Generator) -> list[Augmentation]:
    """The plain clip and its random variants; few for the person who has ``most`` of the clips."""
    if most:
        return [PLAIN] + ([Augmentation.draw(rng)] if rng.random() < 0.25 else [])
    return [PLAIN] + [Augmentation.draw(rng) for _ in range(recipe.variants)]


def train_motion(
    recipe: MotionRecipe, model: FaceModel, encoder: SpeechEncoder, progress: Progress, report: Callable[[str], None], *,
    examples: Sequence[Example] | None = None,
) -> Path:
    """Train, with checkpoints; returns the weights' path. Losses go to ``out/log.jsonl``.

    ``model`` and ``encoder`` must be those that the weights will be used with; ``examples``: the split `train`, where it is
    prepared already. A run that is interrupted and started again gives the weights of one that was not. ValueError, and nothing
    is touched, where the folder is another run's.
    """
    stamp = stamp_of("train motion", recipe, encoder=hearing(encoder), face=face_digest(model))
    check_claim(recipe.out, stamp, FILES)  # preparing takes long
    recipe.out.mkdir(parents=True, exist_ok=True)
    examples = examples or prepare(recipe, "train", model, encoder, progress)
    claim(recipe.out, {**stamp, "examples": examples_digest(examples)}, FILES)
    torch.manual_seed(recipe.seed)
    layout = Layout.of(model.widths())
    spec = encoder.spec
    silence = features(encoder, torch.zeros(spec.sample_rate_hz)).values[0, spec.rate_hz // 2]
    levels = LevelsConfig(**{"streams": dict(spec.streams), "dropout": recipe.dropout, **recipe.levels})
    mean, std, style_mean, style_std = statistics(examples, recipe)
    net = MotionTransformer(MotionTransformer.Config(**{
        "event": layout.width, "levels": levels, "style": len(style_mean), "dropout": recipe.dropout, **recipe.net,
    }))
    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, weight_decay=recipe.weight_decay,
        ema=recipe.ema,
    )
    run = Run(net, schedule, recipe.out / "checkpoint.pt")
    if run.restore():
        report(f"going on at step {run.step}")
    sampler = Sampler(examples, levels, silence, mean, std, style_mean, style_std, recipe.person_power)
    weight = loss_weight(recipe, layout, model, std)
    lips = None if recipe.lips is None else learn_expectation(
        recipe.lips, examples, levels, model, silence, person_power=recipe.person_power, seed=recipe.seed, out=recipe.out,
        progress=progress,
    )
    windows, closure = recipe.windows, LipClosure.of(model)
    vivacity = learn_vivacity(examples, levels.streams, levels.stride, layout)
    style = (default_style(examples) - style_mean) / style_std + torch.tensor(recipe.liveliness)
    losses: list[float] = []
    clock = time.monotonic()
    while not run.done:
        rng = np.random.default_rng((recipe.seed, run.step))  # by step, so that a resumed run draws what an unbroken one would
        torch.manual_seed(int(rng.integers(2**62)))
        losses.append(run.update(motion_loss(net, sampler, rng, recipe, weight, windows)))
        progress("training", run.step, recipe.steps)
        if run.step % recipe.checkpoint_every == 0 or run.done:
            run.save()
            generator = MotionGenerator(
                run.averaged(), layout, windows, mean=mean, std=std, style=style, silence=silence, closure=closure,
                vivacity=vivacity, lips=lips,
            )
            settings = {k: v for k, v in asdict(recipe).items() if k not in ("data", "out")}
            generator.save(recipe.out / "motion.safetensors", {"recipe": json.dumps(settings), "encoder": identity(encoder)})
            entry = {"step": run.step, "loss": float(np.mean(losses)), "seconds": time.monotonic() - clock}
            with (recipe.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            report(" ".join(f"{k} {v:.4g}" for k, v in entry.items()))
            losses.clear()
    return recipe.out / "motion.safetensors"


def examples_digest(examples: Sequence[Example]) -> str:
    """Tells what is learned from apart, but for its speech features, which are a matter of the encoder."""
    told = ((f"{e.person} {e.clip} {e.first} {e.speech is not None}", e.motion, e.style) for e in examples)
    return digest(value for row in told for value in row)


def loss_weight(recipe: MotionRecipe, layout: Layout, model: FaceModel, std: Tensor) -> Tensor:
    """Weight of each packed number, mean 1: the field's, shared out over its coefficients by how far they move the landmarks.

    Coefficient k counts (std_k^2 sum_n importance_n^2 |B_kn|^2) ** ``recipe.energy_power`` within its region: at power 0 all
    alike, at 1 the loss is the squared error of the region's landmarks.
    """
    energy = {r: ((b * model.importance[None, :, None]) ** 2).sum((1, 2)) for r, b in model.expression.items()}
    parts = []
    for name, spread in zip(layout.widths, std.split(list(layout.widths.values())), strict=True):
        share = torch.ones_like(spread)
        if name in energy:
            share = (torch.from_numpy(energy[name]).float() * spread.square()) ** recipe.energy_power
        parts.append(recipe.loss_weight[name] * share / share.mean())
    weight = torch.cat(parts)
    return weight / weight.mean()


def motion_loss(net: MotionTransformer, sampler: Sampler, rng: np.random.Generator, recipe: MotionRecipe, weight: Tensor,
                windows: WindowConfig) -> Tensor:
    """Flow matching on random windows whose first frames may be clean, each clip with one flow time, and the estimate's error.

    The estimate is of a speaker of average habits; it is compared, and handed to the flow, after it has been given the speaker's.
    """
    known = windows.hop * int(rng.integers(windows.prefix // windows.hop + 1))
    frames = known + windows.hop * int(rng.integers(1, 3))
    batch = sampler.draw(recipe.batch, frames, rng, recipe.drop_speech, recipe.drop_style)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(batch.motion.shape, generator=generator)
    flow_time = torch.rand(recipe.batch, 1, generator=generator).expand(-1, frames).clone()
    flow_time[:, :known] = 1.0
    mask = torch.zeros(recipe.batch, frames, dtype=torch.bool)
    mask[:, known:] = True
    # Its own past is never exact in use; a little noise on the clean prefix keeps errors from feeding on themselves.
    data = batch.motion.clone()
    data[:, :known] += 0.1 * torch.randn(data[:, :known].shape, generator=generator)
    with mixed_precision():
        speech = batch.speech + recipe.speech_noise * torch.randn(batch.speech.shape, generator=generator)
        condition = net.train().listen(speech, batch.style, frames, has_speech=batch.has_speech, has_style=batch.has_style)
        # Speech tells what everybody would do; how far this one opens the mouth, and from where, no ear can know.
        own = condition.estimate.float() * batch.range + batch.habit
        condition = replace(condition, estimate=torch.where(batch.has_speech[:, None, None], own, condition.estimate.float()))
        loss = flow_matching_loss(net, data, condition, noise=noise, time=flow_time, mask=mask, weight=weight).mean()
    estimated = ((condition.estimate - batch.motion).square() * weight).mean()
    return loss + recipe.estimate_weight * estimated


def statistics(examples: Sequence[Example], recipe: MotionRecipe) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and standard deviation of packed motion and of style, people weighing as they are sampled."""
    people: dict[str, list[Example]] = {}
    for example in examples:
        people.setdefault(example.person, []).append(example)
    seconds = torch.tensor([float(sum(len(e.motion) for e in group)) for group in people.values()]) ** recipe.person_power
    share = seconds / seconds.sum()
    means = torch.stack([torch.cat([e.motion for e in group]).mean(0) for group in people.values()])
    squares = torch.stack([torch.cat([e.motion for e in group]).square().mean(0) for group in people.values()])
    styles = torch.stack([torch.stack([e.style for e in group]).mean(0) for group in people.values()])
    mean = (share[:, None] * means).sum(0)
    std = ((share[:, None] * squares).sum(0) - mean.square()).clamp(min=1e-8).sqrt()
    return mean, std, styles.mean(0), styles.std(0).clamp(min=0.05)


def default_style(examples: Sequence[Example]) -> Tensor:
    """Natural motion: the median over people who talk."""
    people: dict[str, list[Tensor]] = {}
    for example in examples:
        if example.speech is not None:
            people.setdefault(example.person, []).append(example.style)
    return torch.stack([torch.stack(styles).mean(0) for styles in people.values()]).median(0).values
