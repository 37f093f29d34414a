"""A refiner at work: looks at frames, and corrects pictures with what it says about them (see `refine`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numba import njit
from torch import Tensor

from vivavoce.graph import traced
from vivavoce.latent.refine import CHANNELS, COARSE_PX, FAR_PX, KEEP, NEAR, SIDE, STRENGTH, Refiner, View

# What `Refiner.planes` says of a square of 2x2 pixels, four values each, row by row: how far the drawn picture is trusted over
# the plain one, how much of both is kept (logits), and what is added to each colour.
_SQUARE = 4
_TRUST, _KEPT, _ADDED = 0, _SQUARE, 2 * _SQUARE
_PLAIN, _DRAWN, _LEVELS = 0, 1, 2  # of `Correction.planes`: factors of the two pictures, and levels added to each colour
# What the network is given of a pixel (`looked`): colours of three pictures, the opening, and the displacement.
_SEEN_PLAIN, _SEEN_DRAWN, _SEEN_OWN, _SEEN_OPENING, _SEEN_DISPLACEMENT = 0, 3, 6, 9, 10
_NEARNESS = 3  # of a coarse pixel, behind its three mean additions: the largest opening in it

_COARSE = SIDE // COARSE_PX
_NEIGHBOURS = cv2.boxFilter(np.ones((_COARSE, _COARSE), np.float32), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What is added to a drawn pixel. planes (144, 144, 5): factors of the plain and of the drawn picture, and 8-bit levels of
    each colour; all are 0 where nothing is corrected."""

    planes: Float32[np.ndarray, "144 144 5"]


class Inference:
    """A refiner for inference: a batch of views to corrections, in bfloat16 where the processor multiplies such matrices. Holds
    constants only."""

    def __init__(self, net: Refiner, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        fast = self.device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
        self.dtype = torch.bfloat16 if fast else torch.float32
        self.net = net.to(self.device, self.dtype)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch = 1 if self.device.type == "cpu" else 16  # frames that are best refined at once
        # In float32 multiplications are what takes the time: a graph converts between layouts more than it saves.
        self._merged = None if fast else self.net.merged()
        single = torch.zeros(1, SIDE, SIDE, CHANNELS)
        graph = fast and self.device.type == "cpu"
        self._single = traced(self._planes, single, networks=(self.net,)) if graph else None

    @torch.inference_mode()
    def __call__(self, views: Sequence[View]) -> list[Correction]:
        inputs = torch.from_numpy(np.stack([looked(seen) for seen in views]))
        run = self._single if self._single is not None and len(views) == 1 else self._planes
        planes = run(inputs.to(self.device)).cpu().numpy()
        return [correction(*pair) for pair in zip(planes, views, strict=True)]

    def _planes(self, inputs: Tensor) -> Tensor:
        """`Refiner.planes`, channels last, of `looked` views."""
        return self.net.planes(inputs.permute(0, 3, 1, 2).to(self.dtype), self._merged).float().permute(0, 2, 3, 1)


def looked(seen: View) -> Float32[np.ndarray, "144 144 12"]:
    """What the network is given of a frame, normalised as in training, channels last."""
    out = np.empty((SIDE, SIDE, CHANNELS), np.float32)
    _look(seen.plain, seen.drawn, seen.own, seen.openings, seen.displacement, FAR_PX, out)
    return out


def correction(planes: Float32[np.ndarray, "72 72 20"], seen: View) -> Correction:
    """`refine.Mixture`, `refine.restricted` and let through by the view's gate, for one frame."""
    coarse = np.empty((_COARSE, _COARSE, _NEARNESS + 1), np.float32)
    _coarsen(planes, seen.openings, coarse)
    smooth = cv2.boxFilter(coarse, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT) / _NEIGHBOURS[..., None]
    smooth[..., _NEARNESS] = cv2.dilate(coarse[..., _NEARNESS], np.ones((NEAR, NEAR), np.uint8))
    found = np.empty((SIDE, SIDE, 5), np.float32)
    _let_through(planes, cv2.resize(smooth, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), seen.gate, STRENGTH, KEEP, found)
    return Correction(planes=found)


def apply(
    correction: Correction, seen: View, plain: UInt8[np.ndarray, "h w 3"], drawn: UInt8[np.ndarray, "h w 3"],
    corner: tuple[int, int],
) -> None:
    """Correct a window of the picture with its top left pixel at `corner`: drawn is changed in place, plain is read."""
    place = seen.place.copy()
    place[:, 2] -= corner
    edges = np.array([[0, 0, 1], [SIDE - 1, 0, 1], [0, SIDE - 1, 1], [SIDE - 1, SIDE - 1, 1]]) @ place.T
    low = np.clip(np.floor(edges.min(0)).astype(int), 0, None)
    high = np.minimum(np.ceil(edges.max(0)).astype(int) + 1, plain.shape[1::-1])
    if (high <= low).any():
        return
    back = cv2.invertAffineTransform(place)
    _mix(plain, drawn, (int(low[0]), int(low[1])), (int(high[0]), int(high[1])), correction.planes, back)


@njit(cache=True, nogil=True)
def _look(
    plain: np.ndarray, drawn: np.ndarray, own: np.ndarray, openings: np.ndarray, displacement: np.ndarray, far: float,
    out: np.ndarray,
) -> None:
    """Pictures (144, 144, 3), 8-bit, to -1 to 1; openings as they are; displacements, px, over ``far`` px and within +-3."""
    scale, unit = np.float32(1 / 127.5), np.float32(1 / far)
    one, most = np.float32(1), np.float32(3)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for c in range(3):
                out[y, x, _SEEN_PLAIN + c] = scale * np.float32(plain[y, x, c]) - one
                out[y, x, _SEEN_DRAWN + c] = scale * np.float32(drawn[y, x, c]) - one
                out[y, x, _SEEN_OWN + c] = scale * np.float32(own[y, x, c]) - one
            out[y, x, _SEEN_OPENING] = openings[y, x]
            for c in range(2):
                out[y, x, _SEEN_DISPLACEMENT + c] = min(max(unit * displacement[y, x, c], -most), most)


@njit(cache=True, nogil=True)
def _coarsen(planes: np.ndarray, openings: np.ndarray, out: np.ndarray) -> None:
    """Mean additions and the largest opening of each coarse pixel."""
    height, width, _ = out.shape
    half = planes.shape[0] // height  # squares of planes to a coarse pixel
    fine = openings.shape[0] // height
    share = np.float32(1 / (_SQUARE * half * half))
    for y in range(height):
        for x in range(width):
            for c in range(3):
                total = np.float32(0)
                for i in range(half):
                    for j in range(half):
                        for k in range(_SQUARE):
                            total += planes[half * y + i, half * x + j, _ADDED + _SQUARE * c + k]
                out[y, x, c] = share * total
            largest = np.float32(0)
            for i in range(fine):
                for j in range(fine):
                    largest = max(largest, openings[fine * y + i, fine * x + j])
            out[y, x, _NEARNESS] = largest


@njit(cache=True, nogil=True)
def _let_through(planes: np.ndarray, smooth: np.ndarray, gate: np.ndarray, strength: float, kept: float, out: np.ndarray) -> None:
    """Planes of squares to `Correction.planes`, at each pixel as far as ``gate`` lets them through, times ``strength``: near an
    opening in detail, elsewhere the smooth means. ``kept``: logit that is added to what is kept of the two pictures."""
    one, levels = np.float32(1), np.float32(127.5)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            if gate[y, x] == 0:
                for c in range(5):
                    out[y, x, c] = 0
                continue
            g, near = np.float32(strength) * gate[y, x], smooth[y, x, _NEARNESS]
            square, k = planes[y // 2, x // 2], 2 * (y % 2) + x % 2
            trust = one / (one + np.exp(-square[_TRUST + k]))
            lost = near / (one + np.exp(square[_KEPT + k] + np.float32(kept)))  # what is not kept leaves half the levels behind
            out[y, x, _PLAIN] = g * (one - lost) * (one - trust)
            out[y, x, _DRAWN] = g * ((one - lost) * trust - one)
            for c in range(3):
                added = smooth[y, x, c] + near * (square[_ADDED + _SQUARE * c + k] - smooth[y, x, c])
                out[y, x, _LEVELS + c] = levels * g * (added + lost)


@njit(cache=True, nogil=True)
def _mix(
    plain: np.ndarray, drawn: np.ndarray, low: tuple[int, int], high: tuple[int, int], planes: np.ndarray, back: np.ndarray
) -> None:
    """Add the planes, interpolated, to the drawn picture; back: px of the picture to px of the planes."""
    height, width, _ = planes.shape
    value = np.empty(5, np.float32)
    for y in range(low[1], high[1]):
        for x in range(low[0], high[0]):
            u = back[0, 0] * x + back[0, 1] * y + back[0, 2]
            v = back[1, 0] * x + back[1, 1] * y + back[1, 2]
            i, j = int(np.floor(v)), int(np.floor(u))
            if i < 0 or j < 0 or i >= height - 1 or j >= width - 1:
                continue
            q, p = np.float32(v - i), np.float32(u - j)
            there = np.float32(0)
            for c in range(5):
                upper = planes[i, j, c] + p * (planes[i, j + 1, c] - planes[i, j, c])
                lower = planes[i + 1, j, c] + p * (planes[i + 1, j + 1, c] - planes[i + 1, j, c])
                value[c] = upper + q * (lower - upper)
                there += abs(value[c])
            if there == 0:
                continue
            for c in range(3):
                own = np.float32(drawn[y, x, c])
                new = own + value[_PLAIN] * np.float32(plain[y, x, c]) + value[_DRAWN] * own + value[_LEVELS + c]
                drawn[y, x, c] = np.uint8(min(max(new + np.float32(0.5), np.float32(0)), np.float32(255)))
