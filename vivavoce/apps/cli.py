"""The command line: options, and what happens when a command fails. The commands themselves are in `commands.py`.

Options of `train` and `bench` are in `cli_train.py` and `cli_bench.py`; what several commands share is in `cli_base.py`.

Only light modules are imported here, so that ``vivavoce --help`` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from vivavoce.apps import interrupt
from vivavoce.apps.cli_base import Folder, Job, Picture, Recordings, Weights, check_seed
from vivavoce.apps.cli_bench import Bench
from vivavoce.apps.cli_train import Train
from vivavoce.apps.cli_video import Wan
from vivavoce.apps.errors import FAILED, OK, TERMINATED, explain
from vivavoce.apps.options import mistake

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
class Demo(Job):
    """Make demo.mp4: the astronaut portrait of scikit-image says a sentence."""

    output: Output = Path("demo.mp4")
    """The video to write."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands

        return commands.demo


@dataclass(frozen=True, kw_only=True)
class Animate(Job):
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
    engine: Literal["motion", "wan"] = "motion"
    """What makes the video: motion is the engine that ships and runs anywhere, wan a large pretrained model on a GPU."""
    render: Spoken = field(default_factory=Spoken)
    wan: Wan = field(default_factory=Wan)

    def check(self) -> None:
        """Raises ValueError unless there is exactly one speech, and all options are the engine's."""
        if self.speech is None and self.text is None:
            raise ValueError("no speech was given: name a recording after the portrait, or give --text \"some words\"")
        if self.speech is not None and self.text is not None:
            raise ValueError(f"both the recording {self.speech} and --text were given: give one of them")
        if self.engine == "motion":
            if given := self.wan.given():
                raise ValueError(f"{given[0]} is an option of the video engine: give --engine wan too, or leave it out")
            return
        if self.wan.base is None:
            raise ValueError("--engine wan needs --base: give the folder of a pretrained Wan model, or its name on the hub")
        self.wan.check()
        shaped = [name for name in ("expression", "head", "gaze", "blink") if vars(self.render)[name] != 1.0]
        if shaped and not self.wan.guide:
            raise ValueError(f"--{shaped[0]} shapes the motion engine's video, with --engine wan its guide: give --guide too")

    def work(self) -> Callable[[Self], None]:
        if self.engine == "wan":
            from vivavoce.apps import commands_video

            return commands_video.animate
        from vivavoce.apps import commands

        return commands.animate


@dataclass(frozen=True, kw_only=True)
class Track(Job):
    """Measure the motion of the face in a video: expression, gaze, head."""

    video: Recording
    """A recorded face."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="OUT.npz|OUT.csv")]
    """The table to write: a frame per row, the units are in docs/formats.md."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands

        return commands.track


@dataclass(frozen=True, kw_only=True)
class Drive(Job):
    """Put the motion of a recorded face on a portrait, with the recording's sound."""

    portrait: Picture
    """The picture: PNG, JPEG, WebP, BMP or TIFF, with a face in it."""
    video: Recording
    """A recorded face."""
    output: Output
    """The video to write."""
    render: Driven = field(default_factory=Driven)

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands

        return commands.drive


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check the machine: what is there, what is missing, what it would enable."""

    def run(self) -> None:
        from vivavoce.apps import doctor

        if not doctor.examine():
            raise SystemExit(FAILED)


@dataclass(frozen=True, kw_only=True)
class Prefer(Recordings):
    """Judge takes by eye and ear: a local page shows two at a time, blind; `train post --objective pair_dpo` learns from it."""

    portrait: Picture
    """Picture of the face that shows the takes."""
    output: Folder
    """Folder for takes, clips and pairs.jsonl, the answers; goes on where an earlier sitting in it stopped."""
    recordings: Annotated[int, arg(metavar="N")] = 24
    """How many recordings are spoken again."""
    takes: Annotated[int, arg(metavar="N")] = 3
    """Takes of each; every two of them are compared."""
    seconds: Annotated[float, arg(metavar="S")] = 4.0
    """The most of a recording that is shown, 2 to 20."""
    size: Annotated[int, arg(metavar="PIXELS")] = 384
    """Sides of the clips."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Other recordings, takes, order and sides."""
    weights: Weights = None
    """Folder with the motion.safetensors and face.safetensors whose takes are judged."""
    port: Annotated[int, arg(metavar="N")] = 8010
    """Port of this machine that the page is at."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps.prefer import run

        return run.prefer


@dataclass(frozen=True, kw_only=True)
class Inspect(Job):
    """Look into the weights: which block of the motion network listens to which level of the speech."""

    what: Annotated[Positional[Literal["levels"]], arg(metavar="levels", help_behavior_hint="")]
    """Weights of the level selectors, as a table."""
    weights: Weights = None
    """Folder with motion.safetensors."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT.png|.svg|.pdf", help_behavior_hint="")] = None
    """Plot them there as well."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands

        return commands.inspect_levels


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
class Evaluate(Job):
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

    def check(self) -> None:
        check_seed(self.seed)

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands

        return commands.evaluate


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
class Serve(Job):
    """Serve live sessions and videos: a web page at /, REST at /docs, WebSocket and WebRTC as docs/protocol.md says."""

    serving: Serving = field(default_factory=Serving)

    def check(self) -> None:
        self.serving.check()

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps.server import run

        return lambda options: run.serve(options.serving, browser=False)


@dataclass(frozen=True, kw_only=True)
class Web(Job):
    """Talk with a portrait in the browser: starts the server and opens its page."""

    serving: Serving = field(default_factory=Serving)

    def check(self) -> None:
        self.serving.check()

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps.server import run

        return lambda options: run.serve(options.serving, browser=True)


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
