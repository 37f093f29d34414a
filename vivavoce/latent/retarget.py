"""Between landmarks and motion: what a tracked face does, and where the landmarks of another face go when it does the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from vivavoce.latent.mesh import (
    FaceModel,
    Pose,
    clip_neutral,
    eye_opening,
    iris_offset,
    mean_rotation,
    move_irises,
    rigid_fit,
    rotation_matrices,
    rotation_vectors,
)
from vivavoce.latent.motion import Motion
from vivavoce.latent.topology import EYES, INNER_LOWER, INNER_UPPER

CLOSED_EYE = 0.5  # of the mean face's lid opening: below this a portrait's eyes count as closed


@dataclass(frozen=True, kw_only=True)
class Rest:
    """A face at rest: its neutral shape (normalised, face heights) and the pose (one frame, px) that motion is relative to."""

    neutral: Float[np.ndarray, "n 3"]
    pose: Pose


def rest_of_clip(points: Float[np.ndarray, "t n 3"], model: FaceModel) -> Rest:
    """Rest of a recorded face: neutral from its frames with closed lips, pose the mean over the clip."""
    rough, _ = model.normalise(points)
    neutral = clip_neutral(rough, model)
    neutral = rigid_fit(model.mean, neutral[None]).remove(neutral[None])[0]
    pose = rigid_fit(neutral, points)
    scale = np.exp(np.log(pose.scale).mean(keepdims=True))
    middle = Pose(mean_rotation(pose.rotation)[None], scale, pose.translation.mean(0, keepdims=True))
    return Rest(neutral=neutral, pose=middle)


def rest_of_picture(points: Float[np.ndarray, "n 3"], model: FaceModel) -> Rest:
    """Rest of a pictured face: lips closed by the face model, eyes opened where the picture shows them closed, its own pose.

    Cheeks, brows and open lids stay as pictured: they are how this person looks.
    """
    normalised, pose = model.normalise(points[None].astype(np.float64))
    shown = normalised[0]
    closed = eye_opening(shown) < CLOSED_EYE * eye_opening(model.mean)
    neutral = model.estimate_neutral(shown, regions=("lips_jaw", "eyelids") if closed else ("lips_jaw",))
    return Rest(neutral=neutral, pose=pose)


def motion_of(points: Float[np.ndarray, "t n 3"], rest: Rest, model: FaceModel) -> Motion:
    """Motion of tracked landmarks (pixels) relative to a rest."""
    pose = rigid_fit(rest.neutral, points)
    aligned = pose.remove(points)
    expression = model.project(aligned - rest.neutral)
    scale = float(rest.pose.scale[0])
    return Motion(
        **{region: _tensor(values) for region, values in expression.items()},
        gaze=_tensor(_gaze(aligned) - _gaze(rest.neutral)),
        rotation=_tensor(rotation_vectors(pose.rotation @ rest.pose.rotation[0].T)),
        translation=_tensor((pose.translation - rest.pose.translation)[:, :2] / scale),
        log_scale=_tensor(np.log(pose.scale / scale)[:, None]),
    )


def landmarks_of(motion: Motion, rest: Rest, model: FaceModel) -> Float[np.ndarray, "t n 3"]:
    """Landmarks (pixels) of the face at ``rest`` when it makes the motion: inverse of `motion_of` up to the model's basis."""
    shape = rest.neutral + model.displacement({r: _array(v) for r, v in motion.expression().items()})
    shape = _stopped(shape)
    shape = move_irises(shape, np.sin(_gaze(rest.neutral) + _array(motion.gaze)) - iris_offset(shape))
    scale = rest.pose.scale[0]
    moved = np.concatenate([_array(motion.translation), np.zeros((len(motion), 1))], 1)
    pose = Pose(
        rotation_matrices(_array(motion.rotation)) @ rest.pose.rotation[0],
        scale * np.exp(_array(motion.log_scale)[:, 0]),
        rest.pose.translation + scale * moved,
    )
    return pose.apply(shape)


def _stopped(shape: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t n 3"]:
    """Lids and lips stop where they touch: an upper lid meets the lower one, crossing lips meet halfway."""
    stopped = shape.copy()
    for eye in EYES:
        upper, lower = list(eye.upper), list(eye.lower)
        stopped[:, upper, 1] -= np.maximum(shape[:, upper, 1] - shape[:, lower, 1], 0.0)
    crossed = np.maximum(shape[:, INNER_UPPER, 1] - shape[:, INNER_LOWER, 1], 0.0)
    stopped[:, INNER_UPPER, 1] -= crossed / 2
    stopped[:, INNER_LOWER, 1] += crossed / 2
    return stopped


def _gaze(normalised: Float[np.ndarray, "*t n 3"]) -> Float[np.ndarray, "*t 2"]:
    """Angle of the eyeballs (right, down), radians."""
    return np.arcsin(np.clip(iris_offset(normalised), -0.9, 0.9))


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64)
