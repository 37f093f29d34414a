"""The live session of one WebSocket, as docs/protocol.md has it."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vivavoce.animate import DEFAULT_FPS, Animator, Controls, Settings
from vivavoce.apps.server.avatars import DEMO, Avatars, Wanted
from vivavoce.apps.server.control import Control, complained, notice, parsed, read_controls
from vivavoce.apps.server.fields import complaint
from vivavoce.apps.server.limits import MEBIBYTE, Limits, Refusal, from_base64, refused
from vivavoce.apps.server.media import JPEG, Encoder, FragmentedMp4, Packets, pictures_and_sound
from vivavoce.apps.server.places import Places, Turns
from vivavoce.latent.motion_space import Reference
from vivavoce.live.feed import Feed, StreamBroken
from vivavoce.live.scheduler import Scheduler
from vivavoce.live.stream import DEFAULT_RATE_HZ, HIGHEST_RATE_HZ, LOWEST_RATE_HZ, BufferFull, LiveStream
from vivavoce.media.audio import Audio

T = TypeVar("T")

STATUS_SECONDS = 1.0
RATE_STEP_HZ = 25  # rates that have hardly a divisor in common with the models' would take long to begin with
CLOSE_CODES = {400: 4400, 401: 4401, 403: 4403, 404: 4400, 408: 4408, 413: 4413, 429: 4429, 503: 4503}

log = logging.getLogger(__name__)


class Opening(BaseModel):
    """What a client asks for when it opens a session: the fields of ``open``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["open"]
    avatar: str | None = None
    image: str | None = None
    size: int | None = None
    crop: bool = True
    face: int | None = None
    audio_rate: int = Field(DEFAULT_RATE_HZ, ge=LOWEST_RATE_HZ, le=HIGHEST_RATE_HZ, multiple_of=RATE_STEP_HZ)
    video: Literal["jpeg", "mp4"] = "jpeg"
    quality: int = Field(80, ge=1, le=95)
    fps: float = DEFAULT_FPS
    seed: int = 0
    controls: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def read(cls, message: dict[str, Any]) -> Opening:
        """Refusal where a field is unknown, of the wrong type, or out of its range."""
        try:
            opening = cls.model_validate({key: value for key, value in message.items() if value is not None})
        except ValidationError as error:
            raise Refusal(400, "bad_open", f"{complaint(error)}: docs/protocol.md has the fields of 'open'") from error
        if opening.avatar is not None and opening.image is not None:
            raise Refusal(400, "bad_open", "both 'avatar' and 'image' were given: give one of them")
        if opening.image is None and (idle := sorted(opening.model_fields_set & {"size", "crop", "face"})):
            said = f"{idle[0]!r} is for an 'image', a registered avatar is prepared already: leave it out"
            raise Refusal(400, "bad_open", said)
        if opening.video == "mp4" and "quality" in opening.model_fields_set:
            raise Refusal(400, "bad_open", "'quality' is that of JPEG pictures, and 'video' is 'mp4': leave it out")
        return opening

    def settings(self) -> Settings:
        """Refusal where a number is out of its range."""
        try:
            return Settings(fps=self.fps, seed=self.seed, controls=read_controls(self.controls, Controls()))
        except ValueError as error:
            raise refused(error, "bad_open") from error


class LiveSocket:
    """One client. `serve` returns when it has gone."""

    def __init__(
        self, socket: WebSocket, animator: Animator, avatars: Avatars, scheduler: Scheduler, turns: Turns, limits: Limits
    ):
        self._socket, self._animator, self._avatars = socket, animator, avatars
        self._scheduler, self._turns, self._limits = scheduler, turns, limits
        self._sending = asyncio.Lock()
        self._odd = b""  # half a sample that waits for its other half

    async def serve(self, places: Places) -> None:
        """From the first message to the last."""
        try:
            with places:
                opening = await self._opening()
                settings, reference = opening.settings(), await self._reference(opening)
                opening = opening.model_copy(update={"image": None})  # megabytes that nobody needs any more
                await self._run(opening, settings, reference)
            await self._put(self._socket.close)
        except Refusal as refusal:
            await self.refuse(refusal)
        except WebSocketDisconnect:
            log.debug("a client has gone")
        except Exception:
            log.exception("a live session broke")
            await self.refuse(Refusal(500, "internal", "the session broke by a mistake of the server: its log has it"))

    async def _opening(self) -> Opening:
        try:
            async with asyncio.timeout(self._limits.open_seconds):
                message = await self._receive(int(self._limits.first_message_mib * MEBIBYTE))
        except TimeoutError:
            raise Refusal(408, "timeout", f"no 'open' came within {self._limits.open_seconds:g} seconds: send it first") from None
        if not isinstance(message, dict) or message.get("type") != "open":
            raise Refusal(400, "bad_open", "the first message has to be JSON of the type 'open': docs/protocol.md has its fields")
        return Opening.read(message)

    async def _reference(self, opening: Opening) -> Reference:
        if opening.image is None:
            return await asyncio.to_thread(self._avatars.reference, opening.avatar or DEMO)
        image, wanted = opening.image, Wanted(size=opening.size, crop=opening.crop, face=opening.face)

        def prepared() -> Reference:
            try:
                picture = from_base64(image)
            except ValueError as error:
                raise Refusal(400, "bad_image", "the field 'image' is no base64: encode the picture's file") from error
            return self._avatars.prepare(picture, wanted)

        return await self._turns.take(prepared)

    async def _run(self, opening: Opening, settings: Settings, reference: Reference) -> None:
        stream = LiveStream(self._animator, reference, settings, rate=opening.audio_rate, longest=self._limits.buffered_seconds)
        whole = FragmentedMp4(stream.size, stream.fps, stream.rate) if opening.video == "mp4" else None
        encode: Encoder = whole or pictures_and_sound(opening.quality)
        width, height = stream.size if whole is None else whole.size
        await self._send({
            "type": "opened", "session": secrets.token_hex(8), "width": width, "height": height,
            "fps": stream.fps, "audio_rate": stream.rate, "delay_seconds": round(stream.delay_seconds, 3),
            "mime": JPEG if whole is None else whole.mime,
        })
        feed = Feed(self._scheduler, stream, encode, whole=whole is not None)
        try:
            control = Control(stream, settings.controls, self._limits, feed.clear)
            await self._until_one_ends(self._frames_out(feed), self._status_out(feed), self._messages_in(stream, control))
        except StreamBroken as error:
            if whole is not None and feed.dropped:
                raise Refusal(408, "too_slow", str(error)) from error
            raise Refusal(500, "internal", str(error)) from error
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
                await self._send(notice(mark))
            for message in packets.messages:
                await self._put(partial(self._socket.send_bytes, message))

    async def _status_out(self, feed: Feed[Packets]) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            stream = feed.stream
            await self._send({
                "type": "status", "buffered": round(stream.buffered_seconds, 3), "underruns": stream.underruns,
                "left_out": feed.running.tally.left_out, "dropped": feed.dropped,
                "lost": round(feed.running.tally.lost_seconds, 3),
            })

    async def _messages_in(self, stream: LiveStream, control: Control) -> None:
        saying: asyncio.Future[None] = asyncio.ensure_future(asyncio.sleep(0))  # a text that becomes speech
        try:
            while True:
                message = await self._heed(control, self._receive(int(self._limits.message_mib * MEBIBYTE)))
                kind = message.get("type") if isinstance(message, dict) else None
                if kind == "close":
                    return
                if isinstance(message, bytes) or kind in ("say", "end_of_segment"):
                    await saying  # what was said comes first; an interruption need not wait
                if isinstance(message, bytes):
                    await self._heed(control, self._hear(stream, message))
                elif message is not None and kind == "say":
                    saying = asyncio.ensure_future(self._heed(control, self._obey(control, message)))
                elif message is not None:
                    await self._heed(control, self._obey(control, message))
                await asyncio.sleep(0)  # others have their turn even if this client floods us
        finally:
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)

    async def _heed(self, control: Control, doing: Awaitable[T]) -> T | None:
        """What it gives; None where it makes no sense, of which the client is told, until that was too often."""
        try:
            return await doing
        except Refusal as refusal:
            if refusal.status != 400:
                raise
            await self._send(control.forgive(refusal))
            return None

    async def _hear(self, stream: LiveStream, message: bytes) -> None:
        data = self._odd + message
        whole = len(data) - len(data) % 2
        try:
            stream.push(Audio.from_pcm16(data[:whole], stream.rate))
        except BufferFull as error:
            raise refused(error, "buffer_full") from error
        self._odd = data[whole:]

    async def _obey(self, control: Control, message: dict[str, Any]) -> None:
        if message.get("type") in ("say", "end_of_segment", "interrupt"):
            self._odd = b""
        answer = await control.obey(message)
        if answer is not None:
            await self._send(answer)

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
            await self._send(complained(refusal))
            await self._put(partial(self._socket.close, code, refusal.code))
        except WebSocketDisconnect:
            log.debug("a client had gone before it could be told %s", refusal.code)
