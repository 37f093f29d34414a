"""The distance that FID and FVD are, of few samples with many numbers each."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vivavoce.metrics.distances import frechet


def set_distance(real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"]) -> float:
    """The Frechet distance of two sets of features; NaN where one has fewer than two.

    Samples fewer than numbers lie in a subspace. Turned into it, their distance is the same and the matrices are small.
    """
    if min(len(real), len(generated)) < 2:
        return float("nan")
    both = np.concatenate([real, generated]).astype(np.float64)
    if len(both) < both.shape[1]:
        both = both @ np.linalg.qr(both.T)[0]
    return frechet(both[: len(real)], both[len(real) :])
