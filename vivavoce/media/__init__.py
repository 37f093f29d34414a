"""Typed signals, and the only code that touches media files."""

from __future__ import annotations

from vivavoce.media.audio import Audio, AudioInfo, Resampler, has_sound, probe_audio, read_audio
from vivavoce.media.portrait import Portrait
from vivavoce.media.track import Track

__all__ = ["Audio", "AudioInfo", "Portrait", "Resampler", "Track", "has_sound", "probe_audio", "read_audio"]
