"""MotionSpace: the face tracker as encoder, the warping renderer as decoder."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.latent.correction import Correction, Inference
from vivavoce.latent.cover import mouth_is_covered
from vivavoce.latent.framing import chosen_face, extent, window
from vivavoce.latent.mesh import FaceModel, lid_gap, rotation_vectors
from vivavoce.latent.motion import MOTION_RATE_HZ, Layout, Motion
from vivavoce.latent.mouth import EYES_MM
from vivavoce.latent.refine import Refiner
from vivavoce.latent.retarget import Rest, landmarks_of, motion_of, rest_of_clip, rest_of_picture
from vivavoce.latent.space import Frame, LatentSpec
from vivavoce.latent.topology import BROWS, LANDMARKS
from vivavoce.latent.tracker import FaceTracker, square_crop
from vivavoce.latent.warp import Draft, Prepared, Renderer, prepare
from vivavoce.media.portrait import Portrait

SMALLEST_FACE = 64  # px of the face's larger side
LARGEST_YAW = 45.0  # degrees from the front
YAW_READ = 0.77  # share of a turned head's yaw that its mesh has (rendered turns of 25 degrees, docs/log.md)
DEFAULT_CROP = 512  # px
AHEAD_PX = 8 * 600**2  # of the frames that are being painted
REFINING = "refiner"  # what the thread is called that refines beside the others
DEFAULT_LONGEST = 1280  # px: the longest side of a whole picture, unless asked otherwise
BROWS_READ = 0.73  # share of a drawn brow's movement that the tracker reads from the picture (docs/log.md)
WIDTH_READ = 0.83  # the same of the mouth's width (docs/log.md)
OPENING_AS_WIDTH = 0.07  # and how much wider it reads a mouth for each unit that it opens
_ROOM = 8  # px around what is cut out and enlarged


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A portrait made ready: everything about it that is computed once.

    ``canvas``: the output picture at rest. ``corner``: (x, y) px of the moving square in it. ``prepared``: that square for
    the renderer. ``rest``: the face at rest in the square's pixels. ``lids``: how far the blink direction has to go to shut these
    eyes. ``number``: a checksum of the picture
    and of which face in it moves.
    """

    canvas: Frame
    corner: tuple[int, int]
    prepared: Prepared
    rest: Rest
    lids: float
    number: int

    def seed(self, take: int) -> int:
        """Seed of noise and blinks in this portrait's n-th take: portraits that hear the same don't nod and blink as one."""
        return (self.number + take * 0x9E3779B1) % 2**32  # 32 bits are what torch's generator tells apart

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the output, px."""
        return self.canvas.shape[1], self.canvas.shape[0]


class MotionSpace:
    """Pictures to and from packed motion at MOTION_RATE_HZ. Holds constants only."""

    def __init__(self, model: FaceModel, refiner: Inference | None = None):
        self.model, self.refiner, self._drawn = model, refiner, as_drawn(model)
        self.layout = Layout.of(model.widths())
        self.spec = LatentSpec(event=(self.layout.width,), rate_hz=MOTION_RATE_HZ)

    @classmethod
    def load(cls, face: Path, refiner: Path | None = None, *, device: torch.device | str = "cpu") -> MotionSpace:
        """The space of the face model and the refiner in safetensors files; without a refiner frames stay as they are warped and
        drawn. ``device``: where the refiner works."""
        return cls(FaceModel.load(face), Inference(Refiner.load(refiner), device) if refiner else None)

    def reference(self, portrait: Portrait, *, size: int | None = None, crop: bool = False) -> Reference:
        """Prepare a portrait for output as a whole picture or cropped to head and shoulders.

        ``size``: px of the longest side of the output (of both sides of a crop). ValueError where the picture has no face, not
        the one asked for, or one that is too small or turned too far away.
        """
        face = self._pick(portrait)
        height, width = portrait.image.shape[:2]
        low, (side, _) = window(face, portrait.image.shape)
        if crop:
            resolution = size or DEFAULT_CROP
            canvas, origin, scale = _cropped(portrait.image, low, side, resolution)
            corner, span, free = (0, 0), resolution, (True, True, True, False)
            points = face * scale - np.array([*(origin * scale), 0.0])
        else:
            scale = (size or min(DEFAULT_LONGEST, max(height, width))) / max(height, width)
            canvas = _resized(portrait.image, scale)
            span = min(round(side * scale), canvas.shape[0], canvas.shape[1])
            limit = np.array([canvas.shape[1] - span, canvas.shape[0] - span])
            x, y = np.clip(np.round(low * scale).astype(int), 0, limit)
            corner = (int(x), int(y))
            points = face * scale - np.array([x, y, 0.0])
            free = (x == 0, y == 0, x == limit[0], False)  # necks and shoulders don't slide along the lower border
        square = np.ascontiguousarray(canvas[corner[1] : corner[1] + span, corner[0] : corner[0] + span])
        rest = rest_of_picture(points, self.model)
        return Reference(
            canvas=canvas, corner=corner, prepared=prepare(square, points.astype(np.float32), free), rest=rest,
            lids=self.blink_amount(rest.neutral), number=zlib.crc32(portrait.image.tobytes(), portrait.face or 0),
        )

    def track(self, frames: Iterable[Frame]) -> Float[np.ndarray, "t 478 3"]:
        """Landmarks in pixels; short gaps are bridged. ValueError where a face is found in fewer than half of the frames."""
        missing = np.full((LANDMARKS, 3), np.nan, np.float32)
        with FaceTracker() as tracker:
            raw = [tracker(frame) for frame in frames]
        if not raw:
            raise ValueError("the video has no frames: give one with a face in it")
        points = np.stack([missing if p is None else p for p in raw])
        found = ~np.isnan(points[:, 0, 0])
        if found.mean() < 0.5:
            raise ValueError(f"a face was found in {found.sum()} of {len(found)} frames: give a video that shows one throughout")
        index = np.arange(len(points))
        flat = points.reshape(len(points), -1)
        return np.stack([np.interp(index, index[found], c[found]) for c in flat.T], 1).reshape(points.shape)

    def encode(self, frames: Iterable[Frame], *, from_first: bool = False) -> Float[Tensor, "1 t d"]:
        """Motion of the face in a recording, relative to its own neutral face and mean pose, packed.

        ``from_first``: relative to what its first frame would be as a portrait instead, so that on that portrait it gives the
        recording back.
        """
        points = self.track(frames)
        rest = rest_of_picture(points[0], self.model) if from_first else rest_of_clip(points, self.model)
        return self.layout.pack(motion_of(points, rest, self.model))[None]

    def with_blinks(self, motion: Motion, closure: Float[np.ndarray, " t"], lids: float) -> Motion:
        """The motion with lids closed by ``closure`` (0 to 1) on top, for eyes with this `Reference.lids`."""
        amount = torch.from_numpy(closure.astype(np.float32))[:, None]
        shut = lids * torch.from_numpy(self.model.blink_direction.astype(np.float32))
        return Motion(**{**vars(motion), "eyelids": (1 - amount) * motion.eyelids + amount * shut})

    def painter(self, reference: Reference, *, ahead: int = 1) -> Painter:
        """Makes this portrait's frames; one per session. ``ahead``: see `Painter`."""
        return Painter(reference, self.refiner, ahead)

    def landmarks(self, motion: Motion, reference: Reference) -> Float[np.ndarray, "t 478 3"]:
        """Where the portrait's landmarks are drawn, px of the moving square."""
        return landmarks_of(motion, reference.rest, self._drawn)

    def _pick(self, portrait: Portrait) -> Float[np.ndarray, "478 3"]:
        face = chosen_face(portrait)
        if extent(face) < SMALLEST_FACE:
            raise ValueError(
                f"the face in {portrait.name} is {extent(face):.0f} pixels large, at least {SMALLEST_FACE} are needed: "
                "give a larger picture"
            )
        yaw = np.degrees(self._yaw(face)) / YAW_READ
        if abs(yaw) > LARGEST_YAW:
            raise ValueError(
                f"the face in {portrait.name} is turned {abs(yaw):.0f} degrees away, at most {LARGEST_YAW:.0f} can be animated: "
                "give a picture taken more from the front"
            )
        if mouth_is_covered(portrait.image, face, float(np.linalg.norm(face[33] - face[263])) / EYES_MM):
            raise ValueError(
                f"the mouth of the face in {portrait.name} is covered or cannot be made out: give a picture that shows the lips"
            )
        return face

    def _yaw(self, face: Float[np.ndarray, "478 3"]) -> float:
        _, pose = self.model.normalise(face[None])
        return float(rotation_vectors(pose.rotation)[0, 1])

    def blink_amount(self, neutral: Float[np.ndarray, "478 3"]) -> float:
        """How far along the face model's blink direction these eyes shut."""
        per_unit = self.model.displacement({
            "lips_jaw": np.zeros((1, len(self.model.expression["lips_jaw"]))),
            "cheeks_brows": np.zeros((1, len(self.model.expression["cheeks_brows"]))),
            "eyelids": self.model.blink_direction[None].astype(np.float64),
        })[0]
        open_gap = lid_gap(neutral)
        return open_gap / (open_gap - lid_gap(neutral + per_unit))


def as_drawn(model: FaceModel) -> FaceModel:
    """The face model whose brows and corners of the mouth move so far that the tracker reads the motion they were given."""
    near = np.linalg.norm(model.mean[:, None, :2] - model.mean[None, BROWS, :2], axis=-1).min(1)
    gain = 1 + (1 / BROWS_READ - 1) * np.exp(-((near / 0.15) ** 2))
    brows = model.expression["cheeks_brows"] * gain[:, None].astype(np.float32)
    lips, directions = model.lips(), model.expression["lips_jaw"]
    opening, width = lips
    wider = (width - OPENING_AS_WIDTH * opening) / WIDTH_READ - width
    likeliest = np.tensordot(np.linalg.pinv(lips)[:, 1], directions, 1)  # to be wider by 1 and no more open
    corners = (directions + np.multiply.outer(wider, likeliest)).astype(np.float32)
    return replace(model, expression={**model.expression, "cheeks_brows": brows, "lips_jaw": corners})


def paste(frame: Frame, square: Frame, corner: tuple[int, int]) -> None:
    """Put the rendered square into the output picture; its border is the portrait's own, so there is no seam."""
    x, y = corner
    frame[y : y + square.shape[0], x : x + square.shape[1]] = square


@dataclass
class _Begun:
    """A frame that is being painted: warped, and what the network says about it, once it was asked."""

    draft: Draft
    said: Future[list[Correction]] | Correction | None = None


class Painter:
    """Landmarks to output pictures for one portrait; owns scratch buffers, so one per session.

    Frames are begun and, in the same order, taken. ``ahead``: how many may be begun before the first of them is taken. On a CPU a
    thread of its own refines them while others are warped: worth it where a file is made, and a delay where somebody watches. Of
    large pictures, whose warping takes longer than their refining, fewer are held at once. A GPU refines all together.
    """

    def __init__(self, reference: Reference, refiner: Inference | None, ahead: int = 1):
        self.reference, self._refiner = reference, refiner
        ahead = max(1, min(ahead, AHEAD_PX // reference.prepared.image[..., 0].size))
        batch = refiner.batch if refiner else 1
        self._beside = ThreadPoolExecutor(1, REFINING) if refiner and batch == 1 and ahead > 1 else None
        self._most = ahead if self._beside else batch
        self._renderer = Renderer(reference.prepared)
        self._begun: deque[_Begun] = deque()

    @property
    def waiting(self) -> int:
        """How many frames were begun and not taken."""
        return len(self._begun)

    @property
    def room(self) -> int:
        """How many frames are best begun before the next is taken."""
        return self._most - self.waiting if self._beside or not self._begun else 0

    def begin(self, points: Float[np.ndarray, "478 3"]) -> None:
        """Warp a frame with the face's landmarks there, px of the moving square."""
        draft = self._renderer.draft(self._renderer.geometry(points.astype(np.float32)))
        said = self._beside.submit(self._refiner, [draft.view]) if self._beside and self._refiner else None
        self._begun.append(_Begun(draft, said))

    def take(self) -> Frame:
        """The output picture of the frame that was begun first, of those there are."""
        if self._refiner and self._begun[0].said is None:
            for begun, correction in zip(self._begun, self._refiner([b.draft.view for b in self._begun]), strict=True):
                begun.said = correction
        first = self._begun.popleft()
        said = self._refined(first.said) if isinstance(first.said, Future) else first.said
        return self._whole(self._renderer.finish(first.draft, said))

    def drop(self, count: int) -> None:
        """Leave out so many of the frames that were begun, first those that were begun first."""
        for _ in range(count):
            self._begun.popleft()

    def paint(self, landmarks: Iterable[Float[np.ndarray, "478 3"]]) -> Iterator[Frame]:
        """An output picture for each of these landmarks."""
        assert not self._begun
        left = iter(landmarks)
        while True:
            for points in islice(left, self.room):
                self.begin(points)
            if not self._begun:
                return
            yield self.take()

    def _refined(self, future: Future[list[Correction]]) -> Correction:
        """What becomes of a frame that is being refined."""
        (correction,) = future.result()
        return correction

    def _whole(self, square: Frame) -> Frame:
        if square.shape == self.reference.canvas.shape:
            return square
        frame = self.reference.canvas.copy()
        paste(frame, square, self.reference.corner)
        return frame


def _resized(image: Frame, scale: float) -> Frame:
    if scale == 1:
        return image.copy()
    height, width = image.shape[:2]
    size = max(2, round(width * scale)), max(2, round(height * scale))
    if scale < 1:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _enlarged(image, size)


def _enlarged(image: Frame, size: tuple[int, int]) -> Frame:
    """The picture at a larger size (width, height), so that it is nearly itself again when reduced: interpolation alone blurs
    what is finest in it. What it lacked is added once (iterative back-projection, Irani and Peleg 1991)."""
    once = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    lost = image - cv2.resize(once, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    once += cv2.resize(lost, size, interpolation=cv2.INTER_CUBIC)
    return once.round().clip(0, 255).astype(np.uint8)


def _cropped(
    image: Frame, low: Float[np.ndarray, " 2"], side: float, resolution: int
) -> tuple[Frame, Float[np.ndarray, " 2"], float]:
    """`square_crop` of the square that begins at ``low``, enlarged by `_resized` where the picture is smaller."""
    scale = resolution / side
    if scale <= 1:
        return square_crop(image, low + side / 2, side, resolution)
    x, y = first = np.maximum(np.floor(low).astype(int) - _ROOM, 0)
    right, lower = np.ceil(low + side).astype(int) + _ROOM
    part = image[y:lower, x:right]
    enlarged = _resized(part, scale)
    exact = np.array(enlarged.shape[1::-1]) / part.shape[1::-1]  # sides are whole numbers of px
    canvas, _, _ = square_crop(enlarged, (low - first + side / 2) * exact, resolution, resolution)
    return canvas, low, scale
