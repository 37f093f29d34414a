"""The refiner: what it leaves alone, that a picture is corrected as training corrects a crop, and that geometry is seen right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from test_render import SIDE as PORTRAIT_SIDE
from test_render import landmarks, portrait, turned, with_lips

from vivavoce import Animator, Portrait
from vivavoce.latent.correction import Correction, Inference, apply, looked
from vivavoce.latent.motion_space import Painter, Reference
from vivavoce.latent.refine import CHANNELS, SIDE, STRENGTH, Refiner, View, canon, corrected, crop, normalised, restricted
from vivavoce.latent.warp import Renderer


def wild(seed: int = 0) -> Inference:
    """A refiner that would repaint everything."""
    torch.manual_seed(seed)
    net = Refiner().eval()
    torch.nn.init.normal_(net.out.weight, std=1.0)
    return Inference(net)


def look(target: np.ndarray) -> View:
    renderer = Renderer(portrait())
    return renderer.draft(renderer.geometry(target)).view


def refined(target: np.ndarray, refiner: Inference | None) -> np.ndarray:
    renderer = Renderer(portrait())
    draft = renderer.draft(renderer.geometry(target))
    return renderer.finish(draft, refiner([draft.view])[0] if refiner else None)


def footprint(seen: View) -> np.ndarray:
    """Where in the picture a correction may be."""
    return cv2.warpAffine((seen.gate > 0).astype(np.float32), seen.place, (PORTRAIT_SIDE, PORTRAIT_SIDE)) > 0


def test_a_portrait_at_rest_is_left_alone() -> None:
    np.testing.assert_array_equal(refined(landmarks(), wild()), portrait().image)


@pytest.mark.parametrize("target", [with_lips(landmarks(), 30.0), turned(with_lips(landmarks(), 12.0), 12.0, -5.0)])
def test_outside_its_regions_the_picture_is_the_warps_bit_for_bit(target: np.ndarray) -> None:
    plain, made, where = refined(target, None), refined(target, wild()), footprint(look(target))
    np.testing.assert_array_equal(made[~where], plain[~where])
    assert (made[where] != plain[where]).mean() > 0.5
    assert 0.01 < where.mean() < 0.3


def test_a_head_that_moves_as_a_rigid_body_in_the_plane_needs_no_correction() -> None:
    angle, centre = np.radians(6.0), np.array([256.0, 256.0])
    turn = 1.03 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = landmarks().copy()
    target[:, :2] = (target[:, :2] - centre) @ turn.T + centre + (5.0, -8.0)
    target[:, 2] *= 1.03
    seen = look(target)
    face = cv2.erode((look(turned(landmarks(), 15.0)).gate > 0.5).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    assert np.abs(seen.displacement[face]).max() < 0.1
    assert not seen.gate[face].any()


def test_the_displacement_says_where_each_pixel_comes_from() -> None:
    for target in (with_lips(landmarks(), 25.0), turned(landmarks(), 15.0)):
        seen = look(target)
        ticks = np.arange(SIDE, dtype=np.float32)
        x, y = seen.displacement[..., 0] + ticks, seen.displacement[..., 1] + ticks[:, None]
        fetched = cv2.remap(seen.own, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = seen.gate > 0.9
        error, unmoved = (np.abs(p[inside].astype(float) - seen.plain[inside]).mean() for p in (fetched, seen.own))
        assert error < 0.3 * unmoved


def test_the_flow_moves_a_frame_onto_the_next() -> None:
    renderer = Renderer(portrait())
    earlier, later = (renderer.geometry(turned(with_lips(landmarks(), gap), yaw)) for gap, yaw in ((10.0, 4.0), (14.0, 7.0)))
    before, after = (renderer.draft(g).view for g in (earlier, later))
    flow = renderer.flow(earlier, later)
    ticks = np.arange(SIDE, dtype=np.float32)
    fetched = cv2.remap(before.plain, flow[..., 0] + ticks, flow[..., 1] + ticks[:, None], cv2.INTER_LINEAR)
    inside = after.gate > 0.9
    error, unmoved = (np.abs(p[inside].astype(float) - after.plain[inside]).mean() for p in (fetched, before.plain))
    assert error < 0.5 * unmoved


def test_the_crop_is_the_same_however_the_picture_is_turned_and_sized() -> None:
    p = portrait()
    angle, scale = np.radians(9.0), 0.8
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.concatenate([turn, [[60.0], [10.0]]], 1)
    size = PORTRAIT_SIDE, PORTRAIT_SIDE
    image = cv2.warpAffine(p.image, matrix, size, borderMode=cv2.BORDER_REPLICATE, flags=cv2.INTER_CUBIC)
    points = p.points.copy()
    points[:, :2], points[:, 2] = points[:, :2] @ turn.T + matrix[:, 2], scale * points[:, 2]
    again = canon(image, points, scale * p.mouth.mm)
    assert again.grain == pytest.approx(scale * p.canon.grain, rel=1e-4)
    assert np.abs(again.image.astype(float) - p.canon.image).mean() < 2.5


def test_a_picture_is_corrected_as_training_corrects_the_crop() -> None:
    """With the crop as the picture, `apply` and `corrected` are the same sum."""
    seen = replace(look(with_lips(landmarks(), 25.0)), place=np.eye(2, 3))
    refiner = wild(1)
    made = seen.drawn.copy()
    apply(refiner([seen])[0], seen, seen.plain, made, (0, 0))
    inputs = torch.from_numpy(looked(seen))[None].permute(0, 3, 1, 2)
    with torch.inference_mode():
        mixture = restricted(refiner.net(inputs.to(refiner.dtype)), inputs[:, 9:10])
        gate = STRENGTH * torch.from_numpy(seen.gate)[None, None]
        wanted = 127.5 * (corrected(inputs[:, :3], inputs[:, 3:6], gate, mixture) + 1)
    wanted = wanted[0].clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.abs(made - wanted)[1:-1, 1:-1].max() < 1.0


def test_the_network_is_given_the_same_as_in_training() -> None:
    seen = look(turned(with_lips(landmarks(), 25.0), 14.0))
    given = np.concatenate([seen.plain, seen.drawn, seen.own, seen.openings[..., None], seen.displacement], -1, dtype=np.float32)
    wanted = normalised(torch.from_numpy(given.copy()).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(looked(seen), wanted.numpy(), atol=1e-5)


def test_large_pictures_are_cropped_without_aliasing() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (900, 900, 3), dtype=np.uint8)
    place = np.array([[6.0, 0, 20], [0, 6.0, 20]])
    assert crop(noise, place).std() < 0.25 * noise.std()  # 36 samples to a pixel


def test_weights_come_back_and_batches_are_single_frames(tmp_path: Path) -> None:
    views = [look(with_lips(landmarks(), gap)) for gap in (8.0, 20.0, 35.0)]
    first = wild()
    first.net.float().save(tmp_path / "r.safetensors", {"steps": "1"})
    again = Inference(Refiner.load(tmp_path / "r.safetensors"))
    together, single = again(views), [again([v])[0] for v in views]
    for a, b in zip(together, single, strict=True):
        np.testing.assert_allclose(a.planes[..., 2:], b.planes[..., 2:], atol=4.0)  # bfloat16 has eight bits
        np.testing.assert_allclose(a.planes[..., :2], b.planes[..., :2], atol=0.05)


def test_merged_weights_say_the_same() -> None:
    net = wild().net.float()
    seen = torch.rand(2, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        plain, merged = net.planes(seen), net.planes(seen, net.merged())
    torch.testing.assert_close(plain, merged, atol=1e-4, rtol=1e-4)
    assert plain.std() > 0.05


def test_frames_that_were_begun_can_be_left_out(animator: Animator, small: Reference) -> None:
    space = animator.space
    motion = space.layout.unpack(0.5 * torch.randn(4, space.layout.width, generator=torch.Generator().manual_seed(0)))
    marks = space.landmarks(motion, small)
    whole = list(space.painter(small, ahead=8).paint(marks))
    painter = space.painter(small, ahead=8)
    for points in marks:
        painter.begin(points)
    painter.drop(2)
    assert painter.waiting == 2
    assert painter.room == 6
    np.testing.assert_array_equal([painter.take(), painter.take()], whole[2:])


def test_a_gpu_would_refine_all_that_were_begun_at_once(animator: Animator, small: Reference) -> None:
    space, refiner = animator.space, animator.space.refiner
    assert refiner is not None
    asked = []

    class Many:
        batch = 3

        def __call__(self, views: list[View]) -> list[Correction]:
            asked.append(len(views))
            return refiner(views)

    motion = space.layout.unpack(0.5 * torch.randn(5, space.layout.width, generator=torch.Generator().manual_seed(0)))
    marks = space.landmarks(motion, small)
    painted = list(Painter(small, cast(Inference, Many())).paint(marks))
    assert asked == [3, 2]
    for made, alone in zip(painted, space.painter(small).paint(marks), strict=True):
        assert int(np.abs(made.astype(int) - alone).max()) <= 2


def test_several_frames_painted_at_once_are_those_painted_one_by_one(animator: Animator, small: Reference) -> None:
    space = animator.space
    motion = space.layout.unpack(0.5 * torch.randn(3, space.layout.width, generator=torch.Generator().manual_seed(0)))
    marks = space.landmarks(motion, small)
    together, single = space.painter(small, ahead=8).paint(marks), [next(space.painter(small).paint([m])) for m in marks]
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(together, single, strict=True)) <= 2


def test_few_large_pictures_are_painted_at_once(animator: Animator, astronaut: Portrait, small: Reference) -> None:
    space = animator.space
    assert space.painter(small).room == 1
    assert space.painter(small, ahead=8).room == 8
    assert space.painter(animator.prepare(astronaut, size=1200, crop=True), ahead=8).room == 2


def test_the_shipped_refiner_changes_the_mouth(animator: Animator, small: Reference) -> None:
    space = animator.space
    motion = space.layout.unpack(torch.zeros(1, space.layout.width))
    lips = motion.lips_jaw.clone()
    lips[0, 0] = 2.0
    marks = space.landmarks(replace(motion, lips_jaw=lips), small)
    with_it, without = (next(Painter(small, r).paint(marks)).astype(int) for r in (space.refiner, None))
    assert np.abs(with_it - without).max() > 8


def test_a_mouth_that_hardly_moves_hardly_changes(animator: Animator) -> None:
    """No boiling: a tenth of a pixel of jaw changes the correction by less than the picture."""
    refiner = animator.space.refiner
    assert refiner is not None
    renderer = Renderer(portrait())
    corrections = []
    for gap in (20.0, 20.1):
        draft = renderer.draft(renderer.geometry(with_lips(landmarks(), gap)))
        unrefined = draft.drawn.astype(int)
        renderer.finish(draft, refiner([draft.view])[0])
        corrections.append(draft.drawn.astype(int) - unrefined)
    changed = np.abs(corrections[0]).max(-1) > 2
    assert changed.mean() > 0.005
    assert np.abs(corrections[1] - corrections[0])[changed].mean() < 1.5
