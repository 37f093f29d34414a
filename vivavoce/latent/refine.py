"""Refinement: a small network corrects what a warp of the portrait cannot show.

It looks at one square crop of the face that is held upright and of one size, so that it need not know how large a picture is or
how the head is tilted. It sees the warped portrait without and with the drawn layers (mouth, eyes), the untouched portrait, the
openings of mouth and eyes, and where each pixel comes from. It says how far to trust the drawn layers, how much of the picture to
keep and what to add. Nothing else is repainted: where the face moves as a rigid body, and outside the face, the picture stays the
warp's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vivavoce.latent.aperture import Opening
from vivavoce.latent.pose import Pose
from vivavoce.latent.topology import INNER_LIPS, LEFT_EYE, RIGHT_EYE, SKIN

SIDE = 144  # px of the crop
SPAN_MM = 155.0  # what it shows: from over the brows to under the chin of an average adult
_CENTRE = (33, 263, 61, 291)  # its centre is the mean of these landmarks of the portrait: corners of the eyes and the mouth
CHANNELS = 12  # 3 plain, 3 drawn, 3 portrait, 1 openings, 2 displacement
FAR_PX = 6.0  # displacements are given in this unit
STRENGTH = 0.8  # share of the correction that is let through at most: what is drawn is crisper than what the network paints
_STILL_PX, _MOVED_PX = 0.12, 0.6  # displacement at which correction begins, and from which it is full
COARSE_PX, NEAR = 4, 7  # mouth and eyes, where all may be repainted, reach half of NEAR coarse px around their openings
KEEP = 4.0  # logit of what an untrained network keeps
_OPENINGS: tuple[Opening, ...] = (INNER_LIPS, RIGHT_EYE, LEFT_EYE)
_SHIFT = 4  # bits after the point in OpenCV's polygons


@dataclass(frozen=True, kw_only=True)
class Canon:
    """The portrait in the crop.

    image: its pixels; centre: (3,) px of the picture; angle: of the eyes' line to the horizontal, radians; grain: px of the
    picture to one px of the crop.
    """

    image: UInt8[np.ndarray, "144 144 3"]
    centre: Float64[np.ndarray, " 3"]
    angle: float
    grain: float

    def place(self, pose: Pose | None = None) -> Float64[np.ndarray, "2 3"]:
        """The similarity that takes px of the crop to px of the picture, once the head has moved by the pose."""
        centre, angle, grain = self.centre, self.angle, self.grain
        if pose is not None:
            m = pose.matrix
            centre, grain = pose(centre), grain * float(np.cbrt(np.linalg.det(m)))
            angle += float(np.arctan2(m[1, 0] - m[0, 1], m[0, 0] + m[1, 1]))
        turn = grain * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.concatenate([turn, (centre[:2] - turn @ np.full(2, (SIDE - 1) / 2))[:, None]], 1)


def canon(image: UInt8[np.ndarray, "s s 3"], points: Float32[np.ndarray, "478 3"], mm: float) -> Canon:
    """The crop of a portrait with its landmarks (px) and px per millimetre."""
    eyes = points[263] - points[33]
    centre = points[list(_CENTRE)].astype(np.float64).mean(0)
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    grain = mm * SPAN_MM / SIDE
    found = Canon(image=blank, centre=centre, angle=float(np.arctan2(eyes[1], eyes[0])), grain=grain)
    return replace(found, image=crop(image, found.place()))


def crop(picture: UInt8[np.ndarray, "h w 3"], place: Float64[np.ndarray, "2 3"]) -> UInt8[np.ndarray, "144 144 3"]:
    """The crop at a place, without aliasing; the picture's edges are repeated outside."""
    grain = float(np.hypot(place[0, 0], place[1, 0]))
    if grain > 1.5:
        picture = cv2.resize(picture, None, fx=1 / grain, fy=1 / grain, interpolation=cv2.INTER_AREA)
        place = place / grain
        place[:, 2] += (1 / grain - 1) / 2  # pixel centres
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, place, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True, kw_only=True)
class View:
    """What the network sees of one frame, and where its corrections may go.

    place: the crop in the picture; plain, drawn, own: the warped portrait without and with the drawn layers, and the portrait
    itself; openings: share of mouth and eyes; displacement: px of the crop from where each pixel would come from if the face
    moved as a rigid body to where it does come from; gate: share of the correction that is let through.
    """

    place: Float64[np.ndarray, "2 3"]
    plain: UInt8[np.ndarray, "144 144 3"]
    drawn: UInt8[np.ndarray, "144 144 3"]
    own: UInt8[np.ndarray, "144 144 3"]
    openings: Float32[np.ndarray, "144 144"]
    displacement: Float32[np.ndarray, "144 144 2"]
    gate: Float32[np.ndarray, "144 144"]


def view(
    canon: Canon, pose: Pose, points: Float32[np.ndarray, "478 3"], plain: UInt8[np.ndarray, "h w 3"],
    drawn: UInt8[np.ndarray, "h w 3"], corner: tuple[int, int], map_x: Float32[np.ndarray, "h w"],
    map_y: Float32[np.ndarray, "h w"],
) -> View:
    """Look at a frame: its landmarks (px of the picture), and a window of it with its top left pixel at `corner`, whose maps say
    where in the portrait each pixel comes from."""
    place = canon.place(pose)
    inside = place.copy()
    inside[:, 2] -= corner
    displacement = displaced(canon.place(), inside, map_x, map_y)
    flat = cv2.transform(points[None, :, :2].astype(np.float64), cv2.invertAffineTransform(place))[0]
    openings = np.zeros((SIDE, SIDE), np.uint8)
    for upper, lower in _OPENINGS:
        _fill(openings, flat[[*upper, *lower[-2:0:-1]]])
    return View(
        place=place, plain=crop(plain, inside), drawn=crop(drawn, inside), own=canon.image,
        openings=openings.astype(np.float32) / 255, displacement=displacement, gate=_gate(displacement, flat[:SKIN]),
    )


def displaced(
    there: Float64[np.ndarray, "2 3"], here: Float64[np.ndarray, "2 3"], map_x: Float32[np.ndarray, "h w"],
    map_y: Float32[np.ndarray, "h w"],
) -> Float32[np.ndarray, "144 144 2"]:
    """Maps of a window seen in the crop: px of the crop from each pixel `here` (crop to window) to where it comes from `there`
    (crop to the picture that the maps point into)."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    x, y = (cv2.warpAffine(m, here, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE) for m in (map_x, map_y))
    back = cv2.invertAffineTransform(there)
    ticks = np.arange(SIDE, dtype=np.float32)
    return np.stack([
        back[0, 0] * x + back[0, 1] * y + back[0, 2] - ticks, back[1, 0] * x + back[1, 1] * y + back[1, 2] - ticks[:, None],
    ], -1).astype(np.float32)


def _fill(mask: np.ndarray, ring: np.ndarray) -> None:
    cv2.fillPoly(mask, [np.round(ring * 2**_SHIFT).astype(np.int32)], 255, cv2.LINE_AA, _SHIFT)


def _gate(displacement: np.ndarray, skin: np.ndarray) -> Float32[np.ndarray, "144 144"]:
    """1 where the face moves otherwise than as a rigid body, 0 where it does not and outside it, with soft edges."""
    moved = np.hypot(displacement[..., 0], displacement[..., 1])
    moved = cv2.blur(cv2.dilate(moved, np.ones((7, 7), np.uint8)), (5, 5))
    share = np.clip((moved - _STILL_PX) / (_MOVED_PX - _STILL_PX), 0, 1)
    face = np.zeros((SIDE, SIDE), np.uint8)
    _fill(face, cv2.convexHull(skin.astype(np.float32))[:, 0])
    face[:1], face[-1:], face[:, :1], face[:, -1:] = 0, 0, 0, 0
    inwards = cv2.distanceTransform((face > 127).astype(np.uint8), cv2.DIST_L2, 3)
    return (share * np.clip((inwards - 2) / 6, 0, 1)).astype(np.float32)


def normalised(values: Float[Tensor, "b 12 s s"]) -> Float[Tensor, "b 12 s s"]:
    """8-bit levels to -1..1, displacements in their unit; in place."""
    values[:, :9].div_(127.5).sub_(1)
    values[:, 10:].div_(FAR_PX).clamp_(-3, 3)
    return values


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """keep * (plain + trust * (drawn - plain)) + addition, for colours -1..1: shares of 0..1, and an addition to each colour."""

    trust: Float[Tensor, "b 1 s s"]
    keep: Float[Tensor, "b 1 s s"]
    addition: Float[Tensor, "b 3 s s"]


class Refiner(nn.Module):
    """A U-Net from a look at the frame to a mixture: see `Mixture`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """``widths``: channels at a half, a quarter, an eighth and a sixteenth of the crop's resolution."""

        widths: tuple[int, int, int, int] = (32, 64, 96, 128)

    def __init__(self, config: Config = Config()):
        super().__init__()
        self.config = config
        a, b, c, d = config.widths
        self.look = nn.Conv2d(CHANNELS, a, 4, 2, 1)
        self.down = nn.ModuleList([nn.Conv2d(i, o, 3, 2, 1) for i, o in ((a, b), (b, c), (c, d))])
        self.same = nn.ModuleList([nn.Conv2d(w, w, 3, 1, 1) for w in (a, b, c, d, d)])
        self.up = nn.ModuleList([nn.Conv2d(i + o, o, 3, 1, 1) for i, o in ((d, c), (c, b), (b, a))])
        self.last = nn.Conv2d(a, a, 3, 1, 1)
        self.out = nn.Conv2d(a, 4 * 5, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, seen: Float[Tensor, "b 12 s s"]) -> Mixture:
        """To be `restricted`. Untrained, it trusts the drawn layers by half, keeps nearly all and adds nothing."""
        out = F.pixel_shuffle(self.planes(seen), 2).float()
        return Mixture(trust=out[:, :1].sigmoid(), keep=(out[:, 1:2] + KEEP).sigmoid(), addition=out[:, 2:])

    def planes(
        self, seen: Float[Tensor, "b 12 s s"], merged: Sequence[tuple[Tensor, Tensor, Tensor | None]] | None = None
    ) -> Float[Tensor, "b 20 s/2 s/2"]:
        """Logits of trust and keep, and the additions, each as the four pixels (two rows of two) of a square. With `merged`
        weights the same, but for rounding, by a fifth fewer multiplications."""
        bent = partial(F.silu, inplace=not torch.is_grad_enabled())
        x = bent(self.same[0](bent(self.look(seen))))
        kept = []
        for down, same in zip(self.down, self.same[1:4], strict=True):
            kept.append(x)
            x = bent(down(x))
            x = x + bent(same(x))
        x = x + bent(self.same[4](x))
        for i, up in enumerate(self.up):
            if merged is None:
                x = up(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), kept.pop()], 1))
            else:
                coarse, fine, bias = merged[i]
                x = F.conv_transpose2d(x, coarse, stride=2, padding=1)
                x += F.conv2d(kept.pop(), fine, bias, padding=1)
            x = bent(x)
        return self.out(bent(self.last(x)))

    @torch.no_grad()
    def merged(self) -> list[tuple[Float[Tensor, "i o 4 4"], Float[Tensor, "o k 3 3"], Float[Tensor, " o"] | None]]:
        """For each step up the weights for what comes from the coarser level, as those of a transposed convolution, those for
        what was kept, and the bias.

        There each pixel stands four times, so of three taps in a row two fall on the same one: for an even pixel a and b + c,
        for an odd one a + b and c, of the taps a, b, c.
        """
        found = []
        for up in self.up:
            assert isinstance(up, nn.Conv2d)
            coarser = up.in_channels - up.out_channels
            weight = up.weight[:, :coarser]
            for axis in (2, 3):
                a, b, c = weight.unbind(axis)
                weight = torch.stack([c, b + c, a + b, a], axis)
            fine = up.weight[:, coarser:].contiguous(memory_format=torch.channels_last)
            found.append((weight.transpose(0, 1).contiguous(), fine, up.bias))
        return found

    @classmethod
    def load(cls, path: Path) -> Refiner:
        """What `save` saved, ready for inference."""
        with safe_open(path, framework="pt") as file:
            widths = tuple(map(int, (file.metadata() or {})["widths"].split(",")))
            assert len(widths) == 4
            net = cls(cls.Config(widths=widths))
            net.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})
        return net.eval().requires_grad_(False)

    def save(self, path: Path, notes: dict[str, str]) -> None:
        """Weights in half precision with the configuration and notes, as one safetensors file."""
        state = {key: value.half().contiguous() for key, value in self.state_dict().items()}
        save_file(state, path, {"widths": ",".join(map(str, self.config.widths)), **notes})


def restricted(mixture: Mixture, openings: Float[Tensor, "b 1 s s"]) -> Mixture:
    """Full authority near mouth and eyes; elsewhere nothing is taken away and additions are smooth: skin keeps its texture."""
    side = tuple(openings.shape[-2:])
    near = F.max_pool2d(F.max_pool2d(openings, COARSE_PX), NEAR, 1, NEAR // 2)
    smooth = F.avg_pool2d(F.avg_pool2d(mixture.addition, COARSE_PX), 3, 1, 1, count_include_pad=False)
    near, smooth = (F.interpolate(v, side, mode="bilinear", align_corners=False) for v in (near, smooth))
    return Mixture(
        trust=mixture.trust, keep=1 - near * (1 - mixture.keep), addition=smooth + near * (mixture.addition - smooth)
    )


def corrected(
    plain: Float[Tensor, "b 3 s s"], drawn: Float[Tensor, "b 3 s s"], gate: Float[Tensor, "b 1 s s"], mixture: Mixture
) -> Float[Tensor, "b 3 s s"]:
    """drawn + gate (mixture of plain and drawn - drawn): what `correction.apply` does to pictures. Colours are -1..1."""
    mixed = mixture.keep * (plain + mixture.trust * (drawn - plain)) + mixture.addition
    return drawn + gate * (mixed - drawn)
