"""Steps with noise: the ODE's marginals, exact densities, and Euler without noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vivavoce.flow.sde import sde_step
from vivavoce.flow.solve import euler

MEAN, SPREAD = 0.7, 0.4  # of the data


def exact(point: Tensor, time: float) -> Tensor:
    """The velocity that carries N(0, 1) to N(MEAN, SPREAD^2): E[x_1 - x_0 | x_t]."""
    variance = SPREAD**2 * time**2 + (1 - time) ** 2
    return MEAN + (SPREAD**2 * time - (1 - time)) / variance * (point - time * MEAN)


@pytest.mark.parametrize("level", [0.3, 0.7])
def test_marginals_are_those_of_the_ode(level: float) -> None:
    made, steps, count = torch.Generator().manual_seed(0), 200, 40000
    point = torch.randn(count, 1, 1, generator=made)
    for i in range(steps):
        time = i / steps
        noise = torch.randn(count, 1, 1, generator=made)
        point = sde_step(exact, point, time, 1 / steps, level=level, noise=noise).point
        if i + 1 in (50, 100, 200):
            now = (i + 1) / steps
            assert float(point.mean()) == pytest.approx(now * MEAN, abs=0.02)
            assert float(point.std()) == pytest.approx(math.sqrt(SPREAD**2 * now**2 + (1 - now) ** 2), rel=0.04)


def test_without_noise_it_is_euler() -> None:
    point, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    step = sde_step(exact, point, 0.25, 0.25, level=0.0, noise=noise)
    torch.testing.assert_close(step.point, euler(exact, point, 0.25, 0.25), rtol=0, atol=0)
    with pytest.raises(AssertionError, match="density"):
        step.log_probability(step.point, torch.ones(3, 4, dtype=torch.bool))


def test_the_density_is_the_normal_one_over_the_frames_that_count() -> None:
    point, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    step = sde_step(exact, point, 0.5, 0.25, level=0.7, noise=noise)
    mask = torch.tensor([[False, False, True, True]]).expand(3, -1)
    normal = torch.distributions.Normal(step.mean, step.std)
    torch.testing.assert_close(step.log_probability(step.point, mask), normal.log_prob(step.point)[:, 2:].mean((1, 2)))
    assert step.std == pytest.approx(0.7 * math.sqrt(0.5 / 0.5 * 0.25))
    torch.testing.assert_close(step.point - step.mean, step.std * noise)
