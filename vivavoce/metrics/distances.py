"""Distances of sets of samples, and of descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

COMPONENTS = 24
ENOUGH = 4000  # frames to find principal components by


def frechet_of_gaussians(
    mean_a: Float[np.ndarray, " d"], cov_a: Float[np.ndarray, "d d"],
    mean_b: Float[np.ndarray, " d"], cov_b: Float[np.ndarray, "d d"],
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2): the squared Frechet distance of two normal distributions.

    From 0, equal; low is good (Dowson and Landau 1982; FID: Heusel et al. 2017).
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()  # symmetric, so no complex square root
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """`frechet_of_gaussians` of the two samples' means and covariances.

    Two samples of one distribution are not at 0 but the further the fewer they are: compare only sets of equal size. It sees
    means and covariances, so neither order in time nor anything that is not normal.
    """
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    return frechet_of_gaussians(a.mean(0), cov_a, b.mean(0), cov_b)


def mesh_frechet(
    real: Float[np.ndarray, "t d"], generated: Float[np.ndarray, "s d"], *, components: int = COMPONENTS
) -> float:
    """Mesh-FID as the judge has it: `frechet` in the `principal` components of the real frames.

    Face heights squared, low is good. Rows are `latent.mesh.flat_mesh`: un-normalised vertices, so expression and head pose
    together (Mohamed et al., arXiv 2606.13304, on all vertices). It sees which poses there are and how much they vary, not how
    one follows the other: shuffled frames are as good. Heads outweigh lips by far.
    """
    mean, basis = principal(real, components)
    return frechet((real - mean) @ basis, (generated - mean) @ basis)


def principal(samples: Float[np.ndarray, "n d"], components: int) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d c"]]:
    """Mean of the samples, and the directions in which they vary most, as columns; from four to eight thousand of them."""
    samples = np.asarray(samples, np.float64)
    mean = samples.mean(0)
    some = samples[:: max(1, len(samples) // ENOUGH)] - mean
    width = samples.shape[1]
    if len(some) < width:
        _, _, axes = np.linalg.svd(some, full_matrices=False)
        return mean, axes[:components].T
    _, vectors = eigh(some.T @ some, subset_by_index=(max(width - components, 0), width - 1))  # several times faster
    return mean, vectors[:, ::-1]


@dataclass(frozen=True)
class Moments:
    """What a clip adds to a set's mean and covariance, so that sets of clips are compared without their frames."""

    count: int
    total: Float[np.ndarray, " d"]
    squares: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, samples: Float[np.ndarray, "n d"]) -> Moments:
        """Those of the rows; take a common mean off before, or large means eat the digits."""
        return cls(len(samples), samples.sum(0), samples.T @ samples)


def frechet_of_moments(a: Sequence[Moments], b: Sequence[Moments]) -> float:
    """`frechet` of two sets of clips: for bootstraps, where it is a hundred times faster. Reduce meshes by `principal` first."""
    return frechet_of_gaussians(*_gaussian(a), *_gaussian(b))


def _gaussian(parts: Sequence[Moments]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    count = sum(part.count for part in parts)
    mean = sum((part.total for part in parts), np.zeros_like(parts[0].total)) / count
    squares = sum((part.squares for part in parts), np.zeros_like(parts[0].squares))
    return mean, (squares - count * np.outer(mean, mean)) / (count - 1)


def cosine(a: Float[np.ndarray, " d"], b: Float[np.ndarray, " d"]) -> float:
    """a.b / (|a| |b|), of two descriptors of faces their likeness: -1 to 1, higher is better; NaN where one is zero.

    What counts as the same person depends on the descriptor: hold it beside that of two recorded frames of one person.
    """
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / lengths if lengths else float("nan")
