"""The whole of inference: a portrait and speech in, frames out. Streaming is the primitive; offline is push and finish.

    Animator.load().animate(Portrait.open("me.jpg"), Audio.open("speech.wav"))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.generate import MotionGenerator
from vivavoce.latent.blink import Blinks
from vivavoce.latent.motion import MOTION_RATE_HZ, Motion
from vivavoce.latent.motion_space import MotionSpace, Reference
from vivavoce.latent.space import Frame
from vivavoce.media.audio import Audio, Resampler
from vivavoce.media.portrait import Portrait
from vivavoce.speech.encoder import SAMPLE_RATE_HZ, SpeechEncoder
from vivavoce.speech.encoders import prompt, reopen

DEFAULT_FPS, LOWEST_FPS, HIGHEST_FPS = 25.0, 10.0, 60.0
SMALLEST_SIZE, LARGEST_SIZE = 64, 4096
AHEAD = 8  # frames of a file that are painted at once: the last of them is refined while nothing else is to be done


@dataclass(frozen=True, kw_only=True)
class Controls:
    """How strongly each part moves: 0 not at all, 1 naturally, 2 exaggerated. For blinks it is how often."""

    expression: float = 1.0  # cheeks, brows and lids; lips always follow the speech
    head: float = 1.0
    blink: float = 1.0
    gaze: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 3:
                raise ValueError(f"the amplitude of {name} is {value}: give a number from 0 (none) over 1 (natural) to 3")

    def apply(self, motion: Motion) -> Motion:
        """The motion at these strengths; lips and blinks are not its business."""
        return motion.amplified({
            "cheeks_brows": self.expression, "eyelids": self.expression, "gaze": self.gaze,
            "rotation": self.head, "translation": self.head, "log_scale": self.head,
        })


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a session is asked for. ``seed``: number of the take; what is drawn at random depends on it and on the portrait.
    ``steps`` and ``guidance``: None for what the weights recommend."""

    fps: float = DEFAULT_FPS
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    controls: Controls = Controls()

    def __post_init__(self) -> None:
        if not LOWEST_FPS <= self.fps <= HIGHEST_FPS:
            raise ValueError(f"{self.fps} frames per second were asked for: give {LOWEST_FPS:.0f} to {HIGHEST_FPS:.0f}")
        if self.steps is not None and not 1 <= self.steps <= 100:
            raise ValueError(f"{self.steps} solver steps were asked for: give 1 to 100")
        if self.guidance is not None and not 0 <= self.guidance <= 10:
            raise ValueError(f"a guidance of {self.guidance} was asked for: give 0 (ignore the speech) to 10; 1 is none")
        if self.seed < 0:
            raise ValueError(f"the seed is {self.seed}: give a whole number from 0 on")


class Animator:
    """Loaded models, shared by any number of sessions; holds constants only."""

    def __init__(self, space: MotionSpace, generator: MotionGenerator, encoder: SpeechEncoder):
        self.space, self.generator, self.encoder = space, generator, encoder
        assert generator.net.config.levels.stride * MOTION_RATE_HZ == self.encoder.spec.rate_hz, "the clocks don't divide"

    @classmethod
    def load(
        cls, weights: Path | None = None, *, checkpoint: Path | None = None, refine: bool = True,
        device: torch.device | str = "cpu",
    ) -> Animator:
        """Models from a folder with face, phonetic and motion.safetensors; by default the ones that ship.

        A folder may have a renderer.safetensors of its own; otherwise the one that ships refines the frames, on ``device``, where
        several are refined at once unless it is a CPU. ``refine``: False leaves frames as they are warped and drawn.

        The motion weights say which speech encoder they were trained with. ``checkpoint``: where that lies, if it is a pretrained
        one that is no longer where it was; then no phonetic.safetensors is needed.
        """
        shipped = Path(str(resources.files("vivavoce") / "weights"))
        folder = weights or shipped
        for name in ("face.safetensors", "motion.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}: give a folder of vivavoce weights, or install vivavoce again")
        own = folder / "phonetic.safetensors"
        generator = MotionGenerator.load(folder / "motion.safetensors")
        encoder = reopen(generator.metadata["encoder"], phonetic=own if own.is_file() else None, checkpoint=checkpoint)
        refiner = folder / "renderer.safetensors"
        refiner = refiner if refiner.is_file() else shipped / refiner.name
        space = MotionSpace.load(folder / "face.safetensors", refiner if refine else None, device=device)
        return cls(space, generator, encoder)

    def live(self) -> Animator:
        """The same models set for sound that is still being spoken: frames come sooner after their sound (`delay_seconds`)."""
        generator = self.generator.live()
        return Animator(self.space, generator, prompt(self.encoder, generator.net.config.levels.stride))

    @property
    def delay_seconds(self) -> float:
        """How much sound after a frame's own time has to be heard, at most, before the frame can be made."""
        spec, levels = self.encoder.spec, self.generator.net.config.levels
        last = levels.stride * (self.generator.windows.hop - 1) + levels.lookahead  # feature that a window's first frame needs
        block = round(spec.block_seconds * spec.rate_hz)
        waits = block - 1 if levels.stride % block else -(last + 1) % block  # until its block is full
        return (last + waits) / spec.rate_hz + spec.lookahead_seconds

    def prepare(self, portrait: Portrait, *, size: int | None = None, crop: bool = False) -> Reference:
        """Everything about a portrait that is computed once; any number of sessions may share it. See `MotionSpace.reference`."""
        if size is not None and not SMALLEST_SIZE <= size <= LARGEST_SIZE:
            raise ValueError(f"an output size of {size} was asked for: give {SMALLEST_SIZE} to {LARGEST_SIZE} pixels")
        return self.space.reference(portrait, size=size, crop=crop)

    def session(self, reference: Reference, settings: Settings = Settings()) -> Session:
        """A stream of one viewer."""
        return Session(self, reference, settings)

    def animate(
        self, portrait: Portrait, audio: Audio | Iterable[Audio], *, size: int | None = None, crop: bool = False,
        fps: float = DEFAULT_FPS, seed: int = 0, steps: int | None = None, guidance: float | None = None,
        controls: Controls = Controls(),
    ) -> Iterator[Frame]:
        """Frames (h, w, 3) uint8 RGB, round(duration * fps) of them; for ``size`` and ``crop`` see `MotionSpace.reference`.

        The portrait is examined and prepared at once (ValueError if it won't do); frames are made as they are asked for, in
        constant memory if the audio comes as blocks.
        """
        settings = Settings(fps=fps, seed=seed, steps=steps, guidance=guidance, controls=controls)
        session = Session(self, self.prepare(portrait, size=size, crop=crop), settings, ahead=AHEAD)
        return session.speak([audio] if isinstance(audio, Audio) else audio)

    def drive(
        self, portrait: Portrait, frames: Iterable[Frame], *, size: int | None = None, crop: bool = False,
        fps: float = DEFAULT_FPS, controls: Controls = Controls(),
    ) -> Iterator[Frame]:
        """Frames of the portrait moving as the face in a recording does; ``frames`` come at the motion rate (`MotionSpace.spec`).

        The portrait takes the place of the recording's first frame: as that face turns from there, this one turns from its own
        pose. Lips close when the recorded ones do. Blinks are the recorded ones, so that amplitude is not used.
        """
        clock = OutputClock(Settings(fps=fps).fps)
        reference = self.prepare(portrait, size=size, crop=crop)
        motion = controls.apply(self.space.layout.unpack(self.space.encode(frames, from_first=True)[0]))
        painter = self.space.painter(reference, ahead=AHEAD)
        landmarks = self.space.landmarks(motion, reference)
        shown = clock.frames(len(motion) / MOTION_RATE_HZ)
        return painter.paint(clock.pick(landmarks, 0, i) for i in range(shown))


@dataclass(frozen=True)
class OutputClock:
    """Output frame i shows the motion at i / fps seconds, interpolated between motion frames."""

    fps: float

    def frames(self, seconds: float) -> int:
        """How many frames a recording of this length has: at least one if there is any sound."""
        return max(round(seconds * self.fps), int(seconds > 0))

    def needs(self, index: int) -> int:
        """The last motion frame that output frame ``index`` depends on."""
        return int(np.ceil(index * MOTION_RATE_HZ / self.fps - 1e-6))

    def pick(self, values: Float[np.ndarray, "t ..."], first: int, index: int) -> Float[np.ndarray, ...]:
        """The value for output frame ``index`` from motion frames ``first`` and on; past the end the last one stays."""
        place = index * MOTION_RATE_HZ / self.fps - first
        low = min(int(place + 1e-6), len(values) - 1)
        part = max(0.0, place - low)
        if part < 1e-6 or low + 1 >= len(values):
            return values[low]
        return (1 - part) * values[low] + part * values[low + 1]


class Session:
    """One viewer: audio in as it comes, frames out as soon as they are determined. Owns every piece of mutable state.

    The same sound gives the same frames however it is cut into pushes. ``ahead``: see `Painter`; with more than 1 the first frame
    comes later, and all of them sooner.
    """

    def __init__(self, animator: Animator, reference: Reference, settings: Settings, *, ahead: int = 1):
        self._animator, self._settings, self.reference = animator, settings, reference
        self._seed = reference.seed(settings.seed)
        self._clock = OutputClock(settings.fps)
        self._painter = animator.space.painter(reference, ahead=ahead)
        self._blinks = Blinks(animator.space.model.blink_profile, seed=self._seed, rate=settings.controls.blink)
        self._generator_state = animator.generator.start()
        self._resampler: Resampler | None = None
        self._listen_anew()
        self._landmarks = np.zeros((0, *animator.space.model.mean.shape))  # of motion frames that may still be shown
        self._packed = torch.zeros(0, animator.space.layout.width)  # the same frames, as the generator made them
        self._slow = torch.zeros_like(self._packed)  # and their slow part (`MotionGenerator.slow`)
        self._first = 0  # motion frame number of the first of those
        self._shown = 0  # output frames given out
        self._begun = 0.0  # second at which the sound that is being spoken began

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames, px."""
        return self.reference.size

    @property
    def awaited_seconds(self) -> float:
        """How much more sound has to be heard before there is further motion."""
        made = self._generator_state.done - self._resumed
        return made / MOTION_RATE_HZ + self._animator.delay_seconds - self._heard / SAMPLE_RATE_HZ

    def push(self, audio: Audio) -> Iterator[Frame]:
        """Hear a chunk of any length; yields the frames that are determined now. What isn't taken stays for the next call."""
        if self._resampler is None:
            self._resampler = Resampler(audio.rate, SAMPLE_RATE_HZ)
        self._hear(self._resampler.push(audio), last=False)
        return self._frames(None)

    def finish(self) -> Iterator[Frame]:
        """The sound has ended; yields the frames that are left, up to its end. The session may go on with new sound."""
        if self._resampler is not None:
            self._hear(self._resampler.finish(), last=True)
        over = self._begun + self._heard / SAMPLE_RATE_HZ
        # Motion past the end goes, or the rounding of every segment would add up to a delay.
        self._keep(int(np.ceil(over * MOTION_RATE_HZ - 1e-6)) - self._first)
        self._resume(over)
        return self._frames(self._clock.frames(over))

    def speak(self, blocks: Iterable[Audio]) -> Iterator[Frame]:
        """All frames of a whole recording, in constant memory."""
        for block in blocks:
            yield from self.push(block)
        yield from self.finish()

    def interrupt(self) -> None:
        """Forget all sound that has no frame yet: nothing of it will be shown. The face goes on from where it is."""
        self._painter.drop(self._painter.waiting)
        self._keep(self._clock.needs(self._shown - 1) + 1 - self._first if self._shown else 0)
        self._resume(self._shown / self._settings.fps)

    def skip(self) -> bool:
        """Leave the next frame out, if its motion is determined: time goes on and nothing is painted. Whether it was left out."""
        if not self._due(self._shown, None):
            return False
        self._painter.drop(min(1, self._painter.waiting))
        self._shown += 1
        self._forget()
        return True

    def control(self, controls: Controls) -> None:
        """Strengths from the next motion on; how often the eyes blink stays what it was."""
        self._settings = replace(self._settings, controls=controls)

    def _keep(self, frames: int) -> None:
        self._packed, self._slow, self._landmarks = self._packed[:frames], self._slow[:frames], self._landmarks[:frames]

    def _resume(self, begun: float) -> None:
        """Be ready for new sound from second ``begun`` of the frames on; its motion follows the last motion frame there is."""
        self._generator_state = self._animator.generator.resume(
            self._packed[None], self._first + len(self._packed), self._generator_state
        )
        self._begun = begun
        self._listen_anew()

    def _listen_anew(self) -> None:
        self._resampler = None
        self._resumed = self._generator_state.done  # motion frames that were there before
        self._speech_state = self._animator.encoder.start()
        self._heard = 0  # samples

    def _hear(self, audio: Audio, *, last: bool) -> None:
        animator, settings = self._animator, self._settings
        self._heard += audio.samples.shape[-1]
        track, self._speech_state = animator.encoder.step(audio.samples[0], self._speech_state, last=last)
        packed, self._generator_state = animator.generator.step(
            track.values, self._generator_state, seed=self._seed, last=last, steps=settings.steps, guidance=settings.guidance,
        )
        if packed.shape[1] == 0:
            return
        slow = animator.generator.slow(packed[0], self._slow[-1] if len(self._slow) else None)
        landmarks = self._move(packed[0], slow)
        self._landmarks = np.concatenate([self._landmarks, landmarks])
        self._packed, self._slow = torch.cat([self._packed, packed[0]]), torch.cat([self._slow, slow])

    def _move(self, packed: Float[Tensor, "t d"], slow: Float[Tensor, "t d"]) -> Float[np.ndarray, "t n 3"]:
        space, reference = self._animator.space, self.reference
        motion = self._settings.controls.apply(space.layout.unpack(self._animator.generator.around_rest(packed, slow)))
        first = self._first + len(self._packed)
        closure = self._blinks.closure(first, len(motion))
        return space.landmarks(space.with_blinks(motion, closure, reference.lids), reference)

    def _frames(self, end: int | None) -> Iterator[Frame]:
        """Frames whose motion is there, or all before output frame ``end``; forgets motion that no later frame needs."""
        while len(self._landmarks) and self._due(self._shown, end):
            while self._painter.room and self._due(following := self._shown + self._painter.waiting, end):
                self._painter.begin(self._clock.pick(self._landmarks, self._first, following))
            if end is None and self._painter.room:
                return  # what was begun is refined while further sound is heard
            frame = self._painter.take()
            self._shown += 1
            self._forget()
            yield frame

    def _due(self, index: int, end: int | None) -> bool:
        """Whether the motion of an output frame is there, or, once the sound has ended, whether it is before its end."""
        return self._clock.needs(index) < self._first + len(self._landmarks) if end is None else index < end

    def _forget(self) -> None:
        keep = self._animator.generator.windows.prefix + 1
        spare = int(self._shown * MOTION_RATE_HZ / self._settings.fps) - keep - self._first
        if spare > keep:
            self._landmarks, self._first = self._landmarks[spare:], self._first + spare
            self._packed, self._slow = self._packed[spare:], self._slow[spare:]


