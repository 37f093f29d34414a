"""Skeletons: MediaPipe's 33 body joints of a picture as numbers, as a drawing, and as our own motion would move them.

The model is inside mediapipe's wheel (the middle one of three; the others would be downloaded), so nothing is fetched. A skeleton
is float32 (33, 3): x, y from the picture's centre in picture heights (right and down), and how surely the joint is seen, 0 to 1.
A joint outside the picture is not seen (0); where nobody is, all is 0. Hallo4 conditions on such keypoints (3, "Skeleton").
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from vivavoce.latent.quiet import quiet_native_stderr
from vivavoce.latent.topology import CHEEKS, EYES, MOUTH_CORNERS, NOSE_TIP
from vivavoce.latent.tracker import BLANK

Image = UInt8[np.ndarray, "h w 3"]

JOINTS = 33
NOSE, SHOULDERS, ELBOWS, WRISTS, HIPS = 0, (11, 12), (13, 14), (15, 16), (23, 24)  # left, right: the person's own
UPPER_BODY = tuple(range(25))  # head, arms, hands and hips: what a portrait may show
SEEN = 0.5  # from which a joint counts as seen
FOLLOW = 0.2  # how far shoulders go with the head: median slope over 17 recordings, 0.13 across and 0.25 down (docs/log.md)

# Each part: pairs of joints that are joined, and the colour they are drawn in (RGB).
_PARTS: tuple[tuple[tuple[tuple[int, int], ...], tuple[int, int, int]], ...] = (
    (((8, 6), (6, 5), (5, 4), (4, 0), (0, 1), (1, 2), (2, 3), (3, 7)), (255, 220, 60)),  # ears, eyes, nose
    (((9, 10),), (255, 80, 80)),  # mouth
    (((11, 12),), (80, 255, 120)),  # shoulders
    (((11, 13), (13, 15), (15, 17), (15, 19), (15, 21), (17, 19)), (80, 180, 255)),  # left arm and hand
    (((12, 14), (14, 16), (16, 18), (16, 20), (16, 22), (18, 20)), (200, 110, 255)),  # right arm and hand
    (((11, 23), (12, 24), (23, 24)), (60, 230, 230)),  # trunk
    (((23, 25), (25, 27), (27, 29), (29, 31), (27, 31)), (110, 130, 255)),  # left leg
    (((24, 26), (26, 28), (28, 30), (30, 32), (28, 32)), (255, 130, 220)),  # right leg
)
# Landmarks of the face mesh at the joints of the head: nose, inner corner, middle and outer corner of the left eye, then of the
# right one, ears (at the outline beside them), corners of the mouth, all left before right.
_RIGHT_EYE, _LEFT_EYE = EYES
_HEAD = {
    0: (NOSE_TIP,),
    1: (_LEFT_EYE.corners[0],), 2: _LEFT_EYE.corners, 3: (_LEFT_EYE.corners[1],),
    4: (_RIGHT_EYE.corners[1],), 5: _RIGHT_EYE.corners, 6: (_RIGHT_EYE.corners[0],),
    7: (CHEEKS[1],), 8: (CHEEKS[0],), 9: (MOUTH_CORNERS[1],), 10: (MOUTH_CORNERS[0],),
}


class SkeletonTracker:
    """MediaPipe's pose over the frames of one video; smooths and keeps its region from frame to frame. A context manager."""

    def __init__(self) -> None:
        self._pose = _pose(static=False)

    def __enter__(self) -> SkeletonTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pose.close()

    def __call__(self, image: Image) -> Float32[np.ndarray, "33 3"]:
        """The skeleton of the most prominent person."""
        return _run(self._pose, image)


def find_skeleton(image: Image) -> Float32[np.ndarray, "33 3"]:
    """The skeleton of the most prominent person of one picture."""
    pose = _pose(static=True)
    try:
        return _run(pose, image)
    finally:
        pose.close()


def track_skeletons(frames: Iterable[Image]) -> Float32[np.ndarray, "t 33 3"]:
    """Skeletons of a video, picture by picture."""
    with SkeletonTracker() as tracker:
        found = [tracker(frame) for frame in frames]
    return np.stack(found) if found else np.zeros((0, JOINTS, 3), np.float32)


def draw_skeleton(
    skeleton: Float[np.ndarray, "33 3"], size: tuple[int, int], *, joints: Iterable[int] = UPPER_BODY
) -> UInt8[np.ndarray, "h w 3"]:
    """Limbs between seen joints on black, each part in its colour, RGB; ``size``: (width, height), px; ``joints``: those drawn.

    The drawing is a picture like any other, so a video space can encode it as a condition.
    """
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    chosen = set(joints)
    shown = {int(j) for j in np.flatnonzero(skeleton[:, 2] >= SEEN)} & chosen
    bits = 4  # of a pixel's fraction, so that slow movements are not lost between pixels
    places = np.round((skeleton[:, :2] * height + (width / 2, height / 2) - 0.5) * 2**bits).astype(int)
    thick = max(1, round(height / 128))
    for pairs, colour in _PARTS:
        for a, b in pairs:
            if a in shown and b in shown:
                cv2.line(image, places[a].tolist(), places[b].tolist(), colour, thick, cv2.LINE_AA, bits)
    for joint in sorted(shown):
        cv2.circle(image, places[joint].tolist(), round(1.5 * thick * 2**bits), (255, 255, 255), -1, cv2.LINE_AA, bits)
    return image


def head_joints(points: Float[np.ndarray, "t 478 3"], size: tuple[int, int]) -> Float32[np.ndarray, "t 33 3"]:
    """Skeletons of a head alone, from face landmarks (px of pictures of ``size``): the joints of the head are where the mesh has
    them, ears where its outline passes them; the body's, and all where the face is not tracked (NaN), are not seen."""
    skeleton = np.zeros((len(points), JOINTS, 3), np.float32)
    known = ~np.isnan(points[:, 0, 0])
    for joint, landmarks in _HEAD.items():
        place = points[known][:, list(landmarks), :2].mean(1)
        skeleton[known, joint, :2] = _normalised(place, size)
    skeleton[known, : len(_HEAD), 2] = 1.0
    return _inside(skeleton, size)


def driven_skeleton(
    still: Float[np.ndarray, "33 3"], points: Float[np.ndarray, "t 478 3"], rest: Float[np.ndarray, "478 3"], size: tuple[int, int],
    *, follow: float = FOLLOW,
) -> Float32[np.ndarray, "t 33 3"]:
    """The skeleton of a portrait as moving landmarks would move it: so MotionSpace's head drives a video (coarse to fine).

    ``still``: the portrait's own; ``points``: landmarks of each picture, ``rest``: the portrait's, px of pictures of ``size``.
    Joints of the head move as their landmarks do. All others go ``follow`` of the way of the head's middle: a guess, because a
    voice says nothing of arms; seen joints stay seen as long as they are in the picture.
    """
    own, moved = head_joints(rest[None], size), head_joints(points, size)
    head = list(_HEAD)
    shift = moved[:, head, :2] - own[:, head, :2]
    out = np.repeat(still[None].astype(np.float32), len(points), 0)
    body = np.setdiff1d(np.arange(JOINTS), head)
    out[:, head, :2] += shift
    out[:, body, :2] += follow * shift.mean(1, keepdims=True)
    # What the portrait's skeleton lacks is not there to be moved, and a picture without the face has no skeleton.
    out *= ~np.isnan(points[:, :1, :1]) & still.any(-1, keepdims=True)
    return _inside(out, size)


def _pose(*, static: bool) -> Any:
    """A pose graph that has answered once: what it logs, it logs until then."""
    import mediapipe

    with quiet_native_stderr():
        pose = mediapipe.solutions.pose.Pose(static_image_mode=static, model_complexity=1)
        pose.process(BLANK)
    return pose


def _run(pose: Any, image: Image) -> Float32[np.ndarray, "33 3"]:
    with quiet_native_stderr():
        found = pose.process(image).pose_landmarks
    if found is None:
        return np.zeros((JOINTS, 3), np.float32)
    size = image.shape[1], image.shape[0]
    skeleton = np.array([(p.x, p.y, p.visibility) for p in found.landmark], np.float32)
    assert skeleton.shape == (JOINTS, 3)
    skeleton[:, :2] = _normalised(skeleton[:, :2] * size, size)
    return _inside(skeleton, size)


def _normalised(places: Float[np.ndarray, "*n 2"], size: tuple[int, int]) -> Float[np.ndarray, "*n 2"]:
    return (places - np.array(size) / 2) / size[1]


def _inside(skeleton: Float32[np.ndarray, "*t 33 3"], size: tuple[int, int]) -> Float32[np.ndarray, "*t 33 3"]:
    """Joints outside the picture count as unseen: the tracker guesses where they are, and says at times that it sees them."""
    reach = np.array([size[0] / size[1] / 2, 0.5])
    there = (np.abs(skeleton[..., :2]) <= reach).all(-1)
    skeleton[..., 2] *= there
    return skeleton
