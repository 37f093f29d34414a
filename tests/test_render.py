"""The renderer as a function of landmarks: what it must leave alone, and whether a tracker sees what was asked for."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from vivavoce.latent.pose import rigid_motion
from vivavoce.latent.quiet import quiet_native_stderr
from vivavoce.latent.topology import CHIN, FOREHEAD, INNER_LIPS, LEFT_EYE, RIGHT_EYE, RIGID, face_triangles
from vivavoce.latent.tracker import find_faces
from vivavoce.latent.warp import Prepared, Renderer, prepare

SIDE = 512
OUTER_LIPS = (
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
)
LOWER_LIP = [
    *INNER_LIPS[1], 62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292,
    76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, *OUTER_LIPS[1],
]


def tracked(image: np.ndarray) -> np.ndarray:
    with quiet_native_stderr():
        faces = find_faces(image)
    assert faces, "no face in the rendered picture"
    return faces[0]


@cache
def portrait() -> Prepared:
    from skimage.data import astronaut

    image = cv2.resize(astronaut()[0:280, 85:365], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return prepare(image, tracked(image))


def landmarks() -> np.ndarray:
    return portrait().points + np.array([0.5, 0.5, 0], np.float32)


def turned(points: np.ndarray, yaw_degrees: float, pitch_degrees: float = 0.0) -> np.ndarray:
    """Turn the head about a point between the ears."""
    yaw, pitch = np.radians([yaw_degrees, pitch_degrees])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    pivot = points[:468].mean(0) + np.array([0, 0, 0.5 * np.ptp(points[:468, 0])])
    return ((points - pivot) @ (about_y @ about_x).T + pivot).astype(np.float32)


def with_lips(points: np.ndarray, gap: float) -> np.ndarray:
    """Lips `gap` px apart: what is below their line moves along the face's axis, evenly near the middle of the jaw."""
    axis = (points[CHIN] - points[FOREHEAD]) / np.linalg.norm(points[CHIN] - points[FOREHEAD])
    width = np.linalg.norm(points[61] - points[291])
    line = (points[13] + points[14]) / 2
    height = (points - line) @ axis
    across = np.linalg.norm(points - line - height[:, None] * axis, axis=1)
    lower = list(INNER_LIPS[1][1:-1])
    height[lower], height[list(INNER_LIPS[0])] = 1.0 * width, -1.0 * width
    share = np.clip(0.5 + height / (0.06 * width), 0, 1) * np.exp(-0.5 * (across / (0.5 * width)) ** 2)
    share[468:] = 0
    return (points + share[:, None] * axis * (gap - (points[14] - points[13]) @ axis)).astype(np.float32)


def with_lids(points: np.ndarray, closed: float) -> np.ndarray:
    out = points.copy()
    for upper, lower in (RIGHT_EYE, LEFT_EYE):
        out[list(upper)] += 0.9 * closed * (points[list(lower)] - points[list(upper)])
    return out


def lip_gap(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[13, :2] - points[14, :2]))


def eye_ratio(points: np.ndarray) -> float:
    pairs = ((159, 145, 33, 133), (386, 374, 362, 263))
    flat = points[:, :2]
    return float(np.mean([np.linalg.norm(flat[a] - flat[b]) / np.linalg.norm(flat[c] - flat[d]) for a, b, c, d in pairs]))


def test_the_mesh_is_one_surface_with_four_rims():
    faces = face_triangles()
    directed = [(int(t[i]), int(t[(i + 1) % 3])) for t in faces for i in range(3)]
    assert len(set(directed)) == len(directed), "faces wound differently, or an edge with three faces"
    edges = {frozenset(e) for e in directed}
    assert 468 - len(edges) + len(faces) == 2 - 4  # Euler: a sphere less the outline, two eyes and a mouth


def test_its_own_landmarks_give_the_picture_itself():
    np.testing.assert_array_equal(Renderer(portrait()).render(landmarks()), portrait().image)


def test_frames_do_not_depend_on_the_frames_before():
    targets = [turned(with_lips(landmarks(), 10.0 * k), 4.0 * k) for k in range(3)]
    first, second = Renderer(portrait()), Renderer(portrait())
    forth = [first.render(t) for t in targets]
    back = [second.render(t) for t in reversed(targets)][::-1]
    np.testing.assert_array_equal(forth, back)


@pytest.mark.parametrize(("yaw", "pitch"), [(15.0, 0.0), (-20.0, 5.0), (0.0, -12.0)])
def test_the_border_keeps_still(yaw: float, pitch: float):
    frame = Renderer(portrait()).render(turned(landmarks(), yaw, pitch))
    edge = int(0.04 * SIDE)
    same = (frame == portrait().image).all(-1)
    same[edge:-edge, edge:-edge] = True
    assert same.all()
    assert np.abs(frame.astype(int) - portrait().image).mean() > 1  # and yet the head moved


@pytest.mark.parametrize(("yaw", "pitch"), [(7.0, 0.0), (-7.0, 0.0), (0.0, -7.0)])
def test_a_turned_head_is_seen_turned(yaw: float, pitch: float):
    target = turned(landmarks(), yaw, pitch)
    seen = tracked(Renderer(portrait()).render(target))

    def angles(points: np.ndarray) -> np.ndarray:
        matrix = rigid_motion(landmarks()[RIGID], points[RIGID]).matrix
        matrix = matrix / np.cbrt(np.linalg.det(matrix))
        return np.degrees([np.arcsin(np.clip(-matrix[2, 0], -1, 1)), np.arctan2(matrix[2, 1], matrix[2, 2])])

    # Face Mesh guesses depth, and reads some four fifths of a turn whose points are in place to a pixel.
    assert np.abs(angles(seen) - angles(target)).max() < 2.0
    assert np.abs(seen[RIGID, :2] - target[RIGID, :2]).mean() < 0.005 * SIDE


def test_lips_open_as_far_as_asked():
    asked = np.linspace(0, 45, 10)
    renderer = Renderer(portrait())
    seen = np.array([lip_gap(tracked(renderer.render(with_lips(landmarks(), gap)))) for gap in asked])
    assert np.corrcoef(asked, seen)[0, 1] > 0.95
    assert 0.6 < np.ptp(seen) / np.ptp(asked) < 1.4


def test_a_smile_closes_without_a_bright_slit():
    smiling = portrait()
    assert smiling.mouth.shown, "this portrait shows its teeth"
    closed = with_lips(landmarks(), 0.0)
    frame = Renderer(smiling).render(closed).mean(-1)
    for upper, lower in ((82, 87), (13, 14), (312, 317)):
        x, y = ((closed[upper] + closed[lower]) / 2)[:2].astype(int)
        column = frame[y - 12 : y + 13, x]
        line = 8 + int(column[8:17].argmin())
        assert column[line] < 0.75 * np.median(column)  # one dark line where the lips meet ...
        assert (np.diff(column[line - 3 : line + 1]) < 0).all(), "a second line, with something between"
        assert (np.diff(column[line : line + 4]) > 0).all(), "a second line, with something between"


@pytest.mark.parametrize(("missed", "grey"), [(0, False), (8, False), (16, False), (8, True), (16, True)])
def test_a_wide_open_mouth_closes_to_one_line(missed: int, grey: bool):
    """Although the tracker takes the lower rim of the lips to be some pixels higher than it is."""
    points = with_lips(landmarks(), 70.0)
    true = points.copy()
    true[LOWER_LIP, 1] += missed * np.tile(np.sin(np.linspace(0, np.pi, 11)), 4)
    image = Renderer(portrait()).render(landmarks())
    x, y = points[205, :2].astype(int)
    skin = np.median(image[y - 5 : y + 5, x - 5 : x + 5], (0, 1)).tolist()
    ring = [*INNER_LIPS[0], *INNER_LIPS[1][-2:0:-1]]
    rim = [*OUTER_LIPS[0], *OUTER_LIPS[1][-2:0:-1]]
    face = cv2.convexHull(points[:468, :2].round().astype(np.int32))
    cv2.fillConvexPoly(image, face, skin)
    cv2.fillPoly(image, [true[rim, :2].round().astype(np.int32)], (190, 80, 85))
    cv2.fillPoly(image, [true[ring, :2].round().astype(np.int32)], (35, 15, 18))
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    if grey:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2)
    renderer = Renderer(prepare(image, points))
    np.testing.assert_array_equal(renderer.render(points), image)
    closed = with_lips(points, 0.0)
    frame = renderer.render(closed).astype(float).mean(-1)
    for x in (closed[14, 0], closed[87, 0], closed[317, 0]):
        column = frame[int(closed[14, 1]) + 6 : int(closed[CHIN, 1]) - 4, int(x)]
        assert column.min() > 90, "a second dark hole under the closed lips"


def test_lids_close():
    renderer = Renderer(portrait())
    seen = [eye_ratio(tracked(renderer.render(with_lids(landmarks(), closed)))) for closed in (0.0, 0.5, 1.0)]
    assert seen[0] > seen[1] > seen[2]
    assert seen[2] < 0.5 * seen[0]
