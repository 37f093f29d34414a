"""How a head moves: a similarity in space, found from landmarks that expression does not move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Pose:
    """A similarity in space: p becomes matrix @ p + offset (px)."""

    matrix: Float64[np.ndarray, "3 3"]
    offset: Float64[np.ndarray, " 3"]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points @ self.matrix.T + self.offset

    @property
    def place(self) -> Float64[np.ndarray, "3 4"]:
        """(matrix | offset)."""
        return np.concatenate([self.matrix, self.offset[:, None]], 1)

    @property
    def turn(self) -> float:
        """Angle of the rotation about whichever axis it has, radians."""
        cosine = (np.trace(self.matrix) / np.cbrt(np.linalg.det(self.matrix)) - 1) / 2
        return float(np.arccos(np.clip(cosine, -1, 1)))


def rigid_motion(source: np.ndarray, target: np.ndarray, rounds: int = 3) -> Pose:
    """The similarity in space that best takes source (n, 3) to target (n, 3); points that disagree count less (reweighted
    orthogonal Procrustes)."""
    a, b = source.astype(np.float64), target.astype(np.float64)
    weight = np.ones(len(a))
    size = float(np.linalg.norm(a - a.mean(0), axis=1).mean())
    for _ in range(rounds):
        w = weight[:, None] / weight.sum()
        ca, cb = (w * a).sum(0), (w * b).sum(0)
        u, s, vt = np.linalg.svd((w * (a - ca)).T @ (b - cb))
        flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        matrix = (vt.T * flip) @ u.T * ((s * flip).sum() / (w * (a - ca) ** 2).sum())
        pose = Pose(matrix, cb - matrix @ ca)
        weight = 1 / (1 + (np.linalg.norm(pose(a) - b, axis=1) / (0.02 * size)) ** 2)
    return pose


def flat_motion(pose: Pose, points: np.ndarray) -> Float64[np.ndarray, "2 3"]:
    """The affine map of the picture plane (2, 3) that a pose makes of a nearly flat patch around these points."""
    at = np.concatenate([points[:, :2].astype(np.float64), np.ones((len(points), 1))], 1)
    # A narrow patch does not tell all six numbers: lean towards the pose's own upper left block.
    lean = pose.matrix[:2, :2]
    rest = pose(points)[:, :2] - points[:, :2] @ lean.T
    slope = np.linalg.solve(at.T @ at + np.diag([25.0, 25.0, 0.0]) * len(points), at.T @ rest).T
    slope[:, :2] += lean
    return slope
