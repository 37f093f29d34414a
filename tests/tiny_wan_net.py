"""Makers of tiny video transformers with random weights, in the format of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

KINDS: dict[str, dict[str, Any]] = {
    "ti2v": {"in_channels": 48, "out_channels": 48},  # Wan 2.2, 5B
    "t2v": {"in_channels": 16, "out_channels": 16},  # Wan 2.1, 1.3B
    "i2v": {"in_channels": 36, "out_channels": 16, "image_dim": 20, "added_kv_proj_dim": 24},  # Wan 2.1, 14B
}
TEXT_WIDTH = 12


def save_tiny_wan(folder: Path, kind: str, **changed: Any) -> Path:
    """A checkpoint's folder, as `from_pretrained` takes it."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    net = WanTransformer3DModel(**{
        "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": TEXT_WIDTH, "freq_dim": 16, "ffn_dim": 32,
        "num_layers": 3, "rope_max_seq_len": 64, **KINDS[kind], **changed,
    })
    net.save_pretrained(folder)
    return folder


def load_tiny_wan(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The transformer in such a folder."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype).eval()
