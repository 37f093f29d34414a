"""How strongly a recording moves, expression and body, each as a number of 0 to 1: a control of the video engine.

FantasyTalking (4, motion intensity) takes the variance of the landmarks and of the body's joints, Sonic (5.5) that of the face's
box. Here expression is what is left of landmarks when the head's own motion is taken off, body is how the head and the joints
move in the picture, both as root mean square distances in face heights, and where a number stands among the training recordings
is the control: 0.5 is the median, which is neutral.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from vivavoce.latent.mesh import face_height, rigid_fit
from vivavoce.latent.skeleton import SEEN
from vivavoce.latent.topology import RIGID, SKIN

NEUTRAL = 0.5
LEVELS = (0.0, 0.05, 0.25, NEUTRAL, 0.75, 0.95, 1.0)  # of the quantiles that a scale keeps
FEWEST = 2  # tracked pictures; fewer do not move


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far a face moves apart from the head (``expression``), and how far head and body move (``body``): root mean square
    distances from their means, face heights."""

    expression: float
    body: float


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """Expression and body, 0 (as still as the stillest recordings) to 1 (as lively as the liveliest)."""

    expression: float = NEUTRAL
    body: float = NEUTRAL

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"the intensity of {name} is {value:g}: give 0 (still) to 1 (lively), {NEUTRAL} is usual")


@dataclass(frozen=True, kw_only=True)
class IntensityScale:
    """Quantiles of spreads of recordings at `LEVELS`: what a spread is worth. Belongs into a checkpoint (`saved`, `loaded`)."""

    expression: tuple[float, ...]
    body: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if len(values) != len(LEVELS) or not (np.diff(values) > 0).all() or values[0] < 0:
                raise ValueError(f"the scale of {name} is {list(values)}: give {len(LEVELS)} rising quantiles of 0 or more")

    @classmethod
    def measured(cls, spreads: Sequence[Spread]) -> IntensityScale:
        """Of recordings as long as those that will be asked about: longer ones stray further."""
        if len(spreads) < len(LEVELS):
            raise ValueError(f"{len(spreads)} recordings were measured: give {len(LEVELS)} or more")
        found = {name: np.quantile([vars(s)[name] for s in spreads], LEVELS) for name in ("expression", "body")}
        for name, values in found.items():
            if not (np.diff(values) > 0).all():
                raise ValueError(f"too many recordings have one and the same spread of {name}: give recordings that differ")
        return cls(**{name: tuple(values.tolist()) for name, values in found.items()})

    def __call__(self, spread: Spread) -> Intensity:
        """Where a spread stands, by linear interpolation between the quantiles' logarithms: rises with the spread, 0.5 at the
        median; beyond the recordings' extremes it stays at 0 or 1."""
        return Intensity(**{name: _place(vars(spread)[name], vars(self)[name]) for name in ("expression", "body")})

    def saved(self) -> str:
        """JSON, for the metadata of a safetensors file."""
        return json.dumps(asdict(self))

    @classmethod
    def loaded(cls, text: str) -> IntensityScale:
        """The inverse of `saved`."""
        return cls(**{name: tuple(values) for name, values in json.loads(text).items()})


def spread_of(points: Float[np.ndarray, "t 478 3"], joints: Float[np.ndarray, "t j 3"] | None = None) -> Spread:
    """Spread of a recording.

    ``points``: landmarks, px, NaN where the face was not tracked (those pictures are left out); ``joints``: where a skeleton is
    known, (x px, y px, how surely it is seen), of which those are counted that are seen in most pictures. How fast things move
    does not count, nor the rate of the pictures. ValueError for fewer than two tracked pictures.
    """
    known = ~np.isnan(points[:, 0, 0])
    if known.sum() < FEWEST:
        raise ValueError(f"the face was tracked in {known.sum()} of {len(points)} pictures: give a recording that shows it")
    tracked = points[known].astype(np.float64)
    middle = np.median(tracked, 0)
    height = float(face_height(middle))
    expression = rigid_fit(middle, tracked).remove(tracked)[:, :SKIN]
    moving = [tracked[:, RIGID, :2]]
    if joints is not None:
        seen = joints[known][..., 2] >= SEEN
        moving += [joints[known][seen[:, j], j, None, :2] for j in np.flatnonzero(seen.mean(0) > 0.5)]
    # Every joint counts as much as the whole head.
    body = float(np.sqrt(np.mean([_apart(part) ** 2 for part in moving])))
    return Spread(expression=_apart(expression) / height, body=body / height)


def _apart(places: Float[np.ndarray, "t n d"]) -> float:
    """Root mean square distance of points from their own means over time."""
    return float(np.sqrt(((places - places.mean(0)) ** 2).sum(-1).mean()))


def _place(spread: float, quantiles: tuple[float, ...]) -> float:
    least = 1e-9  # of a spread's logarithm: nothing tracked is as still
    return float(np.interp(np.log(max(spread, least)), np.log(np.maximum(quantiles, least)), LEVELS))
