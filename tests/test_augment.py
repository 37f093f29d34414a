"""Augmentation: each change does what it says to level, spectrum and time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vivavoce.media.speak import speak
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.sound import at_rate
from vivavoce.train import augment


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return at_rate(speak("Seven hungry mice ate the big cheese. Nobody saw them."))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def delay(a: Tensor, b: Tensor, smooth: int = 1) -> int:
    """Samples by which b lags a, of the waveforms or of their loudness over so many samples."""
    def prepared(x: Tensor) -> np.ndarray:
        v = x.numpy().astype(np.float64)
        if smooth > 1:
            v = np.sqrt(np.convolve(v**2, np.ones(smooth) / smooth, "same"))
        return v - v.mean()

    n = min(len(a), len(b))
    product = np.fft.irfft(np.fft.rfft(prepared(b[:n]), 2 * n) * np.conj(np.fft.rfft(prepared(a[:n]), 2 * n)))
    lag = int(np.abs(product).argmax()) if smooth == 1 else int(product.argmax())
    return lag if lag < n else lag - 2 * n


def band_db(x: Tensor, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(x.numpy().astype(np.float64))) ** 2
    hz = np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE_HZ)
    return float(10 * np.log10(power[(hz >= low) & (hz < high)].sum() + 1e-12))


STAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "mp3": augment.mp3,
    "opus": augment.opus,
    "aac": augment.aac,
    "telephone": augment.telephone,
    "tilt": lambda x: augment.tilt(x, 4.0),
    "gain": lambda x: augment.gain(x, -20.0),
    "shout": augment.shout,
    "room": lambda x: augment.room(x, 0.4, 3.0, rng()),
    "noise": lambda x: augment.add_noise(x, augment.coloured_noise(len(x), 1.0, rng()), 10.0),
}


@pytest.mark.parametrize("name", STAYS)
def test_times_stay_to_the_sample(speech: Tensor, name: str) -> None:
    changed = STAYS[name](speech)
    assert changed.shape == speech.shape
    assert changed.dtype == torch.float32
    assert abs(delay(speech, changed)) <= 2


@pytest.mark.parametrize(
    "change", [lambda x: augment.whisper(x, rng()), lambda x: augment.pitch(x, 3.0), lambda x: augment.pitch(x, -4.0)]
)
def test_times_of_voices_stay_to_ten_milliseconds(speech: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    changed = change(speech)
    assert changed.shape == speech.shape
    assert abs(delay(speech, changed, smooth=320)) <= 160


@pytest.mark.parametrize("factor", [0.8, 1.25])
@pytest.mark.parametrize("change", [augment.speed, augment.tempo])
def test_times_shrink_with_speed(change: Callable[[Tensor, float], Tensor], factor: float) -> None:
    beeps = torch.zeros(3 * SAMPLE_RATE_HZ)
    tone = torch.sin(2 * np.pi * 300 * torch.arange(1600) / SAMPLE_RATE_HZ)
    places = [8000, 20000, 36000]
    for place in places:
        beeps[place : place + 1600] = tone

    def starts(x: Tensor) -> np.ndarray:
        loud = x.unfold(0, 160, 1).square().mean(1).sqrt() > 0.3
        return np.flatnonzero(np.diff(loud.numpy().astype(int)) == 1)

    changed = change(beeps, factor)
    assert len(changed) == pytest.approx(len(beeps) / factor, abs=2)
    assert len(starts(beeps)) == len(places)
    assert starts(changed) == pytest.approx(starts(beeps) / factor, abs=160)


def fundamental(x: Tensor) -> float:
    power = np.abs(np.fft.rfft(x.numpy() * np.hanning(len(x))))
    return float(power.argmax()) * SAMPLE_RATE_HZ / len(x)


def test_tempo_keeps_pitch_and_pitch_moves_it() -> None:
    tone = torch.sin(2 * np.pi * 200 * torch.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ)
    assert fundamental(augment.tempo(tone, 1.3)) == pytest.approx(200, rel=0.02)
    assert fundamental(augment.pitch(tone, 12.0)) == pytest.approx(400, rel=0.02)
    assert fundamental(augment.speed(tone, 1.25)) == pytest.approx(250, rel=0.01)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_noise_is_as_far_below_the_speech_as_asked(speech: Tensor, snr_db: float) -> None:
    noise = augment.coloured_noise(len(speech) // 3, 0.0, rng())  # shorter than the speech: repeated
    added = augment.add_noise(speech, noise, snr_db) - speech
    level = float(added.square().mean().sqrt())
    assert 20 * np.log10(augment.speech_level(speech) / level) == pytest.approx(snr_db, abs=0.01)


def test_pauses_do_not_count_as_speech(speech: Tensor) -> None:
    longer = torch.cat([speech, torch.zeros(5 * SAMPLE_RATE_HZ)])
    assert augment.speech_level(longer) == pytest.approx(augment.speech_level(speech), rel=0.02)


def test_silence_is_left_alone() -> None:
    silence = torch.zeros(4000)
    assert torch.equal(augment.add_noise(silence, augment.coloured_noise(4000, 1.0, rng()), 10.0), silence)
    assert torch.equal(augment.add_noise(silence + 1, silence, 10.0), silence + 1)
    for change in (lambda x: augment.whisper(x, rng()), augment.telephone, augment.shout):
        assert change(silence).abs().max() < 1e-6


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_its_colour(slope: float) -> None:
    noise = augment.coloured_noise(10 * SAMPLE_RATE_HZ, slope, rng())
    octaves = [band_db(noise, f, 2 * f) for f in (250, 500, 1000, 2000)]
    assert np.diff(octaves) == pytest.approx([3.01 * (1 - slope)] * 3, abs=0.6)


def test_equal_generators_make_equal_noise(speech: Tensor) -> None:
    for make in (
        lambda g: augment.babble([speech], 30000, g), lambda g: augment.music(30000, g),
        lambda g: augment.room(speech, 0.3, 6.0, g), lambda g: augment.whisper(speech, g),
    ):
        first, again, other = make(rng(3)), make(rng(3)), make(rng(4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_babble_needs_speech() -> None:
    with pytest.raises(ValueError, match="at least one recording"):
        augment.babble([], 100, rng())


def test_a_room_is_its_direct_sound_and_what_follows() -> None:
    response, direct = augment.impulse_response(0.5, 6.0, rng())
    assert direct == 0
    assert response[0] == 1
    assert 10 * np.log10(float(response[1:].square().sum())) == pytest.approx(-6.0, abs=0.01)
    energy = response[160:].square()
    assert energy[: len(energy) // 4].sum() > 20 * energy[-len(energy) // 4 :].sum()


def test_a_telephone_has_its_band() -> None:
    noise = augment.coloured_noise(2 * SAMPLE_RATE_HZ, 0.0, rng())
    line = augment.telephone(noise)
    for low, high in ((0, 200), (3800, 8000)):
        assert band_db(noise, low, high) - band_db(line, low, high) > 15
    assert band_db(line, 500, 3000) == pytest.approx(band_db(noise, 500, 3000), abs=1.0)


def test_a_whisper_has_no_voice() -> None:
    seconds = torch.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    voiced = sum(torch.sin(2 * np.pi * 125 * k * seconds) / k for k in range(1, 30)) * 0.1

    def regularity(x: Tensor) -> float:
        v = x.numpy().astype(np.float64)
        return float(v[:-128] @ v[128:] / (v @ v))

    assert regularity(voiced) > 0.9
    assert abs(regularity(augment.whisper(voiced, rng()))) < 0.3


def test_a_shout_is_brighter_and_at_full_scale(speech: Tensor) -> None:
    loud = augment.shout(speech)
    assert loud.abs().max() == pytest.approx(1.0, abs=0.05)
    assert band_db(loud, 2000, 5000) - band_db(loud, 100, 500) > band_db(speech, 2000, 5000) - band_db(speech, 100, 500) + 6
