"""What is measured of a whole set of clips, not of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vivavoce.judge.evidence import Evidence
from vivavoce.judge.figures import SUFFIX, Better
from vivavoce.latent.mesh import flat_mesh
from vivavoce.latent.topology import SKIN
from vivavoce.metrics import theval
from vivavoce.metrics.distances import COMPONENTS, frechet_of_gaussians

Moments = tuple[int, Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]
OfIndices = Callable[[Int[np.ndarray, " n"]], float]
LEAST_FRAMES = 2 * COMPONENTS  # under which a covariance is not known
_THEVAL = ("theval_lips", "theval_head", "theval_brows", "theval_silence", "theval_sync")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One of a set: its figures, and what they are from, which is remembered from disk at every call."""

    figures: dict[str, float]
    evidence: Callable[[], Evidence]
    compared: bool
    """Whether there is a motion that it should have."""


@dataclass(frozen=True, kw_only=True)
class SetFigure:
    """A number about a set of clips. ``usable``: which of them can take part. ``over``: the figure as a function of the numbers
    of the clips taken (some several times: the bootstrap asks so). ``resamples``: at most so many, where each takes long."""

    name: str
    title: str
    topic: str
    unit: str
    better: Better
    what: str
    usable: Callable[[Clip], bool]
    over: Callable[[Sequence[Clip]], OfIndices]
    resamples: int = 300
    alone: bool = False


def mesh_frechet(clips: Sequence[Clip]) -> OfIndices:
    """Mesh-FID (`metrics.distances.mesh_frechet`), in constant memory: the axes are those of all recorded frames of the set."""
    width = 3 * SKIN
    count, total, square = 0, np.zeros(width), np.zeros((width, width))
    for clip in clips:
        example = clip.evidence().example
        assert example is not None
        mesh = flat_mesh(example.points.astype(np.float64))
        count += len(mesh)
        total += mesh.sum(0)
        square += mesh.T @ mesh
    mean = total / count
    _, axes = np.linalg.eigh(square / count - np.outer(mean, mean))
    basis = axes[:, -COMPONENTS:]
    theirs: list[Moments] = []
    ours: list[Moments] = []
    for clip in clips:
        evidence = clip.evidence()
        assert evidence.example is not None
        for look, moments in ((evidence.example, theirs), (evidence.shown, ours)):
            moments.append(_moments((flat_mesh(look.points.astype(np.float64)) - mean) @ basis))

    def of(chosen: Int[np.ndarray, " n"]) -> float:
        real, generated = (_gaussian([moments[i] for i in chosen]) for moments in (theirs, ours))
        return float("nan") if real is None or generated is None else frechet_of_gaussians(*real, *generated)

    return of


def _moments(rows: Float[np.ndarray, "n d"]) -> Moments:
    return len(rows), rows.sum(0), rows.T @ rows


def _gaussian(moments: Sequence[Moments]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]] | None:
    """Mean and covariance of all rows that the moments are of; None for too few rows."""
    count = sum(n for n, _, _ in moments)
    if count < LEAST_FRAMES:
        return None
    mean = np.sum([s for _, s, _ in moments], axis=0) / count
    square = np.sum([q for _, _, q in moments], axis=0)
    return mean, (square - count * np.outer(mean, mean)) / (count - 1)


def theval_score(clips: Sequence[Clip]) -> OfIndices:
    """Mean over THEval's figures of how close the set's mean comes to the recordings' mean (`metrics.theval.closeness`)."""
    ours, real = (np.array([[clip.figures[name + end] for name in _THEVAL] for clip in clips]) for end in ("", SUFFIX))

    def of(chosen: Int[np.ndarray, " n"]) -> float:
        pairs = zip(ours[chosen].mean(0), real[chosen].mean(0), strict=True)
        return theval.score(theval.closeness(float(a), float(b)) for a, b in pairs)

    return of


def _has_theval(clip: Clip) -> bool:
    return all(name + end in clip.figures for name in _THEVAL for end in ("", SUFFIX))


SETS: tuple[SetFigure, ...] = (
    SetFigure(
        name="mesh_frechet", title="Mesh-FID", topic="Whole set", unit="", better="lower", usable=lambda clip: clip.compared,
        what="Fréchet distance between the distributions of face meshes, expression and head pose together, of generated and "
        "recorded frames (24 principal components, in face heights squared). Depends on the recordings: compare within a set.",
        over=mesh_frechet,
    ),
    SetFigure(
        name="theval_score", title="THEval, five of eight", topic="Whole set", unit="", better="higher", usable=_has_theval,
        what="Mean closeness (1 - |set - recordings| / recordings) of the set's mean lip, head and brow dynamics, silent lips "
        "and lips against sound to the recordings'; at most 1. Its three figures of quality need networks and are left out.",
        over=theval_score, resamples=1000,
    ),
)
