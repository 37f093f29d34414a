"""Takes: recordings made ready to be acted again, so that whatever is compared differs in its motion alone.

Of each recording the first seconds count. One of their frames is the portrait: the one with the most nearly closed lips among
those with open eyes that face the viewer. What moves it, be it the engine, a rule or the recording itself, is drawn by the
project's own painter, at the recording's own size and with its sound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vivavoce.animate import Animator, Controls
from vivavoce.judge.pairs import Pair
from vivavoce.latent.blink import Blinks
from vivavoce.latent.mesh import eye_opening, face_height, lip_opening
from vivavoce.latent.motion import MOTION_RATE_HZ, Motion
from vivavoce.latent.motion_space import MotionSpace, Reference
from vivavoce.latent.retarget import Rest, motion_of, rest_of_picture
from vivavoce.latent.space import Frame
from vivavoce.latent.topology import CHEEKS, NOSE_TIP
from vivavoce.media.audio import Audio
from vivavoce.media.portrait import Portrait
from vivavoce.media.video import VideoWriter, read_frames
from vivavoce.speech.align import grid_words
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.sound import load_sound
from vivavoce.train.ablation import group_of
from vivavoce.train.data import Clip, Progress, track_clips

SHORTEST_SECONDS = 2.0  # of a recording; correlations of less say nothing
LEAST_FOUND = 0.9  # share of frames in which the recorded face has to be found
LIGHT = 12.0  # 8-bit levels by which a portrait's frame may differ from the recording's usual brightness


@dataclass(frozen=True, kw_only=True)
class TakeConfig:
    """``seconds`` of each recording at most, ``most`` recordings of one person, ``people`` at most; None: everybody."""

    seconds: float = 4.0
    most: int = 6
    people: int | None = None

    def __post_init__(self) -> None:
        if not self.seconds >= SHORTEST_SECONDS:
            raise ValueError(f"{self.seconds:g} seconds of each recording were asked for: give at least {SHORTEST_SECONDS:g}")
        for name, value in (("recordings of a person", self.most), ("people", self.people)):
            if value is not None and value < 1:
                raise ValueError(f"{value} {name} were asked for: give at least 1")


@dataclass(frozen=True, kw_only=True)
class Take:
    """A recording made ready. ``sound``: at SAMPLE_RATE_HZ, as long as the frames. ``words``: English, where they are known.
    ``points``: the recorded face, px at the motion rate. ``rest``: that face as it is in the portrait, which motion is relative
    to. ``reference``: the portrait made ready."""

    name: str
    person: str
    portrait: Path
    recording: Path
    sound: Float[Tensor, " s"]
    words: str | None
    points: Float[np.ndarray, "t 478 3"]
    rest: Rest
    reference: Reference

    @property
    def frames(self) -> int:
        return len(self.points)

    @property
    def group(self) -> str:
        return group_of(self.person)

    def pair(self, system: str, generated: Path) -> Pair:
        """What is judged of a video that a system made of this take."""
        return Pair(
            name=self.name, generated=generated, recording=self.recording, portrait=self.portrait, transcript=self.words,
            group=self.group, system=system,
        )


def chosen(clips: Sequence[Clip], config: TakeConfig) -> list[Clip]:
    """Talking clips that are to be taken: of each person the first ``most``, of the people some that lie evenly in the list."""
    people: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.talks:
            people.setdefault(clip.person, []).append(clip)
    names = list(people)
    if config.people is not None and config.people < len(names):
        names = [names[i] for i in np.linspace(0, len(names) - 1, config.people).round().astype(int)]
    return [clip for name in names for clip in people[name][: config.most]]


def take(clip: Clip, animator: Animator, folder: Path, config: TakeConfig, progress: Progress) -> Take:
    """The clip made ready; portrait, recording and tracks are kept in the folder.

    ValueError where it is too short, its face is lost too often, or its portrait can't be animated.
    """
    points = track_clips([clip], folder / "tracks", progress)[clip.name]
    sound = load_sound(clip.path)
    count = min(round(config.seconds * MOTION_RATE_HZ), len(points), int(len(sound) / SAMPLE_RATE_HZ * MOTION_RATE_HZ))
    if count < SHORTEST_SECONDS * MOTION_RATE_HZ:
        raise ValueError(
            f"{clip.name} has {count / MOTION_RATE_HZ:.1f} s of picture and sound: at least {SHORTEST_SECONDS:g} are needed"
        )
    found = ~np.isnan(points[:count, 0, 0])
    if found.mean() < LEAST_FOUND:
        raise ValueError(f"{clip.name} shows a face in {found.sum()} of {count} frames: at least {LEAST_FOUND:.0%} are needed")
    points = bridged(points[:count].astype(np.float64))
    portrait, recording = folder / "portraits" / f"{clip.name}.png", folder / "recordings" / f"{clip.name}.mp4"
    sound = sound[: round(count / MOTION_RATE_HZ * SAMPLE_RATE_HZ)]
    frames = list(islice(read_frames(clip.path, MOTION_RATE_HZ), count))
    shown = portrait_frame(points, np.array([f.mean() for f in frames]))
    if not portrait.is_file():
        portrait.parent.mkdir(parents=True, exist_ok=True)
        partial = portrait.with_suffix(".part.png")
        Image.fromarray(frames[shown]).save(partial)
        partial.rename(portrait)
    write(recording, frames, sound)
    reference = animator.prepare(Portrait(image=frames[shown], name=clip.name))
    rest = rest_of_picture(points[shown], animator.space.model)
    return Take(
        name=clip.name, person=clip.person, portrait=portrait, recording=recording, sound=sound, words=_words(clip),
        points=points, rest=rest, reference=reference,
    )


def take_all(
    clips: Sequence[Clip], animator: Animator, folder: Path, config: TakeConfig, progress: Progress, report: Callable[[str], None]
) -> list[Take]:
    """All that can be taken; what can't is said. ValueError where nothing can."""
    made = []
    for i, clip in enumerate(clips):
        progress("preparing", i, len(clips))
        try:
            made.append(take(clip, animator, folder, config, lambda *_: None))
        except ValueError as error:
            report(f"left out: {error}")
    progress("preparing", len(clips), len(clips))
    if not made:
        raise ValueError("none of the recordings can be used: give some that show a talking face from the front")
    return made


def _words(clip: Clip) -> str | None:
    """The sentence of a GRID clip, by its name."""
    if group_of(clip.person) != "GRID":
        return None
    try:
        words = grid_words(clip.name.rpartition("-")[2])
    except ValueError:
        return None
    return " ".join(word.partition("(")[0] for word in words)


def bridged(points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t n 3"]:
    """Frames without a face (NaN) interpolated from their neighbours."""
    found = ~np.isnan(points[:, 0, 0])
    index = np.arange(len(points))
    flat = points.reshape(len(points), -1)
    return np.stack([np.interp(index, index[found], c[found]) for c in flat.T], 1).reshape(points.shape)


def portrait_frame(points: Float[np.ndarray, "t n 3"], light: Float[np.ndarray, " t"]) -> int:
    """Index of the frame to animate: the most nearly closed lips among usual light, open eyes and a face that looks ahead."""
    gap, eyes = lip_opening(points), eye_opening(points)
    aside = np.abs(points[:, NOSE_TIP, 0] - points[:, CHEEKS, 0].mean(1)) / face_height(points)
    usable = (eyes > 0.85 * np.median(eyes)) & (aside <= np.median(aside) + 1e-9) & (np.abs(light - np.median(light)) < LIGHT)
    return int(np.argmin(np.where(usable, gap, np.inf)))


def recorded_motion(made: Take, space: MotionSpace) -> Motion:
    """What the recorded face does, relative to the portrait: drawn on it, the recording comes back."""
    return motion_of(made.points, made.rest, space.model)


def spoken_motion(made: Take, animator: Animator, packed: Float[Tensor, "t d"]) -> Motion:
    """Packed motion as a session shows it on this portrait."""
    return shown_motion(animator, packed, made.reference, made.reference.seed(0), Controls())


def shown_motion(
    animator: Animator, packed: Float[Tensor, "t d"], reference: Reference, seed: int, controls: Controls
) -> Motion:
    """Packed motion as it is shown on a portrait: around its own cheeks and brows, with the blinks of that ``seed``."""
    space = animator.space
    motion = controls.apply(space.layout.unpack(animator.generator.around_rest(packed)))
    blinks = Blinks(space.model.blink_profile, seed=seed)
    return space.with_blinks(motion, blinks.closure(0, len(motion)), reference.lids)


def drawn(made: Take, space: MotionSpace, motion: Motion) -> Iterable[Frame]:
    """The portrait's pictures under a motion."""
    return painted(space, made.reference, space.landmarks(motion, made.reference))


def painted(space: MotionSpace, reference: Reference, landmarks: Float[np.ndarray, "t 478 3"]) -> Iterator[Frame]:
    """A portrait's pictures with its landmarks at these places."""
    return space.painter(reference).paint(landmarks)


def write(path: Path, frames: Iterable[Frame], sound: Float[Tensor, " s"]) -> None:
    """A video with sound, unless it is there; it appears when it is complete."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = iter(frames)
    first = next(frames)
    audio = Audio(samples=sound[None].to(torch.float32), rate=SAMPLE_RATE_HZ)
    with VideoWriter(path, fps=MOTION_RATE_HZ, size=(first.shape[1], first.shape[0]), sound=audio) as writer:
        writer.write(first)
        for frame in frames:
            writer.write(frame)


def keep_to(folder: Path, config: TakeConfig, weights: str) -> None:
    """A folder of results belongs to one configuration and one set of weights: ValueError where it holds others."""
    file = folder / "setting.json"
    setting = {**asdict(config), "weights": weights}
    if file.is_file() and json.loads(file.read_text()) != setting:
        raise ValueError(f"{folder} holds videos of another setting ({file.name}): give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(setting, indent=1))


ENGINE = ("face", "motion", "phonetic", "renderer")


def fingerprint(weights: Path) -> str:
    """Of the engine's weights in a folder; those of a judge beside them make no difference to its videos."""
    digest = hashlib.sha256()
    for name in ENGINE:
        digest.update((weights / f"{name}.safetensors").read_bytes())
    return digest.hexdigest()[:16]
