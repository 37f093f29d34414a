"""A recording as somebody else, somewhere else, would have made it: random chains of what `augment` can do to sound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vivavoce.train import augment

Samples = Float[Tensor, " s"]


def disguise(samples: Samples, others: Sequence[Samples], rng: np.random.Generator) -> tuple[Samples, float]:
    """The recording changed in speaker, room, noise and line, and its length over the original's: what was at t is at t * that.

    ``others`` are recordings to make babble of. Each kind of change comes or not by chance; see the code for how often and much.
    """
    samples, stretch = _speaker(samples, rng)
    if rng.random() < 0.35:
        samples = augment.room(samples, rng.uniform(0.1, 0.7), rng.uniform(0, 15), rng)
    if rng.random() < 0.65:
        kind = rng.choice(["coloured", "babble", "music"], p=[0.25, 0.5, 0.25])  # other voices mislead most
        if kind == "coloured":
            noise = augment.coloured_noise(len(samples), rng.uniform(0, 2), rng)
        else:
            noise = augment.babble(others, len(samples), rng) if kind == "babble" else augment.music(len(samples), rng)
        samples = augment.add_noise(samples, noise, rng.uniform(3, 28))
    samples = augment.tilt(samples, rng.uniform(-3, 3))
    samples = augment.gain(samples, rng.uniform(-25, 0) - 20 * np.log10(float(samples.abs().max()) + 1e-6))
    if rng.random() < 0.25:
        line = [augment.telephone, augment.mp3, augment.opus, augment.aac][int(rng.integers(4))]
        samples = line(samples)
    return samples, stretch


def _speaker(samples: Samples, rng: np.random.Generator) -> tuple[Samples, float]:
    """Another throat, pace or manner of speaking; the new length over the old."""
    length = len(samples)
    if rng.random() < 0.5:
        samples = augment.speed(samples, rng.uniform(0.85, 1.18))
    if rng.random() < 0.25:
        samples = augment.tempo(samples, rng.uniform(0.85, 1.2))
    if rng.random() < 0.25:
        samples = augment.pitch(samples, rng.uniform(-4, 4))
    manner = rng.random()
    if manner < 0.05:
        samples = augment.whisper(samples, rng)
    elif manner < 0.1:
        samples = augment.shout(samples)
    return samples, len(samples) / length
