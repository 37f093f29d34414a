"""Whether a recording is all there. FFmpeg reads a file that was cut as a shorter one; what its header or its end says tells."""

from __future__ import annotations

import struct
from pathlib import Path

from av.audio.stream import AudioStream
from av.container import InputContainer

# Containers whose header states the length of a stream exactly, so that a shorter one has been cut.
EXACT_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "flac")
# MP3: in the first frame's bytes, where encoders put the number of frames; the largest priming and padding they add, in frames.
_MP3_TAG_WITHIN = 64
_MP3_PADDING = 4
# The largest page of Ogg (RFC 3533), and the flags in its header.
_OGG_PAGE = 27 + 255 + 255 * 255
_OGG_LAST = 4


def exact_seconds(container: InputContainer, stream: AudioStream) -> float | None:
    """The length of the sound if the container's header states it exactly, else None."""
    return stated_seconds(stream) if container.format.name in EXACT_LENGTH else None


def stated_seconds(stream: AudioStream) -> float | None:
    """What FFmpeg makes of the header; None if nothing."""
    return None if stream.duration is None or stream.time_base is None else float(stream.duration * stream.time_base)


def least_seconds(path: Path, container: InputContainer, stream: AudioStream) -> float:
    """What must be there at least, for the file to be whole, by its header; 0 where headers do not tell.

    Raises ValueError at once for a file whose size already says that it has been cut: WAV and Ogg.
    """
    kind = container.format.name
    if kind == "wav":
        # FFmpeg believes the size of the file, so a cut recording would pass for a shorter one.
        missing, found, size = _missing_wav_bytes(path), stated_seconds(stream), path.stat().st_size
        if missing and found is not None:
            raise ValueError(cut_short(path, found, found * (size + missing) / size))
    if kind == "ogg" and not _has_last_page(path):
        raise ValueError(f"{path} is cut short: it breaks off before the page that ends it; copy or download it again")
    if kind == "mp3":
        return _mp3_seconds(path)
    return exact_seconds(container, stream) or 0.0


def cut_short(path: Path, found: float, declared: float) -> str:
    """The sentence for a file of `found` seconds that should be longer."""
    return f"{path} is cut short: it should last {declared:.1f} s and only {found:.1f} s are there; copy or download it again"


def _missing_wav_bytes(path: Path) -> int:
    """How many bytes the data chunk of a RIFF WAVE file declares beyond the end of the file."""
    size = path.stat().st_size
    with path.open("rb") as opened:
        if opened.read(12)[0:4] != b"RIFF":
            return 0  # RF64 and W64 keep their sizes elsewhere
        while len(header := opened.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                # Programs that write to a pipe put a placeholder near the largest 31- or 32-bit number.
                return 0 if length >= 0x7FFF0000 else max(0, opened.tell() + length - size)
            opened.seek(length + length % 2, 1)
    return 0


def _has_last_page(path: Path) -> bool:
    """Whether the last page of an Ogg file is whole and marked as the end of a stream."""
    with path.open("rb") as opened:
        opened.seek(max(0, path.stat().st_size - 2 * _OGG_PAGE))
        tail = opened.read()
    start = tail.rfind(b"OggS\0")
    page = tail[start:] if start >= 0 else b""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    return bool(page[5] & _OGG_LAST) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _mp3_seconds(path: Path) -> float:
    """The length in the Xing or Info tag of the first frame, less priming and padding; 0 without such a tag."""
    with path.open("rb") as opened:
        head = opened.read(10)
        if head[:3] == b"ID3":
            # Seven bits of each byte count.
            opened.seek(10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)))
        else:
            opened.seek(0)
        frame = opened.read(_MP3_TAG_WITHIN)
    start = max(frame.find(b"Xing"), frame.find(b"Info"))
    if len(frame) < _MP3_TAG_WITHIN or frame[0] != 0xFF or not 0 < start <= _MP3_TAG_WITHIN - 12 or not frame[start + 7] & 1:
        return 0.0
    version = frame[1] >> 3 & 3
    rate = {0: 44100, 1: 48000, 2: 32000}.get(frame[2] >> 2 & 3)
    halvings = {3: 0, 2: 1, 0: 2}.get(version)  # MPEG 1, 2 and 2.5
    if rate is None or halvings is None:
        return 0.0
    samples = 1152 if halvings == 0 else 576
    return max(0, int.from_bytes(frame[start + 8 : start + 12], "big") - _MP3_PADDING) * samples * 2**halvings / rate
