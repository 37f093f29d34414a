"""Where lips and faces are in a video, in the cells of a latent grid: weights of a loss, the lip-tracing mask, speakers' masks.

A mask is drawn from tracked landmarks at several samples a cell and averaged, so a cell tells which share of its pixels is
covered. A video space makes 1 + k latents of 1 + n k pictures: the first latent is the first picture's, each other one that of n
pictures (`per_latent`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from skimage.draw import polygon
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from vivavoce.latent.topology import MOUTH_CORNERS, OUTER_LIPS, OVAL, SKIN

_FINE = 8  # samples to a cell's side; outlines are off by half of one at most
_LIP_RING = [*OUTER_LIPS[0], *OUTER_LIPS[1][-2:0:-1]]
LIPS_MARGIN = 0.1  # mouth widths of skin around the lips that move with them, and by which trackers are off
Outline = Literal["face", "box"]


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Shares, 0 to 1, of each cell that are ``lips`` and that are the ``face`` without the lips; ``known``: whether the face was
    tracked (elsewhere both are 0)."""

    lips: Float[Tensor, "t h w"]
    face: Float[Tensor, "t h w"]
    known: Bool[Tensor, " t"]

    def per_latent(self, pictures: int, over: Literal["mean", "max"] = "mean") -> Regions:
        """Of latents instead of pictures, see `per_latent`; a latent is known where one of its pictures is."""
        known = per_latent(self.known.float()[:, None, None], self.known, pictures, "max")[:, 0, 0] > 0
        lips = per_latent(self.lips, self.known, pictures, over)
        whole = per_latent(self.lips + self.face, self.known, pictures, over)
        return Regions(lips=lips, face=whole - lips, known=known)


@dataclass(frozen=True, kw_only=True)
class RegionWeights:
    """How much an error counts by region (ReFree-S2V, 1.6: lips 100, rest of the face 30, rest of the frame 1).

    ``adaptive``: lips and face count more the smaller the face is, by 1 / (its share of the picture) and ``largest`` times at
    most (MagicInfinite, L_adap = L_base H W / sum M_face with lambda = 10; what lambda does is not said where we could read, here
    it is the bound).
    """

    lips: float = 100.0
    face: float = 30.0
    rest: float = 1.0
    adaptive: bool = False
    largest: float = 10.0

    def __post_init__(self) -> None:
        for name in ("lips", "face", "rest"):
            if vars(self)[name] < 0:
                raise ValueError(f"the weight of {name} is {vars(self)[name]:g}: give 0 or more")
        if self.rest <= 0 or self.largest < 1:
            raise ValueError(f"rest is {self.rest:g} and largest {self.largest:g}: give rest above 0 and largest of 1 or more")

    def __call__(self, regions: Regions) -> Float[Tensor, "t h w"]:
        """Weights of mean 1 in every latent (or picture); 1 everywhere where the face was not tracked."""
        lips, face = regions.lips, regions.face
        gain = torch.ones(len(lips), 1, 1)
        if self.adaptive:
            share = (lips + face).mean((1, 2), keepdim=True)
            gain = (1 / share.clamp(min=1e-9)).clamp(max=self.largest)
        weight = gain * (self.lips * lips + self.face * face) + self.rest * (1 - lips - face)
        weight = weight / weight.mean((1, 2), keepdim=True)
        return torch.where(regions.known[:, None, None], weight, torch.ones_like(weight))


def find_regions(
    points: Float[np.ndarray, "t 478 3"], size: tuple[int, int], grid: tuple[int, int], *, lips_margin: float = LIPS_MARGIN
) -> Regions:
    """Regions of every picture.

    ``points``: landmarks in px, NaN where the face was not tracked; ``size``: (width, height) of the pictures, px; ``grid``:
    (rows, columns) of the latents, which share the picture evenly; ``lips_margin``: mouth widths around the lips that belong to
    them.
    """
    lips = [_drawn(_lip_outline(p, lips_margin), size, grid) for p in points]
    whole = [_drawn(p[OVAL, :2], size, grid) for p in points]
    known = torch.from_numpy(_known(points))
    lip, face = _stacked(lips, grid), _stacked(whole, grid)
    return Regions(lips=lip, face=(torch.maximum(face, lip) - lip), known=known)


def speaker_masks(
    points: Float[np.ndarray, "s t 478 3"], size: tuple[int, int], grid: tuple[int, int], *, outline: Outline = "face",
    margin: float = 0.0,
) -> Float[Tensor, "s t h w"]:
    """Which share of each cell is each speaker's face, of every picture: what binds a speech stream to a face.

    ``outline``: the face's own or its upright box; ``margin``: how far either is moved outwards, in shares of the face's longer
    side. Faces that overlap share a cell, so the masks never sum to more than 1. A speaker who was not tracked has no mask there
    (0): what nobody shows, nobody says. The rest as for `find_regions`.
    """
    if outline not in ("face", "box"):
        raise ValueError(f"a speaker's outline is {outline!r}: give face or box")
    masks = torch.stack([_stacked([_drawn(_face_outline(p, outline, margin), size, grid) for p in one], grid) for one in points])
    return masks / masks.sum(0).clamp(min=1.0)


def per_latent(
    masks: Float[Tensor, "t h w"], known: Bool[Tensor, " t"], pictures: int, over: Literal["mean", "max"]
) -> Float[Tensor, "k h w"]:
    """Masks of 1 + n k pictures as those of 1 + k latents, n = ``pictures``, over the known ones of a latent's pictures (0 where
    none is).

    ``mean`` makes a loss weight what it would be over the pictures' own pixels, because weights are linear in shares; ``max``
    covers whatever was covered once, for masks that must not cut off moving lips.
    """
    if over not in ("mean", "max"):
        raise ValueError(f"the masks of a latent's pictures are joined by {over!r}: give mean or max")
    if not len(masks) or (len(masks) - 1) % pictures:
        raise ValueError(f"{len(masks)} pictures make no whole latents: give 1 and a multiple of {pictures}")
    seen = masks * known[:, None, None]
    groups = [(seen[:1], known[:1])]
    if len(masks) > 1:
        groups += list(zip(seen[1:].split(pictures), known[1:].split(pictures), strict=True))
    if over == "max":
        return torch.stack([part.amax(0) for part, _ in groups])
    return torch.stack([part.sum(0) / there.sum().clamp(min=1) for part, there in groups])


def lip_traced(lips: Float[Tensor, "b t h w"], draw: Float[Tensor, " b"], eta: float = 0.2) -> Float[Tensor, "b t h w"]:
    """The mask M of L' = M L where draw > eta, else 1 (FantasyTalking, stage 2: with probability 1 - eta only lips are learned).

    ``lips``: `Regions.lips` of clips, best by maximum over a latent's pictures; ``draw``: uniform in 0 to 1, one a clip. A latent
    without lips (not tracked) keeps all of its loss.
    """
    masked = (draw > eta)[:, None, None, None] & (lips.amax((2, 3), keepdim=True) > 0)
    return torch.where(masked, lips, torch.ones_like(lips))


def around(lips: Float[Tensor, "h w"]) -> Float[Tensor, "h w"] | None:
    """Where lips and the skin about them move, 0 to 1, fading out: cells that have any of the ``lips`` (`Regions.lips`, of a
    still or of all that lips cover), and a quarter of their width around. None where there are none."""
    there = (lips > 0).to(lips)
    if not there.any():
        return None
    reach = max(1, round(int(there.amax(0).sum()) / 4))
    wide = max_pool2d(there[None, None], 2 * reach + 1, stride=1, padding=reach)
    return avg_pool2d(wide, 3, stride=1, padding=1, count_include_pad=False)[0, 0]


def _known(points: Float[np.ndarray, "t 478 3"]) -> np.ndarray:
    return ~np.isnan(points[:, 0, 0])


def _stacked(masks: list[np.ndarray], grid: tuple[int, int]) -> Float[Tensor, "t h w"]:
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *grid)


def _lip_outline(points: Float[np.ndarray, "478 3"], margin: float) -> Float[np.ndarray, "n 2"]:
    right, left = (points[corner, :2] for corner in MOUTH_CORNERS)
    return _grown(points[_LIP_RING, :2], margin * float(np.linalg.norm(left - right)))


def _face_outline(points: Float[np.ndarray, "478 3"], outline: Outline, margin: float) -> Float[np.ndarray, "n 2"]:
    low, high = points[:SKIN, :2].min(0), points[:SKIN, :2].max(0)
    by = margin * float((high - low).max())
    if outline == "face":
        return _grown(points[OVAL, :2], by)
    (left, top), (right, bottom) = low - by, high + by
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _grown(ring: Float[np.ndarray, "n 2"], by: float) -> Float[np.ndarray, "n 2"]:
    """The ring with every point moved away from its middle (both of our rings are star-shaped about theirs)."""
    away = ring - ring.mean(0)
    return ring + by * away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)


def _drawn(ring: Float[np.ndarray, "n 2"], size: tuple[int, int], grid: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Share of each cell inside a ring (px; the picture's left edge is 0, its right one its width)."""
    rows, columns = grid
    fine = np.zeros((rows * _FINE, columns * _FINE), np.float32)
    if not np.isnan(ring).any():
        x = ring[:, 0] * fine.shape[1] / size[0] - 0.5
        y = ring[:, 1] * fine.shape[0] / size[1] - 0.5
        fine[polygon(y, x, fine.shape)] = 1.0
    return fine.reshape(rows, _FINE, columns, _FINE).mean((1, 3))
