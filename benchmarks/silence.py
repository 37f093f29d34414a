"""Does a face that has nothing to say keep its mouth shut, and stay alive? A sentence, ten seconds of silence, a sentence.

    python benchmarks/silence.py --data ../shared/data --out runs/silence

Silence is digital or the tone of a room. A frame of it, from 0.3 s after the last word on, counts as closed where the opening of
the mean face's lips is "closed" as the judge defines it (the lowest 12% of the range of the whole sound's opening) and under
0.035 face heights. The head is alive where it moves: the spread of its rotation within the silence, and its speed, beside those
in speech.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import Kept, fail, landmarks, mean_face, motions, one_thread, table, weights_of
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce import Animator
from vivavoce.latent.mesh import lip_opening
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.metrics.head import rotation_spread
from vivavoce.metrics.lips import closed
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.sound import load_sound
from vivavoce.train.augment import coloured_noise, speech_level

SENTENCE_SECONDS, SILENCE_SECONDS = 5.0, 10.0
SETTLING_SECONDS = 0.3  # after the last word
AT_REST = 0.035  # face heights
FADE_SECONDS = 0.02
TONES_DB: dict[str, float | None] = {"digital": None, "room -60 dB": -60.0, "room -45 dB": -45.0}
RECORDINGS = (
    "jfk", "leopard-de-test_de", "leopard-fr-test_fr", "leopard-ja-test_ja", "libritts-train_atkins-1", "libritts-train_daws-1",
    "libritts-train_dotrice-1", "libritts-train_dreams-1",
)


@dataclass(frozen=True)
class Interrupted:
    """Sentence, silence, sentence, at 16 kHz; ``silent``: seconds from the last word to the next one."""

    sound: Float[Tensor, " s"]
    silent: tuple[float, float]


def interrupted(speech: Float[Tensor, " s"], tone_db: float | None) -> Interrupted:
    """The beginning of a recording, a long silence, and what follows in the recording; the tone lies under all of it.

    The cut is at the softest place near the end of the first part. A recording too short to be cut is heard twice.
    """
    length = round(SENTENCE_SECONDS * SAMPLE_RATE_HZ)
    if len(speech) < 2 * length:
        speech, length = torch.cat([speech, speech]), len(speech)
    cut, fade = softest(speech, length), round(FADE_SECONDS * SAMPLE_RATE_HZ)
    first, second = speech[:cut].clone(), speech[cut : cut + length].clone()
    first[-fade:] *= torch.linspace(1, 0, fade)
    second[:fade] *= torch.linspace(0, 1, fade)
    sound = torch.cat([first, torch.zeros(round(SILENCE_SECONDS * SAMPLE_RATE_HZ)), second])
    sound = sound * (0.05 / speech_level(sound))
    if tone_db is not None:
        tone = coloured_noise(len(sound), 1.0, np.random.default_rng(0))
        sound = sound + tone * (10 ** (tone_db / 20) / tone.square().mean().sqrt())
    return Interrupted(sound, (cut / SAMPLE_RATE_HZ, cut / SAMPLE_RATE_HZ + SILENCE_SECONDS))


def softest(speech: Float[Tensor, " s"], around: int) -> int:
    """The sample within a second of ``around`` whose neighbourhood of 0.1 s has the least energy."""
    reach, width = SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 10
    begin = max(0, around - reach)
    energy = speech[begin : around + reach].double().square().cumsum(0)
    window = energy[width:] - energy[:-width]
    return begin + int(window.argmin()) + width // 2


def silent_frames(count: int, silent: tuple[float, float]) -> Bool[np.ndarray, " t"]:
    """Frames within the silence, settling left out."""
    seconds = np.arange(count) / MOTION_RATE_HZ
    return (seconds >= silent[0] + SETTLING_SECONDS) & (seconds < silent[1])


def figures(animator: Animator, sounds: Sequence[Interrupted], seeds: Sequence[int], quick: bool) -> dict[str, float]:
    """Means over sounds and seeds."""
    face, rows = mean_face(animator), []
    for sound, made in zip(sounds, motions(animator, [s.sound for s in sounds], seeds, quick=quick), strict=True):
        for motion, seed in zip(made, seeds, strict=True):
            opening = lip_opening(landmarks(animator, motion, face, seed))
            within = silent_frames(len(opening), sound.silent)
            turn = np.degrees(motion.rotation.numpy().astype(np.float64))
            speed = np.linalg.norm(np.diff(turn, axis=0), axis=1) * MOTION_RATE_HZ
            rows.append({
                "closed": float((closed(opening) & (opening < AT_REST))[within].mean()),
                "closed_relative": float(closed(opening)[within].mean()), "at_rest": float((opening < AT_REST)[within].mean()),
                "opening_median": float(np.median(opening[within])), "opening_p95": float(np.percentile(opening[within], 95)),
                "head_spread_deg": rotation_spread(turn[within]), "head_spread_speech_deg": rotation_spread(turn[~within]),
                "head_speed_deg_s": float(np.median(speed[within[1:]])),
                "head_speed_speech_deg_s": float(np.median(speed[~within[1:]])),
            })
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="bfloat16")
    args = parser.parse_args()
    if args.samples < 1:
        fail(f"{args.samples} samples were asked for: give at least 1")
    one_thread()
    paths = [args.data / "speech" / f"{name}.flac" for name in RECORDINGS]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        fail(f"{args.data}/speech has none of the recordings {', '.join(RECORDINGS)}")
    seeds = list(range(args.seed, args.seed + args.samples))
    kept = Kept(args.out / "silence.json", {"weights": weights_of(args.weights), "seeds": seeds, "quick": args.quick})
    animator = Animator.load(args.weights)
    speech = [load_sound(path) for path in paths]
    results = {}
    for name, tone_db in TONES_DB.items():
        results[name] = kept.get(name, figures, animator, [interrupted(s, tone_db) for s in speech], seeds, args.quick)
    keys = list(next(iter(results.values())))
    print(table(["", *results], [[key, *(row[key] for row in results.values())] for key in keys]))


if __name__ == "__main__":
    main()
