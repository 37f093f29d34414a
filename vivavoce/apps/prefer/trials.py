"""What is asked and what was answered: pairs of takes in random order, and the pairs file, which grows by a line per answer."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from vivavoce.apps.clips import Stage
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.video import VideoWriter
from vivavoce.train.data import Example, Progress
from vivavoce.train.preferences import Answer, Choice, read_pairs
from vivavoce.train.rollout import Rollout, finish


@dataclass(frozen=True)
class Trial:
    """Two takes of a stretch: the left one, A, and the right one, B."""

    example: int
    clip: str
    takes: tuple[int, int]

    @property
    def pair(self) -> tuple[int, int, int]:
        """What is compared, whichever way round."""
        return self.example, min(self.takes), max(self.takes)


def trials(rolled: Sequence[Rollout], examples: Sequence[Example], seed: int) -> list[Trial]:
    """Every two takes of every stretch, each stretch once before any comes again, in random order and the sides at random.

    Sides are a function of the seed and the pair: who goes on another day sees what would have been seen.
    """
    rng = np.random.default_rng(seed)
    rounds: list[list[Trial]] = []
    for rollout in rolled:
        pairs = list(combinations(range(len(rollout.takes)), 2))
        for turn, i in enumerate(rng.permutation(len(pairs))):
            a, b = pairs[i]
            if np.random.default_rng((seed, rollout.example, a, b)).random() < 0.5:
                a, b = b, a
            if turn == len(rounds):
                rounds.append([])
            rounds[turn].append(Trial(rollout.example, examples[rollout.example].clip, (a, b)))
    return [part[i] for part in rounds for i in rng.permutation(len(part))]


def clip_file(folder: Path, example: int, take: int) -> Path:
    """Where a take's clip is kept."""
    return folder / f"{example}-{take}.mp4"


def make_clips(
    rolled: Sequence[Rollout], examples: Sequence[Example], stage: Stage, folder: Path, progress: Progress
) -> None:
    """A clip of every take, at the motion's rate and with the recording's sound; those that are there already are kept.
    ValueError where these show another portrait, are of another size, or were moved otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    setting, how = folder / "setting.json", {"portrait": stage.reference.number, "size": stage.reference.size}
    stamp = json.dumps({**how, "finish": finish(stage.generator)})
    if setting.exists() and setting.read_text() != stamp:
        raise ValueError(f"{folder} holds clips of another portrait, size or engine: give those, or remove the folder")
    setting.write_text(stamp)
    total = sum(len(rollout.takes) for rollout in rolled)
    done = 0
    for rollout in rolled:
        example = examples[rollout.example]
        assert example.speech is not None
        missing = [k for k in range(len(rollout.takes)) if not clip_file(folder, rollout.example, k).exists()]
        if missing:
            motion = stage.generator.shown(rollout.takes, example.speech, example.first)
            sound = stage.sound(example, 0, motion.shape[1])
        for k in range(len(rollout.takes)):
            progress("clips", done, total)
            if k in missing:
                file, size = clip_file(folder, rollout.example, k), stage.reference.size
                with VideoWriter(file, fps=MOTION_RATE_HZ, size=size, sound=sound) as writer:
                    for frame in stage.frames(motion[k], seed=rollout.example):
                        writer.write(frame)
            done += 1
    progress("clips", total, total)


class Ballot:
    """The trials and the answers to them, for any number of threads."""

    def __init__(self, asked: Sequence[Trial], file: Path):
        """``file``: the pairs file; what was answered in it is not asked again. ValueError where it is damaged."""
        self.trials, self._file, self._lock = list(asked), file, threading.Lock()
        told = {choice.pair: choice for choice in read_pairs(file)} if file.exists() else {}
        self._answers = [told.get(trial.pair) for trial in self.trials]

    @property
    def answered(self) -> int:
        return sum(answer is not None for answer in self._answers)

    @property
    def following(self) -> int:
        """Number of the first trial without an answer, or how many there are."""
        return next((i for i, answer in enumerate(self._answers) if answer is None), len(self.trials))

    def answer(self, number: int, sync: Answer, naturalness: Answer) -> None:
        """Take an answer, the first or another one; it is on the disk when this returns."""
        trial = self.trials[number]
        choice = Choice(example=trial.example, clip=trial.clip, takes=trial.takes, sync=sync, naturalness=naturalness)
        with self._lock:
            with self._file.open("a") as file:
                file.write(choice.line())
                file.flush()
                os.fsync(file.fileno())
            self._answers[number] = choice
