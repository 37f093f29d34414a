"""Speech features: what they measure, and that only the sound decides them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vivavoce.speech import acoustic, prosody, syllables
from vivavoce.speech.acoustic import BANDS, HIGH_HZ, LOW_HZ, Acoustic
from vivavoce.speech.analysis import Analysis
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, features
from vivavoce.speech.level import HEADROOM_DB, PRIOR_DBFS, LevelState, follow
from vivavoce.speech.prosody import Prosody
from vivavoce.speech.syllables import SyllableState

ENCODER = Analysis()
HOP = SAMPLE_RATE_HZ // RATE_HZ


def seconds(count: float) -> int:
    return round(count * SAMPLE_RATE_HZ)


def noise(duration: float, seed: int = 0) -> Tensor:
    """White, at 0 dB re 1."""
    return torch.randn(seconds(duration), generator=torch.Generator().manual_seed(seed))


def buzz(f0_hz: Tensor) -> Tensor:
    """A voice's source at the given pitch per sample: harmonics up to 4 kHz that fall by 6 dB per octave."""
    phase = 2 * math.pi * torch.cumsum(f0_hz.double(), 0) / SAMPLE_RATE_HZ
    count = int(4000 / f0_hz.max())
    return sum((torch.sin(k * phase) / k for k in range(1, count + 1)), torch.zeros_like(phase)).float() * 0.2


def talk(duration: float, seed: int = 0, syllables_hz: float = 4.0) -> Tensor:
    """Something like speech: voiced syllables of wandering pitch, a hiss before each, and room noise."""
    time = torch.arange(seconds(duration)) / SAMPLE_RATE_HZ
    beat = (time * syllables_hz) % 1.0
    voiced = torch.sin(math.pi * ((beat - 0.3) / 0.7).clamp(0, 1)) ** 2
    hiss = torch.sin(math.pi * (beat / 0.3).clamp(0, 1)) ** 2
    pitch = 130 * 2 ** (0.3 * torch.sin(2 * math.pi * 0.5 * time + seed))
    return buzz(pitch) * voiced + noise(duration, seed) * (0.02 * hiss + 0.0003)


def units(values: Tensor, name: str) -> Tensor:
    """A prosodic feature in its own unit."""
    i = prosody.NAMES.index(name)
    return ENCODER.spec.split(values)["prosodic"][..., i] * Prosody.deviation[i] + Prosody.mean[i]


def test_every_cut_gives_the_same_bits() -> None:
    sound = talk(1.3)[:-123]
    whole = features(ENCODER, sound)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.one_of(st.integers(0, 700), st.integers(0, sound.shape[0])), max_size=40))
    def check(sizes: list[int]) -> None:
        state, parts, begin = ENCODER.start(), [], 0
        for size in sizes:
            track, state = ENCODER.step(sound[begin : begin + size], state)
            parts.append(track)
            begin += size
        track, state = ENCODER.step(sound[begin:], state, last=True)
        parts.append(track)
        assert torch.equal(torch.cat([part.values for part in parts], dim=1), whole.values)
        given_before = 0
        for part in parts:
            assert part.start == given_before / RATE_HZ
            given_before += part.values.shape[1]

    check()


@given(st.integers(0, 9000))
@settings(max_examples=40, deadline=None)
def test_features_cover_the_sound(length: int) -> None:
    assert features(ENCODER, torch.zeros(length)).values.shape[1] == math.ceil(length / HOP)


def test_features_are_given_as_soon_as_the_clock_says() -> None:
    """After t seconds, every feature up to t - lookahead - block is known."""
    sound, state, count = talk(1.0), ENCODER.start(), 0
    for heard in range(100, sound.shape[0] + 1, 100):
        track, state = ENCODER.step(sound[heard - 100 : heard], state)
        count += track.values.shape[1]
        known = heard / SAMPLE_RATE_HZ - ENCODER.spec.lookahead_seconds - ENCODER.spec.block_seconds
        assert count >= known * RATE_HZ


def test_nothing_beyond_the_lookahead_is_heard() -> None:
    assert ENCODER.spec.lookahead_seconds <= 0.040
    sound, frame = talk(1.0), 23
    edge = frame * HOP + round(ENCODER.spec.lookahead_seconds * SAMPLE_RATE_HZ)
    before = features(ENCODER, sound).values[0]
    changed = sound.clone()
    changed[edge:] = noise(1.0)[edge:]
    assert torch.equal(features(ENCODER, changed).values[0, : frame + 1], before[: frame + 1])
    changed[edge - 8 :] = noise(1.0)[edge - 8 :]
    assert not torch.equal(features(ENCODER, changed).values[0, frame], before[frame])  # the lookahead is no larger than it is


def test_features_are_centred_on_their_time() -> None:
    """A short symmetric burst at feature i's time is loudest in feature i and as loud in its two stacked hops."""
    frame = 13
    sound = torch.zeros(seconds(0.6))
    middle = frame * HOP
    burst = torch.hann_window(101, periodic=False) * 0.5 * torch.cos(torch.arange(-50, 51) * 0.9)
    sound[middle - 50 : middle + 51] = burst
    values = features(ENCODER, sound).values[0]
    assert int(units(values, "energy").argmax()) == frame
    spectral = ENCODER.spec.split(values)["acoustic"][frame].reshape(2, BANDS)
    torch.testing.assert_close(spectral[0], spectral[1], atol=0.1, rtol=0)
    torch.testing.assert_close(units(values, "energy")[frame - 1], units(values, "energy")[frame + 1], atol=0.5, rtol=0)


def test_silence_in_front_only_delays() -> None:
    sound, frames = talk(1.0), round(3 * ENCODER.spec.block_seconds * RATE_HZ)
    delayed = torch.cat([torch.zeros(frames * HOP), sound])
    assert torch.equal(features(ENCODER, delayed).values[:, frames:], features(ENCODER, sound).values)


def test_listeners_do_not_hear_each_other() -> None:
    sounds = [talk(0.8, seed=1), talk(0.8, seed=2) * 0.1]
    states, parts = [ENCODER.start(), ENCODER.start()], [[], []]
    for begin in range(0, sounds[0].shape[0], 3000):
        for who in (0, 1):
            end = begin + 3000
            track, states[who] = ENCODER.step(sounds[who][begin:end], states[who], last=end >= sounds[who].shape[0])
            parts[who].append(track.values)
    for sound, part in zip(sounds, parts, strict=True):
        assert torch.equal(torch.cat(part, dim=1), features(ENCODER, sound).values)


def test_a_state_may_be_used_again() -> None:
    _, state = ENCODER.step(talk(0.5), ENCODER.start())
    once, _ = ENCODER.step(noise(0.3) * 0.1, state, last=True)
    ENCODER.step(talk(0.7), state)
    again, _ = ENCODER.step(noise(0.3) * 0.1, state, last=True)
    assert torch.equal(once.values, again.values)


@pytest.mark.parametrize("gain_db", [-24.0, 10.0])
def test_loudness_is_forgotten_after_the_first_syllables(gain_db: float) -> None:
    sound = talk(2.5)
    plain = features(ENCODER, sound).values[0, RATE_HZ // 2 :]
    scaled = features(ENCODER, sound * 10 ** (gain_db / 20)).values[0, RATE_HZ // 2 :]
    off = (units(scaled, "energy") - units(plain, "energy")).abs()
    assert off.max() < 5.0
    assert off[-RATE_HZ // 2 :].max() < 3.5
    assert (units(scaled, "pitch") - units(plain, "pitch")).abs().median() < 0.02


def test_silence_and_faint_noise_are_one_vector() -> None:
    silence = features(ENCODER, torch.zeros(seconds(1.0))).values[0]
    assert torch.equal(silence, silence[:1].expand_as(silence))
    faint = features(ENCODER, noise(1.0) * 10 ** (-90 / 20)).values[0]
    torch.testing.assert_close(faint, silence)


def test_level_follows_the_voice_and_nothing_else() -> None:
    # Steady noise and hum below speech leave the prior; a quiet voice arrives within a syllable; a pause changes nothing.
    levels, state = follow([-50.0] * 100, [0.6] * 100, LevelState())
    assert levels == [PRIOR_DBFS] * 100
    levels, state = follow([-65.0] * 100, [1.0] * 100, state)
    assert levels == [PRIOR_DBFS] * 100
    levels, state = follow([-50.0] * 100, [0.97, 0.97, 0.3, 0.3] * 25, state)  # periodic for a moment only
    assert levels == [PRIOR_DBFS] * 100
    levels, state = follow([-50.0] * 12, [0.97] * 12, state)
    assert levels[-1] < -44.0
    paused, state = follow([-70.0] * 500, [0.1] * 500, state)
    assert set(paused) == {levels[-1]}
    loud, _ = follow([-12.0], [0.0], state)
    assert loud == [-12.0 - HEADROOM_DB]  # a sudden shout is never far above the level, voiced or not


def test_level_settles_where_it_started_from_does_not_matter() -> None:
    energy = [-30.0, -25.0, -22.0, -28.0] * 200
    ends = [follow(energy, [0.99] * 800, LevelState(level_dbfs=level))[0][-1] for level in (-60.0, PRIOR_DBFS, -5.0)]
    assert max(ends) - min(ends) < 0.1
    assert -26.25 < ends[0] < -22.0  # above the mean, below the loudest


@pytest.mark.parametrize("f0_hz", [70.0, 98.0, 131.0, 220.0, 311.0, 450.0])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_pitch_of_a_buzz(f0_hz: float, offset: float) -> None:
    """To a hundredth of an octave, also in noise 20 dB below it and on a constant offset."""
    sound = buzz(torch.full((seconds(0.5),), f0_hz))
    sound = sound + noise(0.5) * sound.std() * 0.1 + offset
    pitch = Prosody()
    found = pitch.pitch(sound, torch.arange(1000, sound.shape[0] - 1000, 700), pitch.start())
    torch.testing.assert_close(found.octave, torch.full_like(found.octave, math.log2(f0_hz)), atol=0.01, rtol=0)
    assert found.voicing.min() > 0.9


@pytest.mark.parametrize("f0_hz", [90.0, 140.0, 230.0, 330.0])
def test_pitch_and_voicing_survive_noise(f0_hz: float) -> None:
    """White noise 10 dB below a gliding voice: the pitch within a twentieth of an octave, and still called voiced."""
    curve = f0_hz * 2 ** torch.linspace(-0.2, 0.2, seconds(1.0))
    sound = buzz(curve)
    sound = sound + noise(1.0) * sound.std() * 10 ** (-10 / 20)
    pitch, centres = Prosody(), torch.arange(1000, sound.shape[0] - 1000, 320)
    found = pitch.pitch(sound, centres, pitch.start())
    torch.testing.assert_close(found.octave, curve[centres].log2(), atol=0.05, rtol=0)
    assert found.voicing.min() > 0.7
    assert pitch.pitch(noise(1.0) * 0.1, centres, pitch.start()).voicing.max() < 0.5


def test_pitch_is_relative_to_the_speaker_and_follows_a_glide() -> None:
    low = buzz(100 * 2 ** torch.linspace(0, 0.5, seconds(2.0)))
    high = buzz(210 * 2 ** torch.linspace(0, 0.5, seconds(2.0)))
    curves = [units(features(ENCODER, sound).values[0], "pitch")[10:-5] for sound in (low, high)]
    # A steady rise of 0.25 octaves a second is half made up for by a centre that is the mean of all so far.
    for curve in curves:
        assert 0.08 < curve[-1] - curve[RATE_HZ // 2] < 0.25
    torch.testing.assert_close(curves[0][RATE_HZ:], curves[1][RATE_HZ:], atol=0.1, rtol=0)  # more than an octave apart in Hz


def test_voicing_tells_voice_from_hiss() -> None:
    values = features(ENCODER, torch.cat([buzz(torch.full((seconds(1.0),), 140.0)), noise(1.0) * 0.05])).values[0]
    voicing, pitch = units(values, "voicing"), units(values, "pitch")
    assert voicing[5:45].min() > 0.95
    assert voicing[55:95].max() < 0.5
    assert pitch[55:95].abs().max() < 1e-6


@pytest.mark.parametrize("syllables_hz", [2.0, 3.5, 5.0, 6.5])
@pytest.mark.parametrize("noise_db", [-60.0, -34.0])
def test_rate_is_syllables_per_second(syllables_hz: float, noise_db: float) -> None:
    """Also in noise about 10 dB below the speech."""
    sound = talk(9.0, syllables_hz=syllables_hz) + noise(9.0, seed=3) * 10 ** (noise_db / 20)
    rate = units(features(ENCODER, sound).values[0], "rate")[-3 * RATE_HZ :].mean().item()
    assert abs(rate - syllables_hz) < 0.05 * syllables_hz + 0.1  # after 7.5 s a running mean over 1.5 s is at 99 per cent


def test_only_voiced_rises_and_falls_are_syllables() -> None:
    def counted(loudness_db: list[float], voicing: float = 0.9) -> float:
        hops = [[value, value] for value in loudness_db]
        rates, _ = syllables.count(hops, [voicing] * len(hops), SyllableState())
        assert min(rates) >= 0.0
        return rates[-1]

    beat = [-40.0] * 5 + [-12.0] * 5
    assert counted(beat * 100) == pytest.approx(RATE_HZ / 10, rel=0.1)
    assert counted(beat * 100, voicing=0.3) == 0.0  # hiss
    assert counted([value - 20.0 for value in beat] * 100) == 0.0  # the background
    assert counted([-12.0] * 500 + [-13.0 * syllables.DIP_DB, -12.0] * 200) < 0.1  # a ripple
    assert counted([-12.0] * 1000) == 0.0  # a held vowel
    after = counted(beat * 100 + [-60.0] * RATE_HZ * 10)
    assert after < 0.01  # a pause


def test_onsets_are_where_sound_rises() -> None:
    steps = noise(1.0) * 0.001
    steps[seconds(0.5) :] = noise(1.0)[seconds(0.5) :] * 0.05
    onset = units(features(ENCODER, steps).values[0], "onset")
    assert abs(int(onset[5:].argmax()) + 5 - RATE_HZ // 2) <= 1


def test_changes_are_differences_of_the_past() -> None:
    values = features(ENCODER, talk(1.0)).values[0]
    for name in ("pitch", "voicing", "energy", "onset"):
        base, change = units(values, name), units(values, f"{name}_change")
        torch.testing.assert_close(
            change[prosody.CHANGE_FRAMES :], base[prosody.CHANGE_FRAMES :] - base[: -prosody.CHANGE_FRAMES], atol=1e-4, rtol=0
        )


def test_bands_hold_the_power_of_the_sound() -> None:
    sound, bank = noise(4.0) * 0.1, Acoustic()
    centres = torch.arange(1000, sound.shape[0] - 1000, HOP)
    share = (HIGH_HZ - LOW_HZ) / (SAMPLE_RATE_HZ / 2)
    # Half a triangle at either end is outside the bands, which is narrow below and wide above.
    power = bank.bands(sound, centres).sum(dim=-1).mean().item()
    assert 0.9 * share * 0.01 < power < share * 0.01
    time = torch.arange(sound.shape[0]) / SAMPLE_RATE_HZ
    peaks = []
    for hz in (150.0, 400.0, 1000.0, 2500.0, 6000.0):
        tone = bank.bands(torch.sin(2 * math.pi * hz * time), centres).mean(dim=(0, 1))
        assert abs(acoustic.decibels(tone.sum()).item() + 3.01) < 0.3
        peaks.append(int(tone.argmax()))
        mel = (math.log10(1 + hz / 700) - math.log10(1 + LOW_HZ / 700)) / (
            math.log10(1 + HIGH_HZ / 700) - math.log10(1 + LOW_HZ / 700)
        )
        assert abs(mel * (BANDS + 1) - 1 - peaks[-1]) <= 0.75
    assert peaks == sorted(set(peaks))


def test_features_are_of_the_order_of_one_on_speech() -> None:
    values = features(ENCODER, talk(4.0)).values[0]
    assert values.abs().max() < 10.0
    assert 0.3 < values.std() < 2.0


def test_spec_names_the_streams() -> None:
    values = features(ENCODER, talk(0.3)).values
    parts = ENCODER.spec.split(values)
    assert list(parts) == ["acoustic", "prosodic"]
    assert torch.equal(torch.cat(list(parts.values()), dim=-1), values)
    assert values.shape[-1] == ENCODER.spec.width
    assert ENCODER.spec.streams["prosodic"] == len(prosody.NAMES)


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (torch.zeros(2, 1600), "one channel"),
        (torch.zeros(1600, dtype=torch.int16), "int16"),
        (torch.tensor([0.0, math.nan]), "not finite"),
        (torch.tensor([0.0, math.inf]), "not finite"),
    ],
)
def test_samples_that_are_none_are_refused(samples: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        features(ENCODER, samples)
