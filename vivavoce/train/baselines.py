"""Baselines: what simple rules make of the sound of a clip, as motion that the project's own painter draws.

A figure of how well lips follow speech means something only beside these. All are fitted in closed form, in seconds, on
recordings of the training split; no network is involved but the one that names phones, and that only in the shapes of the mouth.

| system | motion |
|---|---|
| still | the portrait, for ever |
| loudness | the mouth opens with the level of the sound; nothing else moves |
| ridge | ridge regression of the whole motion on log-mel energies around the frame |
| nearest | motion of those training windows that sound most alike, cross-faded |
| rhubarb | mouth shapes that the program Rhubarb Lip Sync names, where it is installed |
| shuffled | the engine, which heard another clip |
| ours | the engine |
| redrawn | the recorded motion: what of the ceiling is lost by drawing |
| recording | the recording itself: the ceiling |
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.animate import Animator
from vivavoce.latent.closure import LipClosure
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import MOTION_RATE_HZ, Layout
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, SpeechSpec, features
from vivavoce.speech.encoders import hearing
from vivavoce.speech.phones import VISEMES
from vivavoce.speech.streams import VISEME_STREAM
from vivavoce.train.data import (
    PLAIN,
    Clip,
    Example,
    Progress,
    examples_of,
    face_digest,
    load_examples,
    made_of,
    mirror_pairs,
    save_examples,
    track_clips,
)

STRIDE = round(RATE_HZ / MOTION_RATE_HZ)  # speech features to a motion frame
MOST_CLIPS = 60  # of one person: who recorded a thousand sentences is not most of the world
CONTEXT = range(-10, 11, 2)  # features around a frame's own that ridge regression hears: 0.2 s to each side
RIDGE = 0.1  # strength of the penalty, in frames' worth of a standardised input, per frame
PERSON_POWER = 0.4  # as in the engine's training: a person weighs (frames recorded) ** this
WINDOW, HOP = 12, 6  # frames that are compared and taken over by the nearest neighbour, and between two choices
LEVEL_SECONDS = 0.08  # of sound whose loudness opens the mouth
QUIET, LOUD = 20.0, 95.0  # percentiles of a clip's levels at which the mouth is shut and wide open
MOVING = 3  # frames over which one mouth shape goes over into the next
SURE = 0.5  # posterior of a viseme from which on a frame shows it


@dataclass(frozen=True, kw_only=True)
class Heard:
    """The sound of a clip: samples at SAMPLE_RATE_HZ, the encoder's features at RATE_HZ, and for how many frames it lasts."""

    sound: Float[Tensor, " s"]
    features: Float[Tensor, "n w"]
    frames: int


def hear(animator: Animator, sound: Float[Tensor, " s"], frames: int) -> Heard:
    """What the baselines are given."""
    return Heard(sound=sound, features=features(animator.encoder, sound).values[0], frames=frames)


def training_examples(clips: Sequence[Clip], animator: Animator, folder: Path, progress: Progress) -> list[Example]:
    """Motion and speech of the training clips as they are, at most MOST_CLIPS of a person; kept in the folder."""
    cache = folder / "examples-baselines.safetensors"
    count: Counter[str] = Counter()
    used = []
    for clip in clips:
        if clip.talks and count[clip.person] < MOST_CLIPS:
            count[clip.person] += 1
            used.append(clip)
    how = {
        "clips": [[c.person, c.name] for c in used], "face": face_digest(animator.space.model),
        "encoder": hearing(animator.encoder),
    }
    if cache.is_file() and made_of(cache) == how:  # else recordings came or went since
        return load_examples(cache)
    tracks = track_clips(used, folder / "tracks", progress)
    model, pairs = animator.space.model, mirror_pairs(animator.space.model)
    examples: list[Example] = []
    for i, clip in enumerate(used):
        progress("hearing", i, len(used))
        examples += examples_of(clip, tracks[clip.name], model, animator.encoder, PLAIN, pairs)
    progress("hearing", len(used), len(used))
    folder.mkdir(parents=True, exist_ok=True)
    save_examples(examples, cache, how)
    return examples


def still(heard: Heard, layout: Layout) -> Float[Tensor, "t d"]:
    """Nothing moves."""
    return torch.zeros(heard.frames, layout.width)


def levels(sound: Float[Tensor, " s"], frames: int) -> Float[Tensor, " t"]:
    """Level around the time of each motion frame, dB of full scale, in windows of LEVEL_SECONDS; silence is -100."""
    reach = round(LEVEL_SECONDS * SAMPLE_RATE_HZ / 2)
    hop = round(SAMPLE_RATE_HZ / MOTION_RATE_HZ)
    padded = torch.nn.functional.pad(sound.double(), (reach, reach + hop * frames))
    power = padded.square().unfold(0, 2 * reach, hop)[:frames].mean(-1)
    return 10 * torch.log10(power + 1e-10)


@dataclass(frozen=True)
class Opening:
    """Packed motion that opens the mouth as wide as speakers open it (the 95th percentile of the gap between their lips)."""

    wide: Float[Tensor, " d"]

    @classmethod
    def of(cls, examples: Sequence[Example], model: FaceModel) -> Opening:
        """The regression of lips and jaw on the lips' gap, over all training frames."""
        across = LipClosure.of(model).across.double()
        lips = (across != 0).double()
        motion = torch.cat([e.motion.double() for e in examples]) * lips
        gap = motion @ across
        varied = gap - gap.mean()
        slope = varied @ (motion - motion.mean(0)) / varied.square().sum()
        return cls((slope * torch.quantile(gap, 0.95).clamp(min=0)).float())

    def __call__(self, heard: Heard) -> Float[Tensor, "t d"]:
        """Shut at the QUIET percentile of the clip's levels and below, wide open at the LOUD one, linear in dB between."""
        level = levels(heard.sound, heard.frames)
        low, high = torch.quantile(level, torch.tensor([QUIET, LOUD], dtype=level.dtype) / 100)
        share = ((level - low) / (high - low).clamp(min=1.0)).clamp(0, 1)
        return share[:, None].float() * self.wide


def log_mel(heard: Float[Tensor, "n w"], spec: SpeechSpec) -> Float[Tensor, "n k"]:
    """The acoustic stream of an encoder's features: log-mel energies relative to the speaker's level."""
    return spec.split(heard)["acoustic"].double()


def surroundings(values: Float[Tensor, "n k"], centres: range, offsets: range = CONTEXT) -> Float[Tensor, "t m"]:
    """Rows around each centre side by side; before the first row that one holds, after the last the last."""
    index = torch.tensor(list(centres))[:, None] + torch.tensor(list(offsets))
    return values[index.clamp(0, len(values) - 1)].flatten(1)


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """y = level + slope . (x - mean), of the least weighted squared error plus a penalty on the slope of standardised inputs."""

    mean: Float[Tensor, " m"]
    level: Float[Tensor, " d"]
    slope: Float[Tensor, "m d"]

    @classmethod
    def fit(cls, x: Float[Tensor, "n m"], y: Float[Tensor, "n d"], weight: Float[Tensor, " n"], strength: float = RIDGE) -> Ridge:
        """In closed form, in float64. ``strength``: 0 is ordinary least squares; 1 halves what an input of its own tells."""
        share = (weight / weight.sum())[:, None].double()
        x, y = x.double(), y.double()
        mean, level = (share * x).sum(0), (share * y).sum(0)
        deviation = (share * (x - mean).square()).sum(0).sqrt() + 1e-6
        z = (x - mean) / deviation
        normal = z.T @ (share * z) + strength * torch.eye(z.shape[1], dtype=torch.float64)
        slope = torch.linalg.solve(normal, z.T @ (share * (y - level)))
        return cls(mean=mean, level=level, slope=slope / deviation[:, None])

    def __call__(self, x: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        return (self.level + (x.double() - self.mean) @ self.slope).float()


def fit_ridge(examples: Sequence[Example], spec: SpeechSpec) -> Ridge:
    """Motion from the log-mel energies around each frame. ValueError where nobody talks."""
    count = Counter(e.person for e in examples for _ in range(len(e.motion)))
    told = [e for e in examples if e.speech is not None]
    if not told:
        raise ValueError("nobody talks in the training recordings: give some with sound of their own")
    inputs, weights = [], []
    for example in told:
        assert example.speech is not None
        centres = range(example.first, example.first + STRIDE * len(example.motion), STRIDE)
        inputs.append(surroundings(log_mel(example.speech, spec), centres))
        weights.append(torch.full((len(example.motion),), count[example.person] ** (PERSON_POWER - 1), dtype=torch.float64))
    return Ridge.fit(torch.cat(inputs), torch.cat([e.motion for e in told]), torch.cat(weights))


def regressed(heard: Heard, ridge: Ridge, spec: SpeechSpec) -> Float[Tensor, "t d"]:
    """The motion that ridge regression expects."""
    return ridge(surroundings(log_mel(heard.features, spec), range(0, STRIDE * heard.frames, STRIDE)))


def keys(values: Float[Tensor, "n k"], first: int, frames: int) -> Float[Tensor, "t h"]:
    """What of log-mel energies is compared, a row per motion frame: the mean of all hops within it."""
    rows = surroundings(values, range(first, first + STRIDE * frames, STRIDE), range(STRIDE))
    return rows.unflatten(1, (2 * STRIDE, -1)).mean(1)


def nearest(heard: Heard, examples: Sequence[Example], spec: SpeechSpec) -> Float[Tensor, "t d"]:
    """Every HOP frames the WINDOW frames of training motion whose log-mel energies are nearest (Euclid), cross-faded.

    A clip of the training set gets its own motion back. ValueError where no training recording is long enough.
    """
    wanted = keys(log_mel(heard.features, spec), 0, heard.frames)
    size = min(WINDOW, heard.frames)
    starts = sorted({*range(0, heard.frames - size, HOP), heard.frames - size})
    queries = torch.stack([wanted[s : s + size].flatten() for s in starts])
    best = torch.full((len(starts),), float("inf"), dtype=torch.float64)
    pieces: list[Tensor | None] = [None] * len(starts)
    for example in examples:
        if example.speech is None or len(example.motion) < size:
            continue
        windows = keys(log_mel(example.speech, spec), example.first, len(example.motion)).unfold(0, size, 1)
        distance, place = torch.cdist(queries, windows.transpose(1, 2).flatten(1)).min(1)
        for i in torch.nonzero(distance < best).flatten().tolist():
            best[i], pieces[i] = distance[i], example.motion[place[i] : place[i] + size]
    ramp = torch.minimum(torch.arange(1.0, size + 1), torch.arange(float(size), 0, -1))[:, None]
    total, weight = torch.zeros(heard.frames, 1), torch.zeros(heard.frames, 1)
    for start, piece in zip(starts, pieces, strict=True):
        if piece is None:
            raise ValueError(f"no training recording with sound has {size} frames in a row: give longer ones")
        total = total + torch.nn.functional.pad(ramp * piece, (0, 0, start, heard.frames - size - start))
        weight[start : start + size] += ramp
    return total / weight


def shuffled(names: Sequence[str], people: Mapping[str, str], samples: Mapping[str, int]) -> dict[str, str]:
    """For every clip another one whose sound it hears instead: of another person where there is one, of the nearest length."""
    order = {}
    for i, name in enumerate(names):
        others = [n for n in [*names[i + 1 :], *names[:i]] if n != name]
        if not others:
            raise ValueError("sound cannot be exchanged in a single recording: give at least two")
        order[name] = min(others, key=lambda n: (people[n] == people[name], abs(samples[n] - samples[name])))
    return order


def fitted(sound: Float[Tensor, " s"], length: int) -> Float[Tensor, " n"]:
    """Sound of exactly this many samples: cut, or begun anew where it ends."""
    return sound.repeat(-(-length // max(len(sound), 1)))[:length]


@dataclass(frozen=True, kw_only=True)
class Cue:
    """A mouth shape, "A" to "H" or "X", from ``start`` to ``end`` seconds."""

    start: float
    end: float
    shape: str


SHAPES: Mapping[str, tuple[str, ...]] = {
    "A": ("PBM",), "B": ("TDN", "SZ", "SH", "KG", "I"), "C": ("E",), "D": ("A",), "E": ("O", "R"), "F": ("U",), "G": ("FV",),
    "H": ("TH",), "X": ("sil",),
}
"""Rhubarb's mouth shapes (its README) by the visemes that show them: A closed, B teeth nearly together, C open, D wide open,
E slightly rounded, F puckered, G teeth on the lower lip, H tongue raised (of which only a dental shows on lips), X at rest."""
SHUT = ("A", "X")


def mouth_cues(text: str) -> tuple[Cue, ...]:
    """The cues in what `rhubarb -f json` writes. ValueError where it is something else."""
    try:
        rows = json.loads(text)["mouthCues"]
        cues = tuple(Cue(start=float(r["start"]), end=float(r["end"]), shape=str(r["value"])) for r in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"this is no list of mouth cues as rhubarb -f json writes it ({error}): check its version") from error
    wrong = [cue for cue in cues if cue.shape not in SHAPES or not 0 <= cue.start <= cue.end]
    if wrong:
        raise ValueError(f"{wrong[0]} is no mouth cue of rhubarb: expected shapes {''.join(SHAPES)} and times in order")
    return cues


def mouth_shapes(examples: Sequence[Example], spec: SpeechSpec, model: FaceModel) -> dict[str, Float[Tensor, " d"]]:
    """Lips and jaw of each of Rhubarb's shapes: the mean of the training frames that sound so; the closed ones are closed.

    A shape that nobody shows is at rest. ValueError where the encoder does not tell visemes.
    """
    if VISEME_STREAM not in spec.streams:
        raise ValueError(f"an encoder of {', '.join(spec.streams)} does not tell visemes: mouth shapes need the one that ships")
    closure = LipClosure.of(model)
    lips = (closure.across != 0).float()
    motions, posteriors = [], []
    for example in examples:
        if example.speech is not None:
            index = torch.arange(example.first, example.first + STRIDE * len(example.motion), STRIDE)
            posteriors.append(spec.split(example.speech)[VISEME_STREAM][index.clamp(max=len(example.speech) - 1)])
            motions.append(example.motion * lips)
    motion, posterior = torch.cat(motions), torch.cat(posteriors)
    shapes = {}
    for shape, visemes in SHAPES.items():
        seen = posterior[:, [VISEMES.index(v) for v in visemes]].sum(-1) > SURE
        mean = motion[seen].mean(0) if seen.any() else torch.zeros_like(lips)
        shapes[shape] = closure(mean[None], torch.ones(1))[0] if shape in SHUT else mean
    return shapes


def mouthed(heard: Heard, cues: Sequence[Cue], shapes: Mapping[str, Float[Tensor, " d"]]) -> Float[Tensor, "t d"]:
    """The shape at each frame's time, moving over MOVING frames from one to the next; at rest where no cue is."""
    rows = [shapes["X"]] * heard.frames
    for cue in cues:
        for i in range(max(0, int(np.ceil(cue.start * MOTION_RATE_HZ - 1e-6))), heard.frames):
            if i / MOTION_RATE_HZ >= cue.end - 1e-9:
                break
            rows[i] = shapes[cue.shape]
    padded = torch.stack([rows[0]] * (MOVING // 2) + rows + [rows[-1]] * (MOVING // 2))
    return padded.unfold(0, MOVING, 1).mean(-1)
