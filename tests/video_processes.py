"""A short training of a stand-in network, for tests that start it in several processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_video import StandInBase
from torch import nn

from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.video import VideoTransformer
from vivavoce.nets.video_parts import PartsConfig
from vivavoce.train.video import Stage, VideoRecipe, VideoTask, steps_of, windows_of
from vivavoce.train.video_data import load_cache, measured_scale
from vivavoce.train.video_loop import Training, make_accelerator
from vivavoce.train.video_windows import WindowConfig

LEVELS: dict[str, Any] = {"widths": ((1, 1), (3, 1)), "memory": 20, "ahead": 1, "width": 8, "stem": 8, "dropout": 0.0}
PARTS: dict[str, Any] = {"width": 8, "heads": 2, "joints": 3}
WINDOWS = WindowConfig(latents=3, prefix=1, opening=0.5)
STAGES = (Stage(steps=2, aligned=False, lip_mask=False), Stage(steps=2, aligned=True, lip_mask=True))


def recipe_of(cache: Path, out: Path, **changed: Any) -> VideoRecipe:
    return replace(VideoRecipe(
        base="", cache=cache, out=out, stages=STAGES, batch=2, rank=0, warmup=1, parts=PARTS, levels=LEVELS, windows=WINDOWS,
        lora_rate=1e-2, own_rate=1e-2, base_rate=1e-2, train_base=True, log_every=2, checkpoint_every=2, seed=5,
    ), **changed)


def trained(recipe: VideoRecipe, until: int | None = None) -> dict[str, torch.Tensor]:
    """The stand-in's weights after the recipe or so many steps, trained by as many processes as there are."""
    recipe.out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator("no", recipe.accumulate)
    examples, common = load_cache(recipe.cache, "train")
    torch.manual_seed(0)
    levels = LevelsConfig.of({"streams": common.stamp["streams"], **recipe.levels})
    parts = PartsConfig(levels=levels, identity=True, intensity=True, **recipe.parts)
    base: Any = StandInBase()
    net = VideoTransformer(base, VideoTransformer.Config(parts=parts))
    net.base.requires_grad_(True)
    windows = windows_of(recipe, net, examples, common, measured_scale(examples))
    training = Training(accelerator, VideoTask(net), recipe.pace, recipe.out)
    training.restore()
    while not training.done and training.step != until:
        stage = recipe.stage(training.step)
        training.update(steps_of(recipe, windows, stage, training.step, accelerator))
        training.log()
        if training.step % recipe.checkpoint_every == 0:
            training.save()
    with training.averaged():
        state = training.state()
    accelerator.wait_for_everyone()
    return {name: weight.cpu() for name, weight in state.items()}


def work(rank: int, port: int, recipe: VideoRecipe, sharded: bool, until: int | None) -> None:
    """One of two processes; the first keeps the weights in ``out/weights.pt``."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }
    if sharded:
        os.environ |= {
            "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_TRANSFORMER_CLS_TO_WRAP": "StandInBlock", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        }
    torch.set_num_threads(1)
    weights = trained(recipe, until)
    if rank == 0:
        torch.save(weights, recipe.out / "weights.pt")
    torch.distributed.destroy_process_group()


def awake(net: nn.Module) -> None:
    """Outputs that begin at zero are no longer."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and (parameter.abs().sum() == 0 or "lora_B" in name):
            nn.init.normal_(parameter, std=0.2, generator=generator)
