"""What `animate --engine wan` and `bench video` do. Imports heavy modules, so it comes after the options."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vivavoce.animate import Animator, Controls
from vivavoce.animate_video import DEFAULT_LONGEST, VideoAnimator, adapter_side, adapter_windows, size_of
from vivavoce.apps import interrupt
from vivavoce.apps.cli_video import TINY, Wan
from vivavoce.apps.parts import shipped
from vivavoce.apps.progress import Bar, Lines, reporter
from vivavoce.components import module
from vivavoce.latent.space import Frame
from vivavoce.media.audio import Audio, probe_audio
from vivavoce.media.files import check_writable, require_file
from vivavoce.media.portrait import Portrait
from vivavoce.media.speak import speak
from vivavoce.media.video import VideoWriter, check_output
from vivavoce.video_scene import VideoWindows

if TYPE_CHECKING:
    from vivavoce.apps import cli, cli_bench


def animate(options: cli.Animate) -> None:
    """A portrait speaks by a pretrained video model."""
    render, wan, engine = options.render, options.wan, _engine(options.wan)
    check_output(options.output, render.overwrite)
    portrait = Portrait.open(options.portrait, face=render.face)
    sound: Audio | Path
    if options.text is not None:
        speech = sound = speak(options.text, voice=options.voice)
    else:
        assert options.speech is not None
        probe_audio(options.speech)  # a silent recording is refused before anything is loaded
        speech, sound = Audio.open(options.speech), options.speech
    device = device_of(wan.device)
    windows = _windows(options, engine.adapter)
    crop = render.crop or engine.close
    longest = render.size or adapter_side(engine.adapter) or DEFAULT_LONGEST
    size = size_of(engine.base, portrait.image.shape, longest=longest, crop=crop)
    started = time.monotonic()
    with reporter() as report:
        if engine.adapter is None:
            report.say("no --adapter was given: the base alone makes the picture move, and does not hear the speech")
        report("loading", 0, None)
        animator = VideoAnimator.load(
            engine.base, engine.adapter, size=size, fps=render.fps, windows=windows, device=device,
            dtype=torch.float32 if device.type == "cpu" else torch.bfloat16, offload=wan.offload or "none", tiling=wan.tiling,
        )
        frames = animator.animate(
            portrait, speech, prompt=wan.prompt, negative=wan.negative or "", seed=options.seed, crop=crop,
            intensity=wan.intensity, guide=wan.guide or 0.0, animator=Animator.load() if wan.guide else None,
            controls=Controls(expression=render.expression, head=render.head, blink=render.blink, gaze=render.gaze),
            progress=report,
        )
        count = _write(
            frames, options.output, fps=render.fps, sound=sound, total=max(round(speech.duration * render.fps), 1), report=report,
            overwrite=render.overwrite,
        )
    spent, (width, height) = time.monotonic() - started, size
    print(f"{options.output}: {count} frames of {width}x{height}, {count / render.fps:.1f} s, made in {spent:.1f} s")


def bench_video(options: cli_bench.BenchVideo) -> None:
    """Step time, memory and frames per second of each base at its real size, with random weights."""
    from vivavoce.apps import bench_video as bench

    if options.output is not None:
        check_writable(options.output, (".json",), options.overwrite)
    with reporter() as report:
        result = bench.measure(device_of(options.device), options.bases, options.steps, options.shape, report)
    print(bench.table(result))
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{options.output}: written")


def bench_video_parts(options: cli_bench.BenchVideoParts) -> None:
    """The study of the video engine's parts, which goes on where an earlier one in the same folder stopped."""
    from vivavoce.apps import bench_video_parts as told
    from vivavoce.train.data import read_manifest
    from vivavoce.train.recorded import speech_without_pictures
    from vivavoce.train.video_faces import Exchange
    from vivavoce.train.video_loop import make_accelerator
    from vivavoce.train.video_study import WAYS, Study, study
    from vivavoce.train.video_teacher import Teaching

    if options.vae is not None:
        require_file(options.vae / "config.json", "autoencoder")
    given = None
    if options.base is not None:
        given = _tiny() if options.base == TINY else Path(options.base)
        require_file(given / "transformer" / "config.json", "base")
    recordings = [clip for split in ("train", "val") for clip in read_manifest(options.data, split)]
    plan = Study(
        out=options.output, vae=options.vae, given=given, base_steps=options.base_steps, steps=options.steps,
        post_steps=options.post_steps, seeds=options.seeds, ways=options.ways or tuple(WAYS),
        exchange=Exchange(seconds=60 * options.exchanged), teaching=Teaching(seconds=60 * options.taught),
    )
    sounds = speech_without_pictures(options.data)
    torch.set_num_threads(1)
    accelerator = make_accelerator("bf16" if torch.cpu._is_avx512_bf16_supported() else "no")
    with reporter() as report:
        found = study(plan, recordings, sounds, Animator.load(), accelerator, report, report.say)
    text = f"{told.table(found)}\n{told.intensities(found.judged)}"
    print(text, end="")
    file = options.output / "video-parts.md"
    file.write_text(text)
    print(f"{file}: written")


def device_of(name: str | None) -> torch.device:
    """The device of that name; None: the GPU, where there is one. ValueError where there is no such device."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device {name!r}: give cuda, cuda:1 or cpu") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"the device {name} is not supported: give cuda, cuda:1 or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"the device {name} is not there: torch sees {torch.cuda.device_count()} GPUs")
    return device


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """``close``: it knows faces from near only."""

    base: str | Path
    adapter: Path | None
    close: bool = False


def _engine(wan: Wan) -> _Engine:
    """What makes the video, by the name that was given."""
    assert wan.base is not None  # Animate.check saw to it
    if wan.base != TINY:
        return _Engine(base=wan.base, adapter=wan.adapter)
    module("diffusers")  # is refused before the memory is estimated
    folder = _tiny()
    return _Engine(base=folder, adapter=wan.adapter or folder / "adapter.safetensors", close=True)


def _tiny() -> Path:
    """The base of our own."""
    return shipped() / "video"


def _windows(options: cli.Animate, adapter: Path | None) -> VideoWindows:
    """Those that the adapter was trained with, as far as nothing else is asked."""
    wan, windows = options.wan, adapter_windows(adapter)
    asked = {"text": wan.text_guidance, "reference": wan.image_guidance, "speech": options.guidance}
    scales = {name: windows.guidance.get(name) if scale is None else scale for name, scale in asked.items()}
    for name, scale in scales.items():
        if scale is not None and not 0 <= scale <= 20:
            raise ValueError(f"a guidance of {scale:g} by the {name} was asked for: give 0 to 20; 1 is none")
    windows = replace(windows, guidance={name: scale for name, scale in scales.items() if scale is not None})
    if wan.steps is not None:
        windows = replace(windows, steps=wan.steps)
    return windows if wan.length is None else replace(windows, length=wan.length)


def _write(
    frames: Generator[Frame, None, None], output: Path, *, fps: float, sound: Audio | Path, total: int, report: Bar | Lines,
    overwrite: bool,
) -> int:
    """Frames to a video that appears when it is complete; how many there were."""
    count = 0
    with closing(frames) as left:
        first = next(left)
        height, width = first.shape[:2]
        with VideoWriter(output, fps=fps, size=(width, height), sound=sound, overwrite=overwrite) as writer:
            for frame in chain([first], left):
                writer.write(frame)
                count += 1
                report("writing", count, total)
            writer.finish()
            interrupt.check()
    return count
