"""States of prompts and pictures: as diffusers' own pipelines make them, on tiny random encoders in their format."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_wan import save_image_encoder, save_text_encoder

from vivavoce.latent.prompts import STATES, image_states, text_states

pytest.importorskip("diffusers")
from diffusers import WanImageToVideoPipeline, WanPipeline
from transformers import CLIPImageProcessor, CLIPVisionModel, PreTrainedTokenizerFast, UMT5EncoderModel

PROMPTS = ["a man  speaks &amp; smiles ", "", "a " * (STATES + 50)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_encoder(save_text_encoder(tmp_path_factory.mktemp("wan")))


def test_prompts_become_the_states_that_the_pipeline_makes(base: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(base / "text_encoder").eval()
    pipe = WanPipeline(tokenizer=tokenizer, text_encoder=encoder, transformer=None, vae=None, scheduler=None)
    with torch.no_grad():
        wanted = pipe._get_t5_prompt_embeds(PROMPTS, max_sequence_length=STATES)
    made = text_states(base, PROMPTS)
    assert torch.equal(made, wanted)
    assert made.shape == (3, STATES, 8)
    assert bool((made[0, 6:] == 0).all()) and bool((made[0, :6] != 0).any())  # five words and the end
    assert bool((made[2] != 0).any(-1).all())


def test_pictures_become_the_states_that_the_pipeline_makes(base: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    encoder = CLIPVisionModel.from_pretrained(base / "image_encoder").eval()
    processor = CLIPImageProcessor.from_pretrained(base / "image_processor")
    pipe = WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=None, image_encoder=encoder, image_processor=processor
    )
    with torch.no_grad():
        wanted = pipe.encode_image(picture, device="cpu")
    assert torch.equal(image_states(base, picture), wanted)


def test_what_is_missing_is_told(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no tokenizer/tokenizer_config.json: give the folder of a pipeline"):
        text_states(tmp_path, ["a"])
    for part in ("tokenizer", "text_encoder"):
        (tmp_path / part).symlink_to(base / part)
    assert text_states(tmp_path, ["a"]).shape == (1, STATES, 8)
    (tmp_path / "text_encoder").unlink()
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text((base / "text_encoder" / "config.json").read_text())
    with pytest.raises(ValueError, match=r"no safetensors, and pickled weights \(\.bin\) are not opened"):
        text_states(tmp_path, ["a"])
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"can't be used .*: download the checkpoint again"):
        text_states(tmp_path, ["a"])


def test_an_encoder_that_lacks_weights_is_refused(base: Path, tmp_path: Path) -> None:
    """They would be random numbers."""
    (tmp_path / "tokenizer").symlink_to(base / "tokenizer")
    shutil.copytree(base / "text_encoder", tmp_path / "text_encoder")
    file = tmp_path / "text_encoder" / "model.safetensors"
    kept = load_file(file)
    gone = next(name for name in kept if "DenseReluDense" in name)
    save_file({name: weight for name, weight in kept.items() if name != gone}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"lack 1 tensors like {re.escape(gone)}: download the checkpoint again"):
        text_states(tmp_path, ["a"])
