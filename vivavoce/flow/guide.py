"""Velocity fields made of velocity fields: guidance, and frames that are known already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.path import VelocityField


class Condition(Protocol):
    """What guidance must be able to do with a condition, whatever is in it."""

    def without(self, name: str, /) -> Self:
        """The same condition with the named part dropped, in the way the network was trained to do without it."""
        ...

    def stack(self, conditions: Sequence[Self], /) -> Self:
        """The given conditions one after the other along the batch axis; a static method in all but name."""
        ...


class Voices(Condition, Protocol):
    """A condition that several voices speak in, each in a place of its own."""

    def only(self, voice: int | None, /) -> Self:
        """The same with one voice, not bound to its place, or with none."""
        ...

    def place(self, voice: int, /) -> Tensor:
        """Where a voice belongs: numbers that broadcast against "b t *event"."""
        ...


G = TypeVar("G", bound=Condition)
V = TypeVar("V", bound=Voices)
C = TypeVar("C")


def guided(field: VelocityField[G], scales: Mapping[str, float | Tensor]) -> VelocityField[G]:
    """Classifier-free guidance for several parts of the condition, in the order of `scales`; a tensor, which broadcasts against
    "b t *event", is a scale of its own in every place.

    With c_i the condition that has the first i of the named parts (and all unnamed ones) and s_i the scales,

        v = v(c_0) + sum_i s_i (v(c_i) - v(c_{i-1})),

    Ho and Salimans 2021, nested as by Brooks et al. 2023. It is computed as the same sum gathered by condition, whose terms of
    weight zero are left out: scales of one are the plain field bit for bit, at its cost. Otherwise all terms are one call of
    `field`, on a batch that is as many times larger. ValueError where a scale is not finite.
    """
    for name, scale in scales.items():
        if not torch.as_tensor(scale).isfinite().all():
            raise ValueError(f"The guidance scale of {name!r} is {scale}, but a finite number is expected; 1 means no guidance.")
    names = list(scales)
    ladder = [1.0, *scales.values(), 0.0]
    # weights[i] belongs to the condition with the first i names: s_i - s_{i+1}, where s_0 = 1 and none follows the last.
    weights = [here - after for here, after in pairwise(ladder)]

    def velocity(point: Tensor, time: Tensor, condition: G) -> Tensor:
        conditions = [condition]
        for name in reversed(names):
            conditions.append(conditions[-1].without(name))
        terms = [
            (weight, part) for weight, part in zip(weights, reversed(conditions), strict=True)
            if isinstance(weight, Tensor) or weight != 0.0
        ]
        if len(terms) == 1:
            return field(point, time, terms[0][1])  # its weight is exactly 1, as all weights add up to that
        velocities = _at_once(field, point, time, [part for _, part in terms])
        total = velocities[0] * terms[0][0]
        for (weight, _), part in zip(terms[1:], velocities[1:], strict=True):
            total = total + weight * part
        return total

    return velocity


def mask_guided(field: VelocityField[V], scales: Sequence[float]) -> VelocityField[V]:
    """Several voices, each heard alone and followed in its own place only:

        v = v(nobody) + sum_i scale_i place_i (v(voice i) - v(nobody)),

    the mask guidance of Playmate2 (arXiv 2510.12089), which lets a network that learned from one speaker animate several. One
    call of `field`, on a batch that is larger by as many times as there are voices, and one. ValueError where a scale is not
    finite.
    """
    for i, scale in enumerate(scales):
        if not math.isfinite(scale):
            raise ValueError(f"The guidance scale of voice {i} is {scale}, but a finite number is expected.")

    def velocity(point: Tensor, time: Tensor, condition: V) -> Tensor:
        conditions = [condition.only(None), *(condition.only(i) for i in range(len(scales)))]
        nobody, *heard = _at_once(field, point, time, conditions)
        total = nobody
        for i, (scale, alone) in enumerate(zip(scales, heard, strict=True)):
            total = total + scale * condition.place(i) * (alone - nobody)
        return total

    return velocity


def _at_once(field: VelocityField[G], point: Tensor, time: Tensor, conditions: Sequence[G]) -> Sequence[Tensor]:
    """The field under each condition, in one call."""
    count = len(conditions)
    return field(torch.cat([point] * count), torch.cat([time] * count), conditions[0].stack(conditions)).chunk(count)


def pinned(field: VelocityField[C], prefix: Float[Tensor, "b p *event"]) -> VelocityField[C]:
    """The field where the first p frames are known: it sees them clean, at time 1, and they do not move.

    Start from `with_prefix(noise, prefix)`, and the solution begins with exactly the prefix.
    """

    def velocity(point: Tensor, time: Tensor, condition: C) -> Tensor:
        known = torch.arange(point.shape[1], device=point.device) < prefix.shape[1]
        moving = field(with_prefix(point, prefix), torch.where(known, 1.0, time), condition)
        return torch.cat([torch.zeros_like(prefix), moving[:, prefix.shape[1] :]], dim=1)

    return velocity


def with_prefix(noise: Float[Tensor, "b t *event"], prefix: Float[Tensor, "b p *event"]) -> Float[Tensor, "b t *event"]:
    """The noise whose first p frames are the prefix."""
    assert prefix.shape[1] <= noise.shape[1], f"a prefix of {prefix.shape[1]} frames for {noise.shape[1]}"
    return torch.cat([prefix, noise[:, prefix.shape[1] :]], dim=1)
