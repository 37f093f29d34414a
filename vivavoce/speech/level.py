"""How loud the speaker is: a causal automatic gain control, so that features don't depend on the microphone's distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vivavoce.speech.encoder import RATE_HZ

PRIOR_DBFS = -26.0
"""Level assumed before anything is heard: common speech recordings' voiced sounds, so noise before the first word stays quiet."""

PRIOR_FRAMES = 2.0
"""How many voiced frames the prior is worth: a quiet or loud recording is at its own level within its first syllable."""

MEMORY_FRAMES = 5.0 * RATE_HZ
"""How many voiced frames the level remembers: about ten seconds of speech."""

ATTACK = 4.0
"""How much more a frame above the level counts than one below it, which puts the level near the loud vowels."""

HEADROOM_DB = 6.0
"""No sound, voiced or not, stays further than this above the level."""

QUIET_DBFS = -60.0
"""Sounds below this never set the level, periodic or not: mains hum and converters' idle tones live there."""


SUSTAINED_FRAMES = 3
"""How many frames in a row must be voiced for the last one to count: noise is periodic for a moment, vowels for longer."""

_DOUBTFUL, _CERTAIN = 0.75, 0.95
"""Normalised autocorrelation from which a frame counts, and counts fully."""


@dataclass(frozen=True, kw_only=True)
class LevelState:
    level_dbfs: float = PRIOR_DBFS
    frames: float = PRIOR_FRAMES
    """Voiced frames that the level stands on."""
    recent: tuple[float, ...] = (0.0,) * (SUSTAINED_FRAMES - 1)
    """How surely the last frames were voiced."""


def follow(energy_dbfs: Sequence[float], voicing: Sequence[float], state: LevelState) -> tuple[list[float], LevelState]:
    """The speaker's level at each frame, from the frames' energies and their normalised autocorrelation.

    A running mean of the energy of voiced frames that leans to the loud ones: L += p w / N (e - L), where p in [0, 1] says how
    surely the last SUSTAINED_FRAMES were all voiced, w is ATTACK above the level and 1 below it, and N counts voiced frames up to
    MEMORY_FRAMES. Only voiced sound may lower the level, so a pause of any length leaves it where it was.
    """
    level, frames, recent = state.level_dbfs, state.frames, state.recent
    levels = []
    for energy, correlation in zip(energy_dbfs, voicing, strict=True):
        sure = min(max((correlation - _DOUBTFUL) / (_CERTAIN - _DOUBTFUL), 0.0), 1.0) if energy > QUIET_DBFS else 0.0
        voiced = min(sure, *recent)
        recent = (*recent[1:], sure)
        if energy > QUIET_DBFS:
            frames = min(frames + voiced, MEMORY_FRAMES)
            weight = voiced / frames * (ATTACK if energy > level else 1.0)
            level += min(weight, 1.0) * (energy - level)
            level = max(level, energy - HEADROOM_DB)
        levels.append(level)
    return levels, LevelState(level_dbfs=level, frames=frames, recent=recent)
