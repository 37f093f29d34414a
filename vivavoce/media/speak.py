"""Text to speech by eSpeak NG, inside the process and in memory: for trials, tests and the demonstration."""

from __future__ import annotations

import _ctypes
import ctypes
import re
import threading

import espeakng_loader

from vivavoce.media.audio import Audio

DEFAULT_VOICE = "en"
DEFAULT_RATE_WPM = 160
# What eSpeak NG accepts; beyond these it clamps without a word.
MIN_RATE_WPM, MAX_RATE_WPM = 80, 450

# Constants of espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1
_PARAMETER_RATE = 1
_EE_OK = 0

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_one_at_a_time = threading.Lock()


def speak(text: str, voice: str = DEFAULT_VOICE, rate_wpm: int = DEFAULT_RATE_WPM) -> Audio:
    """Speaks a text, in mono at the synthesiser's own rate (22,050 Hz); equal arguments give equal samples.

    voice: an eSpeak NG language ("en", "en-us", "de", "fr", ...), with a variant if wanted ("en+f3").
    rate_wpm: words per minute, 80 to 450.  Raises ValueError for a text without a letter or digit, an unknown voice or a rate
    out of range, and OSError when the library does not load.
    """
    if not any(character.isalnum() for character in text):
        raise ValueError(f"there is nothing to say in {text[:40]!r}: give at least one word")
    if not MIN_RATE_WPM <= rate_wpm <= MAX_RATE_WPM:
        raise ValueError(f"{rate_wpm} words per minute cannot be spoken: give {MIN_RATE_WPM} to {MAX_RATE_WPM}")
    # The library takes C strings, and a name with a slash would be a file.
    known = re.fullmatch(r"[A-Za-z0-9+_-]+", voice) is not None
    with _one_at_a_time:
        # Loaded afresh for each text: the library's oscillators and tremor run on in static variables from one text to the next,
        # so the second text of a process would sound different from the first.
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        try:
            spoken = _synthesise(library, text.replace("\0", " "), voice, rate_wpm) if known else None
        finally:
            _ctypes.dlclose(library._handle)
    if spoken is None:
        raise ValueError(f"eSpeak NG has no voice {voice!r}: give a language such as en, en-us, de or fr")
    if not spoken.samples.any():
        raise ValueError(f"the voice {voice!r} cannot pronounce {text[:40]!r}: choose the voice of its language")
    return spoken


def _synthesise(library: ctypes.CDLL, text: str, voice: str, rate_wpm: int) -> Audio | None:
    """The spoken text, or None when there is no such voice."""
    pieces: list[bytes] = []

    @_Callback
    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, count * ctypes.sizeof(ctypes.c_short)))
        return 0

    data = str(espeakng_loader.get_data_path()).encode()
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
    if rate <= 0:
        raise OSError("eSpeak NG found no voices: install the package espeakng-loader again")
    try:
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName(voice.encode()) != _EE_OK:
            return None
        library.espeak_SetParameter(_PARAMETER_RATE, rate_wpm, 0)
        encoded = text.encode("utf-8", errors="replace")
        size = ctypes.c_size_t(len(encoded) + 1)
        status = library.espeak_Synth(encoded, size, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        if status != _EE_OK:
            raise ValueError(f"eSpeak NG cannot speak a text of {len(text)} characters (status {status}): give a shorter one")
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()
    return Audio.from_pcm16(b"".join(pieces), rate)
