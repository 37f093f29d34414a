"""Controlled damage does what it says and nothing else; curves are judged by what was declared of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from vivavoce import Animator
from vivavoce.judge.figures import FIGURES, Figure
from vivavoce.judge.pairs import Pair
from vivavoce.judge.results import Evaluation, Row, Summary
from vivavoce.judge.synced import sync_figures
from vivavoce.latent.mesh import eye_opening, face_height, lip_opening
from vivavoce.latent.motion import MOTION_RATE_HZ, Motion
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.retarget import landmarks_of, motion_of, rest_of_picture
from vivavoce.latent.topology import SKIN
from vivavoce.metrics.confidence import Interval
from vivavoce.metrics.lips import best_lag, correlation
from vivavoce.metrics.pictures import colour_drift
from vivavoce.train.damage import DAMAGES, Damage, Scene, blended, damaged, noise_of, similarity, undamaged
from vivavoce.train.data import Clip
from vivavoce.train.response import INTACT, SEES, Curve, curves, system, verdict
from vivavoce.train.takes import Take, TakeConfig, portrait_frame, recorded_motion
from vivavoce.train.validation import document, picked, plot_curves, plot_map

FRAMES = 80
BY_NAME = {damage.name: damage for damage in DAMAGES}


@pytest.fixture(scope="module")
def take(small: Reference, animator: Animator) -> Take:
    """The portrait, recorded while it speaks, nods and blinks."""
    space = animator.space
    time = np.arange(FRAMES) / MOTION_RATE_HZ
    packed = torch.zeros(FRAMES, space.layout.width)
    motion = space.layout.unpack(packed)
    opening = torch.from_numpy(1 + np.sin(11 * time) * np.sin(3.1 * time + 1)).float()
    motion = replace(
        motion, lips_jaw=opening[:, None] * torch.eye(motion.lips_jaw.shape[-1])[0] * 1.5,
        cheeks_brows=motion.cheeks_brows + torch.from_numpy(np.sin(2 * time)).float()[:, None],
        rotation=torch.from_numpy(0.05 * np.stack([np.sin(3 * time), np.sin(2 * time + 1), np.sin(time)], 1)).float(),
    )
    shut = np.zeros(FRAMES)
    shut[30:36] = [0.4, 0.9, 1, 0.8, 0.5, 0.2]
    motion = space.with_blinks(motion, shut, small.lids)
    points = landmarks_of(motion, small.rest, space.model)
    rest = rest_of_picture(points[0], space.model)
    return Take(
        name="a", person="p", portrait=Path("a.png"), recording=Path("a.mp4"), sound=torch.zeros(FRAMES * 640), words=None,
        points=points, rest=rest, reference=small,
    )


def openings(take: Take, animator: Animator, motion: Motion) -> np.ndarray:
    return lip_opening(landmarks_of(motion, take.rest, animator.space.model))


def apply(take: Take, animator: Animator, name: str, amount: float) -> Motion:
    damage = BY_NAME[name]
    assert damage.motion is not None
    noise = torch.randn(FRAMES, animator.space.layout.width, generator=torch.Generator().manual_seed(0))
    return damage.motion(recorded_motion(take, animator.space), amount, noise, eye_opening(take.points))


@pytest.fixture(scope="module")
def scene(take: Take, animator: Animator) -> Scene:
    """Some frames of it, and the mirrored frames as another person's."""
    few = replace(take, points=take.points[:6], sound=take.sound[: 6 * 640])
    made = undamaged(few, animator.space, few, "x")
    width = made.frames[0].shape[1]
    mirrored = made.points * np.array([-1.0, 1.0, 1.0]) + np.array([width - 1.0, 0.0, 0.0])
    return replace(made, other=lambda: ([np.ascontiguousarray(f[:, ::-1]) for f in made.frames], mirrored))


def pictures(scene: Scene, name: str, amount: float) -> np.ndarray:
    damage = BY_NAME[name]
    assert damage.pictures is not None
    return np.stack(list(damage.pictures(scene, amount))).astype(float)


def test_the_undamaged_amount_changes_nothing(take: Take, animator: Animator, scene: Scene) -> None:
    before = vars(recorded_motion(take, animator.space))
    for damage in DAMAGES:
        if damage.motion is not None:
            after = vars(apply(take, animator, damage.name, damage.intact))
            assert all(torch.allclose(before[field], after[field], atol=1e-6) for field in before), damage.name
        else:
            assert np.array_equal(pictures(scene, damage.name, damage.intact), np.stack(scene.frames)), damage.name


def test_a_damage_touches_its_own_fields_only(take: Take, animator: Animator) -> None:
    own = {
        "lips late": {"lips_jaw"}, "lips scaled": {"lips_jaw"}, "lips quiver": {"lips_jaw"}, "lids frozen": {"eyelids"},
        "head frozen": {"rotation", "translation", "log_scale"}, "head trembles": {"rotation"}, "brows frozen": {"cheeks_brows"},
        "head late": {"rotation", "translation", "log_scale"},
    }
    before = vars(recorded_motion(take, animator.space))
    for name, fields in own.items():
        after = vars(apply(take, animator, name, BY_NAME[name].amounts[-1]))
        assert {field for field in before if not torch.equal(before[field], after[field])} == fields, name
    assert set(own) == {d.name for d in DAMAGES if d.motion is not None}


@pytest.mark.parametrize("frames", [1, 2, 4, 7])
def test_delay_moves_the_best_lag_by_as_much(take: Take, animator: Animator, frames: int) -> None:
    real = openings(take, animator, recorded_motion(take, animator.space))
    late = openings(take, animator, apply(take, animator, "lips late", frames / MOTION_RATE_HZ))
    assert best_lag(late, real) == frames
    assert torch.allclose(
        apply(take, animator, "head late", frames / MOTION_RATE_HZ).rotation[frames:],
        recorded_motion(take, animator.space).rotation[:-frames], atol=1e-6,
    )
    half = apply(take, animator, "lips late", 0.5 / MOTION_RATE_HZ).lips_jaw
    whole = recorded_motion(take, animator.space).lips_jaw
    assert torch.allclose(half[1:], (whole[1:] + whole[:-1]) / 2, atol=1e-5), "between two frames"


def test_scaling_by_nothing_closes_the_lips(take: Take, animator: Animator) -> None:
    spread = [openings(take, animator, apply(take, animator, "lips scaled", a)).std() for a in BY_NAME["lips scaled"].amounts]
    assert spread == sorted(spread)
    shut = openings(take, animator, apply(take, animator, "lips scaled", 0))
    assert shut.max() < 0.02, "face heights"
    assert np.ptp(shut) < 1e-3


def test_a_frozen_head_does_not_move(take: Take, animator: Animator) -> None:
    moving = recorded_motion(take, animator.space).rotation
    for share in BY_NAME["head frozen"].amounts:
        assert torch.allclose(apply(take, animator, "head frozen", share).rotation, (1 - share) * moving, atol=1e-6)
    still = apply(take, animator, "head frozen", 1)
    assert not any(v.any() for v in (still.rotation, still.translation, still.log_scale))


def test_noise_is_as_large_as_it_says(take: Take, animator: Animator) -> None:
    before = recorded_motion(take, animator.space)
    added = apply(take, animator, "head trembles", 0.5).rotation - before.rotation
    assert np.degrees(added.std().item()) == pytest.approx(0.5, rel=0.15)
    assert (apply(take, animator, "lips quiver", 0.25).lips_jaw - before.lips_jaw).std().item() == pytest.approx(0.25, rel=0.15)
    twice = [noise_of("a", "flicker").standard_normal(3) for _ in range(2)]
    assert np.array_equal(*twice)
    assert not np.array_equal(twice[0], noise_of("b", "flicker").standard_normal(3))


def test_frozen_lids_do_not_blink(take: Take, animator: Animator) -> None:
    lowest = [
        eye_opening(landmarks_of(apply(take, animator, "lids frozen", share), take.rest, animator.space.model)).min()
        for share in (0, 0.5, 1)
    ]
    assert lowest[0] < 0.3 * lowest[2]
    assert lowest[0] < lowest[1] < lowest[2]


def test_frozen_brows_stay_on_average_where_they_were(take: Take, animator: Animator) -> None:
    before, after = recorded_motion(take, animator.space).cheeks_brows, apply(take, animator, "brows frozen", 1).cheeks_brows
    assert torch.allclose(after, before.mean(0).expand_as(after), atol=1e-5)


def test_the_recorded_motion_is_relative_to_the_portrait(take: Take, animator: Animator) -> None:
    """On the rest it came from it gives the recording back, as far as the face model can express it."""
    motion = motion_of(take.points, take.rest, animator.space.model)
    back = landmarks_of(motion, take.rest, animator.space.model)
    apart = np.linalg.norm(back - take.points, axis=-1)[:, :SKIN] / face_height(take.points).mean()
    assert apart.mean() < 0.005, "face heights"
    assert correlation(lip_opening(back), lip_opening(take.points)) > 0.97


def test_blur_takes_detail_away(scene: Scene) -> None:
    detail = [np.abs(np.diff(pictures(scene, "blur", a), axis=2)).mean() for a in BY_NAME["blur"].amounts]
    assert all(a > b for a, b in pairwise(detail)), detail


def test_colours_drift_as_fast_as_it_says() -> None:
    grey = [np.full((8, 8, 3), 128, np.uint8)] * 100
    scene = Scene(frames=grey, points=np.zeros((100, 478, 3)), noise=np.zeros(100), other=lambda: ([], np.zeros((0, 478, 3))))
    drifted = pictures(scene, "colours drift", 4.0).mean((1, 2))
    assert colour_drift(drifted, MOTION_RATE_HZ).levels_per_minute == pytest.approx(4 * 60 * np.sqrt(2), rel=0.02)
    assert (np.diff(drifted[:, 0]) >= 0).all()
    assert np.array_equal(drifted[:, 1], np.full(100, 128.0))


def test_flicker_is_as_strong_as_it_says() -> None:
    noise = noise_of("a", "b").standard_normal(200)
    scene = Scene(
        frames=[np.full((4, 4, 3), 128, np.uint8)] * 200, points=np.zeros((200, 478, 3)), noise=noise,
        other=lambda: ([], np.zeros((0, 478, 3))),
    )
    assert pictures(scene, "flicker", 2.0)[:, 0, 0, 0].std() == pytest.approx(2 * noise.std(), rel=0.05)


def test_blending_replaces_the_face_and_nothing_else(scene: Scene) -> None:
    others, theirs = scene.other()
    shares = [pictures(scene, "identity", a) for a in (0, 0.3, 0.6, 1)]
    steps = [np.abs(b - shares[0]).mean() for b in shares]
    assert steps == sorted(steps)
    assert np.abs(shares[1] - (0.7 * shares[0] + 0.3 * shares[3])).max() <= 1.01, "linear in the share, up to rounding"
    changed = (shares[3] != shares[0]).any(-1)[0]
    ys, xs = np.nonzero(changed)
    box = scene.points[0][:SKIN, :2]
    margin = 0.4 * face_height(scene.points[0])
    assert (xs > box[:, 0].min() - margin).all()
    assert (ys < box[:, 1].max() + margin).all()
    itself = replace(scene, other=lambda: (scene.frames, scene.points))
    assert np.abs(np.stack(list(blended(itself, 1.0))).astype(float) - shares[0]).max() <= 1
    assert len(others) == len(theirs) == len(scene.frames)


def test_a_similarity_is_recovered() -> None:
    points = np.random.default_rng(0).normal(size=(20, 2))
    turn, size, shift = 0.4, 1.7, np.array([3.0, -2.0])
    matrix = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    assert np.allclose(similarity(points, points @ matrix.T + shift), np.column_stack([matrix, shift]))


def test_damage_is_drawn_and_repeats(take: Take, animator: Animator) -> None:
    short = replace(take, points=take.points[:4], sound=take.sound[: 4 * 640])
    for name in ("lips quiver", "flicker"):
        once, again = (list(damaged(short, BY_NAME[name], 1.0, animator.space, short)) for _ in range(2))
        assert len(once) == 4
        assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True)), name
        assert any(not np.array_equal(a, once[0]) for a in once)


def test_the_portrait_is_the_frame_with_closed_lips_and_open_eyes(take: Take) -> None:
    light = np.full(FRAMES, 100.0)
    found = portrait_frame(take.points, light)
    assert eye_opening(take.points)[found] > 0.85 * np.median(eye_opening(take.points))
    assert lip_opening(take.points)[found] <= np.percentile(lip_opening(take.points), 40)
    light[found] = 160
    assert portrait_frame(take.points, light) != found


# --- Curves and verdicts -------------------------------------------------------------------------------------------------------


def figure(name: str) -> Figure:
    return Figure(name=name, title=name, topic="t", unit="u", better="higher", what="|w|", measure=lambda _: float("nan"))


DAMAGE = Damage(name="d", says="", unit="", amounts=(0, 1, 2, 3), motion=lambda motion, *_: motion)
NOISE = np.random.default_rng(0).normal(size=(12, 4))


def curve(clips: np.ndarray, wanted: str, damage: Damage = DAMAGE) -> Curve:
    means = tuple(Interval(value=v, low=v, high=v, count=len(clips)) for v in clips.mean(0))
    return Curve(figure=figure("f"), damage=damage, means=means, clips=clips, wanted=wanted)  # type: ignore[arg-type]


def test_verdicts_tell_right_from_wrong_and_noise() -> None:
    rising = np.arange(4.0) + 0.1 * NOISE
    assert verdict(curve(rising, "rises")) == "yes"
    assert verdict(curve(rising, "falls")) == "no"
    assert verdict(curve(-rising, "falls")) == "yes"
    assert verdict(curve(np.array([0, 2, 1, 3]) + 0.1 * NOISE, "rises")) == "no", "one step surely goes back"
    noisy = np.array([0.0, 1.0, 1.0, 1.0]) + 0.5 * NOISE
    noisy[:, 2] = noisy[:, 1] + 0.3 * (NOISE[:, 2] - NOISE[:, 2].mean()) - 0.01  # back by a hair, by chance
    noisy[:, 3] = noisy[:, 2] + 0.5
    assert verdict(curve(noisy, "rises")) == "yes, but for noise"
    flat = NOISE - NOISE.mean(0) + np.array([0.0, 0.02, 0.01, 0.03])
    assert verdict(curve(flat, "rises")) == "weak"
    assert verdict(curve(np.zeros((12, 4)), "rises")) == "no", "what does not move does not see"


def test_a_dip_is_judged_from_its_middle() -> None:
    middle = replace(DAMAGE, amounts=(0, 0.5, 1, 2), intact=1)
    dipping = np.array([2.0, 1.0, 0.0, 3.0]) + 0.1 * NOISE
    assert verdict(curve(dipping, "dips", middle)) == "yes"
    assert verdict(curve(-dipping, "peaks", middle)) == "yes"
    assert verdict(curve(dipping, "peaks", middle)) == "no"
    assert verdict(curve(np.array([2.0, 3.0, 0.0, 3.0]) + 0.1 * NOISE, "dips", middle)) == "no"


def evaluation_of(values: np.ndarray, whole: tuple[float, ...] = ()) -> Evaluation:
    """The figure "f" of the clips (rows) along DAMAGE's amounts, and "set" of whole sets; NaN is missing."""
    names = [system(DAMAGE, a) for a in DAMAGE.amounts]
    rows = tuple(
        Row(pair=Pair(name=str(i), generated=Path("v"), system=name), figures={} if np.isnan(v) else {"f": float(v)})
        for i, each in enumerate(values) for name, v in zip(names, each, strict=True)
    )
    summaries = tuple(
        Summary(
            system=name, group="all", figure="set", mean=Interval(value=v, low=v, high=v, count=3), median=None, real=None,
            reward=False,
        ) for name, v in zip(names, whole, strict=False)
    )
    return Evaluation(
        figures=(figure("f"), figure("set"), figure("none")), systems=tuple(names), groups=("all",), rows=rows,
        summaries=summaries, differences=(),
    )


def test_curves_are_of_the_clips_that_all_amounts_have() -> None:
    values = np.array([[0.0, 1, 2, 3], [1, 2, 3, 4], [9, 9, np.nan, 9]])
    found = {c.figure.name: c for c in curves(evaluation_of(values, (4.0, 3.0, 2.0, 1.0)), [DAMAGE], {"f": {"d": "rises"}})}
    assert set(found) == {"f", "set"}
    assert [m.value for m in found["f"].means] == [0.5, 1.5, 2.5, 3.5]
    assert found["f"].shift == (0.0, 6.0), "three units, the undamaged clips' deviation being half a one"
    assert found["set"].clips is None
    assert verdict(replace(found["set"], wanted="falls")) == "yes"
    assert verdict(replace(found["set"], wanted="rises")) == "no"
    assert found["f"].wanted == "rises"
    assert system(DAMAGE, 0) == INTACT
    assert system(DAMAGE, 2) == "d 2"


def test_what_is_declared_exists() -> None:
    whole_set = {"mesh_frechet"}
    assert set(SEES) <= {f.name for f in (*FIGURES, *sync_figures(None))} | whole_set
    assert {name for seen in SEES.values() for name in seen} == set(BY_NAME), "every damage is meant for some figure"


def test_the_document_says_what_was_found(tmp_path: Path, take: Take) -> None:
    late = BY_NAME["lips late"]
    rising = np.arange(5.0) + 0.01 * np.random.default_rng(0).normal(size=(5, 5))
    names = ("lip_lag_ms", "lip_corr", "face_found")
    found = [
        Curve(
            figure=figure(name), damage=late, clips=rising, wanted=SEES.get(name, {}).get(late.name),
            means=tuple(Interval(value=v, low=v - 1, high=v + 1, count=5) for v in rising.mean(0)),
        ) for name in names
    ]
    text = document(found, [figure(n) for n in (*names, "other")], [take], TakeConfig())
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if "| lips late |" in line}
    assert rows["lip_lag_ms"].endswith("| yes |")
    assert rows["lip_corr"].endswith("| no |")
    assert "| lip_corr | u | higher | \\|w\\| | judge.py |" in text, "a bar in a text ends no cell"
    assert "No damage here is meant for face_found." in text
    assert "Not measured on these recordings: other." in text
    for plot in (plot_curves, plot_map):
        plot(found, tmp_path / "p.png")
        assert (tmp_path / "p.png").stat().st_size > 5000
        (tmp_path / "p.png").unlink()


def test_long_recordings_are_damaged_and_some_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    length = {"a0": 3, "a1": 9, "b0": 4, "c0": 20, "grid0": 3, "grid1": 3, "grid2": 3}
    monkeypatch.setattr("vivavoce.train.validation.video_seconds", lambda path: length[path.stem])
    clips = [Clip(path=Path(f"{n}.mp4"), split="val", person=n.rstrip("0123456789"), talks=True) for n in length]
    assert [c.name for c in picked(clips, TakeConfig(seconds=6, people=2))] == ["a1", "c0", "grid0", "grid1"]
    assert [c.name for c in picked(clips, TakeConfig(seconds=3.5, people=2))] == ["a1", "c0", "grid0", "grid1"]
    assert [c.name for c in picked(clips, TakeConfig(seconds=4, people=3))] == ["a1", "b0", "c0", "grid0", "grid1"]
