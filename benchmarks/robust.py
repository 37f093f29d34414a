"""What noise, rooms, lines and other ways of speaking cost: lips of the validation clips when their sound is spoiled.

    python benchmarks/robust.py --data ../shared/data --out runs/robust --tracks runs/tracks

The recorded face itself makes the motion (curves, nothing is rendered). Figures are medians over clips, of GRID's speaker and of
the others: correlation of the opening of single samples (mean over seeds) and of the samples' mean, and how much they lose
against the clean sound, in percent. Finished conditions are kept in OUT/robust.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import GROUPS, Kept, fail, group_of, landmarks, median, motions, one_thread, recorded, rest_of, table, weights_of
from jaxtyping import Float
from torch import Tensor

from vivavoce import Animator
from vivavoce.latent.mesh import lip_opening, mouth_width
from vivavoce.latent.retarget import Rest
from vivavoce.metrics.lips import closure_f1, correlation
from vivavoce.speech.sound import load_sound
from vivavoce.train.augment import add_noise, babble, gain, mp3, music, room, shout, telephone, whisper
from vivavoce.train.data import Clip, read_manifest

Sound = Float[Tensor, " s"]
Spoil = Callable[[Sound, np.random.Generator], Sound]
SNR_DB = 10.0
FIGURES = ("lip_corr", "closure_f1", "width_corr", "mean_curve")


@dataclass(frozen=True)
class Face:
    """A recorded face: at rest, and its curves."""

    rest: Rest
    opening: Float[np.ndarray, " t"]
    width: Float[np.ndarray, " t"]


def conditions(talkers: Sequence[Sound]) -> dict[str, Spoil]:
    """Ways to spoil a sound, by name."""
    return {
        "clean": lambda sound, _rng: sound,
        "babble 10 dB": lambda sound, rng: add_noise(sound, babble(talkers, len(sound), rng), SNR_DB),
        "music 10 dB": lambda sound, rng: add_noise(sound, music(len(sound), rng), SNR_DB),
        "room, echoes -10 dB": lambda sound, rng: room(sound, 0.6, SNR_DB, rng),
        "room, echoes 0 dB": lambda sound, rng: room(sound, 0.6, 0.0, rng),
        "quiet, -40 dB": lambda sound, _rng: gain(sound, -40.0),
        "whispered": whisper,
        "shouted": lambda sound, _rng: shout(sound),
        "telephone 8 kHz": lambda sound, _rng: telephone(sound),
        "MP3 32 kbit/s": lambda sound, _rng: mp3(sound, 32),
    }


def figures(
    animator: Animator, clips: Sequence[Clip], faces: dict[str, Face], spoil: Spoil, seeds: Sequence[int], quick: bool
) -> dict[str, dict[str, float]]:
    """Medians over the clips of each group under one condition."""
    sounds = [spoil(load_sound(clip.path), np.random.default_rng(i)) for i, clip in enumerate(clips)]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in GROUPS}
    for clip, made in zip(clips, motions(animator, sounds, seeds, quick=quick), strict=True):
        face = faces[clip.name]
        count = min(len(face.opening), len(made[0]))
        opening, width = face.opening[:count], face.width[:count]
        points = [landmarks(animator, motion, face.rest, seed)[:count] for motion, seed in zip(made, seeds, strict=True)]
        gaps = [lip_opening(p) for p in points]
        rows[group_of(clip)].append({
            "lip_corr": float(np.mean([correlation(g, opening) for g in gaps])),
            "closure_f1": float(np.mean([closure_f1(g, opening) for g in gaps])),
            "width_corr": float(np.mean([correlation(mouth_width(p), width) for p in points])),
            "mean_curve": correlation(np.mean(gaps, 0), opening),
            "lip_gain": float(np.mean([g.std() for g in gaps]) / opening.std()),
        })
    return {name: {k: median(r[k] for r in each) for k in each[0]} for name, each in rows.items() if each}


def report(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """A table of figures and losses per group."""
    parts = []
    for name in results["clean"]:
        clean = results["clean"][name]
        head = [name, *(h for figure in FIGURES for h in (figure, "loss %")), "lip_gain"]
        rows = [
            [how, *(v for f in FIGURES for v in (row[name][f], 100 * (1 - row[name][f] / clean[f]))), row[name]["lip_gain"]]
            for how, row in results.items()
        ]
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--tracks", type=Path, help="landmarks as training tracks them; OUT/tracks by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="bfloat16")
    args = parser.parse_args()
    if args.samples < 1:
        fail(f"{args.samples} samples were asked for: give at least 1")
    one_thread()
    seeds = list(range(args.seed, args.seed + args.samples))
    kept = Kept(args.out / "robust.json", {"weights": weights_of(args.weights), "seeds": seeds, "quick": args.quick})
    animator = Animator.load(args.weights)
    clips = read_manifest(args.data, "val")
    faces = {}
    for name, points in recorded(clips, args.tracks or args.out / "tracks").items():
        faces[name] = Face(rest_of(points, animator), lip_opening(points), mouth_width(points))
    talkers = [load_sound(path) for path in sorted((args.data / "speech").glob("libritts*.flac"))[:8]]
    if not talkers:
        fail(f"{args.data}/speech has no recordings to make babble of")
    results = {}
    for name, spoil in conditions(talkers).items():
        results[name] = kept.get(name, figures, animator, clips, faces, spoil, seeds, args.quick)
    print(report(results))


if __name__ == "__main__":
    main()
