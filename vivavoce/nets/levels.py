"""Speech at several levels: multi-level encoder, level selector and multi-head FiLM (ReFree-S2V, arXiv 2606.13304, 1.2-1.4).

The paper takes one speech representation and lets levels differ in temporal width only; here a level is a stream (phonetic or
prosodic) at a width, so a block chooses both what to listen to and how far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class LevelsConfig:
    """``streams`` names the slices of the feature vector, in order; ``kernels`` are widths in feature frames, local to global."""

    streams: Mapping[str, int]
    kernels: tuple[int, ...] = (5, 11, 25, 75)
    width: int = 128
    stem: int = 96
    stride: int = 2  # feature frames per latent frame
    lookahead: int = 8  # feature frames after a latent frame's own that any level may see
    dropout: float = 0.1

    @property
    def history(self) -> int:
        """Feature frames before a latent frame's own that the widest level sees, stem included."""
        return STEM_PAST + max(k - 1 - min((k - 1) // 2, self.lookahead - STEM_FUTURE) for k in self.kernels)

    @property
    def names(self) -> list[str]:
        return [f"{stream} {kernel}" for stream in self.streams for kernel in self.kernels]


STEM_PAST, STEM_FUTURE = 4, 2  # reach of the two stem convolutions (kernels 5 and 3, delayed by one)


class SpeechLevels(nn.Module):
    """f_l = MLP(CNN_{K_l}(speech), emb(l)), the MLP shared over all levels and conditioned on the level's embedding (1.2).

    Convolutions reach back as far as their kernel and ahead at most ``lookahead`` feature frames, so the encoder streams.
    """

    def __init__(self, config: LevelsConfig):
        super().__init__()
        self.config = config
        self.stems = nn.ModuleList()
        self.convolutions = nn.ModuleList()
        for channels in config.streams.values():
            self.stems.append(nn.Sequential(
                nn.Conv1d(channels, config.stem, 5), nn.GELU(), nn.Dropout(config.dropout),
                nn.Conv1d(config.stem, config.stem, 3), nn.GELU(), nn.Dropout(config.dropout),
            ))
            for kernel in config.kernels:
                self.convolutions.append(_level_convolution(config.stem, config.width, kernel, config.stride))
        self.embedding = nn.Parameter(0.02 * torch.randn(len(self.convolutions), config.width))
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(2 * config.width, config.width), nn.LayerNorm(config.width),
        )
        self.absent = nn.Parameter(torch.zeros(len(self.convolutions), config.width))

    def forward(self, speech: Float[Tensor, "b s w"], present: Bool[Tensor, " b"], frames: int) -> Float[Tensor, "b l t d"]:
        """Levels for ``frames`` latent frames from features that start ``history`` before the first and end ``lookahead`` after
        the last one's own feature frame; clips without speech get a learned constant per level."""
        config = self.config
        last = config.stride * (frames - 1)
        assert speech.shape[1] == config.history + last + 1 + config.lookahead, (speech.shape, frames)
        levels = []
        for i, stream in enumerate(speech.split(list(config.streams.values()), -1)):
            stem = self.stems[i](stream.transpose(1, 2))
            for j, kernel in enumerate(config.kernels):
                ahead = min((kernel - 1) // 2, config.lookahead - STEM_FUTURE)
                first = config.history - STEM_PAST - (kernel - 1 - ahead)
                levels.append(self.convolutions[i * len(config.kernels) + j](stem[..., first : first + kernel + last]))
        stacked = torch.stack(levels, 1).transpose(2, 3) + self.embedding[:, None]
        return torch.where(present[:, None, None, None], self.mlp(stacked), self.absent[:, None])


def _level_convolution(channels: int, width: int, kernel: int, stride: int) -> nn.Module:
    """Dense where phonetic detail lives, separable (time, then channels) where a dense kernel would only memorise."""
    if kernel <= 11:
        return nn.Conv1d(channels, width, kernel, stride)
    return nn.Sequential(nn.Conv1d(channels, channels, kernel, stride, groups=channels), nn.Conv1d(channels, width, 1))


class LevelSelector(nn.Module):
    """A = sum_l softmax(W)_l L_l with one learned W per block, static over time (1.3). Starts uniform."""

    def __init__(self, levels: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(levels))

    def forward(self, levels: Float[Tensor, "b l t d"]) -> Float[Tensor, "b t d"]:
        """The mixture of all levels."""
        return torch.einsum("l,bltd->btd", functional.softmax(self.logits, 0), levels)


class MultiHeadFiLM(nn.Module):
    """Per head k: (gamma_k, beta_k) = W_k(A_k), F_k = gamma_k * H_k + beta_k on H = W_Q(input) (Algorithm 1).

    The paper leaves the start open; here it is residual with zero-initialised output, so that a block begins as the identity.
    """

    def __init__(self, width: int, condition: int, heads: int):
        super().__init__()
        assert width % heads == 0 and condition % heads == 0, (width, condition, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.modulation = nn.Parameter(torch.randn(heads, condition // heads, 2 * width // heads) / (condition // heads) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * width // heads))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Float[Tensor, "b t d"], condition: Float[Tensor, "b t c"]) -> Float[Tensor, "b t d"]:
        """What is to be added to ``hidden``."""
        b, t, _ = hidden.shape
        query = self.query(hidden).view(b, t, self.heads, -1)
        pair = torch.einsum("bthc,hcd->bthd", condition.view(b, t, self.heads, -1), self.modulation) + self.bias
        gamma, beta = pair.chunk(2, -1)
        return self.out((gamma * query + beta).flatten(2))
