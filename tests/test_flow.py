"""Flow matching against closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vivavoce.flow.guide import guided, pinned, with_prefix
from vivavoce.flow.loss import flow_matching_loss
from vivavoce.flow.path import interpolate
from vivavoce.flow.solve import euler, heun, integrate, midpoint

MEAN, DEVIATION = 1.5, 0.4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_field(point: Tensor, time: Tensor, condition: None) -> Tensor:
    """The marginal velocity when data is N(MEAN, DEVIATION^2): E[x_1 - x_0 | x_t] of the joint Gaussian."""
    t = time[:, :, None]
    variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (point - t * MEAN)


def gaussian_flow(noise: Tensor, time: float) -> Tensor:
    """Where that field carries the noise: x_t = t MEAN + sqrt((1 - t)^2 + t^2 DEVIATION^2) x_0."""
    return time * MEAN + math.sqrt((1 - time) ** 2 + (time * DEVIATION) ** 2) * noise


def even(steps: int) -> list[float]:
    return [i / steps for i in range(steps + 1)]


def test_path_runs_from_noise_to_data_with_its_own_time_per_frame() -> None:
    noise, data = draw(2, 5, 3, 2), draw(2, 5, 3, 2, seed=1)
    time = torch.rand(2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    time[:, 0], time[:, 1] = 0.0, 1.0
    sample = interpolate(noise, data, time)
    assert torch.equal(sample.point[:, 0], noise[:, 0])
    assert torch.equal(sample.point[:, 1], data[:, 1])
    ahead = interpolate(noise, data, time + 1e-3)
    torch.testing.assert_close((ahead.point - sample.point) / 1e-3, sample.velocity)
    # Each frame depends on its own time only.
    other = time.clone()
    other[1, 3] = 0.123
    changed = (interpolate(noise, data, other).point != sample.point).flatten(2).any(dim=-1)
    assert changed.nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("step", [midpoint, heun])
def test_integration_reaches_the_gaussian_flow(step) -> None:
    noise = draw(4, 250, 2)
    data = integrate(gaussian_field, noise, None, times=even(400), step=step)
    torch.testing.assert_close(data, gaussian_flow(noise, 1.0), atol=2e-5, rtol=0)
    assert abs(data.mean().item() - MEAN) < 0.05
    assert abs(data.std().item() - DEVIATION) < 0.05


@pytest.mark.parametrize(("step", "order"), [(euler, 1), (midpoint, 2), (heun, 2)])
def test_halving_the_steps_shows_the_order(step, order: int) -> None:
    """For dx/dt = -2 t x^2, solved by x_0 / (1 + x_0 t^2). On the Gaussian flow the midpoint rule would be of order 3."""
    start, errors = 0.5 + draw(1, 50, 1).abs(), []

    def quadratic(point: Tensor, time: Tensor, condition: None) -> Tensor:
        return -2 * time[:, :, None] * point**2

    for steps in (64, 128, 256):
        out = integrate(quadratic, start, None, times=even(steps), step=step)
        errors.append((out - start / (1 + start)).abs().max().item())
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.15


def test_integration_may_stop_and_go_on() -> None:
    noise = draw(1, 10, 2)
    whole = integrate(gaussian_field, noise, None, times=[0.0, 0.3, 0.5, 1.0])
    middle = integrate(gaussian_field, noise, None, times=[0.0, 0.3, 0.5])
    assert torch.equal(integrate(gaussian_field, middle, None, times=[0.5, 1.0]), whole)
    torch.testing.assert_close(
        integrate(gaussian_field, noise, None, times=[x / 2 for x in even(300)]), gaussian_flow(noise, 0.5), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("times", [[0.0], [0.0, 0.5, 0.5, 1.0], [0.0, 1.2], [-0.1, 1.0], [1.0, 0.0], [0.0, math.nan, 1.0]])
def test_times_that_do_not_increase_are_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="increase"):
        integrate(gaussian_field, draw(1, 2, 1), None, times=times)


def test_loss_is_zero_at_the_conditional_velocity() -> None:
    noise, data = draw(3, 6, 4), draw(3, 6, 4, seed=1)
    time = torch.linspace(0, 0.9, 18, dtype=torch.float64).reshape(3, 6)

    def exact(point: Tensor, time: Tensor, condition: None) -> Tensor:
        return (data - point) / (1 - time[:, :, None])

    loss = flow_matching_loss(exact, data, None, noise=noise, time=time, mask=torch.ones(3, 6, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.zeros(3, dtype=torch.float64), atol=1e-20, rtol=0)


def test_loss_has_its_minimum_at_the_marginal_velocity() -> None:
    """Over many pairs the regression's optimum is E[x_1 - x_0 | x_t], which the Gaussian gives in closed form."""
    noise, data = draw(1, 4000, 1), MEAN + DEVIATION * draw(1, 4000, 1, seed=1)
    time = torch.rand(1, 4000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    slope = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def near(point: Tensor, time: Tensor, condition: None) -> Tensor:
        return gaussian_field(point, time, condition) + offset + slope * point

    loss = flow_matching_loss(near, data, None, noise=noise, time=time, mask=torch.ones(1, 4000, dtype=torch.bool)).sum()
    gradients = torch.autograd.grad(loss, [offset, slope])
    assert all(abs(g.item()) < 0.1 for g in gradients)


def test_loss_by_hand_and_mask() -> None:
    data = torch.tensor([[[3.0, 1.0], [2.0, 0.0], [math.nan, math.inf]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    noise, time = torch.zeros(2, 3, 2), torch.full((2, 3), 0.5)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    bias = torch.ones((), requires_grad=True)

    def constant(point: Tensor, time: Tensor, condition: None) -> Tensor:
        return bias.expand_as(point)

    # Errors of sample 0: (-2, 0) and (-1, 1); their squares' mean over 2 frames of 2 numbers is 6 / 4.
    loss = flow_matching_loss(constant, data, None, noise=noise, time=time, mask=mask)
    assert loss.tolist() == [1.5, 0.0]
    loss.sum().backward()
    assert bias.grad is not None
    assert bias.grad.item() == -1.0  # d/db mean((b - v)^2) = 2 (b - mean v) = 2 (1 - 1.5)
    weighted = flow_matching_loss(constant, data, None, noise=noise, time=time, mask=mask, weight=torch.tensor([2.0, 0.0]))
    assert weighted.tolist() == [2 * 5 / 4, 0.0]


@dataclass(frozen=True)
class Parts:
    """A condition of two numbers per sample, which the field below adds up."""

    speech: Tensor
    reference: Tensor

    def without(self, name: str) -> Parts:
        return replace(self, **{name: torch.zeros_like(getattr(self, name))})

    @staticmethod
    def stack(conditions) -> Parts:
        return Parts(torch.cat([c.speech for c in conditions]), torch.cat([c.reference for c in conditions]))


class Additive:
    """v = speech + reference + speech * reference - t x; counts its calls and their batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, point: Tensor, time: Tensor, condition: Parts) -> Tensor:
        self.batches.append(point.shape[0])
        s, r = condition.speech[:, None, None], condition.reference[:, None, None]
        return s + r + s * r - time[:, :, None] * point


PARTS = Parts(torch.tensor([1.0, 0.3], dtype=torch.float64), torch.tensor([0.7, -2.0], dtype=torch.float64))


def test_guidance_follows_its_equation_in_one_call() -> None:
    field, point, time = Additive(), draw(2, 4, 3), torch.rand(2, 4, dtype=torch.float64)
    got = guided(field, {"speech": 2.0, "reference": 1.5})(point, time, PARTS)
    assert field.batches == [6]
    none = Additive()(point, time, PARTS.without("speech").without("reference"))
    speech = Additive()(point, time, PARTS.without("reference"))
    whole = Additive()(point, time, PARTS)
    torch.testing.assert_close(got, none + 2.0 * (speech - none) + 1.5 * (whole - speech))
    swapped = guided(field, {"reference": 1.5, "speech": 2.0})(point, time, PARTS)
    assert not torch.allclose(got, swapped)  # the field is not additive in its parts, so their order matters


@pytest.mark.parametrize("scales", [{}, {"speech": 1.0}, {"speech": 1.0, "reference": 1.0}])
def test_guidance_of_one_is_the_plain_field_at_its_cost(scales: dict[str, float]) -> None:
    field, point, time = Additive(), draw(2, 4, 3), torch.rand(2, 4, dtype=torch.float64)
    assert torch.equal(guided(field, scales)(point, time, PARTS), Additive()(point, time, PARTS))
    assert field.batches == [2]


def test_guidance_of_zero_ignores_the_part() -> None:
    point, time = draw(2, 4, 3), torch.rand(2, 4, dtype=torch.float64)
    got = guided(Additive(), {"speech": 0.0})(point, time, PARTS)
    assert torch.equal(got, Additive()(point, time, PARTS.without("speech")))


def test_a_scale_may_differ_from_place_to_place() -> None:
    point, time = draw(2, 4, 3), torch.rand(2, 4, dtype=torch.float64)
    scales = torch.tensor([1.0, 0.0, 2.5], dtype=torch.float64)
    got = guided(Additive(), {"reference": 1.5, "speech": scales})(point, time, PARTS)
    for i, scale in enumerate(scales.tolist()):
        alone = guided(Additive(), {"reference": 1.5, "speech": scale})(point, time, PARTS)
        torch.testing.assert_close(got[..., i], alone[..., i])
    with pytest.raises(ValueError, match="'speech' is tensor"):
        guided(Additive(), {"speech": torch.tensor([1.0, math.inf])})


def test_guidance_refuses_scales_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="'speech' is nan"):
        guided(Additive(), {"speech": math.nan})


def neighbours(point: Tensor, time: Tensor, condition: None) -> Tensor:
    """A field in which every frame is drawn to the mean of all, seen through each frame's time."""
    return (time[:, :, None] * point).mean(dim=1, keepdim=True) - point


@pytest.mark.parametrize("step", [euler, midpoint, heun])
def test_a_pinned_prefix_comes_out_exactly_and_is_seen_clean(step) -> None:
    noise, prefix = draw(2, 7, 3), draw(2, 3, 3, seed=1)
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(point: Tensor, time: Tensor, condition: None) -> Tensor:
        seen.append((point[:, :3], time))
        return neighbours(point, time, condition)

    out = integrate(pinned(watched, prefix), with_prefix(noise, prefix), None, times=even(4), step=step)
    assert torch.equal(out[:, :3], prefix)
    assert not torch.isclose(out[:, 3:], noise[:, 3:]).any()
    for point, time in seen:
        assert torch.equal(point, prefix)
        assert bool((time[:, :3] == 1).all())
    assert seen[0][1][:, 3:].max() == 0
    # The other frames answer to the prefix.
    other = integrate(pinned(neighbours, prefix + 1), with_prefix(noise, prefix + 1), None, times=even(4), step=step)
    assert not torch.isclose(other[:, 3:], out[:, 3:]).any()


def test_pinning_nothing_or_everything() -> None:
    noise = draw(2, 4, 3)
    nothing = noise[:, :0]
    assert torch.equal(
        integrate(pinned(neighbours, nothing), with_prefix(noise, nothing), None, times=even(3)),
        integrate(neighbours, noise, None, times=even(3)),
    )
    everything = draw(2, 4, 3, seed=1)
    assert torch.equal(integrate(pinned(neighbours, everything), with_prefix(noise, everything), None, times=even(3)), everything)
