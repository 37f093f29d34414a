"""Control messages of a live session, whatever they come by; docs/protocol.md has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from vivavoce.animate import Controls
from vivavoce.apps.server.limits import Limits, Refusal, from_json, refused
from vivavoce.live.stream import BufferFull, LiveStream, Mark
from vivavoce.media.audio import Audio, Resampler, concatenate
from vivavoce.media.speak import speak


class Control:
    """What one client's control messages do to its stream. ``interrupted``: called when the client interrupts."""

    def __init__(self, stream: LiveStream, controls: Controls, limits: Limits, interrupted: Callable[[], None]):
        self._stream, self._controls, self._limits, self._interrupted = stream, controls, limits, interrupted
        self._interruptions, self._errors = 0, 0

    def forgive(self, refusal: Refusal) -> dict[str, Any]:
        """What the client is told of a message that made no sense. Another Refusal, which ends the session, once that was too
        often; a full buffer does not count."""
        self._errors += refusal.code != "buffer_full"
        if self._errors > self._limits.errors:
            said = f"more than {self._limits.errors} messages made no sense: read docs/protocol.md"
            raise Refusal(429, "too_many_errors", said) from refusal
        return complained(refusal)

    async def obey(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Do it; the answer, if there is one. Refusal where it makes no sense."""
        kind = message.get("type")
        if kind == "end_of_segment":
            self._stream.end_segment()
        elif kind == "interrupt":
            self._interruptions += 1
            self._stream.interrupt()
            self._interrupted()
        elif kind == "controls":
            self._control({key: value for key, value in message.items() if key != "type"})
        elif kind == "say":
            await self._say(message.get("text"), message.get("voice", "en"))
        elif kind == "ping":
            if not isinstance(message.get("id"), str | int | float | None):
                raise Refusal(400, "bad_message", "the 'id' of a 'ping' has to be a string or a number")
            return {"type": "pong", "id": message.get("id")}
        elif isinstance(kind, str):
            raise Refusal(400, "bad_message", f"there is no message of type {kind[:40]!r}: docs/protocol.md has them")
        else:
            raise Refusal(400, "bad_message", "a message has to have a 'type', a string: docs/protocol.md has them")
        return None

    def _control(self, values: dict[str, Any]) -> None:
        if "blink" in values:
            raise Refusal(400, "bad_message", "the strength of blink stays as it was when the session was opened: leave it out")
        try:
            self._controls = read_controls(values, self._controls)
        except ValueError as error:
            raise refused(error, "bad_message") from error
        self._stream.control(self._controls)

    async def _say(self, text: object, voice: object) -> None:
        if not isinstance(text, str) or not isinstance(voice, str):
            raise Refusal(400, "bad_text", "'say' has to have a 'text', and may have a 'voice', both strings")
        most = self._limits.text_letters
        if len(text) > most:
            raise Refusal(400, "bad_text", f"the text has {len(text)} letters, at most {most} are spoken at once")
        before = self._interruptions
        try:
            spoken = await asyncio.to_thread(spoken_at, self._stream.rate, text, voice)
            if self._interruptions > before:
                return
            self._stream.end_segment()
            self._stream.push(spoken)
            self._stream.end_segment()
        except BufferFull as error:
            raise refused(error, "buffer_full") from error
        except (ValueError, OSError) as error:
            raise refused(error, "bad_text") from error


def notice(mark: Mark) -> dict[str, Any]:
    """What a client is told of something that happens on the timeline."""
    told = {"segment": mark.segment, "time": round(mark.seconds, 6)}
    return {"type": "interrupted", **told} if mark.kind == "interrupted" else {"type": "segment", "state": mark.kind, **told}


def complained(refusal: Refusal) -> dict[str, Any]:
    """The message that says what was wrong."""
    return {"type": "error", **refusal.body()["error"]}


def parsed(text: str | bytes) -> dict[str, Any]:
    """A control message; Refusal where it is no JSON object."""
    try:
        return from_json(text)
    except ValueError as error:
        raise Refusal(400, "bad_message", f"a text message is {error}: docs/protocol.md has the messages") from error


def read_controls(values: dict[str, Any], known: Controls) -> Controls:
    """Strengths by name, others as they were; ValueError where a name or a number will not do."""
    for name, value in values.items():
        if name not in vars(known):
            raise ValueError(f"there is no strength of {name[:40]!r}: there are {', '.join(vars(known))}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"the strength of {name} is no number: give 0 to 3")
    return Controls(**{**vars(known), **values})


def spoken_at(rate: int, text: str, voice: str) -> Audio:
    """A text spoken by eSpeak NG, at a rate in Hz; ValueError where the text or the voice will not do."""
    spoken = speak(text, voice)
    resampler = Resampler(spoken.rate, rate)
    return concatenate([resampler.push(spoken), resampler.finish()])
