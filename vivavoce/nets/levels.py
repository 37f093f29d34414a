"""Speech at several levels: multi-level encoder and level selector (ReFree-S2V, arXiv 2606.13304, 1.2-1.3).

The paper takes one speech representation and lets levels differ in temporal width only; here a level is a stream (phonetic or
prosodic) at a width, from three features to the whole utterance, so a block chooses both what to listen to and how far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nets.filters import ChannelDropout, banded, boxes, convolved

REACH = 1  # features to each side of a latent frame's own that the narrowest level sees


@dataclass(frozen=True, kw_only=True)
class LevelsConfig:
    """What is listened to, and how far.

    ``streams``: width of every stream of the feature vector, in order. ``listen``: those that the network hears. ``widths``: of
    the levels of a stream, local to global, each a number of neighbouring boxes and the latent frames in a box; the newest box
    ends ``ahead`` frames after the own one (or with the own one, where there is only one of one frame). ``memory``: features
    that the level of the utterance remembers, a running mean; None: no such level. ``stride``: features per latent frame.
    """

    streams: Mapping[str, int]
    listen: tuple[str, ...] = ("phonetic", "prosodic")
    widths: tuple[tuple[int, int], ...] = ((1, 1), (7, 1), (5, 3), (6, 6), (10, 10))
    memory: int | None = 500
    stride: int = 2
    ahead: int = 3
    width: int = 96
    stem: int = 96
    filters: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        unknown = [name for name in self.listen if name not in self.streams]
        if unknown or not self.listen:
            raise ValueError(f"the streams {list(self.listen)} are to be heard: give some of {list(self.streams)}")
        if not self.widths:
            raise ValueError("no widths of levels were given: give at least one, such as (7, 1)")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> LevelsConfig:
        """From its JSON, which knows no tuples; TypeError where keys are unknown."""
        known = dict(values)
        for name in ("listen", "widths"):
            if name in known:
                known[name] = tuple(tuple(v) if isinstance(v, list) else v for v in known[name])
        return cls(**known)

    @property
    def past(self) -> int:
        """Latent frames before its own that the widest level of a frame sees."""
        return max(max(taps * box - 1 - self.later(taps, box) for taps, box in self.widths), 0)

    def later(self, taps: int, box: int) -> int:
        """Latent frames after its own that a level sees."""
        return min(self.ahead, taps * box - 1)

    @property
    def history(self) -> int:
        """Features before a latent frame's own that the widest level sees; the utterance's mean remembers more."""
        return self.stride * self.past + REACH

    @property
    def lookahead(self) -> int:
        """Features after a latent frame's own that the levels see."""
        return self.stride * self.ahead + REACH

    @property
    def heard(self) -> int:
        """Numbers per feature that the levels take, see `hearing.hear`."""
        return sum(self.streams[name] for name in self.listen) * (1 if self.memory is None else 2)

    @property
    def spans(self) -> list[int]:
        """Features that each level of a stream sees, local to global; the utterance's level counts as its memory."""
        spans = [self.stride * (taps * box - 1) + 1 + 2 * REACH for taps, box in self.widths]
        return spans if self.memory is None else [*spans, self.memory]

    @property
    def names(self) -> list[str]:
        """A stream and a span in features, or "utterance", for every level."""
        spans = [str(span) for span in self.spans]
        if self.memory is not None:
            spans[-1] = "utterance"
        return [f"{stream} {span}" for stream in self.listen for span in spans]


class SpeechLevels(nn.Module):
    """f_l = MLP(CNN_{K_l}(speech), emb(l)), the MLP shared over all levels and conditioned on the level's embedding (1.2), which
    is the bias of the level's convolution.

    All work is done at the latent frames' rate. Wide levels convolve boxes of frames with few, shared filters: their cost does
    not grow with the width, and there is little to learn by heart.
    """

    def __init__(self, config: LevelsConfig):
        super().__init__()
        self.config = config
        self.streams = nn.ModuleList(StreamLevels(config.streams[name], config) for name in config.listen)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width), nn.LayerNorm(config.width)
        )
        self.absent = nn.Parameter(torch.zeros(len(config.names), 1, 1, config.width))

    def forward(self, heard: Float[Tensor, "b s v"], frames: int) -> Float[Tensor, "l b t d"]:
        """Levels for ``frames`` latent frames from what is heard (see `hearing`) from ``history`` features before the first one's
        own to ``lookahead`` after the last one's. Clips without speech have ``absent`` instead, a learned constant per level."""
        config = self.config
        wanted = (config.history + config.stride * (frames - 1) + 1 + config.lookahead, config.heard)
        assert heard.shape[1:] == wanted, (tuple(heard.shape), wanted)
        widths = [config.streams[name] for name in config.listen]
        parts = heard.split(widths * (1 if config.memory is None else 2), -1)
        levels: list[Tensor] = []
        for i, stream in enumerate(self.streams):
            levels += stream(parts[i], None if config.memory is None else parts[len(widths) + i], frames)
        return self.mlp(torch.stack(levels))


class StreamLevels(nn.Module):
    """One stream at all its widths."""

    def __init__(self, channels: int, config: LevelsConfig):
        super().__init__()
        self.config = config
        stem = config.stem
        self.stem = nn.Sequential(
            nn.Linear((2 * REACH + 1) * channels, stem), nn.SiLU(),
            nn.Linear(stem, stem), nn.SiLU(), ChannelDropout(config.dropout),
        )
        self.filters = nn.ParameterList(
            torch.randn(config.filters, taps) * (box / taps) ** 0.5 for taps, box in config.widths if box > 1
        )
        self.outward = nn.ModuleList(
            nn.Linear(stem * (taps if box == 1 else 1), config.width) for taps, box in config.widths
        )
        if config.memory is not None:
            self.whole = nn.Sequential(nn.Linear(channels, stem), nn.SiLU(), ChannelDropout(config.dropout))
            self.outward.append(nn.Linear(stem, config.width))

    def forward(
        self, features: Float[Tensor, "b s w"], means: Float[Tensor, "b s w"] | None, frames: int
    ) -> list[Float[Tensor, "b t d"]]:
        """The levels for ``frames`` latent frames, local to global, before the shared MLP."""
        config = self.config
        count = config.past + frames + config.ahead
        ends = config.stride * (count - 1) + 1
        patches = torch.cat([features[:, i : i + ends : config.stride] for i in range(2 * REACH + 1)], -1)
        stem = self.stem(patches)
        wide = iter(self._wide(stem, frames))
        seen = [next(wide) if box > 1 else self._narrow(stem, frames, taps) for taps, box in config.widths]
        if means is not None:
            seen.append(self.whole(means[:, config.history : config.history + config.stride * (frames - 1) + 1 : config.stride]))
        return [outward(level) for outward, level in zip(self.outward, seen, strict=True)]

    def _narrow(self, stem: Float[Tensor, "b n c"], frames: int, taps: int) -> Float[Tensor, "b t k"]:
        """The latest ``taps`` frames side by side: dense where phonetic detail lives."""
        first = self.config.past + self.config.later(taps, 1) - (taps - 1)
        near = stem[:, first : first + frames + taps - 1]
        return torch.cat([near[:, i : i + frames] for i in range(taps)], -1)

    def _wide(self, stem: Float[Tensor, "b n c"], frames: int) -> list[Float[Tensor, "b t c"]]:
        config = self.config
        widths = [(taps, box) for taps, box in config.widths if box > 1]
        if not widths:
            return []
        count = config.past + frames + config.ahead
        return convolved(stem, [
            banded(filters, boxes(frames, count, config.past, config.later(taps, box), taps, box).to(stem.device), box)
            for filters, (taps, box) in zip(self.filters, widths, strict=True)
        ])


class LevelSelector(nn.Module):
    """A = sum_l softmax(W)_l L_l with one learned W for each block, static over time (1.3). Starts uniform, and may stay so.

    W is ``pace`` times a parameter: Adam moves every number by about its learning rate, which would keep W near zero.
    """

    pace = 10.0

    def __init__(self, blocks: int, levels: int, kind: Literal["learned", "uniform"] = "learned"):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(blocks, levels), requires_grad=kind == "learned")

    def weights(self) -> Float[Tensor, "k l"]:
        """How much each block listens to each level; rows sum to one."""
        return functional.softmax(self.pace * self.logits, -1)

    def forward(self, levels: Float[Tensor, "l b t d"]) -> Float[Tensor, "k b t d"]:
        """Each block's mixture of all levels."""
        return (self.weights() @ levels.flatten(1)).view(-1, *levels.shape[1:])
