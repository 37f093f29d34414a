"""What people preferred: the pairs file that `vivavoce prefer` writes, and which take of a recording is best, which worst.

A line of the file is one answer, as JSON; docs/formats.md says what is in it. The file only grows: of several answers to the same
pair the last one counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, get_args

from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.train.data import Example
from vivavoce.train.rollout import Rollout
from vivavoce.train.scorers import Figure, composed, takes_of

Answer = Literal["A", "B", "same"]
ANSWERS: tuple[str, ...] = get_args(Answer)
CRITERIA = ("sync", "naturalness")
WORTH: Mapping[str, int] = {"A": 1, "B": -1, "same": 0}  # of an answer, for the take that was A


@dataclass(frozen=True, kw_only=True)
class Choice:
    """``example``, ``clip``: the stretch and the recording it is of; ``takes``: numbers of the two that were shown, A (left)
    first; ``sync``, ``naturalness``: which was better."""

    example: int
    clip: str
    takes: tuple[int, int]
    sync: Answer
    naturalness: Answer

    @property
    def pair(self) -> tuple[int, int, int]:
        """What was compared, in whichever order it was shown."""
        return self.example, min(self.takes), max(self.takes)

    def line(self) -> str:
        """Its line of the pairs file."""
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def parse(line: str) -> Choice:
        """The inverse of `line`; ValueError for anything else."""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is no JSON ({error})") from error
        if not isinstance(row, dict) or row.keys() != Choice.__dataclass_fields__.keys():
            raise ValueError(f"an object with {', '.join(Choice.__dataclass_fields__)} is expected")
        takes = row["takes"]
        whole = isinstance(takes, list) and len(takes) == 2 and all(type(n) is int and n >= 0 for n in (*takes, row["example"]))
        if not whole or takes[0] == takes[1] or not isinstance(row["clip"], str):
            raise ValueError(f"takes {takes!r} of example {row['example']!r} are no two numbers of takes")
        for criterion in CRITERIA:
            if row[criterion] not in ANSWERS:
                raise ValueError(f"{criterion} is {row[criterion]!r}, not one of {', '.join(ANSWERS)}")
        return Choice(**{**row, "takes": (takes[0], takes[1])})


def read_pairs(path: Path) -> list[Choice]:
    """The last answer to each pair, in the order in which pairs were first met. ValueError names the first line that is wrong."""
    found: dict[tuple[int, int, int], Choice] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            choice = Choice.parse(line.decode())
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}: mend or remove that line") from error
        found[choice.pair] = choice
    return list(found.values())


def scores(choices: Sequence[Choice]) -> dict[int, dict[int, float]]:
    """Of each take of each example that was judged: the mean over its comparisons and the criteria of 1 (better), 0 and -1."""
    met: dict[int, dict[int, list[float]]] = {}
    for choice in choices:
        worth = sum(WORTH[answer] for answer in (choice.sync, choice.naturalness)) / len(CRITERIA)
        for take, value in zip(choice.takes, (worth, -worth), strict=True):
            met.setdefault(choice.example, {}).setdefault(take, []).append(value)
    return {example: {take: sum(v) / len(v) for take, v in sorted(takes.items())} for example, takes in met.items()}


def best_and_worst(
    choices: Sequence[Choice], rolled: Sequence[Rollout], examples: Sequence[Example], *, least: float = 0.5
) -> list[Rollout]:
    """For each stretch that people told the takes of apart, its best take and its worst, as `pair_dpo` wants them.

    Those whose scores differ by less than ``least`` are left out (Hallo4 drops low margins): a half is one "better" by one
    criterion in two comparisons. ValueError where the pairs are of other rollouts or recordings.
    """
    known = {rollout.example: rollout for rollout in rolled}
    for choice in choices:
        if choice.example not in known or max(choice.takes) >= len(known[choice.example].takes):
            raise ValueError(
                f"there is no take {max(choice.takes)} of example {choice.example}: give the rollouts that were judged"
            )
        clip = examples[choice.example].clip if choice.example < len(examples) else None
        if clip != choice.clip:
            raise ValueError(
                f"example {choice.example} was {choice.clip!r} and is {clip!r}: "
                "give the recordings that were judged"
            )
    found = []
    for example, takes in scores(choices).items():
        best, worst = max(takes, key=lambda k: takes[k]), min(takes, key=lambda k: takes[k])
        if takes[best] - takes[worst] >= least:
            found.append(Rollout(example=example, takes=known[example].takes[[best, worst]]))
    return found


def chosen_by(
    figures: Mapping[str, Figure], rolled: Sequence[Rollout], examples: Sequence[Example], generator: MotionGenerator,
    model: FaceModel,
) -> list[Choice]:
    """Every two takes of every stretch compared by one figure for each criterion, of the motion as it would be shown: for
    experiments where nobody can be asked. It tells nothing about what people prefer."""
    assert figures.keys() == set(CRITERIA), list(figures)
    score, found = composed(figures, generator, model), []
    for rollout in rolled:
        example = examples[rollout.example]
        scored = score(takes_of(rollout, example, generator))
        for pair in combinations(range(len(rollout.takes)), 2):
            answers = {name: _preferred(*(float(values[k]) for k in pair)) for name, values in scored.items()}
            found.append(Choice(example=rollout.example, clip=example.clip, takes=pair, **answers))
    return found


def _preferred(ours: float, theirs: float) -> Answer:
    return "same" if ours == theirs else "A" if ours > theirs else "B"
