"""The command line: every way to go wrong ends in one sentence, the right exit code, and a folder as it was before."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
from PIL import Image

from vivavoce.animate import Animator, Controls, Settings
from vivavoce.apps import cli, commands, options
from vivavoce.apps.errors import explain
from vivavoce.media.audio import Audio
from vivavoce.media.portrait import Portrait

RATE = 16000


class Space:
    """A portrait needs no preparation."""

    def reference(self, portrait: Portrait, *, size: int | None, crop: bool) -> None:
        pass


class StandIn(Animator):
    """Noise instead of a face, a frame per 1/fps s of sound, so that these tests are about the command line alone."""

    calls: ClassVar[list[dict[str, object]]] = []
    fail_at: ClassVar[tuple[int, BaseException] | None] = None
    pause: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self.space = Space()

    @classmethod
    def load(cls, weights: Path | None = None) -> StandIn:
        return cls()

    def animate(self, portrait, audio, *, size=None, crop=False, **options):
        settings = Settings(**options)
        self.prepare(portrait, size=size, crop=crop)
        self.calls.append({"portrait": portrait.name, "size": size, "crop": crop, **options})
        seconds = audio.duration if isinstance(audio, Audio) else sum(block.duration for block in audio)
        return self.frames(round(seconds * settings.fps))

    def frames(self, count: int) -> Iterator[np.ndarray]:
        for k in range(count):
            if self.fail_at is not None and k == self.fail_at[0]:
                raise self.fail_at[1]
            time.sleep(self.pause)
            yield np.random.default_rng(k).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "calls", [])
    monkeypatch.setattr(StandIn, "fail_at", None)
    monkeypatch.setattr(commands, "Animator", StandIn)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with face.png, speech.wav (1 s of a tone), notes.txt, empty.wav, silent.wav, old.mp4, old.csv; the working
    directory."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((80, 60, 3), 128, np.uint8)).save("face.png")
    tone = (8000 * np.sin(np.arange(RATE) * 0.2)).astype(np.int16)
    _write_wav(Path("speech.wav"), tone)
    _write_wav(Path("silent.wav"), np.zeros(RATE, np.int16))
    Path("cut.png").write_bytes(Path("face.png").read_bytes()[:60])
    Path("notes.txt").write_text("not a picture, not a sound")
    Path("empty.wav").touch()
    Path("old.mp4").write_bytes(b"something dear")
    Path("old.csv").write_bytes(b"something dear")
    return tmp_path


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


BAD = {
    "not a picture": ("animate notes.txt speech.wav -o out.mp4", r"notes\.txt"),
    "a picture cut short": ("animate cut.png speech.wav -o out.mp4", r"cut\.png"),
    "no such picture": ("animate nobody.png speech.wav -o out.mp4", r"nobody\.png does not exist"),
    "a folder for a picture": ("animate . speech.wav -o out.mp4", "folder"),
    "not a sound": ("animate face.png notes.txt -o out.mp4", r"notes\.txt"),
    "an empty sound": ("animate face.png empty.wav -o out.mp4", r"empty\.wav"),
    "a silent sound": ("animate face.png silent.wav -o out.mp4", "silent"),
    "a picture for a sound": ("animate face.png face.png -o out.mp4", r"face\.png"),
    "no speech": ("animate face.png -o out.mp4", "no speech"),
    "two speeches": ("animate face.png speech.wav --text hello -o out.mp4", "both"),
    "an empty text": ("animate face.png --text= -o out.mp4", "nothing to say|no speech"),
    "an unknown voice": ("animate face.png --text hello --voice klingonese -o out.mp4", "klingonese"),
    "an existing output": ("animate face.png speech.wav -o old.mp4", r"old\.mp4 exists already.*--overwrite"),
    "an existing output of demo": ("demo -o old.mp4", r"old\.mp4 exists already.*--overwrite"),
    "another suffix": ("animate face.png speech.wav -o out.avi", r"out\.avi"),
    "a folder that is not there": ("animate face.png speech.wav -o nowhere/out.mp4", "nowhere"),
    "a folder for an output": ("animate face.png speech.wav -o .", "."),
    "too few frames": ("animate face.png speech.wav -o out.mp4 --fps 9.9", r"9\.9.*10 to 60"),
    "too many frames": ("animate face.png speech.wav -o out.mp4 --fps 61", "61.*10 to 60"),
    "frames that are no number": ("animate face.png speech.wav -o out.mp4 --fps nan", "nan"),
    "a size too small": ("animate face.png speech.wav -o out.mp4 --size 8", "size of 8 "),
    "a size too large": ("animate face.png speech.wav -o out.mp4 --size 100000", "size of 100000"),
    "a negative strength": ("animate face.png speech.wav -o out.mp4 --head=-1", "head is -1"),
    "a negative seed": ("animate face.png speech.wav -o out.mp4 --seed=-1", "seed is -1"),
    "a negative face": ("animate face.png speech.wav -o out.mp4 --face=-1", "face -1"),
    "a bad guidance": ("animate face.png speech.wav -o out.mp4 --guidance nan", "guidance of nan"),
    "a still picture to drive": ("drive face.png face.png -o out.mp4", r"face\.png is a still picture"),
    "a table that exists": ("track face.png -o old.csv", r"old\.csv exists already.*--overwrite"),
    "a still picture to track": ("track face.png -o out.csv", r"face\.png is a still picture"),
    "a sound to track": ("track speech.wav -o out.csv", r"speech\.wav has no pictures"),
    "no recordings to train motion on": ("train motion . -o run", r"no MANIFEST\.csv"),
    "no recordings to train a renderer on": ("train renderer . -o run", r"no MANIFEST\.csv"),
    "no recordings to train a video network on": ("train video . -o run --base x", r"no MANIFEST\.csv"),
    "no batch to train a video network with": ("train video . -o run --base x --batch 0", "--batch is 0"),
    "a study of a base and of an autoencoder": ("bench video-parts . -o out --vae v --base b", "--vae and --base were both"),
    "a study of a base that is not there": ("bench video-parts . -o out --base nowhere", "nowhere/transformer/config.json"),
    "fewer than no updates of the ears": ("train video . -o run --base x --ears=-1", "--ears is -1"),
    "fewer steps than stages": ("train video . -o run --base x --steps 1", "--steps is 1"),
    "a negative seed to train with": ("train motion . -o run --seed=-1", "--seed is -1"),
    "a negative seed to post-train with": ("train post . -o run --seed=-1", "--seed is -1"),
    "a negative seed for a video network": ("train video . -o run --base x --seed=-1", "--seed is -1"),
    "a negative seed to prefer with": ("prefer . face.png -o run --seed=-1", "--seed is -1"),
    "a picture of no size to bench": ("bench render --sizes 5", r"5 pixels.*from 64"),
    "too few frames to bench": ("bench render --frames 1", r"1 frames.*at least 2"),
    "a bench of another kind": ("bench render -o old.csv", r"old\.csv does not end in \.json"),
    "no recordings to train a face on": ("train face . -o run", r"no MANIFEST\.csv"),
    "a table of another kind": ("track speech.wav -o out.txt", r"out\.txt.*\.npz or \.csv"),
}


@pytest.mark.parametrize(("line", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_leaves_the_folder_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    before = _contents(folder)
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(says, err), err
    assert err.startswith("vivavoce: ")
    assert err.count("\n") == 1
    assert _contents(folder) == before
    assert StandIn.calls == []  # refused before the work


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = folder / "locked"
    locked.mkdir(mode=0o500)
    assert cli.main(["animate", "face.png", "speech.wav", "-o", str(locked / "out.mp4")]) == 2
    assert "locked" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "", "nonsense", "animate", "animate face.png speech.wav", "demo --fps 25", "animate face.png speech.wav --fps x -o x.mp4",
        "drive face.png speech.mp4 -o x.mp4 --blink 2",
    ],
)
def test_wrong_options_exit_with_2(folder: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    before = _contents(folder)
    assert cli.main(line.split()) == 2
    assert re.fullmatch(r"vivavoce: [^\n]{15,200}\n", capsys.readouterr().err)
    assert _contents(folder) == before


BOX = """╭─ Value error ──────────╮
│ Error parsing --fps: could not convert string to float: 'x' │
│ ─────────────────────── │
│ Argument helptext:      │
│     --fps 10-60         │
│     Frames per second of the video. (default: 25.0) │
╰─────────────────────────╯"""
LINES = {
    "animate face.png speech.wav --fps x -o x.mp4": "--fps cannot be 'x': frames per second of the video (default: 25.0)",
    "animate speech.wav": "vivavoce animate lacks -o OUT.mp4: run it with --help to see what it needs",
    "animate": "vivavoce animate lacks PORTRAIT, -o OUT.mp4: run it with --help to see what it needs",
    "demo more --fast": "nothing takes 'more', '--fast' here: run the command with --help to see what there is",
    "animate a.png --size big -o x.mp4": "--size cannot be 'big': longer side of the video (default: the picture's own,",
    "train post data -o run --objective luck": "--objective cannot be 'luck': give 'sft', 'ladder_dpo', 'pair_dpo'",
    "animate a.png -o": "-o/--output has no value: give one behind it", "train": "no command was given: there are face, corpus",
}


@pytest.mark.parametrize(("line", "says"), LINES.items())
def test_wrong_options_are_told_in_a_sentence(capsys: pytest.CaptureFixture[str], line: str, says: str) -> None:
    assert cli.main(line.split()) == 2
    assert capsys.readouterr().err.removeprefix("vivavoce: ").startswith(says)


@pytest.mark.parametrize("drawn", [
    BOX, BOX.replace("│", "\x1b[31m│\x1b[0m"), BOX.translate(str.maketrans("│╭╮╰╯─", "     -")).replace("--  ", "  "),
])
def test_a_box_is_read_however_it_is_drawn(drawn: str) -> None:
    assert options.mistake(drawn) == "--fps cannot be 'x': frames per second of the video (default: 25.0)"


@pytest.mark.parametrize("output", ["new.mp4", "old.mp4"])
@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "Ctrl-C"),
        (ValueError("the picture has no face: give another"), 2, "no face"),
        (OSError(28, "No space left on device"), 2, "disk is full"),
        (MemoryError(), 2, "memory"),
    ],
)
@pytest.mark.parametrize("frame", [0, 7])
def test_stopped_halfway_leaves_nothing_behind_and_what_was_there_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], output: str, error: BaseException, code: int, says: str, frame: int
) -> None:
    before = _contents(folder)
    StandIn.fail_at = (frame, error)
    assert cli.main(["animate", "face.png", "speech.wav", "-o", output, "--overwrite"]) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert _contents(folder) == before


def test_our_own_mistakes_keep_their_traceback(folder: Path) -> None:
    StandIn.fail_at = (3, AssertionError("ours"))
    before = _contents(folder)
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["animate", "face.png", "speech.wav", "-o", "out.mp4"])
    assert _contents(folder) == before


def test_options_reach_the_animator_and_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "animate face.png speech.wav -o out.mp4 --fps 30 --size 128 --crop --seed 7 --guidance 1.5 --head 0.5 --gaze 0"
    assert cli.main(line.split()) == 0, capsys.readouterr().err
    (call,) = StandIn.calls
    assert call.pop("controls") == Controls(head=0.5, gaze=0.0)
    assert call == {"portrait": "face.png", "fps": 30.0, "size": 128, "crop": True, "seed": 7, "guidance": 1.5}
    with av.open("out.mp4") as video:
        assert video.streams.video[0].frames == 30
        assert video.streams.video[0].average_rate == 30
        assert video.streams.audio[0].codec_context.name == "aac"
    assert "out.mp4" in capsys.readouterr().out


def test_text_is_spoken_for_as_long_as_the_video_lasts(folder: Path) -> None:
    assert cli.main(["animate", "face.png", "--text", "one two three four", "-o", "out.mp4"]) == 0
    with av.open("out.mp4") as video:
        pictures, sound = video.streams.video[0], video.streams.audio[0]
        assert float(pictures.duration * pictures.time_base) == pytest.approx(float(sound.duration * sound.time_base), abs=0.1)
        assert float(sound.duration * sound.time_base) > 0.8


def test_the_size_that_is_told_is_the_file_s(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "frames", lambda self, count: iter([np.zeros((65, 97, 3), np.uint8)] * count))
    assert cli.main(["animate", "face.png", "speech.wav", "-o", "out.mp4"]) == 0
    with av.open("out.mp4") as video:
        assert f"{video.streams.video[0].width}x{video.streams.video[0].height}" in capsys.readouterr().out


def test_overwrite_replaces(folder: Path) -> None:
    assert cli.main(["animate", "face.png", "speech.wav", "-o", "old.mp4", "--overwrite"]) == 0
    with av.open("old.mp4") as video:
        assert video.streams.video[0].frames == 25


def test_the_demo_needs_nothing_but_the_installation(folder: Path) -> None:
    assert cli.main(["demo"]) == 0
    assert StandIn.calls[0]["portrait"] == "astronaut"
    assert (folder / "demo.mp4").stat().st_size > 0


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom vivavoce.apps.cli import main\nassert main(['animate', '--help']) == 0\n"
        "print(*{'torch', 'mediapipe', 'numba', 'cv2', 'scipy'} & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(cli.__file__).parents[2])
    assert done.stderr.strip() == ""
    assert "PORTRAIT" in done.stdout


def _child(preparation: str) -> subprocess.Popen[str]:
    """``vivavoce animate`` in a process of its own, with the stand-in."""
    places = [str(Path(__file__).parent), str(Path(cli.__file__).parents[2])]
    script = (
        f"import sys\nsys.path[:0] = {places!r}\nimport test_cli\n"
        f"test_cli.commands.Animator = test_cli.StandIn\n{preparation}\n"
        "sys.argv = ['vivavoce', *'animate face.png speech.wav -o out.mp4'.split()]\ntest_cli.cli.console()"
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _begun(folder: Path) -> bool:
    """Whether something stands in the temporary file."""
    with suppress(FileNotFoundError):  # the writability probe comes and goes
        return any(path.stat().st_size for path in folder.glob(".*"))
    return False


def test_a_write_that_the_system_refuses(folder: Path) -> None:
    """A limit on the size of files stands in for a full disk: the muxer's writes fail halfway."""
    before = _contents(folder)
    limit = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
    )
    with _child(limit) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "cannot be written" in err
    assert err.count("\n") == 1
    assert _contents(folder) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside_leaves_nothing_behind(folder: Path, number: signal.Signals, code: int) -> None:
    before = _contents(folder)
    with _child("test_cli.StandIn.pause = 0.5") as process:
        deadline = time.monotonic() + 60
        while not _begun(folder):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert _contents(folder) == before


LOSE = """
import signal
class Lost:
    def __del__(self):
        signal.raise_signal(signal.{name})  # Python drops an exception that a destructor raises
"""
AT_FRAME = """
frames = test_cli.StandIn.frames
def spoiled(self, count):
    for k, frame in enumerate(frames(self, count)):
        if k == {frame}:
            Lost()
        yield frame
test_cli.StandIn.frames = spoiled
"""
AT_THE_END = """
finish = test_cli.commands.VideoWriter.finish
def spoiled(self):
    finish(self)
    Lost()
test_cli.commands.VideoWriter.finish = spoiled
"""


@pytest.mark.parametrize("where", [AT_FRAME.format(frame=0), AT_FRAME.format(frame=24), AT_THE_END], ids=["first", "last", "end"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_python_drops_is_not_lost(folder: Path, name: str, code: int, where: str) -> None:
    before = _contents(folder)
    with _child(LOSE.format(name=name) + where) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert (out, err.count("\n")) == ("", code == 130)
    assert _contents(folder) == before


def test_a_signal_during_the_imports_waits_for_their_end(folder: Path) -> None:
    before = _contents(folder)
    script = (
        "import signal, sys\nfrom vivavoce.apps import cli\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'skimage.data': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\nsys.argv = ['vivavoce', *'animate face.png speech.wav -o out.mp4'.split()]\n"
        "try: cli.console()\n"
        "finally: print('vivavoce.apps.commands' in sys.modules)"
    )
    command, environment = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 130, done.stderr
    assert done.stdout.strip() == "True"
    assert done.stderr.count("\n") == 1
    assert _contents(folder) == before


def test_a_reader_that_leaves_is_harmless() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "vivavoce", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=Path(cli.__file__).parents[2])
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_missing_system_library_is_a_sentence_that_says_what_to_install(kind: type[Exception]) -> None:
    said = explain(kind("libGL.so.1: cannot open shared object file: No such file or directory"))
    assert said is not None
    assert said[1] == 2
    assert re.search(r"libGL\.so\.1.*apt-get install libgl1", said[0])


def test_a_missing_package_is_a_sentence_but_a_missing_module_of_ours_is_a_mistake() -> None:
    said = explain(ModuleNotFoundError("No module named 'numba'", name="numba"))
    assert said is not None
    assert "numba" in said[0]
    assert explain(ModuleNotFoundError("No module named 'vivavoce.gone'", name="vivavoce.gone")) is None


def test_plain_progress_tells_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from vivavoce.apps import progress

    clock = iter(np.arange(0.0, 1000.0, 5.0))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert list(progress.shown(range(9), total=9, what="rendering")) == list(range(9))
    # The clock moves 5 s a step, so every second step is told of.
    told = [f"rendering: {done} of 9, about {5 * (9 - done)} s left" for done in (3, 5, 7, 9)]
    assert capsys.readouterr().err.splitlines() == told


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_a_table_of_motion_survives_the_round_trip(tmp_path: Path, suffix: str) -> None:
    import torch

    from vivavoce.apps.export import write_table
    from vivavoce.latent.motion import Layout

    layout = Layout.of({"lips_jaw": 4, "cheeks_brows": 3, "eyelids": 2})
    motion = layout.unpack(torch.randn(11, layout.width, generator=torch.Generator().manual_seed(0)))
    path = tmp_path / f"motion{suffix}"
    write_table(path, motion, 25.0)
    if suffix == ".npz":
        with np.load(path) as table:
            read = {name: table[name] for name in table.files}
    else:
        values = np.genfromtxt(path, delimiter=",", names=True)
        assert values.dtype.names is not None
        read = {"time": values["time"]}
        for name in vars(motion):
            columns = [c for c in values.dtype.names if re.fullmatch(rf"{name}(_\d+)?", c)]
            read[name] = np.stack([values[c] for c in columns], 1).astype(np.float32)
    np.testing.assert_array_equal(read["time"], np.arange(11) / 25)
    back = replace(motion, **{name: torch.from_numpy(read[name]) for name in vars(motion)})
    assert torch.equal(layout.pack(back), layout.pack(motion))
    assert list(tmp_path.iterdir()) == [path]
