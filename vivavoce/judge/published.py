"""The field's own networks as figures of a report, for those who have their weights (see `judge.standard`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vivavoce.judge.evidence import Evidence
from vivavoce.judge.figures import Better, Figure, Need
from vivavoce.judge.kept import Arrays, kept
from vivavoce.judge.sets import Clip, OfIndices, SetFigure
from vivavoce.judge.standard import FileFrames, Sight, Standard, pair_figures, sample
from vivavoce.judge.standard.sets import set_distance
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.tracker import find_faces
from vivavoce.media.portrait import Portrait
from vivavoce.speech.sound import load_sound

NAN = float("nan")
FVD_RESAMPLES = 100
_VERSION = 1
_SOUND, _PORTRAIT, _RECORDING = (frozenset[Need]({need}) for need in ("sound", "portrait", "recording"))
# Network, name, title, topic, unit, what is better, what it takes, what it says.
_FIGURES: tuple[tuple[str, str, str, str, str, Better, frozenset[Need], str], ...] = (
    ("lse", "lse_c", "SyncNet, LSE-C", "Lips", "", "near real", _SOUND,
     "SyncNet v2's confidence: median less minimum of its distances by offset. Exaggerated lips raise it above recordings'."),
    ("lse", "lse_d", "SyncNet, LSE-D", "Lips", "", "near real", _SOUND, "SyncNet v2's smallest mean distance of lips and sound."),
    ("lse", "sync_offset", "SyncNet, offset", "Lips", "ms", "near 0", _SOUND, "Lateness of the pictures at that distance."),
    ("csim", "csim", "CSIM", "Identity", "", "higher", _PORTRAIT, "Mean cosine of ArcFace's embeddings, frames and portrait."),
    ("lpips", "lpips", "LPIPS", "Picture", "", "lower", _RECORDING, "Perceptual distance of frames to the recording's (LPIPS)."),
)  # fmt: skip

_GIVEN = {"lse": "syncnet", "csim": "arcface", "lpips": "lpips"}  # which of `Weights` a network is
NETWORK_OF = {name: _GIVEN[network] for network, name, *_ in _FIGURES} | {"fid": "inception", "fvd": "i3d"}
"""Which of `Weights` every published figure needs."""


@dataclass(frozen=True)
class _Frames:
    """The first frames of a video, as many as there are landmarks."""

    path: Path
    count: int

    def __iter__(self) -> Iterator[np.ndarray]:
        return islice(FileFrames(path=self.path), self.count)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the files are; None for the networks that are not asked."""

    syncnet: Path | None = None
    inception: Path | None = None
    i3d: Path | None = None
    arcface: Path | None = None
    lpips: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for path in vars(self).values() if path is not None)


def published(weights: Weights, folder: Path | None) -> tuple[Standard, tuple[Figure, ...], tuple[SetFigure, ...]]:
    """The networks that there are weights for, and their figures. ``folder``: where what they saw is kept.

    Raises ValueError for a file that is missing, damaged or another network's.
    """
    standard = Standard.load(**vars(weights))
    there = {"lse": standard.syncnet, "csim": standard.arcface, "lpips": standard.lpips}
    figures = tuple(
        Figure(
            name=name, title=title, topic=topic, unit=unit, better=better, what=what, needs=needs, alone="recording" not in needs,
            measure=partial(_measure, name, standard, weights, folder),
        )
        for network, name, title, topic, unit, better, needs, what in _FIGURES if there[network] is not None
    )
    sets = []
    if standard.inception is not None:
        sets.append(_set("fid", "FID", "pictures", 0, "pictures (Inception)", standard, weights, folder))
    if standard.i3d is not None:
        sets.append(_set("fvd", "FVD", "clips", FVD_RESAMPLES, "clips of 16 frames (I3D)", standard, weights, folder))
    return standard, figures, tuple(sets)


def _measure(name: str, standard: Standard, weights: Weights, folder: Path | None, evidence: Evidence) -> float:
    """One of the figures of a clip, all of which are worked out at once and kept."""
    if evidence.video is None:
        return NAN
    pair = evidence.pair
    files = [evidence.video, evidence.sound, pair.portrait if evidence.portrait else None]
    files.append(pair.recording if evidence.recording else None)
    given = tuple(path for path in files if path is not None)
    arrays = kept(folder, f"standard {_VERSION}", (*given, *weights.files), partial(_pair, standard, evidence))
    return float(arrays[name]) if name in arrays else NAN


def _pair(standard: Standard, evidence: Evidence) -> Arrays:
    assert evidence.video is not None
    samples = None if evidence.sound is None else load_sound(evidence.sound).numpy()
    shown = Sight(frames=_Frames(evidence.video, len(evidence.shown.points)), points=evidence.shown.points, samples=samples)
    real, pair, portrait = None, evidence.pair, None
    if evidence.recording is not None and pair.recording is not None:
        real = Sight(frames=_Frames(pair.recording, len(evidence.recording.points)), points=evidence.recording.points)
    if evidence.portrait is not None and pair.portrait is not None:
        image = Portrait.open(pair.portrait).image
        portrait = (image, find_faces(image)[0])
    found = pair_figures(standard, shown, real=real, portrait=portrait)
    if "sync_offset" in found:
        found["sync_offset"] *= 1000 / MOTION_RATE_HZ
    return {name: np.array(value) for name, value in found.items()}


def _set(
    name: str, title: str, which: str, resamples: int, of: str, standard: Standard, weights: Weights, folder: Path | None
) -> SetFigure:
    what = (
        f"Fréchet distance between {of} of the generated and the recorded videos. Far too high for small sets, and comparable "
        "only between sets of the same size and recordings."
    )
    return SetFigure(
        name=name, title=title, topic="Whole set", unit="", better="lower", what=what, usable=_has_recording,
        over=partial(_over, partial(_features, standard, weights, folder, which)), resamples=resamples,
    )


def _has_recording(clip: Clip) -> bool:
    return clip.compared and clip.evidence().recording is not None


def _features(standard: Standard, weights: Weights, folder: Path | None, which: str, video: Path) -> np.ndarray:
    def work() -> Arrays:
        found = sample(standard, FileFrames(path=video))
        return {name: part for name, part in vars(found).items() if part is not None}

    return kept(folder, f"features {_VERSION}", (video, *weights.files), work)[which]


def _over(features: Callable[[Path], np.ndarray], clips: Sequence[Clip]) -> OfIndices:
    pairs = [clip.evidence().pair for clip in clips]
    ours = [features(pair.generated) for pair in pairs]
    theirs = [features(pair.recording) for pair in pairs if pair.recording is not None]

    def of(chosen: Int[np.ndarray, " n"]) -> float:
        return set_distance(*(np.concatenate([side[i] for i in chosen]) for side in (theirs, ours)))

    return of
