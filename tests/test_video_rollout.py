"""Rollouts of the video network: one noise, ever less speech, kept and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_generate_video import LEVELS, SHORT, SILENCE, heard, make, scene
from tiny_wan_net import TEXT_WIDTH, save_tiny_wan

from vivavoce.generate_video import VideoGenerator
from vivavoce.latent.space import LatentSpec
from vivavoce.nets.hearing import hear, hear_all
from vivavoce.train.rollout import masked
from vivavoce.train.video_data import Common, VideoExample
from vivavoce.train.video_rollout import VideoRolloutRecipe, masked_takes, scene_of, video_rollouts
from vivavoce.train.video_windows import WindowConfig, Windows

pytest.importorskip("diffusers")
SPEC = LatentSpec(event=(48, 2, 2), rate_hz=6.25, stride=4, first=1)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> VideoGenerator:
    net = make(save_tiny_wan(tmp_path_factory.mktemp("net"), "ti2v", num_layers=2))
    return VideoGenerator(net, replace(SHORT, opening=False), silence=SILENCE)


@pytest.fixture(scope="module")
def windows(generator: VideoGenerator, tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Three clips of two people who talk and one of another who does not, all from the middle of recordings."""
    folder, examples = tmp_path_factory.mktemp("cache"), []
    for i, (person, latents) in enumerate([("a", 6), ("a", 5), ("b", 9), ("c", 9)]):
        file = folder / f"train__{i}.safetensors"
        clip = {"name": f"{i}", "person": person, "first": 20, "talks": person != "c", "framing": 1.5}
        draw = torch.Generator().manual_seed(i)
        tensors = {"latents": torch.randn(latents, 48, 2, 2, generator=draw), "speech": heard(20 + 2 * 40, seed=i)}
        tensors["lips_ever"] = torch.tensor([[0.0, 0.0], [0.0, 0.2 * (i > 0)]]).expand(latents, -1, -1).contiguous()
        save_file(tensors, file, {"clip": json.dumps(clip)})
        examples.append(VideoExample(file=file, latents=latents, **clip))  # type: ignore[arg-type]
    common = Common(text=torch.randn(1, 5, TEXT_WIDTH), no_text=None, silence=SILENCE, stamp={"base": {"image": False}})
    return Windows(
        examples, common, WindowConfig(latents=4, prefix=2), SPEC, parts=generator.net.config.parts, stills=False, scale=None,
        seed=0,
    )


def test_takes_share_their_noise_and_differ_in_what_was_heard(generator: VideoGenerator) -> None:
    given, speech = scene(generator.net), heard(2 * 33)
    takes = masked_takes(generator, speech, given, ratios=(0.0, 0.4, 1.0), seed=3)
    assert torch.equal(takes[:1], generator.whole([speech], given, seed=3))
    assert torch.equal(takes[2:], generator.whole([SILENCE.expand(66, -1)], given, seed=3))
    by_hand = torch.where(masked(66, 0.4, 3)[:, None], SILENCE, speech)
    assert torch.equal(takes[1:2], generator.whole([by_hand], given, seed=3))
    assert not torch.equal(takes[0], takes[1])


def test_a_scene_knows_where_lips_were_tracked(windows: Windows) -> None:
    assert scene_of(windows, 0, 2).lips is None
    lips = scene_of(windows, 1, 2).lips
    assert lips is not None and lips[1, 1] == lips.max() > 0


def test_what_was_said_before_a_clip_is_heard(generator: VideoGenerator) -> None:
    """The ears are where they would be if they had heard all of it, the running mean included."""
    given, speech = scene(generator.net), heard(120)
    state, whole = generator.start(given, [speech[:40]]), hear_all(speech, LEVELS)
    assert torch.equal(state.heard[0], whole[40 - LEVELS.history : 40])
    after = hear(speech[40:], state.memories[0], LEVELS)[0]
    assert torch.equal(after, whole[40:])
    made = generator.whole([speech[40:]], given, seed=1, before=[speech[:40]])
    assert not torch.equal(made, generator.whole([speech[40:]], given, seed=1))


def test_rollouts_are_kept_and_gone_on_with(
    generator: VideoGenerator, windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = VideoRolloutRecipe(count=9, ratios=(0.0, 0.5), latents=7, shortest=5)
    made = video_rollouts(generator, windows, recipe, tmp_path, lambda *_: None)
    assert sorted(number for number, _ in made) == [0, 1, 2]  # who does not talk is left out
    for number, takes in made:
        own = windows.examples[number]
        assert takes.shape == (2, min(own.latents, 7), 48, 2, 2)
        torch.testing.assert_close(takes[:, 0], own.window("latents", slice(0, 1)).expand(2, -1, -1, -1), atol=2e-3, rtol=1e-3)
        assert not torch.equal(takes[0], takes[1])
    (tmp_path / f"{made[1][0]}.safetensors").unlink()
    again = video_rollouts(generator, windows, recipe, tmp_path, lambda *_: None)
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(made, again, strict=True))
    monkeypatch.setattr("vivavoce.train.video_rollout.masked_takes", lambda *_, **__: pytest.fail("made again"))
    video_rollouts(generator, windows, recipe, tmp_path, lambda *_: None)
    with pytest.raises(ValueError, match="holds rollouts of another recipe or network"):
        video_rollouts(generator, windows, replace(recipe, seed=1), tmp_path, lambda *_: None)


def test_processes_share_the_takes(generator: VideoGenerator, windows: Windows, tmp_path: Path) -> None:
    recipe, shares = VideoRolloutRecipe(count=3, ratios=(0.0,), latents=5, shortest=5), []

    def first() -> None:
        shares.append(sorted(file.name for file in tmp_path.glob("*.safetensors")))
        video_rollouts(generator, windows, recipe, tmp_path, lambda *_: None, process=0, processes=2)

    shared = video_rollouts(generator, windows, recipe, tmp_path, lambda *_: None, process=1, processes=2, wait=first)
    assert len(shares[0]) == 1 and len(shared) == 3
    alone = video_rollouts(generator, windows, recipe, tmp_path / "alone", lambda *_: None)
    assert all(a == b and torch.equal(one, other) for (a, one), (b, other) in zip(shared, alone, strict=True))


def test_what_cannot_be_rolled_out_is_told(generator: VideoGenerator, windows: Windows, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give rising shares"):
        VideoRolloutRecipe(ratios=(0.4, 0.2))
    with pytest.raises(ValueError, match="no clip of one who talks has 10 latents"):
        video_rollouts(generator, windows, VideoRolloutRecipe(shortest=10), tmp_path, lambda *_: None)
