"""The video engine's inference: from a portrait and sound to frames, wherever its networks are kept meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from tiny_base import save_adapter, save_base
from tiny_wan_net import load_tiny_wan

from vivavoce.animate_video import VideoAnimator, adapter_side, adapter_windows, offload_layers, size_of
from vivavoce.generate_video import VideoGenerator
from vivavoce.latent.framing import HEAD_AND_SHOULDERS
from vivavoce.latent.space import Frame
from vivavoce.latent.tracker import find_faces
from vivavoce.latent.video import VideoSpace
from vivavoce.media.audio import Audio
from vivavoce.media.portrait import Portrait
from vivavoce.nets import memory
from vivavoce.nets.video import VideoTransformer
from vivavoce.nets.video_condition import Voice
from vivavoce.video_scene import Scene, VideoWindows

pytest.importorskip("diffusers")
pytest.importorskip("peft")

QUICK = VideoWindows(latents=5, prefix=2, steps=2, guidance={"text": 2.0, "speech": 2.0}, opening=False)
PORTRAIT = Portrait(image=np.ascontiguousarray(skimage.data.astronaut()[:256, 96:352]))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base / "adapter.safetensors")


def sound(seconds: float, seed: int = 0) -> Audio:
    return Audio(samples=0.1 * torch.randn(1, round(16000 * seconds), generator=torch.Generator().manual_seed(seed)), rate=16000)


def load(base: Path, adapter: Path | None, **more: Any) -> VideoAnimator:
    return VideoAnimator.load(base, adapter, **{"size": (64, 32), "windows": QUICK, **more})


def frames(animator: VideoAnimator, seconds: float = 0.6, **more: Any) -> np.ndarray:
    return np.stack(list(animator.animate(PORTRAIT, sound(seconds), **more)))


def test_frames_are_the_decoded_latents_of_what_was_heard(base: Path, adapter: Path) -> None:
    animator = load(base, adapter)
    told: list[tuple[str, int, int | None]] = []
    made = frames(animator, 0.7, seed=3, prompt="a man speaks", progress=lambda *step: told.append(step))
    assert made.shape == (18, 32, 64, 3) and made.dtype == np.uint8  # 17.5 pictures; the last latent is shown in part
    shown = animator.space.reference(PORTRAIT)
    first, _ = animator.space.decode(shown.latent, animator.space.start())
    assert np.array_equal(made[0], first[0])
    assert [step[1:] for step in told if step[0] == "solving"] == [(i, 4) for i in range(1, 5)]
    again = load(base, adapter)
    assert np.array_equal(frames(again, 0.7, seed=3, prompt="a man speaks"), made)
    for other in ({"seed": 4}, {"prompt": ""}, {"negative": "smiles"}):
        assert not np.array_equal(frames(again, 0.7, **{"seed": 3, "prompt": "a man speaks", **other}), made)
    spoken = list(again.animate(PORTRAIT, sound(0.7, seed=1), seed=3, prompt="a man speaks"))
    assert not np.array_equal(np.stack(spoken), made)


def test_a_crop_is_as_close_as_the_pictures_were_that_taught_it(base: Path, adapter: Path, tmp_path: Path) -> None:
    close = tmp_path / "close.safetensors"
    net = VideoTransformer.load(load_tiny_wan(base / "transformer"), adapter)
    net.save(close, {**net.metadata, "framing": "1.4", "latents": json.dumps({"height": 96, "width": 64}),
                   "generation": json.dumps({"steps": 7, "guidance": {"speech": 1.5}})})
    for own, framing in ((adapter, HEAD_AND_SHOULDERS), (close, 1.4)):
        animator = load(base, own, size=(64, 64))
        made, shown = frames(animator, 0.04, crop=True), animator.space.reference(PORTRAIT, crop=framing)
        assert np.array_equal(made[0], animator.space.decode(shown.latent, animator.space.start())[0][0])
    assert [adapter_side(path) for path in (None, adapter, close)] == [None, None, 96]
    assert adapter_windows(close) == replace(adapter_windows(adapter), steps=7, guidance={"speech": 1.5})


def test_the_base_alone_makes_a_video_of_the_picture(base: Path, adapter: Path) -> None:
    animator = load(base, None)
    made = frames(animator)
    assert len(made) == 15
    assert np.array_equal(np.stack(list(animator.animate(PORTRAIT, sound(0.6, seed=1)))), made)  # it hears nothing
    with pytest.raises(ValueError, match="the base alone hears none"):
        animator.animate(PORTRAIT, {0: sound(0.6), 1: sound(0.6)})


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_where_networks_wait_changes_nothing(base: Path, adapter: Path, offload: Any) -> None:
    assert np.array_equal(frames(load(base, adapter, offload=offload)), frames(load(base, adapter)))


def test_layers_that_are_called_come_to_the_device(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Kept in files, a layer that nobody fetched would compute with whatever is in memory."""
    animator = load(base, adapter)
    net, text = animator.net, torch.randn(1, 5, 12)
    voice = Voice(speech=torch.randn(1, *_heard(animator)))

    def velocity() -> torch.Tensor:
        with torch.no_grad():
            point = torch.randn(1, 3, 48, 2, 4, generator=torch.Generator().manual_seed(0))
            return net(point, torch.full((1, 3), 0.4), net.listen(text, pictures=9, voices=[voice]))

    wanted = velocity()
    offload_layers(net, torch.device("cpu"), folder=tmp_path)
    weight = net.base.blocks[0].ffn.net[2].base_layer.weight
    weight.data.fill_(float("nan"))  # as it lies there between calls
    assert torch.equal(velocity(), wanted)
    assert any(tmp_path.rglob("*.safetensors"))


def _heard(animator: VideoAnimator) -> tuple[int, int]:
    levels = animator.net.config.parts.levels
    assert levels is not None
    return levels.history + 2 * 8 + 1 + levels.lookahead, levels.heard


def test_tiles_are_used_where_asked(base: Path, adapter: Path) -> None:
    assert load(base, adapter, tiling=True).space.tiling is not None
    assert load(base, adapter).space.tiling is None


def test_speech_beyond_the_first_window_goes_on(base: Path, adapter: Path) -> None:
    """And both ways of length make as many frames."""
    animator = load(base, adapter)
    made = frames(animator, 1.4)
    slid = frames(animator, 1.4, windows=replace(QUICK, length="slide", slide=2))
    assert len(made) == len(slid) == 35
    assert not np.array_equal(made, slid) and np.array_equal(made[0], slid[0])


class StandIn:
    """Makes a guide of one colour."""

    def animate(self, portrait: Portrait, audio: Audio, *, size: int, fps: float, **_: Any) -> Iterator[Frame]:
        assert size == max(portrait.image.shape)
        return iter([np.full_like(portrait.image, 200)] * round(audio.duration * fps))


def test_a_guide_is_followed_as_far_as_asked(base: Path, adapter: Path) -> None:
    animator, other = load(base, adapter), StandIn()
    space: VideoSpace = animator.space
    bright = [np.full((32, 64, 3), 200, np.uint8)] * 17
    wanted, _ = space.decode(space.encode(bright), space.start())
    apart = []
    for guide in (0.0, 0.6, 0.99):
        made = np.stack(list(animator.animate(PORTRAIT, sound(0.6), guide=guide, animator=other)))  # type: ignore[arg-type]
        apart.append(float(np.abs(made[5:].astype(float) - wanted[5:15]).mean()))
    assert apart[0] > apart[1] > apart[2]
    with pytest.raises(ValueError, match="a guide of 1 was asked for"):
        animator.animate(PORTRAIT, sound(0.6), guide=1, animator=other)  # type: ignore[arg-type]


def test_two_faces_speak_each_with_a_voice_of_its_own(base: Path, adapter: Path) -> None:
    two = Portrait(image=np.concatenate([skimage.data.astronaut()[:256, 96:352]] * 2, 1))
    animator = load(base, adapter, size=(256, 128))
    one, other = sound(0.3), sound(0.2, seed=1)
    both = np.stack(list(animator.animate(two, {0: one, 1: other})))
    assert len(both) == 8
    assert not np.array_equal(np.stack(list(animator.animate(two, {0: one, 1: sound(0.2, seed=2)}))), both)
    with pytest.raises(ValueError, match="face 2 was to speak, but the picture shows 2"):
        animator.animate(two, {0: one, 2: other})


def test_all_that_a_network_takes_is_given(base: Path, tmp_path: Path) -> None:
    rich = save_adapter(base, tmp_path / "rich.safetensors", identity=True, joints=25, intensity=True)
    animator = load(base, rich, size=(128, 128))
    calm, wild = (frames(animator, 0.3, intensity=(x, x)) for x in (0.1, 0.9))
    assert not np.array_equal(calm, wild)
    with pytest.raises(ValueError, match="without a dial for intensity"):
        load(base, None).animate(PORTRAIT, sound(0.3), intensity=(0.5, 0.5))


def test_the_portrait_tells_where_lips_are(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Scene] = []
    whole = VideoGenerator.whole
    monkeypatch.setattr(VideoGenerator, "whole", lambda *args, **more: (seen.append(args[2]), whole(*args, **more))[1])
    animator = load(base, adapter, size=(128, 128))
    for at_lips in (False, True):
        frames(animator, 0.1, windows=replace(animator.windows, at_lips=at_lips))
    assert seen[0].lips is None and seen[1].lips is not None
    rows, columns = (seen[1].lips.sum(axis).argmax() for axis in (1, 0))
    face = find_faces(animator.space.reference(PORTRAIT).picture)[0]
    mouth = face[[13, 14], :2].mean(0) * np.array(seen[1].lips.shape[::-1]) / 128
    assert np.abs(np.array([columns, rows]) + 0.5 - mouth).max() <= 1


def test_image_to_video_bases_are_told_of_the_picture(tmp_path: Path) -> None:
    base = save_base(tmp_path, "i2v")
    animator = load(base, None, size=(32, 16), windows=replace(QUICK, opening=True))
    assert frames(animator, 1.0).shape == (25, 16, 32, 3)
    adapter = save_adapter(base, tmp_path / "adapter.safetensors")
    assert frames(load(base, adapter, size=(32, 16)), 1.0).shape == (25, 16, 32, 3)


def test_what_does_not_fit_is_refused_before_it_is_read(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vivavoce.animate_video.available_bytes", lambda _: 10_000)
    monkeypatch.setattr("vivavoce.animate_video.load_part", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=r"needs about .* GB on cpu, which has 0.0 GB free"):
        load(base, adapter)
    assert memory.GIGABYTE == 10**9


def test_sizes_are_those_that_the_base_takes(base: Path) -> None:
    assert size_of(base, (512, 512)) == (512, 512)
    assert size_of(base, (720, 1280), longest=480) == (480, 256)
    assert size_of(base, (720, 1280), longest=480, crop=True) == (480, 480)
    with pytest.raises(ValueError, match="a video of 20 pixels was asked for: give 32 or more"):
        size_of(base, (512, 512), longest=20)


def test_what_is_no_adapter_is_told(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no adapter"):
        load(base, tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="can't be read"):
        load(base, tmp_path / "bad.safetensors")
