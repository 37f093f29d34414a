"""What happens to speech before it reaches us: noise, rooms, codecs, other voices and efforts. Functions of samples at 16 kHz.

Each says what it does to time: "times stay" means that whatever was at t seconds is at t afterwards, to within a sample or two,
so labels and motion keep their places. Whatever is drawn at random is drawn from the generator that is given.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import torch
from av.audio.stream import AudioStream
from jaxtyping import Float
from scipy import fft, signal
from scipy.linalg import solve_toeplitz
from torch import Tensor

from vivavoce.media.audio import Audio, Resampler
from vivavoce.speech.encoder import SAMPLE_RATE_HZ

Samples = Float[Tensor, " s"]

_FRAME = SAMPLE_RATE_HZ // 50
_ACTIVE_DB = 35.0
_TELEPHONE_HZ, _TELEPHONE_BAND_HZ, _MU = 8000, (300.0, 3400.0), 255.0
_LPC_ORDER, _LPC_WINDOW = 18, 512
_WSOLA_WINDOW, _WSOLA_SEARCH = 512, 100
_TINY = 1e-9


# --- Noise -------------------------------------------------------------------------------------------------------------------


def speech_level(samples: Samples) -> float:
    """Root mean square over the 20 ms frames within 35 dB of the loudest one: pauses do not count."""
    x = _numpy(samples)
    power = (np.resize(x, max(1, len(x) // _FRAME) * _FRAME).reshape(-1, _FRAME) ** 2).mean(1)
    return float(np.sqrt(power[power >= power.max() * 10 ** (-_ACTIVE_DB / 10)].mean()))


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Speech with noise, repeated or cut to its length, so far below the speech's level (`speech_level`). Times stay.

    Silent noise or speech changes nothing. The sum may exceed full scale: scale it or clip it, as the case is.
    """
    n = torch.from_numpy(np.resize(_numpy(noise), len(samples)).astype(np.float32))
    level = float(n.double().square().mean().sqrt())
    if level < _TINY:
        return samples
    return samples + n * (speech_level(samples) / level * 10 ** (-snr_db / 20))


def coloured_noise(count: int, slope: float, rng: np.random.Generator) -> Samples:
    """Gaussian noise whose power falls as 1 / f^slope (0 white, 1 pink, 2 brown; flat under 50 Hz), at a level of 0.1."""
    size = fft.next_fast_len(count, real=True)
    spectrum = fft.rfft(rng.standard_normal(size))
    hz = np.clip(fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ), 50, None)
    return _levelled(fft.irfft(spectrum * hz ** (-slope / 2), size)[:count])


def babble(speeches: Sequence[Samples], count: int, rng: np.random.Generator, talkers: int = 6) -> Samples:
    """Several talkers at once, each from a random place of a random one of the speeches, at a level of 0.1."""
    if not speeches:
        raise ValueError("babble is made of speech, and none was given: give at least one recording")
    total = np.zeros(count)
    for _ in range(talkers):
        speech = _numpy(speeches[int(rng.integers(len(speeches)))])
        level = speech_level(torch.from_numpy(speech)) + _TINY
        total += np.resize(np.roll(speech, int(rng.integers(len(speech)))), count) / level * 10 ** (rng.uniform(-6, 0) / 20)
    return _levelled(total)


def music(count: int, rng: np.random.Generator) -> Samples:
    """A simple band: chords and a tune of decaying harmonic tones, a bass and a drum on the beat; at a level of 0.1."""
    beat = int(SAMPLE_RATE_HZ * 60 / rng.uniform(70, 150))
    root = rng.uniform(90, 180)
    total = np.zeros(count + 4 * beat)
    for i, start in enumerate(range(0, count, beat)):
        if i % 4 == 0:
            chord = root * 2 ** (np.array([0, rng.choice([3, 4]), 7]) / 12 + float(rng.choice([0, 2, 5, 7, 9])) / 12)
            for hz in (*chord, chord[0] / 2):
                total[start : start + 4 * beat] += _tone(float(hz), 4 * beat, 1.5, rng)
        tune = float(chord[int(rng.integers(3))] * 2 ** rng.choice([1.0, 2.0]))
        total[start : start + beat] += 0.8 * _tone(tune, beat, 4.0, rng)
        drum = rng.standard_normal(beat) * np.exp(-np.arange(beat) / SAMPLE_RATE_HZ * 40)
        total[start : start + beat] += rng.uniform(0.2, 0.8) * drum
    return _levelled(total[:count])


def _tone(hz: float, count: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    seconds = np.arange(count) / SAMPLE_RATE_HZ
    harmonics = range(1, min(9, max(2, int(7000 / hz))))
    wave = sum(np.sin(2 * np.pi * hz * k * seconds + rng.uniform(0, 6.28)) * rng.uniform(0.3, 1) / k for k in harmonics)
    return np.asarray(wave * np.exp(-decay * seconds) * np.minimum(1, seconds * 100))


# --- Rooms and lines ---------------------------------------------------------------------------------------------------------


def impulse_response(t60_seconds: float, direct_db: float, rng: np.random.Generator) -> tuple[Samples, int]:
    """A synthetic room, and the index of the direct sound in it, which is 1.

    A dozen early reflections and a dense tail that falls by 60 dB in t60_seconds, high frequencies faster; all reflections
    together lie direct_db under the direct sound.
    """
    count = max(2, int(t60_seconds * SAMPLE_RATE_HZ))
    seconds = np.arange(count) / SAMPLE_RATE_HZ
    noise = rng.standard_normal(count)
    dull = signal.lfilter([0.3], [1.0, -0.7], noise)
    tail = (dull * np.exp(-6.9 * seconds / t60_seconds) + noise * np.exp(-11.0 * seconds / t60_seconds)) * (seconds > 0.008)
    for late in rng.uniform(0.001, min(0.05, t60_seconds), 12):
        tail[min(count - 1, int(late * SAMPLE_RATE_HZ))] += rng.choice([-1, 1]) * 6 * np.exp(-6.9 * late / t60_seconds)
    tail[0] = 0.0
    tail *= 10 ** (-direct_db / 20) / (np.sqrt((tail**2).sum()) + _TINY)
    tail[0] = 1.0
    return torch.from_numpy(tail.astype(np.float32)), 0


def room(samples: Samples, t60_seconds: float, direct_db: float, rng: np.random.Generator) -> Samples:
    """Speech in a synthetic room (`impulse_response`). Times stay: the direct sound is where it was, echoes come after it."""
    response, direct = impulse_response(t60_seconds, direct_db, rng)
    wet = signal.fftconvolve(_numpy(samples), _numpy(response))[direct : direct + len(samples)]
    return _tensor(wet)


def telephone(samples: Samples) -> Samples:
    """An 8 kHz line: 300 to 3400 Hz, mu-law in 8 bits. Times stay: the filters are of zero phase."""
    taps = signal.firwin(301, _TELEPHONE_BAND_HZ, pass_zero=False, fs=SAMPLE_RATE_HZ)
    factor = SAMPLE_RATE_HZ // _TELEPHONE_HZ
    narrow = np.clip(np.convolve(_numpy(samples), taps, "same")[::factor], -1, 1)
    code = np.round(np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU) * 127) / 127
    line = np.sign(code) * np.expm1(np.abs(code) * np.log1p(_MU)) / _MU
    return _tensor(signal.resample_poly(line, factor, 1)[: len(samples)])


def mp3(samples: Samples, kbit: int = 32) -> Samples:
    """Through MP3 at 16 kHz mono and back. Times stay: the encoder's priming is cut off."""
    return _recoded(samples, "libmp3lame", "mp3", kbit)


def opus(samples: Samples, kbit: int = 16) -> Samples:
    """Through Opus and back. Times stay: the encoder's priming is cut off."""
    return _recoded(samples, "libopus", "ogg", kbit)


def aac(samples: Samples, kbit: int = 32) -> Samples:
    """Through AAC and back. Times stay: the encoder's priming is cut off."""
    return _recoded(samples, "aac", "mp4", kbit)


def _recoded(samples: Samples, codec: str, container: str, kbit: int) -> Samples:
    """Encoded and decoded in memory, at its own length."""
    file = io.BytesIO()
    pcm = (samples.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()[None]
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=SAMPLE_RATE_HZ, layout="mono")
        assert isinstance(stream, AudioStream)
        stream.bit_rate = 1000 * kbit
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ), 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    file.seek(0)
    with av.open(file, "r", format=container) as back:
        frames = [(f.to_ndarray()[0], f.sample_rate) for f in back.decode(audio=0)]
    rate = frames[0][1]
    decoded = np.concatenate([values for values, _ in frames])
    scale = 32768.0 if decoded.dtype.kind == "i" else 1.0
    resampler = Resampler(rate, SAMPLE_RATE_HZ)
    whole = Audio(samples=torch.from_numpy((decoded / scale).astype(np.float32))[None], rate=rate)
    values = torch.cat([resampler.push(whole).samples[0], resampler.finish().samples[0]])[: len(samples)]
    return torch.nn.functional.pad(values, (0, len(samples) - len(values)))


# --- Voices ------------------------------------------------------------------------------------------------------------------


def speed(samples: Samples, factor: float) -> Samples:
    """Played so many times faster, pitch and formants going with it. What was at t is at t / factor."""
    ratio = Fraction(factor).limit_denominator(50)
    return _tensor(signal.resample_poly(_numpy(samples), ratio.denominator, ratio.numerator))


def tempo(samples: Samples, factor: float) -> Samples:
    """Spoken so many times faster at its own pitch, by overlapping similar pieces (WSOLA). What was at t is at t / factor, to
    within 10 ms."""
    x = _numpy(samples)
    hop = _WSOLA_WINDOW // 2
    window = np.hanning(_WSOLA_WINDOW + 1)[:-1]
    count = max(1, round(len(x) / factor))
    padded = np.concatenate([np.zeros(_WSOLA_WINDOW), x, np.zeros(2 * _WSOLA_WINDOW + _WSOLA_SEARCH)])
    out = np.zeros(count + 2 * _WSOLA_WINDOW)
    place = 0
    for start in range(0, count + hop, hop):
        # The first hop of the output is cut off, so this piece is centred at start; it is moved to go on smoothly.
        wanted = round(start * factor) - hop + _WSOLA_WINDOW
        if start:
            follows = padded[place + hop : place + hop + _WSOLA_WINDOW]
            low = max(0, wanted - _WSOLA_SEARCH)
            around = padded[low : min(wanted + _WSOLA_SEARCH, len(padded) - _WSOLA_WINDOW) + _WSOLA_WINDOW]
            if len(around) > len(follows) == _WSOLA_WINDOW:
                wanted = low + int(np.argmax(np.correlate(around, follows, "valid")))
        place = min(wanted, len(padded) - _WSOLA_WINDOW)
        out[start : start + _WSOLA_WINDOW] += padded[place : place + _WSOLA_WINDOW] * window
    return _tensor(out[hop : hop + count])


def pitch(samples: Samples, semitones: float) -> Samples:
    """Higher or lower, formants going along as with a smaller or larger speaker. Times stay, to within 10 ms."""
    factor = float(Fraction(2 ** (semitones / 12)).limit_denominator(50))
    values = tempo(speed(samples, factor), 1 / factor)[: len(samples)]
    return torch.nn.functional.pad(values, (0, len(samples) - len(values)))


def tilt(samples: Samples, db_per_octave: float) -> Samples:
    """The spectrum tilted round 1 kHz, as by another microphone or distance. Times stay."""
    size = fft.next_fast_len(len(samples), real=True)
    spectrum = fft.rfft(_numpy(samples), size)
    octaves = np.log2(np.clip(fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ), 60, None) / 1000)
    return _tensor(fft.irfft(spectrum * 10 ** (db_per_octave * octaves / 20), size)[: len(samples)])


def gain(samples: Samples, db: float) -> Samples:
    """Louder or softer. Times stay."""
    return samples * 10 ** (db / 20)


def whisper(samples: Samples, rng: np.random.Generator, db: float = -15.0) -> Samples:
    """As if whispered: in each 32 ms piece the vocal tract (linear prediction) filters noise of the residual's energy instead of
    the voice, and the low end that only a voice has is taken away. Times stay; softer by ``db``."""
    x = np.concatenate([np.zeros(_LPC_WINDOW), _numpy(samples), np.zeros(_LPC_WINDOW)])
    window = np.sqrt(np.hanning(_LPC_WINDOW + 1)[:-1])
    out = np.zeros(len(x))
    for start in range(0, len(x) - _LPC_WINDOW, _LPC_WINDOW // 2):
        piece = x[start : start + _LPC_WINDOW] * window
        lags = np.fft.irfft(np.abs(np.fft.rfft(piece, 2 * _LPC_WINDOW)) ** 2)[: _LPC_ORDER + 1]
        if lags[0] < 1e-8:
            continue
        lags[0] *= 1.0001  # a floor of noise keeps the filter stable
        predictor = np.concatenate([[1.0], -solve_toeplitz(lags[:-1], lags[1:])])
        level = np.sqrt((signal.lfilter(predictor, [1.0], piece) ** 2).mean())
        # Some samples of noise come first, so that the filter has settled.
        breath = rng.standard_normal(2 * _LPC_WINDOW) * level
        out[start : start + _LPC_WINDOW] += signal.lfilter([1.0], predictor, breath)[_LPC_WINDOW:] * window
    high = signal.sosfiltfilt(signal.butter(2, 400, "highpass", fs=SAMPLE_RATE_HZ, output="sos"), out)
    return _tensor(high[_LPC_WINDOW:-_LPC_WINDOW] * 10 ** (db / 20))


def shout(samples: Samples, db: float = 18.0) -> Samples:
    """As if shouted into the microphone: more of the upper spectrum, and so much louder than full scale allows that it clips.
    Times stay."""
    bright = _numpy(tilt(samples, 4.0))
    bright *= speech_level(samples) / (speech_level(torch.from_numpy(bright)) + _TINY)
    return _tensor(np.clip(np.tanh(bright * 10 ** (db / 20)) * 1.1, -1, 1))


def _levelled(values: np.ndarray) -> Samples:
    return _tensor(values * (0.1 / (np.sqrt((values**2).mean()) + _TINY)))


def _numpy(samples: Samples) -> np.ndarray:
    return samples.detach().numpy().astype(np.float64)


def _tensor(values: np.ndarray) -> Samples:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
