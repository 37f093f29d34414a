"""Self-reenactment: every recording's first frame is driven by the recording's own motion and compared with the recording.

    python benchmarks/reenact.py --data ../shared/data --out runs/reenact
    python benchmarks/reenact.py ... --judge ../shared/tools/judge.py      # identity as well

Rows: the still portrait; the warped portrait with nothing drawn; with mouth and eyes drawn; and refined, which is what `vivavoce
drive` shows. Columns are means over the clips of a group (GRID, the others, all): peak signal-to-noise ratio (dB) and structural
similarity of the face's box, PSNR of the mouth's box, both boxes as judge.py cuts them from the recorded landmarks; sharpness of
the mouth over the recorded one's; and how much more the mouth changes from one frame to the next than the recorded one does.
Last, of portraits that show the inside of their mouth: by how much the refined mouth is nearer to the recorded one than the
warped one is (dB), and in which share of the frames it is further away by more than 0.1 dB.
With ``--judge`` the identity of the refined and of the recorded frames against the portrait as well.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from common import GROUPS, fail, group_of, one_thread, progress, recorded, table
from jaxtyping import Float
from skimage.metrics import structural_similarity
from validate import Judge

from vivavoce import Animator, Portrait
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.motion_space import Reference, paste
from vivavoce.latent.retarget import motion_of, rest_of_picture
from vivavoce.latent.topology import SKIN
from vivavoce.latent.warp import Draft, Renderer
from vivavoce.media.video import read_frames
from vivavoce.train.data import Clip, read_manifest

ROWS = ("still", "warp", "drawn", "refined")
MOUTH = (61, 291, 0, 17)
MOUTH_SIDE = 96  # px at which mouths are compared for sharpness, judge.py's
Box = tuple[int, int, int, int]


def boxes(points: Float[np.ndarray, "478 3"]) -> tuple[Box, Box]:
    """Face and mouth as judge.py cuts them out: (x0, y0, x1, y1) px."""
    face, mouth = points[:SKIN, :2], points[list(MOUTH), :2]
    half = 0.75 * np.linalg.norm(mouth[0] - mouth[1])
    centre = mouth.mean(0)
    corners = np.array([[*face.min(0), *face.max(0)], [*(centre - half), *(centre + half)]])
    a, b = corners.round().astype(int).clip(0).tolist()
    return tuple(a), tuple(b)


def cut(picture: np.ndarray, box: Box) -> np.ndarray:
    return picture[box[1] : box[3], box[0] : box[2]]


def psnr(made: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((made.astype(float) - truth) ** 2).mean(), 1e-2)))


def sharpness(mouth: np.ndarray) -> float:
    grey = cv2.resize(mouth, (MOUTH_SIDE, MOUTH_SIDE), interpolation=cv2.INTER_CUBIC).mean(-1)
    return float(np.sqrt((cv2.Laplacian(grey, cv2.CV_64F) ** 2).mean()))


def driven(
    clip: Clip, points: Float[np.ndarray, "t 478 3"], animator: Animator, at_most: int
) -> Iterator[tuple[int, dict[str, np.ndarray], np.ndarray, bool]]:
    """(number, pictures by row, recorded picture, whether the portrait shows the inside of its mouth) of pairs of neighbouring
    frames spread over a clip."""
    frames = list(read_frames(clip.path, MOTION_RATE_HZ))
    first, reference = begun(frames, clip, animator)
    frames, points = frames[first:], points[first:]
    assert reference.canvas.shape == frames[0].shape, "recordings are small enough to be kept as they are"
    space, corner = animator.space, np.array([*reference.corner, 0.0])
    motion = motion_of(points, rest_of_picture(points[0], space.model), space.model)
    marks = space.landmarks(motion, reference).astype(np.float32)
    renderer = Renderer(reference.prepared)

    def whole(draft: Draft, window: np.ndarray) -> np.ndarray:
        frame = reference.canvas.copy()
        paste(frame, renderer.finish(Draft(plain=draft.plain, drawn=window.copy(), view=draft.view), None), reference.corner)
        return frame

    assert space.refiner is not None and (corner[:2] >= 0).all()
    last = min(len(frames), len(points)) - 1
    starts = np.unique(np.linspace(2, last - 1, min(at_most // 2, last // 2)).astype(int))
    for i in (j for start in starts for j in (int(start), int(start) + 1)):
        draft = renderer.draft(renderer.geometry(marks[i]))
        pictures = {"still": frames[0], "warp": whole(draft, draft.plain), "drawn": whole(draft, draft.drawn)}
        (correction,) = space.refiner([draft.view])
        frame = reference.canvas.copy()
        paste(frame, renderer.finish(draft, correction), reference.corner)
        yield first + i, {**pictures, "refined": frame}, frames[i], reference.prepared.mouth.shown


def begun(frames: list[np.ndarray], clip: Clip, animator: Animator) -> tuple[int, Reference]:
    """The first frame that will do as a portrait, looked for every half second, and that portrait."""
    refused = f"{clip.name} has no frames"
    for i in range(0, max(len(frames) // 2, 1), 12):
        try:
            return i, animator.prepare(Portrait(image=frames[i], name=clip.name))
        except ValueError as error:
            refused = str(error)
    return fail(refused)


def figures(clip: Clip, points: Float[np.ndarray, "t 478 3"], animator: Animator, at_most: int, judge: Judge | None) -> dict:
    """Of one clip, by row."""
    found: dict[str, list[list[float]]] = {row: [] for row in ROWS}
    seen: dict[str, list[np.ndarray]] = {"refined": [], "recorded": []}
    before: dict[str, np.ndarray] = {}
    last = -2
    gains: list[float] = []
    for i, pictures, truth, shown in driven(clip, points, animator, at_most):
        face, mouth = boxes(points[i])
        own = cut(truth, mouth)
        detail = sharpness(own)
        for row in ROWS:
            made = cut(pictures[row], face)
            grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (made, cut(truth, face))]
            lips = cut(pictures[row], mouth)
            changed = float("nan")
            if i == last + 1:
                changed = float(np.abs(cut(pictures[row], mouth).astype(float) - cut(before[row], mouth)).mean())
                changed /= max(float(np.abs(own.astype(float) - cut(before["recorded"], mouth)).mean()), 0.2)
            found[row].append([
                psnr(made, cut(truth, face)), float(structural_similarity(*grey)), psnr(lips, own),
                sharpness(lips) / detail if detail > 0.5 else float("nan"), changed,
            ])
        if shown:
            gains.append(found["refined"][-1][2] - found["warp"][-1][2])
        before, last = {**pictures, "recorded": truth}, i
        if judge is not None and len(seen["refined"]) < 12:
            seen["refined"].append(pictures["refined"])
            seen["recorded"].append(truth)
            portrait = pictures["still"]
    names = ("face_psnr", "face_ssim", "mouth_psnr", "mouth_sharp", "mouth_change")
    result: dict = {row: dict(zip(names, np.nanmean(values, 0).tolist(), strict=True)) for row, values in found.items()}
    result["inside_gains"] = gains
    describe = judge.identity() if judge is not None else None
    if describe is not None:
        reference = describe(portrait)
        for name, frames in seen.items():
            close = [float(d @ reference) for d in map(describe, frames) if d is not None and reference is not None]
            result.setdefault(name, {})["identity"] = float(np.mean(close)) if close else float("nan")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for figures.json and, unless given, tracks")
    parser.add_argument("--tracks", type=Path, help="folder of tracked recordings, filled where they are missing")
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--weights", type=Path, help="folder of weights (default: the ones that ship)")
    parser.add_argument("--frames", type=int, default=24, help="of each clip")
    args = parser.parse_args()
    one_thread()
    args.out.mkdir(parents=True, exist_ok=True)
    clips = read_manifest(args.data, "val")
    points = recorded(clips, args.tracks or args.out / "tracks")
    animator, judge = Animator.load(args.weights), Judge(args.judge) if args.judge else None
    rows = {}
    for i, clip in enumerate(clips):
        rows[clip.name] = figures(clip, points[clip.name], animator, args.frames, judge)
        progress("clips", i + 1, len(clips))
    report = {}
    for group in (*GROUPS, "all"):
        chosen = [rows[c.name] for c in clips if group in (group_of(c), "all")]
        names = [row for row in chosen[0] if row != "inside_gains"]
        report[group] = {row: {k: float(np.nanmean([r[row][k] for r in chosen])) for k in chosen[0][row]} for row in names}
        gains = np.array([gain for r in chosen for gain in r["inside_gains"]])
        columns = list(report[group]["refined"])
        lines = [(row, *(values.get(k, float("nan")) for k in columns)) for row, values in report[group].items()]
        print(table((group, *columns), lines))
        if len(gains):
            inside = {"gain_db": float(gains.mean()), "worse": float((gains < -0.1).mean()), "frames": len(gains)}
            report[group]["inside"] = inside
            print("inside shown: {frames} frames, {gain_db:.2f} dB nearer, {worse:.0%} further away".format(**inside))
        print()
    (args.out / "figures.json").write_text(json.dumps({"groups": report, "clips": rows}, indent=1))


if __name__ == "__main__":
    main()
