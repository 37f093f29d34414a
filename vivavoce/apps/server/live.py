"""The live session of one WebSocket, as docs/protocol.md has it."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from vivavoce.animate import Animator, Controls, Settings
from vivavoce.apps.server.avatars import DEMO, Avatars, Wanted
from vivavoce.apps.server.control import Control, parsed, read_controls
from vivavoce.apps.server.limits import MEBIBYTE, Limits, Refusal, from_base64, refused
from vivavoce.apps.server.media import JPEG, MP4, Encoder, FragmentedMp4, Packets, pictures_and_sound
from vivavoce.apps.server.places import Places
from vivavoce.latent.motion_space import Reference
from vivavoce.live.feed import Feed, StreamBroken
from vivavoce.live.scheduler import Scheduler
from vivavoce.live.stream import BufferFull, LiveStream
from vivavoce.media.audio import Audio

STATUS_SECONDS = 1.0
CLOSE_CODES = {400: 4400, 401: 4401, 404: 4400, 408: 4408, 413: 4413, 429: 4429, 503: 4503}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a client asks for when it opens a session: the fields of ``open``."""

    avatar: str | None = None
    image: str | None = None
    size: int | None = None
    crop: bool = True
    audio_rate: int = 24000
    video: str = "jpeg"
    quality: int = 80
    fps: float = 25.0
    seed: int = 0
    controls: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, message: dict[str, Any]) -> Opening:
        """Refusal where a field is unknown, of the wrong type, or out of its range."""
        given = {key: value for key, value in message.items() if key != "type" and value is not None}
        kinds: dict[str, type | tuple[type, ...]] = {
            "avatar": str, "image": str, "size": int, "crop": bool, "audio_rate": int, "video": str, "quality": int,
            "fps": (int, float), "seed": int, "controls": dict,
        }
        for key, value in given.items():
            kind = kinds.get(key)
            if kind is None:
                raise Refusal(400, "bad_open", f"'open' has no field {key[:40]!r}: it has {', '.join(kinds)}")
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise Refusal(400, "bad_open", f"the field {key!r} of 'open' is of the wrong type: docs/protocol.md has them")
        opening = cls(**given)
        if opening.video not in ("jpeg", "mp4"):
            raise Refusal(400, "bad_open", f"video {opening.video[:40]!r} is not made here: ask for 'jpeg' or 'mp4'")
        if not 1 <= opening.quality <= 95:
            raise Refusal(400, "bad_open", f"a JPEG quality of {opening.quality} was asked for: give 1 to 95")
        if opening.avatar is not None and opening.image is not None:
            raise Refusal(400, "bad_open", "both 'avatar' and 'image' were given: give one of them")
        return opening

    def settings(self) -> Settings:
        """Refusal where a number is out of its range."""
        try:
            return Settings(fps=self.fps, seed=self.seed, controls=read_controls(self.controls, Controls()))
        except ValueError as error:
            raise refused(error, "bad_open") from error


class LiveSocket:
    """One client. `serve` returns when it has gone."""

    def __init__(self, socket: WebSocket, animator: Animator, avatars: Avatars, scheduler: Scheduler, limits: Limits):
        self._socket, self._animator, self._avatars = socket, animator, avatars
        self._scheduler, self._limits = scheduler, limits
        self._sending = asyncio.Lock()
        self._odd = b""  # half a sample that waits for its other half
        self._errors = 0

    async def serve(self, places: Places) -> None:
        """From the first message to the last."""
        try:
            with places:
                opening = await self._opening()
                reference = await self._reference(opening)
                await self._run(opening, reference)
        except Refusal as refusal:
            await self.refuse(refusal)
        except StreamBroken as error:
            await self.refuse(Refusal(500, "internal", str(error)))
        except WebSocketDisconnect:
            pass

    async def _opening(self) -> Opening:
        try:
            async with asyncio.timeout(self._limits.open_seconds):
                message = await self._receive(28 * MEBIBYTE)
        except TimeoutError:
            raise Refusal(408, "timeout", f"no 'open' came within {self._limits.open_seconds:g} seconds: send it first") from None
        if not isinstance(message, dict) or message.get("type") != "open":
            raise Refusal(400, "bad_open", "the first message has to be JSON of the type 'open': docs/protocol.md has its fields")
        return Opening.read(message)

    async def _reference(self, opening: Opening) -> Reference:
        if opening.image is None:
            return await asyncio.to_thread(self._avatars.reference, opening.avatar or DEMO)
        try:
            picture = from_base64(opening.image)
        except ValueError as error:
            raise Refusal(400, "bad_image", "the field 'image' is no base64: encode the picture's file") from error
        wanted = Wanted(size=opening.size, crop=opening.crop)
        return await asyncio.to_thread(self._avatars.prepare, picture, wanted)

    async def _run(self, opening: Opening, reference: Reference) -> None:
        settings = opening.settings()
        try:
            stream = LiveStream(
                self._animator, reference, settings, rate=opening.audio_rate, longest=self._limits.buffered_seconds
            )
        except ValueError as error:
            raise refused(error, "bad_open") from error
        mp4 = opening.video == "mp4"
        encode: Encoder = (
            FragmentedMp4(stream.size, stream.fps, stream.rate) if mp4 else pictures_and_sound(opening.quality)
        )
        await self._send({
            "type": "opened", "session": secrets.token_hex(8), "width": stream.size[0], "height": stream.size[1],
            "fps": stream.fps, "audio_rate": stream.rate, "delay_seconds": round(stream.delay_seconds, 3),
            "mime": MP4 if mp4 else JPEG,
        })
        feed = Feed(self._scheduler, stream, encode, whole=mp4)
        try:
            control = Control(stream, settings.controls, self._limits, feed.clear)
            await self._until_one_ends(self._frames_out(feed), self._status_out(feed), self._messages_in(stream, control))
        finally:
            await feed.close()

    async def _until_one_ends(self, *parts: Awaitable[None]) -> None:
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            async with asyncio.timeout(self._limits.session_seconds):
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            longest = self._limits.session_seconds
            raise Refusal(408, "timeout", f"a session lasts {longest:g} seconds at most: open another one") from None
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        assert done

    async def _frames_out(self, feed: Feed[Packets]) -> None:
        async for packets in feed:
            for mark in packets.marks:
                told = {"segment": mark.segment, "time": round(mark.seconds, 6)}
                if mark.kind == "interrupted":
                    await self._send({"type": "interrupted", **told})
                else:
                    await self._send({"type": "segment", "state": mark.kind, **told})
            for message in packets.messages:
                await self._put(partial(self._socket.send_bytes, message))

    async def _status_out(self, feed: Feed[Packets]) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            stream = feed.stream
            await self._send({
                "type": "status", "buffered": round(stream.buffered_seconds, 3), "underruns": stream.underruns,
                "left_out": feed.running.tally.left_out, "dropped": feed.dropped,
            })

    async def _messages_in(self, stream: LiveStream, control: Control) -> None:
        while True:
            try:
                message = await self._receive(int(self._limits.message_mib * MEBIBYTE))
                if isinstance(message, bytes):
                    self._hear(stream, message)
                elif message.get("type") == "close":
                    return
                else:
                    if message.get("type") in ("end_of_segment", "interrupt"):
                        self._odd = b""
                    answer = await control.obey(message)
                    if answer is not None:
                        await self._send(answer)
            except Refusal as refusal:
                if refusal.status in CLOSE_CODES and refusal.status != 400:
                    raise
                self._errors += refusal.code != "buffer_full"
                if self._errors > self._limits.errors:
                    raise Refusal(
                        429, "too_many_errors", f"more than {self._limits.errors} messages made no sense: read docs/protocol.md"
                    ) from refusal
                await self._send({"type": "error", **refusal.body()["error"]})

    def _hear(self, stream: LiveStream, message: bytes) -> None:
        data = self._odd + message
        whole = len(data) - len(data) % 2
        try:
            stream.push(Audio.from_pcm16(data[:whole], stream.rate))
        except BufferFull as error:
            raise refused(error, "buffer_full") from error
        self._odd = data[whole:]

    async def _receive(self, longest: int) -> bytes | dict[str, Any]:
        """The next message; Refusal where it is too long or no JSON object."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        data = message.get("bytes")
        if data is None:
            data = message["text"]
        if len(data) > longest:
            raise Refusal(413, "too_large", f"a message has {len(data)} bytes, at most {longest} are taken: send it in parts")
        return data if isinstance(data, bytes) else parsed(data)

    async def _send(self, value: dict[str, Any]) -> None:
        await self._put(partial(self._socket.send_text, json.dumps(value)))

    async def _put(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send, one at a time; a client that fetches nothing for too long is given up."""
        async with self._sending:
            try:
                async with asyncio.timeout(self._limits.stuck_seconds):
                    await send()
            except TimeoutError:
                raise WebSocketDisconnect(1006) from None
            except RuntimeError as error:  # starlette's word for a connection that has gone
                raise WebSocketDisconnect(1006) from error

    async def refuse(self, refusal: Refusal) -> None:
        """Say why, and close."""
        code = CLOSE_CODES.get(refusal.status, 4500)
        try:
            await self._send({"type": "error", **refusal.body()["error"]})
            await self._socket.close(code, refusal.code)
        except (WebSocketDisconnect, RuntimeError):
            log.debug("a client had gone before it could be told %s", refusal.code)

