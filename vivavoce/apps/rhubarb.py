"""Rhubarb Lip Sync, a program of others that names mouth shapes: called where it is on the PATH. https://github.com/DanielSWolf"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vivavoce.media.audio import Audio
from vivavoce.media.files import temporary_name
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.sound import load_sound
from vivavoce.train.baselines import Cue, mouth_cues
from vivavoce.train.data import Clip

PROGRAM = "rhubarb"
LIMIT_SECONDS = 300.0  # for one clip of a few seconds; it takes about as long as the clip


def found() -> Path | None:
    """The program, where it is installed."""
    place = shutil.which(PROGRAM)
    return Path(place) if place else None


def cues_of(
    clips: Sequence[Clip], seconds: float, folder: Path, program: Path, progress: Callable[[str, int, int], None]
) -> dict[str, tuple[Cue, ...]]:
    """Mouth cues by clip, of the first ``seconds``; what the program said is kept in the folder, a JSON file per clip.

    ValueError where the program fails or answers with something else than cues.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cues = {}
    for i, clip in enumerate(clips):
        progress("rhubarb", i, len(clips))
        kept = folder / f"{clip.name}.json"
        if not kept.is_file():
            said = _listen(program, load_sound(clip.path)[: round(seconds * SAMPLE_RATE_HZ)])
            mouth_cues(said)  # nothing is kept that could not be read
            partial = folder / temporary_name(".json")
            partial.write_text(said)
            partial.rename(kept)
        cues[clip.name] = mouth_cues(kept.read_text())
    progress("rhubarb", len(clips), len(clips))
    return cues


def _listen(program: Path, sound: Float[Tensor, " s"]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        spoken, answer = Path(folder) / "speech.wav", Path(folder) / "cues.json"
        spoken.write_bytes(Audio(samples=sound[None], rate=SAMPLE_RATE_HZ).to_wav())
        try:
            subprocess.run(
                [str(program), "-f", "json", "-o", str(answer), str(spoken)], check=True, capture_output=True, text=True,
                timeout=LIMIT_SECONDS,
            )
        except subprocess.CalledProcessError as error:
            last = (error.stderr or error.stdout or "nothing was said").strip().splitlines()[-1:]
            raise ValueError(f"{program} failed with code {error.returncode}: {' '.join(last)}") from error
        except subprocess.TimeoutExpired:
            raise ValueError(f"{program} took more than {LIMIT_SECONDS:g} s for one clip: take it from the PATH") from None
        if not answer.is_file():
            raise ValueError(f"{program} wrote no cues: check its installation, or take it from the PATH")
        return answer.read_text()
