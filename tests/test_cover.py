"""Portraits whose mouth cannot be seen are told from those whose mouth can."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from test_render import landmarks, portrait, with_lips

from vivavoce import Animator, Portrait
from vivavoce.latent.cover import line_share, mouth_is_covered
from vivavoce.latent.warp import Renderer


def shown(image: np.ndarray, points: np.ndarray | None = None) -> float:
    return line_share(image, portrait().points if points is None else points, portrait().mouth.mm)


def masked(colour: tuple[int, int, int], texture: int = 0) -> np.ndarray:
    """The astronaut behind something that covers mouth and chin."""
    image, mm = portrait().image.copy(), portrait().mouth.mm
    x, y = portrait().points[[13, 14], :2].mean(0).astype(int)
    cv2.ellipse(image, (int(x), int(y)), (int(45 * mm), int(32 * mm)), 0, 0, 360, colour, -1)
    noise = np.random.default_rng(0).integers(0, texture + 1, image.shape[:2])[..., None]
    return np.where((image == np.array(colour)).all(-1, keepdims=True), image + noise, image).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("gap", [0.0, 8.0, 30.0])
def test_lips_are_seen_however_far_they_are_open(gap: float) -> None:
    target = with_lips(landmarks(), gap)
    assert shown(Renderer(portrait()).render(target), target) > 0.5


GREY = portrait().image.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)


@pytest.mark.parametrize("image", [portrait().image // 3, GREY])
def test_lips_are_seen_in_the_dark_and_without_colours(image: np.ndarray) -> None:
    assert shown(image) > 0.5


@pytest.mark.parametrize(("colour", "texture"), [((228, 230, 233), 0), ((120, 165, 205), 6), ((38, 38, 40), 6)])
def test_a_covered_mouth_is_noticed(colour: tuple[int, int, int], texture: int) -> None:
    assert mouth_is_covered(masked(colour, texture), portrait().points, portrait().mouth.mm)


def test_a_covered_mouth_is_one_sentence_before_any_work(animator: Animator) -> None:
    with pytest.raises(ValueError, match="mouth of the face in masked is covered"):
        animator.prepare(Portrait(image=masked((228, 230, 233)), name="masked"))


def test_the_portraits_are_served_and_the_profiles_refused(animator: Animator, recordings: Path) -> None:
    for file in sorted((recordings / "portraits").glob("*.jpg")):
        portrait_ = Portrait.open(file)
        if "profile" in file.stem:
            with pytest.raises(ValueError, match="turned"):
                animator.prepare(portrait_, size=64)
        else:
            assert animator.prepare(portrait_, size=64).size[0] >= 32
