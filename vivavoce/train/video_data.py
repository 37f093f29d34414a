"""Clips to what video networks are trained on: latents, speech, regions, faces, skeletons, made once and kept clip by clip.

In the folder: ``cache.json`` says what all of it was made of, ``common.safetensors`` holds what belongs to all clips, and there
is one ``<split>__<name>__<first>.safetensors`` per clip, of which windows are read without the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vivavoce.components import part_folder, read_config
from vivavoce.latent.intensity import FEWEST, IntensityScale, Spread, spread_of
from vivavoce.latent.mesh import lip_opening, mouth_width
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.prompts import STATES, ImageEncoder, text_states
from vivavoce.latent.regions import Regions, find_regions
from vivavoce.latent.skeleton import head_joints, track_skeletons
from vivavoce.latent.stills import face_latent
from vivavoce.latent.video import VideoSpace
from vivavoce.nets.redistribute import PICTURES
from vivavoce.speech.encoder import SpeechEncoder, features
from vivavoce.speech.encoders import identity
from vivavoce.speech.sound import load_sound
from vivavoce.train.data import Progress
from vivavoce.train.disguise import disguise
from vivavoce.train.video_clips import VideoClip
from vivavoce.train.video_sight import measured_sight

SMALLER = 4  # times: pictures in which what is seen of latents counts
PER_PICTURE = 2  # speech features, as the levels of video take them


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """``prompt``: what the text encoder is told of every clip. ``faces``: pictures of the face alone per clip, spread over it.
    ``bodies``: look for bodies (a quarter of a minute for a minute of video); else skeletons are the joints of the head.
    ``seconds``: how long a stretch's motion is measured for its intensity. ``opening``: latents of a clip of which only
    the first picture is known, for bases that are told so; ``held``: that picture goes on in it, instead of grey, which is what
    pretrained ones know. ``sight``: how many clips to measure on what is seen of latents (`video_sight`), none by default.
    ``disguises``: how often the sound of each training clip is heard otherwise (`train.disguise`), besides as it is."""

    prompt: str = ""
    faces: int = 3
    bodies: bool = False
    seconds: float = 2.0
    opening: int = 21
    held: bool = False
    sight: int = 0
    disguises: int = 0


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the cache has to know of a base: where it is, and the widths that its transformer's configuration tells."""

    path: str | Path
    text_width: int
    image: bool
    stills: bool

    @classmethod
    def of(cls, path: str | Path) -> Base:
        """ValueError where there is no transformer."""
        config = read_config(part_folder(path, "transformer"))
        return cls(
            path=path, text_width=config["text_dim"], image=config.get("image_dim") is not None,
            stills=config["in_channels"] > config["out_channels"],
        )

    @property
    def has_text_encoder(self) -> bool:
        """Whether the folder has one. A name on the hub has: pipelines are published whole."""
        folder = Path(self.path)
        return not folder.is_dir() or (folder / "text_encoder").is_dir()


@dataclass(frozen=True, kw_only=True)
class VideoExample:
    """A clip in the cache; its tensors are read when they are asked for."""

    file: Path
    name: str
    person: str
    first: int  # speech feature of the first picture
    latents: int
    talks: bool
    framing: float  # see `VideoClip.framing`
    disguises: int = 0  # in which its sound is kept besides

    def window(self, name: str, span: slice) -> Tensor:
        """A stretch of what has a time axis: latents, lips, face, lips_ever, face_ever, known, spreads, skeleton or mouth."""
        with safe_open(self.file, framework="pt") as kept:
            values = kept.get_slice(name)[span.start : span.stop]
        return values if name == "known" else values.float()

    def whole(self, name: str) -> Tensor:
        """All of what has none: faces, opening or image."""
        with safe_open(self.file, framework="pt") as kept:
            return kept.get_tensor(name).float()

    @cached_property
    def speech(self) -> Float[Tensor, "s w"]:
        """The encoder's features of the whole recording, PER_PICTURE for each picture. Only of one who talks."""
        return self.whole("speech")

    def disguised(self, number: int) -> Float[Tensor, "s w"]:
        """The same in one of its disguises, from 1 on; 0 is none."""
        return self.whole(f"speech_{number}") if number else self.speech

    def spreads(self) -> list[Spread]:
        """How far face and body move about each latent, without those where it was not tracked."""
        values = self.window("spreads", slice(0, self.latents))
        return [Spread(expression=float(e), body=float(b)) for e, b in values if e == e]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What belongs to all clips of a cache. ``text``: states of the prompt, ``no_text``: of the empty one, where that is another.
    ``silence``: the encoder's features of silence. ``stamp``: what all was made of. ``sight``: `video_sight.Sight`'s kernel,
    where it was measured."""

    text: Float[Tensor, "1 n k"]
    no_text: Float[Tensor, "1 n k"] | None
    silence: Float[Tensor, " w"]
    stamp: dict[str, Any]
    sight: Float[Tensor, "v c e y x"] | None = None


def make_cache(
    clips: Sequence[VideoClip], out: Path, space: VideoSpace, encoder: SpeechEncoder, base: Base, config: CacheConfig,
    progress: Progress, *, process: int = 0, processes: int = 1,
) -> None:
    """Fill the folder; what is there already stays. Of several processes each makes its share.

    ValueError where the folder was made of something else, or where clips and space differ in size or pace.
    """
    side = clips[0].side
    if (space.height, space.width) != (side, side) or space.spec.fps != MOTION_RATE_HZ:
        raise ValueError(
            f"the clips are {side} px wide at {MOTION_RATE_HZ} pictures a second, but the space is for {space.width} x "
            f"{space.height} px at {space.spec.fps:g}: open it for the clips' size and pace"
        )
    out.mkdir(parents=True, exist_ok=True)
    stamp = stamp_of(space, encoder, base, config)
    file = out / "cache.json"
    if file.exists() and json.loads(file.read_text()) != stamp:
        was = json.loads(file.read_text())
        other = ", ".join(key for key in stamp if was.get(key) != stamp[key])
        raise ValueError(f"{out} was made with another {other}: give another folder, or remove it")
    if process == 0:
        _common(out, clips, space, encoder, base, config, stamp, progress)
        if not file.exists():
            _written(file, lambda partial: partial.write_text(json.dumps(stamp)))
    images = ImageEncoder(base.path, device=space.vae.device) if base.image else None
    own = clips[process::processes]
    heard: tuple[Path | None, dict[str, Tensor]] = (None, {})
    talking = sorted({clip.recording for clip in clips if clip.talks})
    for i, clip in enumerate(own):
        progress("encoding", i, len(own))
        file = out / f"{clip.split}__{clip.name}__{clip.first:05d}.safetensors"
        if file.exists():
            continue
        if clip.talks and heard[0] != clip.recording:
            copies = config.disguises if clip.split == "train" else 0
            heard = clip.recording, _speech(clip.recording, talking, encoder, PER_PICTURE * space.spec.fps, copies)
        tensors = _tensors(clip, space, config)
        if clip.talks:
            tensors |= heard[1]
        if images is not None:
            tensors["image"] = images(clip.pictures[0])[0].half()
        if base.stills:
            tensors["opening"] = space.opening(clip.pictures[0], config.opening, held=config.held)[0].half()
        said = {
            "name": clip.name, "person": clip.person, "first": PER_PICTURE * clip.first, "talks": clip.talks,
            "framing": round(clip.framing, 3), "disguises": len(heard[1]) - 1 if clip.talks else 0,
        }
        contents = {key: values.cpu().contiguous() for key, values in tensors.items()}
        _written(file, lambda partial, c=contents, s=said: save_file(c, partial, {"clip": json.dumps(s)}))
    progress("encoding", len(own), len(own))


def load_cache(out: Path, split: str) -> tuple[list[VideoExample], Common]:
    """All clips of a split. ValueError where there are none."""
    found = []
    for file in sorted(out.glob(f"{split}__*.safetensors")):
        with safe_open(file, framework="pt") as kept:
            row = json.loads((kept.metadata() or {})["clip"])
            found.append(VideoExample(file=file, latents=kept.get_slice("latents").get_shape()[0], **row))
    if not found or not (out / "common.safetensors").is_file():
        raise ValueError(f"{out} holds no latents of the split {split!r}: make them first")
    with safe_open(out / "common.safetensors", framework="pt") as kept:
        tensors = {name: kept.get_tensor(name) for name in kept.keys()}
    stamp = json.loads((out / "cache.json").read_text())
    return found, Common(
        text=tensors["text"], no_text=tensors.get("no_text"), silence=tensors["silence"], sight=tensors.get("sight"), stamp=stamp
    )


def stamp_of(space: VideoSpace, encoder: SpeechEncoder, base: Base, config: CacheConfig) -> dict[str, Any]:
    """What a cache is made of, as its JSON. Bases of equal text and image encoders may share one."""
    vae = {key: value for key, value in space.vae.config.items() if not key.startswith("_")}
    weights = sum(float(weight.double().abs().sum()) for weight in space.vae.state_dict().values())
    stamp = {
        "autoencoder": {**vae, "weights": f"{weights:.9e}"},
        "size": [space.height, space.width, space.spec.fps],
        "encoder": identity(encoder),
        "streams": dict(encoder.spec.streams),
        "base": {"text": base.text_width, "text_encoder": base.has_text_encoder, "image": base.image, "stills": base.stills},
        "config": asdict(config),
        "mouth": ["opening", "width"],
    }
    return json.loads(json.dumps(stamp, default=list))


def measured_scale(examples: Sequence[VideoExample]) -> IntensityScale | None:
    """What spreads are worth among these examples; None where too few faces were tracked to tell."""
    spreads = [spread for example in examples for spread in example.spreads()]
    try:
        return IntensityScale.measured(spreads)
    except ValueError:
        return None


def _speech(
    recording: Path, others: Sequence[Path], encoder: SpeechEncoder, rate_hz: float, disguises: int
) -> dict[str, Tensor]:
    """Features of a recording as it is and in disguises, at its own pace; some of the ``others`` talk in their background."""
    samples = load_sound(recording)
    found = {"speech": features(encoder, samples).resample(rate_hz).values[0]}
    rng = np.random.default_rng(others.index(recording))
    for number in range(1, disguises + 1):
        behind = [load_sound(others[i]) for i in rng.integers(len(others), size=2)]
        changed, stretch = disguise(samples, behind, rng)
        found[f"speech_{number}"] = features(encoder, changed).resample(rate_hz / stretch).values[0]
    return found


def _tensors(clip: VideoClip, space: VideoSpace, config: CacheConfig) -> dict[str, Tensor]:
    """Everything that pictures and landmarks tell, of as many pictures as make whole latents."""
    stride, first = space.spec.stride, space.spec.first
    count = first + (len(clip) - first) // stride * stride
    pictures, points = clip.pictures[:count], np.asarray(clip.points[:count])
    latents = space.encode(pictures)[0]
    size = (space.width, space.height)
    _, rows, columns = space.spec.event
    regions = find_regions(points, size, (rows, columns))
    mean, ever = (regions.per_latent(stride, over) for over in ("mean", "max"))
    tracked = np.flatnonzero(~np.isnan(points[:, 0, 0]))
    if not len(tracked):
        raise ValueError(f"the clip {clip.name} shows no face that was tracked: leave it out")
    shown = tracked[np.linspace(0, len(tracked) - 1, config.faces).round().astype(int)]
    return {
        "latents": latents.half(), "lips": mean.lips.half(), "face": mean.face.half(), "lips_ever": ever.lips.half(),
        "face_ever": (ever.lips + ever.face).half(), "known": mean.known,
        "skeleton": torch.from_numpy(track_skeletons(pictures) if config.bodies else head_joints(points, size)).half(),
        "mouth": torch.from_numpy(np.stack([lip_opening(points), mouth_width(points)], -1).astype(np.float32)),
        "spreads": torch.from_numpy(_spreads(points, len(latents), space, config)),
        "faces": torch.stack([face_latent(space, pictures[i], points[i]) for i in shown]).half(),
    }


def _spreads(points: Float[np.ndarray, "T 478 3"], latents: int, space: VideoSpace, config: CacheConfig) -> np.ndarray:
    """Expression and body about each latent, over ``config.seconds`` inside the clip; not a number where nothing was tracked."""
    span = round(config.seconds * space.spec.fps)
    found = np.full((latents, 2), np.nan, np.float32)
    for i in range(latents):
        start = max(0, min(space.spec.pictures(i + 1) - span // 2, len(points) - span))
        part = points[start : start + span]
        if (~np.isnan(part[:, 0, 0])).sum() >= FEWEST:
            spread = spread_of(part)
            found[i] = spread.expression, spread.body
    return found


def _common(
    out: Path, clips: Sequence[VideoClip], space: VideoSpace, encoder: SpeechEncoder, base: Base, config: CacheConfig,
    stamp: dict[str, Any], progress: Progress,
) -> None:
    """States of the prompt, or zeros where the base comes without a text encoder, silence, and what is seen of latents."""
    file = out / "common.safetensors"
    if file.exists():
        return
    second = features(encoder, torch.zeros(encoder.spec.sample_rate_hz)).values[0]
    tensors = {"silence": second[len(second) // 2].clone()}
    if base.has_text_encoder:
        states = text_states(base.path, [config.prompt, ""])
        tensors["text"] = states[:1].clone()
        if config.prompt:
            tensors["no_text"] = states[1:].clone()
    elif config.prompt:
        raise ValueError(f"{base.path} has no text encoder, so the prompt {config.prompt!r} says nothing to it: leave it out")
    else:
        tensors["text"] = torch.zeros(1, STATES if base.image else 1, base.text_width)
    if config.sight:
        spread = np.unique(np.linspace(0, len(clips) - 1, config.sight).round().astype(int))
        tensors["sight"] = measured_sight(space, [clips[i] for i in spread], SMALLER, progress)
    _written(file, lambda partial: save_file(tensors, partial, {"stamp": json.dumps(stamp)}))


def _written(file: Path, write: Any) -> None:
    """A file that is there is complete."""
    partial = file.with_suffix(".part")
    write(partial)
    partial.rename(file)


def mouths(example: VideoExample, span: slice) -> Float[Tensor, "t p 2"]:
    """Opening and width of the lips, in face heights, in each of a latent's four pictures. Not numbers where no face was tracked,
    and in the first latent of a clip, which has one picture."""
    first = max(span.start, 1)
    own = example.window("mouth", slice(1 + PICTURES * (first - 1), 1 + PICTURES * (span.stop - 1)))
    return torch.cat([torch.full((first - span.start, PICTURES, 2), torch.nan), own.reshape(-1, PICTURES, 2)])


def regions_of(example: VideoExample, span: slice) -> tuple[Regions, Float[Tensor, "t h w"], Float[Tensor, "t h w"]]:
    """Mean regions of a stretch's latents, and where lips and face are at some time of each latent."""
    known: Bool[Tensor, " t"] = example.window("known", span).bool()
    mean = Regions(lips=example.window("lips", span), face=example.window("face", span), known=known)
    return mean, example.window("lips_ever", span), example.window("face_ever", span)
