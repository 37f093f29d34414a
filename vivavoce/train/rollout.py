"""Rollouts: what a motion network makes of recordings under control, stored for post-training.

A ladder (ReFree-S2V, arXiv 2606.13304) is several takes with the same noise, for which ever more of the speech was masked:
nothing sets them apart but how much could be heard, so they come ranked. A group is several takes that differ in noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vivavoce.generate import MotionGenerator
from vivavoce.train.data import Example, Progress
from vivavoce.train.loop import digest

MASKED_FEATURES = 5  # features of a masked window: 100 ms
SETTING = "recipe.json"  # in a folder of rollouts: what they were made with
TAKES = 8  # recordings side by side, for speed


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One stretch of a recording and the takes of it, normalised as the network sees motion.

    ``example``: number of the stretch among the examples; ``takes``: k takes, aligned with the recorded motion, the best first
    where they are ranked; ``rewards``: how good each is, 0 to 1, where they were scored.
    """

    example: int
    takes: Float[Tensor, "k t d"]
    rewards: Float[Tensor, " k"] | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutRecipe:
    """``count``: stretches; ``ratios``: share of the speech that each take is made without (a ladder), all with the same noise;
    ``group``: instead, so many takes with all of the speech and different noise; ``seconds``: at most of a stretch."""

    count: int = 240
    ratios: tuple[float, ...] = (0.0, 0.2, 0.4)
    group: int = 0
    seconds: float = 6.0
    person_power: float = 0.4
    seed: int = 0


def chosen(examples: Sequence[Example], recipe: RolloutRecipe, shortest: int) -> list[int]:
    """Numbers of the stretches that are rolled out: with speech, drawn person by person as training draws them, none twice."""
    people: dict[str, list[int]] = {}
    met: set[tuple[int, int]] = set()
    for i, example in enumerate(examples):
        same = id(example.motion), id(example.speech)
        if example.speech is not None and len(example.motion) >= shortest and same not in met:
            met.add(same)
            people.setdefault(example.person, []).append(i)
    rng = np.random.default_rng(recipe.seed)
    share = np.array([float(sum(len(examples[i].motion) for i in group)) for group in people.values()]) ** recipe.person_power
    waiting = [list(rng.permutation(group)) for group in people.values()]
    found: list[int] = []
    while len(found) < recipe.count and any(waiting):
        left = np.array([len(group) > 0 for group in waiting]) * share
        found.append(int(waiting[int(rng.choice(len(waiting), p=left / left.sum()))].pop()))
    return found


def masked(count: int, ratio: float, seed: int) -> Bool[Tensor, " s"]:
    """Which of so many features are masked: scattered windows of MASKED_FEATURES. With one seed, a higher ratio masks all that a
    lower one masks."""
    windows = -(-count // MASKED_FEATURES)
    order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(windows, dtype=torch.bool)
    chosen[order[: round(ratio * windows)]] = True
    return chosen.repeat_interleave(MASKED_FEATURES)[:count]


def bare(generator: MotionGenerator) -> MotionGenerator:
    """The network as it samples, without what is done to its motion afterwards: that is what post-training may change."""
    return MotionGenerator(
        generator.net, generator.layout, replace(generator.windows, amplitude={}, inertia={}), mean=generator.mean,
        std=generator.std, style=generator.style, silence=generator.silence, metadata=generator.metadata,
    )


def roll(generator: MotionGenerator, example: Example, number: int, recipe: RolloutRecipe, frames: int) -> Rollout:
    """The takes of one stretch, of at most so many frames."""
    assert example.speech is not None
    stride, seed = generator.net.config.levels.stride, recipe.seed + number
    count = min(len(example.motion), frames)
    first = example.first // stride
    speech = example.speech[: stride * (first + count) + stride]
    if recipe.group:
        takes = generator.samples(speech[None], range(seed, seed + recipe.group))
    else:
        heard = [torch.where(masked(len(speech), r, seed)[:, None], generator.silence, speech) for r in recipe.ratios]
        takes = torch.cat([generator.samples(part[None], (seed,)) for part in heard])
    takes = takes[:, first : first + count]
    return Rollout(example=number, takes=((takes - generator.mean) / generator.std).float())


def rollouts(
    generator: MotionGenerator, examples: Sequence[Example], recipe: RolloutRecipe, folder: Path, *, rate_hz: float,
    progress: Progress
) -> list[Rollout]:
    """All of them, each kept in ``folder`` as soon as it is made (half precision), so that an interrupted call goes on.
    ValueError where the folder holds those of another recipe or network."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = json.dumps({**vars(recipe), "weights": fingerprint(generator)}, default=list)
    setting = folder / SETTING
    if setting.exists() and setting.read_text() != stamp:
        raise ValueError(f"{folder} holds rollouts of another recipe or network: give another folder, or remove it")
    setting.write_text(stamp)
    bared, frames = bare(generator), round(recipe.seconds * rate_hz)
    windows = generator.windows
    numbers = chosen(examples, recipe, shortest=windows.prefix + 2 * windows.hop)
    found = []
    for done, number in enumerate(numbers):
        progress("rollouts", done, len(numbers))
        file = folder / f"{number}.safetensors"
        if not file.exists():
            partial = file.with_suffix(".part")
            save_file({"takes": roll(bared, examples[number], number, recipe, frames).takes.half().contiguous()}, partial)
            partial.rename(file)
        found.append(read_rollout(file))
    progress("rollouts", len(numbers), len(numbers))
    return found


def made_by(folder: Path) -> str | None:
    """`fingerprint` of the network that made a folder's takes; None where the folder does not say. ValueError where what it says
    is damaged."""
    file = folder / SETTING
    if not file.exists():
        return None
    try:
        told = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged, so that nothing tells which weights made the takes: make them again") from error
    return told.get("weights")


def read_rollout(file: Path) -> Rollout:
    """One that `rollouts` kept. ValueError where the file is damaged or none of them."""
    try:
        with safe_open(file, framework="pt") as kept:
            return Rollout(example=int(file.stem), takes=kept.get_tensor("takes").float())
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} holds no takes, or it is damaged: remove it") from error


def read_rollouts(folder: Path) -> list[Rollout]:
    """All that are kept in a folder. ValueError where there are none."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: (len(file.stem), file.stem))
    if not files:
        raise ValueError(f"{folder} holds no rollouts: make them first")
    return [read_rollout(file) for file in files]


def as_recorded(examples: Sequence[Example]) -> list[Example]:
    """The same examples, but without speech where it is not the recording's own: a clip's variants, which come after it, are
    disguised or of another tempo."""
    own: dict[str, int] = {}
    for example in examples:
        if example.speech is not None:
            own.setdefault(example.clip, id(example.speech))
    return [e if own.get(e.clip) == id(e.speech) else replace(e, speech=None) for e in examples]


def fingerprint(generator: MotionGenerator) -> str:
    """Tells networks apart."""
    total = sum(float(v.double().abs().sum()) for v in generator.net.state_dict().values() if v.is_floating_point())
    return f"{total:.9e}"


def finish(generator: MotionGenerator) -> str:
    """Tells apart what is done to motion after the network made it (`MotionGenerator.shown`): windows, and expected lips."""
    lips = () if generator.lips is None else generator.lips.state_dict().values()
    return digest([json.dumps(asdict(generator.windows), sort_keys=True), *lips])
