"""Recorded human speech with phones: sentences of a fixed grammar, transcripts, and what a recogniser is sure to have heard."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vivavoce.speech.align import Aligner, Recognised, grid_words, warp, words_of
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.sound import load_sound
from vivavoce.train.corpus import Progress, Utterance, Writer

_WARPED = {"de": "de", "es": "es", "fr": "fr", "it": "it", "pt": "pt-br", "ko": "ko"}  # Japanese would need its kanji read


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording and what is known about it. ``words``: of an English sentence; ``transcript``: in another language."""

    path: Path
    name: str  # its place in the corpus, without a suffix
    language: str
    speaker: str
    labels: str
    source: str
    licence: str
    split: str = "train"
    words: tuple[str, ...] = ()
    transcript: str = ""


@dataclass(frozen=True, kw_only=True)
class RecordedConfig:
    """``heldout``: patterns of files, relative to the recordings, that must not train; the validation split never does.
    ``per_speaker``: at most so many sentences of one speaker of the grammar. ``confidence``: recognised stretches under it are
    left out."""

    heldout: tuple[str, ...] = (
        "val/*", "train/grid-s31-*", "speech/leopard-*", "speech/lj-LJ001-000[5-8]*", "speech/libritts-train_mouse*",
        "speech/libritts-train_kennard*", "speech/librivox-*-0920*", "speech/librivox-*-0930*",
    )
    per_speaker: int = 250
    confidence: float = 0.55
    pause_seconds: float = 0.3
    shortest_seconds: float = 1.0
    longest_seconds: float = 15.0


def find_recordings(folder: Path, config: RecordedConfig) -> list[Recording]:
    """What can be labelled in a folder with a MANIFEST.csv and, where there is one, speech/INDEX.csv. ValueError where the folder
    has no manifest."""
    found = [*_grid(folder, config), *_transcribed(folder), *_unknown(folder)]
    places = [recording.path.relative_to(folder).as_posix() for recording in found]
    held = [any(fnmatch(place, pattern) for pattern in config.heldout) for place in places]
    return [replace(recording, split="heldout") if out else recording for recording, out in zip(found, held, strict=True)]


def make_recorded(
    recordings: Sequence[Recording], writer: Writer, aligner: Aligner, progress: Progress, config: RecordedConfig
) -> None:
    """Adds recordings to a corpus; those whose words do not fit their sound are left out."""
    for i, recording in enumerate(recordings):
        progress("aligning", i, len(recordings))
        _add(recording, writer, aligner, config)
    progress("aligning", len(recordings), len(recordings))


def pieces(sound: Float[Tensor, " s"], config: RecordedConfig) -> list[slice]:
    """Stretches of speech between pauses, in samples, with half of each pause (0.2 s at most) on both sides."""
    frame = SAMPLE_RATE_HZ // 50
    power = (sound[: len(sound) // frame * frame].reshape(-1, frame).double() ** 2).mean(1).numpy()
    loud = 10 * np.log10(power + 1e-10)
    active = loud > min(np.percentile(loud, 95) - 25, np.percentile(loud, 10) + 15)
    pause = round(config.pause_seconds * 50)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(int), [0]]))).reshape(-1, 2)
    runs: list[list[int]] = []
    for start, end in edges.tolist():
        short = runs and (end - runs[-1][0]) <= config.longest_seconds * 50
        if runs and short and start - runs[-1][1] < pause:
            runs[-1][1] = end
        else:
            runs.append([start, end])
    found = []
    for start, end in runs:
        a, b = max(0, start - 10) * frame, min(len(sound), (end + 10) * frame)
        if config.shortest_seconds <= (b - a) / SAMPLE_RATE_HZ:
            found += [slice(a, b)]
    return found


def _add(recording: Recording, writer: Writer, aligner: Aligner, config: RecordedConfig) -> None:
    known = bool(recording.words or recording.transcript)
    if writer.has(f"{recording.name}.flac") or (not known and writer.has(f"{recording.name}-00.flac")):
        return
    sound = load_sound(recording.path)
    for number, piece in enumerate([slice(None)] if known else pieces(sound, config)):
        part = sound[piece]
        if recording.transcript:
            segments = warp(part, recording.transcript, _WARPED[recording.language])
        else:
            heard = Recognised(words=recording.words, confidence=1.0) if known else aligner.recognise(part)
            if heard.confidence < config.confidence:
                continue
            aligned = aligner.align(part, heard.words)
            if aligned is None:
                continue
            segments = aligned
        writer.add(Utterance(
            file=f"{recording.name}.flac" if known else f"{recording.name}-{number:02d}.flac", language=recording.language,
            speaker=recording.speaker, kind="recorded", labels=recording.labels, split=recording.split, source=recording.source,
            licence=recording.licence,
        ), part, segments)


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _manifest(recordings: Path) -> list[dict[str, str]]:
    manifest = recordings / "MANIFEST.csv"
    if not manifest.is_file():
        raise ValueError(f"{recordings} has no MANIFEST.csv: give the folder of the recordings")
    return [row for row in _rows(manifest) if row["kind"] == "talk"]


def _grid(recordings: Path, config: RecordedConfig) -> Iterator[Recording]:
    rows = [row for row in _manifest(recordings) if row["source"] == "GRID corpus"]
    for speaker in sorted({row["speaker"] for row in rows}):
        own = sorted((row for row in rows if row["speaker"] == speaker), key=lambda row: row["file"])
        chosen = np.linspace(0, len(own) - 1, min(len(own), config.per_speaker)).round().astype(int)
        for row in (own[i] for i in chosen):
            path = recordings / row["file"]
            yield Recording(
                path=path, name=f"grid/{path.stem}", language="en", speaker=speaker, labels="grammar", source=row["source"],
                licence=row["licence"], words=grid_words(path.stem.rpartition("-")[2]),
            )


def _transcribed(recordings: Path) -> Iterator[Recording]:
    for row in _speech(recordings):
        language, text = row["language"], row["transcript"].strip()
        path = recordings / "speech" / row["file"]
        recording = Recording(
            path=path, name=f"speech/{path.stem}", language=language, speaker=speaker_of(path.stem), labels="aligned",
            source=row["source"], licence=row["licence"],
        )
        if text and language == "en":
            yield replace(recording, words=words_of(text))
        elif text and language in _WARPED:
            yield replace(recording, labels="dtw", transcript=text)


def _unknown(recordings: Path) -> Iterator[Recording]:
    """English recordings without a transcript, and the manifest's other clips, whose language nobody wrote down: those that are
    not English will not be recognised with confidence."""
    for row in _speech(recordings):
        if not row["transcript"].strip() and row["language"] == "en":
            path = recordings / "speech" / row["file"]
            yield Recording(
                path=path, name=f"speech/{path.stem}", language="en", speaker=speaker_of(path.stem), labels="aligned",
                source=row["source"], licence=row["licence"],
            )
    for row in _manifest(recordings):
        if row["source"] != "GRID corpus" and row["split"] == "train":
            path = recordings / row["file"]
            yield Recording(
                path=path, name=f"wild/{path.stem}", language="en", speaker=row["speaker"], labels="aligned",
                source=row["source"], licence=row["licence"],
            )


def _speech(recordings: Path) -> list[dict[str, str]]:
    index = recordings / "speech" / "INDEX.csv"
    return _rows(index) if index.is_file() else []


def speech_without_pictures(recordings: Path) -> dict[str, list[Path]]:
    """The recordings of the folder's ``speech/INDEX.csv`` by speaker; none where there is none."""
    speakers: dict[str, list[Path]] = {}
    for row in _speech(recordings):
        path = recordings / "speech" / row["file"]
        speakers.setdefault(speaker_of(path.stem), []).append(path)
    return speakers


def speaker_of(stem: str) -> str:
    """The speaker of a recording without pictures: its file's name without the number of the recording."""
    head, _, tail = stem.rpartition("-")
    return head if head and any(c.isdigit() for c in tail) else stem
