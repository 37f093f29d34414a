"""What the benchmarks share: several samples of motion for one sound without pictures, tracked recordings, kept results, tables.

Curves are of the motion itself: landmarks of a face that nobody drew. They cost a hundredth of rendered and tracked video and
leave out what the renderer and the judge's tracker add.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce import Animator
from vivavoce.animate import Controls
from vivavoce.generate import MotionGenerator
from vivavoce.latent.blink import Blinks
from vivavoce.latent.mesh import rigid_fit
from vivavoce.latent.motion import Motion
from vivavoce.latent.retarget import Rest, landmarks_of, rest_of_clip
from vivavoce.speech.encoder import features
from vivavoce.train.data import Clip, track_clips
from vivavoce.train.takes import bridged

GROUPS = ("grid", "wild")


def group_of(clip: Clip) -> str:
    """GRID's speakers were told to hold still and speak by a grammar; everybody else is "wild"."""
    return "grid" if clip.person.startswith("grid") else "wild"


def samples(
    generator: MotionGenerator, speech: Sequence[Float[Tensor, "1 s w"]], seeds: Sequence[int], *, guidance: float | None = None,
    steps: int | None = None, quick: bool = False,
) -> list[Float[Tensor, "n t d"]]:
    """What the features of whole recordings become with each of the seeds.

    ``quick``: matrices in bfloat16, which takes half the time where the processor has them; figures move in the third digit.
    """
    with torch.autocast("cpu", torch.bfloat16) if quick else nullcontext():
        return [generator.samples(values, seeds, guidance=guidance, steps=steps).float() for values in speech]


def motions(
    animator: Animator, sounds: Sequence[Float[Tensor, " s"]], seeds: Sequence[int], *, quick: bool = False
) -> list[list[Motion]]:
    """For each sound at 16 kHz the motion that each seed makes, as a session with natural amplitudes would, blinks left out."""
    heard = [features(animator.encoder, sound).values for sound in sounds]
    return [
        [Controls().apply(animator.space.layout.unpack(animator.generator.around_rest(packed))) for packed in made]
        for made in samples(animator.generator, heard, seeds, quick=quick)
    ]


def landmarks(animator: Animator, motion: Motion, rest: Rest, seed: int) -> Float[np.ndarray, "t 478 3"]:
    """Where the landmarks of the face at ``rest`` are tracked (brows are drawn further), blinking by the seed."""
    space = animator.space
    closure = Blinks(space.model.blink_profile, seed=seed).closure(0, len(motion))
    return landmarks_of(space.with_blinks(motion, closure, space.blink_amount(rest.neutral)), rest, space.model)


def mean_face(animator: Animator) -> Rest:
    """The face model's mean, looking straight at the viewer, a face height being 100 px."""
    mean = animator.space.model.mean
    pose = rigid_fit(mean, 100 * mean[None])
    return Rest(neutral=mean, pose=pose)


def recorded(clips: Iterable[Clip], tracks: Path) -> dict[str, Float[np.ndarray, "t 478 3"]]:
    """Tracked landmarks by clip, px at the motion rate, gaps bridged; what ``tracks`` does not hold yet is tracked first."""
    return {name: bridged(points.astype(np.float64)) for name, points in track_clips(list(clips), tracks, progress).items()}


def rest_of(points: Float[np.ndarray, "t n 3"], animator: Animator) -> Rest:
    """The recorded face at rest: its own neutral shape and mean pose."""
    return rest_of_clip(points, animator.space.model)


def fingerprint(*paths: Path) -> str:
    """Of the contents of files: results that are kept belong to one set of weights."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def weights_of(folder: Path | None) -> str:
    """Fingerprint of the weights in a folder; None: those that ship."""
    from importlib import resources

    place = folder or Path(str(resources.files("vivavoce") / "weights"))
    return fingerprint(*sorted(place.glob("*.safetensors")))


class Kept:
    """Results in a JSON file, by key, that belong to one ``setting``; what is there already is not computed again."""

    def __init__(self, path: Path, setting: Mapping[str, Any]):
        self.path, self.setting = path, dict(setting)
        self.values: dict[str, Any] = {}
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["setting"] != self.setting:
                fail(f"{path} holds results of {kept['setting']}, not of {self.setting}: give another folder or remove it")
            self.values = kept["values"]

    def get(self, key: str, compute: Callable[..., Any], *given: Any) -> Any:
        """The kept value, or what ``compute`` makes of what is given, kept at once."""
        if key not in self.values:
            self.values[key] = compute(*given)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".part")
            partial.write_text(json.dumps({"setting": self.setting, "values": self.values}, indent=1))
            partial.rename(self.path)
        return self.values[key]


def fail(sentence: str) -> NoReturn:
    """One clear sentence and exit code 2, as the command line does it."""
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def progress(stage: str, done: int, total: int) -> None:
    """A line of progress now and then."""
    if done and (done % 10 == 0 or done == total):
        print(f"{stage} {done}/{total}", file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Numbers in columns under a head; the first column is text."""
    cells = [list(head), *([str(row[0]), *(_shown(value) for value in row[1:])] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or np.isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def median(values: Iterable[float]) -> float:
    """Of the values that are numbers; NaN where none is."""
    known = [v for v in values if v is not None and not np.isnan(v)]
    return float(np.median(known)) if known else float("nan")


def one_thread() -> None:
    """As the command line does: two threads on a busy machine wait for each other."""
    torch.set_num_threads(1)

