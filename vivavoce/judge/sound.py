"""A sound listened to once: how loud and how high it is, where it is silent, where its syllables begin, and, where the words are
known, which phone is when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.signal import find_peaks

from vivavoce.judge.kept import Arrays, kept
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.files import require_file
from vivavoce.speech.align import grid_words, words_of
from vivavoce.speech.analysis import Analysis
from vivavoce.speech.encoder import RATE_HZ as FEATURE_RATE_HZ
from vivavoce.speech.encoder import SAMPLE_RATE_HZ, features
from vivavoce.speech.phones import BILABIAL
from vivavoce.speech.prosody import NAMES, Prosody
from vivavoce.speech.segments import Segment
from vivavoce.speech.sound import load_sound

Align = Callable[[torch.Tensor, Sequence[str]], "tuple[Segment, ...] | None"]

SILENT_DB = -30.0  # relative to the speaker's level, under which nobody speaks
SHORTEST_SILENCE_SECONDS = 0.3  # closures of stops are shorter
SETTING_OFF_SECONDS = 0.2  # lips open before they sound, so much of a silence's end is none for them
BEAT_APART_SECONDS = 0.1  # beats of speech: no two syllables begin closer together
BEAT_RISE_DB = 3.0  # mean rise of the mel bands in 20 ms
_STEP = round(FEATURE_RATE_HZ / MOTION_RATE_HZ)
_BLOCK = 50  # features analysed at once: several times faster than in the stream
_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A sound at MOTION_RATE_HZ, as the looks are.

    ``loudness``: root mean square, full scale is 1. ``level_db``: relative to the speaker's own. ``silent``: stretches without
    speech, but for their ends (SETTING_OFF_SECONDS). ``beats``: where syllables begin, seconds. ``wave``: peaks of the waveform,
    0 to 1, WAVE_RATE_HZ of them a second. ``starts``, ``ends``, ``phones``: where phones begin and end, seconds, and which they
    are (indices into `speech.phones.PHONES`); none where the words are not known. ``note``: why there are no phones, if there
    were words.
    """

    loudness: Float[np.ndarray, " t"]
    level_db: Float[np.ndarray, " t"]
    silent: Bool[np.ndarray, " t"]
    beats: Float[np.ndarray, " n"]
    wave: Float[np.ndarray, " w"]
    starts: Float[np.ndarray, " p"]
    ends: Float[np.ndarray, " p"]
    phones: Int[np.ndarray, " p"]
    note: str = ""

    @property
    def bilabials(self) -> Float[np.ndarray, "b 2"]:
        """Begin and end of every p, b and m, seconds."""
        chosen = np.isin(self.phones, list(BILABIAL))
        return np.stack([self.starts[chosen], self.ends[chosen]], 1)


WAVE_RATE_HZ = FEATURE_RATE_HZ


def words_for(transcript: str | None, *names: str) -> tuple[str, ...]:
    """The words of a transcript, or of the first name that ends in a sentence of the GRID corpus ("s4-bbaf2n"); none where
    nothing is known. Raises as `words_of` does."""
    if transcript is not None:
        return words_of(transcript)
    for name in names:
        try:
            return grid_words(name.replace("_", "-").split("-")[-1])
        except ValueError:
            continue
    return ()


def hear(sound: Path, words: Sequence[str], folder: Path | None, align: Align | None) -> Heard:
    """Listens to a sound or video file, or remembers it. Without ``align`` there are no phones. Raises as `read_audio` does."""
    require_file(sound, "sound")
    wanted = tuple(words) if align is not None else ()
    arrays = kept(folder, f"hear {_VERSION} {' '.join(wanted)}", (sound,), lambda: _listen(sound, wanted, align))
    values = {name: array for name, array in arrays.items() if name != "note"}
    return Heard(**values, note=str(arrays["note"]))


def _listen(path: Path, words: Sequence[str], align: Align | None) -> Arrays:
    samples = load_sound(path)
    prosodic = features(Analysis(block=_BLOCK), samples).values[0, :, -len(NAMES):].numpy().astype(np.float64)
    plain = dict(zip(NAMES, (prosodic * Prosody.deviation + Prosody.mean).T, strict=True))
    beats, _ = find_peaks(plain["onset"], height=BEAT_RISE_DB, distance=round(BEAT_APART_SECONDS * FEATURE_RATE_HZ))
    segments = align(samples, words) if align is not None and words else ()
    note = "" if segments is not None else f"its sound does not fit the words '{' '.join(words)}'"
    segments = segments or ()
    hop = SAMPLE_RATE_HZ // FEATURE_RATE_HZ
    cut = np.pad(samples.numpy(), (0, -len(samples) % hop)).reshape(-1, hop)
    square = (cut.astype(np.float64) ** 2).mean(1)
    wide = np.convolve(np.pad(square, 1, mode="edge"), np.ones(3) / 3, "valid")  # 60 ms about each feature's time
    return {
        "loudness": np.sqrt(wide)[::_STEP], "level_db": plain["energy"][::_STEP], "silent": _silences(plain["energy"])[::_STEP],
        "beats": beats / FEATURE_RATE_HZ, "wave": np.abs(cut).max(1) / max(float(np.abs(cut).max()), 1e-9),
        "starts": np.array([s.start for s in segments]), "ends": np.array([s.end for s in segments]),
        "phones": np.array([s.phone for s in segments], int), "note": np.array(note),
    }


def _silences(energy_db: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Stretches without speech of at least SHORTEST_SILENCE_SECONDS."""
    quiet = energy_db < SILENT_DB
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(int), [0]]))).reshape(-1, 2)
    for start, end in edges[np.diff(edges, axis=1)[:, 0] < SHORTEST_SILENCE_SECONDS * FEATURE_RATE_HZ]:
        quiet[start:end] = False
    for _, end in edges[edges[:, 1] < len(quiet)]:
        quiet[end - min(end, round(SETTING_OFF_SECONDS * FEATURE_RATE_HZ)) : end] = False
    return quiet
