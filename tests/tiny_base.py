"""Whole tiny bases for the video engine, random, in the format of diffusers, and adapters on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_wan import VAE_2_1, VAE_2_2, save_image_encoder, save_text_encoder, save_vae
from tiny_wan_net import TEXT_WIDTH, load_tiny_wan, save_tiny_wan

from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.video import VideoTransformer
from vivavoce.nets.video_parts import PartsConfig
from vivavoce.speech.encoders import ANALYSIS, identity, open_encoder


def save_base(folder: Path, kind: str = "ti2v") -> Path:
    """Transformer, autoencoder, text encoder and tokenizer; of "i2v" also the encoder of pictures."""
    stills = kind == "i2v"
    save_vae(folder, **(VAE_2_1 | {"z_dim": 16} if stills else VAE_2_2 | {"z_dim": 48}))
    save_tiny_wan(folder / "transformer", kind, num_layers=2)
    save_text_encoder(folder, TEXT_WIDTH)
    return save_image_encoder(folder, 20) if stills else folder


def save_adapter(base: Path, path: Path, **parts: Any) -> Path:
    """A random adapter that hears log-mel energies and prosody, with the metadata of `train video`."""
    encoder = open_encoder(ANALYSIS)
    levels = LevelsConfig(
        streams=dict(encoder.spec.streams), listen=tuple(encoder.spec.streams), widths=((1, 1), (2, 1)), memory=20, ahead=1,
        width=8, stem=8, dropout=0.0,
    )
    torch.manual_seed(1)
    net = VideoTransformer(
        load_tiny_wan(base / "transformer"),
        VideoTransformer.Config(parts=PartsConfig(levels=levels, width=16, heads=2, **parts), rank=2),
    )
    for parameter in net.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    said = {"silence": [0.0] * encoder.spec.width, "window": {"latents": 5, "prefix": 2}}
    net.save(path, {"encoder": identity(encoder), **{name: json.dumps(value) for name, value in said.items()}})
    return path
