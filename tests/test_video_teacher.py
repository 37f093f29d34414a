"""The motion engine as a teacher: faces say what was never filmed, and the sound of it lies beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_video_faces import face, gaps, record, space
from tiny_video import quiet

from vivavoce import Animator, Audio
from vivavoce.latent.topology import LANDMARKS
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.sound import at_rate, load_sound
from vivavoce.train.video_clips import ClipConfig, VideoClip
from vivavoce.train.video_teacher import Teaching, taught_clips

__all__ = ["face", "space"]  # fixtures
SIDE = 64
CONFIG = ClipConfig(side=SIDE)


@pytest.fixture(scope="module")
def sounds(sentence: Audio, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two seconds of somebody who talks, then two of silence."""
    spoken = at_rate(sentence)[: 2 * SAMPLE_RATE_HZ]
    file = tmp_path_factory.mktemp("heard") / "sentence.wav"
    file.write_bytes(Audio(samples=torch.cat([spoken, torch.zeros_like(spoken)])[None], rate=SAMPLE_RATE_HZ).to_wav())
    return {"heard": [file]}


def taught(
    out: Path, sounds: dict[str, list[Path]], faces: list[VideoClip], animator: Animator, seconds: float = 4.0, **given: int
) -> list[VideoClip]:
    return taught_clips(sounds, faces, out, animator, quiet, CONFIG, Teaching(seconds=seconds), **given)


def test_lips_move_while_somebody_talks(
    sounds: dict[str, list[Path]], face: VideoClip, animator: Animator, tmp_path: Path
) -> None:
    (clip,) = taught(tmp_path, sounds, [face], animator)
    assert (clip.person, clip.talks, clip.first, clip.split) == ("seen", True, 0, "train")
    assert clip.pictures.shape == (100, SIDE, SIDE, 3)
    assert clip.points.shape == (100, LANDMARKS, 3)
    torch.testing.assert_close(load_sound(clip.recording), load_sound(sounds["heard"][0]))
    talking, silent = gaps(clip)[:50], gaps(clip)[66:]  # 0.6 s after the last word lips are at rest (latent/closure.py)
    assert talking.std() > 5 * silent.std()
    assert np.ptp(talking) > 0.02 * SIDE


def test_processes_share_the_work_and_what_is_there_stays(
    sounds: dict[str, list[Path]], face: VideoClip, animator: Animator, tmp_path: Path
) -> None:
    for process in (1, 0):
        clips = taught(tmp_path, sounds, [face], animator, 8.0, process=process, processes=2)
        assert len(clips) == 2 - process
    made = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(made) == 1 + 2 * 4
    assert len(taught(tmp_path, sounds, [face], animator, 8.0)) == 2
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == made
    with pytest.raises(ValueError, match=r"holds a taught\.json that is not of this run"):
        taught(tmp_path, sounds, [face], animator, 4.0)


def test_a_picture_that_will_not_do_is_left_out(
    sounds: dict[str, list[Path]], face: VideoClip, animator: Animator, tmp_path: Path
) -> None:
    nobody = replace(face, recording=record(tmp_path / "nobody.mp4", np.full((300, 300, 3), 90, np.uint8), 2))
    with pytest.raises(ValueError, match="none of the faces could be made to say"):
        taught(tmp_path / "out", sounds, [nobody], animator)


def test_silence_follows_what_is_too_short(face: VideoClip, animator: Animator, tmp_path: Path) -> None:
    brief = tmp_path / "brief.wav"
    brief.write_bytes(Audio(samples=torch.zeros(1, SAMPLE_RATE_HZ // 2), rate=SAMPLE_RATE_HZ).to_wav())
    (clip,) = taught(tmp_path / "out", {"heard": [brief]}, [face], animator, 1.0)
    assert len(clip) == CONFIG.shortest and len(load_sound(clip.recording)) == CONFIG.shortest * SAMPLE_RATE_HZ // 25


def test_nothing_is_taught_where_nothing_was_asked_for(face: VideoClip, animator: Animator, tmp_path: Path) -> None:
    assert taught(tmp_path / "out", {}, [face], animator, 0.0) == []
    with pytest.raises(ValueError, match=r"-1 seconds of taught video .* give 0 \(none\) or more"):
        Teaching(seconds=-1)
