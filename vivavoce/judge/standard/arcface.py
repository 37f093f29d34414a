"""ArcFace (Deng et al. 2019): the networks of InsightFace that tell people apart, and the similarity CSIM read from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from vivavoce.judge.standard.crops import FACE_SIDE, Image, aligned_face
from vivavoce.judge.standard.weights import fill, read_weights

EXPECTED = "backbone.pth of InsightFace's arcface_torch (iresnet50 or iresnet100)"
WIDTH = 512
EVERY = 5  # frames: who is seen hardly changes between neighbours
_WIDTHS = (64, 128, 256, 512)
_AT_ONCE = 8


class Block(nn.Module):
    """Two convolutions with normalisation before, between and after, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(outputs), nn.PReLU(outputs)
        self.conv2, self.bn3 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        inner = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(inner)) + self.downsample(x)


class ArcFace(nn.Module):
    """Face -> 512 numbers whose direction says whose it is. Names of layers are those of the real file.

    blocks: in each of four stages: (3, 4, 14, 3) is iresnet50, (3, 13, 30, 3) iresnet100.
    """

    def __init__(self, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(_WIDTHS[0]), nn.PReLU(_WIDTHS[0])
        before = (_WIDTHS[0], *_WIDTHS)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(Block(before[k] if j == 0 else _WIDTHS[k], _WIDTHS[k], 2 if j == 0 else 1) for j in range(count)))
            for k, count in enumerate(blocks)
        )
        self.bn2 = nn.BatchNorm2d(_WIDTHS[-1])
        self.fc = nn.Linear(_WIDTHS[-1] * (FACE_SIDE // 16) ** 2, WIDTH)
        self.features = nn.BatchNorm1d(WIDTH)

    @staticmethod
    def load(path: str | Path) -> ArcFace:
        """From backbone.pth, of any depth.  Raises ValueError for any other file."""
        weights = read_weights(path, EXPECTED)
        with torch.device("meta"):
            network = ArcFace(_depths(weights))
        return fill(network, weights, path=path, expected=EXPECTED)

    def forward(self, faces: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b 512"]:
        """``faces``: aligned, RGB from -1 to 1."""
        x = self.prelu(self.bn1(self.conv1(faces)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))


@torch.inference_mode()
def identities(network: ArcFace, faces: Iterable[UInt8[np.ndarray, "112 112 3"]]) -> Float32[np.ndarray, "n 512"]:
    """Directions (of length one) of aligned RGB faces."""
    remaining, found = iter(faces), []
    while batch := list(islice(remaining, _AT_ONCE)):
        pictures = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float()
        found.append(nn.functional.normalize(network(pictures / 127.5 - 1)).numpy())
    return np.concatenate(found) if found else np.zeros((0, WIDTH), np.float32)


def csim(
    network: ArcFace, portrait: tuple[Image, Float[np.ndarray, "478 3"]], frames: Iterable[Image],
    points: Float[np.ndarray, "t 478 3"], *, every: int = EVERY,
) -> float:  # fmt: skip
    """Mean cosine of the person in the portrait and in every fifth frame: from -1 to 1, 1 for the same picture, high is good.

    portrait: a picture and its landmarks; points: those of the frames, NaN without a face, which leaves the frame out. NaN where
    neither frame nor portrait has a face.
    """
    image, its_points = portrait
    if not np.isfinite(its_points).all():
        return float("nan")
    own = identities(network, [aligned_face(image, its_points)])[0]
    chosen = islice(zip(frames, points, strict=False), 0, None, every)
    found = identities(network, (aligned_face(frame, place) for frame, place in chosen if np.isfinite(place).all()))
    return float((found @ own).mean()) if len(found) else float("nan")


def _depths(weights: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    """How many blocks the names tell of, in each stage; at least one, so that a wrong file is told by its names."""
    deepest = [1, 1, 1, 1]
    for name in weights:
        if found := re.match(r"layer([1-4])\.(\d{1,3})\.", name):
            stage = int(found[1]) - 1
            deepest[stage] = max(deepest[stage], int(found[2]) + 1)
    first, second, third, fourth = deepest
    return first, second, third, fourth
