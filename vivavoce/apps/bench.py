"""`vivavoce bench render`: how fast portraits are rendered and encoded here, where time goes, and how fast it could be at best.

The demo's portrait speaks the demo's sentence. Motion is made first, so that what is timed is rendering and encoding alone; each
size is measured in a fresh process, whose start, first frame and memory are therefore those of a user's first command.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float

from vivavoce.apps.stages import Stages, peak, thread_seconds

if TYPE_CHECKING:
    from vivavoce.animate import Animator
    from vivavoce.latent.motion_space import Reference

FPS = 25.0
CORES = 2
STAGES = (
    "geometry", "maps", "resampling", "drawing", "looking", "waiting for the network", "correcting", "rest of rendering",
    "encoding",
)


def measure(sizes: Sequence[int], frames: int, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Figures by size. ValueError for sizes that no picture has."""
    from vivavoce.animate import LARGEST_SIZE, SMALLEST_SIZE

    for size in sizes:
        if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
            raise ValueError(f"a picture of {size} pixels was asked for: give sizes from {SMALLEST_SIZE} to {LARGEST_SIZE}")
    if frames < 2:
        raise ValueError(f"{frames} frames were asked for: give at least 2")
    result: dict[str, Any] = {"cores": min(CORES, len(os.sched_getaffinity(0))), "frames": frames, "sizes": {}}
    context = get_context("spawn")
    for i, size in enumerate(sizes):
        progress("measuring", i, len(sizes))
        with context.Pool(1) as pool:
            result["sizes"][str(size)] = pool.apply(_measured, (size, frames, time.time()))
    progress("measuring", len(sizes), len(sizes))
    return result


def table(result: dict[str, Any]) -> str:
    """For people."""
    sizes = result["sizes"]
    lines = [f"{'':34}" + "".join(f"{size + ' px':>12}" for size in sizes)]

    def row(name: str, value: Callable[[dict[str, Any]], float], digits: int) -> None:
        lines.append(f"{name:34}" + "".join(f"{value(found):12.{digits}f}" for found in sizes.values()))

    row("frames per second", lambda f: f["frames_per_second"], 1)
    row("floor: remap and H.264, frames/s", lambda f: f["floor_frames_per_second"], 1)
    row("time over the floor's", lambda f: f["over_floor"], 2)
    for stage in STAGES:
        row(f"  {stage}, ms", lambda f, name=stage: f["milliseconds"][name], 2)  # type: ignore[misc]
    row("start: imports and models, s", lambda f: f["start_seconds"], 2)
    row("unseen portrait to first frame, s", lambda f: f["first_frame_seconds"], 2)
    row("  of which preparing it, s", lambda f: f["prepare_seconds"], 2)
    row("peak memory, MiB", lambda f: f["peak_mib"], 0)
    return "\n".join([*lines, f"{result['cores']} cores, {result['frames']} frames of the demo's portrait and sentence"])


def _measured(size: int, frames: int, asked: float) -> dict[str, Any]:
    """In a fresh process: everything about one size."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    import skimage.data
    import torch

    from vivavoce.animate import AHEAD, Animator
    from vivavoce.media.portrait import Portrait

    torch.set_num_threads(1)
    animator = Animator.load()
    began = time.time()
    portrait = Portrait(image=skimage.data.astronaut(), name="astronaut")
    reference = animator.prepare(portrait, size=size, crop=True)
    prepared = time.time()
    painter = animator.space.painter(reference, ahead=AHEAD)
    rest = animator.space.landmarks(animator.space.layout.unpack(torch.zeros(1, animator.space.layout.width)), reference)
    next(painter.paint(rest))
    first = time.time()
    marks = _spoken(animator, reference)
    shown = list(islice(cycle([*marks, *marks[::-1]]), frames))
    peak_mib = 0.0
    with tempfile.TemporaryDirectory() as folder:
        stages = Stages()
        _watch(stages)
        seconds, encoding = _write(Path(folder) / "made.mp4", size, painter.paint(shown))
        peak_mib = peak()
        picture, maps = reference.canvas, _drifting(size)
        still = (cv2.remap(picture, *maps(i), cv2.INTER_CUBIC) for i in range(frames))
        floor, _ = _write(Path(folder) / "floor.mp4", size, still)
    milliseconds = {name: 1000 * stages.wall.get(name, 0.0) / frames for name in STAGES}
    inside = sum(milliseconds[name] for name in STAGES[:-2])
    milliseconds["rest of rendering"] = 1000 * stages.wall["rendering"] / frames - inside
    milliseconds["encoding"] = 1000 * encoding / frames
    return {
        "frames_per_second": frames / seconds, "floor_frames_per_second": frames / floor, "over_floor": seconds / floor,
        "milliseconds": milliseconds, "start_seconds": began - asked, "prepare_seconds": prepared - began,
        "first_frame_seconds": first - began, "peak_mib": peak_mib,
    }


def _spoken(animator: Animator, reference: Reference) -> Float[np.ndarray, "t 478 3"]:
    """Landmarks of the portrait saying the demo's sentence."""
    from vivavoce.apps.commands import DEMO_SENTENCE
    from vivavoce.latent.blink import Blinks
    from vivavoce.media.audio import Resampler, concatenate
    from vivavoce.media.speak import speak
    from vivavoce.speech.encoder import SAMPLE_RATE_HZ, features

    speech = speak(DEMO_SENTENCE, voice="en")
    resampler = Resampler(speech.rate, SAMPLE_RATE_HZ)
    sound = concatenate([resampler.push(speech), resampler.finish()]).samples[0]
    (packed,) = animator.generator.samples(features(animator.encoder, sound).values, [0])
    space = animator.space
    motion = space.layout.unpack(animator.generator.around_rest(packed.float()))
    closure = Blinks(space.model.blink_profile, seed=0).closure(0, len(motion))
    return space.landmarks(space.with_blinks(motion, closure, reference.lids), reference)


def _watch(stages: Stages) -> None:
    """Time the methods that rendering consists of; those of `Renderer` lie inside those of `Painter`, which
    waits for the network: that has a thread of its own."""
    from vivavoce.latent.motion_space import Painter
    from vivavoce.latent.warp import Renderer

    for name, stage in (
        ("geometry", "geometry"), ("_rasterise", "maps"), ("_resample", "resampling"), ("_draw", "drawing"), ("_look", "looking"),
        ("finish", "correcting"),
    ):
        stages.watch(Renderer, name, stage)
    stages.watch(Painter, "_refined", "waiting for the network")
    stages.watch(Painter, "begin", "rendering")
    stages.watch(Painter, "take", "rendering")


def _write(path: Path, size: int, pictures: Iterable[np.ndarray]) -> tuple[float, float]:
    """Seconds on the clock to write a video of these pictures, and of the encoder's processor time."""
    from vivavoce.media.video import VideoWriter

    before, began, process = thread_seconds(), time.perf_counter(), time.process_time()
    with VideoWriter(path, fps=FPS, size=(size, size)) as writer:
        for picture in pictures:
            writer.write(picture)
    seconds = time.perf_counter() - began
    others = sum(spent - before[thread] for thread, spent in thread_seconds().items() if thread in before)
    return seconds, max(time.process_time() - process - others, 0.0)  # the encoder's thread came and went


def _drifting(size: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Maps of the floor: the picture shifted by less than a pixel, another one for every frame."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    shifts = [0.37 * np.sin(0.2 * i) for i in range(32)]
    ready = [(columns + np.float32(s), rows) for s in shifts]
    return lambda i: ready[i % len(ready)]
