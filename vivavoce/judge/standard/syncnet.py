"""SyncNet (Chung and Zisserman 2016) and the figures LSE-C and LSE-D that are read from it.

The network is that of github.com/joonson/syncnet_python with the weights syncnet_v2.model; the figures are those that its script
prints as "Confidence" and "Min dist".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from vivavoce.judge.standard.crops import Image, sync_crops
from vivavoce.judge.standard.mfcc import RATE_HZ, mfcc
from vivavoce.judge.standard.weights import fill, read_weights
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.metrics.sync import distances_by_offset, offset_and_confidence
from vivavoce.speech.encoder import SAMPLE_RATE_HZ

EXPECTED = "syncnet_v2.model of joonson/syncnet_python"
WIDTH = 1024
FRAMES = 5  # that a window of pictures shows
FURTHEST = 15  # frames that sound is shifted by to each side
# Fewer windows than offsets, and most of what an offset compares would be nothing.
FEWEST = 2 * FURTHEST + 1
_PER_FRAME = RATE_HZ // int(MOTION_RATE_HZ)  # coefficients in a frame of video
_COEFFICIENTS = FRAMES * _PER_FRAME  # in the window of sound beside a window of pictures
_FULL_SCALE = 2**15
_FRAMES_AT_ONCE, _WINDOWS_AT_ONCE = 20, 64


class SyncNet(nn.Module):
    """Two towers that end in 1024 numbers each: one sees five frames of a face, the other hears their 0.2 s.

    Names of layers are those of the real file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_flat(1, 64, 3, 1),
            nn.Identity(),  # the real one has a pool of one here; it keeps its number
            *_flat(64, 192, 3, 1),
            nn.MaxPool2d(3, (1, 2)),
            *_flat(192, 384, 3, 1),
            *_flat(384, 256, 3, 1),
            *_flat(256, 256, 3, 1),
            nn.MaxPool2d(3, 2),
            *_flat(256, 512, (5, 4), 0),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        # Only the first convolution joins frames with each other.
        self.netcnnlip = nn.Sequential(
            *_deep(3, 96, (5, 7, 7), 2, 0),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_deep(96, 256, (1, 5, 5), 2, 1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_deep(256, 256, (1, 3, 3), 1, 1),
            *_deep(256, 256, (1, 3, 3), 1, 1),
            *_deep(256, 256, (1, 3, 3), 1, 1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_deep(256, 512, (1, 6, 6), 1, 0),
        )

    @staticmethod
    def load(path: str | Path) -> SyncNet:
        """From syncnet_v2.model.  Raises ValueError for any other file."""
        with torch.device("meta"):
            network = SyncNet()
        return fill(network, read_weights(path, EXPECTED), path=path, expected=EXPECTED)

    def see(self, frames: Float[Tensor, "t 3 224 224"]) -> Float[Tensor, "t-4 1024"]:
        """The embedding of every five neighbouring frames: BGR from 0 to 255, 25 a second."""
        maps = self.netcnnlip(frames.transpose(0, 1)[None])
        return self.netfclip(maps[0, :, :, 0, 0].T)

    def hear(self, windows: Float[Tensor, "n 13 20"]) -> Float[Tensor, "n 1024"]:
        """The embeddings of 0.2 s of coefficients each."""
        return self.netfcaud(self.netcnnaud(windows[:, None]).flatten(1))


def lse(
    network: SyncNet, frames: Iterable[Image], points: Float[np.ndarray, "t 478 3"], samples: Float[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """(confidence, distance, offset) of a clip: LSE-C, LSE-D, and by how many frames the pictures are late.

    With d(o) the mean distance between the embeddings of pictures and of the sound o frames earlier, o from -15 to 15: distance =
    min d, confidence = median d - min d, offset = argmin d. High confidence and a low distance are good. NaN where no face is
    seen or fewer than 31 windows fit.

    frames: RGB at 25 Hz; points: their landmarks, NaN without a face; samples: 16 kHz, full scale 1, from the first frame on.
    """
    count = min(len(points), len(samples) * int(MOTION_RATE_HZ) // SAMPLE_RATE_HZ) - FRAMES  # the last would hear past the end
    if count < FEWEST or not np.isfinite(points).all((1, 2)).any():
        return float("nan"), float("nan"), float("nan")
    seen = embed_pictures(network, sync_crops(frames, points), count)
    assert len(seen) == count, (len(seen), count)
    return scores(seen, embed_sound(network, samples, count))


@torch.inference_mode()
def embed_pictures(
    network: SyncNet, crops: Iterable[UInt8[np.ndarray, "224 224 3"]], count: int
) -> Float32[np.ndarray, "n 1024"]:
    """Embeddings of the windows that begin at the first ``count`` frames, of RGB crops."""
    found: list[Tensor] = []
    held: list[np.ndarray] = []
    done = 0
    for crop in crops:
        held.append(crop[:, :, ::-1])
        wanted = min(_FRAMES_AT_ONCE, count - done)
        if len(held) == wanted + FRAMES - 1:
            batch = torch.from_numpy(np.stack(held)).permute(0, 3, 1, 2).float()
            found.append(network.see(batch))
            done += wanted
            held = held[wanted:]
        if done == count:
            break
    return torch.cat(found).numpy() if found else np.zeros((0, WIDTH), np.float32)


@torch.inference_mode()
def embed_sound(network: SyncNet, samples: Float[np.ndarray, " n"], count: int) -> Float32[np.ndarray, "n 1024"]:
    """Embeddings of the sound beside each of ``count`` windows of pictures, a frame apart."""
    scaled = np.clip(np.round(samples.astype(np.float64) * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1)  # as 16-bit files hold it
    heard = np.lib.stride_tricks.sliding_window_view(mfcc(scaled), _COEFFICIENTS, axis=0)[::_PER_FRAME][:count]
    windows = torch.from_numpy(heard.astype(np.float32))
    return torch.cat([network.hear(part) for part in windows.split(_WINDOWS_AT_ONCE)]).numpy()


def scores(seen: Float[np.ndarray, "n d"], heard: Float[np.ndarray, "n d"]) -> tuple[float, float, float]:
    """(confidence, distance, offset) of embeddings, see `lse`.

    Windows that would hear past an end hear the embedding 0, as in the published script: every figure in print has it so.
    """
    apart = distances_by_offset(seen.astype(np.float64), heard.astype(np.float64), FURTHEST, padded=True)
    offset, confidence = offset_and_confidence(apart)
    return confidence, float(apart.min()), float(offset)


def _flat(inputs: int, outputs: int, kernel: int | tuple[int, int], padding: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _deep(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int, padding: int) -> tuple[nn.Module, ...]:
    """Stride and padding are of the picture; time goes by frames and is not padded."""
    convolution = nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), (0, padding, padding))
    return convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, WIDTH))
