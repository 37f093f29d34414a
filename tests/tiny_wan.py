"""Tiny random checkpoints in exactly the format in which Wan's are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

VAE_2_1: dict[str, Any] = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
"""As that of Wan 2.1: pictures 8 times smaller."""
VAE_2_2: dict[str, Any] = VAE_2_1 | {
    "decoder_base_dim": 6, "z_dim": 6, "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12,
    "scale_factor_spatial": 16,
}  # fmt: skip
"""As that of Wan 2.2 5B: 16 times, patches of 2 x 2 and shortcuts round every stage."""


def make_vae(*, seed: int = 1, scale: float = 1.5, **config: Any) -> AutoencoderKLWan:
    """A random autoencoder; ``scale`` of its initial kernels, which are so small that pictures would come out grey."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    channels = config["z_dim"]
    stats = {"latents_mean": torch.randn(channels, generator=draw), "latents_std": 0.3 + torch.rand(channels, generator=draw)}
    vae = AutoencoderKLWan(**config, **{name: values.tolist() for name, values in stats.items()})
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(scale if parameter.ndim > 2 else 1.0)
    return vae.eval().requires_grad_(False)


def save_vae(base: Path, **config: Any) -> Path:
    """A pipeline's folder with a random autoencoder in it."""
    make_vae(**config).save_pretrained(base / "vae")
    return base
