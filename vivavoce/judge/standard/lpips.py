"""LPIPS (Zhang et al. 2018), version 0.1: how far apart people would say two pictures are, from the maps of VGG16 or AlexNet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vivavoce.judge.standard.crops import Image
from vivavoce.judge.standard.weights import fill, read_weights

EVERY = 5  # frames
# The files of each kind: what the package lpips ships, and what torchvision downloads.
FILES = {"alex": ("alex.pth", "alexnet-owt-7be5be79.pth"), "vgg": ("vgg.pth", "vgg16-397923af.pth")}
EXPECTED = (
    "a folder with alex.pth of the package lpips and torchvision's alexnet-owt-7be5be79.pth, or vgg.pth and vgg16-397923af.pth"
)
# Convolutions as (inputs, outputs, kernel, stride, padding), "pool", and "tap" where maps are compared.
_ALEX = (
    (3, 64, 11, 4, 2), "tap", "pool", (64, 192, 5, 1, 2), "tap", "pool", (192, 384, 3, 1, 1), "tap", (384, 256, 3, 1, 1), "tap",
    (256, 256, 3, 1, 1), "tap",
)  # fmt: skip
_VGG = (
    (3, 64, 3, 1, 1), (64, 64, 3, 1, 1), "tap", "pool", (64, 128, 3, 1, 1), (128, 128, 3, 1, 1), "tap", "pool",
    (128, 256, 3, 1, 1), (256, 256, 3, 1, 1), (256, 256, 3, 1, 1), "tap", "pool",
    (256, 512, 3, 1, 1), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1), "tap", "pool",
    (512, 512, 3, 1, 1), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1), "tap",
)  # fmt: skip
# Mean and spread of ImageNet's colours, for pictures from -1 to 1.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPSILON = 1e-10


class Backbone(nn.Module):
    """The convolutions of torchvision's network. Names of layers are those of the real file."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        taps: list[int] = []
        self.widths: list[int] = []
        width = 0
        for part in _ALEX if kind == "alex" else _VGG:
            if isinstance(part, tuple):
                inputs, width, kernel, stride, padding = part
                layers += [nn.Conv2d(inputs, width, kernel, stride, padding), nn.ReLU()]
            elif part == "pool":
                layers.append(nn.MaxPool2d(3 if kind == "alex" else 2, 2))
            else:
                taps.append(len(layers))
                self.widths.append(width)
        self.features = nn.Sequential(*layers)
        self.taps = taps

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c i j"]]:
        """The maps at each tap."""
        found, before = [], 0
        for tap in self.taps:
            pictures = self.features[before:tap](pictures)
            found.append(pictures)
            before = tap
        return found


class Weighing(nn.Module):
    """What a channel's difference weighs, for each tap. Names of layers are those of the real file."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        for k, width in enumerate(widths):
            head = nn.Module()
            # The real one has dropout first, which the weight's number is after.
            head.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))
            self.add_module(f"lin{k}", head)

    def weights(self) -> list[Float[Tensor, " c"]]:
        return [parameter.flatten() for parameter in self.parameters()]


class Lpips(nn.Module):
    """A distance of pictures.  kind: "alex", which its authors recommend for measuring, or "vgg"."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.backbone = Backbone(kind)
        self.weighing = Weighing(self.backbone.widths)

    @staticmethod
    def load(path: str | Path) -> Lpips:
        """From a folder with the files of one kind (AlexNet's if it has both), or from alex.pth or vgg.pth with torchvision's
        file beside it.  Raises ValueError for other files."""
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        kinds = [kind for kind, (own, theirs) in FILES.items() if path.name == own or (path.is_dir() and (path / own).is_file())]
        kinds = [kind for kind in kinds if not path.is_dir() or (path / FILES[kind][1]).is_file()] or kinds
        if not kinds:
            raise ValueError(f"{path} does not name LPIPS: give {EXPECTED}")
        kind = kinds[0]
        network = Lpips.empty(kind)
        for part, name, beyond in zip((network.weighing, network.backbone), FILES[kind], ((), ("classifier.",)), strict=True):
            expected = f"{name} of {'the package lpips (weights/v0.1)' if part is network.weighing else 'torchvision'}"
            fill(part, read_weights(folder / name, expected), path=folder / name, expected=expected, beyond=beyond)
        return network.eval()

    @staticmethod
    def empty(kind: str) -> Lpips:
        """Without weights, to be filled."""
        with torch.device("meta"):
            return Lpips(kind)

    def forward(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """sum over taps of the mean over places of w . (A - B)^2, A and B with every place's channels scaled to length one.

        Pictures are RGB from -1 to 1.
        """
        shift, scale = (torch.tensor(v, dtype=a.dtype, device=a.device)[:, None, None] for v in (_SHIFT, _SCALE))
        ours, theirs = (self.backbone((x - shift) / scale) for x in (a, b))
        total = a.new_zeros(len(a))
        for x, y, weight in zip(ours, theirs, self.weighing.weights(), strict=True):
            difference = (_unit(x) - _unit(y)) ** 2
            total = total + torch.einsum("bchw,c->bhw", difference, weight).mean((1, 2))
        return total


@torch.inference_mode()
def lpips(network: Lpips, a: Iterable[Image], b: Iterable[Image], *, every: int = EVERY) -> float:
    """Mean distance of every fifth frame of one video from the same frame of another; 0 for equal ones, low is good.

    At the frames' own size, which must be the same: LPIPS depends on it. NaN without a frame; what one has more of is left out.
    """
    found = []
    for ours, theirs in islice(zip(a, b, strict=False), 0, None, every):
        if ours.shape != theirs.shape:
            raise ValueError(
                f"LPIPS compares pictures of one size, and these are {ours.shape[1]}x{ours.shape[0]} and "
                f"{theirs.shape[1]}x{theirs.shape[0]}: scale one of them"
            )
        x, y = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in (ours, theirs))
        found.append(float(network(x, y)))
    return float(np.mean(found)) if found else float("nan")


def _unit(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return x / (x.norm(dim=1, keepdim=True) + _EPSILON)
