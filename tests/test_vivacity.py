"""Lively voices move more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vivavoce import Animator, Audio
from vivavoce.generate import MotionGenerator
from vivavoce.latent.motion import POSE, Layout
from vivavoce.nets.vivacity import Vivacity
from vivavoce.speech.encoder import features
from vivavoce.train.data import Example
from vivavoce.train.vivacity import learn_vivacity

STREAMS, STRIDE = {"prosodic": 4}, 2
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


def factors(vivacity: Vivacity, example: Example) -> torch.Tensor:
    """After all of the speech."""
    assert example.speech is not None
    everywhere = torch.ones(len(example.speech), dtype=torch.bool)
    return vivacity(example.speech, everywhere, vivacity.start(), torch.zeros(len(LAYOUT.widths)))[0][-1].exp()


def test_a_new_voice_tells_how_much_its_head_moves_and_nothing_else() -> None:
    people = [talking(i, float(e)) for i, e in enumerate(torch.linspace(-1.5, 1.5, 60))]
    vivacity = learn_vivacity(people, STREAMS, STRIDE, LAYOUT)
    calm, average, lively = (factors(vivacity, talking(100 + i, e)) for i, e in enumerate((-1.5, 0.0, 1.5)))
    assert calm[HEAD] < 0.6 < 0.8 < average[HEAD] < 1.2 < 1.35 < lively[HEAD]
    for found in (calm, average, lively):
        others = torch.cat([found[:HEAD], found[HEAD + 1 :]])
        assert (others - 1).abs().max() < 0.15


def test_silent_faces_teach_nothing_about_voices() -> None:
    people = [talking(i, float(i % 3)) for i in range(12)]
    silent = replace(talking(50, 0.0), speech=None)
    with_silent, without = (learn_vivacity(e, STREAMS, STRIDE, LAYOUT) for e in ([*people, silent], people))
    assert torch.equal(with_silent.weight, without.weight)


def test_recordings_too_short_to_learn_from_are_refused() -> None:
    short = [replace(e, motion=e.motion[:40]) for e in (talking(0, 0.0), talking(1, 1.0))]
    with pytest.raises(ValueError, match="nobody talks for 2 seconds"):
        learn_vivacity(short, STREAMS, STRIDE, LAYOUT)


def test_pauses_tell_nothing_and_no_voice_tells_everything() -> None:
    vivacity, prior = Vivacity(torch.ones(2, 3), torch.zeros(3)), torch.tensor([0.3, -0.1])
    spoken = torch.tensor([False] * 50 + [True] * 3000 + [False] * 50)
    for voice, limit in ((100.0, Vivacity.liveliest), (-100.0, Vivacity.calmest)):
        told, _ = vivacity(torch.full((3100, 3), voice), spoken, vivacity.start(), prior)
        assert torch.equal(told[:50], prior.expand(50, 2))
        torch.testing.assert_close(told[-1], torch.full((2,), limit), rtol=0.0, atol=0.02)
        torch.testing.assert_close(told[-50:], told[-51:-50].expand(50, 2))


def test_a_voice_is_heard_alike_however_it_is_cut() -> None:
    vivacity = Vivacity(0.1 * torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(3))
    voice = torch.randn(400, 3, generator=torch.Generator().manual_seed(1)) + 1
    spoken, prior = voice[:, 0] > 0, torch.zeros(2)
    whole, _ = vivacity(voice, spoken, vivacity.start(), prior)
    memory, parts, first = vivacity.start(), [], 0
    for size in (1, 0, 130, 7, 262):
        part, memory = vivacity(voice[first : first + size], spoken[first : first + size], memory, prior)
        parts.append(part)
        first += size
    assert torch.equal(torch.cat(parts), whole)


def excited(generator: MotionGenerator, voice: float | None) -> MotionGenerator:
    """The same with a head that any voice makes as lively as it gets (``voice`` 1), as calm (-1) or neither (0, None)."""
    vivacity = None
    if voice is not None:
        weight = torch.zeros(len(generator.layout.widths), sum(generator.net.config.levels.streams.values()))
        weight[list(generator.layout.widths).index("rotation")] = voice
        vivacity = Vivacity(weight, torch.full((weight.shape[1],), -1000.0))
    return MotionGenerator(
        generator.net, generator.layout, replace(generator.windows, inertia={}), mean=generator.mean, std=generator.std,
        style=generator.style, silence=generator.silence, vivacity=vivacity, metadata=generator.metadata,
    )


def test_the_generator_moves_the_fields_it_is_told_to(animator: Animator, sentence: Audio) -> None:
    speech = features(animator.encoder, sentence.mono().samples[0]).values

    def motion(voice: float | None) -> dict[str, torch.Tensor]:
        generator = excited(animator.generator, voice)
        return vars(generator.layout.unpack(generator.samples(speech, [0])[0] - generator.mean))

    plain, average, lively, calm = motion(None), motion(0.0), motion(1.0), motion(-1.0)
    for name, values in average.items():
        unheard = Vivacity.unknown_head if name in POSE else Vivacity.unknown
        torch.testing.assert_close(values[0], torch.e**unheard * plain[name][0])
        nearly = torch.e ** (0.25 * unheard)  # an average voice, once it was heard
        assert (values[-1].abs() > nearly * plain[name][-1].abs() - 1e-4).all()
        assert (values[-1].abs() < plain[name][-1].abs() + 1e-4).all()
        if name != "rotation":
            torch.testing.assert_close(lively[name], values)
    more, less = ((m["rotation"] / average["rotation"])[-1].log() for m in (lively, calm))
    assert 0.7 * Vivacity.liveliest < more.min()
    assert more.max() < Vivacity.liveliest + 1e-3
    assert less.max() < 0.7 * Vivacity.calmest


def test_segments_do_not_amplify_each_other(animator: Animator, sentence: Audio) -> None:
    """A state that is resumed holds the motion as the network made it, and goes on as lively as it was."""
    generator = excited(animator.generator, 1.0)
    speech = features(animator.encoder, sentence.mono().samples[0]).values
    motion, state = generator.step(speech, generator.start(), seed=0)
    resumed = generator.resume(motion, motion.shape[1], state)
    assert resumed.calm.exp().max() > 1.2
    torch.testing.assert_close(resumed.calm, state.lively[0])
    torch.testing.assert_close(resumed.lively[0], state.lively[0])
    # Each frame was made with a factor of its own, by the end all near the last one's.
    torch.testing.assert_close(resumed.prefix[:, -5:], state.prefix[:, -5:], rtol=0.05, atol=1e-4)


def test_vivacity_is_saved(animator: Animator, tmp_path: Path) -> None:
    old = animator.generator
    assert old.vivacity is not None
    old.save(tmp_path / "motion.safetensors", {})
    new = MotionGenerator.load(tmp_path / "motion.safetensors").vivacity
    assert new is not None
    assert torch.equal(new.weight, old.vivacity.weight)
    assert torch.equal(new.mean, old.vivacity.mean)
