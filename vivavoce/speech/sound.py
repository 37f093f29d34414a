"""Sound as speech is analysed: one channel at 16 kHz."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.media.audio import Audio, Resampler, read_audio
from vivavoce.speech.encoder import SAMPLE_RATE_HZ


def load_sound(path: Path) -> Float[Tensor, " s"]:
    """A recording, one channel at 16 kHz. Raises as `read_audio` does."""
    parts, resampler = [], None
    for block in read_audio(path):
        resampler = resampler or Resampler(block.rate, SAMPLE_RATE_HZ)
        parts.append(resampler.push(block.mono()).samples[0])
    assert resampler is not None  # read_audio refuses recordings without samples
    return torch.cat([*parts, resampler.finish().samples[0]])


def at_rate(audio: Audio) -> Float[Tensor, " s"]:
    """One channel at 16 kHz."""
    resampler = Resampler(audio.rate, SAMPLE_RATE_HZ)
    return torch.cat([resampler.push(audio.mono()).samples[0], resampler.finish().samples[0]])
