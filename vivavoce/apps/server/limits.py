"""What a server allows, and how it says no."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, fields
from typing import Any, NoReturn

MEBIBYTE = 2**20
_LONGEST_MESSAGE = 400  # letters of what a client is told; what it sent itself may be in it
_LONGEST_INTEGER = 20  # digits
_MOST_VALUES = 10_000  # of one JSON text; what is sent here has a few dozen, and a file of millions would fill the memory


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All limits of a server. Sizes in MiB, times in seconds, pictures in pixels of their longest side."""

    upload_mib: float = 20.0  # of a request's body
    upload_seconds: float = 120.0  # until all of it has come
    message_mib: float = 1.0  # of a live message, but for the first
    first_message_mib: float = 28.0  # of that: there may be a picture in it, as base64
    audio_seconds: float = 600.0  # of the speech of a video
    sync_seconds: float = 20.0  # the same where the client waits for it
    text_letters: int = 2000
    size: int = 1024  # of what is rendered
    sessions: int = 8
    waiting: int = 16  # requests whose pictures or sounds wait to be examined
    queue: int = 16  # videos that wait or are made
    kept_videos: int = 64
    avatars: int = 256
    buffered_seconds: float = 60.0  # of speech that waits in a session
    session_seconds: float = 6 * 3600.0
    open_seconds: float = 10.0  # until a session says what it wants
    stuck_seconds: float = 10.0  # that a client fetches nothing
    errors: int = 100  # messages of a session that make no sense

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"the limit {field.name} is {getattr(self, field.name)}: give a number greater than 0")


class Refusal(Exception):
    """A request that cannot be served, in a sentence for the client. ``code`` is for its program; ``status`` is HTTP's."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code
        self.message = message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."

    def body(self) -> dict[str, Any]:
        """The JSON that says so."""
        return {"error": {"code": self.code, "message": self.message}}


def refused(error: Exception, code: str, status: int = 400) -> Refusal:
    """The library's own sentence about bad input, for a client."""
    return Refusal(status, code, " ".join(str(error).split()))


def from_base64(text: str) -> bytes:
    """The content of base64 or of a data URL with base64; ValueError where it is neither."""
    content = text.partition(",")[2] if text.startswith("data:") else text
    return base64.b64decode("".join(content.split()), validate=True)  # programs that encode files break them into lines


def from_json(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text holds. ValueError, in words that follow "it is", where there is none that can be served."""
    try:
        letters = text if isinstance(text, str) else text.decode()
        if sum(letters.count(sign) for sign in ",[{") > _MOST_VALUES:
            raise ValueError(f"an object of more than {_MOST_VALUES} values")
        value = json.loads(letters, parse_constant=_no_number, parse_float=_finite, parse_int=_short)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("no JSON") from error
    if not isinstance(value, dict):
        raise ValueError("JSON, but no object")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"no JSON: {name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"JSON with a number that is too large, {text[:40]}")
    return value


def _short(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError(f"JSON with a number of {len(text)} digits")
    return int(text)
