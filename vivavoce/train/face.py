"""`vivavoce train face`: the linear face model, learned from tracked recordings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import signal

from vivavoce.latent.mesh import REGIONS, FaceModel, clip_neutral, eye_opening, face_height, rigid_fit
from vivavoce.latent.topology import BROWS, EYES, LIPS, NOSE_BASE, OVAL, SKIN, SKULL
from vivavoce.train.data import Clip, Progress, read_manifest, track_clips
from vivavoce.train.loop import claim, digest

FOUND = 0.9  # share of a clip's frames that must show a face
FILES, TOLD = ("face.safetensors",), "face-run.json"  # what a run leaves in its folder


@dataclass(frozen=True, kw_only=True)
class FaceConfig:
    """How many directions the model keeps, and how much one person may contribute, so that no one dominates.

    ``most_clips``: of the person with the most clips no more than these are tracked. ``frames_per_person``: drawn, with
    repetition where there are fewer, for the directions of expression.
    """

    identity: int = 40
    lips_jaw: int = 12
    cheeks_brows: int = 8
    eyelids: int = 3
    most_clips: int = 40
    frames_per_person: int = 400
    seed: int = 0


def train_face(data: Path, out: Path, progress: Progress, config: FaceConfig) -> Path:
    """Track the training clips of a folder with a MANIFEST.csv and learn the face model; returns the weights' path.

    Tracks stay in ``out``, so that an interrupted run goes on; the model is ``out/face.safetensors``. ValueError where the
    folder has no such clips, or too few that show a face, or, and nothing is touched, where ``out`` has a model of other ones.
    """
    clips = balanced_clips(read_manifest(data, "train"), config.most_clips)
    told = digest(text for clip in clips for text in (clip.name, clip.person))
    claim(out, {"command": "train face", **asdict(config), "clips": told}, FILES, TOLD)
    tracks = track_clips(clips, out / "tracks", progress)
    shown = []
    for clip in clips:
        found = ~np.isnan(tracks[clip.name][:, 0, 0])
        if found.mean() >= FOUND:
            shown.append((clip.person, tracks[clip.name][found]))
    people = len({person for person, _ in shown})
    if people <= config.identity:
        raise ValueError(
            f"{data} has clips of {people} people whose face is seen throughout, a face model with {config.identity} directions "
            f"of identity takes at least {config.identity + 1}: add recordings of other people"
        )
    model = learn_face(shown, config)
    about = {"config": json.dumps(asdict(config)), "clips": str(len(shown)), "people": str(people)}
    path = out / "face.safetensors"
    partial = path.with_suffix(".part")
    replace(model, metadata=about).save(partial)
    partial.rename(path)
    return path


def balanced_clips(clips: Sequence[Clip], most: int) -> list[Clip]:
    """Clips by file name; of the person with the most of them only the first ``most``."""
    person, _ = Counter(clip.person for clip in clips).most_common(1)[0]
    ordered = sorted(clips, key=lambda clip: clip.path.name)
    kept = [clip for clip in ordered if clip.person == person][:most]
    return [clip for clip in ordered if clip.person != person or clip in kept]


def learn_face(clips: Sequence[tuple[str, Float[np.ndarray, "t n 3"]]], config: FaceConfig) -> FaceModel:
    """Face model from ``(person, landmarks in pixels)`` clips.

    Generalised Procrustes on the rigid landmarks, a neutral face per clip, principal components of the neutral faces (identity)
    and, per region, of the displacements from them (expression), every person weighing the same.
    """
    mean = clips[0][1][0].astype(np.float64)
    for _ in range(3):
        mean = _centred(mean)
        neutrals = [clip_neutral(rigid_fit(mean, points).remove(points.astype(np.float64)), None) for _, points in clips]
        mean = np.mean(list(_by_person([p for p, _ in clips], neutrals).values()), axis=0)
    mean = _symmetric_upright(_centred(mean))
    people = [person for person, _ in clips]
    neutrals, moves = [], []
    for _, points in clips:
        rough = rigid_fit(mean, points).remove(points.astype(np.float64))
        neutral = clip_neutral(rough, None)
        neutral = rigid_fit(mean, neutral[None]).remove(neutral[None])[0]
        aligned = rigid_fit(neutral, points).remove(points.astype(np.float64))
        neutral = clip_neutral(aligned, None)
        neutrals.append(neutral)
        moves.append(aligned - neutral)
    everywhere = np.ones(len(mean))
    identity = _components(np.stack(list(_by_person(people, neutrals).values())) - mean, everywhere, everywhere, config.identity)
    mask, importance = region_masks(mean)
    balanced = _balanced(people, moves, config)
    counts = {"lips_jaw": config.lips_jaw, "cheeks_brows": config.cheeks_brows, "eyelids": config.eyelids}
    expression = {r: _components(balanced, mask[r], importance, counts[r]) for r in REGIONS}
    lids = FaceModel(mean, identity, expression, mask, importance, np.zeros(config.eyelids), np.zeros(1))
    direction, profile = learn_blink([(person, move) for person, move in zip(people, moves, strict=True)], neutrals, lids)
    return replace(lids, blink_direction=direction, blink_profile=profile)


def learn_blink(
    moves: Sequence[tuple[str, Float[np.ndarray, "t n 3"]]], neutrals: Sequence[Float[np.ndarray, "n 3"]], model: FaceModel
) -> tuple[np.ndarray, np.ndarray]:
    """The average blink: eyelid coefficients at its deepest frame against just before, and its closure over time."""
    before, after = 4, 8
    depths, profiles = [], []
    for (_, move), neutral in zip(moves, neutrals, strict=True):
        opening = eye_opening(neutral + move)
        lids = model.project(move)["eyelids"]
        for peak in signal.find_peaks(-opening, prominence=0.5 * np.median(opening), width=(1, 8))[0]:
            if before <= peak < len(move) - after:
                span = opening[peak - before : peak + after + 1]
                open_lids = (span[0] + span[-1]) / 2
                depths.append(lids[peak] - (lids[peak - before] + lids[peak + after]) / 2)
                profiles.append((open_lids - span) / (open_lids - span[before]))
    profile = np.clip(np.median(profiles, axis=0), 0.0, 1.0)
    profile[[0, -1]] = 0.0
    return np.mean(depths, axis=0), profile


def region_masks(mean: Float[np.ndarray, "n 3"]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Soft masks that share the skin out among the regions, and the importance of each vertex.

    Lips count most, then brows, the outline of the face (which slides over the skin when the head turns) least; irises move by
    gaze alone, the skull by none: the tracker stretches nose and forehead when a mouth opens, but no face does.
    """

    def near(landmarks: np.ndarray, radius: float) -> np.ndarray:
        distance = np.linalg.norm(mean[:, None, :2] - mean[None, landmarks, :2], axis=-1).min(1)
        return np.exp(-((distance / radius) ** 2))

    eyelids = near(np.concatenate([eye.ring for eye in EYES]), 0.05)
    skin = (1 - eyelids) * (1 - near(SKULL, 0.07))
    low = 1.0 / (1.0 + np.exp(-(mean[:, 1] - mean[NOSE_BASE, 1] - 0.03) / 0.025))
    masks = {"lips_jaw": low * skin, "cheeks_brows": (1 - low) * skin, "eyelids": eyelids}
    for mask in masks.values():
        mask[SKIN:] = 0.0
    importance = np.ones(len(mean))
    importance[LIPS] = 3.0
    importance[BROWS] = 2.0
    importance[OVAL] = 0.3
    return masks, importance


def _components(
    samples: Float[np.ndarray, "s n 3"], mask: np.ndarray, importance: np.ndarray, count: int
) -> Float[np.ndarray, "k n 3"]:
    """Principal directions of the masked samples under the importance weighting, each scaled to one standard deviation."""
    flat = (samples * (mask * importance)[None, :, None]).reshape(len(samples), -1)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    top = np.argsort(values)[::-1][:count]
    directions = vectors[:, top].T * np.sqrt(values[top])[:, None]
    return directions.reshape(len(top), -1, 3) / importance[None, :, None]


def _by_person(people: Sequence[str], values: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
    return {p: np.mean([v for q, v in zip(people, values, strict=True) if q == p], axis=0) for p in dict.fromkeys(people)}


def _balanced(people: Sequence[str], moves: Sequence[np.ndarray], config: FaceConfig) -> np.ndarray:
    rng = np.random.default_rng(config.seed)
    chosen = []
    for person in dict.fromkeys(people):
        frames = np.concatenate([m for p, m in zip(people, moves, strict=True) if p == person])
        take = rng.choice(len(frames), config.frames_per_person, replace=len(frames) < config.frames_per_person)
        chosen.append(frames[take])
    return np.concatenate(chosen)


def _centred(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return (points - points[:SKIN].mean(0)) / face_height(points)


def _symmetric_upright(mean: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Turn the mean face to look straight at the viewer: outer eye corners level and at equal depth."""
    right, left = mean[EYES[0].corners[0]], mean[EYES[1].corners[1]]
    x = (left - right) / np.linalg.norm(left - right)
    down = mean[NOSE_BASE] - mean[10]
    z = np.cross(x, down / np.linalg.norm(down))
    z /= np.linalg.norm(z)
    frame = np.stack([x, np.cross(z, x), z])
    return mean @ frame.T
