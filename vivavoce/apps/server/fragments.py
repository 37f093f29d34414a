"""Fragments of MP4 (ISO/IEC 14496-12, 8.8), written as soon as their frames are there.

FFmpeg's muxer would keep pictures back until the sound's encoder has caught up with them, and loses the second one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_BASE_IS_FRAGMENT = 0x020000
_WITH_OFFSET_DURATION_SIZE_FLAGS = 0x000701
_KEY, _DEPENDENT = 0x02000000, 0x01010000
_START_CODE = re.compile(rb"\x00{2,}\x01")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A coded picture or block of sound; times in ticks of its track."""

    data: bytes
    start: int
    duration: int
    key: bool = True


def fragment(number: int, tracks: Mapping[int, Sequence[Sample]]) -> bytes:
    """The number-th fragment, from 1 on: for each track its samples, which follow each other without a gap."""
    given = {track: samples for track, samples in tracks.items() if samples}
    head = len(_head(number, given, 0))
    content = b"".join(sample.data for samples in given.values() for sample in samples)
    return _head(number, given, head + 8) + _box(b"mdat", content)


def with_lengths(data: bytes) -> bytes:
    """H.264 as MP4 has it: each unit behind its length, instead of start codes."""
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in _START_CODE.split(data) if unit)


def _head(number: int, tracks: Mapping[int, Sequence[Sample]], offset: int) -> bytes:
    parts = [_box(b"mfhd", struct.pack(">II", 0, number))]
    for track, samples in tracks.items():
        listed = b"".join(
            struct.pack(">III", sample.duration, len(sample.data), _KEY if sample.key else _DEPENDENT) for sample in samples
        )
        parts.append(_box(
            b"traf",
            _box(b"tfhd", struct.pack(">II", _BASE_IS_FRAGMENT, track)),
            _box(b"tfdt", struct.pack(">IQ", 1 << 24, samples[0].start)),
            _box(b"trun", struct.pack(">IIi", _WITH_OFFSET_DURATION_SIZE_FLAGS, len(samples), offset), listed),
        ))
        offset += sum(len(sample.data) for sample in samples)
    return _box(b"moof", *parts)


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)
