"""Pictures made ready: what is enlarged keeps its detail and its place."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vivavoce import Animator, Portrait
from vivavoce.latent.motion_space import _cropped
from vivavoce.latent.tracker import square_crop


def test_a_small_picture_keeps_its_detail_when_it_is_enlarged(animator: Animator, astronaut: Portrait) -> None:
    small = cv2.resize(astronaut.image, (340, 340), interpolation=cv2.INTER_AREA)
    made = animator.prepare(Portrait(image=small, name="small"), size=512).canvas
    plain = cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC)
    off, plainly_off = (np.abs(picture.astype(float) - astronaut.image).mean() for picture in (made, plain))
    assert off < 0.92 * plainly_off


@pytest.mark.parametrize("low", [(41.3, 12.8), (-9.4, 30.0), (150.6, 160.2)])
def test_an_enlarged_crop_is_where_it_would_be_if_it_were_sampled_at_once(astronaut: Portrait, low: tuple[float, float]) -> None:
    smooth = cv2.GaussianBlur(astronaut.image[:300, 100:400], (0, 0), 4)
    corner, side, resolution = np.array(low), 120.7, 256
    made, origin, scale = _cropped(smooth, corner, side, resolution)
    once, same_origin, same_scale = square_crop(smooth, corner + side / 2, side, resolution)
    np.testing.assert_allclose(made, once, atol=4)
    np.testing.assert_allclose([*origin, scale], [*same_origin, same_scale])
