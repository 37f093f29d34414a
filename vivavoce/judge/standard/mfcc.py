"""Mel-frequency cepstral coefficients as the package python_speech_features defines them, which is what SyncNet was taught on.

Its definition differs from the usual ones: no window function, a filter bank on whole FFT bins, and the logarithm of a frame's
energy in place of the first coefficient.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from scipy.fft import dct

from vivavoce.speech.encoder import SAMPLE_RATE_HZ

RATE_HZ = 100
COEFFICIENTS = 13
_FRAME, _STEP = SAMPLE_RATE_HZ // 40, SAMPLE_RATE_HZ // RATE_HZ  # samples: 25 ms every 10 ms
_FFT = 512
_FILTERS = 26
_EMPHASIS = 0.97
_LIFTER = 22
_FLOOR = np.finfo(np.float64).eps  # in place of zero, before a logarithm


def mfcc(samples: Float[np.ndarray, " n"]) -> Float64[np.ndarray, "f 13"]:
    """Coefficients every 10 ms; frame k begins at 10 k ms, and silence follows the sound to fill the last one.

    samples: at 16 kHz, on the scale of 16 bits (32768 is full scale): the scale moves the first coefficient.
    """
    assert samples.ndim == 1 and len(samples), samples.shape
    signal = samples.astype(np.float64)
    signal = np.append(signal[0], signal[1:] - _EMPHASIS * signal[:-1])
    count = 1 + max(0, -(-(len(signal) - _FRAME) // _STEP))
    signal = np.pad(signal, (0, (count - 1) * _STEP + _FRAME - len(signal)))
    frames = np.lib.stride_tricks.sliding_window_view(signal, _FRAME)[::_STEP]
    power = np.abs(np.fft.rfft(frames, _FFT)) ** 2 / _FFT
    energy, bands = power.sum(1), power @ _filter_bank().T
    cepstrum = dct(np.log(np.where(bands == 0, _FLOOR, bands)), type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    cepstrum = cepstrum * (1 + _LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / _LIFTER))
    cepstrum[:, 0] = np.log(np.where(energy == 0, _FLOOR, energy))
    return cepstrum


def _filter_bank() -> Float64[np.ndarray, "26 257"]:
    """Triangles evenly spaced in mel from 0 Hz to half the rate, their corners moved down to whole bins of 16000 / 513 Hz."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, _FILTERS + 2) / 2595) - 1)
    corners = np.floor((_FFT + 1) * corners / SAMPLE_RATE_HZ)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(_FFT // 2 + 1)
    rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where((bins >= low) & (bins < middle), rise, 0) + np.where((bins >= middle) & (bins < high), fall, 0)
