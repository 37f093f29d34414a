"""The tiny video autoencoder: clips and their landmarks, who is sampled, passes equal to diffusers', and a run that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from claims import assert_other_run, assert_unknown_run
from jaxtyping import Float
from safetensors.torch import load_file
from scipy.stats import chisquare

pytest.importorskip("diffusers")

from vivavoce.latent.topology import EYES, INNER_LOWER, LANDMARKS, LIPS, RIGID
from vivavoce.media.video import VideoWriter, read_frames
from vivavoce.train.data import Clip
from vivavoce.train.muon import Muon
from vivavoce.train.video_clips import (
    ClipConfig,
    ClipSampler,
    Crop,
    VideoClip,
    head_crop,
    load_clips,
    make_clips,
    steady_crop,
)
from vivavoce.train.video_vae import (
    Stage,
    VAEShape,
    VideoVAERecipe,
    as_bytes,
    as_pictures,
    decode,
    encode,
    train_video_vae,
    varied,
    weights_of,
    window_of,
)
from vivavoce.train.video_vae_check import reconstructed


def quiet(*_: object) -> None:
    return None


def toy_points(frames: int, centre: tuple[float, float], radius: float, seed: int = 0) -> np.ndarray:
    """A face that nods a little: landmarks scattered in a disc, the two of the outline that tell turned heads at its sides."""
    rng = np.random.default_rng(seed)
    points = np.zeros((LANDMARKS, 3))
    angle, length = rng.uniform(0, 2 * np.pi, LANDMARKS), radius * np.sqrt(rng.uniform(0, 1, LANDMARKS))
    points[:, 0], points[:, 1] = centre[0] + length * np.cos(angle), centre[1] + length * np.sin(angle)
    points[[234, 454], 0], points[1, :2] = [centre[0] - radius, centre[0] + radius], centre
    points[10, :2], points[2, :2] = (centre[0], centre[1] - radius), (centre[0], centre[1] + 0.2 * radius)
    nod = 0.02 * radius * np.sin(np.arange(frames))
    moved = np.repeat(points[None], frames, 0)
    moved[..., 1] += nod[:, None]
    return moved.astype(np.float32)


def toy_clip(frames: int = 30, side: int = 32, person: str = "a", seed: int = 0) -> VideoClip:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (frames, 6, 6, 3), np.uint8)
    pictures = np.stack([cv2.resize(p, (side, side), interpolation=cv2.INTER_CUBIC) for p in small])
    return VideoClip(
        name=f"{person}{seed}", split="train", person=person, talks=True, recording=Path("none.mp4"), first=0, pictures=pictures,
        points=toy_points(frames, (side / 2, side / 2), 0.4 * side, seed),
    )


def toy_recipe(out: Path, **changes: object) -> VideoVAERecipe:
    stages = (Stage(share=0.5, side=16, frames=5, batch=2), Stage(share=0.5, side=None, frames=5, batch=1))
    recipe = VideoVAERecipe(
        out=out, steps=4, warmup=1, stages=stages, shape=VAEShape(width=4, channels=4), statistics=2, checkpoint_seconds=0.0,
    )
    return replace(recipe, **changes)  # type: ignore[arg-type]


class Stop(Exception):
    """The process ended."""


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path) -> None:
    clips = [toy_clip(seed=i, person=f"p{i}") for i in range(3)]

    def stop(_: str, step: int, __: int) -> None:
        if step == 2:
            raise Stop

    whole = train_video_vae(toy_recipe(tmp_path / "whole"), clips, quiet, quiet)
    with pytest.raises(Stop):
        train_video_vae(toy_recipe(tmp_path / "parts"), clips, stop, quiet)
    parts = train_video_vae(toy_recipe(tmp_path / "parts"), clips, quiet, quiet)
    for name in ("diffusion_pytorch_model.safetensors", "config.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    again = partial(train_video_vae, progress=quiet, say=quiet)
    assert_other_run(parts.parent, partial(again, toy_recipe(parts.parent, seed=1), clips), "vae-run.json")
    assert_other_run(parts.parent, partial(again, toy_recipe(parts.parent), clips[:2]), "vae-run.json")
    assert_unknown_run(parts.parent, partial(again, toy_recipe(parts.parent), clips), "vae-run.json")


def test_a_decoder_that_goes_on_learning_leaves_latents_as_they_are(tmp_path: Path) -> None:
    clips = [toy_clip(seed=i, person=f"p{i}") for i in range(3)]
    first, other = (train_video_vae(toy_recipe(tmp_path / f"{i}", seed=i), clips, quiet, quiet) for i in (0, 1))
    longer = toy_recipe(tmp_path / "longer").lengthened(first)
    assert longer.stages[0].frames > 41
    recipe = replace(longer, steps=2, stages=(Stage(share=1.0, side=16, frames=9, batch=1),))
    again = train_video_vae(recipe, clips, quiet, quiet)
    before, after = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (first, again))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (first, again))
    assert old == new, "latents are normalised alike"
    wrong = partial(train_video_vae, replace(recipe, decoder_of=other), clips, quiet, quiet)
    assert_other_run(again.parent, wrong, "vae-run.json")


def test_the_saved_folder_gives_equal_pictures(tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    clips = [toy_clip(frames=40)]
    folder = train_video_vae(toy_recipe(tmp_path, steps=1), clips, quiet, quiet)
    vae = AutoencoderKLWan.from_pretrained(folder).eval()
    saved = torch.load(tmp_path / "vae.pt", weights_only=True)
    net = toy_recipe(tmp_path).shape.build().eval()
    net.load_state_dict({k: v.bfloat16().float() for k, v in saved["average"].items()})
    pictures = clips[0].pictures[:9]
    with torch.no_grad():
        ours = as_bytes(decode(net, encode(net, as_pictures(pictures))[0]))
    np.testing.assert_array_equal(reconstructed(vae, pictures), ours)
    assert len(vae.config["latents_std"]) == 4 and min(vae.config.latents_std) > 0


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_two_passes_equal_those_of_diffusers(frames: int) -> None:
    torch.manual_seed(0)
    vae = VAEShape(width=8, channels=6).build().eval()
    pictures = torch.rand(2, 3, frames, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        theirs = vae.encode(pictures).latent_dist
        mean, log_variance = encode(vae, pictures)
        torch.testing.assert_close(mean, theirs.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(log_variance, theirs.logvar, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(decode(vae, mean).clamp(-1, 1), vae.decode(mean).sample, atol=1e-5, rtol=1e-4)


def test_a_step_of_muon_goes_in_all_directions_alike() -> None:
    """Of the gradient U S V^T a step takes U V^T, whatever S is, up to the iteration's tolerance; a bias takes Adam's."""
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(12, 12))[0], torch.linalg.qr(torch.randn(27, 27))[0][:12]
    weight, bias = torch.nn.Parameter(torch.zeros(12, 3, 3, 3)), torch.nn.Parameter(torch.zeros(5))
    weight.grad = (u @ torch.diag(torch.linspace(0.3, 3, 12)) @ v).view(12, 3, 3, 3)
    bias.grad = torch.tensor([1.0, -2.0, 3.0, -0.1, 50.0])
    Muon([weight, bias], lr=0.01, matrix_rate=10.0, weight_decay=0.0).step()
    found = torch.linalg.svdvals(weight.detach().flatten(1))
    assert float(found.min()) > 0.06 and float(found.max()) < 0.13
    assert torch.cosine_similarity(-weight.detach().flatten(), (u @ v).flatten(), 0) > 0.95
    torch.testing.assert_close(bias.detach(), -0.01 * bias.grad.sign())


def test_latents_of_what_is_normal_are_normalised(tmp_path: Path) -> None:
    """Statistics are those of latents as drawn: a channel of mean 0 and variance 1 that says nothing keeps its scale."""
    from vivavoce.train.video_vae import statistics

    torch.manual_seed(0)
    vae = VAEShape(width=4, channels=4).build().eval()
    with torch.no_grad():
        vae.quant_conv.weight.zero_()
        vae.quant_conv.bias.copy_(torch.tensor([0.0, 3.0, -1.0, 0.5, 0.0, 0.0, 2.0, -30.0]))
    mean, std = statistics(vae, ClipSampler([toy_clip()], 5, 0.4), toy_recipe(tmp_path))
    torch.testing.assert_close(mean, torch.tensor([0.0, 3.0, -1.0, 0.5]))
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, float(np.e), 0.0]), atol=1e-3, rtol=1e-4)


def test_a_crop_holds_the_face(tmp_path: Path) -> None:
    points = toy_points(20, (83.0, 61.0), 30.0)
    crop = head_crop(points, 64)
    inside = crop.points(points)[..., :2]
    assert inside.min() > 0 and inside.max() < 64, "the whole face is in the picture"
    assert np.ptp(inside[0], axis=0).max() > 0.6 * 64, "and fills it"


def wandering(frames: int, seed: int = 0) -> Float[np.ndarray, "t 478 3"]:
    """A head that moves over the picture, tilts, and comes nearer, while its lips part."""
    points = toy_points(1, (0.0, 0.0), 40.0)[0].astype(np.float64)
    for eye, x in zip(EYES, (-18.0, 18.0), strict=True):
        points[[*eye.opening[0], *eye.opening[1]], :2] = x, -8.0
    ticks = np.arange(frames)
    turn = np.exp(0.02 * np.sin(ticks / 9)) * np.exp(0.2j * np.sin(ticks / 7 + 1))
    moved = np.repeat(points[None], frames, 0)
    moved[:, INNER_LOWER, 1] += 4 * (1 - np.cos(ticks / 2))[:, None]
    place = 83 + 61j + 6 * np.sin(ticks / 8) + 4j * np.cos(ticks / 9)
    plane = turn[:, None] * (moved[..., 0] + 1j * moved[..., 1]) + place[:, None]
    return np.stack([plane.real, plane.imag, moved[..., 2]], -1).astype(np.float32)


@pytest.mark.parametrize("cut", [head_crop, steady_crop])
def test_landmarks_lie_where_the_pictures_show_them(cut: Callable[..., Crop]) -> None:
    """A bright spot on a landmark of the recording is under that landmark of the crop, large frames and small."""
    for size in (1, 5):
        points = size * wandering(12)
        crop = cut(points, 96)
        frames = np.zeros((12, 120 * size, 160 * size, 3), np.uint8)
        for frame, face in zip(frames, points, strict=True):
            x, y = np.floor(face[0, :2]).astype(int)
            cv2.circle(frame, (int(x), int(y)), 3 * size, (255, 255, 255), -1)
            face[0, :2] = x + 0.5, y + 0.5
        ticks = np.arange(96) + 0.5
        for picture, face in zip(crop.pictures(frames).astype(float)[..., 0], crop.points(points), strict=True):
            found = np.array([(picture.sum(0) * ticks).sum(), (picture.sum(1) * ticks).sum()]) / picture.sum()
            np.testing.assert_allclose(found, face[0, :2], atol=0.2)


def test_in_steady_pictures_only_lips_move() -> None:
    points = wandering(60)
    points[20:23] = np.nan
    crop = steady_crop(points, 64)
    steady = crop.points(points)
    there = ~np.isnan(steady[:, 0, 0])
    assert there.sum() == 57 and np.isfinite(crop.turn).all()
    assert np.ptp(steady[there][:, RIGID, :2], axis=0).max() < 0.6, "px of 64; as recorded it wanders over 15"
    assert np.ptp(head_crop(points[there], 64).points(points[there])[:, RIGID, :2], axis=0).min() > 3
    assert np.ptp(steady[there][:, INNER_LOWER, 1], axis=0).min() > 3
    right, left = (steady[0, list(eye.opening[0]), :2].mean(0) for eye in EYES)
    assert abs(left - right)[1] < 0.02 * (left - right)[0], "upright"


@pytest.mark.parametrize("seed", range(8))
def test_landmarks_move_with_pictures_that_are_varied(seed: int) -> None:
    picture, points = np.zeros((64, 64, 3), np.uint8), toy_points(1, (32.0, 32.0), 20.0)
    points[0, 5, :2] = (38.5, 27.5)
    cv2.circle(picture, (38, 27), 3, (255, 255, 255), -1)
    pictures, moved = varied(picture[None], points, np.random.default_rng(seed))
    light, ticks = pictures[0].astype(float)[..., 0], np.arange(64) + 0.5
    found = np.array([(light.sum(0) * ticks).sum(), (light.sum(1) * ticks).sum()]) / light.sum()
    np.testing.assert_allclose(found, moved[0, 5, :2], atol=0.25)


def test_lips_count_most_and_small_windows_show_them(tmp_path: Path) -> None:
    points = toy_points(3, (32.0, 40.0), 18.0)
    points[:, LIPS, :2] = np.array([30.0, 48.0]) + 0.15 * (points[:, LIPS, :2] - points[:, LIPS, :2].mean(1, keepdims=True))
    weight = weights_of(points[0], 64, toy_recipe(tmp_path))
    assert weight[48, 30] == weight.max() > 3 * weight[2, 2]
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows, columns = window_of(points, 64, 32, 1.0, rng)
        assert rows.stop - rows.start == columns.stop - columns.start == 32
        assert rows.start <= 48 < rows.stop and columns.start <= 30 < columns.stop


def test_people_are_sampled_by_the_power_of_their_seconds() -> None:
    clips = [toy_clip(frames=160, side=16, person="long"), toy_clip(frames=10, side=16, person="short"),
             toy_clip(frames=10, side=16, person="short", seed=1), toy_clip(frames=4, side=16, person="too short")]
    sampler, rng = ClipSampler(clips, 9, 0.5), np.random.default_rng(0)
    drawn = [sampler.draw(rng) for _ in range(3000)]
    counts = {name: sum(clip.person == name for clip, _ in drawn) for name in ("long", "short", "too short")}
    expected = np.sqrt([160.0, 20.0])
    assert counts["too short"] == 0
    assert chisquare([counts["long"], counts["short"]], expected / expected.sum() * 3000).pvalue > 0.01
    assert all(window.stop - window.start == 9 and window.stop <= len(clip) for clip, window in drawn)


def test_clips_are_cut_once_and_no_person_takes_over(tmp_path: Path) -> None:
    tracks, clips = tmp_path / "tracks", []
    tracks.mkdir()
    for i in range(3):
        path = tmp_path / f"clip{i}.mp4"
        with VideoWriter(path, fps=25, size=(96, 96)) as writer:
            for k in range(60):
                writer.write(np.full((96, 96, 3), 40 + k + 10 * i, np.uint8))
        points = toy_points(60, (48.0, 48.0), 30.0)
        points[5] = np.nan  # a lost face: the stretch begins after it
        np.save(tracks / f"train__clip{i}.npy", points)
        clips.append(Clip(path=path, split="train", person="one", talks=True))
    config = ClipConfig(side=32, seconds=54 / 25 + 35 / 25)
    make_clips(clips, tmp_path / "out", tracks, quiet, config)
    found = load_clips(tmp_path / "out", "train")
    assert sorted(len(clip) for clip in found) == [35, 54], "the second is cut short, the third left out"
    first = found[0]
    assert first.first == 6
    shown = list(read_frames(first.recording, 25.0))[6]
    np.testing.assert_array_equal(first.pictures[0], head_crop(toy_points(60, (48.0, 48.0), 30.0)[6:], 32).pictures([shown])[0])
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    make_clips(clips, tmp_path / "out", tracks, quiet, config)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert {json.loads(f.read_text())["person"] for f in before if f.suffix == ".json"} == {"one"}
    with pytest.raises(ValueError, match=r"are 32 px wide, and 64 px were asked for: .* or empty that one"):
        make_clips(clips, tmp_path / "out", tracks, quiet, replace(config, side=64))
    with pytest.raises(ValueError, match="are fixed ones, not what was asked for: give another folder"):
        make_clips(clips, tmp_path / "out", tracks, quiet, replace(config, steady=True))


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"windows of 8 pictures .* give one more than a multiple of 4"):
        Stage(share=1.0, side=None, frames=8, batch=1)
    with pytest.raises(ValueError, match=r"no clip has 99 frames"):
        ClipSampler([toy_clip()], 99, 0.4)
    with pytest.raises(ValueError, match=r"holds no clips of the split 'train'"):
        load_clips(tmp_path, "train")
