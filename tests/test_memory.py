"""Memory: exact counts of parameters, activations against what really lives, and refusals that say what would help."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vivavoce.nets.memory import (
    CONTEXT_BYTES,
    Job,
    available_bytes,
    decode_bytes,
    encode_bytes,
    estimate,
    fits,
    refusal,
    step_bytes,
    text_bytes,
    tokens_of,
)
from vivavoce.nets.peak import peak_bytes
from vivavoce.nets.sizes import KEPT_FLOAT32, Parts, build, weight_files
from vivavoce.nets.wan import BASES, Base

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

GPU, CPU = torch.device("cuda"), torch.device("cpu")  # a device's name; nothing is put there
TINY = Base(
    repository="none",
    transformer={
        "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "in_channels": 16, "out_channels": 16,
        "text_dim": 32, "freq_dim": 16, "patch_size": (1, 2, 2),
    },
    vae={"base_dim": 3, "z_dim": 16, "dim_mult": (1, 1, 1, 1), "num_res_blocks": 1, "temperal_downsample": (False, True, True)},
    text={"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 3, "num_heads": 4},
    width=64, height=64, pictures=9, fps=16.0,
)


def save(part: str, config: Any, folder: Path, **how: Any) -> int:
    """A checkpoint of random weights in diffusers' format; its number of parameters."""
    torch.manual_seed(0)
    network = build(part, config)
    network.save_pretrained(folder / part, **how)
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(scope="module")
def published() -> dict[str, Parts]:
    return {name: Parts.of_base(base) for name, base in BASES.items()}


@pytest.mark.parametrize(("name", "millions"), [
    ("wan2.2-ti2v-5b", (4999.787712, 704.688668, 5680.910336, 0)),
    ("wan2.1-t2v-1.3b", (1418.996800, 126.892531, 5680.910336, 0)),
    ("wan2.1-i2v-14b-480p", (16394.878784, 126.892531, 5680.910336, 630.766080)),
])
def test_published_sizes(published: dict[str, Parts], name: str, millions: tuple[float, ...]) -> None:
    """5.0, 1.4 and 16.4 thousand million, as the models' names and papers say (14B leaves out what sees the picture)."""
    named = published[name].named()
    found = [named[part].count / 1e6 if part in named else 0 for part in ("transformer", "vae", "text_encoder", "image_encoder")]
    assert found == pytest.approx(millions, abs=1e-6)


def test_bases_fit_together() -> None:
    for base in BASES.values():
        seen = base.transformer["in_channels"] - base.transformer["out_channels"]
        assert base.transformer["out_channels"] == base.vae["z_dim"] == len(base.vae["latents_mean"])
        assert len(base.vae["latents_std"]) == base.vae["z_dim"] and base.transformer["text_dim"] == base.text["d_model"]
        assert (base.pictures - 1) % 4 == 0 and base.width % 32 == 0 and base.height % 32 == 0
        assert (base.image is None) == (seen == 0) and seen in (0, 4 + base.vae["z_dim"])


def test_headers_count_what_is_in_the_files(tmp_path: Path) -> None:
    """From headers, from several files, and from the configuration alone: always the numbers that there are."""
    exact = {
        "transformer": save("transformer", TINY.transformer, tmp_path, max_shard_size="20KB"),
        "vae": save("vae", TINY.vae, tmp_path), "text_encoder": save("text_encoder", TINY.text, tmp_path),
    }
    files = weight_files(tmp_path / "transformer")
    assert len(files) > 2
    save_file({"blocks.0.speech.weight": torch.zeros(3, 5)}, tmp_path / "adapter.safetensors")
    counts = {name: part.count for name, part in Parts.of_folder(tmp_path, adapter=tmp_path / "adapter.safetensors").named().items()}
    assert counts == {**exact, "adapter": 15}
    on_disk = sum(f.stat().st_size for f in files)
    assert 0 <= on_disk - 4 * exact["transformer"] < 0.5 * on_disk  # float32 and headers
    files[1].unlink()
    assert Parts.of_folder(tmp_path).transformer.count == exact["transformer"]
    assert Parts.of_base(TINY).transformer.numbers == Parts.of_folder(tmp_path).transformer.numbers
    with pytest.raises(ValueError, match=re.escape("has no transformer/config.json: give a folder of a Wan model")):
        Parts.of_folder(tmp_path / "vae")


def test_bytes_are_those_of_the_loaded_model(tmp_path: Path) -> None:
    """bfloat16 halves all but the modules that diffusers keeps in float32: exactly what it loads."""
    from diffusers import WanTransformer3DModel

    save("transformer", TINY.transformer, tmp_path)
    save("vae", TINY.vae, tmp_path)
    part = Parts.of_folder(tmp_path).transformer
    assert set(KEPT_FLOAT32) == set(WanTransformer3DModel._keep_in_fp32_modules)
    for dtype in (torch.float32, torch.bfloat16):
        loaded = WanTransformer3DModel.from_pretrained(tmp_path / "transformer", torch_dtype=dtype)
        assert part.bytes_as(dtype) == sum(p.numel() * p.element_size() for p in loaded.parameters())


def test_peak_counts_what_lives_at_once() -> None:
    def run() -> torch.Tensor:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1  # 8000
        del a
        c = b.view(10, 100).double()  # a view costs nothing: 4000 + 8000
        del b
        return c * 2  # 16000

    given = torch.zeros(10**6)
    assert peak_bytes(run) == 16000
    assert peak_bytes(lambda: given[:5].view(-1) * 2, held=[given]) == 20
    with torch.device("meta"):
        assert peak_bytes(lambda: torch.zeros(10**9) + 1) == 8 * 10**9


def transformer_run(config: dict[str, Any], latents: tuple[int, int, int], terms: int, dtype: torch.dtype, where: str) -> int:
    """What diffusers' own step makes, on a device."""
    with torch.device(where):
        network = torch.nn.Module.to(build("transformer", config), dtype)
        x = torch.zeros(terms, config["in_channels"], *latents, dtype=dtype)
        tokens = latents[0] * latents[1] * latents[2] // 4
        each = config["in_channels"] == config["out_channels"]
        time = torch.zeros(terms, tokens) if each else torch.zeros(terms)
        text = torch.zeros(terms, 512, config["text_dim"], dtype=dtype)
        image = None if each else torch.zeros(terms, 257, config["image_dim"], dtype=dtype)
    held = [*network.parameters(), *network.buffers(), x, time, text]
    return peak_bytes(lambda: network(x, time, text, image), held=held)


@pytest.mark.parametrize("name", list(BASES))
@pytest.mark.parametrize(("terms", "dtype"), [(1, torch.bfloat16), (3, torch.bfloat16), (1, torch.float32)])
def test_the_formula_is_what_a_step_of_full_size_makes(name: str, terms: int, dtype: torch.dtype) -> None:
    """The published models at their published size on the meta device (two layers: more live one after another): within 3 %."""
    config = {**BASES[name].transformer, "num_layers": 2}
    base, parts = BASES[name], Parts.of_base(replace(BASES[name], transformer=config, text=TINY.text, image=None))
    scale = base.vae.get("scale_factor_spatial", 8)
    tokens = tokens_of(parts, Job(width=base.width, height=base.height, pictures=base.pictures))
    latents = (1 + (base.pictures - 1) // 4, base.height // scale, base.width // scale)
    assert tokens == latents[0] * latents[1] * latents[2] // 4
    made = transformer_run(config, latents, terms, dtype, "meta")
    assert step_bytes(config, tokens, terms=terms, dtype=dtype) == pytest.approx(made, rel=0.03)


@pytest.mark.parametrize("ffn", [512, 2048])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_formula_holds_on_the_processor(dtype: torch.dtype, ffn: int) -> None:
    """Real tensors of a real step (13 million parameters): within a tenth."""
    config = {**TINY.transformer, "num_attention_heads": 4, "attention_head_dim": 128, "ffn_dim": ffn, "num_layers": 3}
    made = transformer_run(config, (5, 24, 24), 1, dtype, "cpu")
    assert step_bytes(config, 720, terms=1, dtype=dtype) == pytest.approx(made, rel=0.1)


def vae_run(config: Any, job: Job, *, tiled: bool) -> int:
    with torch.device("meta"):
        vae, scale = build("vae", config), config.get("scale_factor_spatial", 8)
        if tiled:
            vae.enable_tiling()
        latents = torch.empty(1, config["z_dim"], 1 + (job.pictures - 1) // 4, job.height // scale, job.width // scale)
    return peak_bytes(lambda: vae.decode(latents), held=[*vae.parameters(), latents])


@pytest.mark.parametrize("name", ["wan2.2-ti2v-5b", "wan2.1-t2v-1.3b"])
def test_longer_clips_are_foreseen_from_three_latents(published: dict[str, Parts], name: str) -> None:
    job = Job(width=320, height=256, pictures=21)
    made = vae_run(BASES[name].vae, job, tiled=False)
    assert decode_bytes(published[name], job) == pytest.approx(made, rel=0.02)


def test_tiles_are_foreseen() -> None:
    """A tiny VAE whose tiles are small beside the picture: what waits for being joined is counted."""
    parts, job = Parts.of_base(TINY), Job(width=448, height=320, pictures=5, tiling=True)
    assert decode_bytes(parts, job) == pytest.approx(vae_run(TINY.vae, job, tiled=True), rel=0.15)
    small = replace(job, width=256, height=256)
    assert decode_bytes(parts, small) == decode_bytes(parts, replace(small, tiling=False))


def test_a_text_encoder_needs_what_it_is_said_to() -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    config = {**TINY.text, "d_model": 128, "d_ff": 320, "num_heads": 4, "d_kv": 32}
    encoder = UMT5EncoderModel(UMT5Config(**config)).eval()
    words = torch.zeros(2, 512, dtype=torch.long)
    made = peak_bytes(lambda: encoder(words, attention_mask=torch.ones_like(words)), held=[*encoder.parameters(), words])
    assert 0.5 * made < text_bytes(config, torch.float32) < 2 * made


def test_the_published_figure_is_met(published: dict[str, Parts]) -> None:
    """ReFree-S2V: 30.6 GB for Wan's 5B, evaluated at 480x480; the length of its clips is not said, 81 pictures are assumed."""
    needed = estimate(published["wan2.2-ti2v-5b"], Job(width=480, height=480, pictures=81), GPU)
    assert needed.peak / 1e9 == pytest.approx(30.6, rel=0.1)


def test_less_is_asked_for_where_less_is_there(published: dict[str, Parts]) -> None:
    """Each offloading needs less than the one before, tiling never more, a smaller picture less; weights are where they wait."""
    parts, job = published["wan2.2-ti2v-5b"], Job(width=480, height=480, pictures=81)
    peaks = {}
    for tiling in (False, True):
        for offload in ("none", "model", "sequential"):
            found = estimate(parts, replace(job, offload=offload, tiling=tiling), GPU)
            peaks[tiling, offload] = found.peak
            assert found.host == (0 if offload == "none" else sum(found.weights.values()))
    assert peaks[False, "none"] > peaks[False, "model"] > peaks[False, "sequential"]
    assert all(peaks[True, way] <= peaks[False, way] for way in ("none", "model", "sequential"))
    assert estimate(parts, replace(job, width=256), GPU).peak < peaks[False, "none"]
    wide = estimate(parts, replace(job, dtype=torch.float32), GPU)
    assert wide.weights["transformer"] == 4 * parts.transformer.count and wide.peak > peaks[False, "none"]
    model = estimate(parts, replace(job, offload="model"), GPU)
    largest = max(model.weights[name] + 1.1 * model.activations[stage] for name, stage in (
        ("text_encoder", "text"), ("vae", "encode"), ("transformer", "step"), ("vae", "decode"),
    ))
    assert model.peak == pytest.approx(largest + CONTEXT_BYTES, abs=2)
    at_home = estimate(parts, replace(job, offload="model"), CPU)
    assert at_home.peak == estimate(parts, job, GPU).peak - CONTEXT_BYTES and at_home.host == 0


def test_models_that_see_a_clip_encode_one(published: dict[str, Parts]) -> None:
    job = Job(width=480, height=480, pictures=81)
    reference, whole = (encode_bytes(published[n], job) for n in ("wan2.1-t2v-1.3b", "wan2.1-i2v-14b-480p"))
    assert whole > 2 * reference
    assert encode_bytes(published["wan2.1-t2v-1.3b"], replace(job, pictures=5)) == reference


def test_refusals_name_what_helps(published: dict[str, Parts]) -> None:
    """Whatever a refusal proposes does fit, and what it leaves out in between does not."""
    parts, job = published["wan2.2-ti2v-5b"], Job(width=1280, height=704, pictures=121)
    said = refusal(parts, job, GPU, 40 * 10**9, name="wan2.2-ti2v-5b")
    assert said.startswith("wan2.2-ti2v-5b at 1280x704 and 121 pictures needs about 47.6 GB on cuda, which has 40.0 GB free: ")
    assert re.search(r"VAE tiling \(31.5 GB\), or offload model \(26.2 GB\), or offload sequential \(24.8 GB\) would fit$", said)
    said = refusal(parts, job, GPU, 20 * 10**9, name="x")
    assert "VAE tiling and offload model (16.6 GB)" in said and "or offload" not in said
    smaller = re.search(r"at most (\d+)x(\d+) with VAE tiling and offload sequential", refusal(parts, job, GPU, 6 * 10**9, name="x"))
    assert smaller
    fitting = replace(job, width=int(smaller[1]), height=int(smaller[2]), tiling=True, offload="sequential")
    assert fits(estimate(parts, fitting, GPU), 6 * 10**9)
    assert not fits(estimate(parts, replace(fitting, width=job.width, height=job.height), GPU), 6 * 10**9)
    assert "nothing here makes it fit" in refusal(Parts.of_base(TINY), replace(job, width=64, height=64), GPU, 10**8, name="x")
    at_home = refusal(parts, replace(job, dtype=torch.float32), CPU, 60 * 10**9, name="x")
    assert "bfloat16" in at_home and "offload" not in at_home
    poor = refusal(parts, replace(job, offload="model"), GPU, 80 * 10**9, name="x", host=8 * 10**9)
    assert "of main memory for offloading, and 8.0 GB are free" in poor


def test_this_machine_has_memory() -> None:
    assert 10**8 < available_bytes(CPU) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with pytest.raises(ValueError, match="nobody says how much memory meta has"):
        available_bytes(torch.device("meta"))


def test_jobs_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="offload is 'disk': give none, model or sequential"):
        Job(width=64, height=64, pictures=5, offload="disk")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pictures is 0"):
        Job(width=64, height=64, pictures=0)
