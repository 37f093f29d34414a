"""What a speech encoder is: a causal, stepwise map from samples to a track of features, and the clock it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.media.track import Track

SAMPLE_RATE_HZ = 16000
"""Rate of the samples that every speech encoder takes."""

RATE_HZ = 50
"""Rate of the features that every speech encoder gives."""

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class SpeechSpec:
    """What an encoder takes and gives.

    Feature i describes the sound around i / rate_hz seconds: its analysis windows are centred there, and it reads no sample later
    than i / rate_hz + lookahead_seconds. Features come in blocks at fixed places: the last one of a block is given as soon as its
    lookahead has been heard, the first one with it, up to block_seconds later than it could be.
    """

    sample_rate_hz: int
    rate_hz: int
    streams: Mapping[str, int]
    """Name of each stream of the concatenated features -> its width, in order."""
    lookahead_seconds: float
    block_seconds: float

    @property
    def width(self) -> int:
        return sum(self.streams.values())

    def split(self, values: Float[Tensor, "*b d"]) -> dict[str, Tensor]:
        """The streams of concatenated features by name, as views of the last axis."""
        assert values.shape[-1] == self.width, f"{values.shape[-1]} features, the spec has {self.width}"
        parts = values.split(list(self.streams.values()), dim=-1)
        return dict(zip(self.streams, parts, strict=True))


class SpeechEncoder(Protocol[S]):
    """Samples in, features out, with all memory in an explicit value S: one encoder serves any number of listeners."""

    @property
    def spec(self) -> SpeechSpec: ...

    def start(self) -> S:
        """The state before the first sample."""
        ...

    def step(self, samples: Float[Tensor, " t"], state: S, *, last: bool = False) -> tuple[Track, S]:
        """The features that `samples` complete ("1 t d", possibly t = 0), and the state after them.

        How the samples are cut into steps changes no bit of the features. With last=True the sound ends here, silence is assumed
        behind it, and the features of all steps together are ceil(duration * rate_hz).
        """
        ...


def features(encoder: SpeechEncoder[S], samples: Float[Tensor, " t"]) -> Track:
    """The features of a whole recording, "1 ceil(duration * rate_hz) d": one step that is also the last."""
    track, _ = encoder.step(samples, encoder.start(), last=True)
    return track


def checked(samples: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """The samples, or ValueError where they are not one channel of finite floating-point numbers."""
    if samples.ndim != 1 or not samples.is_floating_point():
        raise ValueError(
            f"Speech samples are {samples.dtype} of shape {tuple(samples.shape)}, but one channel of floating-point numbers in "
            f"[-1, 1] at {SAMPLE_RATE_HZ} Hz is expected; mix down and resample the audio first."
        )
    samples = samples.detach().to(device="cpu", dtype=torch.float32)
    if not bool(torch.isfinite(samples).all()):
        raise ValueError(
            "Speech samples hold values that are not finite, but numbers in [-1, 1] are expected; decode the audio again."
        )
    return samples
