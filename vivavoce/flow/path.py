"""The straight path between noise and data, along which every frame has a flow time of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor

C_contra = TypeVar("C_contra", contravariant=True)


class VelocityField(Protocol[C_contra]):
    """What a velocity network computes: dx/dt at a point, each frame at its own flow time (0 is noise, 1 is data)."""

    def __call__(
        self, point: Float[Tensor, "b t *event"], time: Float[Tensor, "b t"], condition: C_contra, /
    ) -> Float[Tensor, "b t *event"]: ...


@dataclass(frozen=True, kw_only=True)
class PathSample:
    """A point of the path and how it moves there."""

    point: Float[Tensor, "b t *event"]
    velocity: Float[Tensor, "b t *event"]
    time: Float[Tensor, "b t"]


def interpolate(noise: Float[Tensor, "b t *event"], data: Float[Tensor, "b t *event"], time: Float[Tensor, "b t"]) -> PathSample:
    """x_t = (1 - t) x_0 + t x_1 with velocity x_1 - x_0; exactly the noise at t = 0 and exactly the data at t = 1.

    A frame at t = 1 is clean: windows' prefixes and reference frames are frames like any other (rectified flow, Liu et al. 2022,
    with t per frame as in diffusion forcing, Chen et al. 2024).
    """
    assert noise.shape == data.shape, f"noise {tuple(noise.shape)} against data {tuple(data.shape)}"
    assert time.shape == data.shape[:2], f"time {tuple(time.shape)} for data {tuple(data.shape)}"
    t = per_event(time, data)
    return PathSample(point=(1.0 - t) * noise + t * data, velocity=data - noise, time=time)


def per_event(frames: Tensor, like: Float[Tensor, "b t *event"]) -> Tensor:
    """A value per frame, "b t", with the singleton axes that let it broadcast over the events of `like`."""
    return frames.reshape(*frames.shape, *(1,) * (like.ndim - frames.ndim))
