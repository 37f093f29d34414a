"""Post-training of the video engine: the objectives move the policy the right way, and the reference holds."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from claims import assert_other_run, assert_unknown_run
from safetensors.torch import load_file
from test_video_training import BASE, CONFIG, tiny_base
from tiny_video import Loudness, make_recordings, process, quiet, tiny_space
from tiny_wan_net import load_tiny_wan
from video_processes import awake, recipe_of

from vivavoce.apps.parts import shipped
from vivavoce.latent.mesh import FaceModel
from vivavoce.nets.video import REFERENCE, VideoTransformer
from vivavoce.train import video_data
from vivavoce.train.video import Stage, train_video
from vivavoce.train.video_data import load_cache, make_cache
from vivavoce.train.video_loop import make_accelerator
from vivavoce.train.video_post import PostTask, RungWindows, VideoPostRecipe, field_of, opened, post_train_video
from vivavoce.train.video_windows import WindowConfig

pytest.importorskip("accelerate")
WINDOWS = WindowConfig(latents=3, prefix=1, opening=0.5, prefix_noise=0.0)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> VideoPostRecipe:
    """A base, an adapter that was hardly trained, and the clips."""
    folder = tmp_path_factory.mktemp("post")
    clips, sounds = make_recordings(4, 13, FaceModel.load(shipped() / "face.safetensors"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_data, "load_sound", lambda path: sounds[path])
        make_cache(clips, folder / "cache", tiny_space(), Loudness(), BASE, CONFIG, quiet)
    recipe = recipe_of(
        folder / "cache", folder / "trained", base=tiny_base(folder / "base"), train_base=False, rank=2,
        stages=(Stage(steps=2, aligned=True, lip_mask=False),),
    )
    adapter = train_video(recipe, make_accelerator("no"), quiet, quiet)
    return VideoPostRecipe(
        base=recipe.base, adapter=adapter, cache=recipe.cache, out=folder / "out", steps=12, batch=2, lora_rate=1e-3,
        own_rate=1e-3, warmup=1, ratios=(0.0, 0.4), windows=WINDOWS, ema=0.0, log_every=4, checkpoint_every=4, beta=20.0,
    )


@pytest.fixture(scope="module")
def rollouts(start: VideoPostRecipe) -> list[tuple[int, torch.Tensor]]:
    """Takes that are the worse the more of the speech was masked: recordings with ever more disturbance."""
    examples, _ = load_cache(start.cache, "train")
    found = []
    for number, example in enumerate(examples):
        latents = example.window("latents", slice(0, example.latents))
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(number))
        found.append((number, torch.stack([latents + 0.5 * noise, latents + noise]).half()))
    return found


def draws(recipe: VideoPostRecipe, rollouts: Any) -> tuple[VideoTransformer, RungWindows]:
    _, net, windows = opened(recipe, process())
    return net, RungWindows(windows, rollouts, recipe)


def test_the_ladder_moves_the_policy_from_the_worse_to_the_better(start: VideoPostRecipe, rollouts: Any) -> None:
    path = post_train_video(replace(start, batch=4), rollouts, make_accelerator("no"), quiet, quiet)
    lines = [json.loads(line) for line in (start.out / "log.jsonl").open()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert lines[-1]["margin"] > max(0.0, lines[0]["margin"]) and lines[-1]["accuracy"] > 0.8
    # On draws that it did not see, against the network that it began with.
    net, windows = draws(replace(start, adapter=path, seed=9), rollouts)
    before, _ = draws(start, rollouts)
    rungs = windows.draw(0, range(16))
    with torch.no_grad():
        gained = [rungs.error(field_of(net), i)[0] - rungs.error(field_of(before), i)[0] for i in range(3)]
    assert gained[0].mean() < gained[1].mean() < gained[2].mean()
    assert (gained[0] < gained[2]).float().mean() > 0.6
    assert "post" in net.metadata and "silence" in net.metadata


def test_rungs_differ_in_their_latents_alone(start: VideoPostRecipe, rollouts: Any) -> None:
    _, windows = draws(start, rollouts)
    rungs = windows.draw(1, range(3))
    assert rungs.data.shape[:3] == (3, 3, 3)
    assert all(torch.equal(one.speech, rungs.given[0].speech) for one in rungs.given)  # under all of the speech
    halves = [windows.draw(1, range(0, 2)), windows.draw(1, range(2, 3))]
    assert torch.equal(rungs.data, torch.cat([half.data for half in halves], 1))
    assert torch.equal(rungs.time, torch.cat([half.time for half in halves]))
    with pytest.raises(ValueError, match="no take has 3 latents"):
        draws(start, [(0, rollouts[0][1][:, :2])])


@pytest.mark.parametrize("keep", [1.0, 0.75])
def test_the_reference_holds_or_follows(start: VideoPostRecipe, rollouts: Any, tmp_path: Path, keep: float) -> None:
    """As it was, or exactly so much of itself and the rest of the policy."""
    post_train_video(replace(start, out=tmp_path, reference=keep, steps=1), rollouts, make_accelerator("no"), quiet, quiet)
    began, kept = load_file(start.adapter), torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    net = VideoTransformer.load(load_tiny_wan(Path(start.base) / "transformer"), tmp_path / "adapter.safetensors")
    policy = net.adapter_state()  # without a moving average, what was kept is what was trained
    assert any(not torch.equal(weight, began[name]) for name, weight in policy.items())
    for name, weight in kept["companion"].items():
        torch.testing.assert_close(weight, keep * began[name] + (1 - keep) * policy[name], msg=name)


def test_at_the_first_step_policy_and_reference_are_one(start: VideoPostRecipe, rollouts: Any) -> None:
    net, windows = draws(start, rollouts)
    task = PostTask(net, start)
    awake(net)
    net.set_adapter(net.adapter_state(), REFERENCE)
    loss, figures = task(windows.draw(0, range(2)))
    torch.testing.assert_close(loss, 3 * torch.tensor(2.0).log(), atol=1e-4, rtol=0)
    assert abs(figures["winner_gain"]) < 1e-5


def test_interrupted_post_training_gives_the_weights_of_unbroken(start: VideoPostRecipe, rollouts: Any, tmp_path: Path) -> None:
    recipe = replace(start, steps=4, reference=0.9, checkpoint_every=2, out=tmp_path / "whole", objective="forward_process")
    unbroken = post_train_video(recipe, rollouts, make_accelerator("no"), quiet, quiet)

    def stop(_: str, step: int, __: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    again = replace(recipe, out=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        post_train_video(again, rollouts, make_accelerator("no"), stop, quiet)
    resumed = post_train_video(again, rollouts, make_accelerator("no"), quiet, quiet)
    first, second = load_file(unbroken), load_file(resumed)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    with_takes = partial(post_train_video, accelerator=make_accelerator("no"), progress=quiet, report=quiet)
    assert_other_run(again.out, partial(with_takes, replace(again, seed=1), rollouts))
    assert_other_run(again.out, partial(with_takes, replace(again, adapter=resumed), rollouts))
    assert_other_run(again.out, partial(with_takes, again, rollouts[1:]))
    assert_unknown_run(again.out, partial(with_takes, again, rollouts))


def test_what_does_not_go_together_is_refused(start: VideoPostRecipe) -> None:
    with pytest.raises(ValueError, match="luck"):
        replace(start, objective="luck")
    with pytest.raises(ValueError, match="people compared"):
        replace(start, objective="pair_dpo")
