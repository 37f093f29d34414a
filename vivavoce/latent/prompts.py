"""What Wan's own encoders make of a prompt and of a picture: states that a video network attends to.

Each encoder is loaded, asked and let go, because it is larger than many networks (UMT5-XXL: 5.7 billion weights) and a video
needs its answer once.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.components import UNREADABLE, load_weights, module, part_folder, quiet, said, weight_files
from vivavoce.latent.space import Frame

STATES = 512  # of a prompt, padded with zeros


@torch.no_grad()
def text_states(
    base: str | Path, prompts: Sequence[str], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n s k"]:
    """The text encoder's states for each prompt, as diffusers' pipelines make them: entities and white space cleaned, cut to
    STATES tokens, zeros behind the last. ValueError where ``<base>/text_encoder`` or ``<base>/tokenizer`` will not do."""
    transformers = module("transformers")
    tokenizer = _opened(transformers.AutoTokenizer, part_folder(base, "tokenizer", "tokenizer_config.json"))
    encoder = _encoder(transformers.UMT5EncoderModel, part_folder(base, "text_encoder"), dtype).to(device)
    cleaned = [re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip() for prompt in prompts]
    tokens = tokenizer(cleaned, padding="max_length", max_length=STATES, truncation=True, return_tensors="pt")
    mask = tokens.attention_mask.to(device)
    states = encoder(tokens.input_ids.to(device), mask).last_hidden_state
    return torch.where(mask[..., None] > 0, states, 0.0)


@torch.no_grad()
def image_states(
    base: str | Path, picture: Frame, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "1 m k"]:
    """The image encoder's last states but one, which Wan 2.1's image-to-video networks attend to. ValueError where
    ``<base>/image_encoder`` or ``<base>/image_processor`` will not do."""
    return ImageEncoder(base, device=device, dtype=dtype)(picture)


class ImageEncoder:
    """`image_states` of many pictures, loaded once."""

    def __init__(self, base: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        transformers = module("transformers")
        self._processor = _opened(
            transformers.CLIPImageProcessor, part_folder(base, "image_processor", "preprocessor_config.json")
        )
        self._encoder = _encoder(transformers.CLIPVisionModel, part_folder(base, "image_encoder"), dtype).to(device)

    @torch.no_grad()
    def __call__(self, picture: Frame) -> Float[Tensor, "1 m k"]:
        pixels = self._processor(images=picture, return_tensors="pt").pixel_values
        given = pixels.to(self._encoder.device, self._encoder.dtype)
        return self._encoder(given, output_hidden_states=True).hidden_states[-2]


def _encoder(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """An encoder as a class of transformers; ValueError where its files will not do."""
    weight_files(folder)
    return load_weights(kind, folder, dtype=dtype)


def _opened(kind: Any, folder: Path) -> Any:
    """What prepares an encoder's input, likewise."""
    try:
        with quiet():
            return kind.from_pretrained(folder, local_files_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{folder} can't be used ({said(error)}): download the checkpoint again") from error
