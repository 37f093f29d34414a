"""The sync expert: whether the lips in a video move as its sound says, and by how much one is late.

It judges windows of 15 frames. Two pairs of embeddings (`nets.sync`) see and hear each window, from the lips' landmarks and, if
crops of the mouth are given, from pixels; what a window looks like is compared with what it sounds like, at any offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor

from vivavoce.latent.mesh import rigid_fit
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.stretches import stretches
from vivavoce.latent.topology import JAW_POINTS, LANDMARKS, LIPS
from vivavoce.metrics import sync
from vivavoce.nets.sync import PARTS, SyncNetwork, grey
from vivavoce.speech import acoustic
from vivavoce.speech.analysis import Analysis
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, features

Image = UInt8[np.ndarray, "h w 3"]
Crops = UInt8[np.ndarray, "t s s"]
Shapes = list[tuple[slice, Float32[np.ndarray, "r n"]]]
"""Stretches of a clip, and how the landmarks SEEN move in each."""

SHIPPED = Path(str(resources.files("vivavoce") / "weights" / "sync.safetensors"))

FURTHEST = 15  # frames to each side that an offset is looked for
NEAREST_SHIFT, FURTHEST_SHIFT = 5, 25  # frames: 0.2 to 1 s, the shifts that in sync is told from
SPEAKING = 0.4  # share of a window's frames that have to be loud for it to count as speech
LOUD_DB = 25.0  # a frame this far below the clip's loud ones (95th percentile) is silent

CROP_SIDE = 56  # px of a crop
_CROP_HEIGHTS = 1.1  # what it shows: face heights
_MOUTH = (61, 291, 0, 17)  # its centre is the mean of these landmarks of the template
_LOWER_FACE = (
    152, 148, 377, 176, 400, 149, 378, 150, 379, 136, 365, 172, 397, 58, 288, 132, 361, 205, 425, 50, 280, 187, 411, 207, 427,
    57, 287, 43, 273, 106, 335, 182, 406, 83, 313, 18, 200, 199, 175, 2, 164, 167, 393, 165, 391, 92, 322, 186, 410, 212, 432,
    202, 422,
)  # fmt: skip
SEEN = np.unique(np.concatenate([LIPS, JAW_POINTS, _LOWER_FACE]))
"""The landmarks that the expert sees: lips, chin, and what they pull."""

_FRAME = round(SAMPLE_RATE_HZ / MOTION_RATE_HZ)  # samples of sound to a frame of the picture
_NOTHING_DB = -95.0  # dBFS: digital silence is never speech
_BULK = 50  # sound features computed at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """A clip as an expert sees and hears it, window by window; all vectors have length one.

    ``at``: the first frames of the windows in which a face is seen throughout. ``heard``: of every window of the sound, the k-th
    beginning with frame k. ``speech``: whether that window is of speech (`SPEAKING` of its frames).
    """

    at: Int[np.ndarray, " w"]
    seen: Float32[np.ndarray, "w d"]
    heard: Float32[np.ndarray, "n d"]
    speech: Bool[np.ndarray, " n"]

    def scores(self, offset: int = 0) -> Float[np.ndarray, " w"]:
        """Cosine of each window with the sound ``offset`` frames earlier: high if the video is so late. NaN beyond the sound."""
        wanted = self.at - offset
        inside = (wanted >= 0) & (wanted < len(self.heard))
        found = np.full(len(self.at), np.nan)
        found[inside] = (self.seen[inside] * self.heard[wanted[inside]]).sum(1)
        return found

    def spoken(self) -> Bool[np.ndarray, " w"]:
        """Which of the windows that are seen are of speech."""
        inside = self.at < len(self.heard)
        return np.where(inside, self.speech[np.minimum(self.at, len(self.heard) - 1)], False)


def distances_by_offset(windows: Windows, furthest: int = FURTHEST) -> Float[np.ndarray, " o"]:
    """Mean distance of what is seen and heard at offsets of -furthest to furthest frames; positive: the video is late."""
    apart = [np.sqrt(np.maximum(2 - 2 * windows.scores(o), 0)) for o in range(-furthest, furthest + 1)]
    if any(np.isnan(a).all() for a in apart):
        raise ValueError(
            f"{len(windows.at)} windows with a face and {len(windows.heard)} of sound are too few for offsets of up to "
            f"{furthest} frames: give a longer clip"
        )
    return np.array([np.nanmean(a) for a in apart])


def offset_and_confidence(windows: Windows, furthest: int = FURTHEST) -> tuple[int, float]:
    """Frames by which the video is late (negative: early), and how sure that is (`metrics.sync`)."""
    return sync.offset_and_confidence(distances_by_offset(windows, furthest))


def two_way(windows: Windows) -> Float[np.ndarray, " w"]:
    """For every window how often its own sound scores higher than one shifted by 0.2 to 1 s, ties counting half; NaN without."""
    own = windows.scores()
    shifts = [s for near in range(NEAREST_SHIFT, FURTHEST_SHIFT + 1) for s in (-near, near)]
    wins = []
    for shift in shifts:
        other = windows.scores(shift)
        wins.append(np.where(np.isnan(own + other), np.nan, (own > other) + 0.5 * (own == other)))
    some = ~np.isnan(wins).all(0)
    found = np.full(len(own), np.nan)
    found[some] = np.nanmean(np.array(wins)[:, some], 0)
    return found


class SyncExpert:
    """Holds constants only and may be shared."""

    def __init__(self, network: SyncNetwork):
        self.network = network.eval()
        self._analysis = Analysis(_BULK)
        self._silence = silent_feature(self._analysis)

    @classmethod
    def load(cls, path: Path | None = None) -> SyncExpert:
        """The expert saved in a file, by default the one that ships."""
        return cls(SyncNetwork.load(path or SHIPPED))

    def crop(self, image: Image, points: Float[np.ndarray, "478 3"]) -> UInt8[np.ndarray, "s s"]:
        """What the expert sees of one frame's pixels: see `mouth_crop`."""
        return mouth_crop(image, points, self.network.template.numpy())

    @torch.inference_mode()
    def __call__(
        self, points: Float[np.ndarray, "t 478 3"], crops: Crops | None, samples: Float[Tensor, " s"],
        parts: tuple[str, ...] | None = None,
    ) -> Windows:
        """A clip as the expert sees and hears it: landmarks (px, NaN where there is no face) and crops (`crop`) at 25 Hz, sound
        at 16 kHz. ``parts``: which pairs judge, of `nets.sync.PARTS`; by default all that there is something to see for.

        Raises ValueError where the arrays don't fit each other, the sound is shorter than a window, or no window shows a face.
        """
        parts = parts or (PARTS if crops is not None else PARTS[:1])
        _check(points, crops, parts)
        shapes = shapes_of(points, self.network.template.numpy(), self.network.config.window)
        sound = sound_features(samples, self._analysis)
        return self.windows(shapes, crops, sound, loud_frames(samples), parts)

    @torch.inference_mode()
    def windows(
        self, shapes: Shapes, crops: Crops | None, sound: Float[Tensor, "n 80"], loud: Bool[np.ndarray, " t"],
        parts: tuple[str, ...],
    ) -> Windows:
        """The same from what was computed before, by `shapes_of`, `sound_features` and `loud_frames`."""
        config = self.network.config
        margin = self._silence.expand(max(config.lead, 0), -1)
        heard_from = torch.cat([margin, sound[max(-config.lead, 0) :], margin])
        if len(heard_from) < config.sound:
            raise ValueError(f"the sound lasts {len(sound) / RATE_HZ:g} s: give more than {config.window / MOTION_RATE_HZ:g} s")
        if not shapes:
            raise ValueError(f"no {config.window} frames on end show a face turned to the camera: give another clip")
        normal = self.network.normalised(heard_from)[None]
        heard = [self.network.hear(part, normal)[0].numpy() for part in parts]
        seen = [np.concatenate([v.numpy() for v in self._see(part, shapes, crops)]) for part in parts]
        at = np.concatenate([np.arange(run.start, run.stop - config.window + 1) for run, _ in shapes])
        count = len(heard[0])
        padded = np.zeros(count + config.window - 1)
        padded[: len(loud)] = loud[: len(padded)]
        share = np.convolve(padded, np.ones(config.window), "valid") / config.window
        scale = np.float32(len(parts) ** -0.5)
        return Windows(
            at=at, seen=scale * np.concatenate(seen, 1), heard=scale * np.concatenate(heard, 1), speech=share >= SPEAKING - 1e-9,
        )

    def _see(self, part: str, shapes: Shapes, crops: Crops | None) -> Iterator[Tensor]:
        """Embeddings of the windows of each stretch."""
        if part == "landmarks":
            moved = [torch.from_numpy(shape) for _, shape in shapes]
            coordinates = self.network.coordinates(torch.cat(moved)).split([len(m) for m in moved])
            yield from (self.network.see(part, c[None])[0] for c in coordinates)
        else:
            assert crops is not None
            mean, spread = picture_of(crops, [run for run, _ in shapes])
            edge = (CROP_SIDE - self.network.config.side) // 2
            inner = slice(edge, edge + self.network.config.side)
            for run, _ in shapes:
                cut = torch.from_numpy(crops[run, inner, inner].astype(np.float32))
                yield self.network.see(part, grey(cut, torch.from_numpy(mean[inner, inner]), spread)[None])[0]


def _check(points: np.ndarray, crops: np.ndarray | None, parts: tuple[str, ...]) -> None:
    if points.ndim != 3 or points.shape[1:] != (LANDMARKS, 3):
        raise ValueError(f"the landmarks have the shape {points.shape}: give (frames, {LANDMARKS}, 3)")
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"there is no part {sorted(unknown)[0]!r}: choose of {', '.join(PARTS)}")
    if crops is None and "mouths" in parts:
        raise ValueError("the part 'mouths' judges pictures: give the crops too")
    if crops is not None and (crops.shape != (len(points), CROP_SIDE, CROP_SIDE) or crops.dtype != np.uint8):
        raise ValueError(
            f"the crops are {crops.dtype} of the shape {crops.shape}: give uint8 {(len(points), CROP_SIDE, CROP_SIDE)}, "
            "one for each frame of the landmarks"
        )


def shapes_of(
    points: Float[np.ndarray, "t 478 3"], template: Float[np.ndarray, "478 3"], shortest: int
) -> Shapes:
    """The stretches of a clip that can be believed, and how the landmarks SEEN move in them: away from their mean over the clip,
    without the head's motion, in face heights, flat."""
    runs = [] if np.isnan(points).all() else stretches(points, shortest=shortest)
    if not runs:
        return []
    tracked = np.concatenate([points[run] for run in runs]).astype(np.float64)
    rough = rigid_fit(template, tracked).remove(tracked).mean(0)  # this person's face, to which the head's pose fits better
    shape = rigid_fit(rough, tracked).remove(tracked)[:, SEEN]
    shape = (shape - shape.mean(0)).reshape(len(shape), -1).astype(np.float32)
    return list(zip(runs, np.split(shape, np.cumsum([run.stop - run.start for run in runs])[:-1]), strict=True))


def mouth_crop(
    image: Image, points: Float[np.ndarray, "478 3"], template: Float[np.ndarray, "478 3"]
) -> UInt8[np.ndarray, "s s"]:
    """The mouth in grey, upright, of one size and seen from the front as far as a flat map can: what lies where the template's
    mouth would be in the head's pose, so that an opening mouth does not move the crop. All 0 where the landmarks are NaN."""
    if np.isnan(points).any():
        return np.zeros((CROP_SIDE, CROP_SIDE), np.uint8)
    pose = rigid_fit(template, points[None])
    grain = pose.scale[0] * pose.rotation[0, :2, :2] * _CROP_HEIGHTS / CROP_SIDE
    centre = pose.apply(template[list(_MOUTH)].mean(0)[None, None])[0, 0, :2]
    place = np.concatenate([grain, (centre - grain @ np.full(2, (CROP_SIDE - 1) / 2))[:, None]], 1)
    scale = float(np.sqrt(abs(np.linalg.det(grain))))
    picture = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale > 1.5:  # px of the picture to one of the crop: what a crop cannot show would alias
        picture = cv2.resize(picture, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        place = place / scale
        place[:, 2] += (1 / scale - 1) / 2  # pixel centres
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, place, (CROP_SIDE, CROP_SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def picture_of(crops: Crops, runs: list[slice]) -> tuple[Float32[np.ndarray, "s s"], float]:
    """Mean picture and standard deviation, in levels, of the crops in these stretches."""
    shown = np.concatenate([crops[run] for run in runs])
    return shown.mean(0, dtype=np.float32), float(shown.std()) + 5.0  # a blank picture has nothing to be divided by


def sound_features(samples: Float[Tensor, " s"], analysis: Analysis) -> Float[Tensor, "n 80"]:
    """Log-mel energies at 50 Hz; not what the phonetic network makes of them for the motion network: a judge has its own ear."""
    return features(analysis, samples).values[0, :, : acoustic.WIDTH]


def silent_feature(analysis: Analysis) -> Float[Tensor, " 80"]:
    """What silence sounds like."""
    return sound_features(torch.zeros(SAMPLE_RATE_HZ), analysis)[RATE_HZ // 2]


def loud_frames(samples: Float[Tensor, " s"]) -> Bool[np.ndarray, " t"]:
    """Frames of the picture whose sound is less than LOUD_DB below that of the clip's loud ones."""
    count = -(-len(samples) // _FRAME)
    cut = np.zeros(count * _FRAME)
    cut[: len(samples)] = samples.numpy()
    power = 10 * np.log10((cut.reshape(count, _FRAME) ** 2).mean(1) + 1e-10)
    return (power > np.percentile(power, 95) - LOUD_DB) & (power > _NOTHING_DB)
