"""The command line: options, and what happens when a command fails. The commands themselves are in `commands.py`.

Only light modules are imported here, so that ``vivavoce --help`` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from vivavoce.apps import interrupt
from vivavoce.apps.errors import FAILED, OK, TERMINATED, explain
from vivavoce.apps.options import mistake

Picture = Annotated[Positional[Path], arg(metavar="PORTRAIT", help_behavior_hint="")]
Recording = Annotated[Positional[Path], arg(metavar="VIDEO", help_behavior_hint="")]
SIZE_HINT = "(default: the picture's own, 1280 at most; with --crop 512)"
Output = Annotated[Path, arg(aliases=["-o"], metavar="OUT.mp4")]


@dataclass(frozen=True, kw_only=True)
class Render:
    """What every command that makes a video takes."""

    fps: Annotated[float, arg(metavar="10-60")] = 25.0
    """Frames per second of the video."""
    size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint=SIZE_HINT)] = None
    """Longer side of the video."""
    crop: bool = False
    """Show head and shoulders only, as a square."""
    face: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 0)")] = None
    """Which face moves, counted from 0, the largest first."""
    overwrite: bool = False
    """Replace the output if it exists."""
    head: Annotated[float, arg(metavar="0-3")] = 1.0
    """Strength of the head's movement."""
    gaze: Annotated[float, arg(metavar="0-3")] = 1.0
    """Strength of the eyes' movement."""


@dataclass(frozen=True, kw_only=True)
class Spoken(Render):
    """What is chosen where speech makes the motion."""

    expression: Annotated[float, arg(metavar="0-3")] = 1.0
    """Strength of cheeks, brows and eyelids; 1 is natural. The lips always follow the speech."""
    blink: Annotated[float, arg(metavar="0-3")] = 1.0
    """How often the eyes blink."""


@dataclass(frozen=True, kw_only=True)
class Driven(Render):
    """What is chosen where a recording has the motion, blinks included."""

    expression: Annotated[float, arg(metavar="0-3")] = 1.0
    """Strength of cheeks, brows and eyelids; 1 is as recorded. The lips always follow the recording."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Make demo.mp4: the astronaut portrait of scikit-image says a sentence."""

    output: Output = Path("demo.mp4")
    """The video to write."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.demo(self)


@dataclass(frozen=True, kw_only=True)
class Animate:
    """Make the face of a picture speak a recording, or a text."""

    portrait: Picture
    """The picture: PNG, JPEG, WebP, BMP or TIFF, with a face in it."""
    speech: Annotated[Positional[Path | None], arg(metavar="[SPEECH]", help_behavior_hint="")] = None
    """The recording: WAV, MP3, M4A, FLAC, OGG, Opus, or a video with sound. Leave it out with --text."""
    output: Output
    """The video to write."""
    text: Annotated[str | None, arg(metavar="WORDS", help_behavior_hint="")] = None
    """Speak these words with espeak-ng instead of a recording."""
    voice: Annotated[str, arg(metavar="NAME")] = "en"
    """espeak-ng's voice for --text, such as en, en-us, de or fr."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Another number gives another take: other nods and blinks. Equal input and seeds give equal videos."""
    guidance: Annotated[float | None, arg(metavar="X", help_behavior_hint="(default: the trained network's own)")] = None
    """How closely the motion follows the speech; 1 is no guidance."""
    render: Spoken = field(default_factory=Spoken)

    def check(self) -> None:
        """Raises ValueError unless there is exactly one speech."""
        if self.speech is None and self.text is None:
            raise ValueError("no speech was given: name a recording after the portrait, or give --text \"some words\"")
        if self.speech is not None and self.text is not None:
            raise ValueError(f"both the recording {self.speech} and --text were given: give one of them")

    def run(self) -> None:
        self.check()
        with interrupt.held():
            from vivavoce.apps import commands

        commands.animate(self)


@dataclass(frozen=True, kw_only=True)
class Track:
    """Measure the motion of the face in a video: expression, gaze, head."""

    video: Recording
    """A recorded face."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="OUT.npz|OUT.csv")]
    """The table to write: a frame per row, the units are in docs/formats.md."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.track(self)


@dataclass(frozen=True, kw_only=True)
class Drive:
    """Put the motion of a recorded face on a portrait, with the recording's sound."""

    portrait: Picture
    """The picture: PNG, JPEG, WebP, BMP or TIFF, with a face in it."""
    video: Recording
    """A recorded face."""
    output: Output
    """The video to write."""
    render: Driven = field(default_factory=Driven)

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.drive(self)


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check the machine: what is there, what is missing, what it would enable."""

    def run(self) -> None:
        from vivavoce.apps import doctor

        if not doctor.examine():
            raise SystemExit(FAILED)


@dataclass(frozen=True, kw_only=True)
class TrainFace:
    """Learn the face model: how faces differ, and how they move. Needs recordings of more than forty people."""

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for the tracked recordings and face.safetensors; tracks that are there already are used."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.train_face(self)


@dataclass(frozen=True, kw_only=True)
class TrainMotion:
    """Train the network from speech to facial motion, for the face model in FOLDER, or else the one that ships."""

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for checkpoints, the log of losses and the weights; goes on where an earlier run in it stopped."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's own)")] = None
    """Updates of the weights."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Equal seeds give equal weights."""

    encoder: Annotated[tuple[str, ...], arg(metavar="NAME", help_behavior_hint="(default: the one that ships)")] = ("streams",)
    """Speech encoders to hear with: "streams", the one that ships; or a wav2vec 2.0, HuBERT or Whisper checkpoint with layers,
    such as /models/hubert-base:6,9; or several, side by side."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.train_motion(self)


@dataclass(frozen=True, kw_only=True)
class TrainPhonetic:
    """Train the network that hears which sounds are being spoken, on a corpus of speech with timed phones."""

    corpus: Annotated[Positional[Path], arg(metavar="CORPUS", help_behavior_hint="")]
    """Folder made by `vivavoce train corpus`."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for features, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's own)")] = None
    """Updates of the weights."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Equal seeds give equal weights."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.train_phonetic(self)


@dataclass(frozen=True, kw_only=True)
class TrainCorpus:
    """Make speech whose phones are known, to train the phonetic network: texts spoken by espeak-ng, and aligned recordings."""

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for the corpus; what is in it already is kept, and the rest is added."""
    texts: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder of texts to speak, a sentence per line: en.txt, de.txt, zh.txt and so on. Without it only recordings are aligned."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.train_corpus(self)


@dataclass(frozen=True, kw_only=True)
class TrainRenderer:
    """Train the network that refines frames: what a warped portrait cannot show, such as teeth and closed eyelids."""

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it; it needs the splits train and val."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for pairs of frames, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's own)")] = None
    """Updates of the weights."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Equal seeds give equal weights."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.train_renderer(self)


@dataclass(frozen=True, kw_only=True)
class TrainPost:
    """Post-train the motion network on what it makes itself, and judge what that bought on the recordings of the split `val`."""

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for rollouts, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    objective: Literal["sft", "ladder_dpo", "pair_dpo", "forward_process", "grpo"] = "forward_process"
    """How: supervised, by ReFree-S2V's ladder of masked speech, by what people preferred, by DiffusionNFT with rewards from the
    ladder, or by GRPO with rewards from the recording or from a judge."""
    pairs: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: pairs.jsonl in the output folder)")] = None
    """Answers of `vivavoce prefer`, for pair_dpo; the takes lie beside them."""
    judge: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """For grpo: have takes judged by a multimodal model there (docs/model-judge.md), such as http://localhost:8000/v1. Its key is
    $VIVAVOCE_JUDGE_KEY."""
    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Which model judges."""
    portrait: Annotated[Path | None, arg(metavar="PORTRAIT", help_behavior_hint="")] = None
    """Picture of the face that the judge sees."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's own)")] = None
    """Updates of the weights."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Equal seeds give equal weights."""
    weights: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the ones that ship)")] = None
    """Folder with the motion.safetensors to begin with; the ones that ship are post-trained already."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.train_post(self)


@dataclass(frozen=True, kw_only=True)
class TrainSync:
    """Train the sync expert, which judges whether lips move as the sound says."""

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it; it needs the splits train and val."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for prepared clips, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's own)")] = None
    """Updates of the weights, of each of the two pairs of networks."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Equal seeds give equal weights."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.train_sync(self)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one of the models on recordings of your own."""

    model: (
        Annotated[TrainFace, subcommand("face")]
        | Annotated[TrainCorpus, subcommand("corpus")]
        | Annotated[TrainPhonetic, subcommand("phonetic")]
        | Annotated[TrainMotion, subcommand("motion")]
        | Annotated[TrainRenderer, subcommand("renderer")]
        | Annotated[TrainPost, subcommand("post")]
        | Annotated[TrainSync, subcommand("sync")]
    )

    def run(self) -> None:
        self.model.run()


@dataclass(frozen=True, kw_only=True)
class Prefer:
    """Judge takes by eye and ear: a local page shows two at a time, blind; `train post --objective pair_dpo` learns from it."""

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it."""
    portrait: Picture
    """Picture of the face that shows the takes."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for takes, clips and pairs.jsonl, the answers; goes on where an earlier sitting in it stopped."""
    recordings: Annotated[int, arg(metavar="N")] = 24
    """How many recordings are spoken again."""
    takes: Annotated[int, arg(metavar="N")] = 3
    """Takes of each; every two of them are compared."""
    seconds: Annotated[float, arg(metavar="S")] = 4.0
    """The most of a recording that is shown."""
    size: Annotated[int, arg(metavar="PIXELS")] = 384
    """Sides of the clips."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Other recordings, takes, order and sides."""
    weights: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the ones that ship)")] = None
    """Folder with the motion.safetensors and face.safetensors whose takes are judged."""
    port: Annotated[int, arg(metavar="N")] = 8010
    """Port of this machine that the page is at."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps.prefer import run

        run.prefer(self)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Look into the weights: which block of the motion network listens to which level of the speech."""

    what: Annotated[Positional[Literal["levels"]], arg(metavar="levels", help_behavior_hint="")]
    """Weights of the level selectors, as a table."""
    weights: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the ones that ship)")] = None
    """Folder with motion.safetensors."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT.png|.svg|.pdf", help_behavior_hint="")] = None
    """Plot them there as well."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.inspect_levels(self)


@dataclass(frozen=True, kw_only=True)
class BenchSpeech:
    """What parts of the hearing are worth: train the motion network without each of them, and compare. Takes hours."""

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it; it needs the splits train and val."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for prepared recordings, runs and the table; what is finished there already is not done again."""
    steps: Annotated[int, arg(metavar="N")] = 1500
    """Updates of the weights in each run."""
    seeds: Annotated[int, arg(metavar="N")] = 2
    """Runs of each variant."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.bench_speech(self)


@dataclass(frozen=True, kw_only=True)
class BenchRender:
    """How fast pictures are made here, and where the time goes. Takes about two minutes."""

    sizes: Annotated[tuple[int, ...], arg(metavar="PIXELS")] = (256, 512, 1024)
    """Sides of the pictures."""
    frames: Annotated[int, arg(metavar="N")] = 250
    """Frames to make of each size."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT.json", help_behavior_hint="")] = None
    """Write the figures there as well."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.bench_render(self)


@dataclass(frozen=True, kw_only=True)
class BenchLive:
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
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT.json", help_behavior_hint="")] = None
    """Write the figures there as well."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.bench_live(self)


@dataclass(frozen=True, kw_only=True)
class BenchBaselines:
    """The engine beside the recording, simple rules, and other clips' sound, in one table; says whether they stand in order.

    Takes an hour on two cores; goes on where it was stopped. If `rhubarb` is on the PATH, its mouth shapes are in the table too.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it; it needs the splits train and val."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for videos, report and table; what is finished there already is not done again."""
    seconds: Annotated[float, arg(metavar="S")] = 4.0
    """How much of each recording counts."""
    most: Annotated[int, arg(metavar="N")] = 6
    """Recordings of one person at most."""
    people: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """People at most."""
    document: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Write the table there as well, as baselines.md."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.bench_baselines(self)


@dataclass(frozen=True, kw_only=True)
class BenchMetrics:
    """Whether figures see what they are meant to see: recordings are damaged by degrees and judged.

    Takes an hour on two cores; goes on where it was stopped.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA", help_behavior_hint="")]
    """Folder of recordings with a MANIFEST.csv, as docs/formats.md describes it; it needs the split val."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for videos, report, metrics.md and its plots; what is finished there already is not done again."""
    seconds: Annotated[float, arg(metavar="S")] = 4.0
    """How much of each recording counts."""
    people: Annotated[int, arg(metavar="N")] = 6
    """People; one recording each. Two more whose words are known are added."""
    document: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Write metrics.md and its plots there as well."""

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.bench_metrics(self)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure what parts of the system are worth, or how fast it is here."""

    what: (
        Annotated[BenchSpeech, subcommand("speech")]
        | Annotated[BenchRender, subcommand("render")]
        | Annotated[BenchLive, subcommand("live")]
        | Annotated[BenchBaselines, subcommand("baselines")]
        | Annotated[BenchMetrics, subcommand("metrics")]
    )

    def run(self) -> None:
        self.what.run()


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Weights of the field's own judges, where they are at hand; docs/standard.md says where they come from."""

    syncnet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """SyncNet v2: LSE-C and LSE-D."""
    inception: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Inception v3 as FID has it: FID."""
    i3d: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """I3D: FVD."""
    arcface: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """ArcFace: CSIM."""
    lpips: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """LPIPS."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge generated videos against recordings, or alone: a table, JSON, and a page with plots, the worst clips first."""

    pairs: Annotated[Positional[Path], arg(metavar="PAIRS.csv|FOLDER", help_behavior_hint="")]
    """A table with the column generated and, optionally, real, audio, driving, portrait, transcript, group, system, name and
    rewards; or a folder of videos, each judged alone."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="REPORT")]
    """Folder for report.json, report.md and index.html; what an earlier run in it saw and heard is used again."""
    rewards: Annotated[tuple[str, ...], arg(metavar="FIGURE", help_behavior_hint="")] = ()
    """Figures that the videos' maker was trained against; the report says so."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Equal seeds give equal intervals."""
    networks: Networks = field(default_factory=Networks)

    def run(self) -> None:
        with interrupt.held():
            from vivavoce.apps import commands

        commands.evaluate(self)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a server is reached, and what it allows."""

    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen at. The default is this machine only; give 0.0.0.0, and a token, for others too."""
    port: Annotated[int, arg(metavar="N")] = 8000
    """Port to listen at."""
    token: Annotated[str | None, arg(metavar="SECRET", help_behavior_hint="(default: $VIVAVOCE_TOKEN, or none)")] = None
    """Requests must carry it: Authorization: Bearer SECRET."""
    origin: Annotated[tuple[str, ...], arg(metavar="URL", help_behavior_hint="")] = ()
    """Origins of other pages that may use this server from a browser, such as https://example.org."""
    folder: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: ~/.cache/vivavoce)")] = None
    """Where registered portraits are kept, and finished videos for as long as the server runs. Of one server at a time."""
    sessions: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: one for each processor)")] = None
    """Live sessions that may be open at once; README says how many a machine holds."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: one for each processor)")] = None
    """Threads that make frames."""

    def check(self) -> None:
        """Raises ValueError for numbers with which nothing would ever be served."""
        for option, number in (("--sessions", self.sessions), ("--workers", self.workers)):
            if number is not None and number < 1:
                raise ValueError(f"{option} is {number}: give 1 or more, or leave it out for one for each processor")


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve live sessions and videos: a web page at /, REST at /docs, WebSocket and WebRTC as docs/protocol.md says."""

    serving: Serving = field(default_factory=Serving)

    def run(self) -> None:
        self.serving.check()
        with interrupt.held():
            from vivavoce.apps.server import run

        run.serve(self.serving, browser=False)


@dataclass(frozen=True, kw_only=True)
class Web:
    """Talk with a portrait in the browser: starts the server and opens its page."""

    serving: Serving = field(default_factory=Serving)

    def run(self) -> None:
        self.serving.check()
        with interrupt.held():
            from vivavoce.apps.server import run

        run.serve(self.serving, browser=True)


Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Animate, subcommand("animate")]
    | Annotated[Drive, subcommand("drive")]
    | Annotated[Track, subcommand("track")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Prefer, subcommand("prefer")]
    | Annotated[Inspect, subcommand("inspect")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Serve, subcommand("serve")]
    | Annotated[Web, subcommand("web")]
    | Annotated[Doctor, subcommand("doctor")]
)


def parse(arguments: Sequence[str] | None) -> Command:
    """Options to a command. ValueError in one sentence for wrong ones; --help ends the process."""
    drawn = io.StringIO()
    try:
        with redirect_stderr(drawn):
            return tyro.cli(
                Command,
                prog="vivavoce",
                description="Make a portrait speak: a picture and a voice go in, a video comes out, on an ordinary CPU.",
                args=arguments,
                config=(FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes),
            )
    except SystemExit as leaving:
        if leaving.code == FAILED:
            raise ValueError(mistake(drawn.getvalue())) from None
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; an error that the user can mend becomes one sentence on stderr."""
    _hush_libraries()
    # NumPy's matrices are small here; a second thread for them would only spin, on the core that the video's encoder wants.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        parse(arguments).run()
        sys.stdout.flush()
        interrupt.check()
    except BrokenPipeError:
        # Whoever read our output has gone; stdout must not complain again when the interpreter closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return OK
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else OK if leaving.code is None else FAILED
    except (Exception, KeyboardInterrupt) as error:
        cause = interrupt.reason() or error  # libraries turn an interruption into errors of their own
        if isinstance(cause, SystemExit):
            return TERMINATED
        said = explain(cause)
        if said is None:
            raise
        print(f"vivavoce: {said[0]}", file=sys.stderr)
        return said[1]
    return OK


def console() -> NoReturn:
    """The ``vivavoce`` program."""
    interrupt.install()
    sys.exit(main())


def _hush_libraries() -> None:
    """Third parties' notices are not for the user; must come before they are imported. Set variables win."""
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "3", "GLOG_minloglevel": "2", "MPLBACKEND": "Agg"}.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    console()
