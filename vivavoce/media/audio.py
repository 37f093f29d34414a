"""Sound: a typed value, a reader in constant memory, and a resampler whose output does not depend on the chunking."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from jaxtyping import Float32, Int16
from torch import Tensor

from vivavoce.media.files import open_media
from vivavoce.media.whole import cut_short, exact_seconds, least_seconds, stated_seconds

MAX_SECONDS = 6 * 3600.0
# Louder than dither and a microphone's hiss, far below any speech: -60 dB of full scale.
SILENCE_PEAK = 1e-3
# A reader forgives a scratch, and no more than this share of packets.
MAX_DAMAGED_SHARE = 0.05
_CUT_SHORT_SECONDS = 0.25
_PCM16 = 32768  # full scale of signed 16-bit samples
# Zero crossings on each side and the window's shape: 80 dB of rejection, flat up to 84 % of the lower Nyquist frequency.
_CROSSINGS = 32
_KAISER_BETA = 8.0
_CUTOFF = 0.92
# Of a resampler's ratio: rates that have hardly a divisor in common would take gigabytes of filter.
_LARGEST_TERM = 2**14
# Outputs computed at once; long enough to amortise numpy's calls, short enough to stay in the cache.
_SLAB = 16384


@dataclass(frozen=True, kw_only=True, eq=False)
class Audio:
    """Sound samples: float32 (c, t), full scale is [-1, 1]; rate in Hz.  No samples at all are allowed (a chunk may be
    empty); values that are not numbers raise ValueError."""

    samples: Float32[Tensor, "c t"]
    rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.shape[0] < 1 or self.samples.dtype != torch.float32:
            raise ValueError(
                f"sound is a float32 tensor of shape (channels, samples), "
                f"not {self.samples.dtype} of shape {tuple(self.samples.shape)}: convert it first"
            )
        if self.rate <= 0:
            raise ValueError(f"a sampling rate of {self.rate} Hz does not exist: give a positive number")
        if not torch.isfinite(self.samples).all():
            raise ValueError("the sound holds samples that are not numbers (NaN or infinity): record or export it again")

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[1] / self.rate

    def mono(self) -> Audio:
        """The mean of the channels."""
        return self if self.samples.shape[0] == 1 else Audio(samples=self.samples.mean(dim=0, keepdim=True), rate=self.rate)

    @staticmethod
    def open(path: str | Path) -> Audio:
        """The whole sound of a file, at its own rate and channels; raises as `read_audio` does."""
        return concatenate(list(read_audio(path)))

    @staticmethod
    def from_pcm16(data: bytes, rate: int) -> Audio:
        """Mono from little-endian signed 16-bit samples, as microphones and sockets deliver them."""
        if len(data) % 2:
            raise ValueError(f"16-bit samples take an even number of bytes, not {len(data)}: keep the odd one for the next chunk")
        return Audio(samples=torch.from_numpy(np.frombuffer(data, dtype="<i2").astype(np.float32)[None] / _PCM16), rate=rate)

    def to_pcm16(self) -> Int16[np.ndarray, " t"]:
        """The mean of the channels as little-endian signed 16-bit samples; what is louder than full scale is clipped."""
        return np.clip(np.round(self.mono().samples[0].numpy() * _PCM16), -_PCM16, _PCM16 - 1).astype("<i2")

    def to_wav(self) -> bytes:
        """`to_pcm16` as a WAV file."""
        written = io.BytesIO()
        with wave.open(written, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(self.to_pcm16().tobytes())
        return written.getvalue()


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What `probe_audio` found: the decoded length, the rate in Hz, the number of channels and the largest |sample|."""

    duration_seconds: float
    rate: int
    channels: int
    peak: float


def concatenate(parts: list[Audio]) -> Audio:
    """Joins one or more sounds of equal rate and channels in time."""
    assert parts
    assert all(part.rate == parts[0].rate for part in parts)
    return parts[0] if len(parts) == 1 else Audio(samples=torch.cat([part.samples for part in parts], dim=1), rate=parts[0].rate)


def has_sound(path: str | Path) -> bool:
    """Whether a sound or video file has a sound track; raises as `read_audio` does when it is neither."""
    with open_media(Path(path), "file") as container:
        return container.streams.best("audio") is not None


def probe_audio(path: str | Path) -> AudioInfo:
    """Decodes a file once, in constant memory and some hundred times faster than it plays, so that a long job can be refused
    before it starts and its length is known exactly (headers of MP3 and streams only guess it).

    Raises as `read_audio` does, and ValueError for a silent recording.
    """
    samples, peak = 0, 0.0
    for block in read_audio(path):
        samples, peak = samples + block.samples.shape[1], max(peak, float(block.samples.abs().max()))
    if peak < SILENCE_PEAK:
        raise ValueError(f"{path} is silent (its loudest sample is {peak:.1g} of full scale): give a recording of speech")
    return AudioInfo(duration_seconds=samples / block.rate, rate=block.rate, channels=block.samples.shape[0], peak=peak)


def read_audio(path: str | Path, block_seconds: float = 1.0) -> Iterator[Audio]:
    """Yields the sound of any file that FFmpeg's libraries know, in blocks of `block_seconds` (the last may be shorter).

    Sound that starts later than the file's pictures is preceded by silence, so that time 0 is the file's own.  The encoder's
    priming and padding are cut off.  Raises an OSError when the file cannot be read and ValueError when it is no sound, holds
    no samples, is damaged, longer than six hours or holds samples that are not numbers, and when
    it has been cut short, as far as its format tells: WAV, FLAC, MP4, Ogg, and MP3 with a header that states the length.
    """
    path = Path(path)
    with open_media(path, "sound") as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            raise ValueError(f"{path} has no sound in it: give a recording of speech")
        least, declared = least_seconds(path, container, stream), exact_seconds(container, stream)
        stated = declared if container.format.name != "wav" else stated_seconds(stream)
        if max(stated or 0.0, least) > MAX_SECONDS:
            raise ValueError(_too_long(path, f"{max(stated or 0.0, least) / 3600:.1f}"))
        pending: list[np.ndarray] = []
        rate, held, total, limit, size = 0, 0, 0, math.inf, 0
        for part, part_rate in _decode(path, container, stream):
            if not rate:
                rate, size = part_rate, max(1, round(block_seconds * part_rate))
                # MP4 says to the sample where the sound ends, and the decoder does not look.
                limit = round(declared * rate) if declared is not None else math.inf
            if part_rate != rate or (pending and part.shape[0] != pending[0].shape[0]):
                raise ValueError(f"{path} changes its rate or channels midway: convert it to WAV first")
            part = part[:, : max(0, int(min(limit - total, part.shape[1])))]
            total += part.shape[1]
            if total > MAX_SECONDS * rate:
                raise ValueError(_too_long(path, f"more than {MAX_SECONDS / 3600:.0f}"))
            if not np.isfinite(part).all():
                raise ValueError(f"{path} holds samples that are not numbers (NaN or infinity): record or export it again")
            pending.append(part)
            held += part.shape[1]
            if held >= size:
                joined = np.concatenate(pending, axis=1)
                whole = held - held % size
                for first in range(0, whole, size):
                    yield Audio(samples=torch.from_numpy(joined[:, first : first + size].copy()), rate=rate)
                pending, held = [joined[:, whole:]], held - whole
        if total == 0:
            raise ValueError(f"{path} holds no sound at all (0 samples): give a recording of speech")
        if total / rate < least - _CUT_SHORT_SECONDS:
            raise ValueError(cut_short(path, total / rate, least))
        if held:
            yield Audio(samples=torch.from_numpy(np.concatenate(pending, axis=1)), rate=rate)


def _too_long(path: Path, hours: str) -> str:
    return f"{path} lasts {hours} hours, and at most {MAX_SECONDS / 3600:.0f} are accepted: cut it into parts"


def _decode(path: Path, container: InputContainer, stream: AudioStream) -> Iterator[tuple[np.ndarray, int]]:
    """Float32 (c, t) pieces and their rate in Hz; a damaged packet becomes silence of its length, a few of them are forgiven."""
    packets, damaged, offset = 0, 0, container.start_time
    frame: AudioFrame | None = None
    lost_seconds = 0.0
    try:
        for packet in container.demux(stream):
            packets += packet.size > 0
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                damaged += 1
                lost_seconds += float((packet.duration or 0) * (packet.time_base or 0))
                continue
            for decoded in frames:
                assert isinstance(decoded, AudioFrame)
                if frame is None and offset is not None and decoded.pts is not None:
                    late = (decoded.time or 0.0) - offset / av.time_base - lost_seconds
                    lost_seconds += min(max(0.0, late), MAX_SECONDS + 1.0)
                frame = decoded
                values = _to_float(frame)
                silence = round(lost_seconds * frame.sample_rate)
                lost_seconds = 0.0
                # A second at a time: a header may claim hours.
                for first in range(0, silence, frame.sample_rate):
                    part = min(frame.sample_rate, silence - first)
                    yield np.zeros((values.shape[0], part), np.float32), frame.sample_rate
                yield values, frame.sample_rate
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be decoded ({error.strerror}): convert it to WAV first") from error
    if damaged and damaged > MAX_DAMAGED_SHARE * packets:
        raise ValueError(f"{path} is damaged: {damaged} of its {packets} packets cannot be decoded; copy or download it again")


def _to_float(frame: AudioFrame) -> np.ndarray:
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128.0) / 128.0
    if values.dtype.kind == "i":
        return (values / 2.0 ** (8 * values.dtype.itemsize - 1)).astype(np.float32)
    return np.ascontiguousarray(values, dtype=np.float32)


class Resampler:
    """Windowed-sinc resampling to mono: output k is the band-limited input at exactly k / rate_out seconds, for every k below
    duration * rate_out.  The input is taken as zero before its start and after its end.

    The output is bit-identical for any chunking of the input, since each output sample is the same sum in the same order.
    It lags its input by 32 periods of the lower rate (2 ms at 16 kHz).  Equal rates pass the samples through.  ValueError for
    rates that are not positive or that have hardly a divisor in common.
    One object serves one stream; after `finish` it is spent.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        if rate_in <= 0 or rate_out <= 0:
            raise ValueError(f"cannot resample from {rate_in} to {rate_out} Hz: give positive rates")
        self.rate_in, self.rate_out = rate_in, rate_out
        divisor = math.gcd(rate_in, rate_out)
        self._up, self._down = rate_out // divisor, rate_in // divisor
        if max(self._up, self._down) > _LARGEST_TERM:
            raise ValueError(f"sound at {rate_in} Hz cannot be resampled to {rate_out} Hz: convert it to 48000 Hz first")
        self._half, self._bank = _filter_bank(self._up, self._down)
        # Input samples from absolute index self._first on; the zeros stand for the time before the sound.
        self._held = np.zeros(self._half)
        self._first = -self._half
        self._done = 0
        self._finished = False

    def push(self, audio: Audio) -> Audio:
        """Takes the next chunk (any channels, rate_in) and returns what it determines: mono at rate_out, possibly empty."""
        assert not self._finished, "a Resampler serves one stream"
        if audio.rate != self.rate_in:
            raise ValueError(f"this stream is at {self.rate_in} Hz and a chunk is at {audio.rate} Hz: resample it separately")
        mono = audio.mono()
        if self._up == self._down:
            return mono
        self._held = np.concatenate([self._held, mono.samples[0].numpy().astype(np.float64)])
        known = self._first + len(self._held)
        # Output k reads inputs floor(k * down / up) - half + 1 ... + half.
        return self._emit(max(self._done, -(-(known - self._half) * self._up // self._down)))

    def finish(self) -> Audio:
        """The rest of the output, once the input has ended."""
        assert not self._finished, "a Resampler serves one stream"
        self._finished = True
        if self._up == self._down:
            return self._wrap(np.zeros(0))
        known = self._first + len(self._held)
        self._held = np.concatenate([self._held, np.zeros(self._half)])
        return self._emit(max(self._done, -(-known * self._up // self._down)))

    def _emit(self, stop: int) -> Audio:
        parts = [self._compute(first, min(first + _SLAB, stop)) for first in range(self._done, stop, _SLAB)]
        self._done = stop
        spent = stop * self._down // self._up - self._half + 1 - self._first
        if spent > 0:
            self._held, self._first = self._held[spent:], self._first + spent
        return self._wrap(np.concatenate(parts) if parts else np.zeros(0))

    def _compute(self, first: int, stop: int) -> np.ndarray:
        positions = np.arange(first, stop, dtype=np.int64) * self._down
        start = positions // self._up - self._half + 1 - self._first
        phase = positions % self._up
        total = np.zeros(stop - first)
        # One tap at a time: a matrix product may sum in another order for another number of rows.
        for tap, weights in enumerate(self._bank):
            total += self._held[start + tap] * weights[phase]
        return total

    def _wrap(self, values: np.ndarray) -> Audio:
        return Audio(samples=torch.from_numpy(values.astype(np.float32)[None]), rate=self.rate_out)


def _filter_bank(up: int, down: int) -> tuple[int, np.ndarray]:
    """Half the number of taps, and the taps by phase: float64 (taps, up), each phase summing to 1."""
    bandwidth = _CUTOFF * min(1.0, up / down)
    reach = _CROSSINGS * max(1.0, down / up)
    half = math.ceil(reach)
    taps = np.arange(-half + 1, half + 1)[:, None]
    distance = taps - np.arange(up)[None] / up
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1.0 - (distance / reach) ** 2, 0.0, None))) * (np.abs(distance) <= reach)
    bank = np.sinc(bandwidth * distance) * window
    return half, bank / bank.sum(axis=0)
