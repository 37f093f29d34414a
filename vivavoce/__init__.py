"""vivavoce: one portrait and a voice become a talking portrait."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vivavoce.animate import Animator, Controls, Session
    from vivavoce.latent.motion import Motion
    from vivavoce.media.audio import Audio
    from vivavoce.media.portrait import Portrait
    from vivavoce.media.track import Track

__all__ = ["Animator", "Audio", "Controls", "Motion", "Portrait", "Session", "Track"]

_HOMES = {
    "Animator": "vivavoce.animate", "Controls": "vivavoce.animate", "Session": "vivavoce.animate",
    "Motion": "vivavoce.latent.motion", "Audio": "vivavoce.media.audio", "Portrait": "vivavoce.media.portrait",
    "Track": "vivavoce.media.track",
}


def __getattr__(name: str) -> object:
    """Public names are imported when they are first used, so that `vivavoce --help` does not wait for torch and mediapipe."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vivavoce' has no attribute {name!r}")
    return vars(import_module(_HOMES[name]))[name]
