"""Lively voices move more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vivavoce import Animator, Audio
from vivavoce.generate import MotionGenerator
from vivavoce.latent.motion import Layout
from vivavoce.nets.hearing import hear_all
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.vivacity import Vivacity, utterance_means
from vivavoce.speech.encoder import features
from vivavoce.train.data import Example
from vivavoce.train.vivacity import learn_vivacity

LEVELS = LevelsConfig(streams={"prosodic": 4}, listen=("prosodic",))
LAYOUT = Layout.of({"lips_jaw": 2, "cheeks_brows": 2, "eyelids": 1})
HEAD = list(LAYOUT.widths).index("rotation")


def talking(person: int, excitement: float) -> Example:
    """Somebody whose voice has the excitement in one number, and whose head alone shows it."""
    generator = torch.Generator().manual_seed(person)
    speech = torch.randn(300, 4, generator=generator)
    speech[:, 2] += excitement
    motion = torch.randn(150, LAYOUT.width, generator=generator)
    scale = LAYOUT.spread({name: 2.0**excitement if name == "rotation" else 1.0 for name in LAYOUT.widths})
    return Example(person=f"p{person}", clip=f"c{person}", motion=scale * motion, speech=speech, first=0, style=torch.zeros(3))


def told(vivacity: Vivacity, example: Example) -> torch.Tensor:
    assert example.speech is not None
    return vivacity(utterance_means(hear_all(example.speech, LEVELS), LEVELS)[-1:], torch.tensor([10_000]))[0]


def test_a_new_voice_tells_how_much_its_head_moves_and_nothing_else() -> None:
    people = [talking(i, float(e)) for i, e in enumerate(torch.linspace(-1.5, 1.5, 60))]
    vivacity = learn_vivacity(people, LEVELS, LAYOUT)
    calm, average, lively = (told(vivacity, talking(100 + i, e)) for i, e in enumerate((-1.5, 0.0, 1.5)))
    assert calm[HEAD] < 0.6 < 0.8 < average[HEAD] < 1.2 < 1.6 < lively[HEAD]
    for factors in (calm, average, lively):
        others = torch.cat([factors[:HEAD], factors[HEAD + 1 :]])
        assert (others - 1).abs().max() < 0.15


def test_silent_faces_teach_nothing_about_voices() -> None:
    people = [talking(i, float(i % 3)) for i in range(12)]
    silent = replace(talking(50, 0.0), speech=None)
    with_silent, without = (learn_vivacity(e, LEVELS, LAYOUT) for e in ([*people, silent], people))
    assert torch.equal(with_silent.weight, without.weight)


def test_nothing_heard_tells_nothing_and_no_voice_tells_everything() -> None:
    vivacity = Vivacity(torch.ones(2, 3), torch.zeros(3))
    loud = torch.full((3, 3), 100.0)
    factors = vivacity(loud, torch.tensor([-5, 0, 100_000]))
    assert torch.equal(factors[:2], torch.ones(2, 2))
    assert factors.max() == pytest.approx(torch.e**Vivacity.limit, rel=1e-3)


def test_levels_without_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="no utterance"):
        utterance_means(torch.zeros(5, 4), replace(LEVELS, memory=None))


def test_the_generator_moves_the_fields_it_is_told_to(animator: Animator, sentence: Audio) -> None:
    old = animator.generator
    speech = features(animator.encoder, sentence.mono().samples[0]).values

    def motion(weight: torch.Tensor | None) -> dict[str, torch.Tensor]:
        vivacity = None if weight is None else Vivacity(weight, torch.zeros(weight.shape[1]))
        generator = MotionGenerator(
            old.net, old.layout, replace(old.windows, inertia={}), mean=old.mean, std=old.std, style=old.style,
            silence=old.silence, vivacity=vivacity,
        )
        return vars(old.layout.unpack(generator.samples(speech, [0])[0] - old.mean))

    nothing = torch.zeros(len(old.layout.widths), old.net.config.levels.heard // 2)
    excited = nothing.clone()
    excited[list(old.layout.widths).index("rotation")] = 100.0  # whatever is heard, it is far beyond the limit
    plain, same, lively = motion(None), motion(nothing), motion(excited)
    for name, values in plain.items():
        torch.testing.assert_close(same[name], values)
        if name != "rotation":
            torch.testing.assert_close(lively[name], values)
    ratio = (lively["rotation"] / plain["rotation"]).log().abs()
    assert ratio[0].max() < ratio[-1].min()
    assert ratio[-1].max() == pytest.approx(Vivacity.limit, abs=0.3)
