"""Recordings to pairs for the refiner: one frame of a recording is the portrait, others are what it should have become.

The portrait is warped to the other frame's motion exactly as the renderer would do it, so that what the refiner learns to mend is
what it meets later. Pairs come as units: one portrait and two neighbouring frames, with the flow between them.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int8, UInt8
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vivavoce.latent.mesh import FaceModel, eye_opening, lip_opening
from vivavoce.latent.motion import MOTION_RATE_HZ, Motion
from vivavoce.latent.motion_space import as_drawn
from vivavoce.latent.refine import Canon, View, crop
from vivavoce.latent.retarget import landmarks_of, motion_of, rest_of_picture
from vivavoce.latent.stretches import stretches
from vivavoce.latent.topology import SKIN
from vivavoce.latent.warp import Renderer, prepare
from vivavoce.media.video import read_frames
from vivavoce.train.data import Clip, Progress, face_digest

DISPLACEMENT_GRAIN, FLOW_GRAIN = 1 / 8, 1 / 16  # px of the crop to a step of the 8-bit numbers that keep them


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """``units``: of one person with one clip or many; ``units_most``: of the person with most clips. ``targets``: units that
    share a portrait. ``jitter``: of the crop's turn (radians), scale, and place (px). Pairs whose crops are less alike than
    ``worst_db`` show a cut or a lost face."""

    units: int = 64
    units_most: int = 640
    targets: int = 4
    smallest_face: float = 70.0  # px
    jitter: tuple[float, float, float] = (0.06, 0.06, 3.0)
    worst_db: float = 12.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Units:
    """n portraits (own), each with two neighbouring frames: see `refine.View` for what is kept of them; truth: the recorded
    frames; flow: from the second frame's pixels to the first's. Displacements and flow are in their grains, shares in 1/255."""

    own: UInt8[Tensor, "n s s 3"]
    plain: UInt8[Tensor, "n 2 s s 3"]
    drawn: UInt8[Tensor, "n 2 s s 3"]
    truth: UInt8[Tensor, "n 2 s s 3"]
    openings: UInt8[Tensor, "n 2 s s"]
    gate: UInt8[Tensor, "n 2 s s"]
    displacement: Int8[Tensor, "n 2 s s 2"]
    flow: Int8[Tensor, "n s s 2"]

    def __len__(self) -> int:
        return len(self.own)

    def pick(self, index: Tensor) -> Units:
        return Units(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def window(self, rows: slice, columns: slice) -> Units:
        """The same units, of which less is seen."""
        single = {"own": self.own[:, rows, columns], "flow": self.flow[:, rows, columns]}
        double = {f.name: getattr(self, f.name)[:, :, rows, columns] for f in fields(self) if f.name not in single}
        return Units(**single, **double)


def make_pairs(
    clips: Sequence[Clip], tracks: dict[str, Float[np.ndarray, "t 478 3"]], model: FaceModel, folder: Path, config: PairConfig,
    progress: Progress, *, jobs: int = 1,
) -> list[Path]:
    """A file of units per clip in the folder, made unless it is there; clips without a usable stretch have none. What was made
    otherwise, or with another share of a person's units because there were fewer or more clips, is made again."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counter(clip.person for clip in clips)
    most = counts.most_common(1)[0][0]
    tasks = []
    for person in sorted(counts):
        own = sorted((c for c in clips if c.person == person), key=lambda c: zlib.crc32(c.name.encode()))
        sources = max(1, (config.units_most if person == most and len(own) > 20 else config.units) // config.targets)
        share = [sources // len(own) + (i < sources % len(own)) for i in range(len(own))]
        tasks += [(clip, n) for clip, n in zip(own, share, strict=True) if n]
    work = partial(_clip_file, model=model, folder=folder, config=config)
    given = [(clip, n, tracks[clip.name]) for clip, n in tasks]
    made = []
    if jobs == 1:
        for i, task in enumerate(given):
            progress("making pairs", i, len(given))
            made.append(work(task))
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for i, file in enumerate(pool.map(work, given)):
                progress("making pairs", i, len(given))
                made.append(file)
    progress("making pairs", len(given), len(given))
    return [file for file in made if file.stat().st_size > 0]


def load_units(files: Sequence[Path]) -> Units:
    """All units of the files in memory, 0.6 MB each. ValueError where there are none."""
    if not files:
        raise ValueError("no recording has a face of usable size in it: give recordings of talking faces")
    parts = [load_file(file) for file in files]
    return Units(**{f.name: torch.cat([part[f.name] for part in parts]) for f in fields(Units)})


def _clip_file(
    task: tuple[Clip, int, Float[np.ndarray, "t 478 3"]], *, model: FaceModel, folder: Path, config: PairConfig
) -> Path:
    clip, sources, points = task
    file = folder / f"{clip.split}__{clip.name}.safetensors"
    said = {"portraits": sources, **asdict(config), "face": face_digest(model)}
    how = json.dumps({key: value for key, value in said.items() if key not in ("units", "units_most")})  # those say portraits
    if not file.exists() or _made_of(file) not in (how, None):
        cv2.setNumThreads(1)
        found = _units_of(clip, sources, points.astype(np.float64), model, config)
        temporary = file.with_suffix(".part")
        if found:
            parts = {f.name: torch.stack([unit[f.name] for unit in found]) for f in fields(Units)}
            save_file(parts, temporary, {"made_of": how})
        else:
            temporary.write_bytes(b"")
        temporary.rename(file)
    return file


def _made_of(file: Path) -> str | None:
    """How the file's units were made; None where it does not say, as of an earlier version, or where nothing was of use."""
    if not file.stat().st_size:
        return None
    with safe_open(file, framework="pt") as kept:
        return (kept.metadata() or {}).get("made_of")


def _units_of(
    clip: Clip, sources: int, points: Float[np.ndarray, "t 478 3"], model: FaceModel, config: PairConfig
) -> list[dict[str, Tensor]]:
    rng = np.random.default_rng([config.seed, zlib.crc32(clip.name.encode())])
    runs = [run for run in stretches(points) if _extent(points[run.start]) >= config.smallest_face]
    if not runs:
        return []
    frames = [_squared(frame) for frame in read_frames(clip.path, MOTION_RATE_HZ)]
    drawn_model = as_drawn(model)
    found = []
    length = np.array([run.stop - run.start for run in runs], float)
    for _ in range(sources):
        run = runs[rng.choice(len(runs), p=length / length.sum())]
        stop = min(run.stop, len(frames))
        if stop - run.start < 10:
            continue
        seen = points[run.start : stop]
        start = _portrait(seen, rng)
        rest = rest_of_picture(seen[start], model)
        motion = motion_of(seen, rest, model)
        prepared = prepare(frames[run.start + start], seen[start].astype(np.float32))
        prepared = replace(prepared, canon=_jittered(prepared.canon, prepared.image, config, rng))
        renderer = Renderer(prepared)
        for target in _targets(seen, motion, start, config.targets, rng):
            pair = Motion(**{name: values[target : target + 2] for name, values in vars(motion).items()})
            marks = landmarks_of(pair, rest, drawn_model).astype(np.float32)
            geometry = [renderer.geometry(m) for m in marks]
            views = [renderer.draft(g).view for g in geometry]
            truth = [crop(frames[run.start + target + k], v.place) for k, v in enumerate(views)]
            if all(_db(v.plain, t) >= config.worst_db for v, t in zip(views, truth, strict=True)):
                found.append(_unit(prepared.canon, views, truth, renderer.flow(*geometry)))
    return found


def _squared(frame: np.ndarray) -> np.ndarray:
    """The frame with its right or lower edge repeated until it is square; nothing in it moves."""
    height, width = frame.shape[:2]
    side = max(height, width)
    return np.pad(frame, ((0, side - height), (0, side - width), (0, 0)), mode="edge")


def _extent(points: Float[np.ndarray, "478 3"]) -> float:
    return float(np.ptp(points[:SKIN, :2], axis=0).max())


def _db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures."""
    return float(10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-3)))


def _portrait(points: Float[np.ndarray, "t 478 3"], rng: np.random.Generator) -> int:
    """A frame to start from: most portraits have closed lips and open eyes, but not all."""
    kind = rng.random()
    if kind < 0.2:
        return 0
    if kind < 0.5:
        return int(rng.integers(len(points)))
    usable = eye_opening(points) > 0.8 * np.median(eye_opening(points))
    gap = np.where(usable, lip_opening(points), np.inf)
    return int(rng.choice(np.argsort(gap)[: max(1, len(gap) // 4)]))


def _targets(
    points: Float[np.ndarray, "t 478 3"], motion: Motion, start: int, count: int, rng: np.random.Generator
) -> list[int]:
    """Frames to become: all degrees of opening, some blinks, some turned heads. The last frame is nobody's first of two."""
    last = len(points) - 1
    by_gap, by_eyes = np.argsort(lip_opening(points)[:last]), np.argsort(eye_opening(points)[:last])
    turn = (motion.rotation - motion.rotation[start]).norm(dim=-1).numpy()[:last]
    by_turn = np.argsort(turn)
    chosen = []
    for _ in range(count):
        kind, place = rng.random(), rng.random()
        if kind < 0.65:
            chosen.append(int(by_gap[int(place**0.6 * last)]))
        elif kind < 0.8:
            chosen.append(int(by_eyes[int(0.1 * place * last)]))
        else:
            chosen.append(int(by_turn[int((0.7 + 0.3 * place) * last)]))
    return chosen


def _jittered(canon: Canon, image: np.ndarray, config: PairConfig, rng: np.random.Generator) -> Canon:
    """The crop where a face of slightly other proportions would have put it."""
    turn, scale, place = config.jitter
    moved = replace(
        canon, angle=canon.angle + turn * rng.uniform(-1, 1), grain=canon.grain * (1 + scale * rng.uniform(-1, 1)),
        centre=canon.centre + canon.grain * np.array([*rng.uniform(-place, place, 2), 0.0]),
    )
    return replace(moved, image=crop(image, moved.place()))


def _unit(canon: Canon, views: Sequence[View], truth: Sequence[np.ndarray], flow: np.ndarray) -> dict[str, Tensor]:
    def eighth(values: np.ndarray, grain: float) -> np.ndarray:
        return np.clip(np.round(values / grain), -127, 127).astype(np.int8)

    arrays = {
        "own": canon.image, "truth": np.stack(truth), "flow": eighth(flow, FLOW_GRAIN),
        "displacement": np.stack([eighth(v.displacement, DISPLACEMENT_GRAIN) for v in views]),
        **{name: np.stack([getattr(v, name) for v in views]) for name in ("plain", "drawn")},
        **{name: np.stack([np.round(255 * getattr(v, name)).astype(np.uint8) for v in views]) for name in ("openings", "gate")},
    }
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
