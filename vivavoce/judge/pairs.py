"""What is to be judged: generated videos, and for each what there is to hold against it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")
COLUMNS = (
    "generated", "real", "recording", "audio", "driving", "portrait", "transcript", "group", "system", "name", "rewards",
)
_FILES = ("recording", "audio", "driving", "portrait")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A generated video and what it can be held against.

    ``name``: of the clip; the same for the same clip made by different systems. ``recording``: of the person saying the same.
    ``audio``: what the video should say; without it the sound of the recording, the driving video or the video itself.
    ``driving``: whose motion it should have. ``portrait``: the picture that was animated. ``transcript``: the English words.
    ``group``: clips that are also summed up on their own. ``system``: who made the video. ``rewards``: figures that its maker was
    trained against.
    """

    name: str
    generated: Path
    recording: Path | None = None
    audio: Path | None = None
    driving: Path | None = None
    portrait: Path | None = None
    transcript: str | None = None
    group: str = "all"
    system: str = "generated"
    rewards: tuple[str, ...] = ()


def read_pairs(path: Path) -> list[Pair]:
    """The rows of a pairs file, or the videos of a folder.

    A file has a row of column names: ``generated`` and, optionally, ``real`` (or ``recording``), ``audio``, ``driving``,
    ``portrait``, ``transcript`` (words, or the name of a .txt file), ``group``, ``system``, ``name`` and ``rewards`` (names of
    figures with spaces between them); paths are relative to the file. In a folder each video is judged alone; NAME.wav (or
    .flac, .mp3 ...) beside NAME.mp4 is its sound, NAME.txt its words. Whether the files in it exist is not asked here.

    Raises FileNotFoundError where the path does not exist, and ValueError where it is no pairs file, where a clip is listed
    twice for one system, and where there is nothing to judge.
    """
    if not path.exists():
        raise FileNotFoundError(f"the pairs {path} do not exist: give a pairs file or a folder of videos")
    return _unique(_folder(path) if path.is_dir() else _table(path), path)


def _folder(folder: Path) -> list[Pair]:
    videos = sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEOS and p.is_file())
    if not videos:
        raise ValueError(f"the folder {folder} has no videos ({', '.join(VIDEOS)}): give another folder or a pairs file")
    pairs = []
    for video in videos:
        sounds = [p for p in (video.with_suffix(s) for s in SOUNDS) if p.is_file()]
        text = video.with_suffix(".txt")
        pairs.append(Pair(
            name=video.stem, generated=video, audio=sounds[0] if sounds else None,
            transcript=_text(text) if text.is_file() else None,
        ))
    return pairs


def _table(path: Path) -> list[Pair]:
    wanted = f"a pairs file is a CSV table whose first row names its columns: {', '.join(COLUMNS)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [] if reader.fieldnames is None else list(reader.fieldnames)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path} is no text: {wanted}") from None
    if "generated" not in columns:
        raise ValueError(f"{path} has no column 'generated': {wanted}")
    unknown = [str(column) for column in columns if column not in COLUMNS]
    if unknown:
        raise ValueError(f"{path} has the unknown column {unknown[0]!r}: {wanted}")
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise ValueError(f"{path} has the column {twice[0]!r} twice: keep one of them")
    if {"real", "recording"} <= set(columns):
        raise ValueError(f"{path} has both columns 'real' and 'recording', which mean the same: keep one of them")
    if not rows:
        raise ValueError(f"{path} lists no pairs: add a row for each video")
    return [_pair(row, path, number) for number, row in enumerate(rows, start=2)]


def _pair(row: dict[str, str | None], path: Path, line: int) -> Pair:
    values = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str) and not isinstance(value, list)}
    if None in row or None in row.values():
        raise ValueError(f"{path}, line {line}: another number of values than columns: put values with commas in quotes")
    values["recording"] = values.get("recording") or values.get("real") or ""
    if not values["generated"]:
        raise ValueError(f"{path}, line {line}: no generated video is named")
    generated = path.parent / values["generated"]
    files = {key: path.parent / values[key] if values.get(key) else None for key in _FILES}
    transcript = values.get("transcript") or None
    if transcript is not None and transcript.endswith(".txt"):
        transcript = _text(path.parent / transcript)
    return Pair(
        name=values.get("name") or generated.stem, generated=generated, transcript=transcript, group=values.get("group") or "all",
        system=values.get("system") or "generated", rewards=tuple((values.get("rewards") or "").split()), **files,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise FileNotFoundError(f"the transcript {path} does not exist: check the name") from None
    except UnicodeDecodeError:
        raise ValueError(f"the transcript {path} is no UTF-8 text: save it as such") from None


def _unique(pairs: Sequence[Pair], path: Path) -> list[Pair]:
    """Clips of one system with the same name get their folder's name before it; ValueError where that tells nothing apart."""
    count = Counter((pair.system, pair.name) for pair in pairs)
    named = [
        replace(pair, name=f"{pair.generated.parent.name}/{pair.name}") if count[pair.system, pair.name] > 1 else pair
        for pair in pairs
    ]
    (system, name), most = Counter((pair.system, pair.name) for pair in named).most_common(1)[0]
    if most > 1:
        raise ValueError(f"{path} lists the clip {name!r} of {system!r} {most} times: give each its own name (column 'name')")
    return named
