"""Post-training in VideoSpace: the objectives of MotionSpace (`objectives`), on latents that the network made itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vivavoce.components import load_part, module
from vivavoce.flow.path import VelocityField
from vivavoce.latent.intensity import IntensityScale
from vivavoce.nets.video import POLICY, REFERENCE, Reference, VideoTransformer
from vivavoce.train.data import Progress
from vivavoce.train.loop import digest, stamp_of
from vivavoce.train.objectives import Loss, Rungs, forward_process, ladder_dpo, pair_dpo, sft
from vivavoce.train.post import OBJECTIVES, Objective, rewards_of
from vivavoce.train.video import ADAPTER, FILES, cache_of, spec_of
from vivavoce.train.video_data import VideoExample, load_cache
from vivavoce.train.video_loop import Pace, Precision, Training, claim_together
from vivavoce.train.video_windows import Place, Shown, WindowConfig, Windows, moved

Rollouts = Sequence[tuple[int, Float[Tensor, "k t c h w"]]]


@dataclass(frozen=True, kw_only=True)
class VideoPostRecipe:
    """``base``, ``adapter``: what is post-trained; ``cache``, ``out``, ``batch``, ``precision``: as in `VideoRecipe`.

    ``recorded``: the recording is the best rung. ``ratios``: share of the speech that each take was made without. ``beta``,
    ``pairs``, ``sft_weight``, ``norm_weight``: see `objectives`. ``reference``: how much of itself the reference keeps at each
    step, 1: frozen. ``latents`` of a window, of which 1 to ``prefix`` are known, each rung's own. All rungs are seen under all of
    the speech.
    """

    base: str | Path
    adapter: Path
    cache: Path
    out: Path
    objective: Objective = "ladder_dpo"
    steps: int = 200
    batch: int = 1
    lora_rate: float = 1e-5
    own_rate: float = 1e-5
    warmup: int = 10
    beta: float = 200.0
    pairs: Literal["all", "ends"] = "all"
    recorded: bool = True
    ratios: tuple[float, ...] = (0.0, 0.2, 0.4)
    reference: float = 1.0
    sft_weight: float = 0.0
    norm_weight: float = 0.0
    windows: WindowConfig | None = None
    precision: Precision | None = None
    ema: float = 0.95
    log_every: int = 10
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"no objective is called {self.objective!r}: give one of {', '.join(OBJECTIVES)}")
        if self.objective == "pair_dpo" and self.recorded:
            raise ValueError("people compared takes: for pair_dpo give recorded=False")

    @property
    def pace(self) -> Pace:
        rates = {"lora_": self.lora_rate, "net.own.policy.": self.own_rate}
        return Pace(
            steps=self.steps, rates=rates, warmup=self.warmup, ema=self.ema, log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
        )


class PostTask(nn.Module):
    """Policy and reference, which share the base, and the objective of one batch, in one forward."""

    def __init__(self, net: VideoTransformer, recipe: VideoPostRecipe):
        super().__init__()
        self.net, self.recipe = net, recipe
        net.reference()

    def forward(self, rungs: Rungs[Shown]) -> tuple[Tensor, dict[str, float]]:
        """The objective's value, and its figures."""
        loss = objective(self.recipe, field_of(self.net), field_of(self.net.reference()), rungs)
        return loss.value, loss.figures


def field_of(net: VideoTransformer | Reference) -> VelocityField[Shown]:
    """The network as a velocity field that listens; so each of policy and reference hears with its own ears."""

    def velocity(point: Tensor, time: Tensor, shown: Shown) -> Tensor:
        return net(point, time, shown.heard(net))

    return velocity


def objective(
    recipe: VideoPostRecipe, policy: VelocityField[Shown], reference: VelocityField[Shown], rungs: Rungs[Shown]
) -> Loss:
    """The recipe's."""
    if recipe.objective == "sft":
        return sft(policy, rungs)
    if recipe.objective == "forward_process":
        rewards = rewards_of(recipe.ratios, recipe.recorded, len(rungs.noise)).to(rungs.noise)
        return forward_process(policy, reference, rungs, rewards, beta=1.0)
    weights = {"beta": recipe.beta, "sft_weight": recipe.sft_weight, "norm_weight": recipe.norm_weight}
    if recipe.objective == "pair_dpo":
        return pair_dpo(policy, reference, rungs, **weights)
    return ladder_dpo(policy, reference, rungs, pairs=recipe.pairs, **weights)


class RungWindows:
    """Windows of rollouts with all their rungs, weighed by the recording's regions."""

    def __init__(self, windows: Windows, rollouts: Rollouts, recipe: VideoPostRecipe):
        """ValueError where no take is as long as a window."""
        self.windows, self.recipe = windows, recipe
        latents = windows.config.latents
        self.items = [(number, takes) for number, takes in rollouts if takes.shape[1] >= latents]
        if not self.items:
            raise ValueError(f"no take has {latents} latents, as many as a window: make longer ones, or ask for shorter windows")
        if not recipe.recorded and len(recipe.ratios) < 2:
            raise ValueError("one take and no recording are no two rungs: make more takes, or give recorded=True")
        if recipe.objective == "forward_process" and any(len(takes) != len(recipe.ratios) for _, takes in self.items):
            raise ValueError(f"there are {len(recipe.ratios)} ratios, but not as many takes of a clip: give those that made them")

    def draw(self, step: int, places: range) -> Rungs[Shown]:
        """The samples of one step that have these places in its batch."""
        config, seed = self.windows.config, self.windows.seed
        longer = [item for item in self.items if item[1].shape[1] > config.latents]
        opens = np.random.default_rng((seed, step)).random() < config.opening or not longer
        data, found, times, noises = [], [], [], []
        for place in places:
            rng = np.random.default_rng((seed, step, place))
            items = self.items if opens else longer
            number, takes = items[int(rng.integers(len(items)))]
            start = 0 if opens else int(rng.integers(1, takes.shape[1] - config.latents + 1))
            own = Place(
                number=number, start=start, stop=start + config.latents, known=int(rng.integers(1, config.prefix + 1)),
            )
            rungs = takes[:, own.start : own.stop].float()
            if self.recipe.recorded:
                rungs = torch.cat([self.windows.latents(own)[None], rungs])
            data.append(rungs)
            found.append(own)
            times.append(rng.random())
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            noises.append(torch.randn(2, *rungs.shape[1:], generator=generator))
        return self._rungs(torch.stack(data, 1), found, torch.tensor(times, dtype=torch.float32), torch.stack(noises, 1))

    def _rungs(
        self, data: Float[Tensor, "k b t c h w"], places: Sequence[Place], times: Float[Tensor, " b"],
        noises: Float[Tensor, "2 b t c h w"],
    ) -> Rungs[Shown]:
        windows, (noise, disturbance) = self.windows, noises
        known = torch.arange(data.shape[2]) < torch.tensor([[place.known] for place in places])
        disturbed = torch.where(
            known[:, :, None, None, None], data + windows.config.prefix_noise * disturbance, data
        )
        time = times[:, None].expand(-1, data.shape[2])
        if not windows.stills:
            time = torch.where(known, 1.0, time)
        return Rungs(
            data=data if windows.stills else disturbed, noise=noise, time=time, mask=time < 1.0,
            given=[windows.shown(places, rung, known) for rung in disturbed], weight=windows.weight(places, None),
        )


def post_train_video(
    recipe: VideoPostRecipe, rollouts: Rollouts, accelerator: Any, progress: Progress, report: Callable[[str], None]
) -> Path:
    """Post-train with checkpoints; the path of the adapter. ``rollouts``: takes with the number of their example in the split
    `train` of the cache, the best first, aligned with its latents.

    What to watch goes to ``out/log.jsonl``. A run that is interrupted and started again gives the weights of one that was not.
    ValueError, and nothing is touched, where the folder is another run's.
    """
    examples, net, windows = opened(recipe, accelerator)
    drawn = RungWindows(windows, rollouts, recipe)
    if any(number >= len(examples) for number, _ in rollouts):
        raise ValueError(f"rollouts are of clips beyond the cache's {len(examples)}: give those that were made of it")
    learned = {
        **cache_of(examples, windows.common), "windows": asdict(windows.config),
        "takes": digest(v for number, takes in rollouts for v in (str(number), takes.half().cpu())),
    }
    claim_together(accelerator, recipe.out, {**identity_of(recipe, accelerator), **learned}, FILES)
    training = Training(accelerator, PostTask(net, recipe), recipe.pace, recipe.out)
    companion = training.restore()
    if companion is not None:
        report(f"going on at step {training.step}")
        net.set_adapter(companion, REFERENCE)
    while not training.done:
        training.update(_steps(recipe, drawn, training.step, accelerator))
        if recipe.reference < 1:
            net.follow(recipe.reference)
        progress("post-training", training.step, recipe.steps)
        training.log()
        if training.step % recipe.checkpoint_every == 0 or training.done:
            training.save(net.adapter_state(REFERENCE))
    path = recipe.out / ADAPTER
    with training.averaged():
        state = training.state()
        if accelerator.is_main_process:
            settings = {k: v for k, v in asdict(recipe).items() if k not in ("base", "adapter", "cache", "out", "windows")}
            own = {name.removeprefix("net."): weight for name, weight in state.items()}
            net.save(path, {**net.metadata, "post": json.dumps(settings)}, own)
    accelerator.wait_for_everyone()
    return path


def identity_of(recipe: VideoPostRecipe, accelerator: Any) -> dict[str, Any]:
    """What tells a run from others, as far as it is known before anything is loaded, for `loop.check_claim`: the adapter by what
    is in it, and windows of an update counted over processes."""
    return stamp_of(
        "train video-post", recipe, free=("base", "adapter", "cache", "batch", "precision", "windows"),
        precision=accelerator.mixed_precision, windows_per_update=recipe.batch * accelerator.num_processes,
        start=digest([np.fromfile(recipe.adapter, np.uint8)]),
    )


def opened(
    recipe: VideoPostRecipe, accelerator: Any, split: str = "train"
) -> tuple[list[VideoExample], VideoTransformer, Windows]:
    """The examples, the network that is post-trained, and windows as it was trained with, unless the recipe has its own."""
    examples, common = load_cache(recipe.cache, split)
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    base = load_part(module("diffusers").WanTransformer3DModel, recipe.base, "transformer", dtype=dtype)
    net = VideoTransformer.load(base, recipe.adapter)
    for name, parameter in net.named_parameters():
        learns = name.startswith(f"own.{POLICY}.") or ".lora_" in name
        parameter.requires_grad_(learns and parameter.requires_grad)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    said = json.loads(net.metadata.get("window", "{}"))
    config = recipe.windows or WindowConfig(**{name: said[name] for name in ("latents", "prefix") if name in said})
    scale = IntensityScale.loaded(net.metadata["intensity"]) if net.config.parts.intensity else None
    windows = Windows(
        examples, common, config, spec_of(common, net), parts=net.config.parts, stills=net.stills > 0, scale=scale,
        seed=recipe.seed,
    )
    return examples, net, windows


def _steps(recipe: VideoPostRecipe, drawn: RungWindows, step: int, accelerator: Any) -> Iterator[Rungs[Shown]]:
    first = accelerator.process_index * recipe.batch
    rungs = drawn.draw(step, range(first, first + recipe.batch))
    yield moved(rungs, accelerator.device)
