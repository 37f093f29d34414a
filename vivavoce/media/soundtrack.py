"""The sound of a video that is being written: any sound in, AAC packets out, as far as the pictures have come."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer

from vivavoce.media.audio import Audio, Resampler, read_audio

# The sampling rates in Hz that AAC knows.
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_BITS_PER_SECOND = {1: 128_000, 2: 192_000}
# What the centre and the surround channels weigh in stereo (ITU-R BS.775).
_SIDE = 0.5**0.5


class SoundTrack:
    """Reads its source block by block; opening it raises what `read_audio` raises."""

    def __init__(self, source: Path | Audio) -> None:
        self._blocks = _cut(source) if isinstance(source, Audio) else read_audio(source)
        # The first block tells the rate and the channels, which the container's header needs.
        self._next: Audio | None = next(self._blocks)
        first = self._next
        self._channels = min(2, first.samples.shape[0])
        self.rate = aac_rate(first.rate)
        self._resamplers = [Resampler(first.rate, self.rate) for _ in range(self._channels)]
        self._samples = 0

    def attach(self, container: OutputContainer) -> None:
        """Adds its stream to a container that has not begun."""
        layout = "mono" if self._channels == 1 else "stereo"
        stream = container.add_stream("aac", rate=self.rate, layout=layout)
        assert isinstance(stream, AudioStream)
        stream.codec_context.bit_rate = _BITS_PER_SECOND[self._channels]
        stream.codec_context.time_base = stream.time_base = Fraction(1, self.rate)
        self._container, self._stream, self._layout = container, stream, layout

    def write_until(self, seconds: float) -> None:
        """Encodes and muxes the sound up to a time, in whole blocks; to the end and the encoder's last packet for infinity."""
        while self._next is not None and self._samples < seconds * self.rate:
            channels = [Audio(samples=row[None], rate=self._next.rate) for row in to_stereo(self._next.samples)]
            rows = [resampler.push(channel) for resampler, channel in zip(self._resamplers, channels, strict=True)]
            self._next = next(self._blocks, None)
            self._write(rows)
            if self._next is None:
                self._write([resampler.finish() for resampler in self._resamplers])
                self._container.mux(self._stream.encode(None))

    def _write(self, rows: list[Audio]) -> None:
        samples = torch.cat([row.samples for row in rows]).clamp(-1.0, 1.0)
        if samples.shape[1] == 0:
            return
        frame = AudioFrame.from_ndarray(samples.contiguous().numpy(), format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self._samples, Fraction(1, self.rate)
        self._samples += samples.shape[1]
        self._container.mux(self._stream.encode(frame))


def aac_rate(rate: int) -> int:
    """The rate in Hz itself where AAC has it, else the next higher one, or the highest."""
    return next((known for known in _AAC_RATES if known >= rate), _AAC_RATES[-1])


def to_stereo(samples: torch.Tensor) -> torch.Tensor:
    """Mixes (c, t) to (2, t), for channels in the usual order: left, right, centre, bass, surround pairs; one or two pass."""
    count = samples.shape[0]
    if count <= 2:
        return samples
    mix = torch.zeros(2, count)
    mix[0, 0] = mix[1, 1] = 1.0
    rest = list(range(2, count))
    if count != 4:  # four channels are two pairs
        mix[:, rest.pop(0)] = _SIDE
    if count >= 6:
        rest.pop(0)  # bass effects, which stereo leaves out
    for position, channel in enumerate(rest):
        mix[position % 2, channel] = _SIDE
    return (mix / mix.sum(dim=1, keepdim=True)) @ samples


def _cut(audio: Audio) -> Iterator[Audio]:
    if audio.samples.shape[1] == 0:
        raise ValueError("the sound for the video holds no samples: give some, or none at all")
    for first in range(0, audio.samples.shape[1], audio.rate):
        yield Audio(samples=audio.samples[:, first : first + audio.rate], rate=audio.rate)
