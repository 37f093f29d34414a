"""Exchanged faces: who is seen says what another said, lips as recorded, and what will not do is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_video import quiet

from vivavoce import Animator, Portrait
from vivavoce.latent.motion_space import MotionSpace
from vivavoce.latent.topology import INNER_LOWER, INNER_UPPER, LANDMARKS
from vivavoce.media.video import VideoWriter
from vivavoce.train.data import Clip
from vivavoce.train.video_clips import ClipConfig, VideoClip, head_crop
from vivavoce.train.video_faces import Exchange, exchange_faces

SIDE, FRAMES = 64, 40
CONFIG = ClipConfig(side=SIDE)


def record(path: Path, image: np.ndarray, frames: int) -> Path:
    with VideoWriter(path, fps=25, size=(image.shape[1], image.shape[0])) as writer:
        for _ in range(frames):
            writer.write(image)
        writer.finish()
    return path


@pytest.fixture(scope="module")
def space(animator: Animator) -> MotionSpace:
    return animator.space


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory, astronaut: Portrait, space: MotionSpace) -> VideoClip:
    """A clip of somebody who keeps still."""
    image = np.ascontiguousarray(astronaut.image[:300, 80:380])
    points = space.track([image] * 2).astype(np.float32)
    crop = head_crop(points, SIDE)
    return VideoClip(
        name="still", split="train", person="seen", talks=False, first=0, points=crop.points(points),
        recording=record(tmp_path_factory.mktemp("seen") / "still.mp4", image, 2), pictures=crop.pictures([image] * 2),
    )


@pytest.fixture
def said(tmp_path: Path, space: MotionSpace) -> Clip:
    """A recording of somebody else, whose lips part and close twice a second; of it only landmarks are looked at."""
    tracks = tmp_path / "tracks"
    tracks.mkdir()
    points = 100 * np.repeat(np.asarray(space.model.mean, np.float64)[None], FRAMES, 0) + [150, 150, 0]
    points += 100 * space.model.displacement({
        "lips_jaw": opening(space)[None] * (1 - np.cos(np.arange(FRAMES) * 2 * np.pi * 2 / 25))[:, None],
        "cheeks_brows": np.zeros((FRAMES, len(space.model.expression["cheeks_brows"]))),
        "eyelids": np.zeros((FRAMES, len(space.model.expression["eyelids"]))),
    })
    np.save(tracks / "train__sentence.npy", points.astype(np.float32))
    return Clip(path=tmp_path / "sentence.mp4", split="train", person="heard", talks=True)


def opening(space: MotionSpace) -> np.ndarray:
    """Of lips and jaw: the direction that parts the lips, about a tenth of a face's height at its full length."""
    basis = space.model.expression["lips_jaw"]
    parts = basis[:, INNER_LOWER, 1].mean(1) - basis[:, INNER_UPPER, 1].mean(1)
    return 0.05 * parts / np.square(parts).sum()


def gaps(clip: VideoClip) -> np.ndarray:
    return (clip.points[:, INNER_LOWER, 1] - clip.points[:, INNER_UPPER, 1]).mean(1)


def exchanged(
    said: Clip, faces: list[VideoClip], space: MotionSpace, seconds: float = 1.0, config: ClipConfig = CONFIG
) -> list[VideoClip]:
    out = said.path.parent
    return exchange_faces([said], faces, out / "faces", out / "tracks", space, quiet, config, Exchange(seconds=seconds))


def test_who_is_seen_says_what_another_said(said: Clip, face: VideoClip, space: MotionSpace) -> None:
    (clip,) = exchanged(said, [face], space)
    assert (clip.person, clip.talks, clip.recording, clip.first) == ("seen", True, said.path, 0)
    assert clip.pictures.shape == (FRAMES, SIDE, SIDE, 3)
    assert clip.points.shape == (FRAMES, LANDMARKS, 3)
    recorded = 1 - np.cos(np.arange(FRAMES) * 2 * np.pi * 2 / 25)
    assert np.corrcoef(gaps(clip), recorded)[0, 1] > 0.95
    assert np.ptp(gaps(clip)) > 0.02 * SIDE

    open_, shut = (int(find(gaps(clip))) for find in (np.argmax, np.argmin))
    change = np.abs(clip.pictures[open_].astype(float) - clip.pictures[shut]).mean(-1)
    x, y = clip.points[open_, INNER_LOWER, :2].mean(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    mouth = (np.abs(columns - x) < 0.15 * SIDE) & (np.abs(rows - y) < 0.15 * SIDE)
    assert change[mouth].mean() > 5 * change[rows < 0.3 * SIDE].mean(), "the mouth moves, the forehead hardly"


def test_what_is_there_stays(said: Clip, face: VideoClip, space: MotionSpace) -> None:
    exchanged(said, [face], space)
    made = {file: file.stat().st_mtime_ns for file in (said.path.parent / "faces").iterdir()}
    assert len(made) == 4
    assert len(exchanged(said, [face], space)) == 1
    assert {file: file.stat().st_mtime_ns for file in (said.path.parent / "faces").iterdir()} == made
    for seconds in (0.0, 2.0):
        with pytest.raises(ValueError, match=r"holds a faces\.json that is not of this run"):
            exchanged(said, [face], space, seconds)
    with pytest.raises(ValueError, match=r"holds a faces\.json that is not of this run"):
        exchanged(said, [face], space, config=replace(CONFIG, steady=True))


def test_nobody_says_what_he_said_himself(said: Clip, face: VideoClip, space: MotionSpace) -> None:
    own = replace(face, name="own", person=said.person)
    (clip,) = exchanged(said, [own, own, face, own], space)
    assert clip.person == "seen"


def test_a_picture_that_will_not_do_is_left_out(said: Clip, face: VideoClip, space: MotionSpace, tmp_path: Path) -> None:
    nobody = record(tmp_path / "nobody.mp4", np.full((300, 300, 3), 90, np.uint8), 2)
    with pytest.raises(ValueError, match="none of the faces could be made to say"):
        exchanged(said, [replace(face, recording=nobody)], space)


def test_none_are_exchanged_where_none_were_asked_for(said: Clip, face: VideoClip, space: MotionSpace) -> None:
    assert exchanged(said, [face], space, seconds=0) == []
    with pytest.raises(ValueError, match=r"-3 seconds of exchanged faces .* give 0 \(none\) or more"):
        Exchange(seconds=-3)
