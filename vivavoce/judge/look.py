"""A video looked at once: where the face is in every frame, and what the pictures tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Generic, TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from vivavoce.judge.kept import Arrays, kept
from vivavoce.latent.mesh import face_box, head_rotation, mouth_box
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.plate import person_of
from vivavoce.latent.topology import LANDMARKS, OVAL
from vivavoce.latent.tracker import FaceTracker, find_faces
from vivavoce.media.files import require_file
from vivavoce.media.portrait import Portrait
from vivavoce.media.video import read_video
from vivavoce.metrics.pictures import background_stability, border_change, crop, mean_colour, psnr, sharpness, ssim

T = TypeVar("T")
Image = UInt8[np.ndarray, "h w 3"]
Describe = Callable[[np.ndarray, np.ndarray], "np.ndarray | None"]

RATE_HZ = float(MOTION_RATE_HZ)
LEAST_FOUND = 0.5  # share of frames with a face, under which there is nothing to judge
SHARP_EVERY = 5  # frames
MOUTH_SIDE, FACE_SIDE = 96, 192  # px that sharpness is measured at, so that the video's size does not matter
SHOTS = 16  # frames at most that are kept to be looked at closely, spread over the whole video
DESCRIBED = 8  # about so many of them are asked whose face it is: each takes a tenth of a second
SHOT_SIDE = 640  # px
THUMB_SIDE = 144
_SHAPE_SHARE = 0.02  # by which proportions may differ
_PERSONS = 4  # shots whose person is cut out to find the background
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of a video.

    ``points``: landmarks in px at RATE_HZ from the first frame on, gaps bridged linearly. ``found``: whether each frame of the
    file had a face; ``frame_rate_hz``: of the file. ``mouth_sharp``, ``face_sharp``: mean sharpness of crops. ``border``: its
    border's change from each frame of the file to the next, levels. ``colours``: each frame's mean colour, levels.
    ``background``: standard deviation over time of pixels that never show the person, levels; NaN where none is known.
    ``descriptors``: face descriptors of shots that had one; ``described``: whether they were asked for. ``thumbs``: the shots,
    small, at ``times`` (seconds).
    """

    points: Float32[np.ndarray, "t 478 3"]
    found: Bool[np.ndarray, " n"]
    size: tuple[int, int]
    frame_rate_hz: float
    mouth_sharp: float
    face_sharp: float
    border: Float[np.ndarray, " m"]
    colours: Float[np.ndarray, "n 3"]
    background: float
    described: bool
    descriptors: Float[np.ndarray, "k 128"]
    thumbs: UInt8[np.ndarray, "s h w 3"]
    times: Float[np.ndarray, " s"]

    @property
    def seconds(self) -> float:
        return len(self.points) / RATE_HZ

    def rotation(self) -> Float[np.ndarray, "t 3"]:
        """Pitch, yaw and roll against the median frame, radians."""
        return head_rotation(self.points)

    def first(self, frames: int) -> Look:
        """The same with the landmarks of so many frames only."""
        return replace(self, points=self.points[:frames])


@dataclass(frozen=True, kw_only=True)
class Still:
    """A portrait: sharpness of its face, and the face's descriptor where there is one."""

    face_sharp: float
    descriptor: Float[np.ndarray, " 128"] | None


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How like the recording's the frames are: means over the pairs of frames that were compared. NaN where shapes differ."""

    psnr: float
    ssim: float


def look(video: Path, folder: Path | None, describe: Describe | None = None, stop: Event | None = None) -> Look:
    """Watches a video, or remembers it; ``stop``: ends that early from another thread. Raises as `read_video` does, and
    ValueError where there is a face in too few frames."""
    require_file(video, "video")
    described = describe is not None
    arrays = kept(folder, f"look {_VERSION} {described}", (video,), partial(_watch, video, describe, stop))
    values: dict = dict(arrays)
    for field in fields(Look):
        if field.type in ("float", "bool"):
            values[field.name] = values[field.name].item()
    return Look(**values | {"size": tuple(int(side) for side in values["size"])})


def look_at_portrait(picture: Path, folder: Path | None, describe: Describe | None = None) -> Still:
    """The largest face of a picture. Raises as `Portrait.open` does, and ValueError where there is no face."""

    require_file(picture, "portrait")

    def work() -> Arrays:
        image = Portrait.open(picture).image
        faces = find_faces(image)
        if not faces:
            raise ValueError(f"{picture} shows no face: give the portrait that was animated")
        sharp = _sharp(image, face_box(faces[0]), FACE_SIDE)
        found = describe(image, faces[0]) if describe is not None else None
        return {"face_sharp": np.array(sharp), "descriptor": np.zeros(0) if found is None else found}

    arrays = kept(folder, f"portrait {_VERSION} {describe is not None}", (picture,), work)
    descriptor = arrays["descriptor"]
    return Still(face_sharp=float(arrays["face_sharp"]), descriptor=descriptor if len(descriptor) else None)


def compare(generated: Path, recording: Path, folder: Path | None) -> Likeness:
    """The frames of two videos side by side, at most SHOTS pairs. Raises as `read_video` does."""

    def work() -> Arrays:
        shots: _Shots[tuple[np.ndarray, np.ndarray]] = _Shots()
        for ours, theirs in zip(read_video(generated), read_video(recording), strict=False):  # the shorter one ends it
            shots.offer(partial(_both, ours.image, theirs.image))
        pairs = [(_resized(a, b.shape), b) for a, b in shots.kept if _same_shape(a, b)]
        if not pairs:
            return {"psnr": np.array(np.nan), "ssim": np.array(np.nan)}
        found = {"psnr": [psnr(a, b) for a, b in pairs], "ssim": [ssim(a, b) for a, b in pairs]}
        return {name: np.array(np.mean(values)) for name, values in found.items()}

    arrays = kept(folder, f"compare {_VERSION}", (generated, recording), work)
    return Likeness(psnr=float(arrays["psnr"]), ssim=float(arrays["ssim"]))


def _both(a: Image, b: Image) -> tuple[Image, Image]:
    return a, b


def _same_shape(a: Image, b: Image) -> bool:
    """Whether the sides have the same proportions; pictures of others show other things."""
    return abs(a.shape[0] * b.shape[1] / (a.shape[1] * b.shape[0]) - 1) < _SHAPE_SHARE


class _Shots(Generic[T]):
    """Every so many of the things offered, never more than SHOTS: each time they are full, every second one goes."""

    def __init__(self) -> None:
        self.kept: list[T] = []
        self._stride = 1
        self._count = 0

    def offer(self, make: Callable[[], T]) -> None:
        if self._count % self._stride == 0:
            if len(self.kept) == SHOTS:
                self.kept = self.kept[::2]
                self._stride *= 2
            if self._count % self._stride == 0:
                self.kept.append(make())
        self._count += 1


@dataclass(frozen=True, kw_only=True)
class _Shot:
    image: Image
    time: float
    points: Float32[np.ndarray, "478 3"] | None


def _watch(video: Path, describe: Describe | None, stop: Event | None) -> Arrays:
    points: list[np.ndarray] = []
    colours: list[np.ndarray] = []
    times: list[float] = []
    mouths: list[float] = []
    faces: list[float] = []
    borders: list[float] = []
    shots: _Shots[_Shot] = _Shots()
    previous: np.ndarray | None = None
    size = (0, 0)
    with FaceTracker() as track:
        for frame in read_video(video):
            if stop is not None and stop.is_set():
                raise InterruptedError(f"looking at {video} was stopped")
            image = frame.image
            found = track(image)
            if found is not None and len(times) % SHARP_EVERY == 0:
                mouths.append(_sharp(image, mouth_box(found), MOUTH_SIDE))
                faces.append(_sharp(image, face_box(found), FACE_SIDE))
            if previous is not None and previous.shape == image.shape:
                borders.append(border_change(previous, image))
            colours.append(mean_colour(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)))
            shots.offer(partial(_shot, image, frame.time, found))
            points.append(np.full((LANDMARKS, 3), np.nan, np.float32) if found is None else found)
            times.append(frame.time)
            previous, size = image, (image.shape[1], image.shape[0])
    seen = np.array([not np.isnan(p[0, 0]) for p in points])
    if seen.mean() < LEAST_FOUND:
        share = f"{seen.mean():.0%} of its {len(seen)} frames"
        raise ValueError(f"{video} has a face in only {share}: give a video of a talking face")
    closely = shots.kept[:: max(1, len(shots.kept) // DESCRIBED)] if describe is not None else []
    described = [d for s in closely if describe and s.points is not None and (d := describe(s.image, s.points)) is not None]
    return {
        "points": at_rate(np.stack(points), np.array(times)), "found": seen, "size": np.array(size),
        "frame_rate_hz": np.array((len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else RATE_HZ),
        "mouth_sharp": np.array(_mean(mouths)), "face_sharp": np.array(_mean(faces)), "border": np.array(borders),
        "colours": np.stack(colours), "background": np.array(_background(shots.kept)),
        "described": np.array(describe is not None), "descriptors": np.array(described).reshape(len(described), -1),
        "thumbs": _thumbs(shots.kept), "times": np.array([s.time - times[0] for s in shots.kept]),
    }


def at_rate(points: Float32[np.ndarray, "n 478 3"], times: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "t 478 3"]:
    """Landmarks at RATE_HZ from the first frame to the last, linear between frames; frames of NaN are bridged first."""
    found = ~np.isnan(points[:, 0, 0])
    index = np.arange(len(points))
    clock = np.arange(0, times[-1] - times[0] + 1e-6, 1 / RATE_HZ)
    bridged = [np.interp(index, index[found], c[found]) for c in points.reshape(len(points), -1).T]
    sampled = np.stack([np.interp(clock, times - times[0], c) for c in bridged], 1)
    return sampled.reshape(len(clock), *points.shape[1:]).astype(np.float32)


def _shot(image: Image, time: float, points: Float32[np.ndarray, "478 3"] | None) -> _Shot:
    scale = min(1.0, SHOT_SIDE / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return _Shot(image=image, time=time, points=None if points is None else points * np.float32(scale))


def _sharp(image: Image, box: tuple[float, float, float, float], side: int) -> float:
    part = crop(image, box, side)
    return float("nan") if part is None else sharpness(part)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _background(shots: list[_Shot]) -> float:
    """How far the pixels change in which no person was seen; NaN where the person cannot be told from the rest."""
    usable = [shot for shot in shots if shot.points is not None and shot.image.shape == shots[0].image.shape]
    never = np.ones(shots[0].image.shape[:2], bool)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(2, len(never) // 40) + 1,) * 2)
    for shot in usable[:: max(1, len(usable) // _PERSONS)]:
        assert shot.points is not None
        face = np.zeros(never.shape, np.uint8)
        cv2.fillConvexPoly(face, shot.points[OVAL, :2].round().astype(np.int32), 1)
        person = person_of(shot.image, face.astype(bool)) if face.any() else None
        if person is None:
            return float("nan")
        never &= cv2.dilate((person > 0.05).astype(np.uint8), reach) == 0
    if len(usable) < 2 or never.mean() < 0.02:
        return float("nan")
    return background_stability([shot.image for shot in usable], never)


def _thumbs(shots: list[_Shot]) -> UInt8[np.ndarray, "s h w 3"]:
    """The shots with THUMB_SIDE px on the longer side."""
    height, width = shots[0].image.shape[:2]
    scale = THUMB_SIDE / max(height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    return np.stack([_resized(shot.image, shape) for shot in shots])


def _resized(image: Image, shape: tuple[int, ...]) -> Image:
    if image.shape == shape:
        return image
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA if image.shape[0] > shape[0] else cv2.INTER_CUBIC)
