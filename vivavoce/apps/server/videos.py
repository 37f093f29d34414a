"""Videos of recordings: jobs that are made in between the live sessions' frames."""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vivavoce.animate import Animator, Settings
from vivavoce.apps.server.limits import Limits, Refusal, refused
from vivavoce.latent.motion_space import Reference
from vivavoce.live.scheduler import Scheduler, Task
from vivavoce.media.audio import SILENCE_PEAK, Audio, Resampler, read_audio
from vivavoce.media.speak import speak
from vivavoce.media.video import VideoWriter
from vivavoce.speech.encoder import SAMPLE_RATE_HZ

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
MODEL = "vivavoce"
STEP_SECONDS = 0.2  # of sound are heard at a time, so that no step of a job takes long
_OURS = re.compile(r"video_[0-9a-f]{24}\.mp4|[0-9a-f]{24}\.sound|\.vivavoce-[0-9a-f]{16}\.part\.mp4")  # names that are given here

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Video:
    """A job. ``seconds``: of speech; ``progress``: percent; times are Unix seconds; ``width``, ``height``: of the video, px, once
    they are known; ``refusal``: why it failed."""

    id: str
    seconds: float
    created_at: int
    status: Status = "queued"
    progress: int = 0
    completed_at: int | None = None
    width: int | None = None
    height: int | None = None
    refusal: Refusal | None = None
    task: Task | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def body(self) -> dict[str, Any]:
        """The JSON that a client gets."""
        size = None if self.width is None else f"{self.width}x{self.height}"
        return {
            "id": self.id, "object": "video", "model": MODEL, "status": self.status, "progress": self.progress,
            "created_at": self.created_at, "completed_at": self.completed_at, "seconds": f"{self.seconds:.2f}", "size": size,
            "error": None if self.refusal is None else self.refusal.body()["error"],
        }


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What is to be spoken: the content of a sound file, or a text with eSpeak NG's name of a voice."""

    sound: bytes | None = None
    text: str | None = None
    voice: str = "en"


class Videos:
    """The jobs of a server, in memory; their results in a folder, for as long as the server runs. Methods may be called from any
    thread; `create` decodes the sound and belongs into one."""

    def __init__(self, folder: Path, animator: Animator, scheduler: Scheduler, limits: Limits):
        self._folder, self._animator, self._scheduler, self._limits = folder, animator, scheduler, limits
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():  # results of an earlier server, whose ids nobody knows any more; what else lies here stays
            if _OURS.fullmatch(left.name) and left.is_file():
                left.unlink()
        self._lock = threading.RLock()
        self._videos: OrderedDict[str, Video] = OrderedDict()

    def check_room(self) -> None:
        """Refusal where too many jobs wait already."""
        most = self._limits.queue
        if self.unfinished() >= most:
            raise Refusal(429, "queue_full", f"{most} videos wait or are being made, more are not allowed: try again later")

    def create(
        self, reference: Callable[[], Reference], speech: Speech, settings: Settings, *, longest: float | None = None
    ) -> Video:
        """A job that waits for its turn. ``longest``: seconds of speech. Refusal where that will not do, or too many wait."""
        key = secrets.token_hex(12)
        sound = self._folder / f"{key}.sound"
        try:
            seconds, source = self._open(speech, sound, longest or self._limits.audio_seconds)
            video = Video(id=f"video_{key}", seconds=seconds, created_at=int(time.time()))
            with self._lock:
                self.check_room()
                self._videos[video.id] = video
                self._forget()
                video.task = self._scheduler.background(self._make(video, reference, source, settings))
        except BaseException:
            sound.unlink(missing_ok=True)
            raise
        video.task.done.add_done_callback(lambda done: self._end(video, done.exception(), sound))
        return video

    def get(self, key: str) -> Video:
        """Refusal where there is none with this id."""
        with self._lock:
            if key not in self._videos:
                raise Refusal(404, "no_such_video", "there is no video with this id: it may have been deleted or too old to keep")
            return self._videos[key]

    def all(self) -> list[Video]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._videos.values()))

    def result(self, key: str) -> Path:
        """The file; Refusal where it is not there, or will not be."""
        video = self.get(key)
        if video.refusal is not None:
            raise video.refusal.with_traceback(None)
        if video.status != "completed":
            raise Refusal(409, "not_ready", f"the video is {video.status}: its content is there once it is completed")
        file = self._file(video)
        if not file.is_file():
            raise Refusal(404, "no_such_video", "the video's file is gone from the server's folder: have it made again")
        return file

    def remove(self, key: str) -> Video:
        """Stop the job, if it is not over, and delete what it made."""
        video = self.get(key)
        self.discard(video)
        return video

    def discard(self, video: Video) -> None:
        """`remove` it, if it is still there."""
        with self._lock:
            self._videos.pop(video.id, None)
        if video.task is not None:
            video.task.cancel()
        if not video.ended.is_set():
            video.status = "cancelled"
        self._file(video).unlink(missing_ok=True)

    def unfinished(self) -> int:
        """Jobs that wait or are being made."""
        with self._lock:
            return sum(not video.ended.is_set() for video in self._videos.values())

    def _file(self, video: Video) -> Path:
        return self._folder / f"{video.id}.mp4"

    def _forget(self) -> None:
        """Delete the oldest that are over, beyond as many as are kept."""
        over = [video for video in self._videos.values() if video.ended.is_set()]
        for video in over[: max(0, len(self._videos) - self._limits.kept_videos)]:
            del self._videos[video.id]
            self._file(video).unlink(missing_ok=True)

    def _open(self, speech: Speech, file: Path, longest: float) -> tuple[float, Audio | Path]:
        """How long the speech is, and where it comes from."""
        source: Audio | Path
        if speech.text is not None:
            if len(speech.text) > self._limits.text_letters:
                most = self._limits.text_letters
                letters = f"{len(speech.text)} letters, at most {most} are spoken"
                raise Refusal(413, "too_long", f"the text has {letters}: send it in parts")
            try:
                source = speak(speech.text, speech.voice)
            except ValueError as error:
                raise refused(error, "bad_text") from error
        else:
            assert speech.sound is not None
            file.write_bytes(speech.sound)
            source = file
        try:
            return _seconds(source, longest), source
        except (ValueError, OSError) as error:
            raise refused(ValueError(_nameless(str(error), file, "the sound")), "bad_audio") from error

    def _make(
        self, video: Video, reference: Callable[[], Reference], source: Audio | Path, settings: Settings
    ) -> Generator[None, None, None]:
        """The job, a frame at a time."""
        video.status = "in_progress"
        yield
        prepared = reference()
        video.width, video.height = prepared.size
        yield
        session = self._animator.session(prepared, settings)
        total = max(1, round(video.seconds * settings.fps))
        with VideoWriter(self._file(video), fps=settings.fps, size=prepared.size, sound=source, overwrite=True) as writer:
            for done, frame in enumerate(session.speak(_blocks(source)), 1):
                writer.write(frame)
                video.progress = min(99, 100 * done // total)
                yield
            writer.finish()

    def _end(self, video: Video, error: BaseException | None, sound: Path) -> None:
        sound.unlink(missing_ok=True)
        if error is None:
            video.status, video.progress = "completed", 100
        elif isinstance(error, CancelledError):
            video.status = "cancelled"
        else:
            video.status, video.refusal = "failed", self._explained(video, error, sound)
        video.completed_at = int(time.time())
        video.ended.set()
        with self._lock:
            if video.id not in self._videos:  # it was deleted meanwhile
                self._file(video).unlink(missing_ok=True)

    def _explained(self, video: Video, error: BaseException, sound: Path) -> Refusal:
        if isinstance(error, Refusal):
            return error
        if isinstance(error, ValueError):
            said = _nameless(_nameless(str(error), sound, "the sound"), self._file(video), "the video")
            return refused(ValueError(said), "bad_input", 422)
        log.error("a video could not be made", exc_info=error)
        return Refusal(500, "internal", "the video could not be made by a mistake of the server: its log has it")


def _nameless(said: str, file: Path, what: str) -> str:
    """A sentence about a file of ours, whose name is nobody's business."""
    return said.replace(f"{what} {file}", what).replace(str(file), what)


def _blocks(source: Audio | Path) -> Iterator[Audio]:
    """The sound, a little at a time."""
    if isinstance(source, Path):
        yield from read_audio(source, STEP_SECONDS)
        return
    for part in source.samples.split(round(STEP_SECONDS * source.rate), dim=1):
        yield Audio(samples=part, rate=source.rate)


def _seconds(source: Audio | Path, longest: float) -> float:
    """How long the sound is. Refusal where it is too long, of which no more is decoded than that; ValueError where it is silent
    or its rate is out of the ordinary."""
    seconds, peak = 0.0, 0.0
    for block in _blocks(source):
        if not seconds:
            Resampler(block.rate, SAMPLE_RATE_HZ)
        seconds, peak = seconds + block.duration, max(peak, float(block.samples.abs().max()))
        if seconds > longest:
            said = f"the speech lasts more than {longest:g} seconds, which is the most here: send it in parts"
            raise Refusal(413, "too_long", said)
    if peak < SILENCE_PEAK:
        raise ValueError("the sound is silent: give a recording of speech")
    return seconds
