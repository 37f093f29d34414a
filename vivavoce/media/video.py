"""Moving pictures: a reader that knows the time of each frame, and a writer of MP4 files that are whole or not there."""

from __future__ import annotations

import errno
import math
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame as Decoded
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream

from vivavoce.media.audio import Audio
from vivavoce.media.files import check_writable, open_media, plain_error, temporary_name
from vivavoce.media.soundtrack import SoundTrack
from vivavoce.media.whole import EXACT_LENGTH, cut_short

MIN_FPS, MAX_FPS = 1.0, 120.0
# The largest side that players of H.264 accept.
MAX_SIDE = 8192
# Frames that wait for the encoder: enough to keep both threads busy, few enough for large pictures.
_QUEUE_BYTES = 64 * 2**20
_QUEUE_FRAMES = 16
# Frames may be long; this much missing at the end of a file is a cut.
_CUT_SHORT_SECONDS = 1.0
# AVColorSpace's value for "not said", and from what height on players then assume high definition's BT.709.
_UNSPECIFIED = 2
_HD_HEIGHT = 720
# Without x264's macroblock tree, whose lookahead reads memory that nobody wrote: with it equal frames gave unequal files.
_H264 = {"preset": "veryfast", "crf": "18", "x264-params": "mbtree=0"}
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFrame:
    """image: uint8 (h, w, 3), RGB, upright, square pixels.  time: seconds on the file's clock, which its sound shares."""

    image: np.ndarray
    time: float


def read_video(path: str | Path) -> Iterator[VideoFrame]:
    """Yields the frames of a video in order of time, in constant memory.

    The camera's rotation is applied.  Raises an OSError when the file cannot be read and ValueError when it is no video, a still
    picture, holds no frames or breaks off.
    """
    path = Path(path)
    with open_media(path, "video") as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            raise ValueError(f"{path} has no pictures in it: give a video")
        _require_moving(path, container, stream)
        stream.thread_type = "AUTO"
        origin = 0.0 if container.start_time is None else container.start_time / av.time_base
        aspect = stream.sample_aspect_ratio or Fraction(1)
        count, time = 0, 0.0
        try:
            for frame in container.decode(stream):
                # A frame without a time stamp follows the one before it at the nominal rate.
                time = count / float(stream.average_rate or 25) if frame.time is None else frame.time - origin
                count += 1
                yield VideoFrame(image=_to_rgb(frame, aspect), time=time)
        except av.error.FFmpegError as error:
            raise ValueError(f"{path} breaks off after {count} frames ({error.strerror}): copy or download it again") from error
        if not count:
            raise ValueError(f"{path} holds no frames: give a video")
        if container.format.name in EXACT_LENGTH and stream.duration is not None and stream.time_base is not None:
            declared = float(stream.duration * stream.time_base)
            if time < declared - _CUT_SHORT_SECONDS:
                raise ValueError(cut_short(path, time, declared))


def video_seconds(path: str | Path) -> float | None:
    """What the file says of its length in seconds; None if it says nothing.  Raises as `read_video` does at its start."""
    path = Path(path)
    with open_media(path, "video") as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise ValueError(f"{path} has no pictures in it: give a video")
        _require_moving(path, container, stream)
        return None if container.duration is None else container.duration / av.time_base


def _require_moving(path: Path, container: InputContainer, stream: VideoStream) -> None:
    """ValueError for a still picture, and for sound with a picture of its cover."""
    if container.format.name == "image2" or container.format.name.endswith("_pipe"):
        raise ValueError(f"{path} is a still picture: give a video")
    if stream.disposition & Disposition.attached_pic:
        raise ValueError(f"{path} has no moving pictures in it, only a cover: give a video")


def read_frames(path: str | Path, fps: float) -> Iterator[np.ndarray]:
    """The video at a steady rate: frame k is the picture nearest in time to k / fps seconds, uint8 (h, w, 3), RGB.

    As many frames as the video lasts; at the video's own rate, each of its frames once.  Raises as `read_video` does.
    """
    if not fps > 0:
        raise ValueError(f"{fps} frames per second do not exist: give a positive rate")
    index = 0
    before: VideoFrame | None = None
    interval = 0.0
    for frame in read_video(path):
        if before is not None:
            interval = frame.time - before.time
            # Up to the middle between two frames, the earlier one is the nearer.
            while index / fps <= (before.time + frame.time) / 2:
                yield before.image
                index += 1
        before = frame
    assert before is not None, "read_video yields at least one frame"
    # The last frame stands as long as the one before it did; the allowance is for time stamps in whole milliseconds.
    end = before.time + max(interval, 1e-3)
    while index == 0 or index / fps < end - 0.1 * interval:
        yield before.image
        index += 1


def _to_rgb(frame: Decoded, aspect: Fraction) -> np.ndarray:
    source = frame.colorspace
    if source == _UNSPECIFIED:
        source = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
    width = max(1, round(frame.width * aspect))
    full = ColorRange.JPEG
    image = frame.reformat(
        width=width, format="rgb24", src_colorspace=source, dst_color_range=full, interpolation=_EXACT
    ).to_ndarray()
    # The display matrix counts degrees anticlockwise, as rot90 does.
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def check_output(path: str | Path, overwrite: bool = False) -> None:
    """Raises one clear error if a video cannot be written there, before any work is done: as `check_writable` does, for .mp4."""
    check_writable(Path(path), (".mp4",), overwrite)


class VideoWriter:
    """Writes H.264 and AAC to an MP4 file: a context manager, to which `write` gives the pictures in order.

    size: (width, height) in pixels; an odd side is made even by repeating its last row or column, because the pictures are
    stored with halved colour.  fps: frames per second, 1 to 120; a Fraction gives NTSC rates exactly.  sound: a file or sound
    that starts with the first picture and is written whole, at its own rate where AAC has it; more than two channels are mixed
    to stereo.  Colours are BT.709 and say so, and the index precedes the data (faststart).

    Encoding runs in its own thread behind a short queue, in constant memory.  The file appears under its name only when the
    `with` block ends without an exception; before that and after any exception, whatever was there stays.  Raises what
    `check_output` and `read_audio` raise on entering, and OSError when the disk fills.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | Fraction,
        size: tuple[int, int],
        sound: Path | Audio | None = None,
        overwrite: bool = False,
    ) -> None:
        if not MIN_FPS <= fps <= MAX_FPS:
            raise ValueError(f"{float(fps):g} frames per second cannot be written: give {MIN_FPS:g} to {MAX_FPS:g}")
        if not all(1 <= side <= MAX_SIDE for side in size):
            raise ValueError(f"{size[0]} x {size[1]} pixels cannot be written: give 1 to {MAX_SIDE} for each side")
        check_output(path, overwrite)
        self._path = Path(path).absolute()
        self._overwrite = overwrite
        self._size = size
        self._finished = False
        # 1001 is the largest denominator in use (24000/1001); 23.976 stays 2997/125.
        self._fps = Fraction(fps).limit_denominator(1001)
        self._source = sound
        self._temporary = self._path.with_name(temporary_name(".mp4"))
        waiting = min(_QUEUE_FRAMES, max(2, _QUEUE_BYTES // (3 * size[0] * size[1])))
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(maxsize=waiting)
        self._failure: BaseException | None = None
        self._aborted = False
        self._count = 0
        self._thread: threading.Thread | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the pictures in the file: even."""
        width, height = self._size
        return width + width % 2, height + height % 2

    def __enter__(self) -> VideoWriter:
        assert self._thread is None, "a VideoWriter writes one file"
        sound = None if self._source is None else SoundTrack(self._source)
        self._thread = threading.Thread(target=self._run, args=(sound,), name="vivavoce-encoder", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            # Ctrl-C here leaves no __exit__ to end the thread, which may have started or not.
            self._queue.put(None)
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Takes the next picture, uint8 (height, width, 3), RGB; it may be reused at once.  Waits while the queue is full."""
        width, height = self._size
        if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
            raise ValueError(
                f"this video takes uint8 frames of shape {(height, width, 3)}, not {frame.dtype} of shape {frame.shape}: "
                f"convert or resize them"
            )
        assert self._thread is not None and not self._finished, "write inside the with block, before finish"
        self._put(np.array(frame, order="C"))
        self._count += 1

    def finish(self) -> None:
        """Encodes what is waiting and completes the file, which gets its name at the end of the block.  Raises as that does."""
        assert self._thread is not None, "finish inside the with block"
        if self._finished:
            return
        self._put(None)
        self._thread.join()
        self._check()
        if not self._count:
            raise ValueError(f"no pictures were given for {self._path}: write at least one")
        self._finished = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._thread is not None
        try:
            if kind is None:
                self.finish()
                if not self._overwrite and self._path.exists():
                    raise FileExistsError(f"the output {self._path} exists by now: choose another name or allow overwriting")
                self._temporary.replace(self._path)
        finally:
            try:
                self._abort(self._thread)
            finally:  # a second Ctrl-C too
                self._temporary.unlink(missing_ok=True)

    def _put(self, item: np.ndarray | None) -> None:
        while True:
            self._check()
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def _check(self) -> None:
        failure = self._failure
        if isinstance(failure, OSError) and isinstance(failure, av.error.FFmpegError):
            full = failure.errno == errno.ENOSPC
            hint = "the disk is full: free some space" if full else f"{failure.strerror}: choose another folder"
            message = f"the video {self._path} cannot be written, {hint}"
            raise plain_error(OSError, message, failure) from failure
        if failure is not None:
            raise failure

    def _abort(self, thread: threading.Thread) -> None:
        self._aborted = True
        while thread.is_alive():
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                self._queue.get_nowait()
            thread.join(timeout=0.05)

    def _run(self, sound: SoundTrack | None) -> None:
        try:
            self._encode(sound)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread by _check
            self._failure = error

    def _encode(self, sound: SoundTrack | None) -> None:
        frame = self._queue.get()
        if frame is None:
            return  # no file is begun before there is a picture for it
        width, height = self.size
        options = {"movflags": "+faststart"}
        if sound is not None:
            # The edit list that hides the encoder's priming counts in this unit; by default it would round to milliseconds.
            options["movie_timescale"] = str(sound.rate)
        with av.open(f"file:{self._temporary}", mode="w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=self._fps, options=_H264)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = stream.codec_context.time_base = 1 / self._fps
            context = stream.codec_context
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            if sound is not None:
                sound.attach(container)
            index = 0
            while frame is not None and not self._aborted:
                if sound is not None:
                    sound.write_until(float((index + 1) / self._fps))
                container.mux(stream.encode(_to_yuv(frame, width, height, index, 1 / self._fps)))
                index += 1
                frame = self._queue.get()
            if not self._aborted:
                if sound is not None:
                    sound.write_until(math.inf)
                container.mux(stream.encode(None))


def _to_yuv(frame: np.ndarray, width: int, height: int, index: int, time_base: Fraction) -> Decoded:
    missing = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
    even = np.pad(frame, missing, mode="edge") if any(after for _, after in missing) else frame
    converted = Decoded.from_ndarray(even, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        interpolation=_EXACT,
    )
    converted.pts, converted.time_base = index, time_base
    return converted
