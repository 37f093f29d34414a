"""What post-training bought: motion on recordings of other people, judged clip by clip, and compared with the base by clip.

Motion itself is judged, on the mean face: nothing is rendered. Objectives that learn from takes and recordings never see these
figures; rewards of `policy` are near kin to some (docs/post-training.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel, flat_mesh, rigid_fit
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.retarget import Rest, landmarks_of
from vivavoce.metrics.confidence import Interval, bootstrap, bootstrap_of, difference
from vivavoce.metrics.distances import COMPONENTS, Moments, frechet_of_moments, principal
from vivavoce.metrics.dynamics import jerk
from vivavoce.metrics.head import diversity, rotation_spread, speed
from vivavoce.metrics.lips import closure_f1, correlation, gain
from vivavoce.train.ablation import curves, group_of
from vivavoce.train.data import Example, Progress

TAKES = 3  # motions of each recording, of seeds 0 and on
GLANCED, GLANCES = 12, 2  # people that a glance looks at, and motions of a recording of each
RATIOS = ("lip_gain", "brow_ratio", "head_ratio", "dynamic", "jerk")  # to the recording's: 1 is best
MESH = "mesh_frechet"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A recording, and what its sound became. ``figures``: means over the takes; ``real``, ``made``: meshes, one row a frame."""

    clip: str
    group: str
    figures: Mapping[str, float]
    real: Float[np.ndarray, "t d"]
    made: Float[np.ndarray, "s d"]


def judge_all(
    generator: MotionGenerator, examples: Sequence[Example], model: FaceModel, progress: Progress,
) -> list[Judged]:
    """All recordings with sound, heard as a whole, judged on the stretches of them that were tracked."""
    clips: dict[str, list[Example]] = {}
    for example in examples:
        if example.speech is not None:
            clips.setdefault(example.clip, []).append(example)
    found = []
    for i, parts in enumerate(clips.values()):
        progress("judging", i, len(clips))
        found.append(judge_clip(generator, parts, model))
    progress("judging", len(clips), len(clips))
    return found


def glance(generator: MotionGenerator, examples: Sequence[Example], model: FaceModel) -> dict[str, float]:
    """Medians over the first recording of each of a few people, and Mesh-FID: what can be looked at during training."""
    first: dict[str, str] = {}
    for example in examples:
        if example.speech is not None:
            first.setdefault(example.person, example.clip)
    clips = list(first.values())[:: max(1, len(first) // GLANCED)]
    of_clips = [[e for e in examples if e.clip == clip and e.speech is not None] for clip in clips]
    judged = [judge_clip(generator, parts, model, GLANCES) for parts in of_clips]
    medians = {name: float(np.nanmedian([j.figures[name] for j in judged])) for name in judged[0].figures}
    return {**medians, MESH: _mesh_figure(judged, None)(np.arange(len(judged)))}


@torch.inference_mode()
def judge_clip(generator: MotionGenerator, parts: Sequence[Example], model: FaceModel, count: int = TAKES) -> Judged:
    """One clip; the figures of its ``count`` takes are of single takes."""
    speech, stride = parts[0].speech, generator.net.config.levels.stride
    assert speech is not None
    takes = generator.samples(speech[None], range(count)).float()
    spans = [(p.first // stride, min(len(p.motion), takes.shape[1] - p.first // stride)) for p in parts]
    recorded = torch.cat([p.motion[:count] for p, (_, count) in zip(parts, spans, strict=True)])
    made = [torch.cat([take[first : first + count] for first, count in spans]) for take in takes]
    real, ours = curves(recorded, generator, model), [curves(take, generator, model) for take in made]

    def mean(figure: Callable[[Mapping[str, np.ndarray]], float]) -> float:
        values = np.array([figure(curve) for curve in ours])
        return float("nan") if np.isnan(values).all() else float(np.nanmean(values))

    figures = {
        "lip_corr": mean(lambda c: correlation(c["opening"], real["opening"])),
        "width_corr": mean(lambda c: correlation(c["width"], real["width"])),
        "closure_f1": mean(lambda c: closure_f1(c["opening"], real["opening"])),
        "lip_gain": mean(lambda c: gain(c["opening"], real["opening"])),
        "brow_ratio": mean(lambda c: c["brow"].std() / real["brow"].std()),
        "head_ratio": mean(lambda c: rotation_spread(c["rotation"]) / rotation_spread(real["rotation"])),
        "dynamic": mean(lambda c: speed(c["rotation"], MOTION_RATE_HZ) / speed(real["rotation"], MOTION_RATE_HZ)),
        "jerk": mean(lambda c: jerk(c["rotation"], MOTION_RATE_HZ) / jerk(real["rotation"], MOTION_RATE_HZ)),
        "diversity": diversity([c["rotation"] for c in ours]),
    }
    return Judged(
        clip=parts[0].clip, group=group_of(parts[0].person), figures=figures, real=meshes([recorded], generator, model),
        made=meshes(made, generator, model),
    )


def meshes(motions: Sequence[Float[Tensor, "t d"]], generator: MotionGenerator, model: FaceModel) -> Float[np.ndarray, "n d"]:
    """The mean face under motions, as Mesh-FID sees it."""
    rest = Rest(neutral=model.mean, pose=rigid_fit(model.mean, 100 * model.mean[None]))
    return np.concatenate([
        flat_mesh(landmarks_of(generator.layout.unpack(motion), rest, model)).astype(np.float32) for motion in motions
    ])


def summary(judged: Sequence[Judged]) -> dict[str, dict[str, Interval]]:
    """Medians over the clips of each group and of all of them, with intervals."""
    return {
        group: {
            **{name: bootstrap(np.array([j.figures[name] for j in part]), statistic=np.nanmedian) for name in part[0].figures},
            MESH: _mesh(part, None),
        }
        for group, part in _groups(judged).items()
    }


def against(judged: Sequence[Judged], base: Sequence[Judged]) -> dict[str, dict[str, Interval]]:
    """How much better than the base, by clip: differences of means, of figures whose best is 1 the difference of how far they are
    from it, |log ratio|, turned round, and for Mesh-FID the share that went; above 0 is better throughout, but for diversity."""
    assert [j.clip for j in judged] == [b.clip for b in base], "other clips"
    found = {}
    theirs = _groups(base)
    for group, part in _groups(judged).items():
        pairs = {
            name: [np.array([j.figures[name] for j in side]) for side in (part, theirs[group])] for name in part[0].figures
        }
        better = {
            name: difference(-np.abs(np.log(a)), -np.abs(np.log(b))) if name in RATIOS else difference(a, b)
            for name, (a, b) in pairs.items()
        }
        found[group] = {**better, MESH: _mesh(part, theirs[group])}
    return found


def _groups(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    names = sorted({j.group for j in judged})
    return {**{name: [j for j in judged if j.group == name] for name in names}, "all": list(judged)}


def _mesh(judged: Sequence[Judged], base: Sequence[Judged] | None) -> Interval:
    return bootstrap_of(len(judged), _mesh_figure(judged, base), resamples=500)


def _mesh_figure(judged: Sequence[Judged], base: Sequence[Judged] | None) -> Callable[[np.ndarray], float]:
    """Mesh-FID of those clips that are asked for, or 1 - its share of the base's."""
    mean, basis = principal(np.concatenate([j.real for j in judged]), COMPONENTS)
    real = [Moments.of((j.real - mean) @ basis) for j in judged]
    ours = [Moments.of((j.made - mean) @ basis) for j in judged]
    theirs = None if base is None else [Moments.of((b.made - mean) @ basis) for b in base]

    def figure(clips: np.ndarray) -> float:
        def of(made: Sequence[Moments]) -> float:
            return frechet_of_moments([real[i] for i in clips], [made[i] for i in clips])

        return of(ours) if theirs is None else 1 - of(ours) / of(theirs)

    return figure
