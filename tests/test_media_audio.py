"""Sound survives files and rates, and one chunking of it is as good as another."""

from __future__ import annotations

import re
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.media import Audio, Resampler, probe_audio, read_audio, speak
from vivavoce.media.audio import concatenate


def chirp(rate: int, channels: int = 1, seconds: float = 1.0) -> np.ndarray:
    """Float32 (c, t): tones that rise from 200 to 2000 Hz, with another phase in each channel and soft ends."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (200 * time + 900 * time**2 / seconds)
    fade = np.clip(np.minimum(time, seconds - time) / 0.02, 0, 1)
    return np.stack([0.4 * fade * np.sin(phase + channel) for channel in range(channels)]).astype(np.float32)


def encode(path: Path, samples: np.ndarray, rate: int, codec: str, container: str | None = None) -> None:
    """Writes a file with FFmpeg's own encoders, by another road than the code under test."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    with av.open(str(path), "w", format=container) as opened:
        stream = opened.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        opened.mux(stream.encode(frame))
        opened.mux(stream.encode(None))


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    with wave.open(str(path), "wb") as opened:
        opened.setparams((samples.shape[0], 2, rate, samples.shape[1], "NONE", ""))
        opened.writeframes(np.rint(samples.T * 32767).astype("<i2").tobytes())


def write_float_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    data = samples.astype("<f4").T.tobytes()
    channels = samples.shape[0]
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, channels, rate, rate * channels * 4, channels * 4, 32)
    head = struct.pack("<4sI4s", b"RIFF", 4 + len(form) + 8 + len(data), b"WAVE")
    path.write_bytes(head + form + struct.pack("<4sI", b"data", len(data)) + data)


def lag_and_correlation(found: np.ndarray, wanted: np.ndarray) -> tuple[int, float]:
    """By how many samples `found` comes late, and how alike the two are as they lie."""
    length = min(len(found), len(wanted))
    found, wanted = found[:length], wanted[:length]
    product = np.fft.rfft(found, 2 * length) * np.conj(np.fft.rfft(wanted, 2 * length))
    lag = int(np.argmax(np.fft.irfft(product)))
    return (lag - 2 * length if lag > length else lag), float(np.corrcoef(found, wanted)[0, 1])


def resample(samples: np.ndarray, rate_in: int, rate_out: int, cuts: list[int]) -> np.ndarray:
    resampler = Resampler(rate_in, rate_out)
    chunks = [Audio(samples=torch.from_numpy(part.copy()), rate=rate_in) for part in np.split(samples, sorted(cuts), axis=1)]
    return concatenate([*(resampler.push(chunk) for chunk in chunks), resampler.finish()]).samples[0].numpy()


FILES = [
    ("sound.m4a", "aac", None, (44100, 48000, 22050)),
    ("sound.mp3", "libmp3lame", None, (44100, 48000, 22050)),
    ("sound.flac", "flac", None, (8000, 44100, 96000)),
    ("sound.opus", "libopus", "ogg", (48000,)),
    ("sound.ogg", "libopus", "ogg", (48000,)),
    ("sound.mkv", "aac", None, (48000,)),
    ("sound.aiff", "pcm_s16be", None, (44100,)),
]


@pytest.mark.parametrize(("name", "codec", "container", "rates"), FILES)
@pytest.mark.parametrize("channels", [1, 2])
def test_compressed_files_give_back_the_waveform_at_its_time(
    tmp_path: Path, name: str, codec: str, container: str | None, rates: tuple[int, ...], channels: int
) -> None:
    for rate in rates:
        wanted = chirp(rate, channels)
        # FLAC and AIFF encoders take whole numbers, which FFmpeg converts to.
        encode(tmp_path / name, wanted, rate, codec, container)
        opened = Audio.open(tmp_path / name)
        assert (opened.rate, opened.samples.shape[0]) == (rate, channels)
        assert abs(opened.duration - 1.0) < 0.03
        for found, channel in zip(opened.samples.numpy(), wanted, strict=True):
            lag, correlation = lag_and_correlation(found, channel)
            assert abs(lag) / rate < 1e-3, (name, rate)
            assert correlation > 0.99, (name, rate)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (11025, 2), (16000, 1), (44100, 2), (48000, 6), (192000, 1)])
def test_wav_is_exact_and_blocks_join_to_the_whole(tmp_path: Path, rate: int, channels: int) -> None:
    wanted = chirp(rate, channels, 0.7)
    write_wav(tmp_path / "sound.wav", wanted, rate)
    opened = Audio.open(tmp_path / "sound.wav")
    assert np.abs(opened.samples.numpy() - wanted).max() <= 1 / 32767 + 1e-6
    blocks = list(read_audio(tmp_path / "sound.wav", block_seconds=0.1))
    assert [block.samples.shape[1] for block in blocks] == [round(0.1 * rate)] * (len(blocks) - 1) + [blocks[-1].samples.shape[1]]
    assert torch.equal(concatenate(blocks).samples, opened.samples)
    info = probe_audio(tmp_path / "sound.wav")
    assert (info.rate, info.channels) == (rate, channels)
    assert info.duration_seconds == pytest.approx(opened.duration)
    assert info.peak == pytest.approx(float(opened.samples.abs().max()))


def test_eight_bit_and_float_wav_have_the_same_scale(tmp_path: Path) -> None:
    wanted = chirp(16000)
    write_float_wav(tmp_path / "float.wav", wanted, 16000)
    assert np.array_equal(Audio.open(tmp_path / "float.wav").samples.numpy(), wanted)
    encode(tmp_path / "eight.wav", wanted, 16000, "pcm_u8", "wav")
    assert np.abs(Audio.open(tmp_path / "eight.wav").samples.numpy() - wanted).max() < 1.01 / 128


def test_pcm16_is_the_wire_form() -> None:
    assert torch.equal(Audio.from_pcm16(struct.pack("<3h", -32768, 0, 16384), 8000).samples, torch.tensor([[-1.0, 0.0, 0.5]]))
    with pytest.raises(ValueError, match="not 3"):
        Audio.from_pcm16(b"abc", 8000)
    chance = np.random.default_rng(0).integers(-32768, 32768, 999).astype("<i2")
    np.testing.assert_array_equal(Audio.from_pcm16(chance.tobytes(), 8000).to_pcm16(), chance)
    loud = Audio(samples=torch.tensor([[2.0, -2.0, 1.0, 0.25], [2.0, -2.0, 1.0, 0.75]]), rate=8000)
    assert loud.to_pcm16().tolist() == [32767, -32768, 32767, 16384]


def test_mono_is_the_mean() -> None:
    stereo = Audio(samples=torch.tensor([[1.0, 0.0], [0.0, 0.5]]), rate=8000)
    assert torch.equal(stereo.mono().samples, torch.tensor([[0.5, 0.25]]))


RATES = st.sampled_from([7350, 8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000])


@settings(max_examples=40, deadline=None)
@given(rate_in=RATES, rate_out=RATES, length=st.integers(0, 3000), data=st.data())
def test_resampling_does_not_depend_on_the_chunks(rate_in: int, rate_out: int, length: int, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, length), max_size=12))
    samples = np.random.default_rng(length).normal(size=(1, length)).astype(np.float32)
    whole = resample(samples, rate_in, rate_out, [])
    assert np.array_equal(resample(samples, rate_in, rate_out, cuts), whole)
    assert len(whole) == -(-length * rate_out // rate_in)


@pytest.mark.parametrize("rate_in", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("rate_out", [16000, 44100])
def test_a_sine_stays_that_sine_and_what_cannot_be_kept_goes(rate_in: int, rate_out: int) -> None:
    time = np.arange(rate_in) / rate_in
    lower = min(rate_in, rate_out)
    for frequency in (110.0, 0.2 * lower, 0.4 * lower):
        found = resample(np.sin(2 * np.pi * frequency * time)[None].astype(np.float32), rate_in, rate_out, [])
        wanted = np.sin(2 * np.pi * frequency * np.arange(len(found)) / rate_out)
        edge = rate_out // 50  # the tone is cut off there, and a cut has every frequency
        assert np.abs(found - wanted)[edge:-edge].max() < 2e-4
    if rate_in > 1.3 * rate_out:
        above = resample(np.sin(2 * np.pi * 0.6 * rate_out * time)[None].astype(np.float32), rate_in, rate_out, [])
        assert np.abs(above[edge:-edge]).max() < 2e-4


def test_a_resampler_refuses_another_rate() -> None:
    with pytest.raises(ValueError, match="44100 Hz and a chunk is at 8000"):
        Resampler(44100, 16000).push(Audio(samples=torch.zeros(1, 8), rate=8000))
    with pytest.raises(ValueError, match="positive"):
        Resampler(0, 16000)


def test_sound_of_any_kind_that_is_none_is_refused(tmp_path: Path) -> None:
    def refused(name: str, kind: type[Exception], match: str) -> None:
        for reader in (Audio.open, probe_audio):
            with pytest.raises(kind, match=match) as caught:
                reader(tmp_path / name)
            assert "\n" not in str(caught.value)

    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("it sounds like a text")
    refused("folder.wav", IsADirectoryError, "is a folder")
    refused("nowhere.wav", FileNotFoundError, "does not exist")
    refused("empty.wav", ValueError, "is an empty file")
    refused("text.wav", ValueError, "no sound or video")
    write_wav(tmp_path / "none.wav", np.zeros((1, 0), np.float32), 16000)
    refused("none.wav", ValueError, "0 samples")
    write_float_wav(tmp_path / "nan.wav", np.where(np.arange(9000) == 8000, np.nan, chirp(9000)), 9000)
    refused("nan.wav", ValueError, "not numbers")
    with pytest.raises(ValueError, match="NaN"):
        Audio(samples=torch.full((1, 3), torch.nan), rate=8000)
    with pytest.raises(ValueError, match="0 Hz"):
        Audio(samples=torch.zeros(1, 3), rate=0)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize(
    ("suffix", "codec"), [("wav", ""), ("flac", "flac"), ("m4a", "aac"), ("mp3", "libmp3lame"), ("ogg", "libopus")]
)
def test_a_recording_that_was_cut_is_refused_with_both_lengths(tmp_path: Path, suffix: str, codec: str, rate: int) -> None:
    wanted = chirp(rate := 48000 if suffix == "ogg" else rate, seconds=4.0)
    if codec:
        encode(tmp_path / f"whole.{suffix}", wanted, rate, codec)
    else:
        write_wav(tmp_path / "whole.wav", wanted, rate)
    assert Audio.open(tmp_path / f"whole.{suffix}").duration == pytest.approx(4.0, abs=0.05)
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    for share in (0.5, 0.8):
        (tmp_path / f"cut.{suffix}").write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=r"cut short|is damaged") as caught:
            Audio.open(tmp_path / f"cut.{suffix}")
        # An MP4 without its end has no index either, an Ogg tells no length, half a packet of a few in a FLAC is damage, and an
        # MP3's length is known but for its padding.
        assert re.search(r"should last (4\.0|3\.\d) s", str(caught.value)) or suffix in ("m4a", "ogg", "flac")


def test_an_ogg_that_lacks_its_last_byte_or_page_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "sound.ogg"
    encode(path, chirp(48000, seconds=4.0), 48000, "libopus")
    data = path.read_bytes()
    for end in (len(data) - 1, data.rindex(b"OggS"), data.rindex(b"OggS") + 20):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="cut short"):
            Audio.open(path)


def test_an_mp3_that_states_no_length_and_one_that_goes_on_are_taken(tmp_path: Path) -> None:
    """Nothing tells such a file from a shorter one, and two files in a row are longer than the first one says."""
    path = tmp_path / "sound.mp3"
    encode(path, chirp(44100, seconds=4.0), 44100, "libmp3lame")
    data = path.read_bytes()
    path.write_bytes(data + data)
    assert Audio.open(path).duration == pytest.approx(8.0, abs=0.2)
    path.write_bytes(data.replace(b"Info", bytes(4))[: len(data) // 2])
    assert Audio.open(path).duration == pytest.approx(2.0, abs=0.2)


def test_a_placeholder_length_of_a_piped_wav_is_no_cut(tmp_path: Path) -> None:
    write_wav(tmp_path / "piped.wav", chirp(16000), 16000)
    data = bytearray((tmp_path / "piped.wav").read_bytes())
    data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "piped.wav").write_bytes(data)
    assert probe_audio(tmp_path / "piped.wav").duration_seconds == 1.0


def test_silent_and_endless_recordings_are_refused_before_the_work(tmp_path: Path) -> None:
    write_wav(tmp_path / "silent.wav", np.zeros((1, 16000), np.float32), 16000)
    with pytest.raises(ValueError, match="is silent"):
        probe_audio(tmp_path / "silent.wav")
    encode(tmp_path / "day.flac", np.zeros((1, 7 * 3600 * 100), np.float32), 100, "flac")
    with pytest.raises(ValueError, match=r"7\.0 hours"):
        probe_audio(tmp_path / "day.flac")
    write_wav(tmp_path / "day.wav", np.zeros((1, 7 * 3600 * 100), np.float32), 100)
    with pytest.raises(ValueError, match=r"7\.0 hours"):
        next(read_audio(tmp_path / "day.wav"))
    encode(tmp_path / "day.aiff", np.zeros((1, 7 * 3600 * 100), np.float32), 100, "pcm_s16be")
    with pytest.raises(ValueError, match="more than 6 hours"):
        probe_audio(tmp_path / "day.aiff")


def test_a_scratch_keeps_the_clock_and_ruin_is_refused(tmp_path: Path) -> None:
    wanted = chirp(16000, seconds=4.0)
    encode(tmp_path / "sound.m4a", wanted, 16000, "aac")
    whole = (tmp_path / "sound.m4a").read_bytes()
    start = whole.index(b"mdat") + 4
    size = int.from_bytes(whole[start - 8 : start - 4], "big") - 8
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    middle = start + size // 2
    (tmp_path / "sound.m4a").write_bytes(whole[:middle] + noise[:300] + whole[middle + 300 :])
    found = Audio.open(tmp_path / "sound.m4a").samples[0].numpy()
    assert len(found) == wanted.shape[1]
    for part in (slice(0, 28000), slice(40000, 64000)):
        lag, correlation = lag_and_correlation(found[part], wanted[0, part])
        assert lag == 0
        assert correlation > 0.99
    (tmp_path / "sound.m4a").write_bytes(whole[:start] + noise + whole[start + size :])
    with pytest.raises(ValueError, match="is damaged"):
        Audio.open(tmp_path / "sound.m4a")


def test_speech_is_the_same_every_time_and_as_long_as_a_speaker_takes() -> None:
    text = "Good morning to everyone, and welcome to the very first episode."
    first = speak(text)
    assert 2.0 < first.duration < 7.0
    assert 0.05 < float(first.samples.abs().max()) <= 1.0
    between = [speak("Something else."), speak(text, "de"), speak(text, rate_wpm=300)]
    assert torch.equal(speak(text).samples, first.samples)
    assert between[0].duration < first.duration
    assert not torch.equal(between[1].samples[:, :20000], first.samples[:, :20000])
    assert 0.35 < between[2].duration / first.duration < 0.75


@pytest.mark.parametrize(
    ("text", "voice", "rate", "match"),
    [
        ("", "en", 160, "nothing to say"),
        (" ...!", "en", 160, "nothing to say"),
        ("hello", "klingonish", 160, "no voice 'klingonish'"),
        ("hello", "../../en", 160, "no voice"),
        ("hello", "", 160, "no voice"),
        ("hello", "en", 5, "5 words per minute"),
    ],
)
def test_what_cannot_be_said_is_refused(text: str, voice: str, rate: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        speak(text, voice, rate)
