"""Phones and their times in recorded speech: of words that are known or recognised (pocketsphinx), or of a synthetic reading that
is warped onto the recording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from scipy.fft import dct
from scipy.ndimage import median_filter
from torch import Tensor

from vivavoce.media.speak import DEFAULT_RATE_WPM, MAX_RATE_WPM, MIN_RATE_WPM, speak_phones
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.phones import PHONES, SILENCE, split_arpabet, split_ipa
from vivavoce.speech.segments import Segment, segments_of, spanning
from vivavoce.speech.sound import at_rate

if TYPE_CHECKING:
    from pocketsphinx import Decoder

_FRAME_SECONDS = 0.01
# Frame i of pocketsphinx is a 25.6 ms window from i * 10 ms on, so a boundary before it lies half a frame before the window's
# middle. Measured against eSpeak NG's own phones the rest is under 2 ms (tests, docs/log.md).
_OFFSET_SECONDS = 0.008
# eSpeak NG pronounces words that the dictionary lacks: phone class -> symbol of the English model.
_ENGLISH = {
    "rr": "R", "x": "K", "ix": "IH", "ax": "AH", "a": "AA", "e": "EY", "o": "OW", "oe": "ER", "y": "UW", "h": "HH", "j": "Y",
    "ch": "CH", "jh": "JH", "i": "IY", "u": "UW",
}


# A GRID file's name is its sentence: a letter per word.
_GRID = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"}, {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
)
_GRID_DIGITS = {
    "z": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven", "8": "eight",
    "9": "nine",
}
_GRID_LAST = {"a": "again", "n": "now", "p": "please", "s": "soon"}
# British letters, where the dictionary is American or takes the letter for a word.
_GRID_LETTERS = {"a": "a(2)", "z": "zed"}


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What was said, and how sure the recogniser is of it: the mean of its words' probabilities by their length, 0 to 1."""

    words: tuple[str, ...]
    confidence: float


class Aligner:
    """English words to phones in time, with pocketsphinx and its own model of US English."""

    def __init__(self) -> None:
        try:
            import pocketsphinx
        except ModuleNotFoundError as error:
            raise ValueError("aligning recordings needs pocketsphinx: pip install 'vivavoce[train]'") from error
        # With the lattice's best path (the default), or wider beams, half of the sentences cannot be aligned in the second pass.
        self._align: Decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL", lm=None, bestpath=False)
        self._listen: Decoder | None = None
        self._new_listener = lambda: pocketsphinx.Decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL")

    def align(self, sound: Float[Tensor, " s"], words: Sequence[str]) -> tuple[Segment, ...] | None:
        """The phones of words that are said in a sound, from its start to its end; None where the words do not fit.

        A word may be written with its variant, as in the dictionary ("a(2)"), or be "letter-a" for a letter's name.
        """
        for word in words:
            self._learn(word)
        raw = _pcm16(sound)
        self._align.set_align_text(" ".join(words))
        try:
            _decode(self._align, raw)
            if self._align.hyp() is None:
                return None
            self._align.set_alignment()
            _decode(self._align, raw)
            alignment = self._align.get_alignment()
        except RuntimeError:  # pocketsphinx's word for "no path through the sentence"
            return None
        return None if alignment is None else _segments(alignment, len(sound) / SAMPLE_RATE_HZ)

    def recognise(self, sound: Float[Tensor, " s"]) -> Recognised:
        """The words of a sound by pocketsphinx's general language model."""
        if self._listen is None:
            self._listen = self._new_listener()
        _decode(self._listen, _pcm16(sound))
        words, weights, sure = [], [], []
        for part in self._listen.seg() or ():
            if re.match(r"[a-z]", part.word):
                words.append(part.word)
                weights.append(part.end_frame - part.start_frame + 1)
                sure.append(part.prob)
        return Recognised(words=tuple(words), confidence=float(np.average(sure, weights=weights)) if words else 0.0)

    def _learn(self, word: str) -> None:
        """Gives the decoder a word that it lacks, as eSpeak NG pronounces it."""
        if self._align.lookup_word(word) is not None:
            return
        _, phones = speak_phones(word.removeprefix("letter-"), "en-us")
        classes = [PHONES[c] for phone in phones for c in split_ipa(phone.symbol)]
        self._align.add_word(word, " ".join(_ENGLISH.get(c, c.upper()) for c in classes), True)


def _pcm16(sound: Float[Tensor, " s"]) -> bytes:
    return bytes((sound.clamp(-1, 1) * 32767).round().to(torch.int16).numpy().tobytes())


def _decode(decoder: Decoder, raw: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(raw, full_utt=True)
    decoder.end_utt()


def _segments(alignment: Any, seconds: float) -> tuple[Segment, ...]:
    """pocketsphinx's phones to classes, cut where a symbol is several, from 0 to the end of the sound."""
    found: list[Segment] = []
    for word in alignment:
        for phone in word:
            classes = split_arpabet(phone.name.strip("+")) or (SILENCE,)
            edges = np.linspace(phone.start, phone.start + phone.duration, len(classes) + 1) * _FRAME_SECONDS + _OFFSET_SECONDS
            found += [Segment(start=float(a), end=float(b), phone=c) for a, b, c in zip(edges, edges[1:], classes, strict=False)]
    return spanning(found, seconds)


def words_of(transcript: str) -> tuple[str, ...]:
    """The words of an English transcript, in lower case; hyphens part words. ValueError where it has digits."""
    if re.search(r"\d", transcript):
        raise ValueError(f"the transcript {transcript[:40]!r} has digits: write numbers as they are spoken")
    return tuple(w for w in (part.strip("'") for part in re.findall(r"[a-z']+", transcript.lower().replace("’", "'"))) if w)


def grid_words(sentence: str) -> tuple[str, ...]:
    """The words of a GRID sentence of six letters. ValueError where it is none."""
    try:
        command, colour, preposition, letter, digit, last = list(sentence)
        first = tuple(table[key] for table, key in zip(_GRID, (command, colour, preposition), strict=True))
        return (*first, _GRID_LETTERS.get(letter, letter), _GRID_DIGITS[digit], _GRID_LAST[last])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{sentence!r} is no sentence of the GRID corpus: it has six letters such as 'bbaf2n'") from error


# --- A synthetic reading, warped ---------------------------------------------------------------------------------------------

_HOP, _WINDOW, _BANDS, _CEPSTRA = 160, 400, 30, 14
_ACTIVE_DB = 30.0
_CLICK_HOPS = 11
_READERS = ("", "+m3", "+f2")


def warp(sound: Float[Tensor, " s"], transcript: str, voice: str) -> tuple[Segment, ...]:
    """The phones of a transcript in any language that eSpeak NG reads: several of its voices speak the text at the recording's
    pace, dynamic time warping of cepstra carries their times over, and each phone begins at the median of them. Rougher than
    `Aligner.align`. Raises as `speak_phones` does."""
    start, end = _active(sound)
    part = sound[start:end]
    seconds = len(part) / SAMPLE_RATE_HZ
    target = _cepstra(part)
    plain, _ = speak_phones(transcript, voice)
    rate = int(np.clip(DEFAULT_RATE_WPM * plain.duration / seconds, MIN_RATE_WPM, MAX_RATE_WPM))
    found: dict[tuple[int, ...], list[list[float]]] = {}
    for reader in _READERS:
        spoken, timed = speak_phones(transcript, voice + reader, rate)
        segments = segments_of(timed, spoken.duration)
        path = _warped(_cepstra(at_rate(spoken)), target)
        places = [min(len(path) - 1, round(s.start * SAMPLE_RATE_HZ / _HOP)) for s in segments]
        found.setdefault(tuple(s.phone for s in segments), []).append([float(path[p]) * _HOP / SAMPLE_RATE_HZ for p in places])
    phones, times = max(found.items(), key=lambda item: len(item[1]))  # readings rarely differ in their phones
    edges = [*(np.median(times, axis=0) + start / SAMPLE_RATE_HZ).tolist(), end / SAMPLE_RATE_HZ]
    whole = [Segment(start=a, end=b, phone=p) for a, b, p in zip(edges, edges[1:], phones, strict=False)]
    return spanning(whole, len(sound) / SAMPLE_RATE_HZ)


def _active(sound: Float[Tensor, " s"]) -> tuple[int, int]:
    """Where the speech begins and ends, in samples: within 30 dB of its loudest moment, clicks not counted."""
    power = sound[: len(sound) // _HOP * _HOP].reshape(-1, _HOP).square().mean(1)
    steady = torch.from_numpy(median_filter(power.numpy(), _CLICK_HOPS))
    loud = torch.nonzero(steady >= steady.max() * 10 ** (-_ACTIVE_DB / 10))
    return int(loud[0]) * _HOP, (int(loud[-1]) + 1) * _HOP


def _cepstra(sound: Float[Tensor, " s"]) -> Float[np.ndarray, "t c"]:
    """Mel cepstra and their slopes at 100 Hz, without the mean and of unit variance over the speech; the first is loudness."""
    x = np.pad(sound.numpy().astype(np.float64), _WINDOW // 2)
    x = x + 1e-4 * np.random.default_rng(0).standard_normal(len(x))
    frames = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2
    mel = np.linspace(0, 1127 * np.log1p(SAMPLE_RATE_HZ / 2 / 700), _BANDS + 2)
    edges = 700 * np.expm1(mel / 1127)
    hz = np.fft.rfftfreq(512, 1 / SAMPLE_RATE_HZ)
    bank = np.stack([np.interp(hz, edges[i : i + 3], [0, 1, 0]) for i in range(_BANDS)], 1)
    logs = np.log(power @ bank + 1e-9)
    cepstra = dct(logs, axis=1, norm="ortho")[:, :_CEPSTRA]
    cepstra = (cepstra - cepstra.mean(0)) / (cepstra.std(0) + 1e-6)
    return np.concatenate([cepstra, np.gradient(cepstra, axis=0)], 1)


def _warped(source: Float[np.ndarray, "t c"], target: Float[np.ndarray, "u c"]) -> Float[np.ndarray, " t"]:
    """The place in the target of every frame of the source, never going back."""
    distance = np.sqrt(np.maximum(0, (source**2).sum(1)[:, None] + (target**2).sum(1) - 2 * source @ target.T))
    rows, columns = _walk(distance)
    return np.array([columns[rows == i].mean() for i in range(len(source))])


@njit(cache=True)
def _walk(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest way from corner to corner by steps down, right and (at one and a half times the cost, not twice) both."""
    rows, columns = distance.shape
    total = np.full((rows, columns), np.inf)
    step = np.zeros((rows, columns), np.int8)
    total[0, 0] = distance[0, 0]
    for i in range(rows):
        for j in range(columns):
            here = distance[i, j]
            if i > 0 and j > 0 and total[i - 1, j - 1] + 1.5 * here < total[i, j]:
                total[i, j], step[i, j] = total[i - 1, j - 1] + 1.5 * here, 0
            if i > 0 and total[i - 1, j] + here < total[i, j]:
                total[i, j], step[i, j] = total[i - 1, j] + here, 1
            if j > 0 and total[i, j - 1] + here < total[i, j]:
                total[i, j], step[i, j] = total[i, j - 1] + here, 2
    way_i, way_j = [rows - 1], [columns - 1]
    i, j = rows - 1, columns - 1
    while i > 0 or j > 0:
        s = step[i, j]
        i, j = i - (s != 2), j - (s != 1)
        way_i.append(i)
        way_j.append(j)
    return np.array(way_i[::-1]), np.array(way_j[::-1])
