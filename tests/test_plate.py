"""The person before the background: what the head uncovers is filled, and nothing of the person stays behind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from test_render import SIDE, landmarks, portrait, turned

from vivavoce.latent.plate import Plate, person_of, plate_of
from vivavoce.latent.surround import face_mask, surround
from vivavoce.latent.topology import CHIN, FOREHEAD, SKIN
from vivavoce.latent.warp import Prepared, Renderer, prepare

GREEN = np.array([60, 170, 90], np.uint8)


def before_green() -> Prepared:
    """The astronaut before a green wall."""
    matte = portrait().plate.matte[..., None] / 255
    image = (matte * portrait().image + (1 - matte) * GREEN).round().astype(np.uint8)
    return prepare(image, landmarks())


def test_the_astronaut_is_cut_out() -> None:
    matte = portrait().plate.matte
    face = face_mask(portrait().points, SIDE) > 0
    assert (matte[face] == 255).all()
    assert (matte[: SIDE // 3, : SIDE // 8] == 0).mean() > 0.9  # the wall beside the head
    assert ((matte > 0) & (matte < 255)).mean() < 0.1  # its edge is narrow


def test_where_there_is_no_person_nothing_is_cut_out() -> None:
    assert person_of(np.full((256, 256, 3), 128, np.uint8), np.eye(256) > 0) is None


def test_hidden_background_goes_on_as_it_is_seen_around() -> None:
    rows, columns = np.mgrid[:256, :256].astype(float)
    image = np.stack([columns / 2, rows / 2, 60 + 0 * rows], -1).astype(np.uint8)
    person = (np.hypot(rows - 140, columns - 120) < 60).astype(np.float32)
    marked = image.copy()
    marked[person > 0] = (250, 10, 250)
    plate = plate_of(marked, person)
    assert np.abs(plate.picture.astype(int) - image).mean() < 3
    assert np.abs(plate.picture.astype(int) - image).max() < 40
    np.testing.assert_array_equal(plate.picture[plate.hidden == 0], marked[plate.hidden == 0])


@pytest.mark.parametrize(("yaw", "pitch"), [(20.0, 0.0), (-20.0, 5.0), (0.0, 15.0), (0.0, -15.0)])
def test_nothing_of_the_person_stays_behind(yaw: float, pitch: float) -> None:
    prepared = before_green()
    renderer = Renderer(prepared)
    target = turned(landmarks(), yaw, pitch)
    target[:, :2] += (14.0, 10.0)  # and moved aside, which uncovers more
    frame = renderer.render(target)
    # Where the matte was and no longer is: there the wall has to be seen.
    geometry = renderer.geometry(target)
    renderer.draft(geometry)
    now = prepared.plate.matte.copy()  # outside the window nothing moves
    height, width = renderer._map_x.shape
    now[renderer._top : renderer._top + height, renderer._left : renderer._left + width] = renderer._warped[..., 3]
    uncovered = (prepared.plate.matte == 255) & (now == 0)
    assert uncovered.sum() > 500
    off = np.abs(frame[uncovered].astype(int) - GREEN).max(-1)
    assert (off < 30).mean() > 0.97
    # And where neither is, it has not moved at all.
    never = (prepared.plate.hidden == 0) & (now == 0)
    np.testing.assert_array_equal(frame[never], prepared.image[never])


def test_hair_goes_with_the_head_and_shoulders_hardly() -> None:
    around = portrait().around
    points, face = around.points[:, :2], portrait().points
    height = np.linalg.norm(face[FOREHEAD] - face[CHIN])
    matte = cv2.remap(portrait().plate.matte, points[:, None].astype(np.float32), None, cv2.INTER_NEAREST)[:, 0]
    inside = (points > 0.12 * SIDE).all(1) & (points < 0.88 * SIDE).all(1)
    hair = inside & (matte == 255) & (points[:, 1] < face[FOREHEAD, 1])
    chest = inside & (matte == 255) & (points[:, 1] > face[CHIN, 1] + 0.9 * height)
    assert hair.sum() >= 5 and around.follow[hair].min() > 0.9
    assert chest.sum() == 0 or around.follow[chest].max() < 0.2


def test_an_unknown_person_still_moves_and_the_border_does_not() -> None:
    around = surround(portrait().points, SIDE, None)
    edge = ((around.points[:, :2] < 1) | (around.points[:, :2] > SIDE - 2)).any(1)
    assert (around.follow[edge] == 0).all()
    assert around.follow.max() > 0.9


def test_what_a_free_border_cuts_off_may_move() -> None:
    corner, side = np.array([50, 90]), 412  # the top of the hair is cut off
    image = np.ascontiguousarray(portrait().image[corner[1] : corner[1] + side, corner[0] : corner[0] + side])
    points = landmarks() - np.array([*corner, 0], np.float32)
    for free in (False, True):
        frame = Renderer(prepare(image, points, (free,) * 4)).render(turned(points, 0.0, 12.0))
        assert (frame[: side // 40] != image[: side // 40]).any() == free


def test_a_head_cut_off_by_the_upper_border_goes_on_like_a_head() -> None:
    """Turned far, it is neither stretched up to the border nor mirrored at it: what comes into view is narrower than what was
    cut."""
    corner, side = np.array([50, 90]), 412
    image = np.ascontiguousarray(before_green().image[corner[1] : corner[1] + side, corner[0] : corner[0] + side])
    prepared = prepare(image, landmarks() - np.array([*corner, 0], np.float32), (True, True, True, False))
    assert 0.1 < (prepared.plate.matte[0] == 255).mean() < 0.9
    points = prepared.points + np.array([0.5, 0.5, 0], np.float32)
    renderer = Renderer(prepared)
    calm, far = (renderer.geometry(turned(points, 0.0, pitch)) for pitch in (5.0, 15.0))
    top = prepared.points[: SKIN, 1].min()
    above = prepared.around.points[:, 1] < 0.5 * top
    share = [
        np.abs(g.vertices[-len(above) :][above] - prepared.around.points[above]).sum()
        / np.abs(g.pose(prepared.around.points[above]) - prepared.around.points[above]).sum() for g in (calm, far)
    ]
    assert share[1] > share[0] + 0.1
    frame = renderer.render(turned(points, 0.0, 15.0))
    widths = [(np.abs(frame[row].astype(int) - GREEN).max(-1) > 40).mean() for row in (0, side // 12)]
    assert widths[0] < widths[1]


def test_an_empty_plate_hides_nothing() -> None:
    plate = Plate.empty(portrait().image)
    assert (plate.matte == 255).all() and not plate.hidden.any()
