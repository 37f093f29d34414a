"""The acoustic stream: log-mel energies relative to the speaker's level. The phonetic network hears these."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ

BANDS = 40
LOW_HZ, HIGH_HZ = 60.0, 7600.0
HOPS = 2
"""Hops of 1 / (RATE_HZ * HOPS) seconds stacked into one feature."""

RANGE_DB = 60.0
"""Bands quieter than this below the speaker's level are clamped to it: digital silence is one constant vector."""

_WINDOW = SAMPLE_RATE_HZ * 25 // 1000
_FFT = 512
_FLOOR = 1e-12  # power; -120 dBFS, only so that the logarithm exists

WIDTH = BANDS * HOPS


def _mel(hz: Tensor) -> Tensor:
    return 2595.0 * torch.log10(1.0 + hz / 700.0)


def _filters() -> Float[Tensor, "bins bands"]:
    """Triangles equally wide in mel whose weights sum to one over the range, so that bands' powers add up to the sound's."""
    bins = _mel(torch.arange(_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / _FFT)
    low, high = _mel(torch.tensor([LOW_HZ, HIGH_HZ], dtype=torch.float64)).tolist()
    step = (high - low) / (BANDS + 1)
    centres = low + step * torch.arange(1, BANDS + 1, dtype=torch.float64)
    return (1.0 - (bins[:, None] - centres).abs() / step).clamp(min=0.0).float()


class Acoustic:
    """Windows of 25 ms, hopped 10 ms, 40 mel bands from 60 to 7600 Hz; two hops, centred on the feature's time, make 80 numbers.

    Holds constants only.
    """

    reach = SAMPLE_RATE_HZ // (RATE_HZ * HOPS) * (HOPS - 1) // 2 + _WINDOW // 2
    """Samples read on either side of a feature's time."""

    # Mean and deviation of each band in dB relative to the level, over the frames within 35 dB of it in 51 clips of the training
    # recordings (30 of GRID s1, 21 of the others, five minutes in all). The two hops share them.
    mean_db = (
        -22.0, -22.0, -24.0, -25.0, -27.0, -29.0, -30.0, -32.0, -33.0, -34.0,
        -37.0, -39.0, -40.0, -41.0, -40.0, -41.0, -41.0, -41.0, -41.0, -42.0,
        -42.0, -42.0, -42.0, -42.0, -42.0, -42.0, -43.0, -43.0, -44.0, -44.0,
        -44.0, -45.0, -46.0, -47.0, -47.0, -48.0, -49.0, -49.0, -48.0, -49.0,
    )  # fmt: skip
    deviation_db = (
        10.0, 11.0, 13.0, 13.0, 13.0, 14.0, 14.0, 15.0, 15.0, 15.0,
        14.0, 14.0, 14.0, 13.0, 13.0, 13.0, 13.0, 13.0, 13.0, 13.0,
        12.0, 12.0, 12.0, 12.0, 13.0, 13.0, 13.0, 13.0, 12.0, 12.0,
        13.0, 13.0, 13.0, 12.0, 12.0, 11.0, 11.0, 11.0, 11.0, 11.0,
    )  # fmt: skip

    def __init__(self) -> None:
        self._window = torch.hann_window(_WINDOW, periodic=False)
        # Parseval: the bands of a window add up to its mean square, hence a full-scale sine is at -3 dB.
        self._scale = 2.0 / (_FFT * float(self._window.square().sum()))
        self._filters = _filters()
        hop = SAMPLE_RATE_HZ // (RATE_HZ * HOPS)
        starts = torch.arange(HOPS) * hop - hop * (HOPS - 1) // 2 - _WINDOW // 2
        self._offsets = starts[:, None] + torch.arange(_WINDOW)
        self._mean = torch.tensor(self.mean_db).repeat(HOPS)
        self._deviation = torch.tensor(self.deviation_db).repeat(HOPS)

    def bands(self, samples: Float[Tensor, " t"], centres: Tensor) -> Float[Tensor, "n hops bands"]:
        """Power of every band around every centre (an index into samples), as mean squares of the samples."""
        windows = samples[centres[:, None, None] + self._offsets]
        windows = (windows - windows.mean(dim=-1, keepdim=True)) * self._window
        spectrum = torch.fft.rfft(windows, n=_FFT)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power * self._scale) @ self._filters

    def features(self, bands_db: Float[Tensor, "n hops bands"], level_dbfs: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Band levels relative to the speaker's, the earlier hop first, scaled to about zero mean and unit variance on speech."""
        relative = (bands_db - level_dbfs[:, None, None]).clamp(-RANGE_DB, RANGE_DB / 2)
        return (relative.flatten(1) - self._mean) / self._deviation


def decibels(power: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Powers as levels in dBFS, a full-scale sine being at -3."""
    return 10.0 * torch.log10(power + _FLOOR)


def energy_dbfs(bands: Float[Tensor, "n hops bands"]) -> Float[Tensor, " n"]:
    """Level of each frame between LOW_HZ and HIGH_HZ in dBFS."""
    return decibels(bands.sum(dim=-1).mean(dim=-1))
