"""Judge vivavoce on recordings that did not train it: for every clip of a split, one of its frames speaks with its own sound.

    python benchmarks/validate.py --data ../shared/data --judge ../shared/tools/judge.py --out runs/validate
    python benchmarks/validate.py ... --samples 4 --jobs 2          # seeds 0 to 3, and the mean of their lip curves
    python benchmarks/validate.py ... --samples 4 --curves --quick  # nothing rendered: under a minute with tracks at hand

The portrait is the frame with the most nearly closed lips among those with open eyes that face the viewer. One sample shows
how natural the motion is; the mean of several shows what was understood of the speech, because what a sampler adds of its own
averages out. Both are judged by the functions of judge.py itself, clip by clip; the medians of GRID and of the other clips
("wild") are printed and kept in OUT/figures.json, those of the first seed also as judge.py writes them (OUT/judge-grid.json,
OUT/judge-wild.json).

With ``--curves`` the recorded face itself makes the generated motion and its landmarks are judged; where it is close to the
rendered figures it may replace them from day to day (docs/log.md says how close).

Finished clips are kept, so an interrupted run goes on; OUT belongs to one set of weights. ``--cache`` may be shared between
runs: recordings and portraits, tracked. The judge is no part of vivavoce and needs more, for identity:
pip install dlib-bin face_recognition_models
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import (
    GROUPS,
    Kept,
    fail,
    fingerprint,
    group_of,
    landmarks,
    median,
    motions,
    one_thread,
    progress,
    recorded,
    rest_of,
    table,
    weights_of,
)
from jaxtyping import Float
from PIL import Image

from vivavoce import Animator, Portrait
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.audio import read_audio
from vivavoce.media.video import VideoWriter, read_frames
from vivavoce.speech.sound import load_sound
from vivavoce.train.data import Clip, read_manifest
from vivavoce.train.takes import portrait_frame

MESH_COMPONENTS = 24  # judge.py's
SHOWN = (
    "lip_corr", "lip_lag_ms", "lip_gain", "width_corr", "closure_f1", "head_ratio", "jerk_ratio", "brow_ratio", "blink_per_min",
    "blink_per_min_real", "mouth_sharp", "face_sharp", "flicker", "identity", "mesh_frechet",
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be validated, and where things are."""

    data: Path
    judge: Path
    out: Path
    cache: Path
    tracks: Path
    weights: Path | None
    seeds: tuple[int, ...]
    size: int
    only: tuple[str, ...]

    def clips(self) -> list[Clip]:
        return [c for c in read_manifest(self.data, "val") if not self.only or any(part in c.name for part in self.only)]

    def video(self, clip: Clip, seed: int) -> Path:
        return self.out / f"seed-{seed}" / f"{clip.name}.mp4"

    def picture(self, clip: Clip) -> Path:
        return self.cache / f"{clip.name}.png"


class Judge:
    """judge.py as a module. What it tracks is kept beside the video or where it is told to, without the pictures."""

    def __init__(self, path: Path):
        spec = importlib.util.spec_from_file_location("judge", path)
        if spec is None or spec.loader is None or not path.is_file():
            fail(f"{path} is no judge: give judge.py of the shared tools")
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules["judge"] = self.module
        spec.loader.exec_module(self.module)
        self._identity: Any = None

    def identity(self) -> Callable[[np.ndarray], np.ndarray | None] | None:
        """Pictures to descriptors of the face; descriptors stay what they are. None without dlib."""
        if self._identity is None:
            try:
                self._identity = self.module.Identity()
            except ImportError:
                return None
        return lambda seen: seen if seen.ndim == 1 else self._identity(seen)

    def tracked(self, video: Path, kept: Path, *, identity: bool = False) -> Any:
        """judge.py's Tracked, whose samples are descriptors rather than pictures."""
        if not kept.is_file():
            found = self.module.track(str(video))
            describe = self.identity() if identity else None
            described = [d for d in map(describe, found.samples) if d is not None] if describe else []
            partial = kept.with_suffix(".part.npz")
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(
                partial, landmarks=found.landmarks, rotation=found.rotation, found=found.found, samples=np.array(described),
                seen=np.array([found.mouth_sharp, found.face_sharp, found.border]), size=np.array(found.size),
            )
            partial.rename(kept)
        with np.load(kept) as file:
            return self.module.Tracked(
                file["landmarks"], file["rotation"], file["found"], *map(float, file["seen"]), list(file["samples"]),
                tuple(file["size"]),
            )

    def of_points(self, points: Float[np.ndarray, "t 478 3"]) -> Any:
        """Tracked, of landmarks that no picture shows."""
        template = np.median(points, 0)
        rotation = np.stack([self.module.rotation_of(p, template) for p in points])
        nothing = float("nan")
        return self.module.Tracked(points, rotation, np.ones(len(points), bool), nothing, nothing, nothing, [], (0, 0))

    def row(self, generated: Any, real: Any, portrait: Path | None) -> dict[str, float]:
        """judge.py's figures of one pair that is tracked already."""
        pair = {"generated": generated, "real": real}
        describe = self.identity() if portrait else None
        with mock.patch.object(self.module, "track", lambda name, _limit: pair[name]):
            row, _, _ = self.module.judge("generated", "real", portrait and str(portrait), describe, None)
        return row

    def mean_row(self, generated: Sequence[Any], real: Any) -> dict[str, float]:
        """The lips' figures of the mean of several samples' curves."""
        module = self.module
        count = min(len(t.landmarks) for t in (*generated, real))
        theirs = {k: v[:count] for k, v in module.curves(real).items()}
        each = [module.curves(t) for t in generated]
        gap, width = (np.mean([curves[name][:count] for curves in each], 0) for name in ("gap", "width"))
        return {
            "lip_corr": module.corr(gap, theirs["gap"]), "lip_gain": float(gap.std() / theirs["gap"].std()),
            "lip_lag_ms": 1000 / module.RATE * module.best_lag(gap, theirs["gap"]),
            "width_corr": module.corr(width, theirs["width"]), "closure_f1": module.closure_f1(gap, theirs["gap"]),
        }

    def frechet(self, generated: Sequence[Any], space: MeshSpace) -> float:
        """mesh_frechet of the whole set."""
        flat = np.concatenate([self.module.flat_mesh(t)[:n] for t, n in zip(generated, space.frames, strict=True)])
        return self.module.frechet(space.real, (flat - space.mean) @ space.basis)

    def mesh_space(self, real: Sequence[Any], frames: Sequence[int]) -> MeshSpace:
        """Where judge.py compares meshes, found once for all seeds; what it computes does not depend on the axes in there."""
        flat = np.concatenate([self.module.flat_mesh(t)[:n] for t, n in zip(real, frames, strict=True)])
        mean, thinned = flat.mean(0), flat[:: max(1, len(flat) // 4000)]
        _, vectors = np.linalg.eigh((thinned - mean).T @ (thinned - mean))
        basis = vectors[:, -MESH_COMPONENTS:]
        return MeshSpace(frames, mean, basis, (flat - mean) @ basis)


@dataclass(frozen=True)
class MeshSpace:
    """Principal components of the recorded meshes, and the meshes in them; ``frames`` of each clip count."""

    frames: Sequence[int]
    mean: np.ndarray
    basis: np.ndarray
    real: np.ndarray


def portrait_of(clip: Clip, animator: Animator, task: Task) -> np.ndarray:
    """The picture that speaks, kept in the cache."""
    picture = task.picture(clip)
    if not picture.is_file():
        frames = list(read_frames(clip.path, MOTION_RATE_HZ))
        image = frames[portrait_frame(animator.space.track(frames), np.array([f.mean() for f in frames]))]
        partial = picture.with_suffix(f".{os.getpid()}.png")
        Image.fromarray(image).save(partial)
        partial.rename(picture)
    return np.asarray(Image.open(picture).convert("RGB"))


def animate(clip: Clip, seed: int, animator: Animator, task: Task) -> Path:
    """The video of one clip and seed."""
    video = task.video(clip, seed)
    if not video.exists():
        video.parent.mkdir(parents=True, exist_ok=True)
        portrait = Portrait(image=portrait_of(clip, animator, task), name=clip.name)
        made = animator.animate(portrait, read_audio(clip.path), size=task.size, seed=seed)
        first = next(made)
        with VideoWriter(video, fps=25.0, size=(first.shape[1], first.shape[0]), sound=clip.path) as writer:
            writer.write(first)
            for frame in made:
                writer.write(frame)
    return video


_worker: tuple[Animator, Judge] | None = None


def make(task: Task, clip: Clip) -> str:
    """All videos of one clip, made and tracked, in this process or a worker."""
    global _worker
    if _worker is None:
        one_thread()
        _worker = Animator.load(task.weights), Judge(task.judge)
    animator, judge = _worker
    for seed in task.seeds:
        video = animate(clip, seed, animator, task)
        judge.tracked(video, video.with_suffix(".npz"), identity=True)
    judge.tracked(clip.path, task.cache / f"{clip.name}.npz")
    return clip.name


def make_all(task: Task, clips: list[Clip], jobs: int) -> None:
    """All videos, by several processes if asked."""
    if jobs == 1:
        for i, clip in enumerate(clips):
            make(task, clip)
            progress("clips", i + 1, len(clips))
        return
    longest_first = sorted(clips, key=lambda c: -c.path.stat().st_size)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for i, _ in enumerate(pool.map(make, [task] * len(clips), longest_first)):
            progress("clips", i + 1, len(clips))


def rendered(task: Task, judge: Judge, kept: Kept, jobs: int) -> dict[str, Any]:
    """Figures of rendered video."""
    clips = task.clips()
    make_all(task, clips, jobs)
    groups = {}
    for name, chosen in grouped(clips):
        real = {c.name: judge.tracked(c.path, task.cache / f"{c.name}.npz") for c in chosen}
        made = {s: [judge.tracked(task.video(c, s), task.video(c, s).with_suffix(".npz")) for c in chosen] for s in task.seeds}
        rows = {}
        for seed in task.seeds:
            rows[seed] = [
                {"clip": c.name, **kept.get(f"{seed}/{c.name}", judge.row, t, real[c.name], task.picture(c))}
                for c, t in zip(chosen, made[seed], strict=True)
            ]
            write_pairs(task, chosen, name, seed)
        groups[name] = gathered(judge, chosen, rows, made, real)
        first = groups[name]["seeds"][str(task.seeds[0])]
        (task.out / f"judge-{name}.json").write_text(json.dumps({"clips": rows[task.seeds[0]], "median": first}, indent=1))
    return groups


def on_curves(task: Task, judge: Judge, quick: bool) -> dict[str, Any]:
    """Figures of landmarks alone."""
    clips, groups = task.clips(), {}
    animator = Animator.load(task.weights)
    points = recorded(clips, task.tracks)
    spoken = dict(zip(
        (c.name for c in clips), motions(animator, [load_sound(c.path) for c in clips], task.seeds, quick=quick), strict=True
    ))
    for name, chosen in grouped(clips):
        real = {c.name: judge.of_points(points[c.name]) for c in chosen}
        made: dict[int, list[Any]] = {seed: [] for seed in task.seeds}
        for clip in chosen:
            rest = rest_of(points[clip.name], animator)
            for seed, motion in zip(task.seeds, spoken[clip.name], strict=True):
                made[seed].append(judge.of_points(landmarks(animator, motion, rest, seed)))
        rows = {
            seed: [{"clip": c.name, **judge.row(t, real[c.name], None)} for c, t in zip(chosen, made[seed], strict=True)]
            for seed in task.seeds
        }
        groups[name] = gathered(judge, chosen, rows, made, real)
    return groups


def grouped(clips: list[Clip]) -> list[tuple[str, list[Clip]]]:
    """GRID and wild, each where there is any."""
    parts = [(name, [c for c in clips if group_of(c) == name]) for name in GROUPS]
    return [(name, chosen) for name, chosen in parts if chosen]


def gathered(
    judge: Judge, clips: list[Clip], rows: dict[int, list[dict]], made: dict[int, list[Any]], real: dict[str, Any]
) -> dict[str, Any]:
    """Medians over clips: of every seed, their mean, and of the mean curves; and the rows that they come from."""
    seeds = {}
    theirs = [real[c.name] for c in clips]
    frames = [min(len(t.landmarks), *(len(each[i].landmarks) for each in made.values())) for i, t in enumerate(theirs)]
    space = judge.mesh_space(theirs, frames)
    for seed, each in rows.items():
        keys = dict.fromkeys(k for row in each for k in row if k != "clip")
        seeds[str(seed)] = {k: median(row.get(k, np.nan) for row in each) for k in keys}
        seeds[str(seed)]["mesh_frechet"] = judge.frechet(made[seed], space)
    together = [
        {"clip": c.name, **judge.mean_row([made[seed][i] for seed in made], real[c.name])} for i, c in enumerate(clips)
    ]
    return {
        "seeds": seeds,
        "mean": {k: float(np.mean([m[k] for m in seeds.values()])) for k in next(iter(seeds.values()))},
        "mean_curve": {k: median(row[k] for row in together) for k in together[0] if k != "clip"},
        "clips": {str(seed): each for seed, each in rows.items()}, "clips_mean_curve": together,
    }


def write_pairs(task: Task, clips: list[Clip], name: str, seed: int) -> None:
    """What judge.py takes, for whoever wants to run it himself."""
    with (task.out / f"pairs-{name}-{seed}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["generated", "real", "portrait"])
        rows.writerows([task.video(c, seed).resolve(), c.path.resolve(), task.picture(c).resolve()] for c in clips)


def report(groups: dict[str, Any], against: dict[str, Any] | None) -> str:
    """One table per group; with ``against`` the ratio of the mean over seeds to that of the other run."""
    parts = []
    for name, group in groups.items():
        other = (against or {}).get(name)
        ratios = ["mean/other", "curve/other"] if other else []
        head = [name, *(f"seed {s}" for s in group["seeds"]), "mean", "mean curve", *ratios]
        rows = []
        for key in (k for k in SHOWN if k in group["mean"] and not np.isnan(group["mean"][k])):
            row = [key, *(m[key] for m in group["seeds"].values()), group["mean"][key], group["mean_curve"].get(key)]
            if other:
                row += [ratio(group[part].get(key), other[part].get(key)) for part in ("mean", "mean_curve")]
            rows.append(row)
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """None where there is nothing to divide."""
    return None if ours is None or not theirs else ours / theirs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the first sample")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=1, help="processes that render and track")
    parser.add_argument("--cache", type=Path, help="portraits and recordings as the judge tracks them; OUT/cache by default")
    parser.add_argument("--curves", action="store_true", help="render nothing")
    parser.add_argument("--tracks", type=Path, help="landmarks as training tracks them, for --curves; CACHE/tracks by default")
    parser.add_argument("--quick", action="store_true", help="bfloat16, for --curves")
    parser.add_argument("--clips", nargs="*", default=[], help="only clips with one of these in their name")
    parser.add_argument("--against", type=Path, help="figures.json of another run to compare with")
    args = parser.parse_args()
    if args.samples < 1 or args.jobs < 1:
        fail(f"{args.samples} samples by {args.jobs} processes were asked for: give at least 1 of each")
    for path in (args.judge, *([args.against] if args.against else [])):
        if not path.is_file():
            fail(f"{path} is not a file")
    return args


def main() -> None:
    args = arguments()
    one_thread()
    args.out.mkdir(parents=True, exist_ok=True)
    cache = args.cache or args.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    task = Task(
        data=args.data, judge=args.judge, out=args.out, cache=cache, tracks=args.tracks or cache / "tracks", weights=args.weights,
        seeds=tuple(range(args.seed, args.seed + args.samples)), size=args.size, only=tuple(args.clips),
    )
    judge = Judge(task.judge)
    if args.curves:
        groups = on_curves(task, judge, args.quick)
    else:
        setting = {"weights": weights_of(args.weights), "judge": fingerprint(args.judge), "size": args.size}
        groups = rendered(task, judge, Kept(args.out / "rows.json", setting), args.jobs)
    name = "curves.json" if args.curves else "figures.json"
    (args.out / name).write_text(json.dumps(groups, indent=1))
    print(report(groups, json.loads(args.against.read_text()) if args.against else None))


if __name__ == "__main__":
    main()
