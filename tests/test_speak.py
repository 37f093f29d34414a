"""Spoken phones: where eSpeak NG says they are, the sound agrees."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from vivavoce.media.audio import Audio
from vivavoce.media.speak import TimedPhone, speak, speak_phones

SENTENCE = "A happy puppy kept the paper. Papa, tap a cup, pack the map!"


@pytest.fixture(scope="module")
def spoken() -> tuple[Audio, tuple[TimedPhone, ...]]:
    return speak_phones(SENTENCE)


def loudness(audio: Audio, start: float, end: float) -> float:
    part = audio.samples[0, round(start * audio.rate) : round(end * audio.rate)]
    return float(part.square().mean().sqrt())


def test_phones_follow_each_other_over_the_whole_sound(spoken: tuple[Audio, tuple[TimedPhone, ...]]) -> None:
    audio, phones = spoken
    assert phones[0].start == 0
    assert phones[-1].end == pytest.approx(audio.duration)
    assert all(a.end == b.start and a.start < a.end for a, b in pairwise(phones))


def test_the_sound_is_that_of_speak(spoken: tuple[Audio, tuple[TimedPhone, ...]]) -> None:
    assert torch.equal(spoken[0].samples, speak(SENTENCE).samples)


def test_stops_begin_with_their_closure(spoken: tuple[Audio, tuple[TimedPhone, ...]]) -> None:
    audio, phones = spoken
    inside = [b for a, b in pairwise(phones) if b.symbol in {"p", "t", "k"} and a.symbol and b.end - b.start > 0.05]
    assert len(inside) > 5
    for stop in inside:
        first = loudness(audio, stop.start + 0.004, stop.start + 0.03)
        assert first < 0.05 * loudness(audio, stop.end, stop.end + 0.03) + 1e-4, stop


def test_silence_is_where_there_is_no_symbol(spoken: tuple[Audio, tuple[TimedPhone, ...]]) -> None:
    audio, phones = spoken
    pauses = [p for p in phones if not p.symbol and p.end - p.start > 0.1]
    assert pauses  # between the sentences
    assert all(loudness(audio, p.start + 0.01, p.end - 0.01) < 1e-3 for p in pauses)
    vowels = [p for p in phones if p.symbol.strip("ˈˌ")[:1] in set("aɛiʌæ")]
    assert all(loudness(audio, p.start, p.end) > 0.01 for p in vowels)


def test_an_l_after_a_vowel_has_its_share() -> None:
    _, phones = speak_phones("all pull feel")
    laterals = [p for p in phones if p.symbol == "l"]
    assert len(laterals) == 3
    assert all(p.end - p.start > 0.04 for p in laterals)


def test_pitch_changes_the_sound_and_not_the_phones() -> None:
    def period(audio: Audio) -> int:
        x = audio.samples[0].numpy()[4000:12000].astype(np.float64)
        lags = np.correlate(x, x, "full")[len(x) - 1 :]
        return int(lags[40:400].argmax()) + 40

    low, high = (speak_phones("mamamama", pitch=p, pitch_range=0) for p in (10, 90))
    assert period(low[0]) > 1.3 * period(high[0])
    assert [p.symbol for p in low[1]] == [p.symbol for p in high[1]]


@pytest.mark.parametrize("voice", ["de", "fr", "cmn", "hi", "ar"])
def test_other_languages_tell_their_phones(voice: str) -> None:
    texts = {"de": "Mama backt", "fr": "papa parle", "cmn": "妈妈爸爸", "hi": "मामा", "ar": "ماما"}
    _, phones = speak_phones(texts[voice], voice)
    assert any(p.symbol.startswith(("m", "b", "p")) for p in phones)


@pytest.mark.parametrize("pitch", [{"pitch": -1}, {"pitch": 101}, {"pitch_range": 200}])
def test_impossible_pitch_is_refused(pitch: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give 0 to 100"):
        speak_phones("hello", **pitch)
    with pytest.raises(ValueError, match="nothing to say"):
        speak_phones("...")
