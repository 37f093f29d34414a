"""What a video autoencoder keeps of recordings: likeness of pictures and mouths, and whether lips still open as they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8

from vivavoce.latent.mesh import lip_opening, mouth_box, mouth_width
from vivavoce.latent.tracker import FaceTracker
from vivavoce.metrics.lips import correlation, gain
from vivavoce.metrics.pictures import psnr, sharpness, ssim
from vivavoce.train.data import Progress
from vivavoce.train.video_clips import VideoClip
from vivavoce.train.video_vae import as_bytes, as_pictures

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What came back of a clip. ``psnr``, ``mouth_psnr``: dB; ``mouth_sharpness``: over the recorded mouth's, 1 is good.

    ``opening``: correlation of the tracked lips' opening in the pictures that came back with that in the recorded ones;
    ``width``: spread of the first over that of the second, 1 is good. Both NaN where the face was not found again in nine tenths
    of the pictures.
    """

    name: str
    person: str
    psnr: float
    ssim: float
    mouth_psnr: float
    mouth_sharpness: float
    opening: float
    width: float


@torch.no_grad()
def reconstructed(vae: AutoencoderKLWan, pictures: UInt8[np.ndarray, "t s s 3"]) -> UInt8[np.ndarray, "t s s 3"]:
    """The pictures, encoded to the middles of their latents and decoded; 1 + 4k of them."""
    if len(pictures) % 4 != 1:
        raise ValueError(f"{len(pictures)} pictures were given: give one more than a multiple of 4, such as 9")
    latents = vae.encode(as_pictures(pictures).to(vae.dtype)).latent_dist.mode()
    return as_bytes(vae.decode(latents).sample.float())


def kept(clip: VideoClip, made: UInt8[np.ndarray, "t s s 3"]) -> Kept:
    """What ``made`` has of the first pictures of the clip, which it was made of."""
    recorded = np.array(clip.pictures[: len(made)])
    boxes = [_square(points, clip.side) for points in clip.points[: len(made)]]
    mouths = [(a[rows, columns], b[rows, columns]) for a, b, (rows, columns) in zip(recorded, made, boxes, strict=True)]
    curves = [tracked_lips(pictures)[:, 0] for pictures in (made, recorded)]
    found = ~np.isnan(curves).any(0)
    ours, theirs = (curve[found] for curve in curves)
    enough = found.mean() > 0.9
    return Kept(
        name=clip.name, person=clip.person,
        psnr=float(np.mean([psnr(a, b) for a, b in zip(recorded, made, strict=True)])),
        ssim=float(np.mean([ssim(a, b) for a, b in zip(recorded, made, strict=True)])),
        mouth_psnr=float(np.mean([psnr(np.ascontiguousarray(a), np.ascontiguousarray(b)) for a, b in mouths])),
        mouth_sharpness=float(np.mean([sharpness(b) for _, b in mouths]) / np.mean([sharpness(a) for a, _ in mouths])),
        opening=correlation(ours, theirs) if enough else float("nan"), width=gain(ours, theirs) if enough else float("nan"),
    )


def measure(vae: AutoencoderKLWan, clips: Sequence[VideoClip], progress: Progress, *, frames: int = 49) -> list[Kept]:
    """`kept` of the first ``frames`` pictures, fewer in shorter clips, of one clip of each person."""
    people = {clip.person: clip for clip in sorted(clips, key=len)}
    rows = []
    for i, clip in enumerate(people.values()):
        progress("measuring", i, len(people))
        count = (min(frames, len(clip)) - 1) // 4 * 4 + 1
        rows.append(kept(clip, reconstructed(vae, np.array(clip.pictures[:count]))))
    progress("measuring", len(people), len(people))
    return rows


def sheet(
    vae: AutoencoderKLWan, clips: Sequence[VideoClip], *, people: int = 6, moments: int = 6, frames: int = 49
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture to look at: a pair of rows for each person, recorded above, reconstructed below."""
    chosen = list({clip.person: clip for clip in sorted(clips, key=len)}.values())
    rows = []
    for i in np.linspace(0, len(chosen) - 1, min(people, len(chosen))).round().astype(int):
        count = (min(frames, len(chosen[i])) - 1) // 4 * 4 + 1
        recorded = np.array(chosen[i].pictures[:count])
        made = reconstructed(vae, recorded)
        at = np.linspace(0, count - 1, moments).round().astype(int)
        rows += [np.concatenate(recorded[at], 1), np.concatenate(made[at], 1)]
    return np.concatenate(rows)


def tracked_lips(pictures: UInt8[np.ndarray, "t s s 3"]) -> Float[np.ndarray, "t 2"]:
    """Lips' opening and width in face heights, NaN where there is no face."""
    with FaceTracker() as tracker:
        found = [tracker(np.ascontiguousarray(picture)) for picture in pictures]
    return np.array([(np.nan, np.nan) if points is None else (lip_opening(points), mouth_width(points)) for points in found])


def _square(points: Float[np.ndarray, "478 3"], side: int) -> tuple[slice, slice]:
    """Rows and columns around the lips, within the picture."""
    left, top, right, bottom = mouth_box(points)
    y, x = (int(np.clip(round(low), 0, side - 8)) for low in (top, left))
    return slice(y, int(np.clip(round(bottom), y + 8, side))), slice(x, int(np.clip(round(right), x + 8, side)))
