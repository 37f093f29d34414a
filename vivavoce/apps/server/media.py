"""Frames and sound in the forms that clients want."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vivavoce.apps.server.fragments import Sample, fragment, with_lengths
from vivavoce.latent.space import Frame
from vivavoce.live.stream import LiveFrame, Mark
from vivavoce.media.audio import Resampler
from vivavoce.media.soundtrack import aac_rate

PICTURE, SOUND, PIECE = 1, 2, 3  # kinds of packets
SPEECH, LEFT_OUT = 1, 2  # flags
HEADER = struct.Struct("<BBHIQ")
JPEG = "image/jpeg"
_AAC_FRAME = 1024  # samples


@dataclass(frozen=True, kw_only=True)
class Packets:
    """A frame as its client gets it: binary messages, and what happens in it."""

    messages: tuple[bytes, ...]
    marks: tuple[Mark, ...]


Encoder = Callable[[LiveFrame], Packets]


def jpeg(picture: Frame, quality: int) -> bytes:
    """A picture as JPEG; quality 1 to 95."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    assert done
    return data.tobytes()


def even(size: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) of even numbers within that one, px."""
    return size[0] - size[0] % 2, size[1] - size[1] % 2


def packet(kind: int, live: LiveFrame, seconds: float, payload: bytes) -> bytes:
    """A binary message of docs/protocol.md."""
    flags = (SPEECH if live.speaking else 0) | (LEFT_OUT if live.left_out else 0)
    return HEADER.pack(kind, flags, 0, live.index & 0xFFFFFFFF, round(seconds * 1e6)) + payload


def pictures_and_sound(quality: int) -> Encoder:
    """Each frame as a JPEG picture and its PCM sound."""

    def encode(live: LiveFrame) -> Packets:
        sound = packet(SOUND, live, live.sound_seconds, live.sound.to_pcm16().tobytes())
        return Packets(messages=(packet(PICTURE, live, live.seconds, jpeg(live.picture, quality)), sound), marks=live.marks)

    return encode


class _Pipe:
    """What a muxer writes."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)


class FragmentedMp4:
    """Frames to an endless MP4 of a fragment for each: H.264 and AAC, for MediaSource. One per client.

    Pictures fill the time without a gap: where frames were left out, the one before is shown again. ``size``: (width, height) of
    what is encoded, px: halved colour wants even sides; ``mime``: of MediaSource.
    """

    def __init__(self, size: tuple[int, int], fps: float, rate: int):
        """``size``: (width, height) of the frames, px; ``rate``: of their sound, Hz."""
        self._fps, self._rate = fps, aac_rate(rate)
        self._resampler = Resampler(rate, self._rate)
        pipe = _Pipe()
        # FFmpeg encodes, and writes the beginning; it muxes nothing.
        container = av.open(pipe, "w", format="mp4", options={"movflags": "empty_moov+default_base_moof"})
        video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        assert isinstance(video, VideoStream)
        self.size = even(size)
        video.width, video.height = self.size
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = video.time_base = Fraction(1, 90000)
        video.options = {
            "preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "crf": "21", "g": str(round(2 * fps)),
        }
        sound = container.add_stream("aac", rate=self._rate)
        assert isinstance(sound, AudioStream)
        sound.layout = "mono"
        container.start_encoding()
        profile = video.codec_context.extradata
        assert profile is not None and pipe.written
        at = profile.index(b"\x01\x67") + 2
        self.mime = f'video/mp4; codecs="avc1.{profile[at : at + 3].hex().upper()}, mp4a.40.2"'
        self._container, self._video, self._sound = container, video, sound  # the container, so that it lives on
        self._beginning = pipe.written
        self._waiting = np.zeros(0, np.float32)
        self._heard = 0  # samples encoded
        self._pieces = 0
        self._shown: VideoFrame | None = None
        self._until = 0  # tick up to which there are pictures

    def __call__(self, live: LiveFrame) -> Packets:
        self._pieces += 1
        tracks = {1: self._pictures(live), 2: self._sounds(live)}
        beginning, self._beginning = self._beginning, b""
        piece = packet(PIECE, live, live.seconds, beginning + fragment(self._pieces, tracks))
        return Packets(messages=(piece,), marks=live.marks)

    def _pictures(self, live: LiveFrame) -> list[Sample]:
        picture = VideoFrame.from_ndarray(live.picture[: self._video.height, : self._video.width], format="rgb24")
        begin, end = (self._tick(index) for index in (live.index, live.index + 1))
        samples = []
        if begin > self._until:
            samples += self._coded(self._shown or picture, self._until, begin)
        samples += self._coded(picture, begin, end)
        self._shown, self._until = picture, end
        return samples

    def _tick(self, index: int) -> int:
        assert self._video.time_base is not None
        return round(index / self._fps / self._video.time_base)

    def _coded(self, picture: VideoFrame, begin: int, end: int) -> list[Sample]:
        picture.pts, picture.time_base = begin, self._video.time_base
        return [
            Sample(data=with_lengths(bytes(coded)), start=begin, duration=end - begin, key=coded.is_keyframe)
            for coded in self._video.encode(picture)
        ]

    def _sounds(self, live: LiveFrame) -> list[Sample]:
        samples = []
        self._waiting = np.concatenate([self._waiting, self._resampler.push(live.sound).samples[0].numpy()])
        while len(self._waiting) >= _AAC_FRAME:
            part, self._waiting = self._waiting[:_AAC_FRAME], self._waiting[_AAC_FRAME:]
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(part[None]), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._heard, Fraction(1, self._rate)
            self._heard += _AAC_FRAME
            for coded in self._sound.encode(frame):
                assert coded.pts is not None
                if coded.pts >= 0:  # before that, it is the encoder's priming
                    samples.append(Sample(data=bytes(coded), start=coded.pts, duration=_AAC_FRAME))
        return samples
