"""A corpus of speech with timed phones: a folder of sound files, a table of phones beside each, and an index.

``INDEX.csv`` has a row per utterance (the fields of `Utterance`); ``<file>`` is 16 kHz mono FLAC, ``<stem>.phones.csv`` beside it
has start, end (seconds) and phone (a name in `speech.phones.PHONES`), which follow each other from 0 to the end without gaps.
A row is appended when its files are complete, so a maker that was stopped goes on where it stopped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.phones import PHONES, SILENCE
from vivavoce.speech.segments import Segment, joined
from vivavoce.speech.sound import load_sound

Progress = Callable[[str, int, int], None]

KINDS = ("synthetic", "recorded")
LABELS = ("events", "grammar", "aligned", "dtw")
SPLITS = ("train", "heldout")
INDEX = "INDEX.csv"
_PEAK = 0.99


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A row of the index. ``labels`` says where the phones come from: the synthesiser's events, a sentence known from a fixed
    grammar, a transcript or recogniser's words aligned to the sound, or a synthetic reading warped onto the recording."""

    file: str
    language: str
    speaker: str
    kind: str
    labels: str
    split: str
    source: str
    licence: str

    def __post_init__(self) -> None:
        for value, allowed in ((self.kind, KINDS), (self.labels, LABELS), (self.split, SPLITS)):
            if value not in allowed:
                raise ValueError(f"{self.file}: {value!r} is none of {', '.join(allowed)}: correct the index of the corpus")

    def sound(self, corpus: Path) -> Float[Tensor, " s"]:
        """The samples at 16 kHz."""
        return load_sound(corpus / self.file)

    def segments(self, corpus: Path) -> tuple[Segment, ...]:
        """The phones in order. ValueError where their table is missing or names none of PHONES."""
        path = (corpus / self.file).with_suffix(".phones.csv")
        if not path.is_file():
            raise ValueError(f"{path} is missing: make the corpus again")
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        try:
            return tuple(Segment(start=float(r["start"]), end=float(r["end"]), phone=PHONES.index(r["phone"])) for r in rows)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no table of start, end and phone: make the corpus again") from error


def read_corpus(corpus: Path, split: str | None = None) -> list[Utterance]:
    """The utterances of a corpus, or of one split of it. ValueError where the folder has no index or the split is empty."""
    index = corpus / INDEX
    if not index.is_file():
        raise ValueError(f"{corpus} has no {INDEX}: make it with 'vivavoce train corpus'")
    with index.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [field.name for field in fields(Utterance)]
    if rows and set(names) - set(rows[0]):
        raise ValueError(f"{index} lacks the columns {', '.join(sorted(set(names) - set(rows[0])))}: make the corpus again")
    utterances = [Utterance(**{name: row[name] for name in names}) for row in rows]
    chosen = [u for u in utterances if split in (None, u.split)]
    if not chosen:
        raise ValueError(f"{index} lists no utterance" + (f" of the split {split!r}" if split else ""))
    return chosen


def phones_at(segments: Sequence[Segment], rate_hz: float, count: int) -> Int[Tensor, " t"]:
    """The phone at the times i / rate_hz, i < count; silence beyond the last segment."""
    starts = np.array([s.start for s in segments])
    phones = np.array([s.phone for s in segments])
    times = np.arange(count) / rate_hz
    found = phones[np.clip(np.searchsorted(starts, times, side="right") - 1, 0, None)]
    return torch.from_numpy(np.where(times < segments[-1].end, found, SILENCE))


class Writer:
    """Adds utterances to a corpus, which may exist: ``has`` tells which of them need no making."""

    def __init__(self, corpus: Path) -> None:
        self._corpus = corpus
        corpus.mkdir(parents=True, exist_ok=True)
        index = corpus / INDEX
        if not index.is_file():
            index.write_text(",".join(field.name for field in fields(Utterance)) + "\n")
        with index.open(newline="") as file:
            self._present = {row["file"] for row in csv.DictReader(file)}

    def __len__(self) -> int:
        return len(self._present)

    def has(self, file: str) -> bool:
        return file in self._present

    def seconds(self, file: str) -> float:
        """The length of an utterance that is there."""
        last = (self._corpus / file).with_suffix(".phones.csv").read_text().splitlines()[-1]
        return float(last.split(",")[1])

    def add(self, utterance: Utterance, sound: Float[Tensor, " s"], segments: Sequence[Segment]) -> None:
        """Writes the sound, its phones, and last the row. The phones must cover the sound."""
        assert segments, "no phones"
        assert segments[0].start == 0 and abs(segments[-1].end - len(sound) / SAMPLE_RATE_HZ) < 0.01
        path = self._corpus / utterance.file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_flac(path, sound)
        with path.with_suffix(".phones.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("start", "end", "phone"))
            writer.writerows((f"{s.start:.4f}", f"{s.end:.4f}", PHONES[s.phone]) for s in segments)
        row = io.StringIO()
        csv.writer(row, lineterminator="\n").writerow(astuple(utterance))
        with (self._corpus / INDEX).open("a", newline="") as file:
            file.write(row.getvalue())  # one write: another maker may append to the same index
        self._present.add(utterance.file)


def write_flac(path: Path, sound: Float[Tensor, " s"]) -> None:
    """16-bit mono at 16 kHz; what is too loud for it is turned down as a whole."""
    scaled = sound * min(1.0, _PEAK / max(float(sound.abs().max()), 1e-9))
    samples = (scaled * 32767).round().to(torch.int16).numpy()[None]
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ), 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def padded(
    sound: Float[Tensor, " s"], segments: Sequence[Segment], before: float, after: float
) -> tuple[Float[Tensor, " p"], tuple[Segment, ...]]:
    """Digital silence of so many seconds on both sides; silences that touch become one."""
    head, tail = round(before * SAMPLE_RATE_HZ), round(after * SAMPLE_RATE_HZ)
    offset, end = head / SAMPLE_RATE_HZ, (head + len(sound) + tail) / SAMPLE_RATE_HZ
    moved = [Segment(start=s.start + offset, end=s.end + offset, phone=s.phone) for s in segments]
    closed = joined([Segment(start=0.0, end=offset, phone=SILENCE), *moved, Segment(start=moved[-1].end, end=end, phone=SILENCE)])
    return torch.cat([torch.zeros(head), sound, torch.zeros(tail)]), closed
