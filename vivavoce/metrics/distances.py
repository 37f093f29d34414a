"""Distances of sets and of descriptors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

COMPONENTS = 24


def frechet_of_gaussians(
    mean_a: Float[np.ndarray, " d"], cov_a: Float[np.ndarray, "d d"],
    mean_b: Float[np.ndarray, " d"], cov_b: Float[np.ndarray, "d d"],
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2): the squared Frechet distance of two normal distributions."""
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()  # symmetric, so no complex square root
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """`frechet_of_gaussians` of the two samples' means and covariances."""
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    return frechet_of_gaussians(a.mean(0), cov_a, b.mean(0), cov_b)


def mesh_frechet(real: Float[np.ndarray, "t d"], generated: Float[np.ndarray, "s d"], *, components: int = COMPONENTS) -> float:
    """Mesh-FID: `frechet` in the first principal components of the real frames; unit: face heights squared."""
    mean = real.mean(0)
    _, _, axes = np.linalg.svd(real[:: max(1, len(real) // 4000)] - mean, full_matrices=False)
    basis = axes[:components].T
    return frechet((real - mean) @ basis, (generated - mean) @ basis)


def cosine(a: Float[np.ndarray, " d"], b: Float[np.ndarray, " d"]) -> float:
    """Cosine of the angle between two descriptors, -1 to 1; NaN where one is zero."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / lengths if lengths else float("nan")
