"""The InceptionV3 that FID is defined on: the TensorFlow network of 2015-12-05, whose weights pytorch-fid converted.

It differs from the usual InceptionV3 in three things: averages leave out the padding, the last block takes a maximum where others
take an average, and there are 1008 classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vivavoce.judge.standard.crops import Image
from vivavoce.judge.standard.sets import set_distance
from vivavoce.judge.standard.weights import fill, read_weights

EXPECTED = "pt_inception-2015-12-05-6726825d.pth of mseitzer/pytorch-fid"
WIDTH = 2048
SIDE = 299  # px
EVERY = 5  # frames: neighbours hardly differ, so a fifth of them has nearly the same mean and covariance
_CLASSES = 1008
_AT_ONCE = 8


class Unit(nn.Module):
    """Convolution, normalisation, rectifier."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Squares(nn.Module):
    """Mixed_5: 1x1, 5x5, two 3x3, and an average."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = Unit(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Unit(inputs, 48, 1), Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inputs, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(inputs, pooled, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_average(x))], 1)


class FirstReduction(nn.Module):
    """Mixed_6a: half the side."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = Unit(inputs, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inputs, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, 2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class Strips(nn.Module):
    """Mixed_6b to 6e: 7x7 as rows and columns."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        row, column = ((1, 7), (0, 3)), ((7, 1), (3, 0))
        self.branch1x1 = Unit(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = Unit(inputs, width, 1), _strip(width, width, row)
        self.branch7x7_3 = _strip(width, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Unit(inputs, width, 1), _strip(width, width, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = _strip(width, width, row), _strip(width, width, column)
        self.branch7x7dbl_5 = _strip(width, 192, row)
        self.branch_pool = Unit(inputs, 192, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


class SecondReduction(nn.Module):
    """Mixed_7a: half the side again."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Unit(inputs, 192, 1), Unit(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Unit(inputs, 192, 1), _strip(192, 192, ((1, 7), (0, 3)))
        self.branch7x7x3_3, self.branch7x7x3_4 = _strip(192, 192, ((7, 1), (3, 0))), Unit(192, 192, 3, 2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        strips = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), strips, F.max_pool2d(x, 3, 2)], 1)


class Forks(nn.Module):
    """Mixed_7b and 7c: 3x3 as a row beside a column."""

    def __init__(self, inputs: int, *, maximum: bool):
        super().__init__()
        row, column = ((1, 3), (0, 1)), ((3, 1), (1, 0))
        self.maximum = maximum
        self.branch1x1 = Unit(inputs, 320, 1)
        self.branch3x3_1 = Unit(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _strip(384, 384, row), _strip(384, 384, column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inputs, 448, 1), Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _strip(384, 384, row), _strip(384, 384, column)
        self.branch_pool = Unit(inputs, 192, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2048 h w"]:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forks = [self.branch3x3_2a(single), self.branch3x3_2b(single), self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = F.max_pool2d(x, 3, 1, 1) if self.maximum else _average(x)
        return torch.cat([self.branch1x1(x), *forks, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """Picture -> the 2048 averages over the last maps. Names of layers are those of the real file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Unit(3, 32, 3, 2), Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Unit(64, 80, 1), Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = Squares(192, 32), Squares(256, 64), Squares(288, 64)
        self.Mixed_6a = FirstReduction(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d = Strips(768, 128), Strips(768, 160), Strips(768, 160)
        self.Mixed_6e = Strips(768, 192)
        self.Mixed_7a = SecondReduction(768)
        self.Mixed_7b, self.Mixed_7c = Forks(1280, maximum=False), Forks(2048, maximum=True)
        self.fc = nn.Linear(WIDTH, _CLASSES)  # not used, but its 1008 rows tell these weights from others

    @staticmethod
    def load(path: str | Path) -> Inception:
        """From pt_inception-2015-12-05-6726825d.pth.  Raises ValueError for any other file."""
        with torch.device("meta"):
            network = Inception()
        return fill(network, read_weights(path, EXPECTED), path=path, expected=EXPECTED)

    def forward(self, pictures: Float[Tensor, "b 3 299 299"]) -> Float[Tensor, "b 2048"]:
        """``pictures``: RGB from -1 to 1."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pictures)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


@torch.inference_mode()
def picture_features(network: Inception, frames: Iterable[Image], *, every: int = EVERY) -> Float32[np.ndarray, "n 2048"]:
    """What FID compares, of every fifth frame, whole and scaled to 299 px (bilinear, as pytorch-fid)."""
    chosen = islice(frames, 0, None, every)
    found = []
    while batch := list(islice(chosen, _AT_ONCE)):
        pictures = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
        pictures = F.interpolate(pictures, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        found.append(network(2 * pictures - 1).numpy())
    return np.concatenate(found) if found else np.zeros((0, WIDTH), np.float32)


def fid(real: Float[np.ndarray, "n 2048"], generated: Float[np.ndarray, "m 2048"]) -> float:
    """Frechet inception distance between all pictures of two sets; 0 for equal sets, low is good.

    Of few pictures it is far too high (a thousand are few) and comparable only with FIDs of equally many; NaN of fewer than two.
    """
    return set_distance(real, generated)


def _strip(inputs: int, outputs: int, shape: tuple[tuple[int, int], tuple[int, int]]) -> Unit:
    """``shape``: kernel and padding."""
    kernel, padding = shape
    return Unit(inputs, outputs, kernel, padding=padding)


def _average(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
