"""What a thousand malformed requests and messages are: everything seeded, nothing sent from here."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import skimage.data
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from PIL import Image
from serving import png, tone, wav

RATE = 16000

FACE = np.ascontiguousarray(skimage.data.astronaut()[0:200, 130:330])


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
    "image_reference", "audio_reference", "text", "voice", "avatar_id", "avatar", "size", "crop", "face", "fps", "seed", "name",
    "sdp", "type", "expression", "head", "blink", "gaze", "__proto__", "constructor", "", "\0", "../../etc/passwd", "a" * 5000,
    "\N{SNOWMAN}",
)
TOKENS = (
    "null", "true", "false", "0", "-1", "1", "512", "99999999999999999999", "9" * 5000, "-0.0", "1e308", "1e999", "-1e999", "NaN",
    "Infinity", "-Infinity", "[]", "{}", "[[[]]]", '{"a": {"b": []}}', '""', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"',
    '"' + "x" * 3000 + '"', '"../../../etc/passwd"', '"file:///etc/passwd"', '"http://127.0.0.1:1/"', '"AAAA"', '"data:,"',
    '"data:image/png;base64,AAAA"', '"%00"', '"; rm -rf /"', '"<script>alert(1)</script>"', '"${jndi:ldap://x}"', '"\\u202e"',
    '"=="', '"NaN"', '"1e9"', '" 12 "', '"yes"', "[1, 2]",
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
        b"[" * 100_000, b'{"a":' * 100_000, b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", b" ", b"null", b"5",
        b'"text"', b"[]", b"\xef\xbb\xbf{}", '{"text": "?"}'.encode("utf-16"), '{"text": "?"}'.encode("utf-32"), b"\xff\xfe\xfd",
        bytes(1000), b"{}" * 1000, b'{"text": "\xff\xfe"}', b'{"text": "a\0b"}', b"{" + b'"a": 1, ' * 20_000 + b'"b": 1}',
        b'{"a": [' + b"0," * 500_000 + b"0]}", b'{"a": [' + b"{}," * 300_000 + b"{}]}", b'{"size": ' + b"9" * 100_000 + b"}",
        b'{"seed": 1' + b"0" * 4000 + b"}", b'{"text": "", "text": "", "text": 5}', b'{"text": "' + b"\\" * 999 + b'"}',
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
    good = multipart([
        (disposition.format("size"), b"wide"), (file.format("image_reference", "a.png"), png(FACE[:32, :32])),
        (disposition.format("name"), b"Ada"),
    ])
    kind = {"Content-Type": "multipart/form-data; boundary=limit"}
    for n in range(60):
        yield f"cut {n}", "POST", chance.choice(POSTS), kind, good[: chance.randrange(len(good) - 4)]
    for n in range(60):
        yield f"flipped {n}", "POST", chance.choice(POSTS), kind, flipped(good, chance, 12)
    tricks = (
        "../../etc/passwd", "/etc/passwd", "a\0b", "x" * 4000, "..\\..\\boot.ini", "con", "%2e%2e%2f", "\u202egnp.exe", "",
    )
    for name in tricks:
        for head in (file.format("image_reference", name), file.format(name, "a.png")):
            yield f"name {name[:20]!r}", "POST", "/v1/avatars", kind, multipart([(head, b"no picture")])
    types = (
        "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=other",
        "multipart/mixed; boundary=limit", "multipart/form-data; boundary=" + "b" * 300, 'multipart/form-data; boundary="limit',
        "multipart/form-data" + "; boundary=limit" * 50, "multipart/form-data; boundary=(),/:", "text/plain",
        "application/x-www-form-urlencoded", "x", ";", "application/json; x=" + "y" * 9000, "multipart/form-data;" + ";" * 9000,
        "image/png", "application/xml", "multipart/form-data; boundary*=utf-8''limit",
        *(f"multipart/form-data; boundary=limit; charset={name}" for name in ("utf-7", "utf-16", "idna", "hex", "nobody")),
    )
    for value in types:
        yield f"type {value[:40]!r}", "POST", chance.choice(POSTS[:3]), {"Content-Type": value}, good
    slow = multipart([(disposition.format("text"), b"-" + b"a" * 1_000_000)])
    yield "slow alphabet", "POST", "/v1/videos", {"Content-Type": "multipart/form-data; boundary=limit; charset=punycode"}, slow
    size = disposition.format("size")
    odd = (
        multipart([(size, b"1"), (size, b"2")]), multipart([("Content-Disposition: form-data", b"1")]), multipart([("", b"1")]),
        multipart([(size, b"1")] * 100), multipart([(file.format(f"f{i}", "a"), b"1") for i in range(20)]),
        multipart([("X: " + "y" * 20_000 + "\r\n" + size, b"1")]),
        multipart([("\r\n".join(f"X{i}: y" for i in range(50)), b"1")]), multipart([(size, b"\xff\xfe")]),
        multipart([(size, b"9" * 5000)]), multipart([(size, multipart([(size, b"1")]))]), b"--limit--\r\n", b"--limit--", b"",
        b"\r\n" * 1000, good.replace(b"\r\n", b"\n"), b"x" * 100_000, good * 2, b"preamble\r\n" + good,
        multipart([(file.format("image_reference", "a.png"), b"")]), multipart([(file.format("text", "a.txt"), b"\xff\xfe\x00")]),
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
    for n in range(48):
        yield flipped(files[n % 6], chance, 1 + n // 6)
    for file in files:
        yield file[:8] + chance.randbytes(500)
        yield file[:-1][: len(file) // 2] + file
    zeros = zlib.compress(bytes(80 * 2**20), 9)
    yield from (
        bomb(10_000, 10_000), bomb(20_000, 20_000, rows=10), bomb(2**31 - 1, 2**31 - 1, rows=1), bomb(0, 0), bomb(1, 1),
        bomb(15, 15), bomb(60_000, 16), bomb(100, 100, rows=1), bomb(50_000, 1_000), bomb(7_000, 7_000),
        bomb(64, 64, chunk(b"zTXt", b"a\0\0" + zeros)), bomb(64, 64, chunk(b"iCCP", b"a\0\0" + zeros)),
        bomb(64, 64, chunk(b"iTXt", b"a\0\1\0\0\0" + zeros)), bomb(64, 64, chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 500)),
        bomb(64, 64, chunk(b"acTL", struct.pack(">II", 2**31, 0))), b"GIF89a" + bytes(100),
        b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n", b"8BPS\0\1" + bytes(100), b"PK\3\4" + zeros[:5000],
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', b"P6 99999 99999 255\n",
        b"\0\0\0\x18ftypheic" + bytes(50), b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\1\x03\x11\1",
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(40), b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 400, b"BM" + b"\xff" * 60, b"", b"\0",
        saved("PNG") + zeros,
    )


def said_wav(
    data: bytes, *, rate: int = RATE, channels: int = 1, bits: int = 16, kind: int = 1, length: int | None = None
) -> bytes:
    """A WAV file that says of itself what it is told."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    said = len(data) if length is None else length
    head = b"RIFF" + struct.pack("<I", 36 + said & 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", 16) + form
    return head + b"data" + struct.pack("<I", said) + data


def sounds() -> Iterator[bytes]:
    chance = random.Random(4)
    files = [
        wav(tone(0.6, RATE), RATE), coded("mp3", "libmp3lame"), coded("flac", "flac"), coded("ogg", "libopus"),
        coded("mp4", "aac"), coded("matroska", "aac"), coded("mpegts", "aac"), coded("aiff", "pcm_s16be"),
    ]
    for n in range(24):
        yield chance.randbytes(chance.randrange(1, 3000))
        yield files[n % 8][: chance.randrange(1, len(files[n % 8]) - 1)]
    for n in range(48):
        yield flipped(files[n % 8], chance, 1 + n // 8)
    voice = tone(0.5, RATE).tobytes()
    for rate in (0, 1, 7, 44101, 47999, 95999, 191999, 655350, 2**31 - 1, 2**32 - 1):
        yield said_wav(voice, rate=rate)
    for channels in (0, 2, 255, 4096, 65535):
        yield said_wav(voice, channels=channels)
    for bits in (0, 1, 7, 24, 64, 255, 65535):
        yield said_wav(voice, bits=bits)
    for length in (0, 1, 2**31, 2**32 - 1):
        yield said_wav(voice, length=length)
    for kind in (0, 2, 17, 49, 80, 65534, 65535):
        yield said_wav(voice, kind=kind)
    yield said_wav(np.array([np.nan, np.inf, 1e38] * 500, np.float32).tobytes(), kind=3, bits=32)
    yield from (coded("matroska", "aac", late=seconds) for seconds in (30.0, 20_000.0))
    yield coded("flac", "flac", seconds=0.2).replace(struct.pack(">I", 0x0BB80000 | 0x40)[:2], b"\xff\xff")
    yield said_wav(bytes(3_000_000))


PLAYLISTS = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n",
    "ffconcat version 1.0\nfile {}\n", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    '<?xml version="1.0"?><MPD><BaseURL>{}</BaseURL></MPD>', "[playlist]\nFile1={}\n", "RTSPtext\nrtsp://127.0.0.1/{}\n",
)


def paths() -> Iterator[Case]:
    tricks = (
        "..", ".", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%252e%252e%252f",
        "..%5c..%5c", "%00", "a%00b", "demo%00", "demo%2f..", "demo.json", "demo%20", "DEMO", "%ff%fe", "%c0%ae%c0%ae",
        "%e2%80%ae", "%", "%zz", "a" * 24, "0" * 24, "~root", "x" * 60_000, "*", "'%20or%201=1", "<script>", "%0d%0aX:%20y",
        "con", "index.html%00.png", "..;/", "....//", "/", "//", "-1",
    )
    for trick in tricks:
        for verb, path in (
            ("GET", "/v1/avatars/{}"), ("DELETE", "/v1/avatars/{}"), ("GET", "/v1/avatars/{}/picture"), ("GET", "/v1/videos/{}"),
            ("GET", "/v1/videos/{}/content"), ("DELETE", "/v1/videos/{}"), ("GET", "/page/{}"), ("GET", "/{}"),
        ):
            if trick != "DEMO" or verb == "GET":
                yield f"path {trick[:30]!r}", verb, path.format(trick), {}, b""
    for verb in ("PUT", "PATCH", "TRACE", "OPTIONS", "HEAD", "CONNECT", "PROPFIND", "NONSENSE", "get", ""):
        for path in ("/v1/avatars", "/v1/videos/sync", "/v1/live", "/healthz"):
            yield f"verb {verb}", verb, path, {}, b""
    for n, headers in enumerate((
        {"X-Long": "y" * 60_000}, {f"X-{i}": "y" for i in range(1000)}, {"Host": ""}, {"Host": "evil.example"},
        {"Host": "a" * 5000}, {"Range": "bytes=9-1"}, {"Content-Length": "-1"}, {"Content-Length": "abc"},
        {"Content-Length": "9" * 30}, {"Content-Length": "1e3"}, {"Transfer-Encoding": "gzip"},
        {"Transfer-Encoding": "chunked", "Content-Length": "5"}, {"Expect": "something"},
        {"Upgrade": "h2c", "Connection": "Upgrade, close"}, {"Authorization": "Bearer " + "\xff" * 50}, {"Origin": "http://["},
        {"Origin": "null"}, {"Cookie": "a=" + "b" * 9000}, {"Content-Encoding": "br"}, {"Accept": "\x7f"}, {"Bad Name": "x"},
        {"X": "a\0b"}, {"X": "a\rb"}, {"X-Forwarded-For": "127.0.0.1" * 999}, {"Accept-Encoding": "*;q=x"},
    )):
        for verb, path in (("GET", "/v1/avatars"), ("POST", "/v1/videos"), ("GET", "/page/app.js")):
            yield f"headers {n}", verb, path, headers, b""


# What is sent to /v1/live

TEXTS = (
    "", " ", "null", "[]", "5", '"open"', "{", "[" * 100_000, '{"type":' * 10_000, '{"type": "open"', '{"type": ["open"]}',
    '{"type": {}}', '{"type": null}', '{"type": "open\\u0000"}', '{"type": NaN}', '{"type": 1e999}',
    '{"type": "' + "x" * 100_000 + '"}', "\N{SNOWMAN}" * 1000, '{"a": [' + "0," * 50_000 + "0]}",
    '{"type": "ping", "id": ' + "[" * 900 + "]" * 900 + "}", '{"type": "say", "text": "\\ud800"}',
    '{"type": "say", "text": null, "voice": {}}', '{"type": "say", "text": "a", "voice": "../../etc/passwd"}',
    '{"type": "controls", "head": "1"}', '{"type": "controls", "head": NaN}', '{"type": "controls", "": 1}',
    '{"type": "ping", "id": {}}', '{"type": "open"}', '{"type": "close "}', "\0", "undefined", "{'type': 'open'}",
)


def openings() -> Iterator[str]:
    chance = random.Random(6)
    names = (
        "avatar", "image", "size", "crop", "face", "audio_rate", "video", "quality", "fps", "seed", "controls", "", "__class__",
        "x" * 1000,
    )
    for _ in range(70):
        body = ", ".join(f"{json.dumps(name)}: {chance.choice(TOKENS)}" for name in chance.sample(names, chance.randrange(1, 4)))
        yield f'{{"type": "open", "unknown": 1, {body}}}'
    yield from (text for text in TEXTS if text != '{"type": "open"}')


def masked(first: int, payload: bytes, length: int | None = None) -> bytes:
    """A client's frame; ``length``: what it says of itself."""
    said = len(payload) if length is None else length
    if said < 126:
        size = struct.pack(">B", 0x80 | said)
    else:
        size = struct.pack(">BH", 0xFE, said) if said < 2**16 else struct.pack(">BQ", 0xFF, said)
    return bytes([first]) + size + bytes(4) + payload


def frames() -> Iterator[bytes]:
    chance = random.Random(9)
    opening = json.dumps({"type": "open", "avatar": "demo"}).encode()
    yield from (
        bytes([0x81, 2]) + b"{}", masked(0x81, b"\xff\xfe"), masked(0x83, b""), masked(0xC1, b"{}"), masked(0xF2, b"{}"),
        masked(0x80, b"{}"), masked(0x01, b"{") + masked(0x81, b"}"), masked(0x89, bytes(126)), masked(0x09, b""),
        masked(0x88, b"\0"), masked(0x88, b"\xff\xff\xff\xff"), masked(0x88, struct.pack(">H", 999)),
        masked(0x88, struct.pack(">H", 1000) + b"\xff"), masked(0x82, b"", 2**40), masked(0x81, b"", 2**63 - 1),
        b"\x82\xff" + b"\xff" * 8 + bytes(4), masked(0x01, "\N{SNOWMAN}".encode()[:1]) + masked(0x80, b"x"),
        masked(0x8A, b"pong"), masked(0x88, b""), masked(0x89, b"x") * 2000 + masked(0x88, b""),
        masked(0x81, opening) + masked(0x81, b"\xff"), masked(0x81, opening) + masked(0x8B, b""),
        masked(0x81, opening) + masked(0x02, bytes(101)) * 3, masked(0x81, opening) + bytes([0x82, 4]) + b"abcd",
        b"GET / HTTP/1.1\r\n\r\n",
    )
    for _ in range(40):
        yield chance.randbytes(chance.randrange(2, 200))
    for _ in range(25):
        yield masked(0x81, opening) + chance.randbytes(chance.randrange(2, 400))
