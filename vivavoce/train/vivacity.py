"""How lively a voice makes one expect its speaker to be, learned in closed form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from vivavoce.latent.motion import Layout
from vivavoce.nets.hearing import hear_all
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.vivacity import Vivacity, utterance_means
from vivavoce.train.data import Example

PIECE = 75  # frames whose spread is predicted
SHORTEST = 50
RIDGE = 20.0  # in people: every person weighs one
STILL = 1e-3  # added to spreads


def learn_vivacity(examples: Sequence[Example], levels: LevelsConfig, layout: Layout) -> Vivacity:
    """Ridge regression of the log spread of each motion field in pieces of three seconds on the means over the utterance up to
    the piece's end; every person who talks weighs the same."""
    heard = {id(e.speech): utterance_means(hear_all(e.speech, levels), levels) for e in examples if e.speech is not None}
    people: list[str] = []
    means: list[Tensor] = []
    spreads: list[Tensor] = []
    for example in examples:
        if example.speech is None:
            continue
        for start in range(0, len(example.motion), PIECE):
            piece = example.motion[start : start + PIECE]
            end = example.first + levels.stride * (start + len(piece)) - 1
            if len(piece) >= SHORTEST and end < len(example.speech):
                people.append(example.person)
                means.append(heard[id(example.speech)][end])
                fields = piece.split(list(layout.widths.values()), -1)
                spreads.append(torch.stack([torch.log(field.std(0) + STILL).mean() for field in fields]))
    count = Counter(people)
    weight = torch.tensor([1 / count[person] for person in people], dtype=torch.float64)[:, None]
    x, y = torch.stack(means).double(), torch.stack(spreads).double()
    mean, level = ((weight * values).sum(0) / weight.sum() for values in (x, y))
    deviation = x.std(0) + 1e-6
    z = (x - mean) / deviation
    normal = z.T @ (weight * z) + RIDGE * torch.eye(z.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(normal, z.T @ (weight * (y - level)))
    return Vivacity((slope.T / deviation).float(), mean.float())
