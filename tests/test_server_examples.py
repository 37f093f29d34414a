"""Examples that are clients of a server."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from serving import serving, wav

from vivavoce import Animator, Audio
from vivavoce.apps.server.control import spoken_at
from vivavoce.apps.server.limits import Limits
from vivavoce.media.video import read_video

CLIENT = Path(__file__).parents[1] / "examples" / "live_client.py"
RATE = 24000


def colour(sound: np.ndarray) -> np.ndarray:
    """Mean spectrum up to 6 kHz, of pieces of 20 ms."""
    return np.abs(np.fft.rfft(sound[: len(sound) // 480 * 480].reshape(-1, 480))).mean(axis=0)[:120]


@pytest.mark.parametrize(("arguments", "says"), [
    (("{here}/nowhere.wav", "{here}/out.mp4", "ws://127.0.0.1:1/v1/live"), "nowhere.wav does not exist"),
    (("{here}/notes.txt", "{here}/out.mp4", "ws://127.0.0.1:1/v1/live"), "is no sound"),
    (("{here}/speech.wav", "{here}/out.mp4", "ws://127.0.0.1:1/v1/live"), "start a server"),
    (("{here}/speech.wav", "{here}/out.mp4", "http://127.0.0.1:1"), "is no address"),
    (("{here}/speech.wav", "{here}/gone/out.mp4", "ws://127.0.0.1:1/v1/live"), "gone of the output does not exist"),
    (("{here}/speech.wav",), "live_client.py speech.wav talking.mp4"),
])
def test_the_client_says_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "speech.wav").write_bytes(wav(np.full(RATE // 10, 9000, "<i2"), RATE))
    (tmp_path / "notes.txt").write_text("no sound")
    main = runpy.run_path(str(CLIENT))["main"]
    with pytest.raises(SystemExit, match=re.escape(says)):
        main([each.format(here=tmp_path) for each in arguments])
    assert not (tmp_path / "out.mp4").exists()


def test_the_client_makes_a_talking_video_of_a_sound_file(animator: Animator, tmp_path: Path) -> None:
    spoken = spoken_at(RATE, "Hello! How are you?", "en")
    (tmp_path / "speech.wav").write_bytes(wav(spoken.to_pcm16(), RATE))
    made = tmp_path / "talking.mp4"
    with serving(animator, tmp_path / "server", limits=Limits(size=128)) as served:
        command = [str(CLIENT), str(tmp_path / "speech.wav"), str(made), f"ws://127.0.0.1:{served.port}/v1/live"]
        run = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, cwd=CLIENT.parents[1])
    assert run.returncode == 0, run.stderr

    pictures = list(read_video(made))
    sound = Audio.open(made)
    assert len(pictures) / 25 == pytest.approx(sound.duration, abs=0.1)
    assert spoken.duration + 0.5 <= sound.duration < spoken.duration + 6
    heard, said = sound.mono().samples[0].numpy(), spoken.samples[0].numpy()
    loud = np.flatnonzero(np.abs(heard) > 0.01)
    assert loud[-1] - loud[0] >= 0.95 * len(np.trim_zeros(said))
    assert np.corrcoef(colour(heard[loud[0] : loud[-1]]), colour(np.trim_zeros(said)))[0, 1] > 0.9
    changes = [np.abs(b.image.astype(int) - a.image).mean() for a, b in pairwise(pictures)]
    assert np.mean(changes[round(loud[0] / RATE * 25) :]) > 0.3
