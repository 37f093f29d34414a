"""Recorded motion on other people's pictures: clips in which a sentence is said by a face that never said it.

A few people are most of the minutes in which speech and lips are recorded together, and few minutes show most of the faces. The
renderer of the motion engine makes each face say what another person said, so that a video network cannot tell what is said by
who is seen. Lips, head and sound are as they were recorded; the pictures are warped from one picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vivavoce.latent.motion import MOTION_RATE_HZ, Motion
from vivavoce.latent.motion_space import MotionSpace, Reference
from vivavoce.latent.retarget import motion_of, rest_of_clip
from vivavoce.latent.space import Frame
from vivavoce.latent.stretches import stretches
from vivavoce.media.portrait import Portrait
from vivavoce.media.video import read_frames
from vivavoce.train.data import Clip, Progress, track_clips
from vivavoce.train.loop import claim, digest
from vivavoce.train.takes import bridged, painted, portrait_frame
from vivavoce.train.video_clips import ClipConfig, VideoClip, load_clips, save_stretches

TOLD = "faces.json"  # what a folder says of whose faces say what


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """``seconds`` of exchanged faces in all; ``longest``: of one sentence. Half of the faces are mirrored. ``seed``: who says
    what."""

    seconds: float
    longest: float = 12.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ValueError(f"{self.seconds:g} seconds of exchanged faces were asked for: give 0 (none) or more")


def exchange_faces(
    recordings: Sequence[Clip], faces: Sequence[VideoClip], out: Path, tracks: Path, space: MotionSpace, progress: Progress,
    config: ClipConfig, exchange: Exchange,
) -> list[VideoClip]:
    """Clips like those of `make_clips`, in a folder ``out`` of their own: the person is the one who is seen, the recording the
    one that is heard. What is there already stays. ``faces`` take turns, person by person; of ``recordings`` those that talk come
    in random order; nobody's own picture says what he said. Pictures that the renderer refuses are left out.

    ValueError where that is all of them, or where the folder holds another exchange."""
    talking = [clip for clip in recordings if clip.talks]
    if not (exchange.seconds and talking) and not (out / TOLD).exists():
        return []
    claim(out, {
        "exchange": asdict(exchange), "steady": config.steady, "recordings": digest(clip.name for clip in talking),
        "faces": digest(c.name for c in faces),
    }, (TOLD,), TOLD)
    rng = np.random.default_rng(exchange.seed)
    turns = turns_of(by_person(faces), rng)
    done, wanted = 0.0, exchange.seconds
    for number in rng.permutation(len(talking)):
        progress("exchanging faces", min(int(done), int(wanted)), int(wanted))
        if done >= wanted:
            break
        said, mirrored = talking[number], bool(rng.random() < 0.5)
        if all(face.person == said.person for face in faces):
            continue
        seen = next(face for face in turns if face.person != said.person)
        points = track_clips([said], tracks, _silent)[said.name]
        run = next(iter(stretches(points, shortest=config.shortest)), None)
        if run is None:
            continue
        run = slice(int(run.start), int(min(run.stop, run.start + round(exchange.longest * MOTION_RATE_HZ))))
        file = out / f"{said.split}__{said.name}+{seen.name}.json"
        if not file.exists():
            reference = still_of(space, seen, mirrored)
            if reference is None:
                continue
            motion = motion_of(points[run], rest_of_clip(points[run], space.model), space.model)
            save_stretches(file, {run.start: moved(space, reference, motion)}, config, {
                "name": f"{said.name}+{seen.name}", "person": seen.person, "talks": True, "recording": str(said.path.absolute()),
            })
        done += (run.stop - run.start) / MOTION_RATE_HZ
    progress("exchanging faces", int(wanted), int(wanted))
    if not done:
        raise ValueError("none of the faces could be made to say anything: give faces seen from the front, or exchange none")
    return load_clips(out, talking[0].split)


def by_person(faces: Sequence[VideoClip]) -> dict[str, list[VideoClip]]:
    """Everybody's clips."""
    people: dict[str, list[VideoClip]] = {}
    for clip in faces:
        people.setdefault(clip.person, []).append(clip)
    return people


def turns_of(people: Mapping[str, Sequence[Any]], rng: np.random.Generator) -> Iterator[Any]:
    """One of everybody's, in random order, then again, another of theirs."""
    names = sorted(people)
    turn = 0
    while True:
        for i in rng.permutation(len(names)):
            own = people[names[i]]
            yield own[turn % len(own)]
        turn += 1


def still_of(space: MotionSpace, clip: VideoClip, mirrored: bool, size: int | None = None) -> Reference | None:
    """The picture of a clip that is best made to speak, see `portrait_frame`; None where it will not do. ``size``: px of a crop
    to head and shoulders; None: the whole picture as it is."""
    points = bridged(np.asarray(clip.points, np.float64))
    place = clip.first + portrait_frame(points, np.asarray(clip.pictures).mean((1, 2, 3)))
    frame = next(islice(read_frames(clip.recording, MOTION_RATE_HZ), place, None))
    image = np.ascontiguousarray(frame[:, ::-1] if mirrored else frame)
    try:
        return space.reference(Portrait(image=image, name=clip.name), size=size, crop=size is not None)
    except ValueError:  # no face, or a small, turned or covered one
        return None


def moved(
    space: MotionSpace, reference: Reference, motion: Motion
) -> tuple[list[Frame], Float[np.ndarray, "t 478 3"]]:
    """The picture under a motion, and its own landmarks then, px."""
    landmarks = space.landmarks(motion, reference)
    return list(painted(space, reference, landmarks)), landmarks + np.array([*reference.corner, 0.0])


def _silent(_: str, __: int, ___: int) -> None:
    return None
