"""What is measured of a clip: each figure with its unit, its direction and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "near 1", "near 0", "near real", "none"]
Need = Literal["motion", "recording", "portrait", "sound", "words"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything there is to judge one clip by (see look.py and sound.py)."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number about one clip. ``needs``: what it takes besides the video; "motion" is a recording or a driving video. ``alone``: it
    says something of the recording, too, when that is looked at like a generated video. ``measure``: NaN where it cannot tell."""

    name: str
    title: str
    unit: str
    better: Better
    what: str
    measure: Callable[[Evidence], float]
    needs: frozenset[Need] = frozenset()
    alone: bool = False


FIGURES: tuple[Figure, ...] = ()


def figures_of(evidence: Evidence, figures: Sequence[Figure] = FIGURES) -> dict[str, float]:
    """The figures that the evidence allows, by name; those that come out as NaN are left out."""
    raise NotImplementedError
