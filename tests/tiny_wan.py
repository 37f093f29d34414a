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


def save_text_encoder(base: Path, width: int = 8) -> Path:
    """The same with a random text encoder and a tokenizer that knows five words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "a", "man", "speaks", "&", "smiles"])}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    plain.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(
        base / "tokenizer"
    )
    text = UMT5Config(vocab_size=16, d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    UMT5EncoderModel(text).save_pretrained(base / "text_encoder")
    return base


def save_image_encoder(base: Path, width: int = 8) -> Path:
    """The same with a random encoder of pictures."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    image = CLIPVisionConfig(
        hidden_size=width, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    CLIPVisionModel(image).save_pretrained(base / "image_encoder")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(base / "image_processor")
    return base
