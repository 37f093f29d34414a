"""From noise to data: explicit steps along a velocity field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.path import VelocityField

C = TypeVar("C")

Velocity = Callable[[Tensor, float], Tensor]
"""dx/dt at (point, time)."""

Step = Callable[[Velocity, Tensor, float, float], Tensor]
"""The point at `time + dt` from (velocity, point, time, dt)."""


def euler(velocity: Velocity, point: Tensor, time: float, dt: float) -> Tensor:
    """First order, one evaluation."""
    return point + dt * velocity(point, time)


def midpoint(velocity: Velocity, point: Tensor, time: float, dt: float) -> Tensor:
    """Second order, two evaluations, none of them at the end of the step."""
    half = point + 0.5 * dt * velocity(point, time)
    return point + dt * velocity(half, time + 0.5 * dt)


def heun(velocity: Velocity, point: Tensor, time: float, dt: float) -> Tensor:
    """Second order, two evaluations: the mean of the velocities at both ends of the Euler step."""
    here = velocity(point, time)
    there = velocity(point + dt * here, time + dt)
    return point + 0.5 * dt * (here + there)


def integrate(
    field: VelocityField[C], noise: Float[Tensor, "b t *event"], condition: C, *, times: Sequence[float], step: Step = heun
) -> Float[Tensor, "b t *event"]:
    """Solve dx/dt = field(x, t, condition) from `noise` at times[0] to times[-1], one step between neighbours.

    Every frame is given the same time; frames that are to be elsewhere are the field's business (see guide.pinned). ValueError
    unless the times are two or more and increase within [0, 1].
    """
    if len(times) < 2 or times[0] < 0 or times[-1] > 1 or any(not a < b for a, b in pairwise(times)):
        raise ValueError(f"Flow times {list(times)} do not increase from at least 0 to at most 1; give two or more that do.")

    def velocity(point: Tensor, time: float) -> Tensor:
        return field(point, torch.full(point.shape[:2], time, dtype=point.dtype, device=point.device), condition)

    point = noise
    for time, after in pairwise(times):
        point = step(velocity, point, time, after - time)
    return point
