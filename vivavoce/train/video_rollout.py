"""Rollouts of video networks: takes of a clip with one noise and ever less of the speech, stored for post-training.

As `rollout` has them for motion (ReFree-S2V, arXiv 2606.13304): nothing sets the takes apart but how much could be heard, so they
come ranked, the best first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vivavoce.generate_video import VideoGenerator
from vivavoce.latent.regions import around
from vivavoce.latent.video import VideoReference, VideoSpace
from vivavoce.nets.redistribute import PICTURES
from vivavoce.nets.video import POLICY
from vivavoce.train.data import Progress
from vivavoce.train.rollout import masked
from vivavoce.train.video_data import PER_PICTURE
from vivavoce.train.video_post import VideoPostRecipe, opened
from vivavoce.train.video_windows import Place, Windows
from vivavoce.video_scene import Scene, VideoWindows


@dataclass(frozen=True, kw_only=True)
class VideoRolloutRecipe:
    """``count``: clips. ``ratios``: share of the speech that each take is made without. ``latents``: of a take at most, which is
    compute; ``shortest``: of a clip that is worth it. ``person_power``: people are drawn by their latents to this power."""

    count: int = 24
    ratios: tuple[float, ...] = (0.0, 0.2, 0.4)
    latents: int = 39
    shortest: int = 13
    person_power: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ratios or list(self.ratios) != sorted(self.ratios) or not 0 <= self.ratios[0] <= self.ratios[-1] <= 1:
            raise ValueError(f"takes without {list(self.ratios)} of the speech were asked for: give rising shares from 0 to 1")


def policy_of(
    recipe: VideoPostRecipe, plan: VideoWindows, accelerator: Any, *, split: str = "train"
) -> tuple[VideoGenerator, Windows]:
    """What a recipe begins with, as a generator of takes, and its windows of the cache. In the precision of inference."""
    _, net, windows = opened(recipe, accelerator, split)
    if accelerator.mixed_precision == "bf16":
        net.own.to(torch.bfloat16)
    height, width, fps = windows.common.stamp["size"]
    space = None
    if net.stills:
        space = VideoSpace.load(recipe.base, height=height, width=width, fps=fps, device=accelerator.device)
    return VideoGenerator(
        net.to(accelerator.device), plan, silence=windows.common.silence, space=space, device=accelerator.device
    ), windows


def masked_takes(
    generator: VideoGenerator, speech: Float[Tensor, "s w"], scene: Scene, *, ratios: Sequence[float], seed: int,
    before: Float[Tensor, "s w"] | None = None,
) -> Float[Tensor, "k t c h w"]:
    """Takes of one scene, all from one noise, each with another share of the speech masked by silence. A higher share masks all
    that a lower one masks. ``before``: what was said before the scene, masked alike."""
    if generator.silence is None:
        raise ValueError("this network hears no speech, so there is nothing to mask: give one with an adapter")
    earlier = speech[:0] if before is None else before
    whole = torch.cat([earlier, speech])
    takes = []
    for ratio in ratios:
        heard = torch.where(masked(len(whole), ratio, seed)[:, None], generator.silence, whole)
        takes.append(generator.whole([heard[len(earlier) :]], scene, seed=seed, before=[heard[: len(earlier)]]))
    return torch.cat(takes)


def chosen(windows: Windows, recipe: VideoRolloutRecipe) -> list[int]:
    """Numbers of the clips that are rolled out: of those who talk, drawn person by person, none twice."""
    people: dict[str, list[int]] = {}
    for i, example in enumerate(windows.examples):
        if example.talks and example.latents >= recipe.shortest:
            people.setdefault(example.person, []).append(i)
    if not people:
        raise ValueError(
            f"no clip of one who talks has {recipe.shortest} latents: ask for shorter ones, or give longer recordings"
        )
    rng = np.random.default_rng(recipe.seed)
    latents = [float(sum(windows.examples[i].latents for i in group)) for group in people.values()]
    share = np.array(latents) ** recipe.person_power
    waiting = [list(rng.permutation(group)) for group in people.values()]
    found: list[int] = []
    while len(found) < recipe.count and any(waiting):
        left = np.array([len(group) > 0 for group in waiting]) * share
        found.append(int(waiting[int(rng.choice(len(waiting), p=left / left.sum()))].pop()))
    return found


def scene_of(windows: Windows, number: int, latents: int, space: VideoSpace | None = None) -> Scene:
    """The first latents of a clip as a scene that begins with its picture. ``space``: for bases that are told of pictures."""
    place = Place(number=number, start=0, stop=latents, known=1)
    data = windows.latents(place)[None]
    shown = windows.shown([place], data, torch.arange(latents)[None] < 1)
    if windows.stills and space is None:
        raise ValueError("this base is told of pictures: give the video space that decodes them")
    picture = np.zeros((0, 0, 3), np.uint8) if space is None else space.decode(data[:, :1], space.start())[0][0]
    return Scene(
        event=windows.spec.event, text=shown.text, no_text=shown.no_text, image=shown.image, face=shown.face,
        reference=VideoReference(picture=picture, latent=data[:, :1]), intensity=shown.intensity,
        face_mask=None if shown.face_mask is None else shown.face_mask[0].amax(0),
        skeleton=None if shown.skeleton is None else shown.skeleton[0],
        lips=around(windows.examples[number].window("lips_ever", slice(0, 1))[0]),
    )


def video_rollouts(
    generator: VideoGenerator, windows: Windows, recipe: VideoRolloutRecipe, folder: Path, progress: Progress, *,
    process: int = 0, processes: int = 1, wait: Callable[[], None] = lambda: None,
) -> list[tuple[int, Float[Tensor, "k t c h w"]]]:
    """Takes of clips with the clips' numbers, each kept in ``folder`` as soon as it is made (half precision), so that an
    interrupted call goes on. Of several processes each makes its share, and ``wait`` lasts until all have.

    ValueError where the folder holds those of another recipe or network.
    """
    numbers = chosen(windows, recipe)  # before the folder is made
    folder.mkdir(parents=True, exist_ok=True)
    plan = {**vars(generator.windows), "guidance": dict(generator.windows.guidance)}
    stamp = json.dumps({**vars(recipe), "windows": plan, "weights": fingerprint(generator)}, default=list)
    setting = folder / "recipe.json"
    if setting.exists() and setting.read_text() != stamp:
        raise ValueError(f"{folder} holds rollouts of another recipe or network: give another folder, or remove it")
    if process == 0 and not setting.exists():
        partial = setting.with_suffix(".part")
        partial.write_text(stamp)
        partial.rename(setting)
    own = numbers[process::processes]
    for done, number in enumerate(own):
        progress("rollouts", done, len(own))
        file = _file(folder, number)
        if not file.exists():
            takes = rolled(generator, windows, number, recipe)
            partial = file.with_suffix(".part")
            save_file({"takes": takes.half().contiguous()}, partial)
            partial.rename(file)
    progress("rollouts", len(own), len(own))
    wait()
    return [(number, read_takes(_file(folder, number))) for number in numbers]


def read_takes(file: Path) -> Float[Tensor, "k t c h w"]:
    """Those that `video_rollouts` kept in a file."""
    with safe_open(file, framework="pt") as kept:
        return kept.get_tensor("takes").float()


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"


def fingerprint(generator: VideoGenerator) -> str:
    """Tells adapters apart."""
    state = generator.net.adapter_state(POLICY)
    return f"{sum(float(weight.double().abs().sum()) for weight in state.values()):.9e}"


def rolled(
    generator: VideoGenerator, windows: Windows, number: int, recipe: VideoRolloutRecipe, scene: Scene | None = None
) -> Float[Tensor, "k t c h w"]:
    """The takes of one clip. ``scene``: what there is to see; None: what the clip's own windows are told."""
    example = windows.examples[number]
    latents = min(example.latents, recipe.latents)
    end = example.first + PER_PICTURE * (PICTURES * (latents - 1) + 1)
    return masked_takes(
        generator, example.speech[example.first : end], scene or scene_of(windows, number, latents, generator.space),
        ratios=recipe.ratios, seed=recipe.seed + number, before=example.speech[: example.first],
    )[:, :latents]
