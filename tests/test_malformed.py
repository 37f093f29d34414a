"""A thousand malformed requests and messages: no crash, no leak, nothing of the server's inside to the client, and the next valid
request works. Everything is seeded, and goes to 127.0.0.1 only."""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
import os
import random
import re
import secrets
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import skimage.data
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import Live, Served, png, serving, tone, waited, wav

from vivavoce import Animator
from vivavoce.apps.server.limits import Limits

RATE = 16000
LIMITS = Limits(size=128, upload_mib=4.0, audio_seconds=20.0, sync_seconds=2.0, sessions=3, open_seconds=5.0)
CASES = 1000
GROWTH_BYTES = 60 * 2**20
# What uvicorn and websockets say of requests that do not reach the application.
OF_OTHERS = (b"Invalid HTTP request received.", b"Failed to open a WebSocket connection", b"Unsupported upgrade request.")
MINE = re.compile(rb'Traceback|File "|site-packages|/tmp|/root|/home|/work|\.py\b')


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A running server, what it was like before, and how many malformed things it has been sent."""

    served: Served
    mistakes: list[logging.LogRecord]
    memory: int
    files: int
    threads: set[str]
    tasks: int
    sent: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str) -> None:
        self.sent[kind] = self.sent.get(kind, 0) + 1

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
        assert http.post("/v1/avatars", json=GOOD_AVATAR).status_code == 201
        with Live(self.served.port) as client:
            client.open(avatar="demo", audio_rate=RATE)
            client.socket.send(tone(0.2, RATE).tobytes())
            client.send("end_of_segment")
            client.until("segment", state="finished")
        assert self.served.idle(5)
        self.no_mistakes("valid requests")


def resident() -> int:
    """Bytes of memory of this process, in which the server runs."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def threads() -> set[str]:
    """Names of threads, but for those of pools, which stay."""
    return {
        one.name
        for one in threading.enumerate()
        if not one.name.startswith(("server_", "turns_", "AnyIO", "ThreadPool", "Thread-"))
    }


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
            served=served,
            mistakes=mistakes,
            memory=resident(),
            files=len(os.listdir("/proc/self/fd")),
            threads=threads(),
            tasks=len(os.listdir("/proc/self/task")),
        )
    logging.getLogger().removeHandler(listen)
    logging.getLogger("uvicorn.error").removeHandler(listen)


FACE = np.ascontiguousarray(skimage.data.astronaut()[0:200, 130:330])
GOOD_AVATAR = {"image_reference": base64.b64encode(png(FACE)).decode(), "size": 96}


def saved(kind: str, **how: Any) -> bytes:
    """The face as a file of some kind."""
    written = io.BytesIO()
    Image.fromarray(FACE).save(written, kind, **how)
    return written.getvalue()


def coded(kind: str, codec: str, seconds: float = 0.6, late: float = 0.0) -> bytes:
    """A tone as a file of some kind. ``late``: seconds after a picture at which it begins."""
    written = io.BytesIO()
    with av.open(written, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=RATE)
        assert isinstance(stream, AudioStream)
        stream.layout = "mono"
        if late:
            video = container.add_stream("libx264", rate=25)
            video.width = video.height = 64  # type: ignore[attr-defined]
            for packet in video.encode(av.VideoFrame(64, 64, "yuv420p")):  # type: ignore[attr-defined]
                container.mux(packet)
            container.mux(video.encode(None))  # type: ignore[attr-defined]
        frame = AudioFrame.from_ndarray(tone(seconds, RATE)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, round(late * RATE)
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=RATE, frame_size=stream.frame_size)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            part.pts = None if part.pts is None else part.pts
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return written.getvalue()


def flipped(data: bytes, chance: random.Random, count: int = 8) -> bytes:
    """Some bytes are others, most of them near the beginning, where headers are."""
    damaged = bytearray(data)
    for _ in range(count):
        end = len(damaged) if chance.random() < 0.5 else min(200, len(damaged))
        damaged[chance.randrange(end)] = chance.randrange(256)
    return bytes(damaged)


# What is sent to the REST interface: (name, verb, path, headers, body)

Case = tuple[str, str, str, dict[str, str], bytes]
JSON = {"Content-Type": "application/json"}
POSTS = ("/v1/avatars", "/v1/videos", "/v1/videos/sync", "/v1/webrtc/offer")
FIELDS = (
    "image_reference",
    "audio_reference",
    "text",
    "voice",
    "avatar_id",
    "avatar",
    "size",
    "crop",
    "face",
    "fps",
    "seed",
    "name",
    "sdp",
    "type",
    "expression",
    "head",
    "blink",
    "gaze",
    "__proto__",
    "constructor",
    "",
    "\0",
    "../../etc/passwd",
    "a" * 5000,
    "\N{SNOWMAN}",
)
TOKENS = (
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "512",
    "99999999999999999999",
    "9" * 5000,
    "-0.0",
    "1e308",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    "[]",
    "{}",
    "[[[]]]",
    '{"a": {"b": []}}',
    '""',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udfff\\ud800"',
    '"' + "x" * 3000 + '"',
    '"../../../etc/passwd"',
    '"file:///etc/passwd"',
    '"http://127.0.0.1:1/"',
    '"AAAA"',
    '"data:,"',
    '"data:image/png;base64,AAAA"',
    '"%00"',
    '"; rm -rf /"',
    '"<script>alert(1)</script>"',
    '"${jndi:ldap://x}"',
    '"\\u202e"',
    '"=="',
    '"NaN"',
    '"1e9"',
    '" 12 "',
    '"yes"',
    "[1, 2]",
)


def bodies_of_json() -> Iterator[Case]:
    chance = random.Random(1)
    for n in range(260):
        names = chance.sample(FIELDS, chance.randrange(1, 5))
        body = ", ".join(f"{json.dumps(name)}: {chance.choice(TOKENS)}" for name in names)
        yield f"fields {n}", "POST", chance.choice(POSTS), JSON, f"{{{body}}}".encode()
    good = json.dumps({"text": "", "avatar_id": "demo", "fps": 25, "controls": {"head": 1}}).encode()
    for n in range(60):
        yield f"cut {n}", "POST", chance.choice(POSTS), JSON, good[: chance.randrange(len(good))]
        yield f"flipped {n}", "POST", chance.choice(POSTS), JSON, flipped(good, chance)
    odd = (
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"",
        b" ",
        b"null",
        b"5",
        b'"text"',
        b"[]",
        b"\xef\xbb\xbf{}",
        '{"text": "?"}'.encode("utf-16"),
        '{"text": "?"}'.encode("utf-32"),
        b"\xff\xfe\xfd",
        bytes(1000),
        b"{}" * 1000,
        b'{"text": "\xff\xfe"}',
        b'{"text": "a\0b"}',
        b"{" + b'"a": 1, ' * 20_000 + b'"b": 1}',
        b'{"a": [' + b"0," * 500_000 + b"0]}",
        b'{"a": [' + b"{}," * 300_000 + b"{}]}",
        b'{"size": ' + b"9" * 100_000 + b"}",
        b'{"seed": 1' + b"0" * 4000 + b"}",
        b'{"text": "", "text": "", "text": 5}',
        b'{"text": "' + b"\\" * 999 + b'"}',
        b'{"image_reference": "' + b"A" * 3_000_000 + b'"}',
    )
    for n, body in enumerate(odd):
        for path in POSTS:
            yield f"odd {n}", "POST", path, JSON, body


def multipart(parts: list[tuple[str, bytes]], boundary: str = "limit") -> bytes:
    """A form, from the parts' headers and contents."""
    joined = b"".join(f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts)
    return joined + f"--{boundary}--\r\n".encode()


def forms() -> Iterator[Case]:
    chance = random.Random(2)
    disposition = 'Content-Disposition: form-data; name="{}"'
    file = disposition + '; filename="{}"\r\nContent-Type: image/png'
    good = multipart(
        [
            (disposition.format("size"), b"wide"),
            (file.format("image_reference", "a.png"), png(FACE[:32, :32])),
            (disposition.format("name"), b"Ada"),
        ]
    )
    kind = {"Content-Type": "multipart/form-data; boundary=limit"}
    for n in range(60):
        yield f"cut {n}", "POST", chance.choice(POSTS), kind, good[: chance.randrange(len(good) - 4)]
    for n in range(60):
        yield f"flipped {n}", "POST", chance.choice(POSTS), kind, flipped(good, chance, 12)
    tricks = (
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        "x" * 4000,
        "..\\..\\boot.ini",
        "con",
        "%2e%2e%2f",
        "\u202egnp.exe",
        "",
        "'; --",
    )
    for name in tricks:
        yield (
            f"file {name[:20]!r}",
            "POST",
            "/v1/avatars",
            kind,
            multipart([(file.format("image_reference", name), b"no picture")]),
        )
        yield f"field {name[:20]!r}", "POST", "/v1/avatars", kind, multipart([(file.format(name, "a.png"), b"no picture")])
    types = (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=other",
        "multipart/mixed; boundary=limit",
        "multipart/form-data; boundary=" + "b" * 300,
        'multipart/form-data; boundary="limit',
        "multipart/form-data" + "; boundary=limit" * 50,
        "multipart/form-data; boundary=(),/:",
        "text/plain",
        "application/x-www-form-urlencoded",
        "x",
        ";",
        "application/json; x=" + "y" * 9000,
        "multipart/form-data;" + ";" * 9000,
        "image/png",
        "application/xml",
        "multipart/form-data; boundary*=utf-8''limit",
        *(
            f"multipart/form-data; boundary=limit; charset={name}"
            for name in ("punycode", "utf-7", "utf-16", "idna", "hex", "rot13", "nobody")
        ),
    )
    for value in types:
        yield f"type {value[:40]!r}", "POST", chance.choice(POSTS[:3]), {"Content-Type": value}, good
    slow = multipart([(disposition.format("text"), b"-" + b"a" * 1_000_000)])
    yield "slow alphabet", "POST", "/v1/videos", {"Content-Type": "multipart/form-data; boundary=limit; charset=punycode"}, slow
    size = disposition.format("size")
    odd = (
        multipart([(size, b"1"), (size, b"2")]),
        multipart([("Content-Disposition: form-data", b"1")]),
        multipart([("", b"1")]),
        multipart([(size, b"1")] * 100),
        multipart([(file.format(f"f{i}", "a"), b"1") for i in range(20)]),
        multipart([("X: " + "y" * 20_000 + "\r\n" + size, b"1")]),
        multipart([("\r\n".join(f"X{i}: y" for i in range(50)), b"1")]),
        multipart([(size, b"\xff\xfe")]),
        multipart([(size, b"9" * 5000)]),
        multipart([(size, multipart([(size, b"1")]))]),
        b"--limit--\r\n",
        b"--limit--",
        b"",
        b"\r\n" * 1000,
        good.replace(b"\r\n", b"\n"),
        b"x" * 100_000,
        good * 2,
        b"preamble\r\n" + good,
        multipart([(file.format("image_reference", "a.png"), b"")]),
        multipart([(file.format("text", "a.txt"), b"\xff\xfe\x00")]),
    )
    for n, body in enumerate(odd):
        for path in ("/v1/avatars", "/v1/videos"):
            yield f"odd {n}", "POST", path, kind, body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, *extra: bytes, bits: int = 1, rows: int | None = None) -> bytes:
    """A PNG that is small, of a picture that is not."""
    squeezed = zlib.compressobj(9)
    line = bytes(1 + (width * bits + 7) // 8)
    data = b"".join(squeezed.compress(line) for _ in range(height if rows is None else rows)) + squeezed.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def pictures() -> Iterator[bytes]:
    chance = random.Random(3)
    files = [saved("PNG"), saved("JPEG"), saved("WEBP"), saved("BMP"), saved("TIFF"), saved("TIFF", compression="tiff_lzw")]
    for n in range(30):
        yield chance.randbytes(chance.randrange(1, 3000))
        yield files[n % 6][: chance.randrange(1, len(files[n % 6]) - 1)]
    for n in range(72):
        yield flipped(files[n % 6], chance, 1 + n // 6)
    for file in files:
        yield file[:8] + chance.randbytes(500)
        yield file[:-1][: len(file) // 2] + file
    zeros = zlib.compress(bytes(80 * 2**20), 9)
    yield from (
        bomb(10_000, 10_000),
        bomb(20_000, 20_000, rows=10),
        bomb(2**31 - 1, 2**31 - 1, rows=1),
        bomb(0, 0),
        bomb(1, 1),
        bomb(15, 15),
        bomb(60_000, 16),
        bomb(100, 100, rows=1),
        bomb(50_000, 1_000),
        bomb(64, 64, chunk(b"zTXt", b"a\0\0" + zeros)),
        bomb(64, 64, chunk(b"iCCP", b"a\0\0" + zeros)),
        bomb(64, 64, chunk(b"iTXt", b"a\0\1\0\0\0" + zeros)),
        bomb(64, 64, chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 500)),
        bomb(64, 64, chunk(b"acTL", struct.pack(">II", 2**31, 0))),
        b"GIF89a" + bytes(100),
        b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n",
        b"8BPS\0\1" + bytes(100),
        b"PK\3\4" + zeros[:5000],
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"P6 99999 99999 255\n",
        b"\0\0\0\x18ftypheic" + bytes(50),
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\1\x03\x11\1",
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(40),
        b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 400,
        b"BM" + b"\xff" * 60,
        b"",
        b"\0",
        saved("PNG") + zeros,
    )


def wave_header(
    rate: int = RATE, channels: int = 1, bits: int = 16, kind: int = 1, length: int | None = None, data: bytes = bytes(32000)
) -> bytes:
    """A WAV file that says of itself what it is told."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    said = len(data) if length is None else length
    return (
        b"RIFF"
        + struct.pack("<I", 36 + said & 0xFFFFFFFF)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", said)
        + data
    )


def sounds(folder: Path) -> Iterator[bytes]:
    chance = random.Random(4)
    files = [
        wav(tone(0.6, RATE), RATE),
        coded("mp3", "libmp3lame"),
        coded("flac", "flac"),
        coded("ogg", "libopus"),
        coded("mp4", "aac"),
        coded("matroska", "aac"),
        coded("mpegts", "aac"),
        coded("aiff", "pcm_s16be"),
    ]
    for n in range(24):
        yield chance.randbytes(chance.randrange(1, 3000))
        yield files[n % 8][: chance.randrange(1, len(files[n % 8]) - 1)]
    for n in range(64):
        yield flipped(files[n % 8], chance, 1 + n // 8)
    voice = tone(0.5, RATE).tobytes()
    for rate in (0, 1, 7, 44101, 47999, 95999, 191999, 655350, 2**31 - 1, 2**32 - 1):
        yield wave_header(rate=rate, data=voice)
    for channels in (0, 2, 255, 4096, 65535):
        yield wave_header(channels=channels, data=voice)
    for bits in (0, 1, 7, 24, 64, 255, 65535):
        yield wave_header(bits=bits, data=voice)
    for length in (0, 1, 2**31, 2**32 - 1):
        yield wave_header(length=length, data=voice)
    for kind in (0, 2, 17, 49, 80, 65534, 65535):
        yield wave_header(kind=kind, data=voice)
    yield wave_header(kind=3, bits=32, data=np.array([np.nan, np.inf, 1e38] * 500, np.float32).tobytes())
    yield from (coded("matroska", "aac", late=seconds) for seconds in (30.0, 20_000.0))
    yield coded("flac", "flac", seconds=0.2).replace(struct.pack(">I", 0x0BB80000 | 0x40)[:2], b"\xff\xff")
    yield wave_header(data=bytes(3_000_000))
    secret = folder / "secret.wav"
    playlists = (
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        "ffconcat version 1.0\nfile {}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        '<?xml version="1.0"?><MPD><BaseURL>{}</BaseURL></MPD>',
        "[playlist]\nFile1={}\n",
        "RTSPtext\nrtsp://127.0.0.1/{}\n",
    )
    for playlist in playlists:
        for name in (secret.name, str(secret), f"file:{secret}", "http://127.0.0.1:1/a.wav"):
            yield playlist.format(name).encode()


def paths() -> Iterator[Case]:
    tricks = (
        "..",
        ".",
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%252e%252e%252f",
        "..%5c..%5c",
        "%00",
        "a%00b",
        "demo%00",
        "demo%2f..",
        "demo.json",
        "demo%20",
        "DEMO",
        "%ff%fe",
        "%c0%ae%c0%ae",
        "%e2%80%ae",
        "%",
        "%zz",
        "a" * 24,
        "0" * 24,
        "~root",
        "x" * 60_000,
        "*",
        "'%20or%201=1",
        "<script>",
        "%0d%0aX:%20y",
        "con",
        "index.html%00.png",
        "..;/",
        "....//",
        "/",
        "//",
        "-1",
    )
    for trick in tricks:
        for verb, path in (
            ("GET", "/v1/avatars/{}"),
            ("DELETE", "/v1/avatars/{}"),
            ("GET", "/v1/avatars/{}/picture"),
            ("GET", "/v1/videos/{}"),
            ("GET", "/v1/videos/{}/content"),
            ("DELETE", "/v1/videos/{}"),
            ("GET", "/page/{}"),
            ("GET", "/{}"),
        ):
            if trick != "DEMO" or verb == "GET":
                yield f"path {trick[:30]!r}", verb, path.format(trick), {}, b""
    for verb in ("PUT", "PATCH", "TRACE", "OPTIONS", "HEAD", "CONNECT", "PROPFIND", "NONSENSE", "get", ""):
        for path in ("/v1/avatars", "/v1/videos/sync", "/v1/live", "/healthz"):
            yield f"verb {verb}", verb, path, {}, b""
    for n, headers in enumerate(
        (
            {"X-Long": "y" * 60_000},
            {f"X-{i}": "y" for i in range(1000)},
            {"Host": ""},
            {"Host": "evil.example"},
            {"Host": "a" * 5000},
            {"Range": "bytes=9-1"},
            {"Content-Length": "-1"},
            {"Content-Length": "abc"},
            {"Content-Length": "9" * 30},
            {"Content-Length": "1e3"},
            {"Transfer-Encoding": "gzip"},
            {"Transfer-Encoding": "chunked", "Content-Length": "5"},
            {"Expect": "something"},
            {"Upgrade": "h2c", "Connection": "Upgrade, close"},
            {"Authorization": "Bearer " + "\xff" * 50},
            {"Origin": "http://["},
            {"Origin": "null"},
            {"Cookie": "a=" + "b" * 9000},
            {"Content-Encoding": "br"},
            {"Accept": "\x7f"},
            {"Bad Name": "x"},
            {"X": "a\0b"},
            {"X": "a\rb"},
            {"X-Forwarded-For": "127.0.0.1" * 999},
            {"Accept-Encoding": "*;q=x"},
        )
    ):
        for verb, path in (("GET", "/v1/avatars"), ("POST", "/v1/videos"), ("GET", "/page/app.js")):
            yield f"headers {n}", verb, path, headers, b""


def raw(port: int, sent: bytes, seconds: float = 5.0) -> tuple[int, bytes] | None:
    """Bytes to the server as they are; status and content of what it answers, None where it just hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        received = b""
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while len(part := connection.recv(65536)):
                received += part
        except (ConnectionError, TimeoutError):
            pass
    head, _, content = received.partition(b"\r\n\r\n")
    if not head:
        return None
    if b"transfer-encoding: chunked" in head.lower():
        content = b"".join(content.split(b"\r\n")[1:-3:2])
    return int(head.split(b" ")[1]), content


def sent_raw(watched: Watched, case: Case) -> None:
    name, verb, path, headers, body = case
    head = {"Host": "127.0.0.1", "Connection": "close", **headers}
    lines = "".join(f"{key}: {value}\r\n" for key, value in head.items())
    answer = raw(watched.served.port, f"{verb} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)
    if answer is not None:
        watched.check(name, *answer)


def sent(watched: Watched, case: Case) -> httpx.Response:
    name, verb, path, headers, body = case
    answer = watched.served.http.request(verb, path, headers=headers, content=body)
    watched.check(name, answer.status_code, answer.content if answer.headers.get("content-type") == "application/json" else b"")
    if answer.status_code in (201, 202) and answer.json()["id"] != "demo":
        assert watched.served.http.delete(f"/v1/{answer.json()['object']}s/{answer.json()['id']}").status_code == 200
    return answer


def uploaded(watched: Watched, kind: str, path: str, name: str, contents: Iterator[bytes]) -> None:
    """Files by form and by base64, in turns."""
    for n, content in enumerate(contents):
        others = {"text": "Hello"} if name == "image_reference" and path != "/v1/avatars" else {}
        if n % 2:
            body = json.dumps({name: base64.b64encode(content).decode(), **others}).encode()
            sent(watched, (f"{kind} {n}", "POST", path, JSON, body))
        else:
            parts = [(f'Content-Disposition: form-data; name="{name}"; filename="../{n}"', content)]
            parts += [(f'Content-Disposition: form-data; name="{key}"', value.encode()) for key, value in others.items()]
            sent(
                watched, (f"{kind} {n}", "POST", path, {"Content-Type": "multipart/form-data; boundary=limit"}, multipart(parts))
            )
        watched.count(kind)


@pytest.mark.parametrize("cases", [bodies_of_json, forms])
def test_bodies(watched: Watched, cases: Callable[[], Iterator[Case]]) -> None:
    for case in cases():
        answer = sent(watched, case)
        assert answer.status_code >= 400 or answer.status_code == 202, case[0]
        watched.count(cases.__name__)
    watched.still_works()


def test_paths_and_headers(watched: Watched) -> None:
    for case in paths():
        sent_raw(watched, case)
        watched.count("paths")
    chance = random.Random(5)
    for n in range(30):
        answer = raw(watched.served.port, chance.randbytes(chance.randrange(1, 2000)))
        if answer is not None:
            watched.check(f"bytes {n}", *answer)
        watched.count("bytes")
    watched.still_works()


def test_pictures(watched: Watched) -> None:
    uploaded(watched, "pictures", "/v1/avatars", "image_reference", pictures())
    watched.still_works()


def test_sounds(watched: Watched) -> None:
    folder = watched.served.folder / "videos"
    (folder / "secret.wav").write_bytes(wav(tone(1.0, RATE), RATE))
    playlists = 0
    for content in sounds(folder):
        body = multipart([('Content-Disposition: form-data; name="audio_reference"; filename="a.wav"', content)])
        kind = {"Content-Type": "multipart/form-data; boundary=limit"}
        answer = sent(watched, (f"sound {watched.sent.get('sounds', 0)}", "POST", "/v1/videos", kind, body))
        if b"secret" in content or content[:9] == b"ffconcat ":
            playlists += 1
            assert answer.json()["error"]["code"] == "bad_audio"
        watched.count("sounds")
    assert playlists > 10
    (folder / "secret.wav").unlink()
    watched.still_works()


# What is sent to /v1/live

TEXTS = (
    "",
    " ",
    "null",
    "[]",
    "5",
    '"open"',
    "{",
    "[" * 100_000,
    '{"type":' * 10_000,
    '{"type": "open"',
    '{"type": ["open"]}',
    '{"type": {}}',
    '{"type": null}',
    '{"type": "open\\u0000"}',
    '{"type": NaN}',
    '{"type": 1e999}',
    '{"type": "' + "x" * 100_000 + '"}',
    "\N{SNOWMAN}" * 1000,
    '{"a": [' + "0," * 50_000 + "0]}",
    '{"type": "ping", "id": ' + "[" * 900 + "]" * 900 + "}",
    '{"type": "say", "text": "\\ud800"}',
    '{"type": "say", "text": null, "voice": {}}',
    '{"type": "say", "text": "a", "voice": "../../etc/passwd"}',
    '{"type": "controls", "head": "1"}',
    '{"type": "controls", "head": NaN}',
    '{"type": "controls", "": 1}',
    '{"type": "ping", "id": {}}',
    '{"type": "open"}',
    '{"type": "close "}',
    "\0",
    "undefined",
    "{'type': 'open'}",
)


def openings() -> Iterator[str]:
    chance = random.Random(6)
    names = (
        "avatar",
        "image",
        "size",
        "crop",
        "audio_rate",
        "video",
        "quality",
        "fps",
        "seed",
        "controls",
        "",
        "__class__",
        "x" * 1000,
    )
    for _ in range(70):
        body = ", ".join(f"{json.dumps(name)}: {chance.choice(TOKENS)}" for name in chance.sample(names, chance.randrange(1, 4)))
        yield f'{{"type": "open", "unknown": 1, {body}}}'
    yield from (text for text in TEXTS if text != '{"type": "open"}')


def ended(watched: Watched, name: str, client: Live) -> None:
    """The server closes, with a reason that is ours."""
    code, reason = client.closed()
    assert code in (1002, 1007, 1009, *range(4400, 4430), 4503), (name, code, reason)
    for taken in client.received:
        if isinstance(taken, dict):
            assert not MINE.search(json.dumps(taken).encode()), (name, taken)
    watched.no_mistakes(name)


def test_first_messages(watched: Watched) -> None:
    chance = random.Random(7)
    first: list[str | bytes] = [
        *openings(),
        *(chance.randbytes(chance.randrange(200)) for _ in range(20)),
        bytes(2**20),
        "x" * 2**20,
    ]
    for n, message in enumerate(first):
        assert watched.served.idle(5)
        with Live(watched.served.port) as client:
            client.socket.send(message)
            ended(watched, f"first {n}", client)
        watched.count("first messages")
    watched.still_works()


def test_messages_of_a_session(watched: Watched) -> None:
    chance = random.Random(8)
    for n in range(3):
        with Live(watched.served.port) as client:
            client.open(avatar="demo", audio_rate=RATE)
            kept = [text for text in TEXTS if len(text) < 90_000]
            for _ in range(90):
                text = chance.choice(kept)
                if text and chance.random() < 0.3:
                    text = flipped(text.encode(), chance, 3).decode(errors="ignore")
                client.socket.send(text)
                if chance.random() < 0.3:
                    client.socket.send(chance.randbytes(chance.randrange(300)))
                watched.count("messages")
            client.send("ping", id=f"end {n}")
            assert client.until("pong", 30)["id"] == f"end {n}"
            assert len(client.errors) > 60 and set(client.errors) <= {"bad_message", "bad_text"}
            for _ in range(60):
                client.send("nonsense")
            assert client.closed() == (4429, "too_many_errors")
    watched.still_works()


def test_messages_that_are_too_large(watched: Watched) -> None:
    with Live(watched.served.port) as client:
        client.send("open", image="A" * (28 * 2**20))
        assert client.closed(30) == (4413, "too_large")
    with Live(watched.served.port) as client:
        client.socket.send(iter(["x" * 2**20] * 30))  # in fragments
        assert client.closed(30)[0] == 1009
    for message in (bytes(2**20 + 1), "x" * (2**20 + 1)):
        assert watched.served.idle(5)
        with Live(watched.served.port) as client:
            client.open(avatar="demo")
            client.socket.send(message)
            assert client.closed(30) == (4413, "too_large")
            watched.count("large")
    watched.still_works()


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
    watched.sent["floods"] = 30_000
    watched.still_works()


HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
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


def masked(first: int, payload: bytes, length: int | None = None) -> bytes:
    """A client's frame; ``length``: what it says of itself."""
    said = len(payload) if length is None else length
    size = (
        struct.pack(">B", 0x80 | said)
        if said < 126
        else struct.pack(">BH", 0xFE, said)
        if said < 2**16
        else struct.pack(">BQ", 0xFF, said)
    )
    return bytes([first]) + size + bytes(4) + payload


def frames() -> Iterator[bytes]:
    chance = random.Random(9)
    opening = json.dumps({"type": "open", "avatar": "demo"}).encode()
    yield from (
        bytes([0x81, 2]) + b"{}",
        masked(0x81, b"\xff\xfe"),
        masked(0x83, b""),
        masked(0xC1, b"{}"),
        masked(0xF2, b"{}"),
        masked(0x80, b"{}"),
        masked(0x01, b"{") + masked(0x81, b"}"),
        masked(0x89, bytes(126)),
        masked(0x09, b""),
        masked(0x88, b"\0"),
        masked(0x88, b"\xff\xff\xff\xff"),
        masked(0x88, struct.pack(">H", 999)),
        masked(0x88, struct.pack(">H", 1000) + b"\xff"),
        masked(0x82, b"", 2**40),
        masked(0x81, b"", 2**63 - 1),
        b"\x82\xff" + b"\xff" * 8 + bytes(4),
        masked(0x01, "\N{SNOWMAN}".encode()[:1]) + masked(0x80, b"x"),
        masked(0x8A, b"pong"),
        masked(0x88, b""),
        masked(0x89, b"x") * 2000 + masked(0x88, b""),
        masked(0x81, opening) + masked(0x81, b"\xff"),
        masked(0x81, opening) + masked(0x8B, b""),
        masked(0x81, opening) + masked(0x02, bytes(101)) * 3,
        masked(0x81, opening) + bytes([0x82, 4]) + b"abcd",
        b"GET / HTTP/1.1\r\n\r\n",
    )
    for _ in range(40):
        yield chance.randbytes(chance.randrange(2, 200))
    for _ in range(25):
        yield masked(0x81, opening) + chance.randbytes(chance.randrange(2, 400))


def test_frames_that_are_none(watched: Watched) -> None:
    for n, sent_frames in enumerate(frames()):
        assert watched.served.idle(8)
        with upgraded(watched.served.port) as connection:
            connection.sendall(sent_frames)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            try:
                while len(part := connection.recv(65536)):
                    received += part
            except ConnectionError:
                pass
        assert not MINE.search(received), n
        watched.no_mistakes(f"frames {n}")
        watched.count("frames")
    watched.still_works()


def test_handshakes_that_are_none(watched: Watched) -> None:
    changes: list[dict[str, str]] = [
        {"Sec-WebSocket-Key": ""},
        {"Sec-WebSocket-Key": "short"},
        {"Sec-WebSocket-Key": "!" * 24},
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": "x"},
        {"Upgrade": "nothing"},
        {"Connection": "close"},
        {"Sec-WebSocket-Protocol": "a, b, c" * 500},
        {"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=99"},
        {"Sec-WebSocket-Extensions": ";;;,,," * 100},
        {"Content-Length": "5"},
        {"Transfer-Encoding": "chunked"},
        {"Origin": "http://["},
        {"Host": "evil.example"},
    ]
    for n, change in enumerate(changes):
        for path in ("/v1/live", "/v1/live?token=%ff", "/v1/nothing", "/"):
            sent_raw(watched, (f"handshake {n}", "GET", path, {**HANDSHAKE, **change}, b""))
            watched.count("handshakes")
    watched.still_works()


def test_clients_that_vanish_at_every_stage(watched: Watched) -> None:
    opening = masked(0x81, json.dumps({"type": "open", "avatar": "demo", "audio_rate": RATE}).encode())
    own = masked(0x81, json.dumps({"type": "open", "image": GOOD_AVATAR["image_reference"], "size": 96}).encode())
    whole = masked(0x81, json.dumps({"type": "open", "video": "mp4"}).encode())
    say = masked(0x81, json.dumps({"type": "say", "text": "Somebody will be gone before this is spoken."}).encode())
    speech = masked(0x82, tone(1.0, RATE).tobytes())
    stages = (
        b"",
        opening[:1],
        opening[:9],
        opening,
        own,
        whole,
        opening + say,
        opening + speech,
        opening + speech[:999],
        whole + speech + say,
        opening + masked(0x81, b'{"type":"interrupt"}'),
        opening + say + masked(0x81, b'{"type":"close"}'),
    )
    chance = random.Random(10)
    for n in range(4 * len(stages)):
        assert waited(lambda: watched.served.sessions() < LIMITS.sessions, 10)
        with upgraded(watched.served.port) as connection:
            connection.sendall(stages[n % len(stages)])
            time.sleep(chance.choice((0.0, 0.0, 0.05, 0.2)))
            if n % 3:  # without a word
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        watched.count("vanished")
    assert watched.served.idle(10)
    watched.still_works()


def test_nothing_is_left(watched: Watched) -> None:
    """After all of them: as many as were promised; no sessions, streams, jobs, threads, files or memory."""
    served = watched.served
    if set(watched.sent) >= {"bodies_of_json", "forms", "pictures", "sounds", "paths", "first messages", "frames", "vanished"}:
        counted = {kind: count for kind, count in watched.sent.items() if kind != "floods"}
        assert sum(counted.values()) >= CASES, counted
    assert served.idle(10)
    families = text_string_to_metric_families(served.http.get("/metrics").text)
    figures = {sample.name: sample.value for family in families for sample in family.samples}
    assert figures["vivavoce_sessions"] == figures["vivavoce_streams"] == figures["vivavoce_videos_unfinished"] == 0
    assert waited(lambda: threads() <= watched.threads, 15), threads() - watched.threads
    assert (
        len(os.listdir("/proc/self/task")) <= watched.tasks + LIMITS.sessions + 8 + 16
    )  # the pools' threads come as they are wanted
    assert waited(lambda: len(os.listdir("/proc/self/fd")) <= watched.files + 10, 15)
    assert not list((served.folder / "videos").iterdir())
    avatars = {avatar["id"] for avatar in served.http.get("/v1/avatars").json()["data"]} - {"demo"}
    assert {file.name for file in (served.folder / "avatars").iterdir()} == {
        f"{key}{end}" for key in avatars for end in (".json", ".npz")
    }
    assert resident() - watched.memory < GROWTH_BYTES
    watched.no_mistakes("the end")
    served.http.post("/v1/videos/sync", json={"text": f"Hello {secrets.token_hex(1)}"}).raise_for_status()
