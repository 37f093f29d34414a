"""Live sessions by WebRTC: pictures and sound out as synchronised tracks, a microphone's or an assistant's sound in."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription, RTCTransportStats
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import SessionDescription
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.frame import VideoFrame
from jaxtyping import Int16

from vivavoce.animate import Animator, Settings
from vivavoce.apps.server.control import Control, complained, notice, parsed
from vivavoce.apps.server.limits import MEBIBYTE, Limits, Refusal
from vivavoce.apps.server.media import even
from vivavoce.apps.server.places import Places
from vivavoce.latent.motion_space import Reference
from vivavoce.live.feed import Feed, StreamBroken
from vivavoce.live.scheduler import Scheduler
from vivavoce.live.stream import BufferFull, LiveFrame, LiveStream, Mark
from vivavoce.media.audio import SILENCE_PEAK, Audio

RATE_HZ = 48000  # what Opus works at
HUSH_SECONDS = 0.5  # of silence end a segment of what a client's track says
LAG_SECONDS = 1.0  # of a client's track may wait; what comes while so much waits is left out
STEADY_SECONDS = 0.04  # after it was due a frame is sent, so that one that took longer is not late
FIRST_SECONDS = 1.0  # of a stream may be left out, until its frames are in time
_PART = RATE_HZ // 50  # samples of a packet
_CLOCK = Fraction(1, 90000)
_WAITING = 50  # frames that may wait for a track that is fetched too slowly: a second of sound
_MESSAGES = 100  # control messages that may wait

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A client's session description."""

    sdp: str
    type: str


@dataclass(frozen=True, kw_only=True)
class _Media:
    """A frame as the tracks take it; times in the stream's clock. ``seconds``: at which its picture is shown."""

    seconds: float
    picture: VideoFrame
    sounds: tuple[AudioFrame, ...]
    marks: tuple[Mark, ...]


class _Packer:
    """Frames of a stream, all of them in order, to pictures and packets of sound."""

    def __init__(self) -> None:
        self._rest, self._sent = np.zeros(0, np.int16), 0

    def __call__(self, live: LiveFrame) -> _Media:
        width, height = even((live.picture.shape[1], live.picture.shape[0]))  # halved colour wants even sides
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(live.picture[:height, :width]), format="rgb24")
        picture = rgb.reformat(format="yuv420p")
        picture.pts, picture.time_base = round(live.seconds / _CLOCK), _CLOCK
        return _Media(seconds=live.seconds, picture=picture, sounds=tuple(self._packets(live.sound.to_pcm16())), marks=live.marks)

    def _packets(self, samples: Int16[np.ndarray, " n"]) -> list[AudioFrame]:
        whole, packets = np.concatenate([self._rest, samples]), []
        while len(whole) >= _PART:
            packet = AudioFrame.from_ndarray(np.ascontiguousarray(whole[None, :_PART]), format="s16", layout="mono")
            packet.sample_rate, packet.pts, packet.time_base = RATE_HZ, self._sent, Fraction(1, RATE_HZ)
            self._sent += _PART
            packets.append(packet)
            whole = whole[_PART:]
        self._rest = whole
        return packets


class _Track(MediaStreamTrack):
    """A track that gives out what is put into it when it is due. What is too much to wait is left out, the oldest first.

    Of pictures that are due only the newest is given, so that an encoder that is too slow does not fall behind the sound.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self._frames: deque[tuple[float, AudioFrame | VideoFrame]] = deque(maxlen=_WAITING)
        self._news = asyncio.Event()

    def put(self, frame: AudioFrame | VideoFrame, due: float) -> None:
        """``due``: time of the monotonic clock."""
        self._frames.append((due, frame))
        self._news.set()

    def clear(self) -> None:
        self._frames.clear()

    async def recv(self) -> AudioFrame | VideoFrame:
        while self.readyState == "live":
            now = time.monotonic()
            if not self._frames:
                self._news.clear()
                await self._news.wait()
            elif (wait := self._frames[0][0] - now) > 0:
                await asyncio.sleep(wait)
            else:
                while self.kind == "video" and len(self._frames) > 1 and self._frames[1][0] <= now:
                    self._frames.popleft()
                return self._frames.popleft()[1]
        raise MediaStreamError

    def stop(self) -> None:
        super().stop()
        self._news.set()


class Ear:
    """What a client's track says, as speech for a stream.

    A track sends silence too, and what its network delays would be late for ever. So a pause ends the segment and is not
    pushed, which makes up for the delay; and what comes while more than LAG_SECONDS wait is left out.
    """

    def __init__(self, stream: LiveStream):
        self._stream, self._quiet = stream, RATE_HZ

    def hear(self, samples: Int16[np.ndarray, " n"]) -> None:
        """The next of the track, a packet at a time."""
        heard = Audio.from_pcm16(samples.astype("<i2").tobytes(), RATE_HZ)
        sound = heard.samples[0].numpy()
        loud = np.flatnonzero(np.abs(sound) > SILENCE_PEAK)
        self._quiet = len(sound) - 1 - int(loud[-1]) if len(loud) else self._quiet + len(sound)
        if self._quiet - len(sound) >= HUSH_SECONDS * RATE_HZ:
            return
        if self._stream.buffered_seconds < LAG_SECONDS:
            try:
                self._stream.push(heard)
            except BufferFull as error:
                log.debug("a WebRTC track was not heard: %s", error)
        if self._quiet >= HUSH_SECONDS * RATE_HZ:
            self.end()

    def end(self) -> None:
        """There is no more."""
        self._stream.end_segment()


class Peers:
    """All WebRTC sessions of a server. Used on its event loop only."""

    def __init__(self, animator: Animator, scheduler: Scheduler, places: Places, limits: Limits):
        self._animator, self._scheduler, self._places, self._limits = animator, scheduler, places, limits
        self._open: dict[asyncio.Task[None], _Peer] = {}

    async def answer(self, offer: Offer, reference: Reference, settings: Settings) -> dict[str, str]:
        """Open a session; the description to answer with. Refusal where the offer makes no sense or no place is left."""
        with ExitStack() as undo:
            undo.enter_context(self._places)
            stream = LiveStream(self._animator, reference, settings, rate=RATE_HZ, longest=self._limits.buffered_seconds)
            peer = _Peer(stream, settings, self._limits)
            try:
                answer = await peer.answer(offer)
            except BaseException:
                await peer.connection.close()
                raise
            keep = undo.pop_all()
        task = asyncio.create_task(peer.run(self._scheduler))
        self._open[task] = peer

        def over(_: asyncio.Task[None]) -> None:
            del self._open[task]
            keep.close()
            _broke(task)

        task.add_done_callback(over)
        return answer

    async def close(self) -> None:
        """End all sessions."""
        tasks = list(self._open)
        for peer in self._open.values():
            peer.end()
        await asyncio.gather(*tasks, return_exceptions=True)


def _broke(task: asyncio.Task[None]) -> bool:
    """Whether a part of a session broke; the log has it then."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("a WebRTC session broke", exc_info=error)
    return error is not None


class _Peer:
    """One client: its connection, and the stream that it sees and hears."""

    def __init__(self, stream: LiveStream, settings: Settings, limits: Limits):
        self._stream, self._limits = stream, limits
        # No servers: candidates are this machine's own addresses, and nobody else is asked for others.
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connected, self._ended = asyncio.Event(), asyncio.Event()
        self._video, self._audio = _Track("video"), _Track("audio")
        self._control = Control(stream, settings.controls, limits, self._audio.clear)
        self._microphone: MediaStreamTrack | None = None
        self._channel: RTCDataChannel | None = None
        self._messages: asyncio.Queue[str | bytes] = asyncio.Queue(_MESSAGES)
        self.connection.addTransceiver(self._video, "sendonly")  # or a client's camera would be decoded for nobody
        self.connection.addTransceiver(self._audio, "sendrecv")
        self.connection.on("track", self._meet)
        self.connection.on("datachannel", self._talk)
        self.connection.on("connectionstatechange", self._watch)

    async def answer(self, offer: Offer) -> dict[str, str]:
        """Refusal where the offer makes no sense."""
        try:
            kinds = Counter(media.kind for media in SessionDescription.parse(offer.sdp).media)
            # Each section costs sockets, so there are no more than are of use.
            if kinds["video"] != 1 or kinds["audio"] != 1 or kinds.total() > 2 + kinds["application"] or kinds["application"] > 1:
                raise ValueError("it has to have one section of video, one of audio, and at most one of data channels")
            await self.connection.setRemoteDescription(RTCSessionDescription(offer.sdp, offer.type))
            await self.connection.setLocalDescription(await self.connection.createAnswer())
            if any("send" not in (way.currentDirection or "") for way in self.connection.getTransceivers()):
                raise ValueError("it has to be willing to receive both video and audio")
        except Exception as error:
            why = str(error)[:200] or type(error).__name__
            said = f"the offer cannot be answered ({why}): send the browser's own session description"
            raise Refusal(400, "bad_offer", said) from error
        made = self.connection.localDescription
        return {"sdp": made.sdp, "type": made.type}

    async def run(self, scheduler: Scheduler) -> None:
        """Until the connection is closed, or does not come about in time."""
        feed: Feed[_Media] | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(self._limits.open_seconds):
                await self._connected.wait()
            if self._ended.is_set():
                return
            feed = Feed(scheduler, self._stream, _Packer())
            for part in (self._send(feed), self._obey(), self._listen(), self._miss()):
                tasks.append(asyncio.create_task(part))
                tasks[-1].add_done_callback(self._end_if_broken)
            async with asyncio.timeout(self._limits.session_seconds):
                await self._ended.wait()
        except TimeoutError:
            longest = self._limits.session_seconds
            await self._farewell(Refusal(408, "timeout", f"a session lasts {longest:g} seconds at most: open another one"))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if feed is not None:
                await feed.close()
            await self.connection.close()

    def end(self) -> None:
        """Let `run` return soon."""
        self._ended.set()
        self._connected.set()

    def _end_if_broken(self, task: asyncio.Task[None]) -> None:
        if _broke(task):
            self.end()

    async def _send(self, feed: Feed[_Media]) -> None:
        """Pictures, sound and notices, until the stream ends.

        The first frames take longer than others. Sent late, they would have the client wait for late ones long after; so they are
        left out, if nothing is said in them.
        """
        began, steady = feed.running.began + STEADY_SECONDS, False
        try:
            async for media in feed:
                in_time = time.monotonic() < began + media.seconds
                steady = steady or in_time or bool(media.marks) or media.seconds > FIRST_SECONDS
                if not steady:
                    continue
                for track, frames in ((self._video, (media.picture,)), (self._audio, media.sounds)):
                    for frame in frames:
                        assert frame.time is not None
                        track.put(frame, began + frame.time)
                for mark in media.marks:
                    self._tell(notice(mark))
        except StreamBroken as error:
            await self._farewell(Refusal(500, "internal", str(error)))

    async def _miss(self) -> None:
        """Until a client that vanished without a word is missed: one that is there reports what it receives all the time."""
        known, silent = -1, 0.0
        while silent < self._limits.stuck_seconds:
            await asyncio.sleep(0.5)
            stats = (await self.connection.getStats()).values()
            heard = sum(report.bytesReceived for report in stats if isinstance(report, RTCTransportStats))
            known, silent = heard, silent + 0.5 if heard == known else 0.0
        self.end()

    def _watch(self) -> None:
        state = self.connection.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self.end()

    def _meet(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._microphone = track

    async def _listen(self) -> None:
        """Speech from the client's track, until it ends."""
        if self._microphone is None:
            return
        ear, resampler = Ear(self._stream), AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        try:
            while True:
                heard = await self._microphone.recv()
                assert isinstance(heard, AudioFrame)
                for part in resampler.resample(heard):
                    ear.hear(part.to_ndarray().reshape(-1))
        except MediaStreamError:
            ear.end()

    def _talk(self, channel: RTCDataChannel) -> None:
        """Control messages of docs/protocol.md come and go by one data channel, if the client opens one."""
        if self._channel is not None and self._channel.readyState == "open":
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._take)

    def _take(self, message: str | bytes) -> None:
        try:
            self._messages.put_nowait(message)
        except asyncio.QueueFull:
            said = f"{_MESSAGES} messages wait to be obeyed: send them more slowly"
            self._tell(complained(Refusal(429, "buffer_full", said)))

    async def _obey(self) -> None:
        """Messages, in their order, until too many of them made no sense."""
        try:
            while True:
                try:
                    message = parsed(await self._messages.get())
                    if message.get("type") == "close":
                        self.end()
                    elif (answer := await self._control.obey(message)) is not None:
                        self._tell(answer)
                except Refusal as refusal:
                    self._tell(self._control.forgive(refusal))
        except Refusal as last:
            await self._farewell(last)

    async def _farewell(self, refusal: Refusal) -> None:
        """Say why, and end."""
        self._tell(complained(refusal))
        for _ in range(50):
            if self._channel is not None and self._channel.bufferedAmount:
                await asyncio.sleep(0.02)
        self.end()

    def _tell(self, value: dict[str, Any]) -> None:
        if self._channel is None or self._channel.readyState != "open":
            return
        self._channel.send(json.dumps(value))
        if self._channel.bufferedAmount > MEBIBYTE:
            log.info("a WebRTC client fetches no messages, its session ends")
            self.end()
