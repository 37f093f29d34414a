"""Inference with a pretrained video model: a portrait and speech in, frames out. The GPU's counterpart of `animate`.

    animator = VideoAnimator.load("Wan-AI/Wan2.2-TI2V-5B-Diffusers", Path("adapter.safetensors"), size=(512, 512), device="cuda",
                                  dtype=torch.bfloat16)
    for frame in animator.animate(Portrait.open("me.jpg"), Audio.open("speech.wav")): ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vivavoce.animate import HIGHEST_FPS, LOWEST_FPS, Animator, Controls
from vivavoce.components import load_part, module, part_folder, pipeline_folder, read_config, said
from vivavoce.generate_video import VideoGenerator
from vivavoce.latent.framing import HEAD_AND_SHOULDERS
from vivavoce.latent.prompts import STATES, image_states, text_states
from vivavoce.latent.regions import around, find_regions, speaker_masks
from vivavoce.latent.skeleton import driven_skeleton, find_skeleton
from vivavoce.latent.space import Frame
from vivavoce.latent.stills import face_latent
from vivavoce.latent.tiles import Tiling
from vivavoce.latent.tracker import FaceTracker, find_faces
from vivavoce.latent.video import VideoReference, VideoSpace
from vivavoce.media.audio import Audio
from vivavoce.media.portrait import Portrait
from vivavoce.nets.memory import Job, Offload, available_bytes, estimate, fits, refusal
from vivavoce.nets.sizes import Parts
from vivavoce.nets.video import VideoTransformer
from vivavoce.nets.video_parts import PartsConfig
from vivavoce.speech.encoder import SpeechEncoder, features
from vivavoce.speech.encoders import reopen
from vivavoce.speech.sound import at_rate
from vivavoce.video_scene import Scene, VideoWindows

DEFAULT_LONGEST = 512  # px: the longer side, unless asked otherwise
PER_PICTURE = 2  # speech features, as the levels of video take them
AROUND = 0.15  # sides of a face that belong to a speaker's place beside it
Progress = Callable[[str, int, int | None], None]
"""Told (what, done, total or None)."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model works and what waits elsewhere. ``offload``: "none" keeps all on the device; "model" only the network that is
    at work; "sequential" only its layers, one after the other, which takes longest. Encoders of text and pictures are let go as
    soon as they have answered; in "sequential" they answer on the processor."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    offload: Offload = "none"

    @property
    def encoders(self) -> torch.device:
        return torch.device("cpu") if self.offload == "sequential" else self.device

    def settle(self, network: nn.Module) -> None:
        """Put a network where it is between its works."""
        network.to(self.device if self.offload == "none" else "cpu")

    @contextmanager
    def working(self, network: nn.Module) -> Iterator[None]:
        """A network is on the device meanwhile."""
        network.to(self.device)
        try:
            yield
        finally:
            self.settle(network)


class VideoAnimator:
    """A loaded base with an adapter, for pictures of one size; shared by any number of videos, one at a time."""

    def __init__(
        self, base: str | Path, net: VideoTransformer, space: VideoSpace, windows: VideoWindows, place: Place, *,
        encoder: SpeechEncoder[Any] | None = None, silence: Float[Tensor, " w"] | None = None, prompt: str = "",
        framing: float = HEAD_AND_SHOULDERS,
    ):
        """``base``: where the encoders of text and pictures are; ``encoder``, ``silence``: for networks that hear; ``prompt``:
        what the network was trained with; ``framing``: how closely its pictures were cropped (`latent.framing.window`)."""
        self.base, self.net, self.space, self.windows, self.place = base, net, space, windows, place
        self.encoder, self.silence, self.prompt, self.framing = encoder, silence, prompt, framing
        place.settle(space.vae)
        if place.offload == "sequential":
            offload_layers(net, place.device)
        else:
            place.settle(net)

    @classmethod
    def load(
        cls, base: str | Path, adapter: Path | None = None, *, size: tuple[int, int], fps: float = 25.0,
        windows: VideoWindows | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
        offload: Offload = "none", tiling: bool = False, checkpoint: Path | None = None,
    ) -> VideoAnimator:
        """A base in diffusers' format, a folder or a name on the hub, and what `train video` taught it; without an adapter the
        base alone, which makes a video of the picture and the prompt and does not hear.

        ``size``: (width, height), px (see `size_of`). ``windows``: None for those that the adapter was trained with. ``dtype``:
        of the large networks, half precision on GPUs; the autoencoder is in single precision. ``checkpoint``: where the speech
        encoder lies now, if it is a pretrained one. Before any weights are read it is estimated whether they fit: ValueError
        with what would help, if not, and where files are missing or don't belong together.
        """
        module("diffusers")
        if not LOWEST_FPS <= fps <= HIGHEST_FPS:
            raise ValueError(f"{fps} pictures per second were asked for: give {LOWEST_FPS:.0f} to {HIGHEST_FPS:.0f}")
        told = {} if adapter is None else _metadata(adapter)
        windows = windows or adapter_windows(adapter)
        place = Place(device=torch.device(device), dtype=dtype, offload=offload)
        check_memory(base, adapter, size, windows, place, tiling=tiling)
        transformer = load_part(module("diffusers").WanTransformer3DModel, base, "transformer", dtype=dtype)
        if adapter is None:
            net = VideoTransformer(transformer, VideoTransformer.Config(parts=PartsConfig(levels=None)))
        else:
            net = VideoTransformer.load(transformer, adapter)
        net.own.to(dtype)
        space = VideoSpace.load(base, height=size[1], width=size[0], fps=fps, tiling=Tiling() if tiling else None)
        encoder, silence = None, None
        if net.config.parts.levels is not None:
            try:
                encoder, silence = reopen(told["encoder"], checkpoint=checkpoint), torch.tensor(json.loads(told["silence"]))
            except KeyError as error:
                raise ValueError(f"{adapter} does not say its {error.args[0]}: train the adapter with this version") from error
        own = {name: json.loads(told[name]) for name in ("prompt", "framing") if name in told}
        return cls(base, net, space, windows, place, encoder=encoder, silence=silence, **own)

    def animate(
        self, portrait: Portrait, audio: Audio | Mapping[int, Audio], *, prompt: str | None = None, negative: str = "",
        seed: int = 0, windows: VideoWindows | None = None, crop: bool = False, intensity: tuple[float, float] | None = None,
        guide: float = 0.0, animator: Animator | None = None, controls: Controls | None = None,
        progress: Progress = lambda _what, _done, _total: None,
    ) -> Generator[Frame, None, None]:
        """Frames (h, w, 3) uint8 RGB, round(duration * fps) of them; the first shows the portrait, as much of it as fits or
        cropped as the pictures were that the adapter was trained on (head and shoulders, for a base alone).

        ``audio``: speech, or that of each of several faces by its number, which the adapter hears each in its place. ``prompt``,
        ``negative``: what is to be seen (None: as the adapter was trained), and what not. ``windows``: instead of the animator's
        own. ``intensity``: of expression and body, 0 to 1, where the adapter knows it. ``guide``: 0 to less than 1, how far
        the video follows the one that ``animator`` (with ``controls``) makes of the same, from coarse to fine.

        Everything but the decoding is done before this returns. ValueError where something won't do.
        """
        if not 0 <= guide < 1:
            raise ValueError(f"a guide of {guide} was asked for: give 0 (none) to less than 1 (nothing but the guide)")
        if guide and animator is None:
            raise ValueError("a guide was asked for: give the animator that makes it")
        if intensity is not None and not self.net.config.parts.intensity:
            raise ValueError("this network was trained without a dial for intensity: leave it out")
        voices = [audio] if isinstance(audio, Audio) else list(audio.values())
        faces = [portrait.face or 0] if isinstance(audio, Audio) else list(audio)
        if len(voices) > 1 and self.encoder is None:
            raise ValueError(f"{len(voices)} voices were given, but the base alone hears none: give an adapter")
        seconds = max(voice.duration for voice in voices)
        if not seconds:
            raise ValueError("the sound has no samples: give a recording of speech")
        count = max(round(seconds * self.space.spec.fps), 1)
        text, no_text = self._text(self.prompt if prompt is None else prompt, negative, progress)
        with self.place.working(self.space.vae), torch.no_grad():
            reference = self.space.reference(portrait, crop=self.framing if crop else None)
            scene = Scene(
                event=self.space.spec.event, text=text, no_text=no_text, reference=reference,
                image=self._image(reference.picture), intensity=None if intensity is None else torch.tensor([intensity]),
            )
            scene = self._faces(scene, reference, faces, at_lips=(windows or self.windows).at_lips)
            if guide:
                assert animator is not None
                shown = f"{portrait.name}, at the video's {self.space.width} x {self.space.height} pixels,"
                scene = self._guided(scene, reference, animator.animate(
                    Portrait(image=reference.picture, name=shown), voices[0], fps=self.space.spec.fps, seed=seed,
                    size=max(self.space.width, self.space.height), controls=controls or Controls(),
                ), count, guide, progress)
        speech = [self._heard(voice, count) for voice in voices]
        generator = self._generator(windows or self.windows)
        with self._solving():
            latents = generator.whole(speech, scene, seed=seed, progress=lambda done, total: progress("solving", done, total))
        return self._decoded(latents, count)

    def _generator(self, windows: VideoWindows) -> VideoGenerator:
        return VideoGenerator(
            self.net, windows, silence=self.silence, space=self.space, device=self.place.device,
            watching=lambda: self.place.working(self.space.vae),
        )

    @contextmanager
    def _solving(self) -> Iterator[None]:
        if self.place.offload == "sequential":
            yield
        else:
            with self.place.working(self.net):
                yield

    def _decoded(self, latents: Float[Tensor, "1 t c h w"], count: int) -> Generator[Frame, None, None]:
        with self.place.working(self.space.vae):
            state, left = self.space.start(), count
            for latent in latents.split(1, 1):
                pictures, state = self.space.decode(latent, state)
                yield from pictures[:left]
                left -= min(left, len(pictures))

    def _text(
        self, prompt: str, negative: str, progress: Progress
    ) -> tuple[Float[Tensor, "1 n k"], Float[Tensor, "1 n k"] | None]:
        """States of both prompts; zeros where a folder comes without a text encoder, as `train video` has it."""
        folder = Path(self.base)
        if folder.is_dir() and not (folder / "text_encoder").is_dir():
            if prompt or negative:
                raise ValueError(f"{self.base} has no text encoder, so a prompt says nothing to it: leave it out")
            config = self.net.base.config
            return torch.zeros(1, 1 if config["image_dim"] is None else STATES, config["text_dim"]), None
        progress("reading the prompt", 0, 1)
        states = text_states(self.base, [prompt, negative], device=self.place.encoders, dtype=self.place.dtype).cpu()
        progress("reading the prompt", 1, 1)
        return states[:1], None if prompt == negative else states[1:]

    def _image(self, picture: Frame) -> Float[Tensor, "1 m i"] | None:
        if self.net.base.config["image_dim"] is None:
            return None
        return image_states(self.base, picture, device=self.place.encoders, dtype=self.place.dtype).cpu()

    def _faces(self, scene: Scene, reference: VideoReference, numbers: list[int], *, at_lips: bool) -> Scene:
        """The scene with who is seen, and where each speaker is, or one speaker's lips."""
        several, parts = len(numbers) > 1, self.net.config.parts
        if not several and not parts.identity and not at_lips:
            return scene
        found = find_faces(reference.picture)
        if not several and not found:
            return scene  # what is not seen is absent
        if missing := [number for number in numbers if not 0 <= number < len(found)]:
            raise ValueError(f"face {missing[0]} was to speak, but the picture shows {len(found)}: give numbers from 0 on")
        points = np.stack([found[number] for number in numbers])[:, None].astype(np.float64)
        _, rows, columns = self.space.spec.event
        size, grid = (self.space.width, self.space.height), (rows, columns)
        masks = speaker_masks(points, size, grid, outline="box", margin=AROUND)[:, 0]
        if several:
            return replace(scene, masks=tuple(masks.unbind()))
        if at_lips:
            scene = replace(scene, lips=around(find_regions(points[0], size, grid).lips[0]))
        if not parts.identity:
            return scene
        return replace(scene, face=face_latent(self.space, reference.picture, points[0, 0])[None], face_mask=masks[0])

    def _guided(
        self, scene: Scene, reference: VideoReference, frames: Iterator[Frame], count: int, guide: float, progress: Progress
    ) -> Scene:
        """The scene with latents of another video, which is not kept, and, where the network takes one, its skeleton."""
        state, latents, points, last = self.space.start_encoding(), [], [], reference.picture
        joints, stride = self.net.config.parts.joints, self.space.spec.stride
        with FaceTracker() as tracker:
            for i in range(count + -(count - 1) % stride):  # to the end of the last latent its last picture stays
                last = next(frames, last)
                if joints:
                    seen = tracker(last)
                    points.append(np.full((478, 3), np.nan) if seen is None else seen)
                latent, state = self.space.encode_more([last], state)
                latents.append(latent.cpu())
                progress("making the guide", min(i + 1, count), count)
        scene = replace(scene, guide=torch.cat(latents, 1), begin=guide)
        still = find_skeleton(reference.picture) if joints else None
        if still is None:
            return scene
        rest, size = find_faces(reference.picture)[0].astype(np.float64), (self.space.width, self.space.height)
        skeleton = driven_skeleton(still, np.stack(points).astype(np.float64), rest, size)[:, :joints]
        return replace(scene, skeleton=torch.from_numpy(skeleton))

    def _heard(self, voice: Audio, pictures: int) -> Float[Tensor, "s w"]:
        """Features of speech for so many pictures; behind a shorter voice there is silence."""
        if self.encoder is None or self.silence is None:
            return torch.zeros(PER_PICTURE * pictures, 0)
        own = features(self.encoder, at_rate(voice)).resample(PER_PICTURE * self.space.spec.fps).values[0]
        own = own[: PER_PICTURE * pictures]
        return torch.cat([own, self.silence.expand(PER_PICTURE * pictures - len(own), -1)])


def size_of(base: str | Path, shape: tuple[int, ...], *, longest: int = DEFAULT_LONGEST, crop: bool = False) -> tuple[int, int]:
    """(width, height) of a video of a picture of that shape: its aspect (a square for a crop), in steps that the base takes."""
    autoencoder, transformer = (read_config(part_folder(pipeline_folder(base), part)) for part in ("vae", "transformer"))
    step = autoencoder.get("scale_factor_spatial", 8) * max(transformer["patch_size"][1:])
    if longest < step:
        raise ValueError(f"a video of {longest} pixels was asked for: give {step} or more")
    height, width = (1, 1) if crop else shape[:2]
    scale = longest / max(height, width)
    return max(round(width * scale / step), 1) * step, max(round(height * scale / step), 1) * step


def adapter_windows(adapter: Path | None) -> VideoWindows:
    """The windows that an adapter was trained with, made as it recommends; without one those that suit a base. ValueError where
    it can't be read."""
    told = {} if adapter is None else _metadata(adapter)
    if "window" not in told:
        return VideoWindows()
    trained = json.loads(told["window"])
    own = {
        "latents": trained["latents"], "prefix": min(trained["prefix"], trained["latents"] - 2), "opening": False,
        "held": trained.get("held", False), **json.loads(told.get("generation", "{}")),
    }
    return VideoWindows(**own)


def adapter_side(adapter: Path | None) -> int | None:
    """The longer side of the pictures that an adapter was trained on, px, where it says so."""
    told = {} if adapter is None else _metadata(adapter)
    if "latents" not in told:
        return None
    latents = json.loads(told["latents"])
    return max(latents["height"], latents["width"])


def check_memory(
    base: str | Path, adapter: Path | None, size: tuple[int, int], windows: VideoWindows, place: Place, *, tiling: bool = False
) -> None:
    """ValueError, with what would help, where a base does not fit at that size. Reads headers of files only."""
    heard = ("speech",) if adapter is not None else ()
    terms = 1 + sum(scale != 1 for name, scale in windows.guidance.items() if name in ("text", "reference", *heard))
    job = Job(
        width=size[0], height=size[1], pictures=1 + 4 * (windows.latents - 1), terms=terms, dtype=place.dtype,
        vae_dtype=torch.float32, tiling=tiling, offload=place.offload,
    )
    parts = Parts.of_folder(pipeline_folder(base), adapter=adapter)
    available = available_bytes(place.device)
    host = None if place.device.type == "cpu" or place.offload == "none" else available_bytes(torch.device("cpu"))
    if not fits(estimate(parts, job, place.device), available, host):
        raise ValueError(refusal(parts, job, place.device, available, name=str(base), host=host))


def offload_layers(net: VideoTransformer, device: torch.device, *, folder: Path | None = None) -> None:
    """The base's layers come to the device one by one as they are called, and go back; what is ours stays there. ``folder``: they
    go to files in it instead of main memory.

    Its children are hooked, not the base: a `VideoTransformer` never calls the whole.
    """
    offloading = module("diffusers.hooks").apply_group_offloading
    for child in net.base.children():
        for part in child if isinstance(child, nn.ModuleList) else (child,):
            offloading(
                part, onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level",
                offload_to_disk_path=None if folder is None else str(folder / f"{id(part)}"),
            )
    net.base.scale_shift_table.data = net.base.scale_shift_table.data.to(device)
    net.own.to(device)


def _metadata(adapter: Path) -> dict[str, str]:
    if not adapter.is_file():
        raise ValueError(f"there is no adapter {adapter}: give the file that train video wrote")
    try:
        with safe_open(adapter, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the adapter {adapter} can't be read ({said(error)}): give the file that train video wrote") from error
