"""How figures answer to damage: curves over its amounts, and whether they go the way that they are declared to go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float

from vivavoce.judge.results import Described, Evaluation
from vivavoce.metrics.confidence import Interval, bootstrap, difference
from vivavoce.train.damage import DAMAGES, Damage

Direction = Literal["rises", "falls", "dips", "peaks"]
INTACT = "intact"

_LATE, _SCALED, _QUIVER = "lips late", "lips scaled", "lips quiver"
_FROZEN, _LAG, _TREMBLE, _LIDS, _BROWS = "head frozen", "head late", "head trembles", "lids frozen", "brows frozen"
_BLUR, _IDENTITY, _DRIFT, _FLICKER = "blur", "identity", "colours drift", "flicker"
_HEAD: Mapping[str, Direction] = {_FROZEN: "falls", _TREMBLE: "rises"}
_WITH_SPEECH: Mapping[str, Direction] = {_LAG: "falls", _TREMBLE: "falls"}

SEES: Mapping[str, Mapping[str, Direction]] = {
    "lip_corr": {_LATE: "falls", _QUIVER: "falls"},
    "sync_score": {_LATE: "falls", _QUIVER: "falls"}, "sync_confidence": {_LATE: "falls", _QUIVER: "falls"},
    "sync_lag_ms": {_LATE: "rises"},
    "lip_lag_ms": {_LATE: "rises"},
    "lip_gain": {_SCALED: "rises"},
    "width_corr": {_LATE: "falls", _QUIVER: "falls"},
    "closure_f1": {_LATE: "falls", _QUIVER: "falls"},
    "bilabial_closure": {_LATE: "falls"},
    "silent_lips": {_QUIVER: "rises"},
    "sound_corr": {_QUIVER: "falls"},
    "sound_lag_ms": {_LATE: "rises"},
    "lip_activity": {_SCALED: "rises", _QUIVER: "rises"},
    "head_ratio": _HEAD, "jerk_ratio": _HEAD, "head_spread": _HEAD, "head_speed": _HEAD, "head_diversity": {_FROZEN: "falls"},
    "beat_align": _WITH_SPEECH, "beat_above_chance": _WITH_SPEECH,
    "head_sync_200": _WITH_SPEECH, "head_sync_400": _WITH_SPEECH, "head_sync_800": _WITH_SPEECH, "head_sync_1600": _WITH_SPEECH,
    "brow_ratio": {_BROWS: "falls"}, "brow_activity": {_BROWS: "falls"},
    "blink_per_min": {_LIDS: "falls"}, "blink_depth": {_LIDS: "falls"},
    "mouth_sharp": {_BLUR: "falls"}, "face_sharp": {_BLUR: "falls"},
    "psnr": {
        _BLUR: "falls", _IDENTITY: "falls", _LATE: "falls", _LAG: "falls", _TREMBLE: "falls", _DRIFT: "falls", _FLICKER: "falls",
    },
    "ssim": {_BLUR: "falls", _IDENTITY: "falls", _LATE: "falls", _LAG: "falls", _TREMBLE: "falls"},
    "flicker": {_FLICKER: "rises"}, "colour_flicker": {_FLICKER: "rises"}, "background": {_FLICKER: "rises", _DRIFT: "rises"},
    "colour_drift": {_DRIFT: "rises"},
    "identity": {_IDENTITY: "falls"}, "identity_match": {_IDENTITY: "falls"},
    "theval_lips": {_SCALED: "rises", _QUIVER: "rises"}, "theval_head": _HEAD, "theval_brows": {_BROWS: "falls"},
    "theval_silence": {_QUIVER: "rises"}, "theval_sync": {_LATE: "rises", _QUIVER: "rises"},
    "mesh_frechet": {_SCALED: "dips", _QUIVER: "rises", _FROZEN: "rises", _TREMBLE: "rises"},
}
"""Figure -> the damages that it is meant to see, and where its value goes along the amounts, declared before anything was
measured. "dips" and "peaks" are about the undamaged amount; figures that no damage is meant for are not here."""


def system(damage: Damage, amount: float) -> str:
    """What the videos of an amount are called."""
    return INTACT if amount == damage.intact else f"{damage.name} {amount:g}"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure along the amounts of a damage: means over the clips that all amounts could be judged on. ``clips``: their values;
    None for figures of a whole set. ``wanted``: where it is declared to go, if it is meant to see this."""

    figure: Described
    damage: Damage
    means: tuple[Interval, ...]
    clips: Float[np.ndarray, "n a"] | None
    wanted: Direction | None

    @property
    def shift(self) -> tuple[float, float]:
        """How far the smallest and the largest amount move the mean, in standard deviations of the undamaged clips; NaN if
        unknown, 0 for an amount that is the undamaged one."""
        if self.clips is None or len(self.clips) < 2:
            return float("nan"), float("nan")
        intact = self.clips[:, self.damage.amounts.index(self.damage.intact)]
        spread = max(float(intact.std()), 1e-9)
        return tuple(float((self.clips[:, i] - intact).mean()) / spread for i in (0, -1))  # type: ignore[return-value]


def curves(
    evaluation: Evaluation, damages: Sequence[Damage] = DAMAGES, sees: Mapping[str, Mapping[str, Direction]] = SEES
) -> list[Curve]:
    """Every figure along every damage, as far as it was measured."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    for row in evaluation.rows:
        for name, value in row.figures.items():
            values.setdefault((name, row.pair.system), {})[row.pair.name] = value
    found = []
    for figure in evaluation.figures:
        for damage in damages:
            wanted = sees.get(figure.name, {}).get(damage.name)
            each = [values.get((figure.name, system(damage, a)), {}) for a in damage.amounts]
            names = sorted(set.intersection(*(set(e) for e in each)))
            if names:
                clips = np.array([[e[n] for e in each] for n in names])
                means = tuple(bootstrap(column) for column in clips.T)
                found.append(Curve(figure=figure, damage=damage, means=means, clips=clips, wanted=wanted))
                continue
            whole = [evaluation.summary(system(damage, a), figure.name) for a in damage.amounts]
            if all(s is not None for s in whole):
                means = tuple(s.mean for s in whole if s is not None)
                found.append(Curve(figure=figure, damage=damage, means=means, clips=None, wanted=wanted))
    return found


Verdict = Literal["yes", "yes, but for noise", "weak", "no"]


def verdict(curve: Curve) -> Verdict:
    """Whether a curve goes where it is declared to go.

    "yes": every step of the mean does. "yes, but for noise": some step does not, but none whose paired interval over clips
    lies on the wrong side, and from end to end it surely does. "weak": no such step either, but from end to end it is not sure.
    "no": some step surely goes the wrong way, or it ends on the wrong side of where it began.
    """
    assert curve.wanted is not None, "nothing was declared"
    intact = curve.damage.amounts.index(curve.damage.intact)
    last = len(curve.damage.amounts) - 1
    runs: list[tuple[Sequence[int], float]]
    if curve.wanted in ("rises", "falls"):
        runs = [(range(last + 1), 1.0 if curve.wanted == "rises" else -1.0)]
    else:
        sign = 1.0 if curve.wanted == "dips" else -1.0
        runs = [(path, sign) for path in (range(intact, -1, -1), range(intact, last + 1)) if len(path) > 1]
    verdicts = [_along(curve, path, sign) for path, sign in runs]
    worst: tuple[Verdict, ...] = ("no", "weak", "yes, but for noise", "yes")
    return next(v for v in worst if v in verdicts)


def _along(curve: Curve, path: Sequence[int], sign: float) -> Verdict:
    """The verdict for a stretch of amounts along which the value should go up (sign 1) or down (-1)."""
    gaps = [_gap(curve, a, b, sign) for a, b in pairwise(path)]
    whole = _gap(curve, path[0], path[-1], sign)
    if any(gap.high < 0 for gap in gaps) or not whole.value > 0:
        return "no"
    if all(gap.value > 0 for gap in gaps):
        return "yes"
    return "yes, but for noise" if whole.low > 0 else "weak"


def _gap(curve: Curve, a: int, b: int, sign: float) -> Interval:
    """From amount a to b, up being good; of a whole set there is no interval, so a step is taken for what it is."""
    if curve.clips is not None:
        return difference(sign * curve.clips[:, b], sign * curve.clips[:, a])
    step = sign * (curve.means[b].value - curve.means[a].value)
    return Interval(value=step, low=step, high=step, count=1)
