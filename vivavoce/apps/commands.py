"""What the commands of the command line do: open, run, write. Imports heavy modules, so it comes after the options.

Those of `train` and `bench` are in `commands_train.py` and `commands_bench.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import skimage.data
import torch

from vivavoce.animate import Animator, Controls
from vivavoce.apps import export, interrupt
from vivavoce.apps.parts import shipped
from vivavoce.apps.progress import reporter, shown
from vivavoce.media.audio import Audio, has_sound, probe_audio, read_audio
from vivavoce.media.files import check_writable
from vivavoce.media.portrait import Portrait
from vivavoce.media.speak import speak
from vivavoce.media.video import VideoWriter, check_output, read_frames, video_seconds

if TYPE_CHECKING:
    from vivavoce.apps import cli

DEMO_SENTENCE = "Hello! I am a portrait, and this is my voice. One picture and a few words are all that I need to speak."


def demo(options: cli.Demo) -> None:
    """The main job on a picture and a voice that every installation has."""
    check_output(options.output, options.overwrite)
    speech = speak(DEMO_SENTENCE, voice="en")
    portrait = Portrait(image=skimage.data.astronaut(), name="astronaut")
    frames = load_animator().animate(portrait, speech)
    _write(frames, options.output, fps=25.0, sound=speech, seconds=speech.duration, overwrite=options.overwrite)


def animate(options: cli.Animate) -> None:
    """A portrait speaks a recording, which is read in blocks, or a text."""
    render = options.render
    check_output(options.output, render.overwrite)
    portrait = Portrait.open(options.portrait, face=render.face)
    speech: Audio | Iterable[Audio]
    sound: Audio | Path
    if options.text is not None:
        speech = sound = speak(options.text, voice=options.voice)
        seconds = speech.duration
    else:
        assert options.speech is not None  # Animate.check saw to it
        sound, seconds = options.speech, probe_audio(options.speech).duration_seconds
        speech = read_audio(options.speech)
    frames = load_animator().animate(
        portrait, speech, fps=render.fps, size=render.size, crop=render.crop, seed=options.seed, guidance=options.guidance,
        controls=Controls(expression=render.expression, head=render.head, blink=render.blink, gaze=render.gaze),
    )
    _write(frames, options.output, fps=render.fps, sound=sound, seconds=seconds, overwrite=render.overwrite)


def drive(options: cli.Drive) -> None:
    """A portrait moves as a recorded face does."""
    render = options.render
    check_output(options.output, render.overwrite)
    portrait, seconds = Portrait.open(options.portrait, face=render.face), video_seconds(options.video)
    animator = load_animator()
    rate = animator.space.spec.fps
    recorded = shown(read_frames(options.video, rate), total=_count(seconds, rate), what="tracking")
    controls = Controls(expression=render.expression, head=render.head, gaze=render.gaze)
    frames = animator.drive(portrait, recorded, fps=render.fps, size=render.size, crop=render.crop, controls=controls)
    sound = options.video if has_sound(options.video) else None
    _write(frames, options.output, fps=render.fps, sound=sound, seconds=seconds, overwrite=render.overwrite)


def track(options: cli.Track) -> None:
    """The motion of a recorded face, as a table."""
    check_writable(options.output, export.SUFFIXES, options.overwrite)
    seconds = video_seconds(options.video)
    space = load_animator().space
    rate = space.spec.fps
    with closing(shown(read_frames(options.video, rate), total=_count(seconds, rate), what="tracking")) as frames:
        latents = space.encode(frames)
    interrupt.check()
    export.write_table(options.output, space.layout.unpack(latents[0]), rate)
    print(f"{options.output}: {latents.shape[1]} frames at {rate:g} per second")


def inspect_levels(options: cli.Inspect) -> None:
    """Which block listens to which level."""
    from vivavoce.apps import inspect

    if options.output is not None:
        check_writable(options.output, inspect.SUFFIXES, options.overwrite)
    net = inspect.load_network(options.weights or shipped())
    print(inspect.level_table(net))
    if options.output is not None:
        inspect.plot_levels(net, options.output)
        print(f"{options.output}: drawn")


def evaluate(options: cli.Evaluate) -> None:
    """Judges, and says where the report is and what it says in short."""
    from vivavoce.judge.evaluation import Options
    from vivavoce.judge.evaluation import evaluate as judge
    from vivavoce.judge.pairs import read_pairs
    from vivavoce.judge.published import Weights, published
    from vivavoce.judge.report import KEPT
    from vivavoce.judge.sets import SETS
    from vivavoce.judge.standard import absent
    from vivavoce.judge.words import counted, short_table

    pairs = read_pairs(options.pairs)
    standard, figures, sets = published(Weights(**vars(options.networks)), options.output / KEPT)
    torch.set_num_threads(1)
    with reporter() as report:
        found = judge(
            pairs, options.output, options=Options(rewards=options.rewards, seed=options.seed, notes=tuple(absent(standard))),
            further=figures, sets=(*SETS, *sets), progress=report,
        )
    print(short_table(found))
    for row in found.rows:
        if row.problem:
            print(f"not judged: {row.pair.name} ({row.pair.system}): {row.problem}")
    print(counted(found))
    print(f"{options.output / 'index.html'}: written")


def load_animator() -> Animator:
    """The shipped models, on one thread: the network is so small that a second would wait, and the encoder wants its core."""
    torch.set_num_threads(1)
    return Animator.load()


def _write(
    frames: Iterator[np.ndarray], output: Path, *, fps: float, sound: Audio | Path | None, seconds: float | None, overwrite: bool
) -> None:
    """Frames to a video that appears when it is complete. The portrait is examined before the file is begun."""
    started = time.monotonic()
    count = 0
    # Closed here, not when the garbage collector comes by: an error message must not meet a bar that is still being drawn.
    with closing(shown(frames, total=_count(seconds, fps), what="rendering")) as progress:
        first = next(progress)
        height, width = first.shape[:2]
        with VideoWriter(output, fps=fps, size=(width, height), sound=sound, overwrite=overwrite) as writer:
            for frame in chain([first], progress):
                writer.write(frame)
                count += 1
            writer.finish()
            interrupt.check()
            width, height = writer.size
    spent = time.monotonic() - started
    print(f"{output}: {count} frames of {width}x{height}, {count / fps:.1f} s, made in {spent:.1f} s")


def _count(seconds: float | None, rate: float) -> int | None:
    return None if seconds is None else round(seconds * rate)
