"""`vivavoce train sync`: the sync expert, contrastively, on recordings whose sound is their own.

Each pair of embeddings (`nets.sync`) is trained by itself: every window of a segment has to find its own sound among the
segment's others, 0.2 s and more away, and among other people's; every sound its window (InfoNCE both ways). LatentSync (Li et al.
2024, arXiv:2412.09262) found that it takes many negatives and about 16 frames; comparing a segment with all its shifts has both.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vivavoce.judge.expert import (
    NEAREST_SHIFT,
    SEEN,
    Shapes,
    SyncExpert,
    offset_and_confidence,
    picture_of,
    silent_feature,
    two_way,
)
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.topology import LANDMARKS
from vivavoce.media.figures import to_json
from vivavoce.nets.sync import PARTS, Pair, SyncNetwork
from vivavoce.speech import acoustic
from vivavoce.speech.analysis import Analysis
from vivavoce.train.data import Progress, mirror_pairs
from vivavoce.train.loop import Run, Schedule, claim, digest, mixed_precision, stamp_of
from vivavoce.train.sync_data import Prepared, prepare
from vivavoce.train.views import crop_view, shape_view

FILES = (*(f"sync-{part}.pt" for part in PARTS), "sync.safetensors")  # what a run leaves in its folder
TOLD = "sync-run.json"
_BULK = 50  # sound features computed at a time
_DEPTH = 0.3  # weight of a landmark's third coordinate, which the tracker guesses


@dataclass(frozen=True, kw_only=True)
class SyncRecipe:
    """How the sync expert is trained; for how the shipped one was, see its card.

    ``data``: folder with MANIFEST.csv; ``out``: tracks, prepared clips, checkpoints and log go there; a second call goes on where
    the first one stopped. ``steps``: of each pair. ``batch``: segments of ``segment`` frames. ``most``: clips of one person.
    ``disguises``: copies of a clip in another sound, ``disguised``: share of the segments that have one. ``tolerance``: frames by
    which recordings may be off, all of which count as right; ``others``: windows of each segment that others are compared with.
    """

    data: Path
    out: Path
    steps: int = 300
    batch: int = 32
    segment: int = 65
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.1
    ema: float = 0.99
    person_power: float = 0.4  # a person is sampled in proportion to (seconds recorded) ** this
    most: int = 250
    disguises: int = 4
    disguised: float = 0.7
    sound_noise: float = 0.3  # deviation of noise on the normalised sound features
    tolerance: int = 1
    others: int = 4
    check_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """What an eye sees of each segment, its sound, which windows of it are there, and those that others are compared with."""

    seen: Tensor
    sound: Float[Tensor, "b s bands"]
    there: Bool[Tensor, "b w"]
    others: Int[Tensor, " q"]


def new_template(model: FaceModel) -> Float[Tensor, "478 3"]:
    """The face that poses are found with, as the weights keep it."""
    return torch.from_numpy(model.mean).half().float()


def identity_of(recipe: SyncRecipe, template: Float[Tensor, "478 3"]) -> dict[str, Any]:
    """What tells a run from others, as far as it is known before its clips are, for `loop.check_claim`."""
    return stamp_of("train sync", recipe, face=digest([template]))


def prepare_clips(recipe: SyncRecipe, split: str, model: FaceModel, progress: Progress) -> list[Prepared]:
    """The clips of `train`, to learn from, or of `val`, to judge with."""
    return prepare(
        recipe.data, recipe.out, split, new_template(model).numpy(), mirror_pairs(model), progress,
        most=recipe.most, disguises=recipe.disguises, seed=recipe.seed,
    )


def train_sync(
    recipe: SyncRecipe, clips: Sequence[Prepared], judged: Sequence[Prepared], template: Float[Tensor, "478 3"],
    progress: Progress, report: Callable[[str], None],
) -> Path:
    """Train both pairs, with checkpoints; returns the weights' path. Losses and accuracies go to ``out/log.jsonl``.

    A run that is interrupted and started again gives the weights of one that was not. ValueError, and nothing is touched, where
    the folder is another run's.
    """
    learned: list[str | np.ndarray] = []
    for clip in clips:
        learned += [clip.name, clip.person, *(shape for _, shape in clip.shapes)]
    claim(recipe.out, {**identity_of(recipe, template), "clips": digest(learned)}, FILES, TOLD)
    torch.manual_seed(recipe.seed)
    network = new_network(clips, template)
    expert = SyncExpert(network)
    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, weight_decay=recipe.weight_decay,
        ema=recipe.ema,
    )
    for part in PARTS:
        pair = network.part(part)
        run = Run(pair, schedule, recipe.out / f"sync-{part}.pt")
        if run.restore():
            report(f"{part}: going on at step {run.step}")
        segments = Segments(clips, network, recipe)
        losses: list[float] = []
        clock = time.monotonic()
        while not run.done:
            rng = np.random.default_rng((recipe.seed, run.step))  # by step: a resumed run draws what an unbroken one would
            torch.manual_seed(int(rng.integers(2**62)))
            batch = segments.draw(part, rng)
            network.train()
            with mixed_precision():
                seen, heard = network.see(part, batch.seen), network.hear(part, batch.sound)
            loss = contrastive(seen, heard, batch.there, batch.others, pair.sharpness.exp(), recipe.tolerance)
            losses.append(run.update(loss))
            progress(f"training {part}", run.step, recipe.steps)
            if run.step % recipe.check_every == 0 or run.done:
                run.save()
                entry = {"part": part, "step": run.step, "loss": float(np.mean(losses)), "seconds": time.monotonic() - clock}
                losses.clear()
                with averaged(pair, run):
                    entry |= accuracy(expert, judged, (part,))
                _log(recipe, entry)
                report(f"{part}: step {run.step} loss {entry['loss']:.3f}, two-way accuracy {entry['speech']:.3f}")
        pair.load_state_dict(run.average)
    network.eval()
    entry = {"part": "both", **accuracy(expert, judged, PARTS)}
    _log(recipe, entry)
    report(f"both: two-way accuracy {entry['speech']:.3f}, median offset {entry['offset']:g} frames")
    settings = {k: v for k, v in asdict(recipe).items() if k not in ("data", "out")}
    network.save(recipe.out / "sync.safetensors", {"recipe": json.dumps(settings)})
    return recipe.out / "sync.safetensors"


@contextmanager
def averaged(pair: Pair, run: Run[Pair]) -> Iterator[None]:
    """The pair with its averaged weights, as it is judged; afterwards it goes on learning with its own."""
    now = {k: v.clone() for k, v in pair.state_dict().items()}
    pair.load_state_dict(run.average)
    pair.eval()
    try:
        yield
    finally:
        pair.load_state_dict(now)
        pair.train()


def contrastive(
    seen: Float[Tensor, "b w e"], heard: Float[Tensor, "b w e"], there: Bool[Tensor, "b w"], others: Int[Tensor, " q"],
    sharpness: Float[Tensor, ""], tolerance: int,
) -> Float[Tensor, ""]:
    """InfoNCE both ways: - log (sum over what is right) / (sum over that and what is wrong) of exp(sharpness * cosine).

    Right are the windows of the same segment up to ``tolerance`` frames away, wrong those at least NEAREST_SHIFT away and the
    windows ``others`` of the other segments; what lies between counts as neither.
    """
    count, windows, _ = seen.shape
    own = sharpness * torch.einsum("bie,bje->bij", seen, heard)
    place = torch.arange(windows)
    apart = (place[:, None] - place).abs()
    both = there[:, :, None] & there[:, None]
    right = both & (apart <= tolerance)
    counts = right | (both & (apart >= NEAREST_SHIFT))
    stranger = ~torch.eye(count, dtype=torch.bool).repeat_interleave(len(others), 1)[:, None] & there[:, others].flatten()
    total = seen.new_zeros(())
    for mine, theirs, near, ok, match in (
        (seen, heard, own, counts, right), (heard, seen, own.transpose(1, 2), counts, right),
    ):
        far = sharpness * torch.einsum("bie,ke->bik", mine, theirs[:, others].flatten(0, 1))
        everything = torch.cat([near.masked_fill(~ok, -torch.inf), far.masked_fill(~stranger, -torch.inf)], -1)
        matching = near.masked_fill(~match, -torch.inf)
        total = total + (everything[there].logsumexp(-1) - matching[there].logsumexp(-1)).mean()
    return total / 2


class Segments:
    """Random segments of recordings, a person first, then one of the person's stretches in proportion to length."""

    def __init__(self, clips: Sequence[Prepared], network: SyncNetwork, recipe: SyncRecipe):
        self.network, self.recipe = network, recipe
        self.silence = silent_feature(Analysis(_BULK))
        self.people: dict[str, list[tuple[Prepared, int]]] = defaultdict(list)
        for clip in clips:
            for i, (run, _) in enumerate(clip.shapes):
                if run.stop - run.start >= network.config.window + NEAREST_SHIFT:
                    self.people[clip.person].append((clip, i))
        if not self.people:
            raise ValueError("no recording shows a face for long enough: give longer clips")
        self.lengths = [
            np.array([clip.shapes[i][0].stop - clip.shapes[i][0].start for clip, i in found], float)
            for found in self.people.values()
        ]
        weight = np.array([lengths.sum() for lengths in self.lengths]) ** recipe.person_power
        self.weight = weight / weight.sum()
        self.coordinates = {
            id(clip): [self._coordinates(shapes) for shapes in (clip.shapes, clip.flipped)] for clip in clips
        }
        self.pictures = {
            id(clip): picture_of(clip.crops.numpy(), [run for run, _ in clip.shapes]) for clip in clips if clip.shapes
        }

    def _coordinates(self, shapes: Shapes) -> list[np.ndarray]:
        if not shapes:
            return []
        parts = [torch.from_numpy(shape).float() for _, shape in shapes]
        return [c.numpy() for c in self.network.coordinates(torch.cat(parts)).split([len(p) for p in parts])]

    def draw(self, part: str, rng: np.random.Generator) -> Batch:
        """A batch of segments as the eye of a part sees them, each in its own light and shape."""
        config, recipe = self.network.config, self.recipe
        people = list(self.people.values())
        windows = recipe.segment - config.window + 1
        seen, sounds, there = [], [], torch.zeros(recipe.batch, windows, dtype=torch.bool)
        for row in range(recipe.batch):
            person = int(rng.choice(len(people), p=self.weight))
            clip, i = people[person][rng.choice(len(people[person]), p=self.lengths[person] / self.lengths[person].sum())]
            hidden = len(clip.sounds) > 1 and rng.random() < recipe.disguised
            sound, stretch = clip.sounds[int(rng.integers(1, len(clip.sounds))) if hidden else 0]
            run = clip.shapes[i][0]
            count = int((run.stop - run.start) * stretch)
            length = min(recipe.segment, count)
            first = int(rng.integers(count - length + 1))
            frames = np.clip((first + np.arange(length)) / stretch, 0, run.stop - run.start - 1)  # of the recording as it was
            seen.append(_padded(self._look(part, clip, i, frames, rng), recipe.segment))
            begin = round(config.per_frame * (run.start * stretch + first) + rng.uniform(-0.5, 0.5)) - config.lead
            sounds.append(self._listen(sound, begin, config.per_frame * (windows - 1) + config.sound))
            there[row, : max(length - config.window + 1, 0)] = True
        heard = self.network.normalised(torch.stack(sounds))
        heard = heard + recipe.sound_noise * torch.from_numpy(rng.standard_normal(heard.shape, np.float32))
        step = max(1, windows // recipe.others)
        others = torch.arange(int(rng.integers(step)), windows, step)
        return Batch(torch.from_numpy(np.stack(seen)), heard, there, others)

    def _look(self, part: str, clip: Prepared, i: int, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if part == "landmarks":
            return shape_view(self.coordinates[id(clip)][int(rng.random() < 0.5)][i], frames, rng)
        mean, spread = self.pictures[id(clip)]
        shown = clip.crops[clip.shapes[i][0]].numpy()[np.round(frames).astype(int)]
        return crop_view(shown, mean, spread, self.network.config.side, rng)

    def _listen(self, sound: Tensor, begin: int, count: int) -> Tensor:
        """``count`` features from ``begin`` on, silence where there are none."""
        out = self.silence.repeat(count, 1)
        a, b = max(begin, 0), min(begin + count, len(sound))
        if a < b:
            out[a - begin : b - begin] = sound[a:b].float()
        return out


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    """The first axis filled up with zeros."""
    return np.pad(values, [(0, length - len(values)), *[(0, 0)] * (values.ndim - 1)]).astype(np.float32)


def new_network(clips: Sequence[Prepared], template: Float[Tensor, "478 3"]) -> SyncNetwork:
    """A fresh network with the statistics of the recordings in it, every person weighing the same."""
    config = SyncNetwork.Config(bands=acoustic.WIDTH, template=LANDMARKS, points=len(SEEN))
    network = SyncNetwork(config)
    shapes: dict[str, list[np.ndarray]] = defaultdict(list)
    sounds: dict[str, list[Tensor]] = defaultdict(list)
    for clip in clips:
        shapes[clip.person] += [shape for _, shape in clip.shapes]
        sounds[clip.person].append(clip.sounds[0][0].float())
    depth = np.tile([1.0, 1.0, _DEPTH], config.points)
    covariance = np.zeros((3 * config.points, 3 * config.points))
    people = [np.concatenate(parts) * depth for parts in shapes.values() if parts]
    for person in people:
        covariance += person.T @ person / len(person) / len(people)
    variance, directions = np.linalg.eigh(covariance)
    deviation = np.sqrt(np.maximum(variance[::-1][: config.directions], 0))
    # Small directions are mostly the tracker's noise: they are not blown up to the size of the large ones.
    basis = depth[:, None] * directions[:, ::-1][:, : config.directions] / (deviation + 0.05 * deviation[0])
    network.template.copy_(template)
    network.basis.copy_(torch.from_numpy(basis).half())  # as the weights keep it
    heard = [torch.cat(parts) for parts in sounds.values()]
    network.sound_mean.copy_(torch.stack([h.mean(0) for h in heard]).mean(0).half())
    spread = torch.stack([(h - network.sound_mean).square().mean(0) for h in heard]).mean(0).sqrt()
    network.sound_deviation.copy_(spread.half())
    return network


def accuracy(expert: SyncExpert, clips: Sequence[Prepared], parts: tuple[str, ...]) -> dict[str, float]:
    """Two-way accuracy over the windows of ``speech``, over ``all``, over the speech of each of the ``people`` alike; the
    ``share`` of windows with speech; and the median of the absolute ``offset`` that is found in a clip, frames."""
    people: dict[str, list[np.ndarray]] = defaultdict(list)
    everything, spoken, offsets = [], [], []
    for clip in clips:
        if not clip.shapes:
            continue
        windows = expert.windows(clip.shapes, clip.crops.numpy(), clip.sounds[0][0].float(), clip.loud, parts)
        wins = two_way(windows)
        known = ~np.isnan(wins)
        everything.append(wins[known])
        spoken.append(windows.spoken()[known])
        people[clip.person].append(wins[known & windows.spoken()])
        offsets.append(abs(offset_and_confidence(windows)[0]))
    right, speech = np.concatenate(everything), np.concatenate(spoken)
    persons = [np.concatenate(parts) for parts in people.values()]
    return {
        "speech": float(right[speech].mean()), "all": float(right.mean()), "share": float(speech.mean()),
        "people": float(np.mean([p.mean() for p in persons if len(p)])), "offset": float(np.median(offsets)),
    }


def _log(recipe: SyncRecipe, entry: dict[str, object]) -> None:
    with (recipe.out / "log.jsonl").open("a") as log:
        log.write(to_json(entry) + "\n")
