"""What the levels are given to hear: the streams that the network listens to and, beside them, their means over the utterance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from numba import njit
from torch import Tensor

from vivavoce.nets.levels import LevelsConfig


@dataclass(frozen=True)
class Memory:
    """The mean of an utterance so far, over ``count`` features."""

    mean: Float64[np.ndarray, " w"]
    count: int = 0

    @classmethod
    def start(cls, levels: LevelsConfig) -> Memory:
        """Before the first feature that the levels are given."""
        return cls.empty(sum(levels.streams[name] for name in levels.listen))

    @classmethod
    def empty(cls, width: int) -> Memory:
        """Before the first of features that wide."""
        return cls(np.zeros(width))


def hear(features: Float[Tensor, "s w"], memory: Memory, levels: LevelsConfig) -> tuple[Float[Tensor, "s v"], Memory]:
    """Listened streams of an utterance's next features and, where there is a level for it, their running means: "s levels.heard".

    How an utterance is cut into calls changes no bit.
    """
    listened = _listened(features, levels)
    if levels.memory is None:
        return listened, memory
    means, memory = running_mean(listened, memory, levels.memory)
    return torch.cat([listened, means], -1), memory


def hear_all(features: Float[Tensor, "s w"], levels: LevelsConfig) -> Float[Tensor, "s v"]:
    """`hear` of a whole utterance, as training wants it."""
    return hear(features, Memory.start(levels), levels)[0]


def hear_silence(silence: Float[Tensor, " w"], levels: LevelsConfig) -> Float[Tensor, " v"]:
    """What is heard before an utterance: the features of silence, which are their own mean."""
    listened = _listened(silence, levels)
    return listened if levels.memory is None else torch.cat([listened, listened], -1)


def cut(speech: Float[Tensor, "s w"] | None, span: range, silence: Float[Tensor, " w"]) -> Float[Tensor, "n w"]:
    """What is heard in a span, silence where there is nothing."""
    out = silence.expand(len(span), -1).clone()
    if speech is not None:
        a, b = max(span.start, 0), min(span.stop, len(speech))
        if a < b:
            out[a - span.start : b - span.start] = speech[a:b]
    return out


def running_mean(
    features: Float[Tensor, "s w"], memory: Memory, longest: int
) -> tuple[Float[Tensor, "s w"], Memory]:
    """m_n = m_{n-1} + (x_n - m_{n-1}) / min(n, longest): the mean since the beginning, then one that forgets exponentially."""
    mean = memory.mean.copy()
    means = _running_mean(np.ascontiguousarray(features.numpy()), mean, memory.count, longest)
    return torch.from_numpy(means), Memory(mean, memory.count + len(features))


def _listened(features: Float[Tensor, "*b w"], levels: LevelsConfig) -> Float[Tensor, "*b v"]:
    assert features.shape[-1] == sum(levels.streams.values()), (tuple(features.shape), dict(levels.streams))
    parts = dict(zip(levels.streams, features.split(list(levels.streams.values()), -1), strict=True))
    return torch.cat([parts[name] for name in levels.listen], -1)


@njit(cache=True)
def _running_mean(features: np.ndarray, mean: np.ndarray, count: int, longest: int) -> np.ndarray:
    """Updates ``mean`` in place, in double precision: a rounding error would be remembered for as long as the mean is."""
    means = np.empty(features.shape, np.float32)
    for i in range(features.shape[0]):
        share = 1.0 / min(count + i + 1, longest)
        for j in range(features.shape[1]):
            mean[j] += (features[i, j] - mean[j]) * share
            means[i, j] = mean[j]
    return means
