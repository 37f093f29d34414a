"""MediaPipe face detection and Face Mesh: pictures and videos to landmarks.

The models are inside mediapipe's wheel (Apache-2.0), so nothing is downloaded. Landmarks are float32 ``(478, 3)`` in pixels of
the picture given, z in the same units (see `mesh.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vivavoce.latent.quiet import quiet_native_stderr
from vivavoce.latent.topology import LANDMARKS, SKIN

Image = UInt8[np.ndarray, "h w 3"]

DETECTOR_SIDE = 1280  # px: larger pictures are searched downscaled, and again in overlapping tiles
SMALLEST_TILE, TILE_SIDE = 400, 640  # px: tiles are searched at this resolution, and not made smaller than that
BLANK = np.zeros((64, 64, 3), np.uint8)
MESH_SIDE = 512  # px: Face Mesh itself looks at 192 px, so a larger crop only costs time


class FaceTracker:
    """Face Mesh over the frames of one video; keeps the tracked region from frame to frame. Use as a context manager."""

    def __init__(self) -> None:
        self._mesh = _face_mesh(static=False)

    def __enter__(self) -> FaceTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._mesh.close()

    def __call__(self, image: Image) -> Float[np.ndarray, "478 3"] | None:
        """Landmarks of the most prominent face, or None where there is none."""
        return _run_mesh(self._mesh, image)


def find_faces(image: Image) -> list[Float[np.ndarray, "478 3"]]:
    """Landmarks of every face in a picture, the largest first.

    Boxes come from both BlazeFace detectors on the whole picture and on overlapping tiles of a large one, ever smaller ones until
    there is a face (one that is a twentieth of a view is too small for the detectors); each box is then meshed on its own crop.
    """
    height, width = image.shape[:2]
    faces: list[np.ndarray] = []
    mesh = _face_mesh(static=True)
    try:
        for box in _face_boxes(image):
            centre, side = (box[:2] + box[2:]) / 2, 1.0 * float((box[2:] - box[:2]).max())
            if any(np.abs(centre - _centre(f)).max() < 0.35 * _extent(f) for f in faces):
                continue
            crop, origin, scale = square_crop(image, centre, 2 * side, MESH_SIDE)
            found = _run_mesh(mesh, crop)
            if found is None:
                continue
            found = (found / scale + np.array([*origin, 0.0])).astype(np.float32)
            skin, margin = found[:SKIN, :2], 0.1 * side
            inside = ((skin > -margin) & (skin < np.array([width, height]) + margin)).all(1).mean()
            if inside > 0.9 and not any(np.abs(_centre(found) - _centre(f)).max() < 0.35 * _extent(f) for f in faces):
                faces.append(found)
    finally:
        mesh.close()
    return sorted(faces, key=_extent, reverse=True)


def square_crop(
    image: Image, centre: Float[np.ndarray, " 2"], side: float, resolution: int
) -> tuple[Image, Float[np.ndarray, " 2"], float]:
    """Square of ``side`` px round ``centre`` resampled to ``resolution`` px: (crop, origin px, scale); outside, edges repeat."""
    scale = resolution / side
    origin = np.asarray(centre, float) - side / 2
    matrix = np.array([[scale, 0, -origin[0] * scale + (scale - 1) / 2], [0, scale, -origin[1] * scale + (scale - 1) / 2]])
    if scale < 0.5:  # area average first: the affine sampler alone would alias
        shrink = 2 * scale
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        matrix[:, :2] /= shrink
    crop = cv2.warpAffine(image, matrix, (resolution, resolution), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return crop, origin, scale


def _face_mesh(*, static: bool) -> Any:
    """A Face Mesh graph that has answered once: what it logs, it logs until then."""
    import mediapipe

    with quiet_native_stderr():
        mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=static, refine_landmarks=True, max_num_faces=1)
        mesh.process(BLANK)
    return mesh


def _run_mesh(mesh: Any, image: Image) -> np.ndarray | None:
    height, width = image.shape[:2]
    with quiet_native_stderr():
        hits = mesh.process(image).multi_face_landmarks
    if not hits:
        return None
    points = np.array([(p.x, p.y, p.z) for p in hits[0].landmark], np.float32) * np.array([width, height, width], np.float32)
    assert points.shape == (LANDMARKS, 3)
    return points


def _face_boxes(image: Image) -> list[np.ndarray]:
    """Candidate boxes (x0, y0, x1, y1) px, the most confident first, from the coarsest search that has any."""
    import mediapipe

    detectors = []
    for model in (0, 1):
        with quiet_native_stderr():
            detector = mediapipe.solutions.face_detection.FaceDetection(model_selection=model, min_detection_confidence=0.4)
            detector.process(BLANK)
        detectors.append(detector)
    try:
        side = max(image.shape[:2])
        found = _search(detectors, [*_whole(image), *_tiles(image, side // 2)])
        while not found and side // 2 > SMALLEST_TILE:
            side //= 2
            found = _search(detectors, _tiles(image, side // 2))
    finally:
        for detector in detectors:
            detector.close()
    return [box for _, box in sorted(found, key=lambda item: -item[0])]


def _search(detectors: list[Any], views: Iterable[tuple[Image, np.ndarray, float]]) -> list[tuple[float, np.ndarray]]:
    """(confidence, box px) of everything that either detector sees in any view."""
    found = []
    for view, origin, scale in views:
        size = np.array([view.shape[1], view.shape[0]])
        for detector in detectors:
            with quiet_native_stderr():
                hits = detector.process(view).detections or []
            for hit in hits:
                box = hit.location_data.relative_bounding_box
                low = np.array([box.xmin, box.ymin]) * size
                high = low + np.array([box.width, box.height]) * size
                found.append((float(hit.score[0]), np.concatenate([low, high]) / scale + np.tile(origin, 2)))
    return found


def _whole(image: Image) -> Iterator[tuple[Image, np.ndarray, float]]:
    """The picture, and the picture with a margin: a face that fills the frame is missed unless it looks smaller."""
    scale = min(1.0, DETECTOR_SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    yield small, np.zeros(2), scale
    margin = int(0.25 * max(small.shape[:2]))
    padded = cv2.copyMakeBorder(small, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(127, 127, 127))
    yield padded, np.full(2, -margin / scale), scale


def _tiles(image: Image, side: int) -> Iterator[tuple[Image, np.ndarray, float]]:
    """Squares of ``side`` px that overlap by half; none where the picture is small anyway."""
    if side < SMALLEST_TILE:
        return
    height, width = image.shape[:2]
    for y in _places(height, side):
        for x in _places(width, side):
            part = image[y : y + side, x : x + side]
            shrink = min(1.0, TILE_SIDE / max(part.shape[:2]))
            small = cv2.resize(part, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            yield small, np.array([x, y], float), shrink


def _places(length: int, side: int) -> np.ndarray:
    if length <= side:
        return np.zeros(1, int)
    return np.linspace(0, length - side, 1 + int(np.ceil(2 * (length - side) / side))).astype(int)


def _centre(points: np.ndarray) -> np.ndarray:
    return (points[:SKIN, :2].min(0) + points[:SKIN, :2].max(0)) / 2


def _extent(points: np.ndarray) -> float:
    return float((points[:SKIN, :2].max(0) - points[:SKIN, :2].min(0)).max())
