"""The figures of the sync expert's card, from the recordings of `val`, whom no weights were trained on.

    python scripts/sync_figures.py ../shared/data sync/            # sync/: the folder of `vivavoce train sync`
    python scripts/sync_figures.py ../shared/data sync/ --weights other/sync.safetensors

Everything is said for each part alone and for both together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from vivavoce.judge.expert import FURTHEST, SyncExpert, Windows, distances_by_offset, offset_and_confidence, two_way
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.nets.sync import PARTS
from vivavoce.train.sync import SyncRecipe, prepare_clips
from vivavoce.train.sync_data import Prepared

PIECE = round(5 * MOTION_RATE_HZ)  # frames that an offset is found from
FRAME_MS = 1000 / MOTION_RATE_HZ
RESAMPLES = 2000


def embedded(expert: SyncExpert, seen: Prepared, heard: Prepared, parts: tuple[str, ...], *, still: bool = False) -> Windows:
    """What one clip shows with what another one sounds like; ``still``: only one frame of it, all the time."""
    shapes, crops = seen.shapes, seen.crops.numpy()
    if still:
        frame = shapes[0][0].start + 20
        shapes, crops = [(run, np.zeros_like(shape)) for run, shape in shapes], np.repeat(crops[frame : frame + 1], len(crops), 0)
    return expert.windows(shapes, crops, heard.sounds[0][0].float(), heard.loud, parts)


def pieces(windows: Windows) -> list[Windows]:
    """Five seconds of a clip each, nothing of its sound beyond; those of mostly speech that show a face most of the time."""
    inside = PIECE - 14
    found = []
    for begin in range(0, len(windows.heard) - inside + 1, PIECE):
        chosen = (windows.at >= begin) & (windows.at < begin + inside)
        piece = Windows(
            at=windows.at[chosen] - begin, seen=windows.seen[chosen], heard=windows.heard[begin : begin + inside],
            speech=windows.speech[begin : begin + inside],
        )
        if chosen.sum() > 0.6 * inside and piece.spoken().mean() > 0.5:
            found.append(piece)
    return found


def interval(values: Sequence[np.ndarray]) -> str:
    """Mean over all windows and its 95 % interval when people are drawn anew."""
    rng = np.random.default_rng(0)
    sums, counts = np.array([v.sum() for v in values]), np.array([len(v) for v in values])
    drawn = rng.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return f"{100 * sums.sum() / counts.sum():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def told_apart(expert: SyncExpert, clips: Sequence[Prepared], parts: tuple[str, ...]) -> list[str]:
    """Two-way accuracies."""
    people: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for clip in clips:
        windows = embedded(expert, clip, clip, parts)
        right = two_way(windows)
        people.setdefault(clip.person, []).append((right[~np.isnan(right)], windows.spoken()[~np.isnan(right)]))
    wins = {person: np.concatenate([w for w, _ in found]) for person, found in people.items()}
    speech = {person: np.concatenate([s for _, s in found]) for person, found in people.items()}
    spoken = {person: wins[person][speech[person]] for person in wins if speech[person].any()}
    grid = [v for p, v in spoken.items() if p.startswith("grid")]
    wild = [v for p, v in spoken.items() if not p.startswith("grid")]
    worst = sorted((float(v.mean()), person) for person, v in spoken.items())[:4]
    return [
        f"windows of speech, {100 * np.concatenate(list(speech.values())).mean():.0f} % of {sum(len(w) for w in wins.values())}: "
        f"{interval(list(spoken.values()))}",
        f"all windows: {interval(list(wins.values()))}",
        f"mean of {len(spoken)} people: {100 * np.mean([v.mean() for v in spoken.values()]):.1f}; "
        f"GRID {100 * np.concatenate(grid).mean():.1f}, the others {interval(wild)}",
        "worst people: " + ", ".join(f"{person} {100 * v:.0f}" for v, person in worst),
    ]


def offsets(expert: SyncExpert, clips: Sequence[Prepared], parts: tuple[str, ...]) -> list[str]:
    """Errors of the offset found in five seconds: of the recordings as they are, and with sound shifted by -10 to 10 frames."""
    found = [piece for clip in clips for piece in pieces(embedded(expert, clip, clip, parts))]
    plain = np.array([offset_and_confidence(piece)[0] for piece in found])
    errors = []
    for shift in range(-10, 11):
        gone = np.full((abs(shift), found[0].heard.shape[1]), np.nan, np.float32)
        for piece in found:
            kept = piece.heard[max(-shift, 0) : len(piece.heard) - max(shift, 0)]
            later = replace(piece, heard=np.concatenate([gone, kept] if shift > 0 else [kept, gone]))
            errors.append(abs(offset_and_confidence(later)[0] + shift))
    return [
        f"{len(found)} pieces of 5 s: median absolute offset {FRAME_MS * np.median(abs(plain)):.0f} ms, mean "
        f"{FRAME_MS * abs(plain).mean():.0f} ms, within a frame {100 * (abs(plain) <= 1).mean():.0f} %, within two "
        f"{100 * (abs(plain) <= 2).mean():.0f} %; offsets {sorted(plain.tolist())}",
        f"with the sound moved by -10 to 10 frames: median error {FRAME_MS * np.median(errors):.0f} ms, within a frame "
        f"{100 * (np.array(errors) <= 1).mean():.0f} %",
    ]


def behaviour(expert: SyncExpert, clips: Sequence[Prepared], parts: tuple[str, ...]) -> list[str]:
    """Scores by offset, with another person's sound and with a still mouth."""
    people = {clip.person: clip for clip in clips}  # one clip each
    long = list(people.values())
    own = [embedded(expert, clip, clip, parts) for clip in long]
    other = [embedded(expert, clip, long[i - 1], parts) for i, clip in enumerate(long)]
    still = [embedded(expert, clip, clip, parts, still=True) for clip in long]
    curve = {o: np.nanmean([np.nanmean(w.scores(o)) for w in own]) for o in range(-FURTHEST, FURTHEST + 1)}

    def line(name: str, found: Sequence[Windows]) -> str:
        scores = [np.nanmean(w.scores()) for w in found]
        sure = [offset_and_confidence(w)[1] for w in found]
        apart = [distances_by_offset(w).min() for w in found]
        return (
            f"{name}: score {np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f}), distance {np.mean(apart):.3f}, "
            f"confidence {np.mean(sure):.3f} ({min(sure):.3f} to {max(sure):.3f})"
        )

    wins = [a > b for a in (offset_and_confidence(w)[1] for w in own) for b in (offset_and_confidence(w)[1] for w in other)]
    return [
        "score by offset: " + " ".join(f"{o}:{v:.3f}" for o, v in curve.items()),
        line("own sound", own), line("another's sound", other), line("still mouth", still),
        f"a clip's confidence is higher with its own sound than another's with a stranger's: {100 * np.mean(wins):.1f} %",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("prepared", type=Path, metavar="FOLDER")
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = FaceModel.load(Path(str(resources.files("vivavoce") / "weights" / "face.safetensors")))
    recipe = SyncRecipe(data=args.data, out=args.prepared)
    clips = [clip for clip in prepare_clips(recipe, "val", model, lambda *_: None) if clip.shapes]
    expert = SyncExpert.load(args.weights)
    for parts in ((PARTS[0],), (PARTS[1],), PARTS):
        print("\n#", " and ".join(parts))
        for line in told_apart(expert, clips, parts) + offsets(expert, clips, parts) + behaviour(expert, clips, parts):
            print("-", line)


if __name__ == "__main__":
    main()
