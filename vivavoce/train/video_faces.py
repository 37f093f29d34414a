"""Recorded motion on other people's pictures: clips in which a sentence is said by a face that never said it.

A few people are most of the minutes in which speech and lips are recorded together, and few minutes show most of the faces. The
renderer of the motion engine makes each face say what another person said, so that a video network cannot tell what is said by
who is seen. Lips, head and sound are as they were recorded; the pictures are warped from one picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.motion_space import MotionSpace, Reference
from vivavoce.latent.retarget import motion_of, rest_of_clip
from vivavoce.latent.space import Frame
from vivavoce.latent.stretches import stretches
from vivavoce.latent.topology import INNER_LOWER, INNER_UPPER
from vivavoce.media.portrait import Portrait
from vivavoce.media.video import read_frames
from vivavoce.train.data import Clip, Progress, track_clips
from vivavoce.train.loop import claim, digest
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
    turns = _turns(faces, rng)
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
            reference = _reference(space, seen, mirrored)
            if reference is None:
                continue
            made = _said_by(space, reference, points[run])
            save_stretches(file, {run.start: made}, config, {
                "name": f"{said.name}+{seen.name}", "person": seen.person, "talks": True, "recording": str(said.path.absolute()),
            })
        done += (run.stop - run.start) / MOTION_RATE_HZ
    progress("exchanging faces", int(wanted), int(wanted))
    if not done:
        raise ValueError("none of the faces could be made to say anything: give faces seen from the front, or exchange none")
    return load_clips(out, talking[0].split)


def _turns(faces: Sequence[VideoClip], rng: np.random.Generator) -> Iterator[VideoClip]:
    """Everybody's picture once, in random order, then again, of another of their clips."""
    people: dict[str, list[VideoClip]] = {}
    for clip in faces:
        people.setdefault(clip.person, []).append(clip)
    names = sorted(people)
    turn = 0
    while True:
        for i in rng.permutation(len(names)):
            own = people[names[i]]
            yield own[turn % len(own)]
        turn += 1


def _reference(space: MotionSpace, clip: VideoClip, mirrored: bool) -> Reference | None:
    """The picture of a clip with the most closed lips, which is the easiest to make speak; None where it will not do."""
    gap = clip.points[:, INNER_LOWER, 1] - clip.points[:, INNER_UPPER, 1]
    place = clip.first + int(np.nanargmin(gap.mean(1)))
    frame = next(islice(read_frames(clip.recording, MOTION_RATE_HZ), place, None))
    image = np.ascontiguousarray(frame[:, ::-1] if mirrored else frame)
    try:
        return space.reference(Portrait(image=image, name=clip.name))
    except ValueError:  # no face, or a small, turned or covered one
        return None


def _said_by(
    space: MotionSpace, reference: Reference, points: Float[np.ndarray, "t 478 3"]
) -> tuple[list[Frame], Float[np.ndarray, "t 478 3"]]:
    """The picture moving as recorded landmarks do, and its own landmarks then, px."""
    motion = motion_of(points, rest_of_clip(points, space.model), space.model)
    landmarks, painter = space.landmarks(motion, reference), space.painter(reference)
    frames = [
        frame for i in range(0, len(landmarks), painter.batch) for frame in painter.paint(landmarks[i : i + painter.batch])
    ]
    return frames, landmarks + np.array([*reference.corner, 0.0])


def _silent(_: str, __: int, ___: int) -> None:
    return None
