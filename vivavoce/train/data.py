"""Recordings to training examples: tracked motion and speech features, cached per clip, resumable."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vivavoce.latent.mesh import FaceModel, eye_opening
from vivavoce.latent.motion import MOTION_RATE_HZ, Layout
from vivavoce.latent.retarget import motion_of, rest_of_clip
from vivavoce.latent.stretches import stretches
from vivavoce.latent.topology import LANDMARKS
from vivavoce.latent.tracker import FaceTracker
from vivavoce.media.video import read_frames
from vivavoce.speech.encoder import SpeechEncoder, features
from vivavoce.speech.sound import load_sound
from vivavoce.train.disguise import disguise
from vivavoce.train.loop import digest

Progress = Callable[[str, int, int], None]
COLUMNS = ("file", "split", "speaker", "kind")  # of MANIFEST.csv, that are read


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A row of MANIFEST.csv."""

    path: Path
    split: str
    person: str
    talks: bool  # its sound is its own and synchronous

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True, kw_only=True)
class Example:
    """A stretch of one clip without cuts: packed motion and, where it talks, the whole clip's speech features.

    ``first``: the speech feature at the stretch's first frame. ``motion`` has blinks taken out (`latent.blink` makes them).
    ``style``: see `style_of`.
    """

    person: str
    clip: str
    motion: Float[torch.Tensor, "t d"]
    speech: Float[torch.Tensor, "s w"] | None
    first: int
    style: Float[torch.Tensor, " 3"]


def save_examples(examples: Sequence[Example], path: Path, made_of: Mapping[str, Any] | None = None) -> None:
    """All examples in one safetensors file; what several share (a clip's speech, an example that counts twice) is stored once.
    ``made_of``: what the file says that they were made of, for `made_of`."""
    tensors: dict[str, torch.Tensor] = {}
    stored: dict[int, str] = {}
    rows = []
    for i, example in enumerate(examples):
        row: dict[str, Any] = {name: vars(example)[name] for name in ("person", "clip", "first")}
        for name in ("motion", "style", "speech"):
            values = vars(example)[name]
            row[name] = None if values is None else stored.setdefault(id(values), f"{name}.{i}")
            if values is not None:
                tensors[row[name]] = values
        rows.append(row)
    partial = path.with_suffix(".part")
    said = {"rows": json.dumps(rows), **({} if made_of is None else {"made_of": json.dumps(made_of)})}
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, said)
    partial.rename(path)


def load_examples(path: Path) -> list[Example]:
    """What `save_examples` saved; ValueError where the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {None: None} | {key: file.get_tensor(key) for key in file.keys()}
            rows = json.loads((file.metadata() or {})["rows"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is damaged: remove it, and it is made again") from error
    return [Example(**{**row, **{name: tensors[row[name]] for name in ("motion", "style", "speech")}}) for row in rows]


def made_of(path: Path) -> dict[str, Any] | None:
    """What a file of `save_examples` says that it was made of, as JSON gives it back; None where it does not say."""
    with safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get("made_of")
    return None if said is None else json.loads(said)


def read_manifest(data: Path, split: str) -> list[Clip]:
    """Clips of one split. ValueError where the folder has no manifest, the manifest lacks a column or the split clips, or two
    clips have one name, by which what is made of them is kept."""
    manifest = data / "MANIFEST.csv"
    if not manifest.is_file():
        raise ValueError(f"{data} has no MANIFEST.csv: give the folder of the recordings")
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            rows = [row for row in reader if row.get("split") == split]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{manifest} is no table in UTF-8 ({error}): save it as CSV in UTF-8") from error
    if lacking:
        raise ValueError(f"{manifest} has no column {', '.join(lacking)}: docs/formats.md says what is in it")
    if not rows:
        raise ValueError(f"{manifest} lists no clip of the split {split!r}")
    if any(row[name] is None for row in rows for name in COLUMNS):
        raise ValueError(f"{manifest} has a row that ends before {', '.join(COLUMNS)}: complete or remove it")
    clips = [Clip(path=data / r["file"], split=split, person=r["speaker"], talks=r["kind"] == "talk") for r in rows]
    twice = [name for name, count in Counter(clip.name for clip in clips).items() if count > 1]
    if twice:
        raise ValueError(f"{manifest} lists several clips of the split {split!r} that are called {twice[0]!r}: rename them")
    return clips


def track_clips(clips: Sequence[Clip], cache: Path, progress: Progress) -> dict[str, Float[np.ndarray, "t 478 3"]]:
    """Landmarks in pixels per clip at 25 Hz, NaN where no face was found; one file per clip in ``cache``."""
    cache.mkdir(parents=True, exist_ok=True)
    tracks = {}
    for i, clip in enumerate(clips):
        progress("tracking", i, len(clips))
        file = cache / f"{clip.split}__{clip.name}.npy"
        if not file.exists():
            with FaceTracker() as tracker:
                found = [tracker(frame) for frame in read_frames(clip.path, MOTION_RATE_HZ)]
            missing = np.full((LANDMARKS, 3), np.nan, np.float32)
            partial = file.with_suffix(".part.npy")
            np.save(partial, np.stack([missing if f is None else f for f in found]))
            partial.rename(file)
        tracks[clip.name] = np.load(file)
    progress("tracking", len(clips), len(clips))
    return tracks


def face_digest(model: FaceModel) -> str:
    """Tells face models apart."""
    return digest([model.mean, model.identity, *model.expression.values(), *model.mask.values(), model.importance])


def without_blinks(eyelids: Float[np.ndarray, "t k"], opening: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t k"]:
    """Lid coefficients interpolated across blinks, so that what is left is squint, gaze following and emphasis."""
    shut = blinking(opening)
    wide = np.convolve(shut, np.ones(7), "same") > 0
    if wide.mean() > 0.6:
        return eyelids
    index = np.arange(len(eyelids))
    return np.stack([np.interp(index, index[~wide], column[~wide]) for column in eyelids.T], 1)


def blinking(opening: Float[np.ndarray, " t"]) -> np.ndarray:
    """Frames whose lid opening is under two thirds of its local upper quartile (1.5 s to each side)."""
    reach = int(1.5 * MOTION_RATE_HZ)
    padded = np.pad(opening, reach, mode="edge")
    local = np.array([np.percentile(padded[i : i + 2 * reach + 1], 75) for i in range(len(opening))])
    return opening < 0.66 * local


def style_of(motion: Float[np.ndarray, "t d"], layout: Layout) -> Float[torch.Tensor, " 3"]:
    """How strongly a stretch moves: log standard deviation of lips and jaw, cheeks and brows, and head rotation."""
    fields = layout.unpack(torch.as_tensor(motion, dtype=torch.float32))
    return torch.stack([log_spread(v) for v in (fields.lips_jaw, fields.cheeks_brows, fields.rotation)])


def log_spread(values: Float[torch.Tensor, "t k"]) -> Float[torch.Tensor, ""]:
    """Natural log of how strongly a motion field moves: the mean of its standard deviations."""
    return torch.log(values.std(0).mean() + 1e-3)


def mirrored(points: Float[np.ndarray, "t n 3"], width: float, pairs: np.ndarray) -> Float[np.ndarray, "t n 3"]:
    """The landmarks of the left-right mirrored recording."""
    flipped = points[:, pairs].copy()
    flipped[..., 0] = width - flipped[..., 0]
    return flipped


def mirror_pairs(model: FaceModel) -> np.ndarray:
    """For every landmark the index of its mirror image, from the mean face."""
    flipped = model.mean * np.array([-1.0, 1.0, 1.0])
    axis = model.mean[[10, 152, 1, 2], 0].mean()
    flipped[:, 0] += 2 * axis
    return np.linalg.norm(flipped[:, None] - model.mean[None], axis=-1).argmin(1)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A random way to change a recording: left and right exchanged, the sound disguised (``seed``; None: as it is)."""

    mirror: bool = False
    seed: int | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Augmentation:
        return cls(mirror=bool(rng.random() < 0.5), seed=int(rng.integers(2**31)))

    def sound(self, clip: Clip, others: Sequence[Clip]) -> tuple[Float[torch.Tensor, " s"], float]:
        """What is heard with the clip, and how many times as long as the clip it is; ``others`` talk in the background."""
        samples = load_sound(clip.path)
        if self.seed is None:
            return samples, 1.0
        return disguise(samples, [load_sound(o.path) for o in others], np.random.default_rng(self.seed))


PLAIN = Augmentation()


def examples_of(
    clip: Clip, points: Float[np.ndarray, "t 478 3"], model: FaceModel, encoder: SpeechEncoder,
    how: Augmentation, pairs: np.ndarray, others: Sequence[Clip] = (),
) -> list[Example]:
    """The usable stretches of one clip under one augmentation; a silent face teaches motion without speech."""
    layout = Layout.of(model.widths())
    speech, stretch = None, 1.0
    if clip.talks:
        sound, stretch = how.sound(clip, others)
        speech = features(encoder, sound).values[0]
    examples = []
    for run in stretches(points):
        part = points[run].astype(np.float64)
        if how.mirror:
            part = mirrored(part, float(np.nanmax(points[..., 0]) + 1), pairs)
        motion = motion_of(part, rest_of_clip(part, model), model)
        calm = torch.from_numpy(without_blinks(motion.eyelids.numpy(), eye_opening(part)).astype(np.float32))
        packed = layout.pack(replace(motion, eyelids=calm)).numpy()
        if stretch != 1.0:
            old = np.arange(int(len(packed) * stretch)) / stretch
            packed = np.stack([np.interp(old, np.arange(len(packed)), c) for c in packed.T], 1)
        examples.append(Example(
            person=clip.person, clip=clip.name, motion=torch.from_numpy(packed.astype(np.float32)), speech=speech,
            first=round(run.start / MOTION_RATE_HZ * stretch * encoder.spec.rate_hz), style=style_of(packed, layout),
        ))
    return examples
