"""Lips that speech alone makes one expect, learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_train import quiet, toy_examples

from vivavoce import Animator
from vivavoce.latent.closure import lip_directions
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import Layout
from vivavoce.latent.topology import INNER_LOWER, INNER_UPPER
from vivavoce.metrics.lips import correlation
from vivavoce.nets.expectation import LipExpectation
from vivavoce.nets.levels import LevelsConfig
from vivavoce.speech.analysis import Analysis
from vivavoce.train.data import Example
from vivavoce.train.expectation import ExpectationRecipe, learn_expectation, unfollowed
from vivavoce.train.windows import Stretches, at_tempo

LEVELS = LevelsConfig(streams=dict(Analysis().spec.streams), listen=("acoustic", "prosodic"))
SILENCE = torch.zeros(sum(LEVELS.streams.values()))
QUICK = ExpectationRecipe(steps=40, batch=8, frames=30, warmup=5, members=2, width=32)


@pytest.fixture(scope="module")
def model(animator: Animator) -> FaceModel:
    return animator.space.model


def learned(
    model: FaceModel, out: Path, examples: list[Example], recipe: ExpectationRecipe = QUICK, **how: object
) -> LipExpectation:
    out.mkdir(exist_ok=True)
    settings = {"person_power": 0.4, "seed": 0, "out": out, "progress": quiet, **how}
    return learn_expectation(recipe, examples, LEVELS, model, SILENCE, **settings)  # type: ignore[arg-type]


def test_following_is_measured_without_place_size_or_speaker() -> None:
    recorded = torch.randn(5, 40, 2, generator=torch.Generator().manual_seed(0))
    assert unfollowed(3 * recorded + 7, recorded).mean() < 0.06  # 1 / 21 is kept back from everybody
    assert unfollowed(-recorded, recorded).mean() > 1.94
    other = torch.randn(5, 40, 2, generator=torch.Generator().manual_seed(1))
    assert 0.7 < unfollowed(other, recorded).mean() < 1.3
    assert torch.isfinite(unfollowed(torch.zeros_like(recorded), recorded)).all()


def test_opening_and_width_are_linear_in_motion(model: FaceModel) -> None:
    layout, directions = Layout.of(model.widths()), lip_directions(model)
    lips = layout.widths["lips_jaw"]
    coefficients = torch.randn(6, layout.width, generator=torch.Generator().manual_seed(0))
    fields = {name: values.double().numpy() for name, values in layout.unpack(coefficients).expression().items()}
    still = {**fields, "lips_jaw": 0 * fields["lips_jaw"]}
    moved = torch.from_numpy(model.displacement(fields) - model.displacement(still)).float()
    torch.testing.assert_close(coefficients @ directions[1], moved[:, 291, 0] - moved[:, 61, 0], atol=1e-4, rtol=1e-3)
    gap = (moved[:, INNER_LOWER[2:7], 1] - moved[:, INNER_UPPER[2:7], 1]).mean(1)
    torch.testing.assert_close(coefficients @ directions[0], gap, atol=1e-4, rtol=1e-3)
    assert not directions[:, lips:].any()


def test_levels_that_hear_too_little_are_refused_before_anything_is_learned(model: FaceModel, tmp_path: Path) -> None:
    near = LevelsConfig(streams=LEVELS.streams, listen=LEVELS.listen, widths=((7, 1),))
    with pytest.raises(ValueError, match="give wider levels"):
        learn_expectation(
            QUICK, toy_examples(model), near, model, SILENCE, person_power=0.4, seed=0, out=tmp_path, progress=quiet
        )
    assert not list(tmp_path.iterdir())


def test_it_learns_to_follow_people_it_never_heard_and_to_open_as_far_as_they_do(model: FaceModel, tmp_path: Path) -> None:
    examples = toy_examples(model, 9)
    known, unknown = examples[:8], [replace(examples[8], person="somebody else")]
    net = learned(model, tmp_path, known, replace(QUICK, steps=120))
    stretches = Stretches([*known, *unknown], LEVELS, SILENCE, 0.4)

    def curves(example: Example) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            found = net(stretches.around(example, 0, len(example.motion))[None], len(example.motion))[0] + net.level
        return found, example.motion @ net.directions.T

    found, recorded = curves(unknown[0])
    assert correlation(found[:, 0].numpy(), recorded[:, 0].numpy()) > 0.6
    ours, theirs = (torch.cat(parts) for parts in zip(*map(curves, known), strict=True))
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.1 * float(theirs.std()), rtol=0)
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0, rtol=0.1)


def test_an_interrupted_run_gives_the_weights_of_an_unbroken_one(model: FaceModel, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(_: str, step: int, __: int) -> None:
        if step == 55:
            raise Stopped

    examples, recipe = toy_examples(model), replace(QUICK, steps=60, batch=2)
    unbroken = learned(model, tmp_path / "a", examples, recipe).state_dict()
    with pytest.raises(Stopped):
        learned(model, tmp_path / "b", examples, recipe, progress=stop)
    begun: list[int] = []
    resumed = learned(model, tmp_path / "b", examples, recipe, progress=lambda _, step, __: begun.append(step)).state_dict()
    assert begun[0] == 51
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)
    other = learned(model, tmp_path / "c", examples, recipe, seed=1).state_dict()
    assert not torch.equal(unbroken["inward"], other["inward"])


def test_who_never_talks_teaches_nothing(model: FaceModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nobody talks for 0\.5 seconds"):
        learned(model, tmp_path, [replace(example, speech=None) for example in toy_examples(model)])


def test_a_tempo_stretches_motion_and_sound_alike(model: FaceModel) -> None:
    (example,) = toy_examples(model, 1)
    stretches = Stretches([example], LEVELS, SILENCE, 0.4)
    values = torch.arange(20.0)[:, None]
    torch.testing.assert_close(at_tempo(values, torch.tensor([0.0, 0.5, 7.25])), torch.tensor([[0.0], [0.5], [7.25]]))
    plain, fast = stretches.around(example, 10, 21), stretches.around(example, 10, 11, 2.0)
    own = LEVELS.history  # the first frame's
    torch.testing.assert_close(fast[own : own + 21], plain[own : own + 42 : 2])
