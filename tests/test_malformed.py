"""A thousand malformed requests and messages: no crash, no leak, nothing of the server's inside to the client, and the next valid
request works. Everything is seeded, and goes to 127.0.0.1 only."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import gc
import json
import logging
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import malformed
import numpy as np
import pytest
from malformed import JSON, RATE, Case, flipped, masked, multipart
from prometheus_client.parser import text_string_to_metric_families
from serving import Live, Served, png, serving, tone, waited, wav
from websockets.exceptions import ConnectionClosed

from vivavoce import Animator
from vivavoce.apps.server.limits import Limits

T = TypeVar("T")

GOOD_AVATAR = {"image_reference": base64.b64encode(png(malformed.FACE)).decode(), "size": 96}
LIMITS = Limits(size=128, upload_mib=4.0, audio_seconds=20.0, sync_seconds=2.0, sessions=3, open_seconds=5.0)
CASES, KINDS = 1000, 14
GROWTH_BYTES = 60 * 2**20
# What uvicorn, websockets and starlette's files say by themselves.
OF_OTHERS = (b"Invalid HTTP request received.", b"Failed to open a WebSocket connection", b"Range header")
MINE = re.compile(rb'Traceback|File "|site-packages|/tmp|/root|/home|/work|\.py\b')


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A running server, what it was like before, and how many malformed things it has been sent."""

    served: Served
    mistakes: list[logging.LogRecord]
    files: int
    threads: set[str]
    tasks: int
    sent: dict[str, int] = field(default_factory=dict)

    def through(self, kind: str, cases: Iterable[T], send: Callable[[T], object]) -> None:
        """Send all of them, shuffled. The first half may fill caches and wake threads; the second must not take more memory. Then
        the next valid requests have to work."""
        each = list(cases)
        random.Random(0).shuffle(each)
        before = 0
        for n, case in enumerate(each):
            before = resident() if n == len(each) // 2 else before
            send(case)
            self.no_mistakes(f"{kind} {n} {str(case)[:200]}")
        self.still_works()
        assert waited(lambda: resident() - before < GROWTH_BYTES, 5)
        self.sent[kind] = self.sent.get(kind, 0) + len(each)

    def no_mistakes(self, name: str) -> None:
        """The server's log has no error."""
        said = [record.getMessage() for record in self.mistakes]
        self.mistakes.clear()
        assert not said, f"{name}: the server logged {said}"

    def check(self, name: str, status: int, content: bytes) -> None:
        """A refusal in one sentence, or what was asked for; nothing that gives the server away."""
        shown = f"{name}: {status} {content[:300]!r}"
        self.no_mistakes(shown)
        assert status < 500, shown
        assert not MINE.search(content) or status < 400, shown
        assert str(self.served.folder).encode() not in content, shown
        if status >= 400 and content and not content.startswith(OF_OTHERS):
            said = json.loads(content)["error"]
            assert set(said) == {"code", "message"} and re.fullmatch("[a-z_]+", said["code"]), shown
            assert 10 < len(said["message"]) <= 400 and "\n" not in said["message"], shown

    def still_works(self) -> None:
        """The next valid requests."""
        http = self.served.http
        assert http.get("/v1/avatars/demo").json()["id"] == "demo"
        assert http.post("/v1/avatars", json=GOOD_AVATAR).status_code == 200
        assert http.post("/v1/videos/sync", json={"text": "Hi"}).status_code == 200
        with Live(self.served.port) as client:
            client.open(avatar="demo", audio_rate=RATE)
            client.socket.send(tone(0.2, RATE).tobytes())
            client.send("end_of_segment")
            client.until("segment", state="finished")
        assert self.served.idle(5)
        self.no_mistakes("valid requests")


def resident() -> int:
    """Bytes of memory of this process, in which the server runs, without what was given back to the C library."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def threads() -> set[str]:
    """Names of threads, but for those of pools, which stay."""
    pools = ("server_", "turns_", "AnyIO", "ThreadPool", "Thread-")
    return {one.name for one in threading.enumerate() if not one.name.startswith(pools)}


@pytest.fixture(scope="module")
def watched(animator: Animator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    mistakes: list[logging.LogRecord] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Invalid UTF-8" not in record.getMessage():  # uvicorn's word for a client's mistake
                mistakes.append(record)

    listen = Listen(logging.ERROR)
    logging.getLogger().addHandler(listen)
    logging.getLogger("uvicorn.error").addHandler(listen)
    with serving(animator, tmp_path_factory.mktemp("malformed"), limits=LIMITS) as served:
        for video in ("jpeg", "mp4"):
            with Live(served.port) as client:
                client.open(avatar="demo", video=video)
                client.watch(0.5)
        assert served.http.post("/v1/videos/sync", json={"text": "Hello"}).status_code == 200
        assert served.http.post("/v1/avatars", json=GOOD_AVATAR).status_code == 201
        assert served.idle(5)
        yield Watched(
            served=served, mistakes=mistakes, files=len(os.listdir("/proc/self/fd")), threads=threads(),
            tasks=len(os.listdir("/proc/self/task")),
        )
    logging.getLogger().removeHandler(listen)
    logging.getLogger("uvicorn.error").removeHandler(listen)


def raw(port: int, sent: bytes, *, over: bool = False) -> tuple[int, bytes] | None:
    """Bytes to the server as they are; status and content of what it answers, None where it just hangs up. ``over``: nothing more
    will come, and the server is told so."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        received = b""
        try:
            connection.sendall(sent)
            if over:
                connection.shutdown(socket.SHUT_WR)
            while len(part := connection.recv(65536)):
                received += part
        except ConnectionError:
            pass
    head, _, content = received.partition(b"\r\n\r\n")
    if not head:
        return None
    if b"transfer-encoding: chunked" in head.lower():
        content = b"".join(content.split(b"\r\n")[1:-3:2])
    return int(head.split(b" ")[1]), content


def sent_raw(watched: Watched, case: Case, *, over: bool = False) -> None:
    name, verb, path, headers, body = case
    head = {"Host": "127.0.0.1", "Connection": "close", **headers}
    lines = "".join(f"{key}: {value}\r\n" for key, value in head.items())
    answer = raw(watched.served.port, f"{verb} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body, over=over)
    assert answer is not None or over, name
    if answer is not None:
        watched.check(name, *answer)


def sent(watched: Watched, case: Case) -> httpx.Response:
    name, verb, path, headers, body = case
    answer = watched.served.http.request(verb, path, headers=headers, content=body)
    watched.check(name, answer.status_code, answer.content if answer.is_error else b"")
    if answer.status_code in (201, 202) and answer.json()["id"] != "demo":
        assert watched.served.http.delete(f"/v1/{answer.json()['object']}s/{answer.json()['id']}").status_code == 200
    return answer


def upload(name: str, content: bytes, *, encoded: bool, **others: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of a request with a file, by form or in base64."""
    if encoded:
        return JSON, json.dumps({name: base64.b64encode(content).decode(), **others}).encode()
    disposition = 'Content-Disposition: form-data; name="{}"'
    parts = [(disposition.format(name) + '; filename="../a"', content)]
    parts += [(disposition.format(key), value.encode()) for key, value in others.items()]
    return {"Content-Type": "multipart/form-data; boundary=limit"}, multipart(parts)


@pytest.mark.parametrize("cases", [malformed.bodies_of_json, malformed.forms])
def test_bodies(watched: Watched, cases: Callable[[], Iterator[Case]]) -> None:
    watched.through(cases.__name__, cases(), lambda case: sent(watched, case))


def test_paths_and_headers(watched: Watched) -> None:
    chance = random.Random(5)
    watched.through("paths", malformed.paths(), lambda case: sent_raw(watched, case))

    def noise(content: bytes) -> None:
        if (answer := raw(watched.served.port, content, over=True)) is not None:
            watched.check("noise", *answer)

    watched.through("noise", (chance.randbytes(chance.randrange(1, 2000)) for _ in range(30)), noise)


def test_pictures(watched: Watched) -> None:
    def send(numbered: tuple[int, bytes]) -> None:
        n, content = numbered
        sent(watched, (f"picture {n}", "POST", "/v1/avatars", *upload("image_reference", content, encoded=n % 2 == 0)))

    watched.through("pictures", enumerate(malformed.pictures()), send)


def test_sounds(watched: Watched) -> None:
    def send(numbered: tuple[int, bytes]) -> None:
        n, content = numbered
        sent(watched, (f"sound {n}", "POST", "/v1/videos", *upload("audio_reference", content, encoded=n % 2 == 0)))

    watched.through("sounds", enumerate(malformed.sounds()), send)


def test_a_playlist_opens_no_other_file(watched: Watched) -> None:
    folder = watched.served.folder / "videos"
    secret = folder / "secret.wav"
    secret.write_bytes(wav(tone(1.0, RATE), RATE))

    def send(content: bytes) -> None:
        answer = sent(watched, ("playlist", "POST", "/v1/videos", *upload("audio_reference", content, encoded=False)))
        assert answer.json()["error"]["code"] == "bad_audio", content

    names = (secret.name, str(secret), f"file:{secret}", f"file://{secret}", "http://127.0.0.1:1/a.wav")
    watched.through("playlists", (playlist.format(name).encode() for playlist in malformed.PLAYLISTS for name in names), send)
    secret.unlink()


def ended(client: Live) -> None:
    """The server closes, with a reason that is ours and says no more than it should."""
    code, reason = client.closed()
    assert code in (1002, 1007, 1009, *range(4400, 4430), 4503), (code, reason)
    for taken in client.received:
        assert not isinstance(taken, dict) or not MINE.search(json.dumps(taken).encode()), taken


def test_first_messages(watched: Watched) -> None:
    chance = random.Random(7)
    first: list[str | bytes] = [*malformed.openings(), bytes(2**20), "x" * 2**20]
    first += [chance.randbytes(chance.randrange(200)) for _ in range(20)]
    chance.shuffle(first)

    def send(message: str | bytes) -> None:
        assert watched.served.idle(5)
        with Live(watched.served.port) as client:
            client.socket.send(message)
            ended(client)

    watched.through("first messages", first, send)


def test_messages_of_a_session(watched: Watched) -> None:
    chance = random.Random(8)
    kept = [text for text in malformed.TEXTS if len(text) < 90_000]

    def session(number: int) -> None:
        with Live(watched.served.port) as client:
            client.open(avatar="demo", audio_rate=RATE)
            for _ in range(90):
                text = chance.choice(kept)
                if text and chance.random() < 0.3:
                    text = flipped(text.encode(), chance, 3).decode(errors="ignore")
                client.socket.send(text)
                if chance.random() < 0.3:
                    client.socket.send(chance.randbytes(chance.randrange(300)))
            client.send("ping", id=f"end {number}")
            assert client.until("pong", 30)["id"] == f"end {number}"
            assert len(client.errors) > 60 and set(client.errors) <= {"bad_message", "bad_text"}
            for _ in range(60):
                client.send("nonsense")
            assert client.closed() == (4429, "too_many_errors")

    watched.through("sessions of messages", range(4), session)
    watched.sent["messages"] = 4 * 90


def test_messages_that_are_too_large(watched: Watched) -> None:
    def send(size: int, message: str | bytes | list[str], opened: bool, code: int) -> None:
        with Live(watched.served.port) as client:
            if opened:
                client.open(avatar="demo")
            with contextlib.suppress(ConnectionClosed):  # the server need not wait for all of it
                client.socket.send(message)
            assert client.closed(30)[0] == code, size

    mebibyte = "x" * 2**20
    opening = json.dumps({"type": "open", "image": "A" * (28 * 2**20)})
    cases = [
        (28, opening, False, 4413), (30, [mebibyte] * 30, False, 1009), (1, bytes(2**20 + 1), True, 4413),
        (1, mebibyte + "x", True, 4413),
    ]
    watched.through("large messages", cases * 2, lambda case: send(*case))


def test_floods_hold_up_nobody(watched: Watched) -> None:
    with Live(watched.served.port) as flood, Live(watched.served.port) as other:
        flood.open(avatar="demo", audio_rate=RATE)
        other.open(avatar="demo", audio_rate=RATE)
        flood_ = masked(0x81, b'{"type":"interrupt"}') + masked(0x82, b"") + masked(0x81, b'{"type":"end_of_segment"}')

        def pour() -> None:
            flood.socket.socket.sendall(flood_ * 10_000)
            flood.send("ping", id="end")
            flood.until("pong", 60)

        flooding = threading.Thread(target=pour)
        flooding.start()
        waits = []
        while flooding.is_alive():
            asked = time.monotonic()
            other.send("ping", id=1)
            other.until("pong", 30)
            waits.append(time.monotonic() - asked)
        assert len(waits) > 3 and np.median(waits) < 0.5
    watched.still_works()


HANDSHAKE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    "Sec-WebSocket-Version": "13",
}


def upgraded(port: int) -> socket.socket:
    """A connection after its handshake, for frames of one's own."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=8)
    lines = "".join(f"{key}: {value}\r\n" for key, value in HANDSHAKE.items())
    connection.sendall(f"GET /v1/live HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    assert b" 101 " in answer
    return connection


def test_frames_that_are_none(watched: Watched) -> None:
    def send(content: bytes) -> None:
        assert watched.served.idle(8)
        received = b""
        with upgraded(watched.served.port) as connection:
            try:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                while len(part := connection.recv(65536)):
                    received += part
            except ConnectionError:
                pass
        assert not MINE.search(received)

    watched.through("frames", malformed.frames(), send)


def test_handshakes_that_are_none(watched: Watched) -> None:
    changes: list[dict[str, str]] = [
        {"Sec-WebSocket-Key": ""}, {"Sec-WebSocket-Key": "short"}, {"Sec-WebSocket-Key": "!" * 24},
        {"Sec-WebSocket-Version": "12"}, {"Sec-WebSocket-Version": "x"}, {"Upgrade": "nothing"}, {"Connection": "close"},
        {"Sec-WebSocket-Protocol": "a, b, c" * 500},
        {"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=99"},
        {"Sec-WebSocket-Extensions": ";;;,,," * 100}, {"Content-Length": "5"}, {"Transfer-Encoding": "chunked"},
        {"Origin": "http://["}, {"Host": "evil.example"},
    ]
    paths = ("/v1/live", "/v1/live?token=%ff", "/v1/nothing", "/")
    cases = [(f"handshake {path}", "GET", path, {**HANDSHAKE, **change}, b"") for change in changes for path in paths]
    watched.through("handshakes", cases, lambda case: sent_raw(watched, case, over=True))


def test_clients_that_vanish_at_every_stage(watched: Watched) -> None:
    opening = masked(0x81, json.dumps({"type": "open", "avatar": "demo", "audio_rate": RATE}).encode())
    own = masked(0x81, json.dumps({"type": "open", "image": GOOD_AVATAR["image_reference"], "size": 96}).encode())
    whole = masked(0x81, json.dumps({"type": "open", "video": "mp4"}).encode())
    say = masked(0x81, json.dumps({"type": "say", "text": "Somebody will be gone before this is spoken."}).encode())
    speech = masked(0x82, tone(1.0, RATE).tobytes())
    stages = (
        b"", opening[:1], opening[:9], opening, own, whole, opening + say, opening + speech, opening + speech[:999],
        whole + speech + say, opening + masked(0x81, b'{"type":"interrupt"}'), opening + say + masked(0x81, b'{"type":"close"}'),
    )
    chance = random.Random(10)

    def vanish(stage: bytes) -> None:
        assert waited(lambda: watched.served.sessions() < LIMITS.sessions, 10)
        with upgraded(watched.served.port) as connection:
            connection.sendall(stage)
            time.sleep(chance.choice((0.0, 0.0, 0.05, 0.2)))
            if chance.random() < 0.7:  # without a word
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    watched.through("vanished", stages * 4, vanish)


def test_nothing_is_left(watched: Watched) -> None:
    """After all of them: as many as were promised; no sessions, streams, jobs, threads or files."""
    served = watched.served
    if len(watched.sent) == KINDS:  # else only some of the tests were asked for
        assert sum(watched.sent.values()) >= CASES, watched.sent
    assert served.idle(10)
    families = text_string_to_metric_families(served.http.get("/metrics").text)
    figures = {sample.name: sample.value for family in families for sample in family.samples}
    assert figures["vivavoce_sessions"] == figures["vivavoce_streams"] == figures["vivavoce_videos_unfinished"] == 0
    assert waited(lambda: threads() <= watched.threads, 15), threads() - watched.threads
    pools = LIMITS.sessions + 8 + 16  # threads that come when they are wanted
    assert len(os.listdir("/proc/self/task")) <= watched.tasks + pools
    assert waited(lambda: len(os.listdir("/proc/self/fd")) <= watched.files + 10, 15)
    assert not list((served.folder / "videos").iterdir())
    avatars = {avatar["id"] for avatar in served.http.get("/v1/avatars").json()["data"]} - {"demo"}
    kept = {file.name for file in (served.folder / "avatars").iterdir()}
    assert kept == {f"{key}{suffix}" for key in avatars for suffix in (".json", ".npz")}
    watched.no_mistakes("the end")
    served.http.post("/v1/videos/sync", json={"text": "Hello"}).raise_for_status()
