"""The velocity network of MotionSpace: a small transformer over motion frames that hears speech through selected levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nets.condition import Condition
from vivavoce.nets.filters import ChannelDropout, banded, boxes
from vivavoce.nets.inject import MultiHeadFiLM, WindowAttention
from vivavoce.nets.levels import LevelsConfig, LevelSelector, SpeechLevels

LOCAL_TAPS = 5  # frames of a head's filter


class MotionTransformer(nn.Module):
    """v(x_t, t, c) for windows of packed motion, flow time per frame.

    A block: self-attention over the window's frames, each head with a learned filter over neighbouring frames beside it; speech
    by level selector and multi-head FiLM; an MLP. Flow time and style modulate every norm (adaptive layer norm). Equal frames
    at t = 1 are the clean prefix. Beside the noisy motion goes in what the speech alone makes one expect, made of a mixture of
    levels, with a loss of its own in training, so that speech is learned without the noise of flow matching (the encoders of
    Grad-TTS and Matcha-TTS hand their mean to the decoder in the same way).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """``event``: numbers per frame; ``style``: numbers of the style; the rest is the network's size, and two choices that
        `vivavoce bench speech` compares."""

        event: int
        levels: LevelsConfig
        style: int
        width: int = 160
        context: int = 64  # of flow time and style
        blocks: int = 4
        heads: int = 4
        speech_heads: int = 4
        selector: Literal["learned", "uniform"] = "learned"
        injection: Literal["film", "attention"] = "film"
        reach: int = 64  # attention learns a bias for each distance up to this many frames
        dropout: float = 0.1

        def __post_init__(self) -> None:
            for name, value, known in (
                ("selector", self.selector, ("learned", "uniform")), ("injection", self.injection, ("film", "attention"))
            ):
                if value not in known:
                    raise ValueError(f"{name} is {value!r}: give one of {', '.join(known)}")

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.levels = SpeechLevels(config.levels)
        self.selector = LevelSelector(config.blocks, len(config.levels.names), config.selector)
        self.expecting = LevelSelector(1, len(config.levels.names), config.selector)
        self.estimator = nn.Sequential(
            nn.Linear(config.levels.width, config.width), nn.GELU(), nn.Linear(config.width, config.event)
        )
        self.inward = nn.Linear(config.event, config.width)
        self.expected = nn.Linear(config.event, config.width, bias=False)
        nn.init.zeros_(self.expected.weight)
        self.time = nn.Sequential(nn.Linear(TIME_WAVES, config.context), nn.SiLU(), nn.Linear(config.context, config.context))
        self.style = nn.Linear(config.style, config.context)
        self.no_style = nn.Parameter(torch.zeros(config.context))
        self.blocks = nn.ModuleList(MotionBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.outward = nn.Linear(config.width, config.event)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def listen(
        self, speech: Float[Tensor, "b s v"], style: Float[Tensor, "b k"], frames: int, *,
        has_speech: Bool[Tensor, " b"], has_style: Bool[Tensor, " b"],
    ) -> Condition:
        """Condition for windows of ``frames`` latent frames.

        ``speech``: what is heard (`hearing.hear`) from ``config.levels.history`` features before the first frame's own to
        ``config.levels.lookahead`` after the last one's; ``style``: normalised log amplitudes (see `train.data`); ``has_*``:
        False for condition dropout.
        """
        levels = self.levels(speech, frames)
        absent = self.levels.absent.to(levels.dtype)
        heard = has_speech[:, None, None]
        # Which of the two counts is decided for the few mixtures, not for all levels: selection is linear.
        chosen, unheard = self._choose(levels), self._choose(absent)
        expected, unexpected = self.expecting(levels)[0], self.expecting(absent)[0]
        return Condition(
            speech=self._prepare(torch.where(heard, chosen, unheard)),
            estimate=self.estimator(torch.where(heard, expected, unexpected)),
            style=torch.where(has_style[:, None], self.style(style), self.no_style),
            no_speech=self._prepare(unheard), no_estimate=self.estimator(unexpected), no_style=self.no_style,
        )

    def _choose(self, levels: Float[Tensor, "l b t d"]) -> Float[Tensor, "k b t d"]:
        """The mixtures of all blocks; for attention, which chooses for itself, still the levels."""
        return self.selector(levels) if self.config.injection == "film" else levels

    def _prepare(self, chosen: Float[Tensor, "k b t d"]) -> tuple[Tensor, ...]:
        injections = [block.speech for block in self.blocks if isinstance(block, MotionBlock)]
        if self.config.injection == "film":
            return tuple(injection.prepare(mixture) for injection, mixture in zip(injections, chosen, strict=True))
        return (injections[0].prepare(chosen),) * len(injections)  # the same tokens for all

    def forward(self, x: Float[Tensor, "b t d"], time: Float[Tensor, "b t"], condition: Condition) -> Float[Tensor, "b t d"]:
        """Velocity at noisy motion ``x``, each frame at its flow time (0 noise, 1 data)."""
        context = functional.silu(self.time(time_waves(time)) + condition.style[:, None])
        local = boxes(x.shape[1], x.shape[1], 0, LOCAL_TAPS // 2, LOCAL_TAPS, 1).to(x.device)
        hidden = self.inward(x) + self.expected(condition.estimate)
        weights = self.selector.weights()
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, context, condition.speech[i], weights[i], local)
        return self.outward(self.norm(hidden))


class MotionBlock(nn.Module):
    """One block; see `MotionTransformer`."""

    unit: Tensor

    def __init__(self, config: MotionTransformer.Config):
        super().__init__()
        width, levels = config.width, config.levels
        self.heads, self.reach = config.heads, config.reach
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.adapt = nn.Linear(config.context, 6 * width)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)
        self.qkv = nn.Linear(width, 3 * width)
        with torch.no_grad():  # scores are not scaled; queries begin smaller instead
            self.qkv.weight[:width] *= (width // config.heads) ** -0.5
        unit = torch.tensor([1.0, 0.0] * 3).repeat_interleave(width)  # scales are around 1, whatever weight decay does
        self.register_buffer("unit", unit, persistent=False)
        self.local = nn.Parameter(torch.randn(config.heads, LOCAL_TAPS) / (2 * LOCAL_TAPS**0.5))
        self.distance = nn.Parameter(torch.zeros(config.heads, 2 * config.reach + 1))
        self.attended = nn.Linear(width, width)
        self.speech: MultiHeadFiLM | WindowAttention
        if config.injection == "film":
            self.speech = MultiHeadFiLM(width, levels.width, config.speech_heads)
        else:
            self.speech = WindowAttention(width, levels.width, config.speech_heads, len(levels.names))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = ChannelDropout(config.dropout)

    def forward(
        self, hidden: Float[Tensor, "b t d"], context: Float[Tensor, "b t c"], speech: Float[Tensor, "b t ..."],
        weights: Float[Tensor, " l"], local: Int[Tensor, "t t"],
    ) -> Float[Tensor, "b t d"]:
        modulation = functional.linear(context, self.adapt.weight, self.adapt.bias + self.unit)
        scale_a, shift_a, scale_s, shift_s, scale_m, shift_m = modulation.chunk(6, -1)
        hidden = hidden + self.drop(self._attend(self.norms[0](hidden) * scale_a + shift_a, local))
        normed = self.norms[1](hidden) * scale_s + shift_s
        film = isinstance(self.speech, MultiHeadFiLM)
        hidden = hidden + (self.speech(normed, speech) if film else self.speech(normed, speech, weights))
        return hidden + self.drop(self.mlp(self.norms[2](hidden) * scale_m + shift_m))

    def _attend(self, hidden: Float[Tensor, "b t d"], local: Int[Tensor, "t t"]) -> Float[Tensor, "b t d"]:
        b, t, d = hidden.shape
        q, k, v = self.qkv(hidden).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        index = torch.arange(t, device=hidden.device)
        away = (index[None] - index[:, None]).clamp(-self.reach, self.reach) + self.reach
        weights = torch.softmax(q @ k.transpose(-1, -2) + self.distance[:, away], -1) + banded(self.local, local)
        return self.attended((weights @ v).transpose(1, 2).reshape(b, t, d))


TIME_WAVES = 32


def time_waves(time: Float[Tensor, "b t"]) -> Float[Tensor, "b t w"]:
    """Sinusoidal embedding of flow time in [0, 1], periods from 4 down to 4/1000."""
    half = TIME_WAVES // 2
    frequency = torch.exp(torch.linspace(0.0, math.log(1000.0), half, device=time.device, dtype=time.dtype)) * (math.pi / 2)
    angle = time[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
