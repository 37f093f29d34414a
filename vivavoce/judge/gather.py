"""A pair's files to evidence: what can be looked at and listened to, and what is to be said about the rest."""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeVar

from vivavoce.judge.evidence import Evidence, aligned
from vivavoce.judge.identity import Descriptor
from vivavoce.judge.look import RATE_HZ, Describe, Look, compare, look, look_at_portrait
from vivavoce.judge.pairs import Pair
from vivavoce.judge.sound import Align, Heard, hear, words_for
from vivavoce.media.audio import has_sound
from vivavoce.metrics.lips import SHORTEST
from vivavoce.speech.align import Aligner

T = TypeVar("T")

UNEQUAL_SECONDS = 1.0  # by which lengths may differ without a word


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What not every machine has. ``notes``: what is missing."""

    describe: Describe | None
    align: Align | None
    notes: tuple[str, ...] = ()

    @classmethod
    def found(cls) -> Tools:
        """Those that are installed."""
        notes: list[str] = []
        descriptor, aligner = _try(Descriptor, notes), _try(Aligner, notes)
        return cls(describe=descriptor, align=None if aligner is None else aligner.align, notes=tuple(notes))


def gather(pair: Pair, folder: Path | None, tools: Tools) -> tuple[Evidence, tuple[str, ...]]:
    """The evidence, and notes about what of it is missing or unfit. ``folder``: where what was seen and heard is kept.

    Raises ValueError or OSError where the generated video itself cannot be judged.
    """
    notes: list[str] = []
    shown, recording, driving = _looks(pair, folder, tools, notes)
    portrait = likeness = None
    if pair.portrait is not None:
        portrait = _try(partial(look_at_portrait, pair.portrait, folder, tools.describe), notes)
    if pair.recording is not None and recording is not None:
        likeness = _try(partial(compare, pair.generated, pair.recording, folder), notes)
    for what, other in (("recording", recording), ("driving video", driving)):
        if other is not None and abs(other.seconds - shown.seconds) > UNEQUAL_SECONDS:
            least = min(other.seconds, shown.seconds)
            notes.append(f"lasts {shown.seconds:.1f} s, its {what} {other.seconds:.1f} s: the first {least:.1f} s were compared")
    sound = _sound(pair, notes)
    evidence = aligned(Evidence(
        pair=pair, shown=shown, recording=recording, driving=driving, heard=_heard(pair, sound, folder, tools, notes),
        portrait=portrait, likeness=likeness, video=pair.generated, sound=sound,
    ))
    if len(evidence.shown.points) < SHORTEST:
        raise ValueError(
            f"{len(evidence.shown.points) / RATE_HZ:.2f} s are too short to be judged: give at least {SHORTEST / RATE_HZ:g} s"
        )
    return evidence, tuple(notes)


def _sound(pair: Pair, notes: list[str]) -> Path | None:
    """The first file that has what the video should say."""
    source = pair.audio
    for video in (pair.recording, pair.driving, pair.generated):
        if source is None and video is not None and video.is_file() and _try(partial(has_sound, video), notes):
            source = video
    if source is None:
        notes.append("there is no sound to judge it by")
    return source


def _heard(pair: Pair, source: Path | None, folder: Path | None, tools: Tools, notes: list[str]) -> Heard | None:
    if source is None:
        return None
    names = [path.stem for path in (pair.recording, pair.generated) if path is not None]
    words = _try(partial(words_for, pair.transcript, pair.name, *names), notes) or ()
    heard = _try(partial(hear, source, words, folder, tools.align), notes)
    if heard is not None and heard.note:
        notes.append(heard.note)
    return heard


def _looks(
    pair: Pair, folder: Path | None, tools: Tools, notes: list[str]
) -> tuple[Look, Look | None, Look | None]:
    """The pair's videos, two of them at a time: half of the work is native code that leaves other threads alone."""
    stop = Event()
    with ThreadPoolExecutor(2, "vivavoce-look") as pool:
        try:
            shown, *others = (
                None if video is None else pool.submit(look, video, folder, tools.describe, stop)
                for video in (pair.generated, pair.recording, pair.driving)
            )
            assert shown is not None
            recording, driving = (None if other is None else _try(other.result, notes) for other in others)
            return shown.result(), recording, driving
        finally:
            stop.set()  # after Ctrl-C nobody waits for the end of a long video


def _try(work: Callable[[], T], notes: list[str]) -> T | None:
    """What the work gives; where the user's files are at fault, a note instead."""
    try:
        return work()
    except (ValueError, OSError) as error:
        raise_if_ours(error)
        notes.append(" ".join(str(error).split()))
        return None


def raise_if_ours(error: Exception) -> None:
    """A full disk is no fault of a clip: the run ends."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        raise error
