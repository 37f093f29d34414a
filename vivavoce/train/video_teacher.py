"""The motion engine as a teacher: clips in which faces say what was never filmed, as many as are wanted.

Few minutes of recorded video show lips and speech together, and what lips do there is only partly told by the sound. What the
motion engine makes of a sound is nearly all told by it (two of its takes of one sound have lips that correlate at 0.95), so a
video network learns from it sooner what to listen for. Any speech will do, and any face of `train`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from vivavoce.animate import Animator, Controls
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.audio import Audio
from vivavoce.speech.encoder import SAMPLE_RATE_HZ, features
from vivavoce.speech.sound import load_sound
from vivavoce.train.data import Progress
from vivavoce.train.loop import claim, digest
from vivavoce.train.takes import shown_motion
from vivavoce.train.video_clips import ClipConfig, VideoClip, load_clips, save_stretches
from vivavoce.train.video_faces import by_person, moved, still_of, turns_of

TOLD = "taught.json"  # what a folder says of what was taught
_PER_FRAME = round(SAMPLE_RATE_HZ / MOTION_RATE_HZ)


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """``seconds`` of video in all; ``longest``: of one piece of sound. ``head``: amplitude of its motion at most; each piece has
    its own. Half of the faces are mirrored. ``seed``: who says what."""

    seconds: float
    longest: float = 6.0
    head: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ValueError(f"{self.seconds:g} seconds of taught video were asked for: give 0 (none) or more")


def taught_clips(
    sounds: Mapping[str, Sequence[Path]], faces: Sequence[VideoClip], out: Path, animator: Animator, progress: Progress,
    config: ClipConfig, teaching: Teaching, *, process: int = 0, processes: int = 1,
) -> list[VideoClip]:
    """Clips like those of `make_clips`, in a folder ``out`` of their own, with the piece of sound of each beside it; the person
    is the one who is seen. What is there already stays; of several processes each makes its share. ``sounds``, by speaker, and
    ``faces``, by person, take turns; silence follows sounds that are too short. Pictures that the renderer refuses are left out.

    ValueError where that is all of them, or where the folder holds another teaching."""
    if not teaching.seconds and not (out / TOLD).exists():
        return []
    claim(out, {
        "teaching": asdict(teaching), "steady": config.steady, "faces": digest(c.name for c in faces),
        "sounds": digest(f"{speaker} {path.name}" for speaker in sorted(sounds) for path in sounds[speaker]),
    }, (TOLD,), TOLD)
    rng = np.random.default_rng(teaching.seed)
    speakers, people = turns_of(sounds, rng), turns_of(by_person(faces), rng)
    split, planned, number = faces[0].split, 0.0, 0
    while planned < teaching.seconds:
        progress("teaching", int(planned), int(teaching.seconds))
        source, face = next(speakers), next(people)
        mirrored, place, amplitude, take = rng.random() < 0.5, rng.random(), rng.random(), int(rng.integers(2**31))
        sound = load_sound(source)
        sound = F.pad(sound, (0, max(0, config.shortest * _PER_FRAME - len(sound))))
        pictures = min(len(sound) // _PER_FRAME, round(teaching.longest * MOTION_RATE_HZ))
        number, planned = number + 1, planned + pictures / MOTION_RATE_HZ
        name = f"{number:05d}-{source.stem}+{face.name}"
        file = out / f"{split}__{name}.json"
        if file.exists() or number % processes != process:
            continue
        reference = still_of(animator.space, face, mirrored, size=2 * config.side)
        if reference is None:
            continue
        first = int(place * (len(sound) - pictures * _PER_FRAME))
        sound = sound[first : first + pictures * _PER_FRAME]
        heard = file.with_suffix(".wav")
        heard.write_bytes(Audio(samples=sound[None], rate=SAMPLE_RATE_HZ).to_wav())
        packed = animator.generator.samples(features(animator.encoder, sound).values, [take])[0]
        motion = shown_motion(animator, packed, reference, take, Controls(head=teaching.head * amplitude))
        made = moved(animator.space, reference, motion)
        save_stretches(file, {0: made}, config, {
            "name": name, "person": face.person, "talks": True, "recording": str(heard.absolute()),
        })
    progress("teaching", int(teaching.seconds), int(teaching.seconds))
    if not any(out.glob(f"{split}__*.json")):
        raise ValueError("none of the faces could be made to say anything: give faces seen from the front, or teach nothing")
    return load_clips(out, split)
