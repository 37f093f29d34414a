"""A sampled signal that knows its clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """values: (b, t, *event), floating point; values[:, i] is the value at start + i / rate seconds.  rate in Hz."""

    values: Float[Tensor, "b t *event"]
    rate: float
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.values.ndim < 2 or not self.values.is_floating_point():
            raise ValueError(
                f"a track holds a floating-point tensor of shape (batch, time, ...), "
                f"not {self.values.dtype} of shape {tuple(self.values.shape)}: add the missing axes"
            )
        if not (self.rate > 0 and math.isfinite(self.rate) and math.isfinite(self.start)):
            raise ValueError(f"a track of {self.rate} Hz that starts at {self.start} s has no clock: give a positive rate")

    @property
    def duration(self) -> float:
        """Seconds: the number of values over the rate, so that tracks laid end to end add up."""
        return self.values.shape[1] / self.rate

    @property
    def times(self) -> Float[Tensor, " t"]:
        """Seconds, float64: where the values lie."""
        return self.start + torch.arange(self.values.shape[1], dtype=torch.float64) / self.rate

    def at(self, times: Float[Tensor, " n"]) -> Float[Tensor, "b n *event"]:
        """Values at any times in seconds, by linear interpolation; before the first and after the last value those hold.

        Raises ValueError for a track without values.
        """
        count = self.values.shape[1]
        if count == 0:
            raise ValueError("a track without values has none at any time: give it at least one")
        position = ((times.to(torch.float64) - self.start) * self.rate).clamp(0, count - 1)
        # Times that were computed as start + i / rate come back a rounding error off i, and must give values[:, i] itself.
        nearest = position.round()
        position = torch.where((position - nearest).abs() < 1e-6, nearest, position)
        left = position.floor().long().clamp(max=max(0, count - 2))
        right = (left + 1).clamp(max=count - 1)
        event = (1,) * (self.values.ndim - 2)
        share = (position - left).to(self.values.dtype).to(self.values.device).reshape(1, -1, *event)
        left, right = left.to(self.values.device), right.to(self.values.device)
        return torch.lerp(self.values[:, left], self.values[:, right], share)

    def resample(self, rate: float) -> Track:
        """The same signal at another rate and the same start, as many values as keep the duration (at least one).

        Linear interpolation; a signal faster than half the new rate is not smoothed first.
        """
        count = max(1, round(self.duration * rate))
        times = self.start + torch.arange(count, dtype=torch.float64) / rate
        return Track(values=self.at(times), rate=rate, start=self.start)
