"""From noise to data with fresh noise on the way: what policy gradients need, since an ODE's steps have no probability."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce.flow.solve import Velocity


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One step: to ``point``, drawn from a Gaussian of ``mean`` and standard deviation ``std`` (0: it was no draw)."""

    point: Float[Tensor, "b t *event"]
    mean: Float[Tensor, "b t *event"]
    std: float

    def log_probability(self, point: Float[Tensor, "b t *event"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, " b"]:
        """Of a point, mean over the numbers of the frames in the mask, as Flow-GRPO takes it: the ratio of two policies then does
        not grow with the size of the latent. The step must have been a draw, and each mask must pick a frame."""
        assert self.std > 0, "a step without noise has no density"
        square = ((point - self.mean) / self.std).square().flatten(2).mean(-1)
        density = -0.5 * square - math.log(self.std) - 0.5 * math.log(2 * math.pi)
        return torch.where(mask, density, 0.0).sum(1) / mask.sum(1)


def sde_step(
    velocity: Velocity, point: Float[Tensor, "b t *event"], time: float, dt: float, *, level: float,
    noise: Float[Tensor, "b t *event"],
) -> Transition:
    """Euler-Maruyama step of an SDE that has the ODE's marginals (Flow-GRPO, Liu et al. 2025, written for t = 1 at the data),

        dx = [v + g^2/2 score] dt + g dw,   score = -(x - t v) / (1 - t),   g^2 = level^2 (1 - t) / t,

    because x - t v is what the field believes the noise was. At level 0 it is `solve.euler`, bit for bit. Within dt of the noise,
    where g is infinite, t counts as dt. The marginals are exact in the limit of small steps: in few steps the discretisation adds
    variance of its own.
    """
    assert 0 <= time < time + dt <= 1 + 1e-6, (time, dt)
    here = velocity(point, time)
    if level == 0:
        mean = point + dt * here
        return Transition(point=mean, mean=mean, std=0.0)
    later = max(time, dt)
    believed = point - time * here
    mean = point + dt * (here - level**2 / (2 * later) * believed)
    std = level * math.sqrt((1 - time) / later * dt)
    return Transition(point=mean + std * noise, mean=mean, std=std)
