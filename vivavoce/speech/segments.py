"""Phones in time: stretches of sound that follow each other without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vivavoce.media.speak import TimedPhone
from vivavoce.speech.phones import SILENCE, split_ipa


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A phone and its place."""

    start: float  # seconds
    end: float
    phone: int  # index into PHONES


def joined(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments with any without length left out and silences that follow each other made one."""
    found: list[Segment] = []
    for segment in segments:
        if segment.end <= segment.start:
            continue
        if found and segment.phone == SILENCE == found[-1].phone:
            segment = Segment(start=found.pop().start, end=segment.end, phone=SILENCE)
        found.append(segment)
    return tuple(found)


def spanning(segments: Sequence[Segment], seconds: float) -> tuple[Segment, ...]:
    """Segments made to cover a sound: silence before the first and after the last, none of them beyond its end."""
    if not segments:
        return (Segment(start=0.0, end=seconds, phone=SILENCE),)
    whole = [
        Segment(start=0.0, end=min(segments[0].start, seconds), phone=SILENCE),
        *(Segment(start=min(s.start, seconds), end=min(s.end, seconds), phone=s.phone) for s in segments),
        Segment(start=min(segments[-1].end, seconds), end=seconds, phone=SILENCE),
    ]
    return joined(whole)


def segments_of(timed: Sequence[TimedPhone], seconds: float) -> tuple[Segment, ...]:
    """IPA to phone classes; a symbol of several classes is cut into equal shares, one that is unknown goes on with the phone
    before it."""
    found: list[Segment] = []
    for phone in timed:
        classes = split_ipa(phone.symbol) if phone.symbol else (SILENCE,)
        if not classes:
            classes = (found[-1].phone if found else SILENCE,)
        edges = np.linspace(phone.start, phone.end, len(classes) + 1)
        found += [Segment(start=float(a), end=float(b), phone=c) for a, b, c in zip(edges, edges[1:], classes, strict=False)]
    found[-1] = Segment(start=found[-1].start, end=seconds, phone=found[-1].phone)
    return joined(found)
