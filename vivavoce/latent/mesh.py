"""Geometry of the tracked face: rigid alignment, the linear face model, and the neutral face of a person.

Landmarks are MediaPipe Face Mesh points: 468 on the skin, then 5 on each iris (468-472 right, 473-477 left). Coordinates are
image coordinates (x right, y down, z away from the viewer). "Normalised" points have the head's pose removed and are measured
in *face heights*: the distance from the forehead (10) to the base of the nose (2), which speech does not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.spatial.transform import Rotation

from vivavoce.latent.topology import (
    BROW_TOPS,
    BROWS,
    EYES,
    FOREHEAD,
    INNER_LOWER,
    INNER_UPPER,
    LIP_MIDDLES,
    MOUTH_CORNERS,
    NOSE_BASE,
    RIGID,
    SKIN,
)

EYEBALL_RADIUS = 0.4  # in widths of the eye opening: a 12 mm ball behind a 30 mm opening
REGIONS = ("lips_jaw", "cheeks_brows", "eyelids")


@dataclass(frozen=True)
class Pose:
    """Similarity transforms x -> scale * rotation @ x + translation. ``translation`` and ``scale`` are in the target's units."""

    rotation: Float[np.ndarray, "t 3 3"]
    scale: Float[np.ndarray, " t"]
    translation: Float[np.ndarray, "t 3"]

    def apply(self, points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t n 3"]:
        """Points of every frame, transformed by that frame's pose."""
        turned = np.einsum("tij,tnj->tni", self.rotation, points)
        return self.scale[:, None, None] * turned + self.translation[:, None]

    def remove(self, points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t n 3"]:
        """The inverse of :meth:`apply`."""
        shifted = (points - self.translation[:, None]) / self.scale[:, None, None]
        return np.einsum("tji,tnj->tni", self.rotation, shifted)


def rigid_fit(source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "t n 3"]) -> Pose:
    """Least-squares similarity from ``source`` to every frame of ``target`` on the rigid landmarks (Umeyama 1991)."""
    a = source[RIGID].astype(np.float64)
    b = target[:, RIGID].astype(np.float64)
    a_mean, b_mean = a.mean(0), b.mean(1)
    a, b = a - a_mean, b - b_mean[:, None]
    u, s, vt = np.linalg.svd(np.einsum("tni,nj->tij", b, a))
    reflect = np.ones_like(s)
    reflect[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * reflect[:, None]) @ vt
    scale = (s * reflect).sum(1) / (a**2).sum()
    return Pose(rotation, scale, b_mean - scale[:, None] * np.einsum("tij,j->ti", rotation, a_mean))


def face_height(points: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t"]:
    """Distance from the forehead to the base of the nose, in the units of ``points``."""
    return np.linalg.norm(points[..., FOREHEAD, :] - points[..., NOSE_BASE, :], axis=-1)


def lip_opening(points: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t"]:
    """Mean gap of the three central pairs of inner-lip landmarks, in face heights."""
    upper, lower = points[..., INNER_UPPER[3:6], :], points[..., INNER_LOWER[3:6], :]
    return np.linalg.norm(upper - lower, axis=-1).mean(-1) / face_height(points)


def mouth_width(points: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t"]:
    """Distance of the corners of the lips, in face heights."""
    return _distance(points, *MOUTH_CORNERS) / face_height(points)


def brow_height(points: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t"]:
    """Distance of the tops of the brows from the outer corners of the eyes, mean of both sides, in face heights."""
    return np.mean([_distance(points, a, b) for a, b in BROW_TOPS], axis=0) / face_height(points)


def eyes_apart(points: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t"]:
    """Distance of the outer corners of the eyes, in the units of ``points``."""
    return _distance(points, EYES[0].corners[0], EYES[1].corners[1])


def brow_to_eye(points: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t 2"]:
    """Distance of each brow's centre from its eye's, in distances of the eyes' centres: right, left (THEval's measure)."""
    eyes = [points[..., list({*eye.opening[0], *eye.opening[1]}), :].mean(-2) for eye in EYES]
    brows = [points[..., list(brow), :].mean(-2) for brow in (BROWS[:10], BROWS[10:])]
    gaps = np.stack([np.linalg.norm(b - e, axis=-1) for b, e in zip(brows, eyes, strict=True)], axis=-1)
    return gaps / np.linalg.norm(eyes[0] - eyes[1], axis=-1)[..., None]


def mouth_box(points: Float[np.ndarray, "n d"]) -> tuple[float, float, float, float]:
    """Square of one and a half mouth widths around the lips: left, top, right, bottom, in the units of ``points``."""
    lips = points[[*MOUTH_CORNERS, *LIP_MIDDLES], :2]
    centre, half = lips.mean(0), 0.75 * float(np.linalg.norm(lips[0] - lips[1]))
    return float(centre[0] - half), float(centre[1] - half), float(centre[0] + half), float(centre[1] + half)


def face_box(points: Float[np.ndarray, "n d"]) -> tuple[float, float, float, float]:
    """The box of the skin's landmarks: left, top, right, bottom, in the units of ``points``."""
    low, high = points[:SKIN, :2].min(0), points[:SKIN, :2].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _distance(points: Float[np.ndarray, "*t n d"], a: int, b: int) -> Float[np.ndarray, "*t"]:
    return np.linalg.norm(points[..., a, :] - points[..., b, :], axis=-1)


def head_rotation(
    points: Float[np.ndarray, "t n 3"], template: Float[np.ndarray, "n 3"] | None = None
) -> Float[np.ndarray, "t 3"]:
    """Pitch, yaw and roll of the head, radians, against ``template``, by default the median frame.

    The rotation is the one that takes the template's rigid landmarks closest to each frame's; R = Rz(roll) Ry(yaw) Rx(pitch).
    """
    rotation = rigid_fit(np.median(points, 0) if template is None else template, points).rotation
    pitch = np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2])
    yaw = np.arcsin(np.clip(-rotation[:, 2, 0], -1, 1))
    return np.stack([pitch, yaw, np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])], axis=1)


def flat_mesh(points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t d"]:
    """What Mesh-FID compares: the skin's vertices, one row a frame, expression and head pose together.

    Only the clip's mean place and its mean face height are taken off, so that size and framing of a video do not matter.
    """
    skin = points[:, :SKIN]
    return ((skin - skin.mean((0, 1))) / face_height(points).mean()).reshape(len(skin), -1)


def eye_opening(points: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t"]:
    """Height of the lid opening over its width, mean of both eyes."""
    ratios = []
    for eye in EYES:
        middle = len(eye.upper) // 2
        high = np.linalg.norm(points[..., eye.upper[middle], :] - points[..., eye.lower[middle], :], axis=-1)
        ratios.append(high / np.linalg.norm(points[..., eye.corners[0], :] - points[..., eye.corners[1], :], axis=-1))
    return np.mean(ratios, axis=0)


def lid_gap(normalised: Float[np.ndarray, "n 3"]) -> float:
    """How far the middle of the upper lids is above the lower ones (negative: they cross), face heights, mean of both eyes."""
    return float(np.mean([normalised[e.lower[i], 1] - normalised[e.upper[i], 1] for e in EYES for i in (2, 3, 4)]))


def iris_offset(points: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t 2"]:
    """Iris centre from the middle of the eye's corners, in eyeball radii, (x, y), mean of both eyes; on normalised points."""
    offsets = []
    for eye in EYES:
        a, b = points[..., eye.corners[0], :], points[..., eye.corners[1], :]
        radius = EYEBALL_RADIUS * np.linalg.norm(a - b, axis=-1)[..., None]
        offsets.append(((points[..., list(eye.iris), :].mean(-2) - (a + b) / 2) / radius)[..., :2])
    return np.mean(offsets, axis=0)


def move_irises(points: Float[np.ndarray, "*t n 3"], shift: Float[np.ndarray, "*t 2"]) -> Float[np.ndarray, "*t n 3"]:
    """Shift the iris landmarks by ``shift`` eyeball radii; on normalised points."""
    moved = points.copy()
    for eye in EYES:
        width = np.linalg.norm(points[..., eye.corners[0], :] - points[..., eye.corners[1], :], axis=-1)
        moved[..., list(eye.iris), :2] += (shift * (EYEBALL_RADIUS * width)[..., None])[..., None, :]
    return moved


@dataclass(frozen=True)
class FaceModel:
    """Linear face: mean + identity directions + region-wise expression directions, in face heights.

    ``identity[i]`` is one standard deviation between people; ``expression[region][i]`` is one standard deviation of that
    coefficient over the training recordings. ``mask[region]`` shares every vertex out among the regions (the masks sum to 1, to
    less near the skull); ``importance`` weighs the vertices in principal components and projection. ``blink_direction`` takes
    average eyes from open to shut in eyelid coefficients; ``blink_profile`` is the closure, 0 to 1, over the frames of a blink.
    """

    mean: Float[np.ndarray, "n 3"]
    identity: Float[np.ndarray, "k n 3"]
    expression: Mapping[str, Float[np.ndarray, "k n 3"]]
    mask: Mapping[str, Float[np.ndarray, " n"]]
    importance: Float[np.ndarray, " n"]
    blink_direction: Float[np.ndarray, " k"]
    blink_profile: Float[np.ndarray, " p"]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> FaceModel:
        """What `save` saved."""
        with safe_open(path, framework="numpy") as file:
            data = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata() or {}
        return cls(
            data["mean"], data["identity"],
            {r: data[f"expression.{r}"] for r in REGIONS}, {r: data[f"mask.{r}"] for r in REGIONS}, data["importance"],
            data["blink_direction"], data["blink_profile"], metadata,
        )

    def save(self, path: Path) -> None:
        """All tensors in one safetensors file, float32."""
        data = {"mean": self.mean, "identity": self.identity, "importance": self.importance}
        data |= {"blink_direction": self.blink_direction, "blink_profile": self.blink_profile}
        data |= {f"expression.{r}": v for r, v in self.expression.items()} | {f"mask.{r}": v for r, v in self.mask.items()}
        save_file({k: np.ascontiguousarray(v, np.float32) for k, v in data.items()}, path, dict(self.metadata))

    def widths(self) -> dict[str, int]:
        """Number of coefficients by region."""
        return {region: len(self.expression[region]) for region in REGIONS}

    def lips(self) -> Float[np.ndarray, "2 k"]:
        """Opening of the inner lips, beyond that of lips that touch, and width of the mouth, face heights, for a unit of each
        coefficient of lips and jaw: both are linear in them."""
        directions, middle = self.expression["lips_jaw"], slice(2, 7)
        opening = (directions[:, INNER_LOWER[middle], 1] - directions[:, INNER_UPPER[middle], 1]).mean(1)
        right, left = MOUTH_CORNERS
        return np.stack([opening, directions[:, left, 0] - directions[:, right, 0]])

    def displacement(self, coefficients: Mapping[str, Float[np.ndarray, "t k"]]) -> Float[np.ndarray, "t n 3"]:
        """Movement of every landmark away from the neutral face, face heights."""
        parts = [np.einsum("tk,knc->tnc", coefficients[r], self.expression[r]) for r in REGIONS]
        return np.sum(parts, axis=0)

    def project(self, displacement: Float[np.ndarray, "t n 3"]) -> dict[str, Float[np.ndarray, "t k"]]:
        """Coefficients of the masked displacement in each region's (importance-orthogonal) directions.

        The inverse of `displacement`.
        """
        coefficients = {}
        for region in REGIONS:
            weighted = self.expression[region] * self.importance[None, :, None] ** 2
            energy = (weighted * self.expression[region]).sum((1, 2))
            coefficients[region] = np.einsum("tnc,n,knc->tk", displacement, self.mask[region], weighted, optimize=True) / energy
        return coefficients

    def normalise(
        self, points: Float[np.ndarray, "t n 3"], template: Float[np.ndarray, "n 3"] | None = None
    ) -> tuple[np.ndarray, Pose]:
        """Remove pose and size: points in face heights, and the pose that was removed."""
        pose = rigid_fit(self.mean if template is None else template, points)
        return pose.remove(points), pose

    def estimate_neutral(
        self, points: Float[np.ndarray, "n 3"], *, regions: tuple[str, ...] = REGIONS, noise: float = 0.02
    ) -> Float[np.ndarray, "n 3"]:
        """The face of the person whose one normalised picture is ``points`` with the expression of ``regions`` taken off.

        Maximum a posteriori over identity and expression, both standard normal in the model's directions, with landmark noise
        of ``noise`` face heights; only the expression found is taken off, so all personal detail stays. What is left of a gap
        between the inner lips is then closed, because zero motion means closed lips by definition.
        """
        identity = self.identity[:, :SKIN]
        expression = np.concatenate([self.expression[r] for r in REGIONS])
        directions = np.concatenate([identity, expression[:, :SKIN]]).reshape(len(identity) + len(expression), -1) / noise
        target = (points - self.mean)[:SKIN].reshape(-1) / noise
        found = np.linalg.solve(directions @ directions.T + np.eye(len(directions)), directions @ target)
        taken = np.concatenate([np.full(len(self.expression[r]), float(r in regions)) for r in REGIONS])
        neutral = points - np.einsum("k,knc->nc", found[len(identity):] * taken, expression)
        return close_lips(neutral, self.mean)


def close_lips(neutral: Float[np.ndarray, "n 3"], mean: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Move upper and lower lip together until the inner lips are as close as in the mean face; never opens them."""
    closed = neutral.copy()
    gap = neutral[INNER_LOWER, 1] - neutral[INNER_UPPER, 1]
    excess = np.maximum(gap - (mean[INNER_LOWER, 1] - mean[INNER_UPPER, 1]), 0.0)
    if not excess.any():
        return closed
    x = (neutral[INNER_UPPER, 0] + neutral[INNER_LOWER, 0]) / 2
    order = np.argsort(x)
    middle = (neutral[INNER_UPPER, 1] + neutral[INNER_LOWER, 1]) / 2
    for rows, sign, inner in ((INNER_UPPER, 1.0, INNER_UPPER), (INNER_LOWER, -1.0, INNER_LOWER)):
        closed[inner, 1] += sign * excess / 2
        others = np.setdiff1d(np.arange(SKIN), np.concatenate([INNER_UPPER, INNER_LOWER]))
        side = neutral[others, 1] < np.interp(neutral[others, 0], x[order], middle[order])
        chosen = others[side if sign > 0 else ~side]
        near = np.linalg.norm(neutral[chosen, None, :2] - neutral[None, rows, :2], axis=-1).min(1)
        amount = np.interp(neutral[chosen, 0], x[order], excess[order], left=0.0, right=0.0)
        closed[chosen, 1] += sign * amount / 2 * np.exp(-((near / 0.15) ** 2))
    return closed


def clip_neutral(points: Float[np.ndarray, "t n 3"], model: FaceModel | None) -> Float[np.ndarray, "n 3"]:
    """The neutral face of a recorded person: the mean of the frames with the most nearly closed lips and usually open eyes.

    Where the lips never close, the model's estimate closes them; without a model (while one is being learned) they stay open.
    """
    gap, eyes = lip_opening(points), eye_opening(points)
    low = np.percentile(gap, 5)
    lips = np.exp(-(((gap - low) / 0.012) ** 2))
    lids = np.exp(-(((eyes - np.percentile(eyes, 60)) / 0.06) ** 2)) + 1e-3
    weight = lips * lids
    neutral = np.einsum("t,tnc->nc", weight / weight.sum(), points)
    if model is not None and low > 0.03:
        return model.estimate_neutral(neutral)
    return neutral


def rotation_vectors(rotation: Float[np.ndarray, "t 3 3"]) -> Float[np.ndarray, "t 3"]:
    """Rotation vectors, radians."""
    return Rotation.from_matrix(rotation).as_rotvec()


def rotation_matrices(vectors: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 3 3"]:
    """Rotations from rotation vectors, radians."""
    return Rotation.from_rotvec(vectors).as_matrix()


def mean_rotation(rotation: Float[np.ndarray, "t 3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation that is closest to all (chordal mean)."""
    return Rotation.from_matrix(rotation).mean().as_matrix()
