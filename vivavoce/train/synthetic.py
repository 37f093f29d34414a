"""Spoken sentences whose phones are known to the sample: eSpeak NG reads texts in many languages, voices and manners."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vivavoce.media.speak import speak_phones
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.segments import segments_of
from vivavoce.speech.sound import at_rate
from vivavoce.train.corpus import Progress, Utterance, Writer, padded

SOURCE = "espeak-ng"
LICENCE = "synthetic"
_TRIES = 50  # texts that the voice cannot pronounce, one after the other, before a language is given up

VARIANTS = (
    "", "+f1", "+f2", "+f3", "+f4", "+f5", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8", "+klatt", "+klatt2", "+klatt3",
    "+klatt4", "+Andy", "+Annie", "+belinda", "+benjamin", "+boris", "+caleb", "+ed", "+edward", "+grandma", "+grandpa", "+iven",
    "+john", "+kaukovalta", "+linda", "+marcelo", "+max", "+michel", "+miguel", "+norbert", "+pablo", "+paul", "+quincy", "+rob",
    "+robert", "+sandro", "+steph", "+travis", "+victor", "+zac", "+adam", "+david", "+Mike", "+Gene", "+Lee", "+Alicia",
)


@dataclass(frozen=True, kw_only=True)
class Language:
    """How much of a language is spoken, by which of eSpeak NG's voices, for which split."""

    minutes: float
    voices: tuple[str, ...]
    split: str = "train"


def _languages() -> dict[str, Language]:
    train = {
        "en": (72, "en en-us en-gb-x-rp en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd en-029 en-us-nyc"), "zh": (26, "cmn"),
        "es": (20, "es es-419"), "de": (20, "de"), "fr": (20, "fr fr-be fr-ch"), "it": (12, "it"), "pt": (16, "pt pt-br"),
        "nl": (10, "nl"), "pl": (10, "pl"), "ru": (16, "ru"), "tr": (10, "tr"), "cs": (8, "cs"), "fi": (8, "fi"), "id": (8, "id"),
        "sw": (6, "sw"), "ro": (8, "ro"), "hu": (6, "hu"), "el": (8, "el"), "vi": (8, "vi"), "uk": (6, "uk"), "ca": (6, "ca"),
        "da": (5, "da"),
    }
    languages = {code: Language(minutes=m, voices=tuple(voices.split())) for code, (m, voices) in train.items()}
    return languages | {code: Language(minutes=3, voices=(code,), split="heldout") for code in ("hi", "ar", "ja", "sv", "ko")}


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What is spoken. ``letters_share``: of the utterances of a training language are numbers, dates and letters."""

    languages: dict[str, Language] = field(default_factory=_languages)
    letters_share: float = 0.12
    longest_seconds: float = 20.0
    seed: int = 0


def read_texts(folder: Path, config: SyntheticConfig) -> dict[str, list[str]]:
    """The lines of ``<language>.txt`` for every language that has them. ValueError where none has."""
    paths = {code: folder / f"{code}.txt" for code in config.languages}
    lines = {code: path.read_text(encoding="utf-8").splitlines() for code, path in paths.items() if path.is_file()}
    texts = {code: kept for code, all_lines in lines.items() if (kept := [line.strip() for line in all_lines if line.strip()])}
    if not texts:
        raise ValueError(f"{folder} has no texts: put sentences, one a line, into files such as {folder / 'en.txt'}")
    return texts


def make_synthetic(texts: Mapping[str, Sequence[str]], writer: Writer, progress: Progress, config: SyntheticConfig) -> None:
    """Speaks lines of the texts by language (`read_texts`), each with a voice, rate, pitch and liveliness of its own.

    Every utterance is drawn from the seed, its language and its number, so the same corpus comes out however often it is
    interrupted (but for the breath of some of eSpeak NG's voices, which is random). Languages without a text are left out.
    """
    left = {code: language for code, language in config.languages.items() if code in texts}
    total = round(sum(language.minutes for language in left.values()))
    seconds, number, failed = dict.fromkeys(left, 0.0), dict.fromkeys(left, 0), dict.fromkeys(left, 0)
    while left:
        progress("speaking (minutes)", int(sum(seconds.values()) / 60), total)
        code = min(left, key=lambda c: seconds[c] / left[c].minutes)  # a corpus that is stopped early has all languages too
        spoken = _utterance(code, left[code], texts[code], number[code], writer, config)
        seconds[code] += spoken
        number[code] += 1
        failed[code] = 0 if spoken else failed[code] + 1
        if seconds[code] >= 60 * left[code].minutes or failed[code] >= _TRIES:
            del left[code]
    progress("speaking (minutes)", total, total)


def _utterance(
    code: str, language: Language, lines: Sequence[str], number: int, writer: Writer, config: SyntheticConfig
) -> float:
    """Makes one utterance unless it is there; its seconds, 0 where it cannot be spoken."""
    rng = np.random.default_rng((config.seed, zlib.crc32(code.encode()), number))
    voice = str(rng.choice(language.voices)) + (str(rng.choice(VARIANTS)) if rng.random() < 0.9 else "")
    text = counted(rng, code) if rng.random() < config.letters_share else lines[int(rng.integers(len(lines)))]
    rate, pitch, liveliness = (int(rng.integers(*limits)) for limits in ((110, 260), (15, 85), (15, 95)))
    before, after = rng.uniform(0.05, 0.6, 2)
    file = f"espeak/{code}/{number:05d}.flac"
    if writer.has(file):
        return writer.seconds(file)
    try:
        audio, timed = speak_phones(text, voice, rate, pitch, liveliness)
    except ValueError:
        return 0.0
    if audio.duration > config.longest_seconds or not any(phone.symbol for phone in timed):
        return 0.0
    sound = at_rate(audio)
    samples, segments = padded(sound, segments_of(timed, len(sound) / SAMPLE_RATE_HZ), float(before), float(after))
    writer.add(Utterance(
        file=file, language=code, speaker=f"espeak-{voice}", kind="synthetic", labels="events", split=language.split,
        source=SOURCE, licence=LICENCE,
    ), samples, segments)
    return len(samples) / SAMPLE_RATE_HZ


def counted(rng: np.random.Generator, code: str) -> str:
    """Numbers, dates and letters, as they are read aloud; in English also sentences of commands."""
    def pick(words: str) -> str:
        return str(rng.choice(words.split()))

    alphabet = " ".join("абвгдежзиклмнопрстуфхцчшэюя" if code in {"ru", "uk"} else "abcdefghijklmnopqrstuvwxyz")
    kinds = [
        lambda: " ".join(str(n) for n in rng.integers(0, 10, rng.integers(3, 9))),
        lambda: ", ".join(str(int(10 ** rng.uniform(0, 5))) for _ in range(rng.integers(2, 5))),
        lambda: f"{rng.integers(1, 29)}. {rng.integers(1, 13)}. {rng.integers(1900, 2030)}",
        lambda: " ".join(pick(alphabet) for _ in range(rng.integers(3, 8))) + f" {rng.integers(0, 10)}",
    ]
    if code == "en":
        command = lambda: " ".join([  # noqa: E731
            pick("bin lay place set put take"), pick("blue green red white black"), pick("at by in with near"),
            pick(alphabet), pick("zero one two three four five six seven eight nine"), pick("again now please soon"),
        ])
        kinds += [command] * 4
    return str(kinds[int(rng.integers(len(kinds)))]())
