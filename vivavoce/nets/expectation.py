"""What speech alone makes one expect of the lips, their opening and the mouth's width: the mean of several small networks.

A sampler of motion that learned from few people knows their mouths by heart. When lips open and spread is heard more surely by
networks that learn nothing else, and by several of them better than by one (docs/log.md, 2026-11-30).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nets.filters import ChannelDropout

LIPS = ("opening", "width")  # what is expected, in this order


class LipExpectation(nn.Module):
    """An ensemble of dilated convolutions over latent frames, and how motion is led towards what they expect.

    Voices and rooms are told apart by the running means of the features: members that hear them follow speakers like those they
    learned from better, the others everybody else. A member: frames of ``stride`` features, normalised and mixed; residual blocks
    of a convolution in groups of channels and a mixture of channels; a layer to two numbers. All members work side by side, as
    one batch of matrices.

    ``directions``: opening and width, face heights, are linear in packed motion (directions . motion). ``level`` and ``scale``:
    of what comes out, so that the average speaker's lips open as wide as they were recorded; learned in closed form
    (`train.expectation`).
    """

    listened: Tensor
    mean: Tensor
    deviation: Tensor
    directions: Tensor
    level: Tensor
    scale: Tensor

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """``heard``: numbers per feature that are listened to, ``plain`` of them before the means over the utterance, which every
        other member does not hear; ``event``: numbers per frame of packed motion. ``ahead``: latent frames after its own that a
        frame depends on. ``share``: of the way to what is expected that motion is led."""

        heard: int
        plain: int
        event: int
        stride: int = 2
        members: int = 6
        width: int = 96
        dilations: tuple[int, ...] = (1, 2, 4, 8)
        taps: int = 5
        groups: int = 8
        ahead: int = 3
        dropout: float = 0.2
        share: float = 0.7

        @classmethod
        def of(cls, values: dict[str, Any]) -> LipExpectation.Config:
            """From its JSON, which knows no tuples; TypeError where keys are unknown."""
            return cls(**{**values, "dilations": tuple(values["dilations"])})

        @property
        def past(self) -> int:
            """Latent frames before its own that a frame depends on."""
            return (self.taps - 1) * sum(self.dilations) - self.ahead

        def features(self, frames: int) -> int:
            """Features that so many frames take, from those of the oldest frame that they depend on."""
            return self.stride * (self.past + frames + self.ahead)

        def fits(self, history: int, lookahead: int) -> bool:
            """Whether what is heard from so many features before a frame's own to so many after it is just as far ahead as
            this hears, and far enough back."""
            return self.stride * self.past <= history and self.stride * (self.ahead + 1) - 1 == lookahead

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        members, width, layers = config.members, config.width, len(config.dilations)

        def weight(*shape: int, fan: int) -> nn.Parameter:
            bound = 1 / math.sqrt(fan)
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        inputs = config.stride * config.heard
        self.inward = weight(members, inputs, width, fan=inputs)
        self.inward_bias = nn.Parameter(torch.zeros(members, 1, width))
        part = width // config.groups
        self.filters = weight(layers, members * width, part, config.taps, fan=part * config.taps)
        self.filter_bias = nn.Parameter(torch.zeros(layers, members * width))
        self.mix = weight(layers, members, width, width, fan=width)
        self.mix_bias = nn.Parameter(torch.zeros(layers, members, 1, width))
        self.hidden = weight(members, width, width, fan=width)
        self.hidden_bias = nn.Parameter(torch.zeros(members, 1, width))
        self.outward = weight(members, width, len(LIPS), fan=width)
        self.drop = ChannelDropout(config.dropout)
        listened = (torch.arange(config.heard) < config.plain) | (torch.arange(members) % 2 == 1)[:, None, None, None]
        self.register_buffer("listened", listened.repeat(1, 1, 1, config.stride), persistent=False)
        for name, value in (
            ("mean", torch.zeros(config.heard)), ("deviation", torch.ones(config.heard)),
            ("directions", torch.zeros(len(LIPS), config.event)), ("level", torch.zeros(len(LIPS))),
            ("scale", torch.ones(len(LIPS))),
        ):
            self.register_buffer(name, value)

    def given(self, heard: Float[Tensor, "*b s v"], frames: int) -> Float[Tensor, "*b n i"]:
        """What the members are given for the last ``frames`` latent frames that so much is heard for: normalised, the features
        of a latent frame side by side.

        ``heard``: `hearing.hear`, up to all that the last frame depends on; ``config.features(frames)`` or more of them.
        """
        own = heard[..., heard.shape[-2] - self.config.features(frames) :, :]
        normal = (own - self.mean) / self.deviation
        return normal.reshape(*normal.shape[:-2], -1, self.config.stride * self.config.heard)

    def each(self, given: Float[Tensor, "m b n i"]) -> Float[Tensor, "m b t 2"]:
        """What every member makes of its own `given`, t = n - past - ahead; without unit or level."""
        config = self.config
        members, batch, _, _ = given.shape
        hidden = _mixed(given * self.listened, self.inward, self.inward_bias)
        ahead = config.ahead
        for i, dilation in enumerate(config.dilations):
            normal = functional.layer_norm(hidden, hidden.shape[-1:])
            rows = normal.permute(1, 0, 3, 2).reshape(batch, members * config.width, -1)
            rows = functional.conv1d(
                rows, self.filters[i], self.filter_bias[i], dilation=dilation, groups=members * config.groups
            )
            found = rows.view(batch, members, config.width, -1).permute(1, 0, 3, 2)
            later = min(ahead, dilation * (config.taps // 2))
            ahead -= later
            kept = hidden[:, :, (config.taps - 1) * dilation - later : hidden.shape[2] - later]
            hidden = kept + self.drop(_mixed(functional.gelu(found), self.mix[i], self.mix_bias[i]))
        assert ahead == 0, config
        out = _mixed(functional.layer_norm(hidden, hidden.shape[-1:]), self.hidden, self.hidden_bias)
        return _mixed(functional.gelu(out), self.outward)

    def forward(self, heard: Float[Tensor, "b s v"], frames: int) -> Float[Tensor, "b t 2"]:
        """Opening and width, about their mean, of the last ``frames`` latent frames; for ``heard`` see `given`."""
        given = self.given(heard, frames).expand(self.config.members, -1, -1, -1)
        return self.each(given).mean(0) * self.scale

    def lead(
        self, motion: Float[Tensor, "b t d"], expected: Float[Tensor, "#b t 2"], lively: Float[Tensor, "t 1"]
    ) -> Float[Tensor, "b t d"]:
        """Packed motion, led to the nearest whose lips are ``config.share`` of the way to those expected.

        ``lively``: how much further than the average speaker this one opens the mouth.
        """
        across = self.directions
        missing = self.level + lively * expected - motion @ across.T
        return motion + self.config.share * missing @ torch.linalg.solve(across @ across.T, across)


def _mixed(
    values: Float[Tensor, "m b t i"], weight: Float[Tensor, "m i o"], bias: Float[Tensor, "m 1 o"] | None = None
) -> Float[Tensor, "m b t o"]:
    """Each member's values times its own matrix."""
    members, batch, frames, _ = values.shape
    product = torch.bmm(values.reshape(members, batch * frames, -1), weight)
    return (product if bias is None else product + bias).view(members, batch, frames, -1)
