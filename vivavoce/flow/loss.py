"""Conditional flow matching: the one loss of pretraining."""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce.flow.path import VelocityField, interpolate, per_event

C = TypeVar("C")


def flow_matching_loss(
    field: VelocityField[C],
    data: Float[Tensor, "b t *event"],
    condition: C,
    *,
    noise: Float[Tensor, "b t *event"],
    time: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    weight: Float[Tensor, "*#weighed"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean over the frames in the mask of mean_event(weight * (field(x_t, t, c) - (x_1 - x_0))^2), per sample.

    The mask picks the frames that count: padding does not, nor does a clean prefix (time 1), whose velocity no point of the path
    tells. A sample without any such frame has loss 0. The weight broadcasts against events, or against the
    data where it differs by sample and frame, and is not normalised. Lipman et al. 2023, equation 23, for the straight path.
    """
    return weighted_square(velocity_error(field, data, condition, noise=noise, time=time, mask=mask), mask, weight)


def velocity_error(
    field: VelocityField[C], data: Float[Tensor, "b t *event"], condition: C, *, noise: Float[Tensor, "b t *event"],
    time: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"],
) -> Float[Tensor, "b t *event"]:
    """field(x_t, t, c) - (x_1 - x_0), and zero in frames outside the mask, whose gradient is zero too, even where it is not
    finite."""
    assert mask.shape == time.shape, f"mask {tuple(mask.shape)} for times {tuple(time.shape)}"
    assert mask.dtype == torch.bool, f"mask of {mask.dtype}"
    sample = interpolate(noise, data, time)
    error = field(sample.point, time, condition) - sample.velocity
    return torch.where(per_event(mask, error), error, 0.0)


def weighted_square(
    error: Float[Tensor, "b t *event"], mask: Bool[Tensor, "b t"], weight: Float[Tensor, "*#weighed"] | None = None
) -> Float[Tensor, " b"]:
    """Mean over the frames in the mask of mean_event(weight * error^2), per sample; the error is zero in others."""
    square = error.square() if weight is None else error.square() * weight
    per_frame = square.flatten(2).mean(dim=-1) if square.ndim > 2 else square
    return per_frame.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
