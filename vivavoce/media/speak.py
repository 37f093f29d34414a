"""Text to speech by eSpeak NG, inside the process and in memory: for trials, tests, the demonstration, and speech whose phones
are known to the sample."""

from __future__ import annotations

import _ctypes
import ctypes
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import espeakng_loader
import numpy as np

from vivavoce.media.audio import Audio

DEFAULT_VOICE = "en"
DEFAULT_RATE_WPM = 160
# What eSpeak NG accepts; beyond these it clamps without a word.
MIN_RATE_WPM, MAX_RATE_WPM = 80, 450

# Constants and types of espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_PHONEMES_IN_IPA = 1 | 2
_DONT_EXIT = 0x8000
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_EE_OK = 0
_EVENT_NONE, _EVENT_PHONEME = 0, 7
_NAME_BYTES = 8

# eSpeak NG marks a stop at its release and puts the closure before the mark, as digital silence: of a pause, at most so much.
_CLOSURE_SECONDS = 0.12
_CLOSURE_AFTER_PAUSE_SECONDS = 0.06
# A shorter silence inside a word or between words is part of the phone before it.
_GAP_SECONDS = 0.04
_STOPS = frozenset("pbtdkɡgqcɟʈɖɢʔɓɗɠʄʛ")
# An l after a vowel is spoken within it and marked where it ends; of the two together so much is the l.
_LATERALS = frozenset("lɫɭ")
_MARKED_LATE_SECONDS = 0.025
_LATERAL_SHARE = 0.4


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("identifier", ctypes.c_uint), ("text_position", ctypes.c_int), ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int), ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_uint8 * _NAME_BYTES),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class TimedPhone:
    """A sound of speech: its IPA symbol as eSpeak NG writes it ("" is silence), and its place in seconds."""

    start: float
    end: float
    symbol: str


def speak(text: str, voice: str = DEFAULT_VOICE, rate_wpm: int = DEFAULT_RATE_WPM) -> Audio:
    """Speaks a text, in mono at the synthesiser's own rate (22,050 Hz); equal arguments give equal samples.

    voice: an eSpeak NG language ("en", "en-us", "de", "fr", ...), with a variant if wanted ("en+f3").
    rate_wpm: words per minute, 80 to 450.  Raises ValueError for a text without a letter or digit, an unknown voice or a rate
    out of range, and OSError when the library does not load.
    """
    return _spoken(text, voice, rate_wpm, {}, None)


def speak_phones(
    text: str, voice: str = DEFAULT_VOICE, rate_wpm: int = DEFAULT_RATE_WPM, pitch: int = 50, pitch_range: int = 50
) -> tuple[Audio, tuple[TimedPhone, ...]]:
    """As `speak`, with the phones, which follow each other from 0 to the end of the sound without gaps.

    A stop begins with its closure and ends with its release.  pitch, pitch_range: 0 to 100, 50 is the voice's own, and the
    samples are then those of `speak`.  Raises as `speak` does.
    """
    if not (0 <= pitch <= 100 and 0 <= pitch_range <= 100):
        raise ValueError(f"a pitch of {pitch} with a range of {pitch_range} cannot be spoken: give 0 to 100")
    marks: list[tuple[int, str]] = []
    audio = _spoken(text, voice, rate_wpm, {_PARAMETER_PITCH: pitch, _PARAMETER_RANGE: pitch_range}, marks)
    return audio, _timed(marks, audio)


def _spoken(text: str, voice: str, rate_wpm: int, parameters: Mapping[int, int], marks: list[tuple[int, str]] | None) -> Audio:
    if not any(character.isalnum() for character in text):
        raise ValueError(f"there is nothing to say in {text[:40]!r}: give at least one word")
    if not MIN_RATE_WPM <= rate_wpm <= MAX_RATE_WPM:
        raise ValueError(f"{rate_wpm} words per minute cannot be spoken: give {MIN_RATE_WPM} to {MAX_RATE_WPM}")
    # The library takes C strings, and a name with a slash would be a file.
    known = re.fullmatch(r"[A-Za-z0-9+_-]+", voice) is not None
    settings = {_PARAMETER_RATE: rate_wpm, **parameters}
    with _one_at_a_time:
        # Loaded afresh for each text: the library's oscillators and tremor run on in static variables from one text to the next,
        # so the second text of a process would sound different from the first.
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        try:
            spoken = _synthesise(library, text.replace("\0", " "), voice, settings, marks) if known else None
        finally:
            _ctypes.dlclose(library._handle)
    if spoken is None:
        raise ValueError(f"eSpeak NG has no voice {voice!r}: give a language such as en, en-us, de or fr")
    if not spoken.samples.any():
        raise ValueError(f"the voice {voice!r} cannot pronounce {text[:40]!r}: choose the voice of its language")
    return spoken


def _synthesise(
    library: ctypes.CDLL, text: str, voice: str, settings: Mapping[int, int], marks: list[tuple[int, str]] | None
) -> Audio | None:
    """The spoken text, or None when there is no such voice; appends to ``marks`` where phones begin, in samples."""
    pieces: list[bytes] = []

    @_Callback
    def collect(samples: int | None, count: int, events: ctypes._Pointer[_Event]) -> int:
        i = 0
        while events and (event := events[i]).type != _EVENT_NONE:
            if marks is not None and event.type == _EVENT_PHONEME:
                # Cut after eight bytes, perhaps within a character.
                marks.append((event.sample, bytes(event.name).partition(b"\0")[0].decode("utf-8", errors="ignore")))
            i += 1
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, count * ctypes.sizeof(ctypes.c_short)))
        return 0

    data = str(espeakng_loader.get_data_path()).encode()
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT | (_PHONEMES_IN_IPA if marks is not None else 0))
    if rate <= 0:
        raise OSError("eSpeak NG found no voices: install the package espeakng-loader again")
    try:
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName(voice.encode()) != _EE_OK:
            return None
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode("utf-8", errors="replace")
        size = ctypes.c_size_t(len(encoded) + 1)
        status = library.espeak_Synth(encoded, size, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        if status != _EE_OK:
            raise ValueError(f"eSpeak NG cannot speak a text of {len(text)} characters (status {status}): give a shorter one")
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()
    return Audio.from_pcm16(b"".join(pieces), rate)


def _timed(marks: list[tuple[int, str]], audio: Audio) -> tuple[TimedPhone, ...]:
    """Marks to phones, corrected where eSpeak NG's marks are not where the sound begins (all seen in its samples).

    The digital silence right before a stop is its closure; other silence before a phone is a pause, or belongs to the phone
    before it where it is short; a mark without a symbol is a pause where it is silent, and goes on with the phone before it else;
    an l after a vowel is marked where it ends.
    """
    sounding = audio.samples[0].numpy() != 0
    last = np.maximum.accumulate(np.where(sounding, np.arange(len(sounding)), -1))  # up to i: the latest sounding sample
    begun: list[tuple[int, str]] = [(0, "")]
    for sample, symbol in marks:
        sample = min(sample, len(sounding))
        quiet = sample - 1 - int(last[sample - 1]) if sample > 0 else 0
        if not symbol:
            if sample < len(sounding) and not sounding[sample : sample + audio.rate // 200].any():
                begun.append((sample - quiet, ""))
            continue
        paused = begun[-1][1] == ""
        stop = symbol.lstrip("ˈˌ")[:1] in _STOPS
        if stop:
            closure = min(quiet, round((_CLOSURE_AFTER_PAUSE_SECONDS if paused else _CLOSURE_SECONDS) * audio.rate))
            if quiet - closure > _GAP_SECONDS * audio.rate:
                begun.append((sample - quiet, ""))
            sample -= closure
        elif quiet > _GAP_SECONDS * audio.rate:
            begun.append((sample - quiet, ""))
        begun.append((sample, symbol))
    quiet = len(sounding) - 1 - int(last[-1])
    if quiet > _GAP_SECONDS * audio.rate:
        begun.append((len(sounding) - quiet, ""))
    begun.append((len(sounding), ""))
    for i in range(1, len(begun) - 1):
        (before, vowel), (start, symbol), (end, _) = begun[i - 1 : i + 2]
        if symbol[:1] in _LATERALS and vowel and end - start < _MARKED_LATE_SECONDS * audio.rate:
            begun[i] = round(end - _LATERAL_SHARE * (end - before)), symbol
    return _without_gaps(begun, audio.rate)


def _without_gaps(begun: list[tuple[int, str]], rate: int) -> tuple[TimedPhone, ...]:
    """Beginnings in samples to phones; silences that touch become one, phones without any length go."""
    phones: list[TimedPhone] = []
    for (start, symbol), (end, _) in pairwise(begun):
        if end <= start:
            continue
        if phones and not symbol and not phones[-1].symbol:
            start = round(phones.pop().start * rate)
        phones.append(TimedPhone(start=start / rate, end=end / rate, symbol=symbol))
    return tuple(phones)
