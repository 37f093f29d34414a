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
from vivavoce.flow.guide import guided, pinned, with_prefix
from vivavoce.flow.solve import euler, integrate
from vivavoce.generate import MotionGenerator, frame_noise
from vivavoce.latent.blink import Blinks
from vivavoce.latent.mesh import rigid_fit
from vivavoce.latent.motion import Motion
from vivavoce.latent.retarget import Rest, landmarks_of, rest_of_clip
from vivavoce.speech.encoder import features
from vivavoce.train.data import Clip, track_clips

GROUPS = ("grid", "wild")
ROWS = 48  # windows that the network makes at a time


def group_of(clip: Clip) -> str:
    """GRID's speakers were told to hold still and speak by a grammar; everybody else is "wild"."""
    return "grid" if clip.person.startswith("grid") else "wild"


@torch.inference_mode()
def samples(
    generator: MotionGenerator, speech: Sequence[Float[Tensor, "1 s w"]], seeds: Sequence[int], *, guidance: float | None = None,
    steps: int | None = None, quick: bool = False,
) -> list[Float[Tensor, "n t d"]]:
    """What `MotionGenerator.step` makes of the features of whole recordings with each of the seeds, many windows at a time.

    ``quick``: matrices in bfloat16, which takes half the time where the processor has them; figures move in the third digit.
    """
    order = sorted(range(len(speech)), key=lambda i: -speech[i].shape[1])
    at_once = max(1, ROWS // len(seeds))
    made: dict[int, Tensor] = {}
    for begin in range(0, len(order), at_once):
        some = order[begin : begin + at_once]
        with torch.autocast("cpu", torch.bfloat16) if quick else nullcontext():
            together = _together(generator, [speech[i] for i in some], seeds, guidance, steps)
        made.update(zip(some, together, strict=True))
    return [made[i] * generator.scale + generator.mean for i in range(len(speech))]


def _together(
    generator: MotionGenerator, speech: Sequence[Tensor], seeds: Sequence[int], guidance: float | None, steps: int | None
) -> list[Float[Tensor, "n t d"]]:
    """Normalised motion for recordings that are sorted by length, the longest first."""
    levels, windows, net = generator.net.config.levels, generator.windows, generator.net
    width, hop, stride, reach = generator.layout.width, windows.hop, levels.stride, levels.history + levels.lookahead
    frames = [-(-s.shape[1] // stride) for s in speech]
    longest = speech[0].shape[1] + levels.history + levels.lookahead + (hop + 1) * stride
    heard = generator.silence.expand(len(speech), longest, -1).clone()
    for row, values in zip(heard, speech, strict=True):
        row[levels.history : levels.history + values.shape[1]] = values[0]
    made = generator.mean.new_zeros(len(seeds), len(speech), 0, width)
    step_count = steps or windows.steps
    times = [i / step_count for i in range(step_count + 1)]
    scale = windows.guidance if guidance is None else guidance
    for first in range(0, frames[0], hop):
        alive = sum(count > first for count in frames)
        prefix = made[:, :alive, max(0, first - windows.prefix) :].reshape(len(seeds) * alive, -1, width)
        known = prefix.shape[1]
        begin, yes = stride * (first - known), torch.ones(alive, dtype=torch.bool)
        part, style = heard[:alive, begin : begin + stride * (known + hop - 1) + 1 + reach], generator.style.expand(alive, -1)
        condition = net.listen(part, style, known + hop, has_speech=yes, has_style=yes)
        fresh = torch.stack([frame_noise(seed, range(first, first + hop), width) for seed in seeds]) * generator.noise_scale
        start = with_prefix(torch.cat([prefix, fresh.repeat_interleave(alive, 0)], 1), prefix)
        velocity = pinned(guided(net, {"speech": scale}), prefix)
        window = integrate(velocity, start, condition.stack([condition] * len(seeds)), times=times, step=euler)
        fitted = generator.mean.new_zeros(len(seeds), len(speech), hop, width)
        fitted[:, :alive] = window[:, known:].float().view(len(seeds), alive, hop, width)
        made = torch.cat([made, fitted], 2)
    return [made[:, i, :count] for i, count in enumerate(frames)]


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
    """Where the landmarks of the face at ``rest`` go, blinking by the seed."""
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


def bridged(points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t n 3"]:
    """Frames without a face interpolated from their neighbours."""
    found = ~np.isnan(points[:, 0, 0])
    index = np.arange(len(points))
    flat = points.reshape(len(points), -1)
    return np.stack([np.interp(index, index[found], c[found]) for c in flat.T], 1).reshape(points.shape)


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

