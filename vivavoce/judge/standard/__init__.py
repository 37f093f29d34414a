"""The standard networks of the field, for those who have their weights: LSE-C and LSE-D, FID, FVD, CSIM, LPIPS.

Nothing here is needed for anything else, no weights are shipped or downloaded, and what has no weights is said, not replaced.
docs/standard.md says where the files come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from vivavoce.judge.standard import arcface as _arcface
from vivavoce.judge.standard import i3d as _i3d
from vivavoce.judge.standard import inception as _inception
from vivavoce.judge.standard import lpips as _lpips
from vivavoce.judge.standard import syncnet as _syncnet
from vivavoce.judge.standard.crops import Image
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.video import read_frames


@dataclass(frozen=True, kw_only=True)
class Standard:
    """The networks that there are weights for; None for the others."""

    syncnet: _syncnet.SyncNet | None = None
    inception: _inception.Inception | None = None
    i3d: _i3d.Clips | None = None
    arcface: _arcface.ArcFace | None = None
    lpips: _lpips.Lpips | None = None

    @staticmethod
    def load(
        *, syncnet: str | Path | None = None, inception: str | Path | None = None, i3d: str | Path | None = None,
        arcface: str | Path | None = None, lpips: str | Path | None = None,
    ) -> Standard:  # fmt: skip
        """From the files that are given.  Raises ValueError for one that is missing, damaged or another network's."""
        return Standard(
            syncnet=None if syncnet is None else _syncnet.SyncNet.load(syncnet),
            inception=None if inception is None else _inception.Inception.load(inception),
            i3d=None if i3d is None else _i3d.load_i3d(i3d),
            arcface=None if arcface is None else _arcface.ArcFace.load(arcface),
            lpips=None if lpips is None else _lpips.Lpips.load(lpips),
        )


@dataclass(frozen=True, kw_only=True)
class FileFrames:
    """The frames of a video at 25 Hz, read again each time they are asked for."""

    path: Path

    def __iter__(self) -> Iterator[Image]:
        return read_frames(self.path, MOTION_RATE_HZ)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """A video as it was looked at.

    frames: RGB at 25 Hz, an array or anything that can be gone through several times, such as `FileFrames`; points: their
    landmarks, px, NaN where no face is; samples: 16 kHz, full scale 1, from the first frame on, if it has sound.
    """

    frames: Iterable[Image]
    points: Float[np.ndarray, "t 478 3"]
    samples: Float[np.ndarray, " n"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """What one video contributes to figures of sets: features of its pictures and of its clips, None without the network."""

    pictures: Float32[np.ndarray, "n 2048"] | None = None
    clips: Float32[np.ndarray, "m 400"] | None = None


def absent(standard: Standard) -> list[str]:
    """A sentence for each network that is not there: which figures are not computed and what to give."""
    needs = (
        (standard.syncnet, "syncnet", "LSE-C and LSE-D", _syncnet.EXPECTED),
        (standard.inception, "inception", "FID", _inception.EXPECTED),
        (standard.i3d, "i3d", "FVD", _i3d.EXPECTED),
        (standard.arcface, "arcface", "CSIM", _arcface.EXPECTED),
        (standard.lpips, "lpips", "LPIPS", _lpips.EXPECTED),
    )
    return [
        f"{figures}: not computed, give --{option} PATH to {expected}"
        for network, option, figures, expected in needs
        if network is None
    ]


def pair_figures(
    standard: Standard, generated: Sight, *, real: Sight | None = None,
    portrait: tuple[Image, Float[np.ndarray, "478 3"]] | None = None,
) -> dict[str, float]:  # fmt: skip
    """The figures of one video that there are networks and material for; what the material lacks is left out.

    lse_c, lse_d, sync_offset (frames by which the pictures are late): with sound.  csim: with the portrait that it was made from,
    a picture and its landmarks.  lpips: with the recording, whose frames it is compared with one by one.
    """
    found: dict[str, float] = {}
    if standard.syncnet is not None and generated.samples is not None:
        found["lse_c"], found["lse_d"], found["sync_offset"] = _syncnet.lse(
            standard.syncnet, generated.frames, generated.points, generated.samples
        )
    if standard.arcface is not None and portrait is not None:
        found["csim"] = _arcface.csim(standard.arcface, portrait, generated.frames, generated.points)
    if standard.lpips is not None and real is not None:
        found["lpips"] = _lpips.lpips(standard.lpips, generated.frames, real.frames)
    return found


def sample(standard: Standard, frames: Iterable[Image]) -> Sample:
    """A video's part in `set_figures`; worth keeping, as it takes most of the time."""
    return Sample(
        pictures=None if standard.inception is None else _inception.picture_features(standard.inception, frames),
        clips=None if standard.i3d is None else _i3d.clip_features(standard.i3d, frames),
    )


def set_figures(real: Sequence[Sample], generated: Sequence[Sample]) -> dict[str, float]:
    """fid and fvd between all recordings and all generated videos; each left out where a video has no features for it."""
    found: dict[str, float] = {}
    pictures = [[s.pictures for s in side if s.pictures is not None] for side in (real, generated)]
    clips = [[s.clips for s in side if s.clips is not None] for side in (real, generated)]
    sizes = [len(real), len(generated)]
    if all(sizes) and [len(side) for side in pictures] == sizes:
        found["fid"] = _inception.fid(*(np.concatenate(side) for side in pictures))
    if all(sizes) and [len(side) for side in clips] == sizes:
        found["fvd"] = _i3d.fvd(*(np.concatenate(side) for side in clips))
    return found
