"""Live sessions by WebRTC: pictures and sound out as synchronised tracks, a microphone's or an assistant's sound in."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from aiortc import MediaStreamTrack, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.frame import VideoFrame

from vivavoce.animate import Animator, Settings
from vivavoce.apps.server.control import Control, parsed
from vivavoce.apps.server.limits import Limits, Refusal
from vivavoce.apps.server.media import pcm16
from vivavoce.apps.server.places import Places
from vivavoce.latent.motion_space import Reference
from vivavoce.live.feed import Feed, StreamBroken
from vivavoce.live.scheduler import Scheduler
from vivavoce.live.stream import BufferFull, LiveFrame, LiveStream
from vivavoce.media.audio import Audio

RATE_HZ = 48000  # what Opus works at
_PART = RATE_HZ // 50  # samples of a packet
_CLOCK = Fraction(1, 90000)
_WAITING = 50  # packets that may wait for a track that nobody fetches

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A client's session description."""

    sdp: str
    type: str


class _Track(MediaStreamTrack):
    """A track whose frames are put into it; the oldest go where nobody fetches them."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self._frames: asyncio.Queue[AudioFrame | VideoFrame | None] = asyncio.Queue(_WAITING)

    def put(self, frame: AudioFrame | VideoFrame) -> None:
        if self._frames.full():
            self._frames.get_nowait()
        self._frames.put_nowait(frame)

    def clear(self) -> None:
        while not self._frames.empty():
            self._frames.get_nowait()

    async def recv(self) -> AudioFrame | VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        frame = await self._frames.get()
        if frame is None:
            raise MediaStreamError
        return frame

    def stop(self) -> None:
        super().stop()
        self.clear()
        self._frames.put_nowait(None)


class Peers:
    """All WebRTC sessions of a server. Used on its event loop only."""

    def __init__(self, animator: Animator, scheduler: Scheduler, places: Places, limits: Limits):
        self._animator, self._scheduler, self._places, self._limits = animator, scheduler, places, limits
        self._open: set[_Peer] = set()

    async def answer(self, offer: Offer, reference: Reference, settings: Settings) -> dict[str, str]:
        """Open a session; the description to answer with. Refusal where the offer makes no sense or no place is left."""
        with ExitStack() as undo:
            undo.enter_context(self._places)
            stream = LiveStream(self._animator, reference, settings, rate=RATE_HZ, longest=self._limits.buffered_seconds)
            peer = _Peer(stream, settings, self._limits)
            try:
                answer = await peer.answer(offer)
            except Exception as error:
                await peer.connection.close()
                said = "the offer is no session description that can be answered: send the browser's own"
                raise Refusal(400, "bad_offer", said) from error
            keep = undo.pop_all()
        self._open.add(peer)
        task = asyncio.create_task(peer.run(self._scheduler))
        peer.task = task

        def over(_: asyncio.Task[None]) -> None:
            self._open.discard(peer)
            keep.close()

        task.add_done_callback(over)
        return answer

    async def close(self) -> None:
        """End all sessions."""
        tasks = [peer.task for peer in self._open if peer.task is not None]
        for peer in list(self._open):
            peer.ended.set()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Peer:
    def __init__(self, stream: LiveStream, settings: Settings, limits: Limits):
        self.stream, self._limits = stream, limits
        self.connection, self.ended = RTCPeerConnection(), asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._control = Control(stream, settings.controls, limits, self._forget)
        self._video, self._audio = _Track("video"), _Track("audio")
        self._sound, self._sent = np.zeros(0, np.int16), 0
        self._channel: RTCDataChannel | None = None
        self._listening: list[asyncio.Task[None]] = []
        self.connection.addTrack(self._video)
        self.connection.addTrack(self._audio)
        self.connection.on("track", self._hear)
        self.connection.on("datachannel", self._talk)
        self.connection.on("connectionstatechange", self._watch)

    async def answer(self, offer: Offer) -> dict[str, str]:
        await self.connection.setRemoteDescription(RTCSessionDescription(offer.sdp, offer.type))
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        made = self.connection.localDescription
        return {"sdp": made.sdp, "type": made.type}

    async def run(self, scheduler: Scheduler) -> None:
        """Until the connection is closed, or does not come about in time."""
        feed: Feed[LiveFrame] | None = None
        frames: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._limits.session_seconds):
                if await self._connected():
                    feed = Feed(scheduler, self.stream, lambda live: live)
                    frames = asyncio.create_task(self._send(feed))
                    await self.ended.wait()
        except TimeoutError:
            log.info("a WebRTC session has lasted as long as is allowed")
        finally:
            for task in (*self._listening, *([frames] if frames else [])):
                task.cancel()
            if feed is not None:
                await feed.close()
            await self.connection.close()

    async def _connected(self) -> bool:
        deadline = self._limits.stuck_seconds
        while self.connection.connectionState != "connected":
            if self.ended.is_set() or deadline <= 0:
                return False
            await asyncio.sleep(0.02)
            deadline -= 0.02
        return True

    async def _send(self, feed: Feed[LiveFrame]) -> None:
        try:
            async for live in feed:
                picture = VideoFrame.from_ndarray(np.ascontiguousarray(live.picture), format="rgb24")
                picture.pts, picture.time_base = round(live.seconds / _CLOCK), _CLOCK
                self._video.put(picture)
                self._sound = np.concatenate([self._sound, pcm16(live.sound)])
                while len(self._sound) >= _PART:
                    part, self._sound = self._sound[:_PART], self._sound[_PART:]
                    sound = AudioFrame.from_ndarray(np.ascontiguousarray(part[None]), format="s16", layout="mono")
                    sound.sample_rate, sound.pts, sound.time_base = RATE_HZ, self._sent, Fraction(1, RATE_HZ)
                    self._sent += _PART
                    self._audio.put(sound)
                for mark in live.marks:
                    self._tell({"type": "segment", "state": mark.kind, "segment": mark.segment, "time": mark.seconds})
        except StreamBroken:
            self.ended.set()

    def _watch(self) -> None:
        if self.connection.connectionState in ("failed", "closed"):
            self.ended.set()

    def _hear(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._listening.append(asyncio.create_task(self._listen(track)))

    async def _listen(self, track: MediaStreamTrack) -> None:
        """Speech from the client's track, until it ends."""
        resampler = AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        while True:
            try:
                heard = await track.recv()
            except MediaStreamError:
                self.stream.end_segment()
                return
            assert isinstance(heard, AudioFrame)
            for part in resampler.resample(heard):
                samples = part.to_ndarray().reshape(-1).astype(np.float32) / 32768
                try:
                    self.stream.push(Audio(samples=torch.from_numpy(samples)[None], rate=RATE_HZ))
                except BufferFull:
                    log.debug("a WebRTC client sends faster than it is spoken")

    def _talk(self, channel: RTCDataChannel) -> None:
        """Control messages of docs/protocol.md come and go by a data channel, if the client opens one."""
        self._channel = channel
        waiting: set[asyncio.Task[None]] = set()

        def take(message: str | bytes) -> None:
            task = asyncio.create_task(self._obey(message))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

        channel.on("message", take)

    def _forget(self) -> None:
        self._video.clear()
        self._audio.clear()

    async def _obey(self, message: str | bytes) -> None:
        try:
            answer = await self._control.obey(parsed(message))
        except Refusal as refusal:
            answer = {"type": "error", **refusal.body()["error"]}
        if answer is not None:
            self._tell(answer)

    def _tell(self, value: dict[str, object]) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(json.dumps(value))


