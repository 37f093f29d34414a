"""States of prompts and pictures: as diffusers' own pipelines make them, on tiny random encoders in their format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vivavoce.latent.prompts import STATES, image_states, text_states

pytest.importorskip("diffusers")
from diffusers import WanImageToVideoPipeline, WanPipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

PROMPTS = ["a man  speaks &amp; smiles ", "", "a " * (STATES + 50)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    torch.manual_seed(0)
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "a", "man", "speaks", "&", "smiles"])}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    plain.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder / "tokenizer"
    )
    text = UMT5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
    image = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    CLIPVisionModel(image).save_pretrained(folder / "image_encoder")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "image_processor")
    return folder


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
    with pytest.raises(ValueError, match="no safetensors, and pickled weights are not opened"):
        text_states(tmp_path, ["a"])
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"can't be used .*: download the checkpoint again"):
        text_states(tmp_path, ["a"])
