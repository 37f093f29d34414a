"""Controlled damage: recorded motion, or the pictures drawn from it, made worse in one known way and by known degrees.

Everything else stays as it is, noise is an argument, and the undamaged amount changes nothing: so what a figure does along the
amounts is the figure's answer to that damage alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vivavoce.latent.mesh import eye_opening, face_height
from vivavoce.latent.motion import MOTION_RATE_HZ, POSE, Motion
from vivavoce.latent.motion_space import MotionSpace
from vivavoce.latent.space import Frame
from vivavoce.latent.topology import RIGID, SKIN
from vivavoce.train.data import without_blinks
from vivavoce.train.takes import Take, drawn, recorded_motion

SOFT_EDGE = 0.08  # of the blended face's hull, in face heights
HULL_KEPT = 0.9  # of its size, so that the edge lies on skin


@dataclass(frozen=True, kw_only=True)
class Damage:
    """``amounts``: in order, in ``unit``; ``intact``, which is one of them, changes nothing. Either of the other two is there:
    ``motion``: of (motion, amount, noise "t k" standard normal, the eyes' recorded opening); ``pictures``: of (scene, amount)."""

    name: str
    says: str
    unit: str
    amounts: tuple[float, ...]
    intact: float = 0.0
    motion: Callable[[Motion, float, Tensor, Float[np.ndarray, " t"]], Motion] | None = None
    pictures: Callable[[Scene, float], Iterable[Frame]] | None = None

    def __post_init__(self) -> None:
        assert (self.motion is None) != (self.pictures is None), self.name
        assert self.intact in self.amounts and list(self.amounts) == sorted(self.amounts), self.amounts


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Pictures of a take under its own motion. ``points``: the landmarks they were drawn by, px of the pictures. ``noise``:
    standard normal, a number a frame. ``other``: the pictures and points of another person who does the same."""

    frames: Sequence[Frame]
    points: Float[np.ndarray, "t 478 3"]
    noise: Float[np.ndarray, " t"]
    other: Callable[[], tuple[Sequence[Frame], Float[np.ndarray, "t 478 3"]]]


def delayed(motion: Motion, seconds: float, *_: object) -> Motion:
    """Lips and jaw so much later; they wait in their first place."""
    return _later(motion, seconds, ("lips_jaw",))


def lagging(motion: Motion, seconds: float, *_: object) -> Motion:
    """The head so much later; it waits in its first pose."""
    return _later(motion, seconds, POSE)


def _later(motion: Motion, seconds: float, fields: Sequence[str]) -> Motion:
    index = np.arange(len(motion))
    late = {}
    for name in fields:
        values = vars(motion)[name]
        moved = [np.interp(index - seconds * MOTION_RATE_HZ, index, column) for column in values.double().numpy().T]
        late[name] = torch.from_numpy(np.stack(moved, 1)).to(values)
    return replace(motion, **late)


def widened(motion: Motion, factor: float, *_: object) -> Motion:
    """Lips and jaw so much further from where lips are closed; 0 shuts them for good."""
    return motion.amplified({"lips_jaw": factor})


def quivering(motion: Motion, deviations: float, noise: Tensor, _: object) -> Motion:
    """White noise on lips and jaw, in standard deviations of the face model's directions."""
    return replace(motion, lips_jaw=motion.lips_jaw + deviations * noise[:, : motion.lips_jaw.shape[-1]])


def frozen(motion: Motion, share: float, *_: object) -> Motion:
    """So much of the head's movement taken away; 1 holds it in the portrait's pose."""
    return motion.amplified(dict.fromkeys(POSE, 1 - share))


def trembling(motion: Motion, degrees: float, noise: Tensor, _: object) -> Motion:
    """White noise on the head's three angles."""
    return replace(motion, rotation=motion.rotation + np.radians(degrees) * noise[:, :3])


def staring(motion: Motion, share: float, _: Tensor, opening: Float[np.ndarray, " t"]) -> Motion:
    """So much of each blink taken away; ``opening``: of the recorded eyes."""
    lids = motion.eyelids.double().numpy()
    open_lids = torch.from_numpy(without_blinks(lids, opening)).to(motion.eyelids)
    return replace(motion, eyelids=torch.lerp(motion.eyelids, open_lids, share))


def impassive(motion: Motion, share: float, *_: object) -> Motion:
    """So much of the movement of cheeks and brows taken away; 1 leaves them where they are on average."""
    mean = motion.cheeks_brows.mean(0, keepdim=True)
    return replace(motion, cheeks_brows=torch.lerp(motion.cheeks_brows, mean.expand_as(motion.cheeks_brows), share))


def blurred(scene: Scene, percent: float) -> Iterator[Frame]:
    """A Gaussian blur, its deviation in percent of the face's height."""
    sigma = percent / 100 * float(np.median(face_height(scene.points)))
    for frame in scene.frames:
        yield cv2.GaussianBlur(frame, (0, 0), sigma) if sigma > 0 else frame


def drifting(scene: Scene, levels_per_second: float) -> Iterator[Frame]:
    """Colours that turn warmer and warmer: red rises and blue falls by so many of 255 levels a second."""
    for i, frame in enumerate(scene.frames):
        shift = levels_per_second * i / MOTION_RATE_HZ * np.array([1.0, 0.0, -1.0])
        yield _levels(frame + shift)


def flickering(scene: Scene, levels: float) -> Iterator[Frame]:
    """Brightness that changes from picture to picture by white noise of so many of 255 levels."""
    for frame, noise in zip(scene.frames, scene.noise, strict=True):
        yield _levels(frame + levels * noise)


def blended(scene: Scene, share: float) -> Iterator[Frame]:
    """So much of another person's face, which does the same, laid on this one."""
    if share == 0:
        yield from scene.frames
        return
    others, theirs = scene.other()
    for frame, points, other, their in zip(scene.frames, scene.points, others, theirs, strict=True):
        size = (frame.shape[1], frame.shape[0])
        onto = similarity(their[RIGID, :2], points[RIGID, :2])
        laid = cv2.warpAffine(other, onto, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        part = share * _hull(points, size)[..., None]
        yield _levels(frame + part * (laid.astype(np.float64) - frame))


def similarity(source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "2 3"]:
    """The turn, size and shift that take points nearest to others (least squares), as OpenCV wants it."""
    a, b = (points @ np.array([1, 1j]) for points in (source, target))
    centred = a - a.mean()
    factor = np.vdot(centred, b - b.mean()) / np.vdot(centred, centred)
    shift = b.mean() - factor * a.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def _hull(points: Float[np.ndarray, "478 3"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """1 on the face and 0 off it, with a soft edge."""
    skin = points[:SKIN, :2]
    inner = skin.mean(0) + HULL_KEPT * (skin - skin.mean(0))
    mask = np.zeros((size[1], size[0]), np.float64)
    cv2.fillConvexPoly(mask, cv2.convexHull(inner.round().astype(np.int32)), 1.0)
    return cv2.GaussianBlur(mask, (0, 0), max(SOFT_EDGE * float(face_height(points)), 0.5))


def _levels(values: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


DAMAGES: tuple[Damage, ...] = (
    Damage(name="lips late", says="lips and jaw delayed", unit="s", amounts=(0, 0.08, 0.16, 0.28, 0.4), motion=delayed),
    Damage(name="lips scaled", says="lips and jaw multiplied", unit="", amounts=(0, 0.5, 1, 1.5, 2), intact=1, motion=widened),
    Damage(name="lips quiver", says="noise on lips and jaw", unit="deviations", amounts=(0, 0.25, 0.5, 1), motion=quivering),
    Damage(name="head frozen", says="the head's movement taken away", unit="share", amounts=(0, 0.5, 1), motion=frozen),
    Damage(name="head late", says="the head delayed", unit="s", amounts=(0, 0.2, 0.4, 0.8), motion=lagging),
    Damage(name="head trembles", says="noise on the head's angles", unit="degrees", amounts=(0, 0.25, 0.5, 1), motion=trembling),
    Damage(name="lids frozen", says="blinks taken away", unit="share", amounts=(0, 0.5, 1), motion=staring),
    Damage(name="brows frozen", says="cheeks and brows held still", unit="share", amounts=(0, 0.5, 1), motion=impassive),
    Damage(name="blur", says="Gaussian blur, its deviation", unit="% of a face", amounts=(0, 1, 2, 4), pictures=blurred),
    Damage(name="identity", says="another face laid over this one", unit="share", amounts=(0, 0.3, 0.6, 1), pictures=blended),
    Damage(name="colours drift", says="red rises, blue falls", unit="levels/s", amounts=(0, 2, 4), pictures=drifting),
    Damage(name="flicker", says="noise on the brightness", unit="levels", amounts=(0, 1, 2), pictures=flickering),
)


def damaged(
    made: Take, damage: Damage, amount: float, space: MotionSpace, other: Take, scene: Scene | None = None
) -> Iterable[Frame]:
    """Pictures of the recorded motion, damaged. ``other``: whose face is blended in. ``scene``: `undamaged`, if known."""
    if damage.motion is not None:
        noise = torch.from_numpy(noise_of(made.name, damage.name).standard_normal((made.frames, space.layout.width))).float()
        opening = eye_opening(made.points)
        return drawn(made, space, damage.motion(recorded_motion(made, space), amount, noise, opening))
    assert damage.pictures is not None
    return damage.pictures(scene or undamaged(made, space, other, damage.name), amount)


def undamaged(made: Take, space: MotionSpace, other: Take, named: str) -> Scene:
    """The pictures that damages to pictures start from; ``named``: whose noise it is."""
    motion = recorded_motion(made, space)

    def shown(by: Take) -> tuple[Sequence[Frame], Float[np.ndarray, "t 478 3"]]:
        corner = np.array([*by.reference.corner, 0.0])
        return list(drawn(by, space, motion)), space.landmarks(motion, by.reference) + corner

    frames, points = shown(made)
    return Scene(
        frames=frames, points=points, noise=noise_of(made.name, named).standard_normal(made.frames), other=lambda: shown(other),
    )


def noise_of(take: str, damage: str) -> np.random.Generator:
    """Equal for all amounts of a damage to a take, so that amounts differ in nothing else."""
    return np.random.default_rng((zlib.crc32(take.encode()), zlib.crc32(damage.encode())))
