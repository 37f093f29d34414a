"""Stills that a video network is shown: a face, to know who it is, and what of a video is known before it is made."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce.latent.mesh import face_box
from vivavoce.latent.space import Frame, LatentSpec
from vivavoce.latent.tracker import square_crop
from vivavoce.latent.video import VideoSpace

FACE_PX = 128  # side of the picture of a face; both of Wan's autoencoders divide it
_AROUND = 1.2  # larger sides of the face that the picture shows: the outline is in it, the hair is not


def face_still(picture: Frame, points: Float[np.ndarray, "478 3"]) -> Frame:
    """The face alone, FACE_PX wide and high. ``points``: its landmarks, px of the picture."""
    left, top, right, bottom = face_box(points.astype(np.float64))
    side = _AROUND * max(right - left, bottom - top)
    return square_crop(picture, np.array([left + right, top + bottom]) / 2, side, FACE_PX)[0]


def face_latent(space: VideoSpace, picture: Frame, points: Float[np.ndarray, "478 3"]) -> Float[Tensor, "c h w"]:
    """`face_still` as the latent of a still: what `VideoTransformer.listen` takes as ``face``."""
    return space.at(FACE_PX, FACE_PX).encode([face_still(picture, points)])[0, 0]


def known_then(
    latents: Float[Tensor, "b t c h w"], opening: Float[Tensor, "b g c h w"], known: Bool[Tensor, "b t"]
) -> Float[Tensor, "b t c h w"]:
    """What image-to-video bases get beside the noisy latents (`still_channels`): known latents as they are, then those of what is
    shown instead of what is not known.

    ``opening``: `VideoSpace.opening` of the first picture; its last latent stands for all later ones, since the encoder has
    forgotten how it began by then. After more than one known latent this is what it would be after one: what the autoencoder
    makes of the first grey pictures depends on what came before them, but to tell needs it for every window.
    """
    later = opening[:, [min(i, opening.shape[1] - 1) for i in range(latents.shape[1])]]
    return torch.where(known[:, :, None, None, None], latents, later)


def known_pictures(known: Bool[Tensor, "b t"], spec: LatentSpec, *, opens: bool) -> Bool[Tensor, "b T"]:
    """The same of pictures; ``opens``: whether the window begins a video, with a latent of one picture."""
    counts = torch.full((known.shape[1],), spec.stride)
    if opens:
        counts[0] = spec.first
    return known.repeat_interleave(counts, 1)
