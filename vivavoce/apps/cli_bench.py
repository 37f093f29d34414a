"""Options of `vivavoce bench`. What the commands do is in `commands_bench.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from tyro.conf import arg, subcommand

from vivavoce.apps.cli_base import Data, Figures, Folder, Recordings, SplitRecordings, Watching, Weights


@dataclass(frozen=True, kw_only=True)
class BenchSpeech(SplitRecordings):
    """What parts of the hearing are worth: train the motion network without each of them, and compare. Takes hours."""

    output: Folder
    """Folder for prepared recordings, runs and the table; what is finished there already is not done again."""
    steps: Annotated[int, arg(metavar="N")] = 1500
    """Updates of the weights in each run."""
    seeds: Annotated[int, arg(metavar="N")] = 2
    """Runs of each variant."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_bench

        return commands_bench.bench_speech


@dataclass(frozen=True, kw_only=True)
class BenchPost(SplitRecordings):
    """What ways of post-training are worth: each from the same weights on the same recordings, compared. Takes hours."""

    output: Folder
    """Folder for prepared recordings, rollouts, runs, tables and plots; what is finished there already is not done again."""
    weights: Weights = None
    """Weights that all begin with, as `train motion` wrote them."""
    steps: Annotated[int, arg(metavar="N")] = 150
    """Updates of the weights in each run."""
    seeds: Annotated[int, arg(metavar="N")] = 3
    """Runs of each way."""
    ways: Annotated[tuple[str, ...], arg(metavar="WAY", help_behavior_hint="(default: all)")] = ()
    """Only these: sft, ladder, ladder-own, forward, ..., as docs/post-training.md lists them."""
    stretches: Annotated[int, arg(metavar="N")] = 240
    """Recorded stretches that are rolled out."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_bench

        return commands_bench.bench_post


@dataclass(frozen=True, kw_only=True)
class BenchRender(Figures):
    """How fast pictures are made here, and where the time goes. Takes about two minutes."""

    sizes: Annotated[tuple[int, ...], arg(metavar="PIXELS")] = (256, 512, 1024)
    """Sides of the pictures."""
    frames: Annotated[int, arg(metavar="N")] = 250
    """Frames to make of each size."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_bench

        return commands_bench.bench_render


@dataclass(frozen=True, kw_only=True)
class BenchLive(Figures):
    """How live it is here: delays, jitter, late frames, load and memory of a server that is spoken to in real time."""

    sizes: Annotated[tuple[int, ...], arg(metavar="PIXELS")] = (256, 512)
    """Sides of the pictures."""
    sessions: Annotated[tuple[int, ...], arg(metavar="N")] = (1, 2, 4, 8)
    """Numbers of sessions at once."""
    seconds: Annotated[float, arg(metavar="S")] = 20.0
    """How long each number of sessions is watched."""
    speech: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the demonstration's sentence)")] = None
    """Recorded speech to play."""
    soak: Annotated[float | None, arg(metavar="S", help_behavior_hint="")] = None
    """Instead, watch one session of the first size for so many seconds."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_bench

        return commands_bench.bench_live


@dataclass(frozen=True, kw_only=True)
class BenchVideo(Figures):
    """How fast the video engine's bases are here, and what they need: at their real sizes, with random weights and no files.

    On a processor only a tiny base, which says that everything runs and nothing about the real ones.
    """

    bases: Annotated[tuple[str, ...], arg(metavar="NAME", help_behavior_hint="(default: all)")] = ()
    """Only these: wan2.2-ti2v-5b, wan2.1-t2v-1.3b, wan2.1-i2v-14b-480p."""
    shape: Annotated[
        tuple[int, int, int] | None, arg(metavar="WIDTH HEIGHT PICTURES", help_behavior_hint="(default: each base's own)")
    ] = None
    """Size of the pictures, and how many are made at once."""
    steps: Annotated[int, arg(metavar="N")] = 4
    """Solver steps that are timed, the first of them apart."""
    device: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: cuda where there is one, else cpu)")] = None
    """Where, such as cuda, cuda:1 or cpu."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_video

        return commands_video.bench_video


@dataclass(frozen=True, kw_only=True)
class BenchVideoParts(SplitRecordings):
    """What parts of the video engine are worth: a tiny base is trained, taught to speak in several ways, and judged. Takes hours.

    Needs pip install 'vivavoce[video]'.
    """

    output: Folder
    """Folder for clips, latents, runs, videos and the report; what is finished there already is not done again."""
    vae: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: one is trained)")] = None
    """Finished autoencoder of video, as `vivavoce train video-vae` writes it."""
    base: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: one is trained)")] = None
    """Finished base with its autoencoder, which all ways begin from; tiny: the one that ships."""
    base_steps: Annotated[int, arg(metavar="N")] = 1800
    """Updates of the base, which learns how heads move."""
    steps: Annotated[int, arg(metavar="N")] = 1500
    """Updates of each way, which learns to speak."""
    post_steps: Annotated[int, arg(metavar="N")] = 100
    """Updates of the ways that post-train."""
    exchanged: Annotated[float, arg(metavar="MINUTES")] = 8.0
    """Of training video in which people say what others said, made by the motion engine's renderer."""
    taught: Annotated[float, arg(metavar="MINUTES")] = 25.0
    """Of training video in which the motion engine has people say what they never said, from the data's speech/ too."""
    seeds: Annotated[int, arg(metavar="N")] = 1
    """Runs of each way."""
    ways: Annotated[tuple[str, ...], arg(metavar="WAY", help_behavior_hint="(default: all)")] = ()
    """Only these: full, one-level, attention, pooled, ..., as docs/video.md lists them."""

    def check(self) -> None:
        super().check()
        if self.vae is not None and self.base is not None:
            raise ValueError("--vae and --base were both given: a base has its own autoencoder, so leave --vae out")

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_video

        return commands_video.bench_video_parts


@dataclass(frozen=True, kw_only=True)
class BenchBaselines(Watching, SplitRecordings):
    """The engine beside the recording, simple rules, and other clips' sound, in one table; says whether they stand in order.

    Takes an hour on two cores; goes on where it was stopped. If `rhubarb` is on the PATH, its mouth shapes are in the table too.
    """

    most: Annotated[int, arg(metavar="N")] = 6
    """Recordings of one person at most."""
    people: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """People at most."""
    document: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Write the table there as well, as baselines.md."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_bench

        return commands_bench.bench_baselines


@dataclass(frozen=True, kw_only=True)
class BenchMetrics(Watching, Recordings):
    """Whether figures see what they are meant to see: recordings are damaged by degrees and judged.

    Takes an hour on two cores; goes on where it was stopped.
    """

    data: Data
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it; it needs the split val."""
    output: Folder
    """Folder for videos, report, metrics.md and its plots; what is finished there already is not done again."""
    people: Annotated[int, arg(metavar="N")] = 6
    """People; one recording each. Two more whose words are known are added."""
    document: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Write metrics.md and its plots there as well."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_bench

        return commands_bench.bench_metrics


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure what parts of the system are worth, or how fast it is here."""

    what: (
        Annotated[BenchSpeech, subcommand("speech")]
        | Annotated[BenchPost, subcommand("post")]
        | Annotated[BenchRender, subcommand("render")]
        | Annotated[BenchLive, subcommand("live")]
        | Annotated[BenchVideo, subcommand("video")]
        | Annotated[BenchVideoParts, subcommand("video-parts")]
        | Annotated[BenchBaselines, subcommand("baselines")]
        | Annotated[BenchMetrics, subcommand("metrics")]
    )

    def run(self) -> None:
        self.what.run()
