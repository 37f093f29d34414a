"""One endless live stream: pulled a frame at a time, it speaks what it is given and idles while there is nothing.

Speech and silence are one timeline. Asked for a frame, the stream lets its session hear just as much as that frame needs: what
has been pushed, or silence where nothing has. So speech that arrives is placed as early as it can still be heard, and it is shown
`LiveStream.delay_seconds` later, together with its sound.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32

from vivavoce.animate import Animator, Controls, Settings
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.space import Frame
from vivavoce.media.audio import Audio, Resampler
from vivavoce.speech.encoder import SAMPLE_RATE_HZ

LOWEST_RATE_HZ, DEFAULT_RATE_HZ, HIGHEST_RATE_HZ = 8000, 24000, 48000
CUSHION_SECONDS = 0.02  # of speech that is still coming are kept back, so that it does not run dry when a chunk is a little late
_LEAST_SECONDS = 0.01  # of the timeline are heard at a time
FORGOTTEN_SECONDS = 1.0  # a segment that runs dry for so long is over, even if nobody said so

Sound = Float32[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happens on the timeline: speech begins, ends, or is cut short. ``segment``: which one, None where an
    interruption met none; ``seconds``: of the stream."""

    kind: Literal["started", "finished", "interrupted"]
    segment: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LiveFrame:
    """A frame, its sound, and what happens in it.

    ``index``: frames of the stream before it, left-out ones included; ``seconds``: index / fps; ``sound``: mono, from
    ``sound_seconds``, the end of the frame before, to the end of this one; ``left_out``: frames before it that were not painted;
    ``speaking``: whether there is speech in its sound.
    """

    index: int
    seconds: float
    picture: Frame
    sound: Audio
    sound_seconds: float
    marks: tuple[Mark, ...]
    left_out: int
    speaking: bool


class BufferFull(ValueError):
    """More speech was pushed than may wait."""


class _Segment:
    """Speech that belongs together: chunks that wait, and whether more may come."""

    def __init__(self, number: int):
        self.number, self.open, self.begun = number, True, False
        self.chunks: deque[Sound] = deque()
        self.waiting = 0  # samples
        self.dry: int | None = None  # sample of the timeline at which it ran dry

    def add(self, chunk: Sound) -> None:
        self.chunks.append(chunk)
        self.waiting += len(chunk)

    def take(self, count: int) -> Sound:
        """Up to so many samples."""
        parts = []
        while count and self.chunks:
            chunk = self.chunks.popleft()
            if len(chunk) > count:
                self.chunks.appendleft(chunk[count:])
                chunk = chunk[:count]
            parts.append(chunk)
            count -= len(chunk)
            self.waiting -= len(chunk)
        return np.concatenate(parts)


class LiveStream:
    """A portrait that idles and speaks. `push`, `end_segment`, `interrupt` and `control` may be called from any thread, `step`
    from one at a time. Owns all state of one viewer."""

    def __init__(self, animator: Animator, reference: Reference, settings: Settings, *, rate: int, longest: float = 60.0):
        """``animator``: best one that is `Animator.live`; ``rate``: of the speech and of the sound that comes out, Hz;
        ``longest``: seconds of speech that may wait."""
        if not LOWEST_RATE_HZ <= rate <= HIGHEST_RATE_HZ:
            raise ValueError(f"speech at {rate} Hz was announced: give {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}")
        Resampler(rate, SAMPLE_RATE_HZ)  # ValueError where the rate will not do, before a session depends on it
        self.fps, self.rate, self.longest = settings.fps, rate, longest
        self.delay_seconds = animator.delay_seconds + CUSHION_SECONDS
        self.underruns = 0  # times that speech ran dry in the middle of a segment
        self._session = animator.session(reference, settings)
        self.size = self._session.size
        self._lock = threading.Lock()  # of the next four, which `step` shares with whoever pushes
        self._segments: deque[_Segment] = deque()
        self._count = 0  # segments so far
        self._interrupted = False
        self._controls: Controls | None = None
        self._frames: Iterator[Frame] = iter(())
        self._index = 0  # frames so far
        self._begin = 0  # sample of the timeline at which the next frame's sound begins
        self._heard: deque[tuple[Sound, bool]] = deque()  # the timeline from there on, and whether there is speech in it
        self._head = 0  # samples of the timeline so far
        self._marks: deque[Mark] = deque()  # of the timeline from the next frame on
        self._speaking: int | None = None  # the segment whose beginning has been shown and whose end has not

    @property
    def buffered_seconds(self) -> float:
        """Speech that waits."""
        with self._lock:
            return self._waiting() / self.rate

    def push(self, audio: Audio) -> None:
        """More speech, of any length, at the stream's rate. BufferFull where too much would wait; then none of it is taken."""
        if audio.rate != self.rate:
            raise ValueError(f"speech at {audio.rate} Hz was pushed, but the stream was opened for {self.rate} Hz")
        chunk = audio.mono().samples[0].numpy()
        with self._lock:
            waiting = self._waiting() + len(chunk)
            if waiting > self.longest * self.rate:
                raise BufferFull(
                    f"{waiting / self.rate:.1f} seconds of speech would wait to be spoken, at most {self.longest:g} may: push no "
                    "faster than it is spoken, or interrupt"
                )
            if not len(chunk):
                return
            if not self._segments or not self._segments[-1].open:
                self._segments.append(_Segment(self._count))
                self._count += 1
            self._segments[-1].add(chunk)

    def end_segment(self) -> None:
        """What was pushed so far is complete: it need not wait for more, and what is pushed next begins anew."""
        with self._lock:
            if self._segments:
                self._segments[-1].open = False

    def interrupt(self) -> None:
        """Be silent from the next frame on: all speech that has not been shown is forgotten."""
        with self._lock:
            self._interrupted = True
            self._segments.clear()

    def control(self, controls: Controls) -> None:
        """Strengths from the next motion on."""
        with self._lock:
            self._controls = controls

    def step(self, leave_out: int = 0) -> LiveFrame:
        """The next frame, after so many that are left out because there is no time to paint them; their sound comes with it."""
        self._obey()
        for _ in range(leave_out):
            while not self._session.skip():
                self._hear()
        while (picture := next(self._frames, None)) is None:
            self._hear()
        index = self._index + leave_out
        self._index = index + 1
        begin = self._begin
        sound, speaking = self._sound(round(self._index * self.rate / self.fps))
        return LiveFrame(
            index=index, seconds=index / self.fps, picture=picture, marks=self._marks_before(self._begin / self.rate),
            sound=Audio(samples=torch.from_numpy(sound)[None], rate=self.rate), sound_seconds=begin / self.rate,
            left_out=leave_out, speaking=speaking,
        )

    def _waiting(self) -> int:
        return sum(segment.waiting for segment in self._segments)

    def _obey(self) -> None:
        """Do what was asked for since the last frame."""
        with self._lock:
            interrupted, self._interrupted = self._interrupted, False
            controls, self._controls = self._controls, None
        if controls is not None:
            self._session.control(controls)
        if interrupted:
            self._session.interrupt()
            self._frames = iter(())
            self._heard.clear()
            self._head = self._begin
            self._marks = deque([Mark(kind="interrupted", segment=self._speaking, seconds=self._begin / self.rate)])

    def _hear(self) -> None:
        """Decide as much more of the timeline as further motion needs, and let the session hear it."""
        seconds = max(self._session.awaited_seconds, _LEAST_SECONDS)
        block = np.zeros(int(np.ceil(seconds * self.rate - 1e-6)), np.float32)
        with self._lock:
            spoken = self._speak(block)
        self._heard.append((block, spoken))
        self._head += len(block)
        self._frames = self._session.push(Audio(samples=torch.from_numpy(block)[None], rate=self.rate))

    def _speak(self, block: Sound) -> bool:
        """Fill a block of silence with the speech that waits; whether there was any.

        Speech that begins while more of it is coming is put at the block's end, or it would run dry within the block.
        """
        filled, spoken, cushion = 0, False, round(CUSHION_SECONDS * self.rate)
        while self._segments and filled < len(block):
            segment, now, left = self._segments[0], self._head + filled, len(block) - filled
            if not segment.waiting and not segment.open:  # all of it has been spoken
                self._segments.popleft()
                if segment.begun:
                    self._marks.append(Mark(kind="finished", segment=segment.number, seconds=now / self.rate))
                continue
            if segment.begun and not segment.waiting and segment.dry is None:
                segment.dry = now
                self.underruns += 1
            if segment.open and (not segment.begun or segment.dry is not None):
                pause = max(0, left - max(0, segment.waiting - cushion))
                if pause == left:
                    if segment.dry is None:
                        segment.dry = now
                    segment.open = now - segment.dry <= FORGOTTEN_SECONDS * self.rate
                    if segment.open:
                        break
                    continue
                filled += pause
                left -= pause
                now += pause
            if not segment.begun:
                segment.begun = True
                self._marks.append(Mark(kind="started", segment=segment.number, seconds=now / self.rate))
            part = segment.take(left)
            block[filled : filled + len(part)] = part
            filled += len(part)
            spoken, segment.dry = True, None
        return spoken

    def _sound(self, end: int) -> tuple[Sound, bool]:
        """The timeline up to a sample, and whether there is speech in it."""
        parts, spoken, wanted = [], False, end - self._begin
        while wanted:
            block, speech = self._heard.popleft()
            if len(block) > wanted:
                self._heard.appendleft((block[wanted:], speech))
                block = block[:wanted]
            parts.append(block)
            spoken |= speech
            wanted -= len(block)
        self._begin = end
        return np.concatenate(parts), spoken

    def _marks_before(self, seconds: float) -> tuple[Mark, ...]:
        passed = []
        while self._marks and self._marks[0].seconds < seconds:
            mark = self._marks.popleft()
            self._speaking = mark.segment if mark.kind == "started" else None
            passed.append(mark)
        return tuple(passed)
