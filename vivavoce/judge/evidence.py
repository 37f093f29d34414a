"""What a clip is judged by, side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vivavoce.judge.look import Likeness, Look, Still
from vivavoce.judge.pairs import Pair
from vivavoce.judge.sound import Heard


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything there is to judge one clip by. ``shown``: the video that is judged; ``heard``: what it should say; ``video`` and
    ``sound``: their files, where they came from files. Landmarks of all looks are of the same moments (see `aligned`)."""

    pair: Pair
    shown: Look
    recording: Look | None = None
    driving: Look | None = None
    heard: Heard | None = None
    portrait: Still | None = None
    likeness: Likeness | None = None
    video: Path | None = None
    sound: Path | None = None

    @property
    def example(self) -> Look | None:
        """Whose motion the video should have: the recording, or else the driving video."""
        return self.recording if self.recording is not None else self.driving

    def of_recording(self) -> Evidence | None:
        """The recording in the video's place; None without one."""
        if self.recording is None:
            return None
        return replace(
            self, shown=self.recording, recording=None, driving=None, likeness=None, video=self.pair.recording,
        )


def aligned(evidence: Evidence) -> Evidence:
    """The same with the landmarks of all looks cut to the shortest of them."""
    looks = (evidence.shown, evidence.recording, evidence.driving)
    frames = min(len(look.points) for look in looks if look is not None)
    recording, driving = (None if look is None else look.first(frames) for look in looks[1:])
    return replace(evidence, shown=evidence.shown.first(frames), recording=recording, driving=driving)
