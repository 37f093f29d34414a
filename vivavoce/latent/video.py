"""VideoSpace: the causal video autoencoder of Wan 2.1 and 2.2 as a latent space (diffusers' AutoencoderKLWan, extra ``video``).

Encoder and decoder are causal: their convolutions see the picture or latent at hand and features of the two before it. diffusers
keeps those features in the autoencoder, so that one clip at a time can be in it, and whole. Here they are a value that the caller
holds, and clips of any length go through in constant memory, any number of them side by side through one autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vivavoce.components import load_part, module
from vivavoce.latent.framing import chosen_face, cut, face_if_any, window
from vivavoce.latent.space import Frame, LatentSpec
from vivavoce.latent.tiles import Tile, Tiling, grid, join
from vivavoce.media.portrait import Portrait

COLOURS = 3
Cache = tuple[Any, ...]  # one tile's features, per causal convolution: a tensor, or diffusers' marks for "none" and "one so far"
Frames = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True, kw_only=True)
class VideoReference:
    """A portrait as the space shows it. ``picture``: of the space's size. ``latent``: of that as a still."""

    picture: Frame
    latent: Float[Tensor, "1 1 c h w"]


@dataclass(frozen=True, kw_only=True)
class EncoderState:
    """What encoding remembers of one clip. Never changed, so one may go on from it again and again.

    ``caches``: features per tile. ``latents``: how many there are so far. ``waiting``: pictures that are no whole latent yet.
    """

    caches: tuple[Cache, ...] = ()
    latents: int = 0
    waiting: tuple[Frame, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DecoderState:
    """What decoding remembers of one clip. Never changed, so one may go on from it again and again.

    ``caches``: features per tile; for 480 x 480 px in single precision 2.2 GB with Wan 2.1 and 1.6 GB with 2.2, however long the
    clip. ``latents``: how many were decoded so far.
    """

    caches: tuple[Cache, ...] = ()
    latents: int = 0


class VideoSpace:
    """Pictures of one size to and from normalised latents, (z - mean) / deviation with the autoencoder's own statistics, as
    diffusers' Wan pipelines have them. Holds constants only; `at` is the same for another size.

    ``tiling``: for pictures that are too large to go through whole. Each tile keeps its own features, so a clip streams through
    tiles as it does without, and any chunking gives what diffusers gives for the whole clip in tiles of that size. (Its encoder
    counts a tile's px in patches where the autoencoder has them: such tiles are that much larger.) Slicing needs no switch: one
    clip goes through at a time.
    """

    def __init__(self, vae: Any, *, height: int, width: int, fps: float, tiling: Tiling | None = None):
        """``vae``: an AutoencoderKLWan, used where and as it is. ``fps``: of the pictures."""
        config = vae.config
        self.vae, self.height, self.width, self.tiling = vae, height, width, tiling
        self._patch = config.patch_size or 1
        self._shrink = 2 ** (len(config.dim_mult) - 1)  # what the encoder does to its input, patches or pixels
        factor, stride = self._shrink * self._patch, 2 ** sum(config.temperal_downsample)
        _check_config(config, factor, stride)
        for px, side in ((height, "height"), (width, "width")):
            if px < factor or px % factor:
                low = max(1, px // factor) * factor
                raise ValueError(f"a {side} of {px} px was asked for: give a multiple of {factor}, like {low} or {low + factor}")
        if tiling and (tiling.side % factor or tiling.stride % factor):
            raise ValueError(f"tiles of {tiling.side} px every {tiling.stride} px were asked for: give multiples of {factor}")
        if not fps > 0:
            raise ValueError(f"{fps} pictures per second were asked for: give more than 0")
        event = (config.z_dim, height // factor, width // factor)
        self.spec = LatentSpec(event=event, rate_hz=fps / stride, stride=stride, first=1)
        self._mean, self._deviation = (torch.tensor(v)[:, None, None] for v in (config.latents_mean, config.latents_std))
        self._encoder_grid, self._decoder_grid = self._grids(factor)

    @classmethod
    def load(
        cls, base: str | Path, *, height: int, width: int, fps: float, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32, tiling: Tiling | None = None,
    ) -> VideoSpace:
        """The autoencoder in ``<base>/vae`` as diffusers saves pipelines, in a folder that is one, or of a pipeline's name on the
        hub. ValueError where the files are missing, damaged or of another kind. Half precision is for GPUs."""
        vae = load_part(module("diffusers").AutoencoderKLWan, base, "vae", dtype=dtype)
        return cls(vae.to(device), height=height, width=width, fps=fps, tiling=tiling)

    def at(self, height: int, width: int) -> VideoSpace:
        """The same autoencoder for pictures of another size."""
        return VideoSpace(self.vae, height=height, width=width, fps=self.spec.fps, tiling=self.tiling)

    def reference(self, portrait: Portrait, *, crop: float | None = None) -> VideoReference:
        """The portrait at the space's size and its latent: as much of it as fits, or so many sides of the face (`crop`).

        What doesn't fit is cut away round the face. ValueError where the face asked for isn't there; only a crop needs one.
        """
        face = face_if_any(portrait) if crop is None else chosen_face(portrait)
        low, size = window(face, portrait.image.shape, aspect=self.width / self.height, close=crop)
        picture = cut(portrait.image, low, size, height=self.height, width=self.width)
        return VideoReference(picture=picture, latent=self.encode([picture]))

    def start_encoding(self) -> EncoderState:
        return EncoderState()

    @torch.no_grad()
    def encode_more(
        self, frames: Iterable[Frame], state: EncoderState
    ) -> tuple[Float[Tensor, "1 t c h w"], EncoderState]:
        """The latents that are determined by further pictures of a clip: the posterior's mean. Pictures that make no whole latent
        wait in the state. Any chunking gives the same. ValueError where a picture is of another size."""
        parts, waiting = [torch.zeros(1, 0, *self.spec.event, device=self.vae.device)], list(state.waiting)
        for frame in frames:
            if frame.dtype != np.uint8 or frame.shape != (self.height, self.width, COLOURS):
                raise ValueError(
                    f"a picture of shape {frame.shape} and {frame.dtype} was given: give uint8 of "
                    f"({self.height}, {self.width}, {COLOURS}), or take the space `at` that size"
                )
            waiting.append(frame)
            if len(waiting) == (self.spec.stride if state.latents else self.spec.first):
                pictures = torch.from_numpy(np.stack(waiting)).to(self.vae.device).permute(3, 0, 1, 2)[None]
                latent, state = self._encode_one(2 * (pictures.float() / 255) - 1, state)
                parts.append(latent)
                waiting = []
        return torch.cat(parts, 1), replace(state, waiting=tuple(frame.copy() for frame in waiting))

    def encode(self, frames: Iterable[Frame]) -> Float[Tensor, "1 t c h w"]:
        """Latents of a whole clip. ValueError where it has no pictures, or not first + k stride of them."""
        latents, state = self.encode_more(frames, self.start_encoding())
        self.spec.latents(self.spec.pictures(state.latents) + len(state.waiting))
        if not state.latents:
            raise ValueError("the clip has no pictures: give one at least")
        return latents

    def opening(self, picture: Frame, latents: int, *, held: bool = False) -> Float[Tensor, "1 t c h w"]:
        """Latents of a clip that shows the picture first and mid-grey from then on, so many in all: how Wan 2.1's image-to-video
        networks are told of the picture (diffusers' condition latents). ``held``: the picture instead of grey."""
        return self.begun([picture], latents, held=held)

    @torch.no_grad()
    def begun(self, pictures: Sequence[Frame], latents: int, *, held: bool = False) -> Float[Tensor, "1 t c h w"]:
        """`opening` of a clip whose first pictures are known: first + k stride of them, or ValueError."""
        known, state = self.encode_more(pictures, self.start_encoding())
        self.spec.latents(self.spec.pictures(state.latents) + len(state.waiting))
        grey, parts = torch.zeros(1, COLOURS, self.spec.stride, self.height, self.width, device=self.vae.device), [known]
        for _ in range(latents - known.shape[1]):
            if held:
                latent, state = self.encode_more([pictures[-1]] * self.spec.stride, state)
            else:
                latent, state = self._encode_one(grey, state)
            parts.append(latent)
        return torch.cat(parts, 1)

    def start(self) -> DecoderState:
        return DecoderState()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "1 t c h w"], state: DecoderState) -> tuple[Frames, DecoderState]:
        """The pictures of further latents of a clip; its first latent is `LatentSpec.first` of them, others are `stride` each.

        Any chunking gives the same. What has to lie in memory at a time is the chunk's pictures and one latent's features.
        """
        parts = [np.zeros((0, self.height, self.width, COLOURS), np.uint8)]
        for latent in self._checked(latents):
            pictures, state = self._decode_one(latent, state)
            parts.append(((pictures[0] * 0.5 + 0.5) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(parts), state

    def decode_float(
        self, latents: Float[Tensor, "1 t c h w"], state: DecoderState
    ) -> tuple[Float[Tensor, "1 n 3 H W"], DecoderState]:
        """The same as numbers from -1 (black) to 1, before they are rounded; gradients reach the latents."""
        parts = [torch.zeros(1, 0, COLOURS, self.height, self.width, device=self.vae.device)]
        for latent in self._checked(latents):
            pictures, state = self._decode_one(latent, state)
            parts.append(pictures)
        return torch.cat(parts, 1), state

    def _checked(self, latents: Tensor) -> tuple[Float[Tensor, "1 c h w"], ...]:
        if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[2:] != self.spec.event:
            raise ValueError(f"latents of shape {tuple(latents.shape)} were given: give (1, t, {str(self.spec.event)[1:]}")
        return latents.to(self.vae.device).unbind(1)

    def _encode_one(
        self, pictures: Float[Tensor, "1 3 n H W"], state: EncoderState
    ) -> tuple[Float[Tensor, "1 1 c h w"], EncoderState]:
        patches = _patched(pictures.to(self.vae.dtype), self._patch)
        rows, caches = _tile_by_tile(self.vae.encoder, patches, self._encoder_grid, state.caches, {})
        rows = [[self.vae.quant_conv(tile)[:, : self.spec.event[0]] for tile in row] for row in rows]  # the rest is its variance
        tiling, (_, height, width) = self.tiling or Tiling(), self.spec.event
        side, stride = tiling.side // self._shrink, tiling.stride // self._shrink
        latent = join(rows, stride=stride, overlap=side - stride, height=height, width=width)[:, :, 0].float()
        normalised = (latent - self._mean.to(latent)) / self._deviation.to(latent)
        return normalised[:, None], replace(state, caches=caches, latents=state.latents + 1)

    def _decode_one(
        self, latent: Float[Tensor, "1 c h w"], state: DecoderState
    ) -> tuple[Float[Tensor, "1 n 3 H W"], DecoderState]:
        latent = latent.float()
        z = (latent * self._deviation.to(latent) + self._mean.to(latent)).to(self.vae.dtype)[:, :, None]
        first = {"first_chunk": state.latents == 0}  # its shortcuts would repeat the one picture
        rows, caches = _tile_by_tile(self.vae.decoder, self.vae.post_quant_conv(z), self._decoder_grid, state.caches, first)
        tiling, height, width = self.tiling or Tiling(), self.height // self._patch, self.width // self._patch
        side, stride = tiling.side // self._patch, tiling.stride // self._patch
        whole = join(rows, stride=stride, overlap=side - stride, height=height, width=width)
        pictures = _unpatched(whole, self._patch).float().clamp(-1, 1).transpose(1, 2)
        return pictures, replace(state, caches=caches, latents=state.latents + 1)

    def _grids(self, factor: int) -> tuple[list[list[Tile]], list[list[Tile]]]:
        """Tiles of the encoder's input, in its own px, and of latents."""
        _, h, w = self.spec.event
        height, width = h * self._shrink, w * self._shrink
        if self.tiling is None or max(self.height, self.width) <= self.tiling.side:
            return [[(slice(height), slice(width))]], [[(slice(h), slice(w))]]
        side, stride = self.tiling.side, self.tiling.stride
        return grid(height, width, side, stride), grid(h, w, side // factor, stride // factor)


def _tile_by_tile(
    net: Any, whole: Float[Tensor, "1 c t h w"], tiles: list[list[Tile]], caches: tuple[Cache, ...], options: dict[str, bool]
) -> tuple[list[list[Tensor]], tuple[Cache, ...]]:
    """What the encoder or decoder makes of each tile after the features in its cache, and the features after it."""
    if not caches:  # a place for every causal convolution
        blank = (None,) * sum(isinstance(layer, nn.Conv3d) for layer in net.modules())
        caches = (blank,) * sum(map(len, tiles))
    before, after, rows = iter(caches), [], []
    for row in tiles:
        made = []
        for y, x in row:
            features = list(next(before))  # diffusers puts new tensors into the list and leaves the old ones as they are
            made.append(net(whole[..., y, x], feat_cache=features, feat_idx=[0], **options))
            after.append(tuple(features))
        rows.append(made)
    return rows, tuple(after)


def _patched(pictures: Float[Tensor, "b c t h w"], patch: int) -> Float[Tensor, "b d t y x"]:
    """Patches as channels: colour, then column, then row."""
    split = pictures.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
    return split.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def _unpatched(patches: Float[Tensor, "b d t y x"], patch: int) -> Float[Tensor, "b c t h w"]:
    """The inverse of `_patched`."""
    split = patches.unflatten(1, (-1, patch, patch))
    return split.permute(0, 1, 4, 5, 3, 6, 2).flatten(-2).flatten(-3, -2)


def _check_config(config: Any, factor: int, stride: int) -> None:
    """ValueError where the settings contradict each other or are of no Wan autoencoder for colour pictures."""
    if (config.scale_factor_spatial, config.scale_factor_temporal) != (factor, stride):
        raise ValueError(
            f"the autoencoder's config says {config.scale_factor_spatial}x smaller and {config.scale_factor_temporal} pictures a "
            f"latent, but its layers make it {factor}x and {stride}: set scale_factor_spatial and scale_factor_temporal to that"
        )
    values = COLOURS * (config.patch_size or 1) ** 2
    if (config.in_channels, config.out_channels) != (values, values):
        raise ValueError(
            f"the autoencoder takes {config.in_channels} and gives {config.out_channels} channels: give one for colour pictures, "
            f"with {values}"
        )
    if not len(config.latents_mean) == len(config.latents_std) == config.z_dim or min(config.latents_std) <= 0:
        raise ValueError(
            f"the autoencoder has {config.z_dim} channels, but latents_mean and latents_std of {len(config.latents_mean)} and "
            f"{len(config.latents_std)}, which have to be above 0: give as many"
        )
