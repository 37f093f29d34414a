"""Lips that meet on p, b and m."""

from __future__ import annotations

import numpy as np
import torch

from vivavoce import Animator, Audio
from vivavoce.generate import MotionGenerator
from vivavoce.latent.closure import LEAD, PAUSE, SETTLING, TRAIL, LipClosure, demanded
from vivavoce.latent.mesh import FaceModel, lip_opening
from vivavoce.latent.motion import Layout
from vivavoce.speech.encoder import features
from vivavoce.speech.phones import VISEMES
from vivavoce.speech.streams import VISEME_STREAM, said


def opening(model: FaceModel, packed: torch.Tensor) -> np.ndarray:
    motion = Layout.of(model.widths()).unpack(packed)
    return lip_opening(model.mean + model.displacement({r: v.numpy() for r, v in motion.expression().items()}))


def open_mouths(model: FaceModel) -> torch.Tensor:
    """Frames whose lips are apart, in ways that faces have."""
    packed = torch.randn(300, Layout.of(model.widths()).width, generator=torch.Generator().manual_seed(0))
    return packed[packed @ LipClosure.of(model).across > 0.06]


def test_open_lips_meet_and_nothing_but_lips_moves(animator: Animator) -> None:
    model, layout = animator.space.model, animator.space.layout
    closure, before = LipClosure.of(model), open_mouths(model)
    after, halfway = closure(before, torch.ones(len(before))), closure(before, torch.full((len(before),), 0.5))
    assert np.percentile(opening(model, after), 90) < 0.03 < 0.06 < opening(model, before).min()
    assert (opening(model, halfway) < opening(model, before)).all()
    moved = (after - before).abs().amax(0) > 0
    lips = layout.spread({name: float(name == "lips_jaw") for name in layout.widths}) > 0
    assert not moved[~lips].any()
    assert torch.equal(closure(before, torch.zeros(len(before))), before)


def test_closed_lips_stay(animator: Animator) -> None:
    closure = LipClosure.of(animator.space.model)
    pressed = -closure.across[None] / closure.across.square().sum() * 0.01
    assert torch.equal(closure(pressed, torch.ones(1)), pressed)


def around(frames: int, stride: int = 2) -> torch.Tensor:
    return torch.zeros(TRAIL + stride * (frames - 1) + 1 + LEAD)


def test_a_bilabial_shuts_the_frames_around_it() -> None:
    bilabial, silence = around(10), around(10)
    bilabial[TRAIL + 2 * 5] = 1.0  # the own feature of frame 5
    amount = demanded(bilabial, silence, 2)
    assert len(amount) == 10
    assert amount.nonzero().flatten().tolist() == [4, 5]  # and the frame before: the lips are there first


def test_lips_come_to_rest_in_a_long_silence_and_wake_before_the_sound() -> None:
    silence = around(60)
    silence[TRAIL + 20 : TRAIL + 90] = 0.9
    amount = demanded(around(60), silence, 2)
    first, last = 20 + PAUSE - 1, 89 - LEAD  # features
    assert not amount[: first // 2].any()
    assert (amount.diff()[: last // 2] >= 0).all()
    assert (amount[(first + SETTLING) // 2 + 1 : last // 2] == 1).all()
    assert not amount[last // 2 + 1 :].any()
    pause = around(60)
    pause[TRAIL + 20 : TRAIL + 20 + PAUSE] = 0.9
    assert not demanded(around(60), pause, 2).any()


def test_the_sound_shuts_the_lips_of_what_is_generated(animator: Animator, sentence: Audio) -> None:
    """On the frames that the phones demand, and on those only; whatever else the network makes stays as it is."""
    generator = animator.generator
    assert generator.closure is not None
    sound = sentence.samples[0]
    values = features(animator.encoder, torch.nn.functional.interpolate(
        sound[None, None], scale_factor=animator.encoder.spec.sample_rate_hz / sentence.rate, mode="linear")[0, 0]).values
    parts = {
        "mean": generator.mean, "std": generator.std, "style": generator.style, "silence": generator.silence,
        "vivacity": generator.vivacity, "lips": generator.lips,
    }
    without = MotionGenerator(generator.net, generator.layout, generator.windows, **parts)
    shut, free = (g.samples(values, [0])[0] for g in (generator, without))
    streams = generator.net.config.levels.streams
    after = said(generator.silence, streams).expand(LEAD + 2, -1)  # silence follows
    visemes = torch.cat([torch.zeros(TRAIL, len(VISEMES)), said(values[0], streams), after])
    amount = demanded(visemes[:, VISEMES.index("PBM")], visemes[:, VISEMES.index("sil")], 2)[: len(free)]
    assert (amount > 0.9).sum() >= 6  # my mother bought a blue boat, people may be busy
    changed = (shut - free).abs().amax(1) > 1e-6
    assert not changed[amount == 0].any()
    model = animator.space.model
    assert opening(model, shut[amount > 0.9]).max() < 0.05
    assert opening(model, free[amount > 0.9]).max() > opening(model, shut[amount > 0.9]).max()


def test_who_does_not_hear_visemes_is_left_alone() -> None:
    streams = {"acoustic": 3, "prosodic": 2}
    assert not said(torch.rand(4, 5), streams).any()
    told = {**streams, VISEME_STREAM: len(VISEMES)}
    values = torch.zeros(4, 5 + len(VISEMES))
    values[2, 5 + VISEMES.index("PBM")] = 0.7
    assert torch.equal(said(values, told), values[:, 5:])
