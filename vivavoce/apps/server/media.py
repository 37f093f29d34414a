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

from vivavoce.latent.space import Frame
from vivavoce.live.stream import LiveFrame, Mark
from vivavoce.media.audio import Audio, Resampler
from vivavoce.media.soundtrack import aac_rate

PICTURE, SOUND, PIECE = 1, 2, 3  # kinds of packets
SPEECH, LEFT_OUT = 1, 2  # flags
HEADER = struct.Struct("<BBHIQ")
JPEG = "image/jpeg"
MP4 = 'video/mp4; codecs="avc1.42C01F, mp4a.40.2"'
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


def pcm16(sound: Audio) -> np.ndarray:
    """Mono samples as signed 16-bit numbers, (n,)."""
    return np.clip(np.round(sound.samples[0].numpy() * 32768), -32768, 32767).astype("<i2")


def packet(kind: int, live: LiveFrame, seconds: float, payload: bytes) -> bytes:
    """A binary message of docs/protocol.md."""
    flags = (SPEECH if live.speaking else 0) | (LEFT_OUT if live.left_out else 0)
    return HEADER.pack(kind, flags, 0, live.index & 0xFFFFFFFF, round(seconds * 1e6)) + payload


def pictures_and_sound(quality: int) -> Encoder:
    """Each frame as a JPEG picture and its PCM sound."""

    def encode(live: LiveFrame) -> Packets:
        sound = packet(SOUND, live, live.sound_seconds, pcm16(live.sound).tobytes())
        return Packets(messages=(packet(PICTURE, live, live.seconds, jpeg(live.picture, quality)), sound), marks=live.marks)

    return encode


class _Pipe:
    """What a muxer writes, to be taken piece by piece."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


class FragmentedMp4:
    """Frames to an endless MP4 of a fragment for each: H.264 and AAC, for MediaSource. One per client."""

    def __init__(self, size: tuple[int, int], fps: float, rate: int):
        self._pipe, self._rate = _Pipe(), aac_rate(rate)
        self._resampler = Resampler(rate, self._rate)
        options = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
        self._container = av.open(self._pipe, "w", format="mp4", options=options)
        self._fps = Fraction(fps).limit_denominator(1001)
        video = self._container.add_stream("libx264", rate=self._fps)
        assert isinstance(video, VideoStream)
        video.width, video.height = (side - side % 2 for side in size)
        video.pix_fmt = "yuv420p"
        video.time_base = Fraction(1, 90000)
        video.options = {
            "preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "crf": "21", "g": str(round(2 * fps)),
        }
        sound = self._container.add_stream("aac", rate=self._rate)
        assert isinstance(sound, AudioStream)
        sound.layout = "mono"
        self._video, self._sound = video, sound
        self._waiting = np.zeros(0, np.float32)
        self._heard = 0  # samples encoded

    def __call__(self, live: LiveFrame) -> Packets:
        picture = VideoFrame.from_ndarray(live.picture[: self._video.height, : self._video.width], format="rgb24")
        picture.pts, picture.time_base = round(live.seconds * 90000), Fraction(1, 90000)
        self._container.mux(self._video.encode(picture))
        self._waiting = np.concatenate([self._waiting, self._resampler.push(live.sound).samples[0].numpy()])
        while len(self._waiting) >= _AAC_FRAME:
            part, self._waiting = self._waiting[:_AAC_FRAME], self._waiting[_AAC_FRAME:]
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(part[None]), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._heard, Fraction(1, self._rate)
            self._heard += _AAC_FRAME
            self._container.mux(self._sound.encode(frame))
        piece = self._pipe.take()
        messages = (packet(PIECE, live, live.seconds, piece),) if piece else ()
        return Packets(messages=messages, marks=live.marks)
