"""How lively a voice makes one expect its speaker to be, learned in closed form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vivavoce.latent.motion import MOTION_RATE_HZ, Layout
from vivavoce.nets.hearing import Memory
from vivavoce.nets.vivacity import Vivacity, voice_means
from vivavoce.speech.streams import spoken
from vivavoce.train.data import Example, log_spread

PIECE_SECONDS, SHORTEST_SECONDS = 3, 2  # of motion whose spread is predicted
RIDGE = 20.0  # in people: every person weighs one


def learn_vivacity(examples: Sequence[Example], streams: Mapping[str, int], stride: int, layout: Layout) -> Vivacity:
    """Ridge regression of the log spread of each motion field in pieces of three seconds on the mean of the spoken features,
    up to a quarter, a half and the whole of the piece; every person who talks weighs the same.

    ``streams``: of the examples' speech, with ``stride`` features to a motion frame. ValueError where nobody talks for two
    seconds.
    """
    voices: dict[int, Tensor] = {}
    people: list[str] = []
    means: list[Tensor] = []
    spreads: list[Tensor] = []
    length, shortest = (round(s * MOTION_RATE_HZ) for s in (PIECE_SECONDS, SHORTEST_SECONDS))
    for example in examples:
        speech = example.speech
        if speech is None:
            continue
        if id(speech) not in voices:
            voices[id(speech)] = voice_means(speech, spoken(speech, streams), Memory.empty(speech.shape[1]))[0]
        for start in range(0, len(example.motion), length):
            piece = example.motion[start : start + length]
            if len(piece) < shortest:
                continue
            spread = torch.stack([log_spread(field) for field in piece.split(list(layout.widths.values()), -1)])
            for heard in (len(piece) // 4, len(piece) // 2, len(piece)):
                end = example.first + stride * (start + heard) - 1
                if end < len(speech):
                    people.append(example.person)
                    means.append(voices[id(speech)][end])
                    spreads.append(spread)
    if not people:
        raise ValueError(f"nobody talks for {SHORTEST_SECONDS} seconds in the recordings: give longer ones")
    count = Counter(people)
    weight = torch.tensor([1 / count[person] for person in people], dtype=torch.float64)[:, None]
    x, y = torch.stack(means).double(), torch.stack(spreads).double()
    mean, level = ((weight * values).sum(0) / weight.sum() for values in (x, y))
    deviation = ((weight * (x - mean).square()).sum(0) / weight.sum()).sqrt() + 1e-6
    z = (x - mean) / deviation
    normal = z.T @ (weight * z) + RIDGE * torch.eye(z.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(normal, z.T @ (weight * (y - level)))
    return Vivacity((slope.T / deviation).float(), mean.float())
