"""The velocity network of MotionSpace: a small transformer over motion frames that hears speech through selected levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nets.condition import Condition
from vivavoce.nets.levels import LevelsConfig, LevelSelector, MultiHeadFiLM, SpeechLevels


class MotionTransformer(nn.Module):
    """v(x_t, t, c) for windows of packed motion, flow time per frame.

    A block: local convolution and self-attention over the window's frames, speech by level selector and multi-head FiLM, an MLP;
    flow time and style modulate every norm (adaptive layer norm). Equal frames at t = 1 are the clean prefix.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """``event``: numbers per frame; ``style``: numbers of the style; the rest is the network's size."""

        event: int
        levels: LevelsConfig
        style: int
        width: int = 160
        blocks: int = 4
        heads: int = 4
        film_heads: int = 4
        reach: int = 64  # attention learns a bias for each distance up to this many frames
        dropout: float = 0.1

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.levels = SpeechLevels(config.levels)
        self.inward = nn.Linear(config.event, config.width)
        self.time = nn.Sequential(nn.Linear(TIME_WAVES, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.style = nn.Linear(config.style, config.width)
        self.no_style = nn.Parameter(torch.zeros(config.width))
        self.blocks = nn.ModuleList(MotionBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.outward = nn.Linear(config.width, config.event)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def listen(
        self, speech: Float[Tensor, "b s w"], style: Float[Tensor, "b k"], frames: int, *,
        has_speech: Bool[Tensor, " b"], has_style: Bool[Tensor, " b"],
    ) -> Condition:
        """Condition for windows of ``frames`` latent frames.

        ``speech``: features from ``config.levels.history`` before the first frame's own to ``config.levels.lookahead`` after the
        last one's; ``style``: normalised log amplitudes (see `train.data`); ``has_*``: False for condition dropout.
        """
        return Condition(
            self.levels(speech, has_speech, frames), torch.where(has_style[:, None], self.style(style), self.no_style),
            self.levels.absent, self.no_style,
        )

    def forward(self, x: Float[Tensor, "b t d"], time: Float[Tensor, "b t"], condition: Condition) -> Float[Tensor, "b t d"]:
        """Velocity at noisy motion ``x``, each frame at its flow time (0 noise, 1 data)."""
        context = functional.silu(self.time(time_waves(time)) + condition.style[:, None])
        hidden = self.inward(x)
        for block in self.blocks:
            hidden = block(hidden, context, condition.levels)
        return self.outward(self.norm(hidden))


class MotionBlock(nn.Module):
    """One block; see `MotionTransformer`."""

    def __init__(self, config: MotionTransformer.Config):
        super().__init__()
        width = config.width
        self.heads, self.reach = config.heads, config.reach
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.adapt = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)
        self.local = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.qkv = nn.Linear(width, 3 * width)
        self.distance = nn.Parameter(torch.zeros(config.heads, 2 * config.reach + 1))
        self.attended = nn.Linear(width, width)
        self.selector = LevelSelector(len(config.levels.names))
        self.film = MultiHeadFiLM(width, config.levels.width, config.film_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self, hidden: Float[Tensor, "b t d"], context: Float[Tensor, "b t d"], levels: Float[Tensor, "b l t w"]
    ) -> Float[Tensor, "b t d"]:
        scale_a, shift_a, scale_f, shift_f, scale_m, shift_m = self.adapt(context).chunk(6, -1)
        normed = self.norms[0](hidden) * (1 + scale_a) + shift_a
        hidden = hidden + self.drop(self._attend(normed + self.local(normed.transpose(1, 2)).transpose(1, 2)))
        normed = self.norms[1](hidden) * (1 + scale_f) + shift_f
        hidden = hidden + self.drop(self.film(normed, self.selector(levels)))
        normed = self.norms[2](hidden) * (1 + scale_m) + shift_m
        return hidden + self.drop(self.mlp(normed))

    def _attend(self, hidden: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        b, t, d = hidden.shape
        q, k, v = self.qkv(hidden).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        index = torch.arange(t, device=hidden.device)
        away = (index[None] - index[:, None]).clamp(-self.reach, self.reach) + self.reach
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.distance[:, away][None])
        return self.attended(mixed.transpose(1, 2).reshape(b, t, d))


TIME_WAVES = 32


def time_waves(time: Float[Tensor, "b t"]) -> Float[Tensor, "b t w"]:
    """Sinusoidal embedding of flow time in [0, 1], periods from 4 down to 4/1000."""
    half = TIME_WAVES // 2
    frequency = torch.exp(torch.linspace(0.0, math.log(1000.0), half, device=time.device, dtype=time.dtype)) * (math.pi / 2)
    angle = time[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
