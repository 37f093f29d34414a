"""The prosodic stream: how it is being said. Pitch, voicing, energy, onsets, their changes and the speaking rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.speech.acoustic import BANDS, HOPS, RANGE_DB
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ
from vivavoce.speech.syllables import SyllableState, count, loudness_db

LOWEST_HZ, HIGHEST_HZ = 60, 500

NAMES = (
    "pitch",  # log2 F0 relative to the speaker's running centre, octaves, times voicedness: 0 where unvoiced
    "voicing",  # peak of the normalised autocorrelation, 0 to 1, fading to 0 in the background
    "energy",  # dB relative to the speaker's level
    "onset",  # mean rise of the mel bands since the last frame, dB
    "pitch_change",  # the first four minus themselves CHANGE_FRAMES ago
    "voicing_change",
    "energy_change",
    "onset_change",
    "rate",  # syllables per second, a running mean over syllables.RATE_SECONDS
)
WIDTH = len(NAMES)
_BASE = 4  # names before the changes

CHANGE_FRAMES = 3

_SPAN = SAMPLE_RATE_HZ * 60 // 1000  # 60 ms, so that even the longest period is compared over more than 40 ms
_FFT = 2048  # at least _SPAN + the longest lag, so that the circular correlation is the plain one
_SHORTEST, _LONGEST = SAMPLE_RATE_HZ // HIGHEST_HZ, SAMPLE_RATE_HZ // LOWEST_HZ
_QUIET = 1e-7  # mean square, -70 dBFS: the noise of converters is never voiced
_VOICE_HZ = 800.0  # -3 dB of the low-pass before the correlation: a voice's strong harmonics lie below, most noise above
_OCTAVE_COST = 0.08  # of correlation per octave of lag: two periods correlate as well as one
_CENTRE_COST = (
    0.06  # of correlation per octave away from the speaker's centre; less than the above, or a high voice locks an octave low
)
_UNVOICED, _VOICED = 0.55, 0.8  # correlation where voicedness starts and is complete
_FAINT_DB, _CLEAR_DB = -40.0, -30.0  # relative to the level: periodic background below is nobody's voice
_CENTRE_PRIOR_HZ = 160.0
_CENTRE_PRIOR_FRAMES = 5.0
_CENTRE_MEMORY_FRAMES = 5.0 * RATE_HZ


@dataclass(frozen=True, kw_only=True)
class Pitch:
    octave: Float[Tensor, " n"]
    """log2 of F0 in Hz; where nothing is periodic, of the centre."""
    voicing: Float[Tensor, " n"]
    """Normalised autocorrelation at the period, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ProsodyState:
    centre_octave: float
    centre_frames: float
    syllables: SyllableState
    bands_db: Float[Tensor, "1 hops bands"]
    """Absolute band levels of the last frame."""
    base: Float[Tensor, "past base"]
    """The unscaled base features of the last CHANGE_FRAMES frames."""


class Prosody:
    """Pitch by normalised cross-correlation, one frame at a time.

    The window is low-passed (first order in power, zero phase), weighted by a Hann curve, which keeps a glide inside it from
    blurring its periods, and compared with itself at every lag: the two overlapping parts each to their own energy, then relative
    to what a constant would give. Holds constants only.
    """

    reach = _SPAN // 2
    """Samples read on either side of a feature's time."""

    # Mean and deviation of each feature in NAMES' order and units, over the frames within 35 dB of the level in 81 clips of all
    # 66 talking people of the training recordings (at most 2 clips of each, 12 of GRID s1; seven minutes in all).
    mean = (-0.02, 0.65, -9.3, 2.1, 0.0, 0.0, 0.0, 0.0, 2.8)
    deviation = (0.34, 0.3, 10.1, 2.9, 0.37, 0.28, 10.5, 4.3, 1.6)

    def __init__(self) -> None:
        self._offsets = torch.arange(_SPAN) - _SPAN // 2
        self._mean = torch.tensor(self.mean)
        self._deviation = torch.tensor(self.deviation)
        hz = torch.arange(_FFT // 2 + 1) * SAMPLE_RATE_HZ / _FFT
        self._lowpass = torch.rsqrt(1.0 + (hz / _VOICE_HZ) ** 2)
        self._weights = torch.hann_window(_SPAN + 2, periodic=False)[1:-1]
        self._constant = _correlation(self._weights[None], 0.0)
        lags = torch.arange(_SHORTEST, _LONGEST + 1, dtype=torch.float32)
        self._lag_octave = torch.log2(SAMPLE_RATE_HZ / lags)
        self._lag_cost = _OCTAVE_COST * torch.log2(lags / _SHORTEST)

    def start(self) -> ProsodyState:
        silence = torch.full((1, HOPS, BANDS), -math.inf)
        base = torch.tensor([[0.0, 0.0, -RANGE_DB, 0.0]]).repeat(CHANGE_FRAMES, 1)
        return ProsodyState(
            centre_octave=math.log2(_CENTRE_PRIOR_HZ),
            centre_frames=_CENTRE_PRIOR_FRAMES,
            syllables=SyllableState(),
            bands_db=silence,
            base=base,
        )

    def pitch(self, samples: Float[Tensor, " t"], centres: Tensor, state: ProsodyState) -> Pitch:
        """Pitch around every centre (an index into samples), preferring the speaker's own range as known before these frames."""
        windows = samples[centres[:, None] + self._offsets]
        windows = windows - windows.mean(dim=-1, keepdim=True)
        voice = torch.fft.irfft(torch.fft.rfft(windows, n=_FFT) * self._lowpass, n=_FFT)[:, :_SPAN]
        correlation = _correlation(voice * self._weights, _SPAN * _QUIET) / self._constant
        before, here, after = (correlation[:, _SHORTEST + d : _LONGEST + 1 + d] for d in (-1, 0, 1))
        peak = (here >= before) & (here >= after)
        cost = self._lag_cost + _CENTRE_COST * (self._lag_octave - state.centre_octave).abs()
        best = torch.where(peak, here - cost, -math.inf).argmax(dim=-1, keepdim=True)
        before, here, after = (part.gather(1, best)[:, 0] for part in (before, here, after))
        bend = (before - 2.0 * here + after).clamp(max=-1e-6)  # negative at a peak; the shift is the parabola's top
        shift = (0.5 * (before - after) / bend).clamp(-0.5, 0.5)
        octave = torch.log2(SAMPLE_RATE_HZ / (best[:, 0] + _SHORTEST + shift))
        found = peak.any(dim=-1)
        voicing = torch.where(found, here, 0.0).clamp(0.0, 1.0)
        return Pitch(octave=torch.where(found, octave, state.centre_octave), voicing=voicing)

    def features(
        self,
        pitch: Pitch,
        energy_dbfs: Float[Tensor, " n"],
        bands_db: Float[Tensor, "n hops bands"],
        level_dbfs: Float[Tensor, " n"],
        state: ProsodyState,
    ) -> tuple[Float[Tensor, "n d"], ProsodyState]:
        """The stream's features in the order of NAMES, scaled to about zero mean and unit variance on speech."""
        energy = (energy_dbfs - level_dbfs).clamp(-RANGE_DB, RANGE_DB / 2)
        voicing = pitch.voicing * ((energy - _FAINT_DB) / (_CLEAR_DB - _FAINT_DB)).clamp(0.0, 1.0)
        voicedness = ((voicing - _UNVOICED) / (_VOICED - _UNVOICED)).clamp(0.0, 1.0)
        relative, centre, frames = _relative_octaves(pitch.octave.tolist(), voicedness.tolist(), state)
        level = level_dbfs[:, None]
        # Both frames of a rise are seen at the same level, or a change of the level would look like an onset.
        now = (bands_db.mean(dim=1) - level).clamp(-RANGE_DB, RANGE_DB / 2)
        past = (torch.cat([state.bands_db, bands_db[:-1]]).mean(dim=1) - level).clamp(-RANGE_DB, RANGE_DB / 2)
        onset = (now - past).clamp(min=0.0).mean(dim=-1)
        base = torch.stack([torch.tensor(relative), voicing, energy, onset], dim=-1)
        history = torch.cat([state.base, base])
        change = base - history[:-CHANGE_FRAMES]
        loudness = loudness_db(bands_db, level_dbfs)
        rates, syllables = count(loudness.tolist(), voicing.tolist(), state.syllables)
        values = torch.cat([base, change, torch.tensor(rates)[:, None]], dim=-1)
        after = ProsodyState(
            centre_octave=centre,
            centre_frames=frames,
            syllables=syllables,
            bands_db=bands_db[-1:].clone(),
            base=history[-CHANGE_FRAMES:].clone(),
        )
        return (values - self._mean) / self._deviation, after


def _correlation(windows: Float[Tensor, "n span"], least: float) -> Float[Tensor, "n lags"]:
    """Correlation of each window's two parts that overlap at a lag, over the root of their energies' product plus ``least``."""
    spectrum = torch.fft.rfft(windows, n=_FFT)
    power = spectrum.real.square() + spectrum.imag.square()
    correlation = torch.fft.irfft(torch.complex(power, torch.zeros_like(power)), n=_FFT)[:, : _LONGEST + 2]
    energy = torch.nn.functional.pad(windows.square().cumsum(dim=-1), (1, 0))
    lags = torch.arange(_LONGEST + 2)
    head, tail = energy[:, _SPAN - lags], energy[:, -1:] - energy[:, lags]
    return correlation / (torch.sqrt((head * tail).clamp(min=0.0)) + least)


def _relative_octaves(octaves: list[float], voicedness: list[float], state: ProsodyState) -> tuple[list[float], float, float]:
    """Pitch relative to the running mean of voiced pitch, at most 1.5 octaves away, and that mean after the last frame."""
    centre, frames = state.centre_octave, state.centre_frames
    relative = []
    for octave, voiced in zip(octaves, voicedness, strict=True):
        frames = min(frames + voiced, _CENTRE_MEMORY_FRAMES)
        centre += voiced / frames * (octave - centre)
        relative.append(voiced * min(max(octave - centre, -1.5), 1.5))
    return relative, centre, frames
