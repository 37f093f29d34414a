"""Syllables as they are spoken: peaks of the voiced middle of the spectrum, counted without looking ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.speech.acoustic import HOPS, RANGE_DB
from vivavoce.speech.encoder import RATE_HZ

RATE_SECONDS = 1.5
"""Time constant of the running rate."""

DIP_DB = 1.0
"""How far loudness must rise to a peak and fall behind it: vowels lie at least that far above the consonants between them."""

FLOOR_DB = -26.0
"""Loudness relative to the speaker's level below which no peak is a syllable: steady noise and other voices ripple there."""

VOICED = 0.5
"""Voicing that a syllable reaches while it is louder than the floor."""

_MIDDLE = slice(4, 27)  # bands centred between 300 and 3000 Hz, where vowels are strong and hiss and breath are not
_SMOOTH = 3  # hops averaged: longer than a pitch period, shorter than any consonant


@dataclass(frozen=True, kw_only=True)
class SyllableState:
    recent_db: tuple[float, ...] = (-RANGE_DB,) * (_SMOOTH - 1)
    """Loudness of the last hops."""
    rising: bool = False
    turn_db: float = math.inf
    """Highest smoothed loudness since it began to rise, or lowest since it began to fall."""
    voicing: float = 0.0
    """Most voicing since it began to rise."""
    rate: float = 0.0
    """Syllables per second."""


def loudness_db(bands_db: Float[Tensor, "n hops bands"], level_dbfs: Float[Tensor, " n"]) -> Float[Tensor, "n hops"]:
    """Mean amplitude of the middle bands relative to the level.

    Amplitudes and not powers: a vowel fills many bands at once, while strong first harmonics alone also run through m, n and l.
    """
    relative = (bands_db[..., _MIDDLE] - level_dbfs[:, None, None]).clamp(min=-RANGE_DB)
    return 20.0 * torch.log10(torch.pow(10.0, relative / 20.0).mean(dim=-1))


def count(
    loudness: Sequence[Sequence[float]], voicing: Sequence[float], state: SyllableState
) -> tuple[list[float], SyllableState]:
    """Syllables per second at each frame: a running mean over RATE_SECONDS of 1 / frame where one was counted.

    One is counted when loudness has risen by DIP_DB, passed a peak above FLOOR_DB that was VOICED, and fallen by DIP_DB again, so
    a few hundredths of a second after its peak.
    """
    recent, rising, turn, most, rate = state.recent_db, state.rising, state.turn_db, state.voicing, state.rate
    rates = []
    for hops, voiced in zip(loudness, voicing, strict=True):
        counted = 0
        for value in hops:
            smooth = (sum(recent) + value) / _SMOOTH
            recent = (*recent[1:], value)
            voiced_here = voiced if smooth > FLOOR_DB else 0.0
            if rising:
                turn, most = max(turn, smooth), max(most, voiced_here)
                if smooth < turn - DIP_DB:
                    counted += turn > FLOOR_DB and most > VOICED
                    rising, turn = False, smooth
            else:
                turn = min(turn, smooth)
                if smooth > turn + DIP_DB:
                    rising, turn, most = True, smooth, voiced_here
        assert len(hops) == HOPS
        rate += (counted * RATE_HZ - rate) / (RATE_SECONDS * RATE_HZ)
        rates.append(rate)
    return rates, SyllableState(recent_db=recent, rising=rising, turn_db=turn, voicing=most, rate=rate)
