"""Recordings as the sync expert is trained on them: movements, crops and sound of each clip, cached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vivavoce.judge.expert import Shapes, loud_frames, mouth_crop, shapes_of, sound_features
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.video import read_frames
from vivavoce.speech.analysis import Analysis
from vivavoce.train.corpus import load_sound
from vivavoce.train.data import Clip, Progress, mirrored, read_manifest, track_clips
from vivavoce.train.disguise import disguise
from vivavoce.train.loop import digest

_BULK = 50  # sound features computed at a time
_MANY = 50  # clips of one person
_SHORTEST_SECONDS = 0.6  # of a stretch: a window


@dataclass(frozen=True, eq=False)
class Prepared:
    """A clip as the networks meet it: movements of the stretches and of their mirror images, crops, features of the sound as it
    is and disguised (each with its length over the clip's), and which frames are loud."""

    name: str
    person: str
    shapes: Shapes
    flipped: Shapes
    crops: Tensor
    sounds: list[tuple[Tensor, float]]
    loud: np.ndarray


def prepare(
    data: Path, out: Path, split: str, template: Float[np.ndarray, "478 3"], pairs: np.ndarray, progress: Progress,
    *, most: int, disguises: int, seed: int,
) -> list[Prepared]:
    """The talking clips of a split, ``most`` of each person; for training also in so many disguises. Cached in ``out``, clip by
    clip; what was made otherwise, or when other clips were there to be heard behind it, is made again. ``template``: of the sync
    network; ``pairs``: see `mirror_pairs`."""
    talking = [clip for clip in read_manifest(data, split) if clip.talks]
    clips = [clip for i, clip in enumerate(talking) if sum(c.person == clip.person for c in talking[:i]) < most]
    tracks = track_clips(clips, out / "tracks", progress)
    folder = out / "sync-clips"
    folder.mkdir(exist_ok=True)
    found = []
    for i, clip in enumerate(clips):
        progress(f"{split} clips", i, len(clips))
        cache = folder / f"{split}__{clip.name}.safetensors"
        rng = np.random.default_rng((seed, i))
        others = [clips[j] for j in rng.integers(len(clips), size=2)]
        many = sum(c.person == clip.person for c in clips) > _MANY  # whose own clips are variety enough
        copies = 0 if split != "train" else int(rng.random() < 0.25) if many else disguises
        drawn = {"seed": seed, "place": i, "others": [other.name for other in others]} if copies else {}
        how = {"copies": copies, "face": digest([template]), **drawn}
        if not cache.exists() or _made_of(cache) not in (how, None):
            _save(prepared(clip, tracks[clip.name], template, pairs, others, copies, rng), cache, how)
        found.append(_load(cache))
    return found


def prepared(
    clip: Clip, points: Float[np.ndarray, "t 478 3"], template: Float[np.ndarray, "478 3"], pairs: np.ndarray,
    others: Sequence[Clip], copies: int, rng: np.random.Generator,
) -> Prepared:
    """One clip; ``others`` talk in the background of some disguises."""
    samples, analysis = load_sound(clip.path), Analysis(_BULK)
    sounds = [(sound_features(samples, analysis).half(), 1.0)]
    for _ in range(copies):
        changed, stretch = disguise(samples, [load_sound(o.path) for o in others], rng)
        sounds.append((sound_features(changed, analysis).half(), stretch))
    frames = zip(read_frames(clip.path, MOTION_RATE_HZ), points, strict=True)
    crops = torch.from_numpy(np.stack([mouth_crop(frame, p, template) for frame, p in frames]))
    shortest = round(_SHORTEST_SECONDS * MOTION_RATE_HZ)
    shapes = shapes_of(points, template, shortest)
    flipped = shapes_of(mirrored(points, float(np.nanmax(points[..., 0]) + 1), pairs), template, shortest) if shapes else []
    return Prepared(clip.name, clip.person, shapes, flipped, crops, sounds, loud_frames(samples))


def _save(clip: Prepared, path: Path, how: dict[str, Any]) -> None:
    tensors = {"crops": clip.crops, "loud": torch.from_numpy(clip.loud)}
    for i, (shape, flipped) in enumerate(zip(clip.shapes, clip.flipped, strict=True)):
        tensors |= {f"shape.{i}": torch.from_numpy(shape[1]).half(), f"flipped.{i}": torch.from_numpy(flipped[1]).half()}
    tensors |= {f"sound.{i}": sound for i, (sound, _) in enumerate(clip.sounds)}
    facts = {
        "name": clip.name, "person": clip.person, "runs": [[int(run.start), int(run.stop)] for run, _ in clip.shapes],
        "stretch": [float(stretch) for _, stretch in clip.sounds],
    }
    partial = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"facts": json.dumps(facts), "made_of": json.dumps(how)})
    partial.rename(path)


def _made_of(path: Path) -> dict[str, Any] | None:
    """How a clip was prepared; None where its file does not say, as of an earlier version."""
    with safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get("made_of")
    return None if said is None else json.loads(said)


def _load(path: Path) -> Prepared:
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        facts = json.loads((file.metadata() or {})["facts"])
    runs = [slice(a, b) for a, b in facts["runs"]]
    shapes, flipped = (
        [(run, tensors[f"{kind}.{i}"].float().numpy()) for i, run in enumerate(runs)] for kind in ("shape", "flipped")
    )
    sounds = [(tensors[f"sound.{i}"], stretch) for i, stretch in enumerate(facts["stretch"])]
    return Prepared(facts["name"], facts["person"], shapes, flipped, tensors["crops"], sounds, tensors["loud"].numpy())
