"""A server in a thread and clients of it, for the tests of the server."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from vivavoce import Animator
from vivavoce.apps.server.app import Access, create_app
from vivavoce.apps.server.limits import Limits
from vivavoce.apps.server.media import HEADER, LEFT_OUT, SPEECH
from vivavoce.apps.server.run import listen, server

SEND_BUFFER_BYTES = 32768  # small, so that a client that does not read is noticed soon


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server."""

    port: int
    folder: Path
    http: httpx.Client

    def sessions(self) -> int:
        return int(self.http.get("/healthz").json()["sessions"])

    def idle(self, seconds: float) -> bool:
        """Whether no live session is open, or none is after so long."""
        return waited(lambda: self.sessions() == 0, seconds)


@contextmanager
def serving(
    animator: Animator, folder: Path, *, limits: Limits | None = None, access: Access | None = None, token: str | None = None
) -> Iterator[Served]:
    """A server on a free port of this machine. ``token``: what the client of it sends."""
    app = create_app(animator, folder, limits=limits, access=access)
    running = server(app)
    with listen("127.0.0.1", 0) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        thread = threading.Thread(target=lambda: running.run(sockets=[listening]))
        thread.start()
        try:
            assert waited(lambda: running.started or not thread.is_alive(), 60) and running.started
            port = listening.getsockname()[1]
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as http:
                yield Served(port=port, folder=folder, http=http)
        finally:
            running.should_exit = True
            thread.join(30)
        assert not thread.is_alive()


def waited(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether something is so, or comes to be so in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@dataclass(frozen=True, kw_only=True)
class Media:
    """A binary message of the server."""

    kind: int
    speech: bool
    left_out: bool
    number: int
    seconds: float
    payload: bytes

    @staticmethod
    def read(message: bytes) -> Media:
        kind, flags, zero, number, micros = HEADER.unpack(message[: HEADER.size])
        assert zero == 0 and not flags & ~(SPEECH | LEFT_OUT)
        return Media(
            kind=kind, speech=bool(flags & SPEECH), left_out=bool(flags & LEFT_OUT), number=number, seconds=micros / 1e6,
            payload=message[HEADER.size :],
        )


Received = Media | dict[str, Any]


class Live:
    """A client of /v1/live, which reads nothing until it is asked to. ``received``: everything that has come, in order."""

    def __init__(self, port: int, *, query: str = "", headers: dict[str, str] | None = None, buffer: int | None = None):
        """``buffer``: bytes that may wait on this side."""
        raw = socket.socket()
        if buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        raw.connect(("127.0.0.1", port))
        self._open = ExitStack()
        self.socket = self._open.enter_context(connect(
            f"ws://127.0.0.1:{port}/v1/live{query}", sock=raw, proxy=None, max_size=None, compression=None, max_queue=2,
            additional_headers=headers, open_timeout=30, close_timeout=0.2,
            ping_interval=None,
        ))
        self.received: list[Received] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def open(self, **fields: Any) -> dict[str, Any]:
        """Open the session; what the server says of it."""
        self.send("open", **fields)
        return self.until("opened", 30)

    def take(self, seconds: float = 10) -> Received:
        message = self.socket.recv(timeout=seconds)
        taken: Received = Media.read(message) if isinstance(message, bytes) else json.loads(message)
        self.received.append(taken)
        return taken

    def until(self, kind: str, seconds: float = 20, **fields: Any) -> dict[str, Any]:
        """The next control message of this type, with these fields; media and others are passed by."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            taken = self.take(seconds)
            if isinstance(taken, dict) and taken["type"] == kind and fields.items() <= taken.items():
                return taken
        raise TimeoutError(f"no {kind} came within {seconds} seconds")

    def watch(self, seconds: float) -> list[Media]:
        """The media of so many seconds of the session from here on."""
        first: float | None = None
        media: list[Media] = []
        while first is None or media[-1].seconds < first + seconds:
            taken = self.take()
            if isinstance(taken, Media):
                first = taken.seconds if first is None else first
                media.append(taken)
        return media

    def closed(self, seconds: float = 15) -> tuple[int, str]:
        """Take what still comes; the code with which the server closes, and its reason."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                self.take(seconds)
        except ConnectionClosed as error:
            return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
        raise TimeoutError(f"the server did not close within {seconds} seconds")

    @property
    def media(self) -> list[Media]:
        return [taken for taken in self.received if isinstance(taken, Media)]

    @property
    def errors(self) -> list[str]:
        return [taken["code"] for taken in self.received if isinstance(taken, dict) and taken["type"] == "error"]

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def png(picture: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def tone(seconds: float, rate: int) -> np.ndarray:
    """Something like a voice: int16, loud from its first sample to its last."""
    t = np.arange(round(seconds * rate)) / rate
    wave_ = np.sin(2 * np.pi * 150 * t) + 0.5 * np.sin(2 * np.pi * 900 * t + 1) * np.sin(2 * np.pi * 3 * t + 1)
    return np.round(12000 * wave_ / np.abs(wave_).max() + 50).astype("<i2")


def wav(samples: np.ndarray, rate: int) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return written.getvalue()
