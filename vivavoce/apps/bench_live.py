"""`vivavoce bench live`: speech played in real time to a server in a process of its own, through real sockets, and what came back
when."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import multiprocessing
import os
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from websockets.asyncio.client import ClientConnection, connect

from vivavoce.apps.server.media import HEADER, LEFT_OUT, PICTURE, SOUND
from vivavoce.apps.stages import TICKS
from vivavoce.media.audio import Audio

CHUNK_SECONDS = 0.02  # of speech that are sent at a time
PAUSE_SECONDS = 1.0  # between two rounds of the speech
SETTLED_SECONDS = 3.0  # of a session that are not steady yet
SHORTEST_SECONDS = 6.0
LATE_SECONDS = 0.04  # behind the session's own middle
_START_SECONDS = 180.0

Say = Callable[[str], None]


@dataclass
class Seen:
    """What one client saw, on its own monotonic clock. ``pictures``: (arrival, time it carries, flags); ``shown``: of pictures
    that show a sound, (arrival, delay since it was sent); ``apart``: of each picture and its sound, (arrival, seconds)."""

    opened: float = 0.0
    asked: float = 0.0
    first_audio: float | None = None
    pictures: list[tuple[float, float, int]] = field(default_factory=list)
    shown: list[tuple[float, float]] = field(default_factory=list)
    apart: list[tuple[float, float]] = field(default_factory=list)
    interrupts: list[float] = field(default_factory=list)
    dropped: int = 0
    underruns: int = 0


class Client:
    """One session: sends speech as a microphone would, and notes what comes."""

    def __init__(self, socket: ClientConnection, speech: Audio):
        self.seen, self._socket, self._speech = Seen(), socket, speech
        self._sent: dict[int, list[float]] = {}  # of each segment, when each chunk was sent
        self._began: dict[int, float] = {}  # of each segment, the time of the session at which it begins to be heard
        self._round = 0
        self._heard = 0  # samples
        self._asked_to_stop: float | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, avatar: str, speech: Audio) -> AsyncIterator[Client]:
        asked = time.monotonic()
        async with connect(f"{url}/v1/live", max_size=2**24, compression=None) as socket:
            await socket.send(json.dumps({"type": "open", "avatar": avatar, "audio_rate": speech.rate}))
            told = json.loads(await socket.recv())
            if told["type"] != "opened":
                raise RuntimeError(f"the server would not open a session: {told}")
            client = cls(socket, speech)
            client.seen.asked, client.seen.opened = asked, time.monotonic()
            yield client

    async def run(self, seconds: float, *, interrupt: bool) -> Seen:
        """Speak and pause for so long; interrupted in the middle of a last round, if it is to be."""
        listening = asyncio.create_task(self._listen())
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await self._say(end)
                await asyncio.sleep(PAUSE_SECONDS)
            if interrupt:
                await self._say(time.monotonic() + 1.5)
                self._asked_to_stop = time.monotonic()
                await self._socket.send(json.dumps({"type": "interrupt"}))
                await asyncio.sleep(1.0)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        return self.seen

    async def _say(self, end: float) -> None:
        """One round of the speech, chunk by chunk as time goes, or as much of it as there is time for."""
        samples = self._speech.to_pcm16()
        size = round(CHUNK_SECONDS * self._speech.rate)
        sent = self._sent[self._round] = []
        self._round += 1
        began = time.monotonic()
        for i in range(0, len(samples), size):
            wait = began + (i + size) / self._speech.rate - time.monotonic()  # a chunk is there when its last sample is
            if wait > 0:
                await asyncio.sleep(wait)
            now = time.monotonic()
            if now > end:
                break
            if self.seen.first_audio is None:
                self.seen.first_audio = now
            sent.append(now)
            await self._socket.send(samples[i : i + size].tobytes())
        await self._socket.send(json.dumps({"type": "end_of_segment"}))

    async def _listen(self) -> None:
        picture = 0.0
        async for message in self._socket:
            now = time.monotonic()
            if isinstance(message, str):
                self._note(json.loads(message), now)
                continue
            kind, flags, _, _, micros = HEADER.unpack_from(message)
            at = micros / 1e6
            if kind == PICTURE:
                picture = at
                self.seen.pictures.append((now, at, flags))
                sent = self._when(at)
                if sent is not None:
                    self.seen.shown.append((now, now - sent))
            elif kind == SOUND:
                # What has been heard in all is where the picture's sound ends: a frame's time behind the picture.
                self._heard += (len(message) - HEADER.size) // 2
                self.seen.apart.append((now, self._heard / self._speech.rate - picture - 1 / 25))

    def _note(self, told: dict[str, Any], now: float) -> None:
        if told["type"] == "segment" and told["state"] == "started":
            self._began[told["segment"]] = told["time"]
        elif told["type"] == "interrupted" and self._asked_to_stop is not None:
            self.seen.interrupts.append(now - self._asked_to_stop)
        elif told["type"] == "status":
            self.seen.dropped, self.seen.underruns = told["dropped"], told["underruns"]

    def _when(self, at: float) -> float | None:
        """When the sound at this time of the session was sent; None if there is none."""
        for number in reversed(self._began):
            chunk = int((at - self._began[number]) / CHUNK_SECONDS)
            sent = self._sent.get(number, [])
            if 0 <= chunk < len(sent):
                return sent[chunk]
        return None


def measure(
    speech: Audio, sizes: Sequence[int], sessions: Sequence[int], seconds: float, say: Say
) -> dict[str, Any]:
    """Figures for each size and number of sessions, each size with a server of its own."""
    found: dict[str, Any] = {"cores": os.cpu_count(), "seconds": seconds, "chunk_ms": 1e3 * CHUNK_SECONDS, "sizes": {}}
    for size in sizes:
        with _server(max(sessions) + 1) as (url, process, starting):
            row: dict[str, Any] = {"start_seconds": round(starting, 2), "runs": {}}
            avatar = _register(url, size)
            idle = _resident(process)
            for name in ("cold", "hot"):
                seen = asyncio.run(_together(url, avatar, speech, 1, 2.0, interrupt=False))[0]
                row[name] = _opening(seen)
            for count in sessions:
                began, busy = time.monotonic(), _busy(process)
                watching = _Memory(process)
                every = asyncio.run(_together(url, avatar, speech, count, seconds, interrupt=True, watch=watching))
                share = (_busy(process) - busy) / (time.monotonic() - began)
                figures = _steady(every, share)
                figures["memory_mib_each"] = round((watching.peak - idle) / count, 1)
                row["runs"][str(count)] = figures
                say(f"{size} px, {count} sessions: {_line(figures)}")
            row["memory_mib"] = round(idle, 1)
            found["sizes"][str(size)] = row
    return found


def soak(speech: Audio, size: int, seconds: float, say: Say) -> dict[str, Any]:
    """One session for a long time: whether memory and delay stay what they are, and sound and pictures together."""
    with _server(2) as (url, process, _):
        avatar = _register(url, size)
        watching = _Memory(process)
        (seen,) = asyncio.run(_together(url, avatar, speech, 1, seconds, interrupt=False, watch=watching, every=30.0))
    parts = []
    begin, width = seen.opened, max(seconds / 12, 10.0)
    for i in range(int(seconds // width)):
        low, high = begin + i * width, begin + (i + 1) * width
        delays = [d for at, d in seen.shown if low <= at < high]
        apart = [abs(a) for at, a in seen.apart if low <= at < high]
        memory = [m for at, m in watching.trace if low <= at < high]
        frames = [p for p in seen.pictures if low <= p[0] < high]
        parts.append({
            "minutes": round((i + 1) * width / 60, 1), "delay_ms": _ms(np.median(delays)) if delays else None,
            "apart_ms": _ms(max(apart, default=0.0)), "memory_mib": round(float(np.median(memory)), 1) if memory else None,
            "fps": round(len(frames) / width, 2),
        })
        say(json.dumps(parts[-1]))
    return {"size": size, "seconds": seconds, "parts": parts, **_steady([seen], float("nan"))}


def table(found: dict[str, Any]) -> str:
    """What `measure` found, as Markdown."""
    head = ["size", "sessions", "fps", "delay, median / 95 % (ms)", "jitter (ms)", "late (%)", "left out (%)", "interrupt (ms)",
            "CPU (cores)", "MiB each"]
    lines = [f"| {' | '.join(head)} |", "|" + "---:|" * len(head)]
    for size, row in found["sizes"].items():
        for count, r in row["runs"].items():
            cells = [size, count, r["fps"], f"{r['delay_ms']} / {r['delay_95_ms']}", r["jitter_ms"], r["late_percent"],
                     r["left_out_percent"], r["interrupt_ms"], r["cpu_cores"], r["memory_mib_each"]]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines.append("")
    for size, row in found["sizes"].items():
        for name in ("cold", "hot"):
            r = row[name]
            lines.append(
                f"{size} px, {name}: opened in {r['open_ms']} ms; after the first audio, the first picture came in "
                f"{r['first_picture_ms']} ms, the first one that shows a sound in {r['first_shown_ms']} ms."
            )
    return "\n".join(lines)


def _opening(seen: Seen) -> dict[str, float]:
    assert seen.first_audio is not None
    first = next(at for at, _, _ in seen.pictures if at >= seen.first_audio)
    return {
        "open_ms": _ms(seen.opened - seen.asked), "first_picture_ms": _ms(first - seen.first_audio),
        "first_shown_ms": _ms(seen.shown[0][0] - seen.first_audio),
    }


def _steady(every: Sequence[Seen], share: float) -> dict[str, Any]:
    """Figures over all clients, their first seconds left out."""
    delays, late, gaps, frames, left, rates, interrupts = [], 0, [], 0, 0, [], []
    for seen in every:
        pictures = [p for p in seen.pictures if p[0] > seen.opened + SETTLED_SECONDS]
        lag = np.array([at - carried for at, carried, _ in pictures])
        late += int((lag > np.median(lag) + LATE_SECONDS).sum())
        gaps += [abs((b[0] - a[0]) - (b[1] - a[1])) for a, b in pairwise(pictures)]
        frames += len(pictures)
        left += round((pictures[-1][1] - pictures[0][1]) * 25) + 1 - len(pictures)
        assert left > 0 or not any(flags & LEFT_OUT for _, _, flags in pictures) or seen.dropped
        rates.append((len(pictures) - 1) / (pictures[-1][0] - pictures[0][0]))
        delays += [delay for at, delay in seen.shown if at > seen.opened + SETTLED_SECONDS]
        interrupts += seen.interrupts
    return {
        "fps": round(float(np.mean(rates)), 2), "delay_ms": _ms(np.median(delays)), "delay_95_ms": _ms(np.percentile(delays, 95)),
        "delay_most_ms": _ms(max(delays)), "jitter_ms": _ms(np.mean(gaps)), "late_percent": round(100 * late / frames, 2),
        "left_out_percent": round(100 * left / (frames + left), 2), "interrupt_ms": _ms(max(interrupts)) if interrupts else None,
        "cpu_cores": round(share, 2), "apart_ms": _ms(max(abs(a) for seen in every for _, a in seen.apart)),
        "underruns": sum(seen.underruns for seen in every), "dropped": sum(seen.dropped for seen in every),
    }


def _line(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items())


def _ms(seconds: float | np.floating[Any]) -> float:
    return round(1e3 * float(seconds), 1)


class _Memory:
    """Resident memory of the server over time, MiB."""

    def __init__(self, process: int):
        self._process = process
        self.trace: list[tuple[float, float]] = []

    def look(self) -> None:
        self.trace.append((time.monotonic(), _resident(self._process)))

    @property
    def peak(self) -> float:
        return max(m for _, m in self.trace)


async def _together(
    url: str, avatar: str, speech: Audio, count: int, seconds: float, *, interrupt: bool, watch: _Memory | None = None,
    every: float = 1.0,
) -> list[Seen]:
    """So many clients at once, each beginning a little after the one before."""

    async def one(number: int) -> Seen:
        await asyncio.sleep(0.37 * number)
        async with Client.open(url, avatar, speech) as client:
            return await client.run(seconds, interrupt=interrupt)

    async def look() -> None:
        while watch is not None:
            watch.look()
            await asyncio.sleep(every)

    looking = asyncio.create_task(look())
    try:
        return list(await asyncio.gather(*(one(i) for i in range(count))))
    finally:
        looking.cancel()


def _register(url: str, size: int) -> str:
    """An avatar of the demonstration's picture in this size."""
    picture = cv2.imencode(".png", cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR))[1].tobytes()
    body = json.dumps({"image_reference": base64.b64encode(picture).decode(), "size": size}).encode()
    address = f"{url.replace('ws://', 'http://')}/v1/avatars"
    with urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": "application/json"})) as answer:
        return str(json.load(answer)["id"])


@contextlib.contextmanager
def _server(sessions: int) -> Iterator[tuple[str, int, float]]:
    """(WebSocket URL, process number, seconds that it took to start) of a server in a process of its own."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, Path(folder), sessions), daemon=True)
        process.start()
        try:
            if not here.poll(_START_SECONDS):
                raise RuntimeError(f"the server did not start within {_START_SECONDS:g} seconds")
            port = here.recv()
            assert process.pid is not None
            yield f"ws://127.0.0.1:{port}", process.pid, time.monotonic() - began
        finally:
            process.terminate()
            process.join(20)


def _serve(pipe: Connection, folder: Path, sessions: int) -> None:
    import threading

    from vivavoce.apps.server.app import create_app
    from vivavoce.apps.server.limits import Limits
    from vivavoce.apps.server.run import listen, load, server

    listening = listen("127.0.0.1", 0)
    running = server(create_app(load(), folder, limits=Limits(sessions=sessions)))

    def tell() -> None:
        while not running.started:
            time.sleep(0.01)
        pipe.send(listening.getsockname()[1])

    threading.Thread(target=tell, daemon=True).start()
    running.run(sockets=[listening])


def _busy(process: int) -> float:
    """Processor time of a process, seconds."""
    numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / TICKS


def _resident(process: int) -> float:
    """Resident memory of a process, MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
