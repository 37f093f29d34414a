"""A tiny video autoencoder of the Wan family, trained on recordings: 128 px, in the format of diffusers' AutoencoderKLWan.

It has what makes the 2.2 kind quick (pictures in patches of 2 x 2, residual shortcuts) and the latents of the 2.1 kind (8 times
smaller in space and 4 times in time, 16 channels), with few channels within, so that a CPU trains it: the 2.2 kind's 16 times
learned more slowly (docs/log.md). No downloaded network judges its pictures: weighted L1 at several scales, gradients, and a
small divergence from the normal distribution. diffusers is needed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vivavoce.components import load_part, module
from vivavoce.latent.topology import LIPS, OVAL
from vivavoce.train.data import Progress
from vivavoce.train.loop import Run, Schedule, claim, digest, mixed_precision, stamp_of
from vivavoce.train.muon import Muon
from vivavoce.train.video_clips import ClipSampler, VideoClip

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

FILES, TOLD = ("vae.pt", "vae"), "vae-run.json"  # what a run leaves in its folder
Pictures = Float[Tensor, "b 3 t h w"]  # -1 to 1, as diffusers lays them out
_PATCH = 2
_FIRST_LOG_VARIANCE = -6.0
_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE = -30.0, 20.0  # as diffusers clamps them


@dataclass(frozen=True, kw_only=True)
class VAEShape:
    """The sizes of the network. ``width``: channels at half the pictures' resolution; ``multiples``: how many times as many the
    levels have, each of half the resolution of the one before it. ``temporal``: whether time is halved below a level too.

    At 24 and 32, torch 2.13 crashes on CPUs with AMX in the gradient of a bfloat16 convolution (1 x 1 x 1, 48 to 24 or 64 to 32
    channels, one picture of 64 x 64): the shipped one has 16.
    """

    width: int = 16
    multiples: tuple[int, ...] = (1, 2, 2)
    temporal: tuple[bool, ...] = (True, True)
    blocks: int = 1
    channels: int = 16

    def __post_init__(self) -> None:
        if sum(self.temporal) != 2 or len(self.temporal) != len(self.multiples) - 1:
            raise ValueError(
                f"{len(self.multiples)} levels halve time as {self.temporal} say: name each but the last, two of them true"
            )

    def build(self) -> AutoencoderKLWan:
        """A new network, its latents not normalised yet. Residual branches begin at zero, and latents are drawn with little
        noise, which would drown what they say at first."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

        vae = AutoencoderKLWan(
            base_dim=self.width, decoder_base_dim=self.width, z_dim=self.channels, dim_mult=list(self.multiples),
            num_res_blocks=self.blocks, temperal_downsample=list(self.temporal), is_residual=True, in_channels=3 * _PATCH**2,
            out_channels=3 * _PATCH**2, patch_size=_PATCH, scale_factor_temporal=4,
            scale_factor_spatial=_PATCH * 2 ** len(self.temporal), latents_mean=[0.0] * self.channels,
            latents_std=[1.0] * self.channels,
        )
        with torch.no_grad():
            for name, weight in vae.named_parameters():
                if ".conv2." in name:
                    weight.zero_()
            vae.quant_conv.weight[self.channels :] = 0
            vae.quant_conv.bias[self.channels :] = _FIRST_LOG_VARIANCE
        return vae


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps that look at windows of ``side`` px (None: whole pictures) and ``frames`` pictures, ``batch`` of them.

    ``share``: of all steps.
    """

    share: float
    side: int | None
    frames: int
    batch: int

    def __post_init__(self) -> None:
        if self.frames % 4 != 1:
            raise ValueError(f"windows of {self.frames} pictures were asked for: give one more than a multiple of 4, such as 9")


@dataclass(frozen=True, kw_only=True)
class VideoVAERecipe:
    """How the autoencoder is trained; for how the shipped one was, see its card.

    ``out``: checkpoint, log and, in the end, the folder ``vae``; a second call goes on where the first one stopped. Small
    windows, mostly of mouths, come first, because it is steps that count then; longer clips later: latents that follow more
    others than it ever saw come back in wrong colours.
    ``divergence_weight``: of the mean over latents, in nats.
    ``decoder_of``: the folder of a finished autoencoder, of which only the decoder goes on learning (`lengthened`), so that its
    latents stay what they are.
    """

    out: Path
    decoder_of: Path | None = None
    steps: int = 3000
    stages: tuple[Stage, ...] = (
        Stage(share=0.25, side=64, frames=5, batch=4), Stage(share=0.3, side=64, frames=9, batch=4),
        Stage(share=0.2, side=64, frames=17, batch=3), Stage(share=0.15, side=None, frames=17, batch=1),
        Stage(share=0.1, side=None, frames=41, batch=1),
    )
    shape: VAEShape = VAEShape()
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.01
    ema: float = 0.998
    gradient_weight: float = 1.0
    divergence_weight: float = 3e-4
    lips_weight: float = 5.0
    face_weight: float = 1.0
    mouths: float = 0.6  # share of the small windows that show the mouth
    person_power: float = 0.4
    checkpoint_seconds: float = 300.0
    statistics: int = 200  # windows that latents are normalised by
    seed: int = 0

    def __post_init__(self) -> None:
        if abs(sum(stage.share for stage in self.stages) - 1) > 1e-6:
            raise ValueError(f"the stages' shares sum up to {sum(s.share for s in self.stages):g}: they have to be 1 together")

    def lengthened(self, folder: Path) -> VideoVAERecipe:
        """How a finished autoencoder's decoder learns from long windows, most of which no first picture reaches any more: of
        these the recipe's own stages see too few, and white turns yellow after a second (docs/log.md)."""
        return replace(
            self, decoder_of=folder, steps=200, stages=(Stage(share=1.0, side=64, frames=61, batch=1),), learning_rate=5e-4,
            warmup=20, ema=0.98,
        )

    def stage(self, step: int) -> Stage:
        """What the step learns from."""
        begun = 0.0
        for stage in self.stages:
            begun += stage.share
            if step < round(begun * self.steps):
                return stage
        return self.stages[-1]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``weight``: how much each pixel counts; 1 on average."""

    pictures: Pictures
    weight: Float[Tensor, "b 1 t h w"]


def encode(vae: AutoencoderKLWan, pictures: Pictures) -> tuple[Float[Tensor, "b c k h w"], Float[Tensor, "b c k h w"]]:
    """Mean and log variance of the latents, as ``vae.encode`` finds them, in two passes: the first picture and all the others.

    diffusers goes by four pictures, which saves memory; that these passes are equal is a test.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    vae.clear_cache()
    patches = patchify(pictures, vae.config["patch_size"])
    found = []
    for part in (patches[:, :, :1], patches[:, :, 1:]):
        if part.shape[2]:
            vae._enc_conv_idx = [0]
            found.append(vae.encoder(part, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    mean, log_variance = vae.quant_conv(torch.cat(found, 2)).float().chunk(2, dim=1)
    vae.clear_cache()
    return mean, log_variance.clamp(_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE)


def decode(vae: AutoencoderKLWan, latents: Float[Tensor, "b c k h w"]) -> Pictures:
    """The pictures, as ``vae.decode`` finds them, but not clamped: what is out of range still has a gradient."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    vae.clear_cache()
    latents = vae.post_quant_conv(latents)
    found = []
    for first, part in ((True, latents[:, :, :1]), (False, latents[:, :, 1:])):
        if part.shape[2]:
            vae._conv_idx = [0]
            found.append(vae.decoder(part, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=first))
    vae.clear_cache()
    return unpatchify(torch.cat(found, 2), vae.config["patch_size"]).float()


def as_pictures(pictures: UInt8[np.ndarray, "t h w 3"]) -> Float[Tensor, "1 3 t h w"]:
    """8-bit pictures as the network takes them."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def as_bytes(pictures: Float[Tensor, "1 3 t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    """What the network gives as 8-bit pictures."""
    return ((pictures[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().numpy()


def weights_of(points: Float[np.ndarray, "478 3"], side: int, recipe: VideoVAERecipe) -> Float[np.ndarray, "s s"]:
    """How much each pixel of a picture counts: 1, more in the face, most on the lips and a little around them."""
    weight = np.ones((side, side), np.float32)
    lips = points[LIPS, :2]
    around = lips.mean(0) + 1.3 * (lips - lips.mean(0))
    for ring, extra in ((points[OVAL, :2], recipe.face_weight), (around, recipe.lips_weight)):
        mask = np.zeros((side, side), np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(ring.round().astype(np.int32)), 1)
        weight += extra * mask
    return cv2.blur(weight, (5, 5))


def draw_batch(sampler: ClipSampler, stage: Stage, recipe: VideoVAERecipe, rng: np.random.Generator) -> Batch:
    """Windows of clips in other light and size, half of them mirrored."""
    pictures, weights = [], []
    for _ in range(stage.batch):
        clip, window = sampler.draw(rng)
        frames, points = varied(clip.pictures[window], clip.points[window], rng)
        side = clip.side
        weight = np.stack([weights_of(p, side, recipe) for p in points])
        rows, columns = window_of(points, side, stage.side, recipe.mouths, rng)
        pictures.append(as_pictures(relit(frames[:, rows, columns], rng)))
        weights.append(torch.from_numpy(weight[:, rows, columns])[None, None])
    weight = torch.cat(weights)
    return Batch(pictures=torch.cat(pictures), weight=weight / weight.mean())


def varied(
    pictures: UInt8[np.ndarray, "t s s 3"], points: Float[np.ndarray, "t 478 3"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "t s s 3"], Float[np.ndarray, "t 478 3"]]:
    """The same faces, half of them mirrored, half turned, enlarged and shifted a little: all pictures alike."""
    side, points = pictures.shape[1], np.array(points)
    if rng.random() < 0.5:
        pictures, points[..., 0] = pictures[:, :, ::-1], side - points[..., 0]
    if rng.random() < 0.5:
        turn, grow, shift = np.deg2rad(rng.uniform(-8, 8)), np.exp(rng.uniform(-0.1, 0.25)), rng.uniform(-0.06, 0.06, 2) * side
        rotation = grow * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        middle = np.full(2, side / 2)
        place = middle + shift - rotation @ middle
        points[..., :2] = points[..., :2] @ rotation.T + place
        # Landmarks count from the picture's edge, OpenCV from the first pixel's centre.
        matrix = np.concatenate([rotation, (place + rotation @ np.full(2, 0.5) - 0.5)[:, None]], 1)
        pictures = np.stack([
            cv2.warpAffine(np.ascontiguousarray(p), matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for p in pictures
        ])
    return pictures, points


def window_of(
    points: Float[np.ndarray, "t 478 3"], side: int, small: int | None, mouths: float, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Rows and columns of a window ``small`` px wide: anywhere, or somewhere around the mouth. None: all."""
    if small is None or small >= side:
        return slice(0, side), slice(0, side)
    x, y = rng.integers(0, side - small + 1, 2).tolist()
    if rng.random() < mouths:
        corner = points[:, LIPS, :2].mean((0, 1)) - small / 2 + rng.uniform(-0.2, 0.2, 2) * small
        x, y = np.clip(corner.round(), 0, side - small).astype(int).tolist()
    return slice(y, y + small), slice(x, x + small)


def relit(pictures: UInt8[np.ndarray, "t h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
    """The same faces in other light and other film: all pictures alike."""
    if rng.random() < 0.3:
        return pictures
    table = (np.arange(256) / 255) ** np.exp(rng.uniform(-0.35, 0.35))
    gain = np.exp(rng.uniform(-0.2, 0.12)) * np.exp(rng.uniform(-0.12, 0.12, 3))
    light = table[pictures] * gain
    grey = light.mean(-1, keepdims=True)
    return (255 * np.clip(grey + rng.uniform(0.5, 1.3) * (light - grey), 0, 1)).round().astype(np.uint8)


def picture_loss(made: Pictures, batch: Batch, recipe: VideoVAERecipe) -> Tensor:
    """Weighted L1 at three scales in space, and of the differences of neighbouring pixels and pictures."""
    truth, weight, loss = batch.pictures, batch.weight, made.new_zeros(())
    error = made - truth
    across, along, later = (weight * F.pad(error.diff(dim=d).abs(), pad) for d, pad in ((-1, (0, 1)), (-2, (0, 0, 0, 1)),
                                                                                       (-3, (0, 0, 0, 0, 0, 1))))
    for _ in range(3):
        loss = loss + (weight * error.abs()).mean()
        error, weight = (F.avg_pool3d(v, (1, 2, 2)) for v in (error, weight))
    return loss + recipe.gradient_weight * (across.mean() + along.mean() + 0.5 * later.mean())


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over latents of KL(N(mean, variance) || N(0, 1)) = (mean^2 + variance - 1 - log variance) / 2, nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def identity_of(recipe: VideoVAERecipe) -> dict[str, Any]:
    """What tells a run from others, as far as it is known before its clips are, for `loop.check_claim`."""
    begins = None
    if recipe.decoder_of is not None:
        begins = digest(np.fromfile(file, np.uint8) for file in sorted(recipe.decoder_of.glob("*.safetensors")))
    return stamp_of("train video-vae", recipe, free=("checkpoint_seconds", "decoder_of"), begins=begins)


def train_video_vae(
    recipe: VideoVAERecipe, clips: list[VideoClip], progress: Progress, say: Callable[[str], None]
) -> Path:
    """Trains, or goes on; writes and returns the folder ``out/vae``, which `AutoencoderKLWan.from_pretrained` reads. ValueError,
    and nothing is touched, where the folder is another run's."""
    learned = digest(f"{c.name} {c.person} {c.first} {len(c)} {c.side}" for c in clips)
    claim(recipe.out, {**identity_of(recipe), "clips": learned}, FILES, TOLD)
    torch.manual_seed(recipe.seed)
    net = _begun(recipe)
    schedule = Schedule(steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, ema=recipe.ema)
    optimiser = Muon(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    run = Run(net, schedule, recipe.out / "vae.pt", optimiser=optimiser)
    if run.restore():
        say(f"going on at step {run.step}")
    samplers = {stage.frames: ClipSampler(clips, stage.frames, recipe.person_power) for stage in recipe.stages}
    began = saved = time.monotonic()
    while not run.done:
        stage, rng = recipe.stage(run.step), np.random.default_rng([recipe.seed, run.step])
        losses = _step(run, draw_batch(samplers[stage.frames], stage, recipe, rng), recipe)
        if run.step % 20 == 0 or run.done:
            row = {"step": run.step, "seconds": round(time.monotonic() - began, 1), **losses}
            with (recipe.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if time.monotonic() - saved > recipe.checkpoint_seconds or run.done:
            run.save()
            saved = time.monotonic()
        progress("training", run.step, recipe.steps)
    return save(run.averaged(), recipe, samplers[recipe.stages[-1].frames])


def _begun(recipe: VideoVAERecipe) -> AutoencoderKLWan:
    """What a run begins with."""
    if recipe.decoder_of is None:
        return recipe.shape.build()
    kind = module("diffusers").AutoencoderKLWan
    found = load_part(kind, recipe.decoder_of.parent, recipe.decoder_of.name, dtype=torch.float32)
    net = kind.from_config({key: value for key, value in found.config.items() if not key.startswith("_")})  # not where it lay
    net.load_state_dict(found.state_dict())
    for part in (net.encoder, net.quant_conv):
        part.requires_grad_(False)
    return net.train()


def save(vae: AutoencoderKLWan, recipe: VideoVAERecipe, sampler: ClipSampler) -> Path:
    """The folder ``out/vae`` with the network in bfloat16, its configuration with the latents' statistics, and the recipe."""
    if recipe.decoder_of is None:
        mean, std = statistics(vae, sampler, recipe)
        vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    folder = recipe.out / "vae"
    vae.bfloat16().save_pretrained(folder)
    (recipe.out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1, default=str))
    return folder


@torch.no_grad()
def statistics(
    vae: AutoencoderKLWan, sampler: ClipSampler, recipe: VideoVAERecipe
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation of each channel of the latents, as drawn, over windows of the recordings as they are.

    As drawn, a channel that says nothing has a deviation of 1, so that normalising does not blow up what it does not say.
    """
    rng = np.random.default_rng([recipe.seed, 1])
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for _ in range(recipe.statistics):
        clip, window = sampler.draw(rng)
        mean, log_variance = (v.transpose(0, 1).flatten(1) for v in encode(vae, as_pictures(clip.pictures[window])))
        total = total + mean.double().sum(1)
        squares = squares + (mean.double().square() + log_variance.double().exp()).sum(1)
        count += mean.shape[1]
    middle = total / count
    return middle.float(), (squares / count - middle.square()).sqrt().float()


def _step(run: Run[AutoencoderKLWan], batch: Batch, recipe: VideoVAERecipe) -> dict[str, float]:
    noise = torch.Generator().manual_seed(recipe.seed * 1_000_003 + run.step)
    with mixed_precision():
        mean, log_variance = encode(run.net, batch.pictures)
        drawn = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=noise)
        made = decode(run.net, drawn)
    pictures, apart = picture_loss(made, batch, recipe), divergence(mean, log_variance)
    run.update(pictures + recipe.divergence_weight * apart)
    absolute = (made - batch.pictures).detach().abs().mean()
    return {"pictures": float(pictures.detach()), "l1": float(absolute), "divergence": float(apart.detach())}
