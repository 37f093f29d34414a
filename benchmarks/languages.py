"""Do the lips close on p, b and m, whatever the language? eSpeak NG speaks a minute of each, and its phones and times are known.

    python benchmarks/languages.py --out runs/languages             # the table, and OUT/languages.json
    python benchmarks/languages.py --out runs/languages --plots     # and for each language a picture of the opening over time

Each voice speaks its share of a language's sentences, half a second apart; the mean face moves, nothing is rendered. A bilabial
(p, b, m and their like; touching ones are one) counts as closed where the opening is "closed" in some frame between 40 ms before
its interval and 40 ms after: the judge's relative definition (the lowest 12% of the range of this sound's opening), and under an
absolute opening as well. The base rate is what chance would give: the share of equally long stretches, centred on random
frames of speech, neither near a bilabial nor near a pause, that are "closed" by the same rule.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import Kept, fail, landmarks, mean_face, motions, one_thread, table, weights_of
from jaxtyping import Bool, Float
from texts import TEXTS
from torch import Tensor

from vivavoce import Animator
from vivavoce.latent.mesh import lip_opening
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.audio import Resampler
from vivavoce.media.speak import speak_phones
from vivavoce.metrics.lips import closed
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.phones import BILABIAL, split_ipa

NAMES = {
    "en": "English", "es": "Spanish", "de": "German", "fr": "French", "cmn": "Mandarin", "hi": "Hindi", "ar": "Arabic",
    "ja": "Japanese", "ko": "Korean", "sv": "Swedish", "it": "Italian", "pt": "Portuguese",
}
VOICES = ("", "+f2", "+m3")  # eSpeak NG's own voice of the language, and variants of it
RATES_WPM = (150, 165, 140)
MARGIN_SECONDS = 0.04
PAUSE_SECONDS = 0.5
NARROW = 0.03  # face heights: under this the mean face's lips look closed
STRETCHES = 2000  # drawn for the base rate


@dataclass(frozen=True)
class Spoken:
    """Sound at 16 kHz, the places of its bilabials and of its pauses, seconds."""

    sound: Float[Tensor, " s"]
    bilabials: tuple[tuple[float, float], ...]
    pauses: tuple[tuple[float, float], ...]


def spoken(sentences: Sequence[str], voice: str, rate_wpm: int) -> Spoken:
    """The sentences one after the other, with a pause before each and at the end."""
    pause = torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE_HZ))
    parts, bilabials, pauses, now = [pause], [], [(0.0, PAUSE_SECONDS)], PAUSE_SECONDS
    for sentence in sentences:
        audio, phones = speak_phones(sentence, voice, rate_wpm)
        resampler = Resampler(audio.rate, SAMPLE_RATE_HZ)
        sound = torch.cat([resampler.push(audio).samples[0], resampler.finish().samples[0]])
        for phone in phones:
            classes = split_ipa(phone.symbol)
            if not classes:
                pauses.append((now + phone.start, now + phone.end))
            share = (phone.end - phone.start) / max(len(classes), 1)
            edges = [now + phone.start + i * share for i in range(len(classes) + 1)]
            bilabials += [(edges[i], edges[i + 1]) for i, c in enumerate(classes) if c in BILABIAL]
        now += len(sound) / SAMPLE_RATE_HZ
        pauses.append((now, now + PAUSE_SECONDS))
        parts += [sound, pause]
        now += PAUSE_SECONDS
    return Spoken(torch.cat(parts), merged(bilabials), merged(pauses))


def merged(intervals: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Intervals in order of time, those that touch as one."""
    out: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if out and start <= out[-1][1] + 1e-3:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return tuple(out)


def reached(mask: Bool[np.ndarray, " t"], start: float, end: float) -> bool:
    """Whether any frame of the mask lies between two seconds, the margin added to both sides; the nearest where none does."""
    first = int(np.ceil((start - MARGIN_SECONDS) * MOTION_RATE_HZ - 1e-6))
    last = int(np.floor((end + MARGIN_SECONDS) * MOTION_RATE_HZ + 1e-6))
    first, last = max(min(first, len(mask) - 1), 0), max(min(last, len(mask) - 1), 0)
    return bool(mask[first : last + 1].any())


def other_stretches(speech: Spoken, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Stretches of speech as long as bilabials are, which with their margins touch neither a bilabial nor a pause."""
    taken = np.array([*speech.bilabials, *speech.pauses])
    found, seconds = [], len(speech.sound) / SAMPLE_RATE_HZ
    for _ in range(STRETCHES):
        start, end = speech.bilabials[int(rng.integers(len(speech.bilabials)))]
        half, centre = (end - start) / 2, float(rng.uniform(0, seconds))
        if ((taken[:, 0] < centre + half + MARGIN_SECONDS) & (taken[:, 1] > centre - half - MARGIN_SECONDS)).any():
            continue
        found.append((centre - half, centre + half))
    return found


def openings(animator: Animator, speech: Spoken, seeds: Sequence[int], quick: bool) -> list[Float[np.ndarray, " t"]]:
    """The opening of the mean face's lips over time, face heights, for each seed."""
    face = mean_face(animator)
    (made,) = motions(animator, [speech.sound], seeds, quick=quick)
    return [lip_opening(landmarks(animator, motion, face, seed)) for seed, motion in zip(seeds, made, strict=True)]


def counted(speech: Spoken, opening: Float[np.ndarray, " t"], rng: np.random.Generator) -> dict[str, float]:
    """How many bilabials there are, which shares of them and of other stretches are closed, and how far lips open."""
    relative, absolute = closed(opening), opening < NARROW
    others = other_stretches(speech, rng)
    share = {
        f"{what}_{rule}": float(np.mean([reached(mask, *place) for place in places]))
        for what, places in (("closed", speech.bilabials), ("base", others))
        for rule, mask in (("relative", relative), ("absolute", absolute))
    }
    return {"bilabials": len(speech.bilabials), **share, "open_p95": float(np.percentile(opening, 95))}


def language(animator: Animator, code: str, seeds: Sequence[int], quick: bool, plot: Path | None) -> dict[str, float]:
    """Figures of one language: over its voices by their number of bilabials, and the mean over seeds."""
    rows, drawn = [], []
    for i, (voice, rate) in enumerate(zip(VOICES, RATES_WPM, strict=True)):
        speech = spoken(TEXTS[code][i :: len(VOICES)], code + voice, rate)
        each = openings(animator, speech, seeds, quick)
        drawn.append((code + voice, speech, each))
        rows += [counted(speech, opening, np.random.default_rng(i)) for opening in each]
    weights = [row["bilabials"] for row in rows]
    mean = {key: float(np.average([row[key] for row in rows], weights=weights)) for key in rows[0] if key != "bilabials"}
    seconds = sum(len(speech.sound) for _, speech, _ in drawn) / SAMPLE_RATE_HZ
    if plot is not None:
        draw(plot, drawn)
    return {"seconds": seconds, "bilabials": sum(weights) // len(seeds), **mean}


def draw(path: Path, drawn: Sequence[tuple[str, Spoken, list[np.ndarray]]]) -> None:
    """The opening over time, one row a voice, bilabials and pauses shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(28, 3.2 * len(drawn)), layout="constrained")
    for axes, (name, speech, each) in zip(figure.subplots(len(drawn), 1), drawn, strict=True):
        for opening in each:
            axes.plot(np.arange(len(opening)) / MOTION_RATE_HZ, opening, lw=0.8)
        low, high = np.percentile(each[0], [1, 95])
        axes.axhline(low + 0.12 * (high - low), color="black", lw=0.5)
        axes.axhline(NARROW, color="black", lw=0.5, ls=":")
        for places, colour in ((speech.bilabials, "tab:red"), (speech.pauses, "lightgrey")):
            for start, end in places:
                axes.axvspan(start, end, color=colour, alpha=0.3, lw=0)
        axes.set(title=name, xlim=(0, min(24.0, len(each[0]) / MOTION_RATE_HZ)), ylabel="opening, face heights")
    figure.savefig(path, dpi=60)


def report(results: dict[str, dict[str, float]]) -> str:
    """The table, for people."""
    head = ["language", "seconds", "bilabials", "closed", "base", f"< {NARROW}", "base", "open p95"]
    keys = ("seconds", "bilabials", "closed_relative", "base_relative", "closed_absolute", "base_absolute", "open_p95")
    return table(head, [[NAMES[code], *(row[key] for key in keys)] for code, row in results.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--languages", nargs="*", default=list(TEXTS), choices=list(TEXTS))
    parser.add_argument("--quick", action="store_true", help="bfloat16")
    parser.add_argument("--plots", action="store_true", help="pictures of the curves; needs matplotlib")
    args = parser.parse_args()
    if args.samples < 1:
        fail(f"{args.samples} samples were asked for: give at least 1")
    one_thread()
    seeds = range(args.seed, args.seed + args.samples)
    args.out.mkdir(parents=True, exist_ok=True)
    setting: dict[str, Any] = {"weights": weights_of(args.weights), "seeds": list(seeds), "quick": args.quick}
    kept = Kept(args.out / "languages.json", setting)
    animator = Animator.load(args.weights)
    results = {}
    for code in args.languages:
        plot = args.out / f"{code}.png" if args.plots else None
        if plot is not None and not plot.exists():
            kept.values.pop(code, None)
        results[code] = kept.get(code, language, animator, code, seeds, args.quick, plot)
    print(report(results))
    print(json.dumps({"at least 80% closed": [NAMES[c] for c, row in results.items() if row["closed_relative"] >= 0.8]}))


if __name__ == "__main__":
    main()
