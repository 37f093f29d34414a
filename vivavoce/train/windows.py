"""Windows of motion and of the speech around it, a person first, then one of the person's stretches in proportion to length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.nets.hearing import cut, hear_all, hear_silence
from vivavoce.nets.levels import LevelsConfig
from vivavoce.train.data import Example


@dataclass(frozen=True)
class Drawn:
    """Packed motion, what is heard around it (`Stretches.draw`), and the stretches that they are of."""

    motion: Float[Tensor, "b t d"]
    speech: Float[Tensor, "b s v"]
    examples: Sequence[Example]


class Stretches:
    """What windows are drawn of. ``silence``: features of it, which are heard around a recording; a person is drawn in proportion
    to (seconds recorded) ** ``person_power``."""

    def __init__(self, examples: Sequence[Example], levels: LevelsConfig, silence: Float[Tensor, " w"], person_power: float):
        self.heard = {id(e.speech): hear_all(e.speech, levels) for e in examples if e.speech is not None}
        self.examples, self.levels, self.silence = list(examples), levels, hear_silence(silence, levels)
        people: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            people.setdefault(example.person, []).append(i)
        self.people = list(people.values())
        self.lengths = [np.array([len(examples[i].motion) for i in group], float) for group in self.people]
        weight = np.array([lengths.sum() for lengths in self.lengths]) ** person_power
        self.person_weight = weight / weight.sum()

    def draw(self, count: int, frames: int, rng: np.random.Generator, tempo: float = 1.0) -> Drawn:
        """``count`` windows of ``frames`` frames, played ``tempo`` times as fast, with the speech from ``levels.history``
        features before the first frame's own to ``levels.lookahead`` after the last one's. Shorter stretches are left out."""
        motions: list[Tensor] = []
        speeches, chosen = [], []
        taken = int(np.ceil(tempo * (frames - 1))) + 1
        while len(motions) < count:
            person = rng.choice(len(self.people), p=self.person_weight)
            lengths = np.where(self.lengths[person] >= taken, self.lengths[person], 0.0)
            if lengths.sum() == 0:
                continue
            example = self.examples[self.people[person][rng.choice(len(lengths), p=lengths / lengths.sum())]]
            start = int(rng.integers(len(example.motion) - taken + 1))
            recorded = example.motion[start : start + taken]
            motions.append(recorded if tempo == 1 else at_tempo(recorded, tempo * torch.arange(frames)))
            speeches.append(self.around(example, start, frames, tempo))
            chosen.append(example)
        return Drawn(torch.stack(motions), torch.stack(speeches), chosen)

    def around(self, example: Example, start: int, frames: int, tempo: float = 1.0) -> Float[Tensor, "s v"]:
        """What is heard around so many frames of a stretch, from frame ``start`` on."""
        levels = self.levels
        before, after = levels.history, levels.stride * (frames - 1) + levels.lookahead
        first, lead = example.first + levels.stride * start, int(np.ceil(tempo * before))
        span = range(first - lead, first + int(np.ceil(tempo * after)) + 1)
        heard = None if example.speech is None else self.heard[id(example.speech)]
        near = cut(heard, span, self.silence)
        return near if tempo == 1 else at_tempo(near, lead + tempo * torch.arange(-before, after + 1))


def at_tempo(values: Float[Tensor, "s w"], places: Float[Tensor, " n"]) -> Float[Tensor, "n w"]:
    """Values at these places, counted in rows, on the straight lines between the rows."""
    low = places.floor().long().clamp(0, len(values) - 1)
    part = (places - low)[:, None]
    return torch.lerp(values[low], values[(low + 1).clamp(max=len(values) - 1)], part)
