"""Typed signals, and the only code that touches media files."""

from __future__ import annotations

from vivavoce.media.audio import Audio, AudioInfo, Resampler, has_sound, probe_audio, read_audio
from vivavoce.media.portrait import Portrait
from vivavoce.media.speak import speak
from vivavoce.media.track import Track
from vivavoce.media.video import VideoFrame, VideoWriter, check_output, read_frames, read_video

__all__ = [
    "Audio",
    "AudioInfo",
    "Portrait",
    "Resampler",
    "Track",
    "VideoFrame",
    "VideoWriter",
    "check_output",
    "has_sound",
    "probe_audio",
    "read_audio",
    "read_frames",
    "read_video",
    "speak",
]
