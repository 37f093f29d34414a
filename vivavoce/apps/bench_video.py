"""`vivavoce bench video`: a window of each base at its real size, with random weights, on the device that is there.

Weights don't change how long a step takes, so nothing is downloaded: networks are built on the device itself, in the precision
that they are used in. What is timed is what `animate --engine wan` does for its first window, without the text encoder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch

from vivavoce.animate_video import Progress
from vivavoce.apps.stages import peak
from vivavoce.components import module
from vivavoce.generate_video import VideoGenerator
from vivavoce.latent.prompts import STATES
from vivavoce.latent.video import VideoReference, VideoSpace
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.memory import GIGABYTE, IMAGE_TOKENS, Job, available_bytes, estimate, fits, refusal
from vivavoce.nets.redistribute import latent_frames
from vivavoce.nets.sizes import KEPT_FLOAT32, Parts, build
from vivavoce.nets.video import VideoTransformer
from vivavoce.nets.video_parts import PartsConfig
from vivavoce.nets.wan import BASES, Base
from vivavoce.speech.encoders import ANALYSIS, open_encoder
from vivavoce.video_scene import Scene, VideoWindows

SHORTEST = 17  # pictures
PUBLISHED = {"ReFree-S2V": (30.6, 0.7), "Sonic": (13.8, 0.8), "FantasyTalking": (36.1, 0.2), "Hallo3": (48.3, 0.1)}
"""Memory (GB) and frames per second, all as ReFree-S2V (arXiv 2606.13304) has them."""
TINY = Base(
    repository="none",
    transformer={
        "patch_size": (1, 2, 2), "attention_head_dim": 24, "text_dim": 32, "freq_dim": 32, "num_layers": 4,
        "num_attention_heads": 4, "ffn_dim": 256, "in_channels": 48, "out_channels": 48,
    },
    vae={**BASES["wan2.2-ti2v-5b"].vae, "base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": (1, 1, 2, 2)},
    text={"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2},
    width=128, height=128, pictures=17, fps=24.0,
)


def measure(
    device: torch.device, names: Sequence[str], steps: int, shape: tuple[int, int, int] | None, progress: Progress
) -> dict[str, Any]:
    """Figures by base. ValueError for bases that are not known here, or that a processor is too slow for."""
    module("diffusers")
    if steps < 2:
        raise ValueError(f"{steps} steps were to be timed: give 2 or more, as the first one takes longer")
    if shape is not None and (shape[2] < SHORTEST or shape[2] % 4 != 1):
        raise ValueError(f"{shape[2]} pictures were asked for: give 4k + 1, and {SHORTEST} at least")
    if unknown := sorted(set(names) - set(BASES)):
        raise ValueError(f"there is no base {unknown[0]!r}: give some of {', '.join(BASES)}")
    if device.type == "cpu" and names:
        raise ValueError(f"{names[0]} needs a GPU: leave --bases out to measure a tiny base on this processor")
    chosen = {"tiny": TINY} if device.type == "cpu" else {name: BASES[name] for name in names or BASES}
    result: dict[str, Any] = {
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device), "solver_steps": VideoWindows().steps,
        "bases": {}, "published": {name: {"gb": gb, "frames_per_second": fps} for name, (gb, fps) in PUBLISHED.items()},
    }
    for i, (name, base) in enumerate(chosen.items()):
        progress("measuring", i, len(chosen))
        if shape is not None:
            base = replace(base, width=shape[0], height=shape[1], pictures=shape[2])
        result["bases"][name] = _measured(name, base, device, steps)
    progress("measuring", len(chosen), len(chosen))
    return result


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{'':22}{'picture':>12}{'pictures':>10}{'step, s':>10}{'decode, s':>11}{'memory, GB':>12}{'frames/s':>10}"]
    for name, found in result["bases"].items():
        if "refused" in found:
            lines.append(f"{name:22}{found['refused']}")
            continue
        lines.append(
            f"{name:22}{found['width']:>6} x{found['height']:>4}{found['pictures']:>10}{found['step_seconds']:>10.3f}"
            f"{found['decode_seconds']:>11.2f}{found['peak_gb']:>12.1f}{found['frames_per_second']:>10.2f}"
        )
    for name, found in result["published"].items():
        lines.append(f"{name + ' (published)':55}{'':10}{found['gb']:>12.1f}{found['frames_per_second']:>10.2f}")
    lines.append(
        f"on {result['device']}; random weights; frames/s at {result['solver_steps']} steps, guided by text and speech at once; "
        f"published figures are ReFree-S2V's (arXiv 2606.13304), of other hardware and sizes"
    )
    if "tiny" in result["bases"]:
        lines.append("no GPU was used: this is a tiny base, which says nothing about the real ones")
    return "\n".join(lines)


def _measured(name: str, base: Base, device: torch.device, steps: int) -> dict[str, Any]:
    """One base. A dictionary with "refused" where it does not fit."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    windows = VideoWindows(latents=latent_frames(base.pictures), steps=steps)
    job = Job(width=base.width, height=base.height, pictures=base.pictures, terms=3, dtype=dtype)
    parts = replace(Parts.of_base(base), text_encoder=None, image_encoder=None)
    available = available_bytes(device)
    needed = estimate(parts, job, device)
    if not fits(needed, available):
        return {"refused": refusal(parts, job, device, available, name=name)}
    net, space = _network(base, device, dtype), _space(base, device)
    encoder = open_encoder(ANALYSIS)
    speech = torch.randn(2 * base.pictures, encoder.spec.width)
    generator = VideoGenerator(net, windows, silence=torch.zeros(encoder.spec.width), space=space, device=device)
    scene, marks = _scene(base, space), [time.perf_counter()]

    def mark(_done: int, _total: int | None) -> None:
        _wait(device)
        marks.append(time.perf_counter())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    latents = generator.whole([speech], scene, seed=0, progress=mark)
    step = median(after - before for before, after in pairwise(marks[1:]))
    began = time.perf_counter()
    space.decode(latents, space.start())
    decode = time.perf_counter() - began
    used = peak() * 2**20 if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    seconds = step * VideoWindows().steps + decode
    del net, space, generator, scene, latents
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        "width": base.width, "height": base.height, "pictures": base.pictures, "step_seconds": step, "decode_seconds": decode,
        "first_step_seconds": marks[1] - marks[0], "peak_gb": used / GIGABYTE, "estimated_gb": needed.peak / GIGABYTE,
        "frames_per_second": base.pictures / seconds,
    }


def _network(base: Base, device: torch.device, dtype: torch.dtype) -> VideoTransformer:
    """The base with random weights, made where it works, and ears of the size that `train video` gives them."""
    with torch.device(device), _default(dtype):
        transformer = build("transformer", base.transformer)
    for name, weight in (*transformer.named_parameters(), *transformer.named_buffers()):
        if set(name.split(".")) & set(KEPT_FLOAT32):
            weight.data = weight.data.float()  # as diffusers loads them
    streams = dict(open_encoder(ANALYSIS).spec.streams)
    parts = PartsConfig(levels=LevelsConfig(streams=streams, listen=tuple(streams)))
    net = VideoTransformer(transformer.eval(), VideoTransformer.Config(parts=parts))  # type: ignore[arg-type]
    net.own.to(device, dtype)
    return net


def _space(base: Base, device: torch.device) -> VideoSpace:
    with torch.device(device):
        vae = build("vae", base.vae).eval().requires_grad_(False)
    return VideoSpace(vae, height=base.height, width=base.width, fps=base.fps)


def _scene(base: Base, space: VideoSpace) -> Scene:
    """Noise for the encoders' answers, and for a portrait."""
    picture = np.random.default_rng(0).integers(0, 256, (base.height, base.width, 3), np.uint8)
    text, width = torch.randn(2, STATES, base.transformer["text_dim"]), base.transformer.get("image_dim")
    return Scene(
        event=space.spec.event, text=text[:1], no_text=text[1:],
        reference=VideoReference(picture=picture, latent=space.encode([picture])),
        image=None if width is None else torch.randn(1, IMAGE_TOKENS, width),
    )


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Parameters are made in that precision meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
