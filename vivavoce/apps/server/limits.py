"""What a server allows, and how it says no."""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields
from typing import Any

MEBIBYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All limits of a server. Sizes in MiB, times in seconds, pictures in pixels of their longest side."""

    upload_mib: float = 20.0  # of a request's body
    message_mib: float = 1.0  # of a live message, but for the first
    audio_seconds: float = 600.0  # of the speech of a video
    sync_seconds: float = 20.0  # the same where the client waits for it
    text_letters: int = 2000
    size: int = 1024  # of what is rendered
    sessions: int = 8
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
        self.status, self.code, self.message = status, code, message

    def body(self) -> dict[str, Any]:
        """The JSON that says so."""
        return {"error": {"code": self.code, "message": self.message}}


def refused(error: Exception, code: str, status: int = 400) -> Refusal:
    """The library's own sentence about bad input, for a client."""
    return Refusal(status, code, " ".join(str(error).split()))


def from_base64(text: str) -> bytes:
    """The content of base64 or of a data URL with base64; ValueError where it is neither."""
    return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
