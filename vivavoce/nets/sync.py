"""Whether a mouth moves as its speech sounds: two pairs of embeddings in which what belongs together lies together.

A pair is an eye and an ear (SyncNet; Chung and Zisserman 2016). One eye sees the lips' landmarks, the other a grey crop of the
mouth; each has an ear of its own, which hears log-mel energies. Every frame of both gets a short vector from its immediate
surroundings only; a window's embedding is the vectors of its frames side by side, of length one. So a window is compared frame by
frame, all shifts of a recording cost one product, and nothing outside the window counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

PARTS = ("landmarks", "mouths")
"""The pairs, by what their eyes see."""


class Frames(nn.Module):
    """A valid convolution over time, two layers over channels: (b, t, channels) to (b, (t - kernel) / stride + 1, embedding)."""

    def __init__(self, channels: int, width: int, embedding: int, kernel: int, stride: int, dropout: float):
        super().__init__()
        self.time = nn.Conv1d(channels, width, kernel, stride=stride)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, width), nn.Linear(width, embedding)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Float[Tensor, "b t c"]) -> Float[Tensor, "b s e"]:
        hidden = self.time(self.dropout(values).transpose(1, 2)).transpose(1, 2)
        hidden = functional.gelu(self.first(hidden))
        hidden = hidden + self.dropout(functional.gelu(self.mix(hidden)))
        return self.out(self.dropout(self.second(hidden)))


class MouthEye(nn.Module):
    """Grey crops of a mouth to vectors: a convolution over three frames, then each picture halved three times."""

    def __init__(self, channels: int, side: int, width: int, embedding: int, dropout: float):
        super().__init__()
        assert side % 16 == 0, side
        sizes = [channels, 2 * channels, 4 * channels, 6 * channels]
        self.motion = nn.Conv3d(2, channels, (3, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2))
        self.halve = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(nn.GroupNorm(4, size) for size in sizes)
        self.flatten, self.norm = nn.Linear(sizes[-1] * (side // 16) ** 2, width), nn.LayerNorm(width)
        self.frames = Frames(width, width, embedding, 1, 1, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, seen: Float[Tensor, "b t 2 h w"]) -> Float[Tensor, "b t-2 e"]:
        hidden = self.motion(seen.transpose(1, 2))
        batch, _, frames = hidden.shape[:3]
        hidden = functional.gelu(self.norms[0](hidden.transpose(1, 2).flatten(0, 1)))  # the norm must not see other frames
        for layer, norm in zip(self.halve, list(self.norms)[1:], strict=True):
            hidden = functional.gelu(norm(layer(hidden)))
        hidden = self.norm(self.flatten(self.dropout(hidden.flatten(1))))
        return self.frames(hidden.view(batch, frames, -1))


class Pair(nn.Module):
    """An eye and an ear; ``sharpness``: natural log of what cosines are multiplied by in training."""

    def __init__(self, eye: nn.Module, ear: nn.Module):
        super().__init__()
        self.eye, self.ear = eye, ear
        self.sharpness = nn.Parameter(torch.tensor(2.3))
        self.level = nn.Parameter(torch.zeros(2))


class SyncNetwork(nn.Module):
    """Both pairs, and what their inputs are normalised with."""

    template: Float[Tensor, "n 3"]
    """A mean face, to find the head's pose."""
    basis: Float[Tensor, "p k"]
    """Directions in which the landmarks move, over how far they do."""
    sound_mean: Float[Tensor, " bands"]
    sound_deviation: Float[Tensor, " bands"]

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """``bands``: of a sound feature; ``template``: landmarks of a face; ``points``: those seen; ``directions``: they move in;
        ``side``: of a crop, px; ``window``: frames; ``reach``: frames of the picture behind one vector; ``heard``: sound features
        behind one vector; ``per_frame``: sound features to a frame of the picture."""

        bands: int
        template: int
        points: int
        directions: int = 24
        side: int = 48
        window: int = 15
        reach: int = 3
        heard: int = 5
        per_frame: int = 2
        width: int = 160
        channels: int = 16
        embedding: int = 32
        dropout: float = 0.2

        @property
        def vectors(self) -> int:
            """Frames of a window that have a vector: those whose surroundings lie in it."""
            return self.window - self.reach + 1

        @property
        def sound(self) -> int:
            """Sound features of a window; the first belongs to the middle of its first `reach` frames, or comes earlier."""
            return self.per_frame * (self.vectors - 1) + self.heard

        @property
        def lead(self) -> int:
            """Sound features from a window's first one to its first frame; negative where the frame comes first."""
            return (self.heard - 1) // 2 - self.per_frame * ((self.reach - 1) // 2)

    def __init__(self, config: Config):
        super().__init__()
        assert config.reach == 3, "the mouths' eye sees three frames"
        self.config = c = config

        def ear() -> Frames:
            return Frames(c.bands, c.width, c.embedding, c.heard, c.per_frame, c.dropout)

        self.landmarks = Pair(Frames(c.directions, c.width, c.embedding, c.reach, 1, c.dropout), ear())
        self.mouths = Pair(MouthEye(c.channels, c.side, c.width, c.embedding, c.dropout), ear())
        self.register_buffer("template", torch.zeros(c.template, 3))
        self.register_buffer("basis", torch.zeros(3 * c.points, c.directions))
        self.register_buffer("sound_mean", torch.zeros(c.bands))
        self.register_buffer("sound_deviation", torch.ones(c.bands))

    def part(self, name: str) -> Pair:
        """The pair of that name."""
        return {"landmarks": self.landmarks, "mouths": self.mouths}[name]

    def see(self, part: str, values: Tensor) -> Float[Tensor, "b w e"]:
        """Embeddings of all windows of what an eye sees: coordinates (b, t, directions), or crops (b, t, 2, side, side)."""
        pair = self.part(part)
        return self.windows(pair.eye(values).float(), pair.level[0])

    def hear(self, part: str, sound: Float[Tensor, "b s bands"]) -> Float[Tensor, "b w e"]:
        """Embeddings of windows of normalised sound features, one for every frame: the first one's from feature 0 on."""
        pair = self.part(part)
        return self.windows(pair.ear(sound).float(), pair.level[1])

    def windows(self, vectors: Float[Tensor, "b t d"], level: Float[Tensor, ""]) -> Float[Tensor, "b w e"]:
        """The vectors of every window side by side, a learned share of their mean taken off, scaled to length one."""
        cut = vectors.unfold(1, self.config.vectors, 1).transpose(2, 3)
        cut = cut - torch.sigmoid(level) * cut.mean(2, keepdim=True)
        return functional.normalize(cut.flatten(2), dim=-1)

    def normalised(self, sound: Float[Tensor, "*b bands"]) -> Float[Tensor, "*b bands"]:
        """Sound features as the ears know them."""
        return (sound - self.sound_mean) / self.sound_deviation

    def coordinates(self, shape: Float[Tensor, "t n"]) -> Float[Tensor, "t k"]:
        """Movement away from a clip's mean face (face heights, flat) in the directions of the basis, by its own size."""
        moved = shape @ self.basis
        size = moved[:, :6].square().mean().sqrt()  # the first six are four fifths of all movement of lips and jaw
        return moved / (0.5 + 0.5 * size)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Weights in half precision, statistics and configuration in one safetensors file."""
        config = {"config": json.dumps(asdict(self.config))}
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, path, {**metadata, **config})

    @classmethod
    def load(cls, path: Path) -> SyncNetwork:
        """What `save` saved, for inference."""
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})["config"])
            network = cls(cls.Config(**config))
            network.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})
        return network.eval().requires_grad_(False)


def grey(
    crops: Float[Tensor, "t h w"], mean: Float[Tensor, "h w"], spread: float
) -> Float[Tensor, "t 2 h w"]:
    """Crops as the eye sees them: what differs from the clip's mean picture, and the picture itself, both over the spread."""
    return torch.stack([(crops - mean) / spread, (crops - mean.mean()) / (2 * spread)], 1)
