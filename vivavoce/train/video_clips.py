"""Recordings to small square clips of heads, with the landmarks of each picture: what the video networks learn from.

A recording gives its stretches that can be believed (`latent.stretches`), each cropped once for all of its pictures, so that
heads move as they were recorded, or picture by picture, so that they keep still (`ClipConfig.steady`). In the folder given, for
each recording that was used:

- ``<split>__<name>.json``: who it is, whether its sound is its own, each stretch, how it was cropped (last: then all is there);
- ``<split>__<name>__<first>.pictures.npy``: uint8 (t, side, side, 3), RGB at MOTION_RATE_HZ; ``first`` is the recording's frame;
- ``<split>__<name>__<first>.points.npy``: float32 (t, 478, 3), px of these pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Complex, Float, Int, UInt8
from scipy.ndimage import gaussian_filter1d

from vivavoce.latent.mesh import face_box
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.space import Frame
from vivavoce.latent.stretches import stretches
from vivavoce.latent.topology import EYES, RIGID
from vivavoce.media.video import read_frames
from vivavoce.train.data import Clip, Progress, track_clips

_LOOSE = 1.25  # sides of the middle face that a crop has, at least
_LOOSEST = 1.6  # and at most, where the head moves far
_MARGIN = 1.05  # of all that the head passes over
_TREMOR = 1.0  # frames: deviation of the Gaussian that takes it off steady crops


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """``side``: px of the pictures. ``seconds``: of each person at most. ``shortest``: frames of a stretch. ``seed``: which
    recordings of a person come first. ``steady``: pictures follow the head, see `steady_crop`."""

    side: int = 128
    seconds: float = 60.0
    shortest: int = 30
    seed: int = 0
    steady: bool = False

    def __post_init__(self) -> None:
        if self.side < 16:
            raise ValueError(f"pictures of {self.side} px were asked for: give at least 16")
        if not self.seconds > 0:
            raise ValueError(f"{self.seconds:g} seconds of each person were asked for: give more than 0")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """What of a recording becomes pictures of ``side`` px: a place x of a frame, px, comes to ``turn`` x + ``shift``. One of each
    for all frames, or one for every frame."""

    side: int
    turn: Float[np.ndarray, "t 2 2"]
    shift: Float[np.ndarray, "t 2"]

    def pictures(self, frames: Sequence[Frame]) -> UInt8[np.ndarray, "t s s 3"]:
        """That part of each frame; beyond the frame its edge repeats."""
        turns = np.broadcast_to(self.turn, (len(frames), 2, 2))
        shifts = np.broadcast_to(self.shift, (len(frames), 2))
        return np.stack([self._picture(*one) for one in zip(frames, turns, shifts, strict=True)])

    def points(self, points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t n 3"]:
        """Landmarks of the recording, in px of the pictures; depth in the same unit."""
        flat = np.einsum("tij,tnj->tni", np.broadcast_to(self.turn, (len(points), 2, 2)), points[..., :2]) + self.shift[:, None]
        depth = points[..., 2:] * np.sqrt(np.linalg.det(self.turn))[:, None, None]
        return np.concatenate([flat, depth], -1).astype(np.float32)

    def _picture(self, frame: Frame, turn: Float[np.ndarray, "2 2"], shift: Float[np.ndarray, " 2"]) -> Frame:
        scale = float(np.sqrt(np.linalg.det(turn)))
        if scale < 0.5:  # area average first: the affine sampler alone would alias
            height, width = frame.shape[:2]
            frame = cv2.resize(frame, None, fx=2 * scale, fy=2 * scale, interpolation=cv2.INTER_AREA)
            turn = turn * np.array([width / frame.shape[1], height / frame.shape[0]])
        middle = np.full(2, 0.5)  # of the first pixel, where OpenCV's coordinates begin
        matrix = np.column_stack([turn, turn @ middle + shift - middle])
        return cv2.warpAffine(frame, matrix, (self.side, self.side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """A stretch of a recording as pictures. ``first``: the recording's frame that it begins with, at MOTION_RATE_HZ. ``pictures``
    and ``points`` stay on the disk until they are looked at."""

    name: str  # of the recording
    split: str
    person: str
    talks: bool
    recording: Path
    first: int
    pictures: UInt8[np.ndarray, "t s s 3"]
    points: Float[np.ndarray, "t 478 3"]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def side(self) -> int:
        return self.pictures.shape[1]

    @property
    def framing(self) -> float:
        """Sides of the middle face in a side of the picture; not a number where no face was tracked."""
        boxes = np.array([face_box(face) for face in self.points.astype(np.float64)])
        return self.side / float(np.nanmedian((boxes[:, 2:] - boxes[:, :2]).max(1)))


def head_crop(points: Float[np.ndarray, "t 478 3"], side: int) -> Crop:
    """The fixed square around a head: a quarter larger than the middle face, more where the head moves far."""
    boxes = np.array([face_box(frame) for frame in points.astype(np.float64)])
    extent = _extent(boxes)
    low, high = np.percentile(boxes[:, :2], 2, axis=0), np.percentile(boxes[:, 2:], 98, axis=0)
    width = float(np.clip(_MARGIN * (high - low).max(), _LOOSE * extent, _LOOSEST * extent))
    scale, corner = side / width, (low + high) / 2 - width / 2
    return Crop(side=side, turn=scale * np.eye(2)[None], shift=-scale * corner[None])


def steady_crop(points: Float[np.ndarray, "t 478 3"], side: int) -> Crop:
    """A square that moves, turns and grows with the head, upright and a quarter larger than the middle face: in the pictures the
    skull stays where it is, so that lips are most of what moves (LatentSync aligns faces so, arXiv 2412.09262). Turns to the side
    and nods remain. Where no face was tracked, it is between its neighbours."""
    tracked = np.flatnonzero(~np.isnan(points[:, 0, 0]))
    faces = points[tracked, :, 0] + 1j * points[tracked, :, 1].astype(np.float64)  # similarities of the plane: turn x + shift
    turn, shift = _steadying(faces[:, RIGID])
    middle = _median(turn[:, None] * faces + shift[:, None])
    right, left = (middle[list({*eye.opening[0], *eye.opening[1]})].mean() for eye in EYES)
    upright = abs(left - right) / (left - right)
    box = np.array([face_box(np.stack([(upright * middle).real, (upright * middle).imag], -1))])
    scale = side / (_LOOSE * _extent(box))
    turn = scale * upright * turn
    shift = scale * (upright * shift - complex(*(box[0, :2] + box[0, 2:]) / 2)) + side / 2 * (1 + 1j)
    turn, shift = (_everywhere(part, tracked, len(points)) for part in (turn, shift))
    return Crop(
        side=side, turn=np.stack([turn.real, -turn.imag, turn.imag, turn.real], -1).reshape(-1, 2, 2),
        shift=np.stack([shift.real, shift.imag], -1),
    )


def make_clips(clips: Sequence[Clip], out: Path, tracks: Path, progress: Progress, config: ClipConfig) -> None:
    """Cuts the recordings into ``out``; what is there already stays. Recordings of a person come in a random order until
    ``config.seconds`` are full. ``tracks``: cache of `track_clips`. ValueError where what is there is of another size."""
    out.mkdir(parents=True, exist_ok=True)
    people: dict[str, float] = {}
    order = np.random.default_rng(config.seed).permutation(len(clips))
    for i, clip in enumerate(clips[j] for j in order):
        progress("cutting", i, len(clips))
        left = round((config.seconds - people.get(clip.person, 0.0)) * MOTION_RATE_HZ)
        if left < config.shortest:
            continue
        done = out / f"{clip.split}__{clip.name}.json"
        if not done.exists():
            points = track_clips([clip], tracks, _silent)[clip.name]
            _cut(clip, points, done, left, config)
        row = json.loads(done.read_text())
        if row.get("steady", False) != config.steady:
            raise ValueError(f"the clips in {out} are {'fixed' if config.steady else 'steady'} ones, not what was asked for: "
                             "give another folder, or empty that one")
        if row["side"] != config.side:
            raise ValueError(
                f"the clips in {out} are {row['side']} px wide, and {config.side} px were asked for: ask for as many, give "
                "another folder, or empty that one"
            )
        frames = sum(stretch["frames"] for stretch in row["stretches"])
        people[clip.person] = people.get(clip.person, 0.0) + frames / MOTION_RATE_HZ
    progress("cutting", len(clips), len(clips))


def load_clips(out: Path, split: str) -> list[VideoClip]:
    """All clips of a split that `make_clips` cut. ValueError where there are none, or some of another size."""
    found = []
    for file in sorted(out.glob(f"{split}__*.json")):
        row = json.loads(file.read_text())
        for stretch in row["stretches"]:
            pictures, points = _files(file, stretch["first"])
            found.append(VideoClip(
                name=row["name"], split=split, person=row["person"], talks=row["talks"], recording=Path(row["recording"]),
                first=stretch["first"], pictures=np.load(pictures, mmap_mode="r"), points=np.load(points, mmap_mode="r"),
            ))
    if not found:
        raise ValueError(f"{out} holds no clips of the split {split!r}: make them first")
    sides = {clip.side for clip in found}
    if len(sides) > 1:
        raise ValueError(f"the clips in {out} are {sorted(sides)} px wide: one size is needed, empty the folder")
    return found


class ClipSampler:
    """Random windows of pictures: a person first, in proportion to seconds ** ``person_power``, then a clip by its length."""

    def __init__(self, clips: Sequence[VideoClip], frames: int, person_power: float):
        self.clips = [clip for clip in clips if len(clip) >= frames]
        if not self.clips:
            raise ValueError(f"no clip has {frames} frames: give shorter windows")
        self.frames = frames
        people: dict[str, list[int]] = {}
        for i, clip in enumerate(self.clips):
            people.setdefault(clip.person, []).append(i)
        self.people = list(people.values())
        self.lengths = [np.array([len(self.clips[i]) for i in group], float) for group in self.people]
        weight = np.array([lengths.sum() for lengths in self.lengths]) ** person_power
        self.weight = weight / weight.sum()

    def draw(self, rng: np.random.Generator) -> tuple[VideoClip, slice]:
        """A clip and the window of it."""
        person = rng.choice(len(self.people), p=self.weight)
        lengths = self.lengths[person]
        clip = self.clips[self.people[person][rng.choice(len(lengths), p=lengths / lengths.sum())]]
        start = int(rng.integers(len(clip) - self.frames + 1))
        return clip, slice(start, start + self.frames)


def _cut(clip: Clip, points: Float[np.ndarray, "t 478 3"], done: Path, left: int, config: ClipConfig) -> None:
    """Writes the stretches of one recording, ``left`` frames at most, and the file that says that they are there."""
    runs = []
    for run in stretches(points, shortest=config.shortest):
        kept = slice(int(run.start), int(min(run.stop, run.start + left)))
        if kept.stop - kept.start >= config.shortest:
            runs.append(kept)
            left -= kept.stop - kept.start
    frames = list(islice(read_frames(clip.path, MOTION_RATE_HZ), max((run.stop for run in runs), default=1)))
    save_stretches(done, {run.start: (frames[run], points[run]) for run in runs}, config, {
        "name": clip.name, "person": clip.person, "talks": clip.talks, "recording": str(clip.path.absolute()),
    })


def save_stretches(
    done: Path, stretches: Mapping[int, tuple[Sequence[Frame], Float[np.ndarray, "t 478 3"]]], config: ClipConfig,
    said: Mapping[str, Any],
) -> None:
    """Heads cut from frames with their landmarks, px, by the frame of the recording that each stretch begins with; then the
    file ``done``, which says so. ``said``: name, person, talks and recording, as in `VideoClip`."""
    rows = []
    for first, (frames, points) in stretches.items():
        crop = (steady_crop if config.steady else head_crop)(points, config.side)
        pictures = crop.pictures(frames)
        for file, values in zip(_files(done, first), (pictures, crop.points(points)), strict=True):
            partial = file.with_suffix(".part.npy")
            np.save(partial, values)
            partial.rename(file)
        rows.append({"first": first, "frames": len(pictures)})
    partial = done.with_suffix(".part")
    partial.write_text(json.dumps({**said, "side": config.side, "steady": config.steady, "stretches": rows}))
    partial.rename(done)


def _files(done: Path, first: int) -> tuple[Path, Path]:
    """Where a stretch's pictures and landmarks are."""
    stem = f"{done.stem}__{first:05d}"
    return done.with_name(f"{stem}.pictures.npy"), done.with_name(f"{stem}.points.npy")


def _silent(_: str, __: int, ___: int) -> None:
    return None


def _extent(boxes: Float[np.ndarray, "t 4"]) -> float:
    """The larger side of the middle one."""
    return float(np.median((boxes[:, 2:] - boxes[:, :2]).max(1)))


def _steadying(points: Complex[np.ndarray, "t n"]) -> tuple[Complex[np.ndarray, " t"], Complex[np.ndarray, " t"]]:
    """The least-squares similarity (turn, shift) of every frame's points to the middle of all of them so treated."""
    own = points - points.mean(1, keepdims=True)
    goal = _median(points)
    for _ in range(2):
        turn = (own.conj() * (goal - goal.mean())).sum(1) / (abs(own) ** 2).sum(1)
        shift = goal.mean() - turn * points.mean(1)
        goal = _median(turn[:, None] * points + shift[:, None])
    return turn, shift


def _median(points: Complex[np.ndarray, "t n"]) -> Complex[np.ndarray, " n"]:
    return np.median(points.real, 0) + 1j * np.median(points.imag, 0)


def _everywhere(values: Complex[np.ndarray, " n"], at: Int[np.ndarray, " n"], frames: int) -> Complex[np.ndarray, " t"]:
    """What is known at some frames at all of them, without the tracker's tremor."""
    return gaussian_filter1d(np.interp(np.arange(frames), at, values), _TREMOR, mode="nearest")
