"""The velocity network and the windows that drive it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.generate import MotionGenerator, WindowConfig, frame_noise
from vivavoce.latent.motion import Layout
from vivavoce.nets.levels import LevelsConfig, LevelSelector, MultiHeadFiLM, SpeechLevels
from vivavoce.nets.motion import MotionTransformer

LEVELS = LevelsConfig(streams={"phonetic": 6, "prosodic": 3}, kernels=(3, 9, 25), width=8, stem=8, dropout=0.0)
LAYOUT = Layout({"lips_jaw": 4, "rotation": 3})


def speech_for(frames: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    length = LEVELS.history + LEVELS.stride * (frames - 1) + 1 + LEVELS.lookahead
    return torch.randn(batch, length, 9, generator=torch.Generator().manual_seed(seed))


def make_net(seed: int = 0) -> MotionTransformer:
    torch.manual_seed(seed)
    config = MotionTransformer.Config(
        event=LAYOUT.width, levels=LEVELS, style=3, width=16, blocks=2, heads=2, film_heads=2, dropout=0.0
    )
    net = MotionTransformer(config).eval()
    for parameter in net.parameters():  # zero-initialised outputs would make every test of dependence pass or fail for nothing
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.2)
    return net


def make_generator(seed: int = 0, amplitude: dict[str, float] | None = None) -> MotionGenerator:
    windows = WindowConfig(hop=5, prefix=10, steps=2, guidance=1.5, amplitude=amplitude or {})
    return MotionGenerator(
        make_net(seed), LAYOUT, windows,
        mean=torch.arange(7.0), std=torch.linspace(0.5, 2, 7), style=torch.zeros(3), silence=torch.full((9,), -1.0),
    )


def test_levels_hear_no_further_than_declared() -> None:
    levels = SpeechLevels(LEVELS).eval()
    frames, present = 6, torch.tensor([True])
    speech = speech_for(frames)
    base = levels(speech, present, frames)
    for frame in range(frames):
        own = LEVELS.history + LEVELS.stride * frame
        unheard = speech.clone()
        unheard[:, own + LEVELS.lookahead + 1 :] += 5.0
        unheard[:, : own - LEVELS.history] += 5.0
        torch.testing.assert_close(levels(unheard, present, frames)[:, :, frame], base[:, :, frame])
        heard = speech.clone()
        heard[:, own + 1 : own + LEVELS.lookahead + 1] += 5.0
        assert (levels(heard, present, frames)[:, :, frame] - base[:, :, frame]).abs().max() > 1e-3


def test_wider_levels_hear_further_back() -> None:
    levels = SpeechLevels(LEVELS).eval()
    speech = speech_for(1)
    base = levels(speech, torch.tensor([True]), 1)
    reach = []
    for level in range(len(LEVELS.kernels)):
        changed = []
        for back in range(LEVELS.history + 1):
            other = speech.clone()
            other[:, LEVELS.history - back] += 3.0
            if (levels(other, torch.tensor([True]), 1)[0, level] - base[0, level]).abs().max() > 1e-5:
                changed.append(back)
        reach.append(max(changed))
    assert reach == sorted(reach)
    assert reach[-1] == LEVELS.history
    assert reach[0] < LEVELS.history // 2


def test_selector_mixes_and_selects() -> None:
    selector = LevelSelector(3)
    values = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(selector(values), values.mean(1))
    with torch.no_grad():
        selector.logits[1] = 50.0
    torch.testing.assert_close(selector(values), values[:, 1])


def test_film_scales_and_shifts_each_head_by_its_own_part() -> None:
    film = MultiHeadFiLM(8, 4, heads=2)
    hidden, condition = torch.randn(1, 3, 8), torch.randn(1, 3, 4)
    assert film(hidden, condition).abs().max() == 0  # a new block is the identity of its residual
    torch.nn.init.eye_(film.out.weight)
    query = film.query(hidden).view(1, 3, 2, 4)
    for head in range(2):
        gamma, beta = (condition[..., 2 * head : 2 * head + 2] @ film.modulation[head] + film.bias[head]).chunk(2, -1)
        torch.testing.assert_close(film(hidden, condition)[..., 4 * head : 4 * head + 4], gamma * query[:, :, head] + beta)


def test_absent_speech_is_heard_by_nobody() -> None:
    net = make_net()
    x, time, style = torch.randn(1, 4, 7), torch.rand(1, 4), torch.zeros(1, 3)
    yes, no = torch.tensor([True]), torch.tensor([False])
    deaf = net(x, time, net.listen(speech_for(4), style, 4, has_speech=no, has_style=yes))
    other = net(x, time, net.listen(speech_for(4, seed=9), style, 4, has_speech=no, has_style=yes))
    dropped = net(x, time, net.listen(speech_for(4), style, 4, has_speech=yes, has_style=yes).without("speech"))
    torch.testing.assert_close(deaf, other)
    torch.testing.assert_close(deaf, dropped)
    hearing = net(x, time, net.listen(speech_for(4), style, 4, has_speech=yes, has_style=yes))
    assert (hearing - deaf).abs().max() > 1e-3


def test_noise_belongs_to_seed_and_frame() -> None:
    assert torch.equal(frame_noise(3, range(4, 9), 5), frame_noise(3, range(0, 9), 5)[4:])
    assert not torch.equal(frame_noise(3, range(4), 5), frame_noise(4, range(4), 5))


@given(cuts=st.lists(st.integers(1, 23), min_size=1, max_size=12), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_any_cut_of_the_features_gives_the_same_motion(cuts: list[int], seed: int) -> None:
    generator = make_generator()
    features = torch.randn(1, sum(cuts), 9, generator=torch.Generator().manual_seed(seed))
    whole, _ = generator.step(features, generator.start(), seed=seed, last=True)
    state, parts = generator.start(), []
    for i, part in enumerate(features.split(cuts, 1)):
        made, state = generator.step(part, state, seed=seed, last=i + 1 == len(cuts))
        parts.append(made)
    assert whole.shape[1] == -(-sum(cuts) // LEVELS.stride)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_frames_come_as_soon_as_their_window_is_heard() -> None:
    generator = make_generator()
    need = LEVELS.stride * (generator.windows.hop - 1) + 1 + LEVELS.lookahead
    state = generator.start()
    early, state = generator.step(torch.randn(1, need - 1, 9), state, seed=0)
    made, _ = generator.step(torch.randn(1, 1, 9), state, seed=0)
    assert (early.shape[1], made.shape[1]) == (0, generator.windows.hop)


def test_motion_goes_on_from_its_prefix() -> None:
    """What a window makes depends on the motion before it: the prefix is not ignored."""
    generator = make_generator()
    features = torch.randn(1, 200, 9)
    state = generator.start()
    _, state = generator.step(features, state, seed=0)
    here, _ = generator.step(features, state, seed=0)
    there, _ = generator.step(features, replace(state, prefix=state.prefix + 1.0), seed=0)
    assert (here - there).abs().max() > 1e-3


def test_resuming_from_its_own_motion_changes_nothing_but_what_was_heard() -> None:
    generator = make_generator()
    silence = generator.silence.expand(1, 60, -1)
    made, state = generator.step(silence, generator.start(), seed=5)
    resumed = generator.resume(made, state.done)
    torch.testing.assert_close(resumed.prefix, state.prefix)
    again, _ = generator.step(silence[:, :40], resumed, seed=5)
    goes_on, _ = generator.step(silence, state, seed=5)
    torch.testing.assert_close(again[:, :5], goes_on[:, :5], atol=1e-4, rtol=1e-4)


def test_weights_travel_with_statistics_and_configuration(tmp_path: Path) -> None:
    generator = make_generator()
    generator.save(tmp_path / "motion.safetensors", {"note": "test"})
    loaded = MotionGenerator.load(tmp_path / "motion.safetensors")
    features = torch.randn(1, 60, 9)
    ours, _ = generator.step(features, generator.start(), seed=1, last=True)
    theirs, _ = loaded.step(features, loaded.start(), seed=1, last=True)
    assert torch.equal(ours, theirs)
    assert loaded.windows == generator.windows


def test_amplitude_scales_what_comes_out_and_nothing_else() -> None:
    plain, wide = make_generator(amplitude={}), make_generator(amplitude={"rotation": 2.0})
    features = torch.randn(1, 60, 9)
    a, _ = plain.step(features, plain.start(), seed=0)
    b, state = wide.step(features, wide.start(), seed=0)
    torch.testing.assert_close(b[..., :4], a[..., :4])
    torch.testing.assert_close(b[..., 4:] - wide.mean[4:], 2 * (a[..., 4:] - plain.mean[4:]))
    torch.testing.assert_close(wide.resume(b, state.done).prefix, state.prefix)


def test_unknown_conditions_are_refused() -> None:
    net = make_net()
    yes = torch.tensor([True])
    condition = net.listen(speech_for(2), torch.zeros(1, 3), 2, has_speech=yes, has_style=yes)
    with pytest.raises(ValueError, match="colour"):
        condition.without("colour")
