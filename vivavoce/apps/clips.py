"""Takes as clips that a person or a model can judge: a portrait moves as the take says, to the recording's own sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vivavoce.generate import MotionGenerator
from vivavoce.latent.blink import Blinks
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.motion_space import MotionSpace, Reference
from vivavoce.latent.space import Frame
from vivavoce.media.audio import Audio, read_audio
from vivavoce.train.data import Clip, Example


@dataclass(frozen=True)
class Stage:
    """What takes are shown on: a portrait, the recordings whose sound goes with them, and the network that made them."""

    space: MotionSpace
    reference: Reference
    generator: MotionGenerator
    clips: Mapping[str, Clip]

    def frames(self, packed: Float[Tensor, "t d"], seed: int) -> Iterator[Frame]:
        """Pictures of motion as it comes out (`MotionGenerator.shown`), at the motion rate. ``seed``: of the blinks, one for all
        takes of a stretch, so that nobody chooses by them."""
        space = self.space
        motion = space.layout.unpack(self.generator.around_rest(packed))
        closure = Blinks(space.model.blink_profile, seed=seed).closure(0, len(motion))
        landmarks = space.landmarks(space.with_blinks(motion, closure, self.reference.lids), self.reference)
        return space.painter(self.reference).paint(landmarks)

    def sound(self, example: Example, start: int, count: int) -> Audio:
        """The recording's own, of ``count`` motion frames from the example's frame ``start`` on; silence where it ends before."""
        rate_hz = MOTION_RATE_HZ * self.generator.net.config.levels.stride  # of speech features
        begin = example.first / rate_hz + start / MOTION_RATE_HZ
        return excerpt(self.clips[example.clip].path, begin, count / MOTION_RATE_HZ)


def excerpt(path: Path, begin: float, seconds: float) -> Audio:
    """So many seconds of a file's sound from second ``begin`` on, as one channel; silence where there is none."""
    assert begin >= 0 and seconds > 0, (begin, seconds)
    parts: list[Tensor] = []
    rate, passed, first, last = 0, 0, 0, 0
    for block in read_audio(path):
        rate = block.rate
        first, last = round(begin * rate), round((begin + seconds) * rate)
        parts.append(block.mono().samples[:, max(first - passed, 0) : max(last - passed, 0)])
        passed += block.samples.shape[1]
        if passed >= last:
            break
    sound = torch.cat(parts, 1)
    return Audio(samples=functional.pad(sound, (0, last - first - sound.shape[1])), rate=rate)
