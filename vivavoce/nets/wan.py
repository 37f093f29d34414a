"""The published Wan models that the video engine builds on: their shapes, in diffusers' own words, and what they were made for.

Facts from the models' configuration files and the code that converted them (huggingface/diffusers
scripts/convert_wan_to_diffusers.py, Wan-Video/Wan2.2 wan/configs). No weights, nothing is loaded. A checkpoint's own
configuration goes before these; they are for estimates, for models of random weights, and for tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Base:
    """A published model: ``repository`` on the hub; arguments of WanTransformer3DModel, AutoencoderKLWan, UMT5Config and, for
    models that see CLIP states, CLIPVisionConfig; the size (px), pictures and pictures per second it was made for."""

    repository: str
    transformer: Config
    vae: Config
    text: Config
    image: Config | None = None
    width: int
    height: int
    pictures: int
    fps: float


def _fixed(**values: Any) -> Config:
    return MappingProxyType(values)


_TRANSFORMER = {
    "patch_size": (1, 2, 2), "attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024,
}
_VAE_2_1 = _fixed(
    base_dim=96, z_dim=16, dim_mult=(1, 2, 4, 4), num_res_blocks=2, attn_scales=(), temperal_downsample=(False, True, True),
    dropout=0.0,
    latents_mean=(
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497,
        0.2503, -0.2921,
    ),
    latents_std=(
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251,
        1.9160,
    ),
)
_VAE_2_2 = _fixed(
    base_dim=160, decoder_base_dim=256, z_dim=48, dim_mult=(1, 2, 4, 4), num_res_blocks=2, attn_scales=(),
    temperal_downsample=(False, True, True), dropout=0.0, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
    scale_factor_spatial=16, scale_factor_temporal=4,
    latents_mean=(
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098,
        0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567,
        -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957,
        0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
    ),
    latents_std=(
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454,
        0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999,
        0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444,
        0.4089, 0.7468, 0.7744,
    ),
)
_UMT5_XXL = _fixed(
    vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)
_CLIP_H = _fixed(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, image_size=224, patch_size=14,
    projection_dim=1024, hidden_act="gelu",
)

BASES: Mapping[str, Base] = MappingProxyType({
    "wan2.2-ti2v-5b": Base(
        repository="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        transformer=_fixed(
            **_TRANSFORMER, num_layers=30, num_attention_heads=24, ffn_dim=14336, in_channels=48, out_channels=48
        ),
        vae=_VAE_2_2, text=_UMT5_XXL, width=1280, height=704, pictures=121, fps=24.0,
    ),
    "wan2.1-t2v-1.3b": Base(
        repository="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        transformer=_fixed(
            **_TRANSFORMER, num_layers=30, num_attention_heads=12, ffn_dim=8960, in_channels=16, out_channels=16
        ),
        vae=_VAE_2_1, text=_UMT5_XXL, width=832, height=480, pictures=81, fps=16.0,
    ),
    "wan2.1-i2v-14b-480p": Base(
        repository="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        transformer=_fixed(
            **_TRANSFORMER, num_layers=40, num_attention_heads=40, ffn_dim=13824, in_channels=36, out_channels=16, image_dim=1280,
            added_kv_proj_dim=5120,
        ),
        vae=_VAE_2_1, text=_UMT5_XXL, image=_CLIP_H, width=832, height=480, pictures=81, fps=16.0,
    ),
})
