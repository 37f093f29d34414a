"""What the sync expert says of a clip, as figures."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from vivavoce.judge.evidence import Evidence
from vivavoce.judge.expert import SHIPPED, SyncExpert, offset_and_confidence
from vivavoce.judge.figures import NAN, Better, Figure, Need
from vivavoce.judge.kept import Arrays, kept
from vivavoce.judge.look import RATE_HZ
from vivavoce.media.video import read_frames
from vivavoce.speech.sound import load_sound

_VERSION = 1
_SOUND = frozenset[Need]({"sound"})
# Name, title, unit, what is better, what it says.
_FIGURES: tuple[tuple[str, str, str, Better, str], ...] = (
    ("sync_score", "Sync expert, score", "", "near real",
     "Mean cosine of lips and sound over windows of 0.6 s with speech, by the expert that ships: recordings reach 0.3 on "
     "average, others' sound 0. Lips that do what everybody's do rise above a person's own."),
    ("sync_confidence", "Sync expert, confidence", "", "near real",
     "Median less minimum of the expert's mean distances by offset: how much one offset stands out."),
    ("sync_lag_ms", "Sync expert, lag", "ms", "near real",
     "Lateness of the lips at the offset at which the distance is smallest. A clip of 3 s says little."),
)  # fmt: skip


def sync_figures(folder: Path | None) -> tuple[Figure, ...]:
    """The expert's figures. ``folder``: where what it found is kept."""
    expert = SyncExpert.load()
    return tuple(
        Figure(
            name=name, title=title, topic="Lips", unit=unit, better=better, what=what, needs=_SOUND, alone=True,
            measure=partial(_measure, name, expert, folder),
        )
        for name, title, unit, better, what in _FIGURES
    )


def _measure(name: str, expert: SyncExpert, folder: Path | None, evidence: Evidence) -> float:
    """One of the figures of a clip, all of which are worked out at once and kept; NaN for a clip that is too short to tell."""
    if evidence.video is None or evidence.sound is None:
        return NAN
    what, files = f"sync expert {_VERSION} {len(evidence.shown.points)}", (evidence.video, evidence.sound, SHIPPED)
    arrays = kept(folder, what, files, partial(_asked, expert, evidence))
    return float(arrays[name])


def _asked(expert: SyncExpert, evidence: Evidence) -> Arrays:
    assert evidence.video is not None and evidence.sound is not None
    points = evidence.shown.points
    frames = islice(read_frames(evidence.video, RATE_HZ), len(points))
    crops = [expert.crop(frame, at) for frame, at in zip(frames, points, strict=False)]
    points = points[: len(crops)]
    found = dict.fromkeys((name for name, *_ in _FIGURES), NAN)
    try:
        windows = expert(points, np.stack(crops), load_sound(evidence.sound))
        offset, confidence = offset_and_confidence(windows)
    except ValueError:
        return {name: np.array(value) for name, value in found.items()}
    found |= {"sync_confidence": confidence, "sync_lag_ms": 1000 / RATE_HZ * offset}
    scores = windows.scores()[windows.spoken()]
    if not np.isnan(scores).all():
        found["sync_score"] = float(np.nanmean(scores))
    return {name: np.array(value) for name, value in found.items()}
