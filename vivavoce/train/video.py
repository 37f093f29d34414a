"""`vivavoce train video`: a pretrained video network learns to speak, or one of our own learns all it knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vivavoce.components import load_part, module, quiet
from vivavoce.flow.loss import velocity_error, weighted_square
from vivavoce.latent.intensity import IntensityScale
from vivavoce.latent.skeleton import UPPER_BODY
from vivavoce.latent.space import LatentSpec
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.video import VideoTransformer, base_config
from vivavoce.nets.video_parts import PartsConfig
from vivavoce.train.data import Progress
from vivavoce.train.loop import digest, stamp_of
from vivavoce.train.video_data import Common, VideoExample, load_cache, measured_scale
from vivavoce.train.video_ears import teach_ears
from vivavoce.train.video_loop import Pace, Precision, Training, claim_together, weights_of
from vivavoce.train.video_sight import Sight
from vivavoce.train.video_windows import Batch, WindowConfig, Windows, moved

ADAPTER = "adapter.safetensors"
FILES = ("checkpoint.pt", ADAPTER)  # what a run leaves in its folder
_TAUGHT = 0.1  # of the learning rate of our parts: that of ears that were taught before


@dataclass(frozen=True, kw_only=True)
class Stage:
    """``steps`` updates. ``aligned``: each latent hears its own pictures; else it hears the whole window at once, which teaches
    what belongs to a voice. ``lip_mask``: most windows count at the lips only (`regions.lip_traced`). ``close``: so many latents
    around the lips are all that is seen, None for whole pictures; ``times``: as many windows in a batch as otherwise."""

    steps: int
    aligned: bool
    lip_mask: bool
    close: int | None = None
    times: int = 1

    def __post_init__(self) -> None:
        if self.close is not None and (self.close < 2 or self.close % 2):
            raise ValueError(f"{self.close} latents around the lips were asked for: give an even number from 2 on")
        if self.times < 1:
            raise ValueError(f"{self.times} times as many windows were asked for: give 1 or more")
        if self.steps < 0:
            raise ValueError(f"a stage of {self.steps} steps was asked for: give 0 or more")


CLIP_LEVEL = Stage(steps=500, aligned=False, lip_mask=False)
FRAME_LEVEL = Stage(steps=2000, aligned=True, lip_mask=True)


def stages_of(which: Literal["both", "clip", "frame"], steps: int | None) -> tuple[Stage, ...]:
    """One of the two stages or both, with so many steps in all, shared out as by default."""
    stages = {"clip": (CLIP_LEVEL,), "frame": (FRAME_LEVEL,), "both": (CLIP_LEVEL, FRAME_LEVEL)}[which]
    if steps is None:
        return stages
    whole = sum(stage.steps for stage in stages)
    first = max(1, round(steps * stages[0].steps / whole))
    return tuple(replace(s, steps=n) for s, n in zip(stages, (first, steps - first), strict=False))


@dataclass(frozen=True, kw_only=True)
class VideoRecipe:
    """How a video network is trained.

    ``base``: a pipeline's folder or hub name; ``cache``: folder of `video_data.make_cache`; ``out``: checkpoint, log and weights.
    ``stages``: FantasyTalking's two (arXiv 2504.04842, 3.2). ``batch``: windows per process; times ``accumulate`` per update.
    ``lora_rate``, ``own_rate``, ``base_rate``: learning rates of LoRA, of our own parts, and of the base where it learns.
    ``rank``: of LoRA. ``parts``, ``levels``: what differs from the configurations' defaults. ``train_base``: all of the base
    learns, for one that is not pretrained; then there is no LoRA, and the base is saved beside the adapter.
    ``generation``: how its videos are best made, as the adapter says then: fields of `VideoWindows`.
    ``sight``: share of the loss that is the error of what is seen (`video_sight`), for caches that know it; else none.
    ``ears``: updates of the levels of speech before all others, by what lips do (`video_ears`); later they learn slowly.
    ``precision``: None for what `accelerate launch` says; ``checkpointing``: of gradients. ``ema``: memory of the moving average
    of all that is trained, which is what is kept.
    """

    base: str | Path
    cache: Path
    out: Path
    stages: tuple[Stage, ...] = (CLIP_LEVEL, FRAME_LEVEL)
    batch: int = 1
    accumulate: int = 1
    lora_rate: float = 1e-4
    own_rate: float = 1e-4
    base_rate: float = 1e-3
    rank: int = 64
    warmup: int = 50
    weight_decay: float = 0.01
    parts: Mapping[str, Any] = field(default_factory=dict)
    levels: Mapping[str, Any] = field(default_factory=dict)
    windows: WindowConfig = field(default_factory=WindowConfig)
    train_base: bool = False
    generation: Mapping[str, Any] = field(default_factory=dict)
    sight: float = 0.0
    ears: int = 0
    precision: Precision | None = None
    checkpointing: bool = False
    ema: float = 0.99
    log_every: int = 10
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.accumulate < 1:
            raise ValueError(f"batches of {self.batch}, {self.accumulate} times per update, were asked for: give 1 or more")
        if not self.steps:
            raise ValueError("the stages have no steps: give 1 or more to one of them")
        if not 0 <= self.sight <= 1:
            raise ValueError(f"what is seen is to be {self.sight} of the loss: give 0 (none) to 1 (all)")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise AssertionError("a step after the last")

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates by parts of parameters' names."""
        base = {"net.base.": self.base_rate} if self.train_base else {}
        ears = {"net.own.policy.levels.": _TAUGHT * self.own_rate} if self.ears else {}
        return {"lora_": self.lora_rate, **ears, "net.own.policy.": self.own_rate, **base}

    @property
    def pace(self) -> Pace:
        return Pace(
            steps=self.steps, rates=self.rates, warmup=self.warmup, weight_decay=self.weight_decay, ema=self.ema,
            log_every=self.log_every, checkpoint_every=self.checkpoint_every,
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one forward sees."""

    batch: Batch
    aligned: bool


class VideoTask(nn.Module):
    """Condition and loss in one forward: what wraps networks for several processes sees no other."""

    def __init__(self, net: VideoTransformer, sight: Sight | None = None, share: float = 0.0):
        """``share``: of the loss that is what ``sight`` shows of the error."""
        super().__init__()
        self.net, self.sight, self.share = net, sight, share

    def forward(self, step: Step) -> tuple[Tensor, dict[str, float]]:
        """The flow matching loss, a mean over the batch."""
        batch = step.batch
        condition = batch.shown.heard(self.net, aligned=step.aligned)
        error = velocity_error(self.net, batch.data, condition, noise=batch.noise, time=batch.time, mask=batch.counts)
        loss = weighted_square(error, batch.counts, batch.weight).mean()
        if self.sight is None:
            return loss, {}
        seen = weighted_square(self.sight(error.float()), batch.counts, batch.weight).mean()
        return (1 - self.share) * loss + self.share * seen, {"latents": float(loss.detach()), "seen": float(seen.detach())}


def train_video(recipe: VideoRecipe, accelerator: Any, progress: Progress, report: Callable[[str], None]) -> Path:
    """Train, with checkpoints; the path of the adapter. Figures go to ``out/log.jsonl``.

    A run that is interrupted and started again gives the weights of one that was not, and several processes those of one with a
    batch as large as all of theirs (to rounding, and but for dropout inside the network, which each draws for itself).
    ValueError, and nothing is touched, where the folder is another run's.
    """
    examples, common = load_cache(recipe.cache, "train")
    scale = measured_scale(examples)
    torch.manual_seed(recipe.seed)
    net = new_network(recipe, common, scale, accelerator)
    if scale is None and net.config.parts.intensity is False:
        report("too few faces were tracked to tell strong motion from weak: the network has no dial for it")
    windows = windows_of(recipe, net, examples, common, scale)
    learned = {**base_of(recipe, net), **cache_of(examples, common)}
    claim_together(accelerator, recipe.out, {**identity_of(recipe, accelerator), **learned}, FILES)
    if recipe.ears and not (recipe.out / "checkpoint.pt").exists():
        opening, width = teach_ears(net.parts.levels.to(accelerator.device), windows, recipe.ears, progress).tolist()
        report(f"ears alone: opening of the lips {opening:.2f}, width {width:.2f}, correlations on what was learned from")
    training = Training(accelerator, VideoTask(net, sight_of(recipe, common), recipe.sight), recipe.pace, recipe.out)
    if training.restore() is not None:
        report(f"going on at step {training.step}")
    while not training.done:
        stage = recipe.stage(training.step)
        training.update(steps_of(recipe, windows, stage, training.step, accelerator))
        progress("training", training.step, recipe.steps)
        training.log(aligned=stage.aligned)
        if training.step % recipe.checkpoint_every == 0 or training.done:
            training.save()
    return finish(recipe, training, net, metadata_of(recipe, net, examples, common, scale), accelerator)


def identity_of(recipe: VideoRecipe, accelerator: Any) -> dict[str, Any]:
    """What tells a run from others, as far as it is known before anything is loaded, for `loop.check_claim`. Windows of an update
    are counted over processes, and stages told by what is learned in them: their lengths may change, as a run's may."""
    free = ("base", "cache", "stages", "batch", "accumulate", "precision", "checkpointing")
    return stamp_of(
        "train video", recipe, free=free, precision=accelerator.mixed_precision,
        windows_per_update=recipe.batch * recipe.accumulate * accelerator.num_processes,
        stages=[{k: v for k, v in vars(s).items() if k != "steps"} for s in recipe.stages if s.steps],
    )


def base_of(recipe: VideoRecipe, net: VideoTransformer) -> dict[str, Any]:
    """Which base it is, wherever it lies. Of one that learns in its own folder it is not known any more what it began as."""
    own = Path(recipe.base).resolve() == recipe.out.resolve()
    return {"base": base_config(net.base), "base_weights": "its own" if own else weights_of(net.base)}


def cache_of(examples: Sequence[VideoExample], common: Common) -> dict[str, Any]:
    """What a cache was made of, and which clips are in it."""
    return {"cache": common.stamp, "clips": digest(f"{e.name} {e.person} {e.first} {e.latents} {e.talks}" for e in examples)}


def sight_of(recipe: VideoRecipe, common: Common) -> Sight | None:
    """None where nothing is to be seen. ValueError where the cache does not know what is."""
    if not recipe.sight:
        return None
    if common.sight is None:
        raise ValueError(f"{recipe.cache} does not tell what is seen of latents: make it with clips to measure that on")
    return Sight(common.sight)


def steps_of(recipe: VideoRecipe, windows: Windows, stage: Stage, step: int, accelerator: Any) -> Iterator[Step]:
    """This process's share of the samples of a step, batch by batch."""
    for part in range(recipe.accumulate):
        process = part * accelerator.num_processes + accelerator.process_index
        count = recipe.batch * stage.times
        batch = windows.draw(step, range(process * count, (process + 1) * count), lip_mask=stage.lip_mask, close=stage.close)
        # Dropout inside the network draws from the global generator: with this, no state of it need be kept.
        torch.manual_seed(int(np.random.default_rng((recipe.seed, step, process)).integers(2**62)))
        yield Step(batch=moved(batch, accelerator.device), aligned=stage.aligned)


def new_network(recipe: VideoRecipe, common: Common, scale: IntensityScale | None, accelerator: Any) -> VideoTransformer:
    """The base with untrained parts. A frozen base is loaded in half precision where training is in it."""
    half = accelerator.mixed_precision == "bf16" and not recipe.train_base
    dtype = torch.bfloat16 if half else torch.float32
    base = load_part(module("diffusers").WanTransformer3DModel, recipe.base, "transformer", dtype=dtype)
    levels = LevelsConfig.of({"streams": common.stamp["streams"], **recipe.levels})
    parts = {"levels": levels, "identity": True, "joints": len(UPPER_BODY), "intensity": scale is not None, **recipe.parts}
    if scale is None and parts["intensity"]:
        raise ValueError(f"{recipe.cache} has too few tracked faces to tell how strongly they move: leave intensity out")
    net = VideoTransformer(base, VideoTransformer.Config(
        parts=PartsConfig(**parts), rank=0 if recipe.train_base else recipe.rank, checkpointing=recipe.checkpointing,
    ))
    if recipe.train_base:
        net.base.requires_grad_(True)
    for parameter in net.parameters():
        if parameter.requires_grad:  # what learns does so in single precision, LoRA on a base in half precision included
            parameter.data = parameter.data.float()
    return net.train()


def windows_of(
    recipe: VideoRecipe, net: VideoTransformer, examples: Sequence[VideoExample], common: Common, scale: IntensityScale | None
) -> Windows:
    """Windows as the network takes them. ValueError where the cache is of another autoencoder than the base's."""
    return Windows(
        examples, common, recipe.windows, spec_of(common, net), parts=net.config.parts, stills=net.stills > 0, scale=scale,
        seed=recipe.seed,
    )


def spec_of(common: Common, net: VideoTransformer) -> LatentSpec:
    """Shape and clock of the cached latents. ValueError where the base takes others."""
    vae, (height, width, fps) = common.stamp["autoencoder"], common.stamp["size"]
    channels, takes = vae["z_dim"], net.base.config["out_channels"]
    if channels != takes:
        raise ValueError(f"the latents have {channels} channels, the base takes {takes}: give the base of their autoencoder")
    stride, factor = vae["scale_factor_temporal"], vae["scale_factor_spatial"]
    return LatentSpec(event=(channels, height // factor, width // factor), rate_hz=fps / stride, stride=stride)


def metadata_of(
    recipe: VideoRecipe, net: VideoTransformer, examples: Sequence[VideoExample], common: Common, scale: IntensityScale | None
) -> dict[str, str]:
    """What the adapter's file says besides its weights: all that is needed to use it, and how it was made."""
    spec = spec_of(common, net)
    height, width, fps = common.stamp["size"]
    settings = {k: v for k, v in asdict(recipe).items() if k not in ("base", "cache", "out")}
    said = {
        "autoencoder": common.stamp["autoencoder"]["weights"],
        "latents": {"event": list(spec.event), "fps": fps, "height": height, "width": width},
        "window": {
            "latents": recipe.windows.latents, "prefix": recipe.windows.prefix, "held": common.stamp["config"]["held"],
        },
        "silence": common.silence.tolist(), "prompt": common.stamp["config"]["prompt"],
        "generation": dict(recipe.generation), "framing": float(np.median([example.framing for example in examples])),
    }
    found = {key: json.dumps(value) for key, value in said.items()}
    found |= {"encoder": common.stamp["encoder"], "recipe": json.dumps(settings)}
    return found | ({} if scale is None else {"intensity": scale.saved()})


def finish(recipe: VideoRecipe, training: Training, net: VideoTransformer, metadata: Mapping[str, str], accelerator: Any) -> Path:
    """The averaged weights as files: the adapter, and the base where it learned, with the parts it goes with."""
    path = recipe.out / ADAPTER
    with training.averaged():
        state = training.state()
        if accelerator.is_main_process:
            state = {name.removeprefix("net."): weight for name, weight in state.items()}
            net.save(path, metadata, state)
            if recipe.train_base:
                _save_base(recipe, net, state)
    accelerator.wait_for_everyone()
    return path


def _save_base(recipe: VideoRecipe, net: VideoTransformer, state: Mapping[str, Tensor]) -> None:
    """As diffusers saves pipelines, so that ``out`` is a base like any other."""
    with quiet():
        made: Any = type(net.base).from_config(base_config(net.base))
    made.load_state_dict({key.removeprefix("base."): v for key, v in state.items() if key.startswith("base.")})
    made.save_pretrained(recipe.out / "transformer")
    for part in ("vae", "text_encoder", "tokenizer", "image_encoder", "image_processor"):  # as they were learned with
        folder = Path(recipe.base) / part
        if folder.is_dir() and folder.resolve() != (recipe.out / part).resolve():
            shutil.copytree(folder, recipe.out / part, dirs_exist_ok=True)
