"""Lips that meet on p, b and m, and rest in silence: where the sound demands it, motion is moved to the nearest one that does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import Layout

DOUBT, SURE = 0.2, 0.5  # probability of a bilabial under which lips are left alone, and from which on they meet
BEFORE, AFTER = 1, 3  # features before and after a motion frame's own whose bilabials shut it: lips are there before the sound
QUIET, SILENT = 0.4, 0.8  # probability of silence under which somebody talks, and from which on nobody does
PAUSE, SETTLING = 20, 10  # features of silence until lips begin to close, and further ones until they are closed
WAKING = 7  # features before a sound at which lips are free again
TRAIL, LEAD = PAUSE + SETTLING - 1, WAKING  # features before and after a motion frame's own that decide about it


def lip_directions(model: FaceModel) -> Float[Tensor, "2 d"]:
    """The inner lips' opening and the mouth's width, face heights, in packed motion: directions . motion."""
    layout, lips = Layout.of(model.widths()), torch.from_numpy(model.lips()).float()
    directions = torch.zeros(len(lips), layout.width)
    directions[:, layout.spread({name: float(name == "lips_jaw") for name in layout.widths}) > 0] = lips
    return directions


@dataclass(frozen=True)
class LipClosure:
    """The gap between the inner lips, beyond that of lips that touch, is linear in packed motion: gap = across . motion.

    Coefficients of the lips are in standard deviations, so the shortest step that closes the gap, along ``across``, is the
    likeliest one too. ``across``: face heights of gap for a unit of motion.
    """

    across: Float[Tensor, " d"]

    @classmethod
    def of(cls, model: FaceModel) -> LipClosure:
        """That of a face model."""
        return cls(lip_directions(model)[0])

    def __call__(self, motion: Float[Tensor, "*b t d"], amount: Float[Tensor, " t"]) -> Float[Tensor, "*b t d"]:
        """``motion`` with so much (0 to 1) of the open gap of each frame taken away."""
        gap = (motion @ self.across).clamp(min=0)
        return motion - (amount * gap)[..., None] * (self.across / self.across.square().sum())


def demanded(
    bilabial: Float[Tensor, " n"], silence: Float[Tensor, " n"], stride: int, later: int = LEAD
) -> Float[Tensor, " t"]:
    """How far lips have to close, from the probabilities of a bilabial and of silence in every feature.

    For each motion frame, ``stride`` features apart, whose features from `TRAIL` before to ``later`` after its own are there.
    Lips meet at once for a bilabial, come to rest in a long silence, and are free as soon as speech is in sight.
    """
    after = min(AFTER, later)
    near = bilabial[TRAIL - BEFORE : len(bilabial) - later + after].unfold(0, BEFORE + 1 + after, stride).amax(-1)
    meeting = ((near - DOUBT) / (SURE - DOUBT)).clamp(0, 1)
    hush = ((silence - QUIET) / (SILENT - QUIET)).clamp(0, 1).unfold(0, PAUSE + later, 1).amin(-1)
    recent = hush.unfold(0, SETTLING, stride)
    return torch.maximum(meeting, torch.minimum(recent.mean(-1), recent[..., -1]))
