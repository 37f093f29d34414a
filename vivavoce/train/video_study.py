"""`vivavoce bench video-parts`: what the parts of the video engine are worth, on a small model of our own (docs/video.md).

One tiny base learns from nothing how heads move, deaf. Then it learns to speak several times over, from the same start, on the
same windows in the same order, each time with one thing changed; one of these is post-trained. All are judged on other people's
recordings (`judge.evaluate`). Everything is kept, so that a study goes on where it was stopped.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vivavoce.animate import Animator
from vivavoce.components import module
from vivavoce.judge.evaluation import Options, evaluate
from vivavoce.judge.pairs import Pair
from vivavoce.judge.results import Evaluation
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.regions import RegionWeights
from vivavoce.latent.space import Frame
from vivavoce.latent.video import VideoReference, VideoSpace
from vivavoce.media.audio import Audio
from vivavoce.media.video import VideoWriter
from vivavoce.nets.redistribute import PICTURES
from vivavoce.nets.video import RESIDUAL
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.sound import load_sound
from vivavoce.train.ablation import LOCAL
from vivavoce.train.data import Clip, Progress
from vivavoce.train.video import CLIP_LEVEL, FRAME_LEVEL, Stage, VideoRecipe, train_video
from vivavoce.train.video_clips import ClipConfig, VideoClip, load_clips, make_clips
from vivavoce.train.video_data import PER_PICTURE, Base, CacheConfig, make_cache
from vivavoce.train.video_faces import Exchange, exchange_faces
from vivavoce.train.video_hearing import Hearing, added, hearing, whole_windows
from vivavoce.train.video_post import VideoPostRecipe, post_train_video
from vivavoce.train.video_rollout import VideoRolloutRecipe, policy_of, rolled, scene_of, video_rollouts
from vivavoce.train.video_teacher import Teaching, taught_clips
from vivavoce.train.video_vae import VideoVAERecipe, train_video_vae
from vivavoce.train.video_windows import WindowConfig
from vivavoce.video_scene import VideoWindows

TEXT_WIDTH = 16  # of the states of text, of which the tiny base gets a zero


@dataclass(frozen=True, kw_only=True)
class NetShape:
    """Sizes of the tiny transformer. Like Wan 2.1's for image to video it is told by channels what is known, but without states
    of the picture; and it is shown the picture held instead of grey, so that it need not learn first to look the face up."""

    layers: int = 8
    heads: int = 4
    head_width: int = 64
    feed_forward: int = 1024

    def build(self, channels: int) -> Any:
        """With random weights, for latents of so many channels: as many go in noisy, as many known, and a mask of pictures. What
        it draws differs from the known ones."""
        net = module("diffusers").WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=self.heads, attention_head_dim=self.head_width,
            in_channels=2 * channels + PICTURES, out_channels=channels, text_dim=TEXT_WIDTH, freq_dim=64,
            ffn_dim=self.feed_forward, num_layers=self.layers, rope_max_seq_len=128,
        )
        net.register_to_config(**{RESIDUAL: True})
        return net


@dataclass(frozen=True, kw_only=True)
class Way:
    """What is changed in the parts (`PartsConfig`), in the levels (`LevelsConfig`) and in the stages; ``post``: post-trained
    afterwards by this objective."""

    says: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    levels: Mapping[str, Any] = field(default_factory=dict)
    clip_level: bool = True
    lip_mask: bool = True
    post: str | None = None


FULL = "full"
WAYS: Mapping[str, Way] = {
    FULL: Way(says="all levels, FiLM, four pictures side by side, both stages, lip mask"),
    "one-level": Way(says="one level of each stream, 300 ms", levels={"widths": (LOCAL,), "memory": None}),
    "attention": Way(says="cross-attention instead of FiLM", parts={"injection": "attention"}),
    "pooled": Way(says="mean of a latent's four pictures", parts={"pooled": True}),
    "no-lip-mask": Way(says="no lip mask", lip_mask=False),
    "one-stage": Way(says="no clip-level stage", clip_level=False),
    "ladder": Way(says="full, then the ladder", post="ladder_dpo"),
    "sft": Way(says="full, then as many steps of SFT", post="sft"),
}
GENERATION: Mapping[str, Any] = {
    "latents": 13, "steps": 10, "shift": 1.0, "temperature": 0.6, "guidance": {"speech": 4.0}, "at_lips": True,
}
"""How videos are made (`VideoWindows`). Wan's own shift is for many more pixels."""
INTENSITIES = (0.1, 0.5, 0.9)
CEILING = "autoencoder"  # the recordings through it
RECORDED, TAUGHT = "recorded", "taught"  # the clips that are judged: of `val`, and what the motion engine has its faces say
_SPLITS: Mapping[str, str] = {RECORDED: "val", TAUGHT: TAUGHT}  # of the cache
_SIGHT = 0.8  # share of the loss
_MEASURED = 24  # clips on which what is seen is measured
_DISGUISES = 3  # of the sound of each training clip
_FADED = 25.0  # levels of 256
_CLIP_LEVEL = 0.05  # share of the steps, whose windows cost as much as six near ones
_WHOLE = 1 / 3  # share of the steps at the end, with whole pictures: after near ones alone, lips are drawn all over them


@dataclass(frozen=True, kw_only=True)
class Study:
    """``out``: clips, autoencoder, latents, a folder per run, videos and the report. ``vae``: folder of a finished autoencoder,
    ``given``: of a finished base with its autoencoder; None: one is trained. ``base_steps``, ``steps``, ``post_steps``: updates
    of the base, of each way, and of post-training. ``ears``: see `VideoRecipe`. ``close``, ``times``: see `Stage`, of the
    frame-level one before the last. ``latents``: of the videos that are judged; ``most``: clips of each person in ``val`` at
    most. ``exchange``, ``teaching``: exchanged faces (`video_faces`) and what the motion engine has faces say (`video_teacher`),
    which are learned from beside the recordings. ``tested``: what it has the faces of ``val`` say, with the speech of others
    there, which is only judged: lips that nearly all of is told by the sound, so that less is left to chance."""

    out: Path
    vae: Path | None = None
    given: Path | None = None
    net: NetShape = NetShape()
    base_steps: int = 1800
    steps: int = 1500
    post_steps: int = 100
    seeds: int = 1
    ways: tuple[str, ...] = tuple(WAYS)
    batch: int = 4
    windows: WindowConfig = field(default_factory=lambda: WindowConfig(latents=7, prefix=2, opening=0.4))
    ears: int = 400
    close: int = 6
    times: int = 6
    latents: int = 17
    most: int = 2
    clips: ClipConfig = field(default_factory=lambda: ClipConfig(steady=True))
    exchange: Exchange = field(default_factory=lambda: Exchange(seconds=480))
    teaching: Teaching = field(default_factory=lambda: Teaching(seconds=1500))
    tested: Teaching = field(default_factory=lambda: Teaching(seconds=90, longest=3))

    def __post_init__(self) -> None:
        for name in ("base_steps", "steps", "post_steps", "seeds", "batch", "most"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name.replace('_', ' ')} is {vars(self)[name]}: give 1 or more")
        unknown = [name for name in self.ways if name not in WAYS]
        if unknown:
            raise ValueError(f"no way is called {unknown[0]!r}: give some of {', '.join(WAYS)}")
        for name in self.ways:
            if WAYS[name].post is not None and FULL not in self.ways:
                raise ValueError(f"{name} goes on from {FULL}: ask for that too")

    @property
    def base(self) -> Path:
        """What all ways begin from."""
        return self.given or self.out / "base"

    @property
    def cache(self) -> Path:
        return self.out / "latents"

    def folder(self, name: str, seed: int) -> Path:
        return self.out / f"{name}-{self.steps}-{seed}"

    @property
    def generation(self) -> VideoWindows:
        """How videos are made that are judged."""
        return VideoWindows(prefix=self.windows.prefix, opening=False, held=True, **GENERATION)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """``heard`` (`video_hearing.hearing`, on the recordings of ``val``) and ``added`` (on its taught clips): of each way, by
    seed. What is judged is so in two groups, `RECORDED` and `TAUGHT`."""

    judged: Evaluation
    heard: Mapping[str, Sequence[Hearing]]
    added: Mapping[str, Sequence[float]]


def study(
    plan: Study, recordings: Sequence[Clip], sounds: Mapping[str, Sequence[Path]], animator: Animator, accelerator: Any,
    progress: Progress, report: Callable[[str], None],
) -> Findings:
    """Train and judge what is not there yet. ``recordings``: of the splits train and val; ``sounds``: by speaker, more speech
    for the motion engine, ``animator``, to teach with; ``accelerator``: of one process."""
    start = _prepared(plan, recordings, sounds, animator, progress, report)
    if not (plan.given or (plan.base / "adapter.safetensors").exists()):
        report("the base learns how heads move")
        train_video(base_recipe(plan, start), accelerator, progress, report)
    heard: dict[str, list[Hearing]] = {}
    gained: dict[str, list[float]] = {}
    for seed in range(plan.seeds):
        for name in plan.ways:
            _trained(plan, name, seed, accelerator, progress, report)
            own, gain = _heard(plan, name, seed, accelerator)
            heard.setdefault(name, []).append(own)
            gained.setdefault(name, []).append(gain)
    pairs = _shown(plan, accelerator, progress)
    judged = evaluate(pairs, plan.out / "report", options=Options(), progress=lambda w, i, n: progress(w, i, n or 0))
    return Findings(judged=judged, heard=heard, added=gained)


def base_recipe(plan: Study, start: Path) -> VideoRecipe:
    """All of a random base learns, with nothing of ours in it. Lips count less than later: it has yet to learn what a head is."""
    return VideoRecipe(
        base=start, cache=plan.cache, out=plan.base, stages=(Stage(steps=plan.base_steps, aligned=True, lip_mask=False),),
        batch=plan.batch, parts={"levels": None, "identity": False, "joints": 0, "intensity": False}, train_base=True,
        base_rate=2e-3, generation=GENERATION, windows=replace(plan.windows, weights=RegionWeights(lips=10, face=3)), ema=0.995,
        sight=_SIGHT,
    )


def way_recipe(plan: Study, name: str, seed: int) -> VideoRecipe:
    """How the base learns to speak in one run: LoRA and our parts. Whose face it is, the picture held in every latent tells."""
    way = WAYS[name]
    first = max(1, round(_CLIP_LEVEL * plan.steps)) if way.clip_level else 0
    last = round(_WHOLE * plan.steps)
    near = replace(FRAME_LEVEL, steps=plan.steps - first - last, lip_mask=way.lip_mask, close=plan.close, times=plan.times)
    return VideoRecipe(
        base=plan.base, cache=plan.cache, out=plan.folder(name, seed), batch=plan.batch, rank=32, lora_rate=5e-4, own_rate=2e-3,
        stages=(replace(CLIP_LEVEL, steps=first), near, replace(FRAME_LEVEL, steps=last, lip_mask=way.lip_mask)),
        parts={"width": 128, "identity": False, "joints": 0, **way.parts}, levels=way.levels,
        windows=replace(plan.windows, shift=6.0), seed=seed, generation=GENERATION, sight=_SIGHT,
        ears=plan.ears,
    )


def post_recipe(plan: Study, name: str, seed: int) -> VideoPostRecipe:
    """How the full run is post-trained."""
    return VideoPostRecipe(
        base=plan.base, adapter=plan.folder(FULL, seed) / "adapter.safetensors", cache=plan.cache, out=plan.folder(name, seed),
        objective=WAYS[name].post, steps=plan.post_steps, batch=2, lora_rate=5e-5, own_rate=5e-5,  # type: ignore[arg-type]
        windows=plan.windows, sft_weight=1.0, norm_weight=2.0, seed=seed,
    )


def _prepared(
    plan: Study, recordings: Sequence[Clip], sounds: Mapping[str, Sequence[Path]], animator: Animator, progress: Progress,
    report: Callable[[str], None],
) -> Path:
    """Clips, autoencoder, latents; the folder of the base that was given, or of one that knows nothing."""
    folder, start, tracks = plan.out / "clips", plan.out / "start", plan.out / "tracks"
    make_clips(recordings, folder, tracks, progress, plan.clips)
    clips = {split: load_clips(folder, split) for split in ("train", "val")}
    said = [clip for clip in recordings if clip.split == "train"]
    made = exchange_faces(said, clips["train"], plan.out / "faces", tracks, animator.space, progress, plan.clips, plan.exchange)
    speech = _spoken(said, sounds)
    made += taught_clips(speech, clips["train"], plan.out / "lessons", animator, progress, plan.clips, plan.teaching)
    speech = _spoken([clip for clip in recordings if clip.split == "val"], {})
    tests = taught_clips(speech, clips["val"], plan.out / "tests", animator, progress, plan.clips, plan.tested)
    if plan.given:
        start = plan.given
    elif not (start / "transformer" / "config.json").exists():
        vae = plan.vae or _autoencoder(plan.out, clips["train"], progress, report)
        shutil.copytree(vae, start / "vae", dirs_exist_ok=True)
        torch.manual_seed(0)
        space = _space(plan, start)
        plan.net.build(space.spec.event[0]).save_pretrained(start / "transformer")
    space = _space(plan, start)
    config = CacheConfig(opening=plan.windows.latents, held=True, sight=_MEASURED, disguises=_DISGUISES)
    for group in ([*clips["train"], *made], clips["val"], [replace(clip, split=TAUGHT) for clip in tests]):
        make_cache(group, plan.cache, space, animator.encoder, Base.of(start), config, progress)
    return start


def _autoencoder(out: Path, clips: list[VideoClip], progress: Progress, report: Callable[[str], None]) -> Path:
    """One of our own, whose decoder knows long stretches too."""
    first = VideoVAERecipe(out=out / "autoencoder")
    vae = train_video_vae(first, clips, progress, report)
    return train_video_vae(replace(first, out=out / "decoder").lengthened(vae), clips, progress, report)


def _spoken(recordings: Sequence[Clip], sounds: Mapping[str, Sequence[Path]]) -> dict[str, list[Path]]:
    """All speech by speaker: what is said in recordings, and more."""
    speech = {speaker: list(paths) for speaker, paths in sounds.items()}
    for clip in recordings:
        if clip.talks:
            speech.setdefault(clip.person, []).append(clip.path)
    return speech


def _space(plan: Study, base: Path) -> VideoSpace:
    side = plan.clips.side
    return VideoSpace.load(base, height=side, width=side, fps=MOTION_RATE_HZ)


def _trained(
    plan: Study, name: str, seed: int, accelerator: Any, progress: Progress, report: Callable[[str], None]
) -> None:
    """One run, unless it is done."""
    way, out = WAYS[name], plan.folder(name, seed)
    if (out / "adapter.safetensors").exists():
        return
    report(f"{way.says}, seed {seed}")
    if way.post is None:
        train_video(way_recipe(plan, name, seed), accelerator, progress, report)
    else:
        recipe = post_recipe(plan, name, seed)
        generator, windows = policy_of(recipe, plan.generation, accelerator)
        ladder = VideoRolloutRecipe(
            ratios=recipe.ratios, shortest=plan.windows.latents, latents=2 * plan.windows.latents, seed=seed
        )
        takes = video_rollouts(generator, windows, ladder, plan.out / f"takes-{plan.steps}-{seed}", progress)
        del generator, windows
        post_train_video(recipe, takes, accelerator, progress, report)
    gc.collect()


def _heard(plan: Study, name: str, seed: int, accelerator: Any) -> tuple[Hearing, float]:
    """What a run takes from speech, on the recordings of ``val``, and what that adds, on its taught clips; kept beside it."""
    file = plan.folder(name, seed) / "heard.json"
    if not file.exists():
        recipe = _policy(plan, file.with_name("adapter.safetensors"), seed, whole_windows(plan.windows))
        generator, windows = policy_of(recipe, plan.generation, accelerator, split=_SPLITS[RECORDED])
        own = hearing(generator.net, windows, _space(plan, plan.base))
        generator, windows = policy_of(recipe, plan.generation, accelerator, split=_SPLITS[TAUGHT])
        gain = added(generator.net, windows, close=plan.close)
        file.write_text(json.dumps({"heard": asdict(own), "added": gain}))
    kept = json.loads(file.read_text())
    return Hearing(**kept["heard"]), kept["added"]


def _policy(plan: Study, adapter: Path, seed: int, windows: WindowConfig) -> VideoPostRecipe:
    """How a finished run is opened."""
    return VideoPostRecipe(base=plan.base, adapter=adapter, cache=plan.cache, out=plan.out, windows=windows, seed=seed)


def _shown(plan: Study, accelerator: Any, progress: Progress) -> list[Pair]:
    """Videos of all runs and of what they are held against, as far as they are not there yet."""
    space = _space(plan, plan.base)
    recorded = [clip for clip in load_clips(plan.out / "clips", "val") if not _faded(clip)]
    chosen = {RECORDED: _chosen(plan, recorded), TAUGHT: _chosen(plan, load_clips(plan.out / "tests", "val"))}
    pairs = []
    for seed in range(plan.seeds):
        adapters = {name: plan.folder(name, seed) / "adapter.safetensors" for name in plan.ways}
        systems: dict[str, tuple[Path, float | None]] = {name: (path, None) for name, path in adapters.items()}
        if not (seed or plan.given):
            systems["base"] = plan.base / "adapter.safetensors", None
        if FULL in adapters:
            systems |= {f"intensity {value:g}": (adapters[FULL], value) for value in INTENSITIES}
        for system, (adapter, intensity) in systems.items():
            for group, clips in chosen.items() if intensity is None else [(RECORDED, chosen[RECORDED])]:
                pairs += _videos(plan, system, seed, adapter, intensity, space, group, clips, accelerator, progress)
    return [*pairs, *(pair for group, clips in chosen.items() for pair in _ceiling(plan, space, group, clips))]


def _chosen(plan: Study, clips: Sequence[VideoClip]) -> list[VideoClip]:
    """The longest ones of everybody who talks."""
    people: dict[str, list[VideoClip]] = {}
    for clip in sorted(clips, key=len, reverse=True):
        own = people.setdefault(clip.person, [])
        if clip.talks and len(clip) >= _pictures(plan) and len(own) < plan.most:
            own.append(clip)
    return [clip for group in people.values() for clip in group]


def _faded(clip: VideoClip) -> bool:
    """Whether the first picture is much lighter or darker than the others: that is no portrait."""
    light = np.asarray(clip.pictures).mean((1, 2, 3))
    return bool(abs(light[0] - np.median(light)) > _FADED)


def _videos(
    plan: Study, system: str, seed: int, adapter: Path, intensity: float | None, space: VideoSpace, group: str,
    clips: Sequence[VideoClip], accelerator: Any, progress: Progress,
) -> list[Pair]:
    """Each clip's first picture, said what was said in it. Nothing else of the recording is known."""
    folder = plan.out / "videos" / f"{system.replace(' ', '-')}-{seed}"
    pairs = [_pair(plan, group, clip, system, folder / f"{_stem(clip)}.mp4", seed) for clip in clips]
    if all(pair.generated.exists() for pair in pairs):
        return pairs
    folder.mkdir(parents=True, exist_ok=True)
    generator, windows = policy_of(_policy(plan, adapter, seed, plan.windows), plan.generation, accelerator, split=_SPLITS[group])
    numbers = {(example.name, example.first): i for i, example in enumerate(windows.examples)}
    take = VideoRolloutRecipe(ratios=(0.0,), latents=plan.latents, seed=seed)
    for i, (clip, pair) in enumerate(zip(clips, pairs, strict=True)):
        progress(f"making videos, {system}, {group}", i, len(clips))
        if pair.generated.exists():
            continue
        number = numbers[clip.name, PER_PICTURE * clip.first]
        first = np.array(clip.pictures[0])
        reference = VideoReference(picture=first, latent=space.encode([first]))
        scene = replace(scene_of(windows, number, 1, space), reference=reference)
        if scene.intensity is not None:
            scene = replace(scene, intensity=None if intensity is None else torch.full((1, 2), intensity))
        if scene.face is not None:  # that of the first picture, which is all that a user has
            scene = replace(scene, face=windows.examples[number].whole("faces")[:1])
        latents = rolled(generator, windows, number, take, scene=scene)
        _write(pair.generated, space, latents, _sound(plan, clip))
    progress(f"making videos, {system}, {group}", len(clips), len(clips))
    return pairs


def _ceiling(plan: Study, space: VideoSpace, group: str, clips: Sequence[VideoClip]) -> list[Pair]:
    """The recordings themselves through the autoencoder: more than it keeps nobody can make."""
    folder = plan.out / "videos" / CEILING
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [_pair(plan, group, clip, CEILING, folder / f"{_stem(clip)}.mp4", 0) for clip in clips]
    for clip, pair in zip(clips, pairs, strict=True):
        if not pair.generated.exists():
            _write(pair.generated, space, space.encode(list(clip.pictures[: _pictures(plan)])), _sound(plan, clip))
    return pairs


def _pair(plan: Study, group: str, clip: VideoClip, system: str, generated: Path, seed: int) -> Pair:
    """With the recording, cut as the video is, which is written here."""
    folder = plan.out / "videos" / "recorded"
    folder.mkdir(parents=True, exist_ok=True)
    recording, portrait = folder / f"{_stem(clip)}.mp4", folder / f"{_stem(clip)}.png"
    pictures = np.asarray(clip.pictures[: _pictures(plan)])
    if not portrait.exists():
        Image.fromarray(pictures[0]).save(portrait)
    if not recording.exists():
        _encode(recording, pictures, _sound(plan, clip))
    return Pair(
        name=f"{_stem(clip)} {seed}", generated=generated, recording=recording, portrait=portrait, group=group, system=system,
    )


def _write(path: Path, space: VideoSpace, latents: Float[Tensor, "1 t c h w"], sound: Audio) -> None:
    _encode(path, space.decode(latents, space.start())[0], sound)


def _encode(path: Path, pictures: Iterable[Frame], sound: Audio) -> None:
    first, *rest = pictures
    with VideoWriter(path, fps=MOTION_RATE_HZ, size=(first.shape[1], first.shape[0]), sound=sound) as writer:
        for picture in (first, *rest):
            writer.write(picture)
        writer.finish()


def _sound(plan: Study, clip: VideoClip) -> Audio:
    """What is heard meanwhile."""
    per_picture = round(SAMPLE_RATE_HZ / MOTION_RATE_HZ)
    first = clip.first * per_picture
    heard = load_sound(clip.recording)[first : first + _pictures(plan) * per_picture]
    return Audio(samples=heard[None], rate=SAMPLE_RATE_HZ)


def _pictures(plan: Study) -> int:
    return 1 + PICTURES * (plan.latents - 1)


def _stem(clip: VideoClip) -> str:
    return f"{clip.name}-{clip.first}"
