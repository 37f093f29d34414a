"""Recordings of nobody for the video engine: squares that open and close, with a sound each, in the shape of clips of people."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.video import VideoSpace
from vivavoce.media.track import Track
from vivavoce.speech.analysis import Analysis
from vivavoce.train.video_clips import VideoClip

SIDE, PEOPLE = 32, 3


def quiet(*_: object) -> None:
    pass


def face_points(model: FaceModel, opened: np.ndarray) -> np.ndarray:
    """Landmarks of a face that fills half of the picture and whose lower half drops with ``opened``, px."""
    rest = np.asarray(model.mean, np.float64).reshape(-1, 3)
    rest = rest - rest.mean(0)
    rest = rest * (0.5 * SIDE / np.ptp(rest[:, 1]))
    points = np.repeat(rest[None] + [SIDE / 2, SIDE / 2, 0], len(opened), 0)
    points[:, rest[:, 1] > 0, 1] += 3 * opened[:, None]
    points[:, :, 0] += opened[:, None]
    return points.astype(np.float32)


def make_recordings(count: int, pictures: int, model: FaceModel) -> tuple[list[VideoClip], dict[Path, Tensor]]:
    """Clips, and what is to be heard of each."""
    clips, sounds = [], {}
    for i in range(count):
        rng = np.random.default_rng(i)
        opened = (0.3 + 0.7 * i / max(count - 1, 1)) * np.abs(np.sin(np.arange(pictures) * rng.uniform(0.4, 0.9)))
        frames = np.full((pictures, SIDE, SIDE, 3), 60 + 10 * i, np.uint8)
        for frame, gap in zip(frames, opened, strict=True):
            frame[12:20, 8:24] = 180
            frame[20 : 20 + round(8 * gap), 12:20] = 250
        path, rate = Path(f"recording-{i}"), Analysis().spec.sample_rate_hz
        loud = np.repeat(opened, rate // MOTION_RATE_HZ)
        sounds[path] = torch.from_numpy((0.3 * loud * rng.standard_normal(len(loud))).astype(np.float32))
        clips.append(VideoClip(
            name=f"clip{i}", split="train", person=f"person{i % PEOPLE}", talks=i != 1, recording=path, first=0,
            pictures=frames, points=face_points(model, opened),
        ))
    return clips, sounds


def tiny_space() -> VideoSpace:
    from tiny_wan import VAE_2_1, make_vae  # imports diffusers, which the processes of tests do without

    return VideoSpace(make_vae(**VAE_2_1), height=SIDE, width=SIDE, fps=MOTION_RATE_HZ)


class Loudness:
    """A speech encoder that hears one thing only, and quickly: a stand-in for what is tested elsewhere."""

    spec = Analysis().spec.__class__(
        sample_rate_hz=16000, rate_hz=50, streams={"phonetic": 1, "prosodic": 1}, lookahead_seconds=0.0, block_seconds=0.02,
    )

    def start(self) -> None:
        return None

    def step(self, samples: Tensor, state: None, *, last: bool = False) -> tuple[Track, None]:
        hop = self.spec.sample_rate_hz // self.spec.rate_hz
        padded = nn.functional.pad(samples, (0, -len(samples) % hop)).view(-1, hop)
        loud = padded.square().mean(1, keepdim=True).sqrt() * 5
        return Track(values=torch.cat([loud, loud.roll(1, 0)], 1)[None], rate=self.spec.rate_hz), None


class StandInBase(nn.Module):
    """The parts of WanTransformer3DModel that `VideoTransformer` calls, without diffusers, which takes long to import."""

    def __init__(self, channels: int = 4, width: int = 12, text: int = 6, blocks: int = 2):
        super().__init__()
        self.config = {
            "patch_size": (1, 2, 2), "pos_embed_seq_len": None, "num_attention_heads": 2, "attention_head_dim": width // 2,
            "in_channels": channels, "out_channels": channels, "image_dim": None, "text_dim": text,
        }
        self.patch_embedding = nn.Conv3d(channels, width, (1, 2, 2), (1, 2, 2))
        self.condition_embedder = StandInEmbedder(width, text)
        self.blocks = nn.ModuleList(StandInBlock(width) for _ in range(blocks))
        self.norm_out, self.proj_out = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 4 * channels)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.gradient_checkpointing, self.device = False, torch.device("cpu")

    def rope(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return latents.new_zeros(0), latents.new_zeros(0)


class StandInEmbedder(nn.Module):
    def __init__(self, width: int, text: int):
        super().__init__()
        self.time, self.text, self.width = nn.Linear(1, width), nn.Linear(text, width), width

    def forward(self, timestep: Tensor, text: Tensor, image: Any, timestep_seq_len: int) -> tuple[Tensor, Tensor, Tensor, None]:
        embedded = self.time(timestep[:, None] / 1000).unflatten(0, (-1, timestep_seq_len))
        return embedded, embedded.repeat(1, 1, 6), self.text(text), None


class StandInBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, context: Tensor, modulation: Tensor, rotary: Any) -> Tensor:
        shift, scale = modulation.expand(-1, hidden.shape[1], -1, -1)[:, :, :2].unbind(2)
        mixed = hidden.mean(1, keepdim=True) + context.mean(1, keepdim=True)
        return hidden + self.net(hidden * (1 + scale) + shift + mixed)


def process(index: int = 0, count: int = 1) -> Any:
    """What windows' draws ask of an accelerator."""
    return SimpleNamespace(process_index=index, num_processes=count, device=torch.device("cpu"), mixed_precision="no")
