"""How much memory a video model will need, known before any of its weights is read, and what to do where there is less.

Weights are counted (`sizes`). The activations of a step of the transformer are a formula, those of the VAE are what its code
makes on the meta device (`peak`). GB are 10^9 bytes. Counted are tensors; on top come a tenth of the activations for what an
allocator wastes and kernels use, and a fixed part for a graphics processor's own context: both are assumed, not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from vivavoce.nets.peak import peak_bytes
from vivavoce.nets.sizes import Parts, build
from vivavoce.nets.wan import Config

Offload = Literal["none", "model", "sequential"]

TEXT_TOKENS, IMAGE_TOKENS = 512, 257  # that Wan's pipelines give; the latter are CLIP's patches and its class
PROMPTS = 2  # that are encoded: what is wanted, and what is not
SLACK = 1.1
CONTEXT_BYTES = 600_000_000
GIGABYTE = 10**9
_STATES = 3  # latents after which the VAE's cache is full and every further one costs the same
_FLOAT32 = torch.float32.itemsize


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked of a model: pictures of a size (px); ``terms`` of guidance computed at once (the batch); how it is loaded.

    ``offload``: none (everything on the device), model (only the network that is at work) or sequential (only the block that
    is at work and the next one). ``tiling``: the VAE works tile by tile.
    """

    width: int
    height: int
    pictures: int
    terms: int = 1
    dtype: torch.dtype = torch.bfloat16
    vae_dtype: torch.dtype = torch.float32
    tiling: bool = False
    offload: Offload = "none"

    def __post_init__(self) -> None:
        if self.offload not in ("none", "model", "sequential"):
            raise ValueError(f"offload is {self.offload!r}: give none, model or sequential")
        for name in ("width", "height", "pictures", "terms"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} is {vars(self)[name]}: give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes. ``weights`` of every network; ``activations`` of every stage of the work; ``peak``: the most that is on the device
    at once; ``host``: what waits in main memory meanwhile."""

    weights: dict[str, int]
    activations: dict[str, int]
    peak: int
    host: int


def latent_size(parts: Parts, job: Job) -> tuple[int, int, int]:
    """(latents, rows, columns) of a job: 1 + n k pictures are 1 + k latents."""
    vae = parts.vae.config
    stride, spatial = vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)
    return 1 + ceil((job.pictures - 1) / stride), ceil(job.height / spatial), ceil(job.width / spatial)


def step_bytes(config: Config, tokens: int, *, terms: int, dtype: torch.dtype) -> int:
    """Activations of one step of WanTransformer3DModel without gradients, at its worst moment.

    Per token and channel of the width d, in bytes, e of a number, f the feed-forward's width over d, m = 24 (six float32
    modulations) where each token has its own time (models whose condition is a clean frame, in_channels = out_channels), else 0:

        through all blocks   7 e where m > 0 (the time's embedding and its six projections)
        modulation           e + m + (m again where e < 4: the same in float32)
        norms                m + 5 e + (12 where e < 4: in float32)
        attention            m + 7.5 e  (residual, its norm, q, k, v, and the turned q or k with its halves; fused, so linear)
        feed-forward         m + 4 e + 2 f e  (residuals and norm, and the wide layer before and after its gelu)

    the first and the worst of the others add up. Times terms and tokens; and (text tokens) (text_dim + d) e for each term, and
    the same for an image's. LoRA, injections and the speech encoder are not in it.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    e, wide = dtype.itemsize, config["ffn_dim"] / width
    own_times = config["in_channels"] == config["out_channels"]
    m, kept = (24, 7 * e) if own_times else (0, 0)
    low = e < _FLOAT32
    worst = max(e + m * (1 + low), m + 5 * e + 12 * low, m + 7.5 * e, m + 4 * e + 2 * wide * e)
    seen = TEXT_TOKENS * (config["text_dim"] + width)
    if config.get("image_dim"):
        seen += IMAGE_TOKENS * (config["image_dim"] + width)
    return int(terms * (tokens * width * (kept + worst) + seen * e))


def tokens_of(parts: Parts, job: Job) -> int:
    """Of the transformer, for a job."""
    sizes = zip(latent_size(parts, job), parts.transformer.config["patch_size"], strict=True)
    (t, rows, columns) = (ceil(latents / patch) for latents, patch in sizes)
    return t * rows * columns


def decode_bytes(parts: Parts, job: Job) -> int:
    """Activations of the VAE's decoder for a whole clip: those of a latent once its cache is full, and the pictures so far."""
    latents, rows, columns = latent_size(parts, job)
    e = job.vae_dtype.itemsize
    pictures = 3 * job.width * job.height * job.pictures * e
    tile = _tile(parts.vae.config, job)
    if tile is None or (rows <= tile[0] and columns <= tile[1]):
        first = min(latents, _STATES)
        done = 3 * job.width * job.height * (job.pictures - 1) * e * (latents - first) // max(latents - 1, 1)
        return max(_vae_bytes("decode", parts.vae.config, first, rows, columns, job.vae_dtype) + done, 2 * pictures)
    overlap = _overlap(rows, tile[0], tile[2]) * _overlap(columns, tile[1], tile[2])
    one = _vae_bytes("decode", parts.vae.config, min(latents, _STATES), *tile[:2], job.vae_dtype)
    # Tiles wait until all are there; then rows are joined, joined again, and clamped.
    return int(max(one + overlap * pictures, (overlap + 3) * pictures))


def encode_bytes(parts: Parts, job: Job) -> int:
    """Activations of the VAE's encoder: of the reference picture, or of a whole clip for models that see one (in_channels above
    out_channels), with the pictures themselves."""
    latents, rows, columns = latent_size(parts, job)
    transformer, vae = parts.transformer.config, parts.vae.config
    whole = transformer["in_channels"] != transformer["out_channels"]
    first = min(latents, _STATES) if whole else 1
    pictures = 3 * job.width * job.height * (job.pictures if whole else 1) * job.vae_dtype.itemsize
    tile = _tile(vae, job)
    if tile is not None:
        rows, columns = min(rows, tile[0]), min(columns, tile[1])
    return _vae_bytes("encode", vae, first, rows, columns, job.vae_dtype) + pictures * (2 if vae.get("patch_size") else 1)


def text_bytes(config: Config, dtype: torch.dtype) -> int:
    """Activations of a UMT5 layer: residuals, projections and the gated layer of all tokens, and scores of all pairs, which this
    network does not fuse (it adds a bias to them)."""
    e = dtype.itemsize
    tokens = TEXT_TOKENS * (8 * config["d_model"] + 3 * config["d_ff"]) * e
    return PROMPTS * (tokens + config["num_heads"] * TEXT_TOKENS**2 * (2 * e + _FLOAT32))


def estimate(parts: Parts, job: Job, device: torch.device) -> Estimate:
    """What a job needs on a device. On the processor everything is in main memory, so offloading changes nothing."""
    named = parts.named()
    stages = {
        "text": (("text_encoder",), text_bytes(parts.text_encoder.config, job.dtype) if parts.text_encoder else 0),
        "encode": (("vae", "image_encoder"), encode_bytes(parts, job)),
        "step": (
            ("transformer", "adapter"),
            step_bytes(parts.transformer.config, tokens_of(parts, job), terms=job.terms, dtype=job.dtype),
        ),
        "decode": (("vae",), decode_bytes(parts, job)),
    }

    def dtype(name: str) -> torch.dtype:
        return job.vae_dtype if name == "vae" else job.dtype

    weights = {name: part.bytes_as(dtype(name)) for name, part in named.items()}
    on_processor = device.type == "cpu"
    offload = "none" if on_processor else job.offload

    def there(names: tuple[str, ...]) -> int:
        if offload == "none":
            return sum(weights.values())
        if offload == "model":
            return sum(weights.get(name, 0) for name in names)
        return sum(named[name].largest_pair(dtype(name)) for name in names if name in named)

    peak = max(there(names) + int(SLACK * activations) for names, activations in stages.values())
    return Estimate(
        weights=weights, activations={stage: activations for stage, (_, activations) in stages.items()},
        peak=peak + (0 if on_processor else CONTEXT_BYTES), host=0 if offload == "none" else sum(weights.values()),
    )


def available_bytes(device: torch.device) -> int:
    """Memory that is free: of a graphics processor as its driver says, of this machine as the kernel says (and the limit of the
    container that this runs in). ValueError for other devices."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        raise ValueError(f"nobody says how much memory {device} has: give a device of type cuda or cpu")
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024  # the kernel's kB are of 1024 bytes
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (bound := limit.read_text().strip()) != "max":
        free = min(free, max(0, int(bound) - int(used.read_text())))
    return free


def fits(needed: Estimate, available: int, host: int | None = None) -> bool:
    """Whether it fits into ``available`` bytes of the device and, where asked, ``host`` bytes of main memory."""
    return needed.peak <= available and (host is None or needed.host <= host)


def refusal(parts: Parts, job: Job, device: torch.device, available: int, *, name: str, host: int | None = None) -> str:
    """The sentence for a job that does not fit: what was needed, what there is, and which changes would make it fit."""
    needed = estimate(parts, job, device)
    assert not fits(needed, available, host), "a job that fits is not refused"
    size = f"{job.width}x{job.height} and {job.pictures} pictures"
    there = f"{name} at {size} needs about {_gb(needed.peak)} on {device}, which has {_gb(available)} free"
    if needed.peak <= available and host is not None and needed.host > host:
        there = f"{name} at {size} needs about {_gb(needed.host)} of main memory for offloading, and {_gb(host)} are free"
    ways, smallest = [], (needed.peak, job, "")
    for count, words, changed in _changes(job, device):
        now = estimate(parts, changed, device)
        smallest = min(smallest, (now.peak, changed, words), key=lambda item: item[0])
        if fits(now, available, host):
            ways.append((count, f"{words} ({_gb(now.peak)})"))
    if ways:
        fewest = min(count for count, _ in ways)
        return f"{there}: {', or '.join(text for count, text in ways if count == fewest)} would fit"
    least, best, words = smallest
    within = f" with {words}" if words else ""
    for part in range(15, 1, -1):
        smaller = replace(best, width=_side(job.width * part / 16), height=_side(job.height * part / 16))
        if fits(now := estimate(parts, smaller, device), available, host):
            return f"{there}: at most {smaller.width}x{smaller.height}{within} would fit ({_gb(now.peak)})"
    return f"{there}: nothing here makes it fit, at this size {_gb(least)} is the least{within}; use a smaller model or a larger device"


def _changes(job: Job, device: torch.device) -> Iterator[tuple[int, str, Job]]:
    """Ways to need less, the fewest changes first: (how many, in words, the job)."""
    options: list[tuple[str, dict[str, Any]]] = []
    if job.dtype.itemsize == _FLOAT32:
        options.append(("bfloat16", {"dtype": torch.bfloat16}))
    if not job.tiling:
        options.append(("VAE tiling", {"tiling": True}))
    if device.type != "cpu":
        more = {"none": ("model", "sequential"), "model": ("sequential",), "sequential": ()}[job.offload]
        options += [(f"offload {mode}", {"offload": mode}) for mode in more]
    for count in range(1, len(options) + 1):
        for chosen in combinations(options, count):
            keys = [key for _, change in chosen for key in change]
            if len(keys) == len(set(keys)):
                changes = {key: value for _, change in chosen for key, value in change.items()}
                yield count, " and ".join(words for words, _ in chosen), replace(job, **changes)


def _side(length: float) -> int:
    return max(32, int(length) // 32 * 32)


def _gb(count: int) -> str:
    return f"{count / GIGABYTE:.1f} GB"


def _tile(config: Config, job: Job) -> tuple[int, int, int] | None:
    """(rows, columns, stride) in latents of diffusers' tiles, None without tiling."""
    if not job.tiling:
        return None
    vae, spatial = _built(json.dumps(dict(config)), job.vae_dtype), config.get("scale_factor_spatial", 8)
    sides = (vae.tile_sample_min_height, vae.tile_sample_min_width, vae.tile_sample_stride_height)
    rows, columns, stride = (side // spatial for side in sides)
    return rows, columns, stride


def _overlap(length: int, tile: int, stride: int) -> float:
    """Total length of overlapping tiles over the length that they cover."""
    return sum(min(tile, length - start) for start in range(0, length, stride)) / length


def _vae_bytes(way: str, config: Config, latents: int, rows: int, columns: int, dtype: torch.dtype) -> int:
    return _on_meta(way, json.dumps(dict(config)), latents, rows, columns, dtype)


@cache
def _built(config: str, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        return nn.Module.to(build("vae", json.loads(config)), dtype)  # diffusers' own `to` warns of modules that it does not have


@cache
def _on_meta(way: str, config: str, latents: int, rows: int, columns: int, dtype: torch.dtype) -> int:
    """Bytes alive at once when diffusers' own code runs on tensors without data."""
    vae, numbers = _built(config, dtype), json.loads(config)
    spatial, stride = numbers.get("scale_factor_spatial", 8), numbers.get("scale_factor_temporal", 4)
    with torch.device("meta"):
        if way == "decode":
            given = torch.empty(1, numbers["z_dim"], latents, rows, columns, dtype=dtype)
            return peak_bytes(lambda: vae.decode(given), held=[*vae.parameters(), given])
        given = torch.empty(1, 3, 1 + stride * (latents - 1), rows * spatial, columns * spatial, dtype=dtype)
        return peak_bytes(lambda: vae.encode(given), held=[*vae.parameters(), given])
