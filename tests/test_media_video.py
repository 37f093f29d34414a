"""What is written is read back: every picture at its time, the sound with it, and a file that is whole or not there."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import av
import numpy as np
import pytest
import torch

from vivavoce.media import Audio, Resampler, VideoWriter, check_output, has_sound, read_frames, read_video
from vivavoce.media.audio import concatenate
from vivavoce.media.soundtrack import aac_rate, to_stereo

SIZE = (96, 80)


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    y, x = np.mgrid[: size[1], : size[0]]
    waves = (np.sin(x / 20 + index / 5), np.cos(y / 17 - index / 7), np.sin((x + y) / 31))
    return np.stack([128 + 90 * wave for wave in waves], axis=-1).astype(np.uint8)


def chirp(rate: int, seconds: float, channels: int = 1) -> Audio:
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (200 * time + 500 * time**2 / seconds)
    rows = [0.4 * np.sin(phase + channel) for channel in range(channels)]
    return Audio(samples=torch.from_numpy(np.stack(rows).astype(np.float32)), rate=rate)


def write(
    path: Path, frames: int, *, fps: float | Fraction = 25, sound: Path | Audio | None = None, overwrite: bool = False
) -> None:
    with VideoWriter(path, fps=fps, size=SIZE, sound=sound, overwrite=overwrite) as writer:
        for index in range(frames):
            writer.write(picture(index))


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((found.astype(float) - wanted) ** 2))))


def late_samples(found: Audio, wanted: Audio) -> int:
    a, b = (audio.mono().samples[0].numpy() for audio in (found, wanted))
    length = min(len(a), len(b))
    product = np.fft.rfft(a[:length], 2 * length) * np.conj(np.fft.rfft(b[:length], 2 * length))
    lag = int(np.argmax(np.fft.irfft(product)))
    return lag - 2 * length if lag > length else lag


@pytest.mark.parametrize("fps", [10, 23.976, Fraction(24000, 1001), 25, 29.97, 60])
def test_pictures_and_sound_come_back_at_their_times(tmp_path: Path, fps: float | Fraction) -> None:
    count, path = 40, tmp_path / "out.mp4"
    sound = chirp(44100, count / float(fps), channels=2)
    write(path, count, fps=fps, sound=sound)
    frames = list(read_video(path))
    assert [frame.time for frame in frames] == pytest.approx([index / float(fps) for index in range(count)], abs=1e-6)
    assert min(psnr(frame.image, picture(index)) for index, frame in enumerate(frames)) > 33
    heard = Audio.open(path)
    assert (heard.rate, heard.samples.shape) == (44100, sound.samples.shape)
    assert late_samples(heard, sound) == 0
    correlation = np.corrcoef(heard.samples.numpy().ravel(), sound.samples.numpy().ravel())[0, 1]
    assert correlation > 0.995
    assert [frame.tobytes() for frame in read_frames(path, float(fps))] == [frame.image.tobytes() for frame in frames]


def test_the_container_is_what_players_expect(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write(path, 30, sound=chirp(48000, 1.2))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        pictures, sound = container.streams.video[0], container.streams.audio[0]
        context = pictures.codec_context
        assert (context.name, context.pix_fmt, sound.codec_context.name) == ("h264", "yuv420p", "aac")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert pictures.start_time == sound.start_time == 0
        assert pictures.average_rate == 25
        assert float(pictures.duration * pictures.time_base) == pytest.approx(1.2)
        assert float(sound.duration * sound.time_base) == pytest.approx(1.2)
        # In the file the two lie side by side, so that a player need not jump: never more than two seconds apart.
        clocks = {"video": 0.0, "audio": 0.0}
        for packet in container.demux():
            if packet.dts is not None:
                clocks[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(clocks["video"] - clocks["audio"]) < 2.0


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 150, 120)])
def test_flat_colours_keep_their_hue(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    frame = np.full((64, 64, 3), colour, np.uint8)
    with VideoWriter(tmp_path / "flat.mp4", fps=25, size=(64, 64)) as writer:
        writer.write(frame)
    (found,) = read_video(tmp_path / "flat.mp4")
    assert np.abs(found.image.astype(int) - frame).max() <= 4


@pytest.mark.parametrize("size", [(95, 80), (96, 79), (95, 79), (1, 1)])
def test_an_odd_side_repeats_its_last_row_or_column(tmp_path: Path, size: tuple[int, int]) -> None:
    frame = picture(0, size)
    with VideoWriter(tmp_path / "odd.mp4", fps=25, size=size) as writer:
        writer.write(frame)
    (found,) = read_video(tmp_path / "odd.mp4")
    assert found.image.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    padded = np.pad(frame, ((0, size[1] % 2), (0, size[0] % 2), (0, 0)), mode="edge")
    assert psnr(found.image, padded) > 30


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (11000, 1), (16000, 2), (48000, 6), (192000, 1)])
def test_any_rate_and_channels_become_sound_at_the_same_instant(tmp_path: Path, rate: int, channels: int) -> None:
    sound, path = chirp(rate, 1.5, channels), tmp_path / "out.mp4"
    write(path, 30, sound=sound)
    heard = Audio.open(path)
    assert heard.rate == aac_rate(rate)
    assert heard.samples.shape[0] == min(channels, 2)
    resampler = Resampler(rate, heard.rate)
    mixed = Audio(samples=to_stereo(sound.samples), rate=rate)
    wanted = concatenate([resampler.push(mixed), resampler.finish()])
    assert abs(heard.samples.shape[1] - wanted.samples.shape[1]) <= 1
    assert abs(late_samples(heard, wanted)) / heard.rate < 1e-3
    length = min(heard.samples.shape[1], wanted.samples.shape[1])
    assert np.corrcoef(heard.mono().samples[0, :length], wanted.samples[0, :length])[0, 1] > 0.99


def test_surround_becomes_stereo_with_the_voice_in_the_middle() -> None:
    surround = torch.zeros(6, 4)
    surround[2] = 1.0
    left, right = to_stereo(surround)
    assert torch.equal(left, right)
    assert left[0] > 0.2
    assert float(to_stereo(torch.ones(8, 4)).abs().max()) <= 1.0 + 1e-6
    assert torch.equal(to_stereo(torch.eye(6)[:, 3:4]), torch.zeros(2, 1))


def test_the_sound_of_a_file_is_streamed_from_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    write(first, 50, sound=chirp(48000, 2.0))
    write(second, 50, sound=first)
    assert late_samples(Audio.open(second), Audio.open(first)) == 0
    assert has_sound(second)
    write(tmp_path / "mute.mp4", 3)
    assert not has_sound(tmp_path / "mute.mp4")
    # Writing over the file that the sound comes from: it stays until the new one is whole.
    write(second, 50, sound=second, overwrite=True)
    assert late_samples(Audio.open(second), Audio.open(first)) == 0


def test_equal_frames_give_equal_files(tmp_path: Path) -> None:
    rng, files = np.random.default_rng(0), []
    for index in range(8):
        # Memory that comes back from elsewhere, full of something else, must not show.
        litter = [np.full(int(size), index, np.uint8) for size in rng.integers(1000, 3_000_000, 20)]
        del litter
        write(tmp_path / f"{index}.mp4", 30, sound=chirp(16000, 1.2))
        files.append((tmp_path / f"{index}.mp4").read_bytes())
    assert all(data == files[0] for data in files)


def test_steady_frames_are_the_nearest_in_time(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write(path, 50, fps=50)
    at_50 = [frame.image for frame in read_video(path)]
    for fps in (10.0, 25.0, 30.0, 100.0):
        frames = list(read_frames(path, fps))
        assert len(frames) == round(fps)
        for index, frame in enumerate(frames):
            exact = index / fps * 50
            near = [k for k in range(50) if abs(k - exact) <= min(abs(49 - exact), 0.5) + 1e-6 or k == min(49, round(exact))]
            assert any(np.array_equal(frame, at_50[k]) for k in near)
    with pytest.raises(ValueError, match="0 frames per second"):
        next(read_frames(path, 0))


def test_a_frame_may_be_reused_at_once(tmp_path: Path) -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "out.mp4", fps=25, size=(64, 64)) as writer:
        for level in range(0, 250, 10):
            frame[:] = level
            writer.write(frame)
    found = [int(np.median(frame.image)) for frame in read_video(tmp_path / "out.mp4")]
    assert np.abs(np.array(found) - np.arange(0, 250, 10)).max() <= 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [False, True])
def test_an_exception_leaves_nothing_behind(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    path = tmp_path / "out.mp4"
    if existing:
        path.write_bytes(b"precious")

    def interrupted(frames: int) -> None:
        with VideoWriter(path, fps=25, size=SIZE, sound=chirp(16000, 9.0), overwrite=True) as writer:
            for index in range(frames):
                writer.write(picture(index))
            raise error

    for frames in (0, 1, 60):
        with pytest.raises(error):
            interrupted(frames)
    assert [entry.name for entry in tmp_path.iterdir()] == (["out.mp4"] if existing else [])
    assert not existing or path.read_bytes() == b"precious"


@pytest.mark.parametrize("started", [False, True])
def test_an_interruption_while_the_encoder_starts_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    encoders: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if started:
            encoders.append(thread)
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.mp4", 1, sound=chirp(16000, 1.0))
    for thread in encoders:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_the_folder_is_probed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def interrupted(path: Path, mode: str) -> NoReturn:
        real(path, mode).close()
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_output(tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_on_request_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists already"):
        VideoWriter(path, fps=25, size=SIZE)
    with VideoWriter(path, fps=25, size=SIZE, overwrite=True) as writer:
        writer.write(picture(0))
        assert path.read_bytes() == b"precious"
    assert len(list(read_video(path))) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_outputs_that_cannot_be_are_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    cases: list[tuple[str, type[Exception], str]] = [
        ("out.avi", ValueError, r"name it out\.mp4"),
        ("out", ValueError, r"name it out\.mp4"),
        ("folder.mp4", IsADirectoryError, "is a folder"),
        ("nowhere/out.mp4", FileNotFoundError, "does not exist"),
        ("file/out.mp4", NotADirectoryError, "is a file"),
    ]
    for name, kind, match in cases:
        with pytest.raises(kind, match=match) as caught:
            check_output(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="cannot be written to"):
        check_output("/proc/out.mp4")
    with pytest.raises(ValueError, match="130 frames"):
        VideoWriter(tmp_path / "out.mp4", fps=130, size=SIZE)
    with pytest.raises(ValueError, match="0 x 5 pixels"):
        VideoWriter(tmp_path / "out.mp4", fps=25, size=(0, 5))
    with pytest.raises(ValueError, match="no pictures"):
        write(tmp_path / "out.mp4", 0)
    with pytest.raises(ValueError, match="float64"), VideoWriter(tmp_path / "out.mp4", fps=25, size=SIZE) as writer:
        writer.write(picture(0) / 255)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write(tmp_path / "out.mp4", 1, sound=tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match="no samples"):
        write(tmp_path / "out.mp4", 1, sound=Audio(samples=torch.zeros(1, 0), rate=8000))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_a_disk_that_fills_is_one_clear_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(writer: VideoWriter) -> None:
        for _ in range(400):
            writer.write(noise.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8))

    # A limit on the size of files fails in the same calls as a full disk, with another number.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match="cannot be written") as caught:
            with VideoWriter(tmp_path / "out.mp4", fps=25, size=SIZE) as writer:
                fill(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not moving at all")
    write(tmp_path / "whole.mp4", 60)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"moov") + 40])
    (tmp_path / "half.mp4").write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3])
    cases: list[tuple[Path, type[Exception], str]] = [
        (tmp_path, IsADirectoryError, "is a folder"),
        (tmp_path / "nowhere.mp4", FileNotFoundError, "does not exist"),
        (tmp_path / "empty.mp4", ValueError, "is an empty file"),
        (tmp_path / "text.mp4", ValueError, "no sound or video"),
        (tmp_path / "cut.mp4", ValueError, "no pictures"),
        (tmp_path / "half.mp4", ValueError, "cut short|breaks off"),
    ]
    for path, kind, match in cases:
        with pytest.raises(kind, match=match) as caught:
            list(read_video(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_camera_rotation_of_a_video_is_undone(tmp_path: Path, turns: int) -> None:
    write(tmp_path / "plain.mp4", 2)
    data = bytearray((tmp_path / "plain.mp4").read_bytes())
    # The matrix of the track header: x' = a x + c y, y' = b x + d y, turning clockwise by quarter turns.
    one, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    nil, unit = bytes(4), (1 << 30).to_bytes(4, "big")
    a, b, c, d = [(one, nil, nil, one), (nil, one, minus, nil), (minus, nil, nil, minus), (nil, minus, one, nil)][turns]
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = a + b + nil + c + d + nil + nil + nil + unit
    (tmp_path / "turned.mp4").write_bytes(data)
    plain, turned = (next(read_video(tmp_path / name)).image for name in ("plain.mp4", "turned.mp4"))
    assert np.array_equal(turned, np.rot90(plain, -turns))


def test_nothing_is_printed(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, torch; from pathlib import Path; from vivavoce.media import *\n"
        "folder = Path(sys.argv[1])\n"
        "sound = Audio(samples=0.1 * torch.ones(2, 16000), rate=16000)\n"
        "with VideoWriter(folder / 'out.mp4', fps=25, size=(64, 64), sound=sound) as writer:\n"
        "    for _ in range(9): writer.write(np.zeros((64, 64, 3), np.uint8))\n"
        "list(read_video(folder / 'out.mp4')), Audio.open(folder / 'out.mp4'), speak('Good day')\n"
        "(folder / 'bad.mp3').write_bytes(bytes(range(256)) * 99)\n"
        "for call in (Audio.open, Portrait.open, lambda path: list(read_video(path))):\n"
        "    try: call(folder / 'bad.mp3')\n"
        "    except ValueError: continue\n"
        "    raise SystemExit(1)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    def peak(work: Callable[[], object]) -> int:
        tracemalloc.start()
        work()
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    def rewrite(seconds: int) -> None:
        source = tmp_path / f"{seconds}.mp4"
        with VideoWriter(tmp_path / "out.mp4", fps=10, size=(16, 16), sound=source, overwrite=True) as writer:
            for frame in read_frames(source, 10):
                writer.write(frame)

    for seconds in (10, 60):
        with VideoWriter(tmp_path / f"{seconds}.mp4", fps=10, size=(16, 16), sound=chirp(8000, seconds)) as writer:
            for _ in range(seconds * 10):
                writer.write(np.zeros((16, 16, 3), np.uint8))
    rewrite(10)
    # A minute of this sound alone would be two megabytes.
    assert peak(lambda: rewrite(60)) < peak(lambda: rewrite(10)) + 300_000
