"""Which parts of a tracked recording can be believed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from vivavoce.latent.mesh import face_height
from vivavoce.latent.topology import CHEEKS, NOSE_TIP


def stretches(points: Float[np.ndarray, "t 478 3"], *, shortest: int = 30) -> list[slice]:
    """Runs of frames without a lost face, a cut (the nose jumps 0.15 face heights) or a face turned over about 35 degrees."""
    found = ~np.isnan(points[:, 0, 0])
    height = np.nanmedian(face_height(points))
    jump = np.linalg.norm(np.diff(points[:, NOSE_TIP, :2], axis=0), axis=-1) / height
    right, left = (points[:, cheek, 0] for cheek in CHEEKS)
    aside = np.abs(points[:, NOSE_TIP, 0] - (right + left) / 2) / np.abs(left - right)
    good = found & (aside < 0.4)
    starts = [0, *(np.flatnonzero(~(jump < 0.15)) + 1), len(points)]
    runs = []
    for a, b in pairwise(starts):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], good[a:b].astype(int), [0]])))
        runs += [slice(a + s, a + e) for s, e in edges.reshape(-1, 2) if e - s >= shortest]
    return runs
