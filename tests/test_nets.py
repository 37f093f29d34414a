"""The velocity network and the windows that drive it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.generate import SWAY_MOST, MotionGenerator, WindowConfig, frame_noise
from vivavoce.latent.motion import MOTION_RATE_HZ, Layout
from vivavoce.nets.expectation import LipExpectation
from vivavoce.nets.filters import banded, boxes, convolved
from vivavoce.nets.hearing import Memory, hear, hear_all, hear_silence, running_mean
from vivavoce.nets.inject import MultiHeadFiLM, WindowAttention
from vivavoce.nets.levels import LevelsConfig, LevelSelector, SpeechLevels
from vivavoce.nets.motion import MotionTransformer
from vivavoce.train.rollout import fingerprint, finish

LEVELS = LevelsConfig(
    streams={"acoustic": 5, "phonetic": 6, "prosodic": 3}, widths=((1, 1), (4, 1), (3, 3), (4, 5)), memory=20, width=8, stem=8,
    filters=2, dropout=0.0,
)
LAYOUT = Layout({"lips_jaw": 4, "rotation": 3})
FEATURES = sum(LEVELS.streams.values())
PER_STREAM = len(LEVELS.widths) + 1
YES, NO = torch.tensor([True]), torch.tensor([False])


def speech_for(frames: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    length = LEVELS.history + LEVELS.stride * (frames - 1) + 1 + LEVELS.lookahead
    return torch.randn(batch, length, LEVELS.heard, generator=torch.Generator().manual_seed(seed))


def make_net(seed: int = 0, fresh: bool = False, **config: str) -> MotionTransformer:
    torch.manual_seed(seed)
    net = MotionTransformer(MotionTransformer.Config(
        event=LAYOUT.width, levels=LEVELS, style=3, width=16, context=8, blocks=2, heads=2, speech_heads=2, dropout=0.0, **config
    )).eval()
    for parameter in net.parameters():  # zero-initialised outputs would make every test of dependence pass or fail for nothing
        if not fresh and parameter.requires_grad and parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.2)
    return net


def make_lips(**changes: float) -> LipExpectation:
    """An ensemble that says something."""
    torch.manual_seed(5)
    lips = LipExpectation(LipExpectation.Config(**{
        "heard": LEVELS.heard, "plain": LEVELS.heard // 2, "event": LAYOUT.width, "stride": LEVELS.stride, "members": 4,
        "width": 8, "dilations": (1, 2), "groups": 2, "ahead": LEVELS.ahead, "share": 0.5, **changes,
    })).eval()
    lips.directions[:, :4] = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 1.0, -1.0, 0.0]])
    lips.level.copy_(torch.tensor([0.3, -0.2]))
    return lips


def make_generator(
    seed: int = 0, amplitude: dict[str, float] | None = None, inertia: dict[str, float] | None = None,
    lips: LipExpectation | None = None, **config: str
) -> MotionGenerator:
    windows = WindowConfig(hop=5, prefix=10, steps=2, guidance=1.5, amplitude=amplitude or {}, inertia=inertia or {})
    return MotionGenerator(
        make_net(seed, **config), LAYOUT, windows, mean=torch.arange(7.0), std=torch.linspace(0.5, 2, 7), style=torch.zeros(3),
        silence=torch.full((FEATURES,), -1.0), lips=lips,
    )


def test_levels_hear_exactly_as_far_as_declared() -> None:
    """The impulse response of every level, stream by stream: from the span's beginning to its end, and not a feature more."""
    levels = SpeechLevels(LEVELS).eval()
    frames = 3
    speech = speech_for(frames)
    base = levels(speech, frames)
    own = LEVELS.history + LEVELS.stride  # of the middle frame
    for stream, channel in enumerate((0, LEVELS.streams["phonetic"])):
        seen: list[list[int]] = [[] for _ in range(len(LEVELS.names))]
        for i in range(speech.shape[1]):
            other = speech.clone()
            other[:, i, channel] += 3.0
            changed = (levels(other, frames) - base)[:, 0, 1].abs().amax(-1) > 1e-6
            for level in changed.nonzero()[:, 0]:
                seen[level].append(i - own)
        spans = list(zip(LEVELS.widths, LEVELS.spans, seen[stream * PER_STREAM :], strict=False))
        for (taps, box), span, heard in spans:
            ahead = LEVELS.stride * LEVELS.later(taps, box) + 1
            assert heard == list(range(ahead - span + 1, ahead + 1)), (taps, box)
            assert ahead <= LEVELS.lookahead
        assert -seen[stream * PER_STREAM + PER_STREAM - 2][0] == LEVELS.history
        assert not any(seen[(1 - stream) * PER_STREAM + i] for i in range(PER_STREAM))  # the other stream's levels


def test_the_level_of_the_utterance_hears_the_mean_at_its_own_feature() -> None:
    levels = SpeechLevels(LEVELS).eval()
    speech = speech_for(3)
    base = levels(speech, 3)
    for i in range(speech.shape[1]):
        other = speech.clone()
        other[:, i, LEVELS.heard // 2] += 3.0  # the first channel of the means
        changed = (levels(other, 3) - base).abs().amax(-1)[:, 0] > 1e-6
        frame, off = divmod(i - LEVELS.history, LEVELS.stride)
        where = [[PER_STREAM - 1, frame]] if off == 0 and 0 <= frame < 3 else []
        assert changed.nonzero().tolist() == where


def test_shipped_widths_are_the_declared_ones() -> None:
    """About 60 ms, 300 ms, 0.6 s, 1.5 s and 4 s at 50 features a second, and at most seven features ahead."""
    levels = LevelsConfig(streams={"acoustic": 80, "phonetic": 64, "prosodic": 9})
    assert levels.spans == [3, 15, 31, 73, 201, 500]
    assert levels.lookahead <= 7
    assert len(levels.names) == 12


def test_banded_matrices_convolve() -> None:
    """Means over boxes, weighed: against the sum written out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 30, 6, generator=generator)
    filters = torch.randn(3, 4, generator=generator)
    past, ahead, box, rows = 22, 2, 5, 6
    ours, = convolved(x, [banded(filters, boxes(rows, 30, past, ahead, 4, box), box)])
    for t in range(rows):
        for channel in range(6):
            newest = t + past + ahead
            parts = [x[:, max(newest - (k + 1) * box + 1, 0) : newest - k * box + 1, channel].sum(1) / box for k in range(4)]
            wanted = sum(filters[channel // 2, k] * part for k, part in enumerate(parts))
            torch.testing.assert_close(ours[:, t, channel], wanted)


@given(cuts=st.lists(st.integers(1, 30), min_size=1, max_size=8), longest=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_running_mean_is_the_mean_so_far_and_then_forgets(cuts: list[int], longest: int) -> None:
    x = torch.randn(sum(cuts), 4, generator=torch.Generator().manual_seed(0))
    mean, wanted = np.zeros(4), []
    for n, row in enumerate(x.double().numpy(), 1):
        mean = mean + (row - mean) / min(n, longest)
        wanted.append(mean)
    memory, parts = Memory(np.zeros(4)), []
    for part in x.split(cuts):
        means, memory = running_mean(part, memory, longest)
        parts.append(means)
    np.testing.assert_allclose(torch.cat(parts).numpy(), np.stack(wanted), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.cat(parts)[: longest], (x.cumsum(0) / torch.arange(1, len(x) + 1)[:, None])[: longest])


def test_what_is_heard_are_the_chosen_streams_and_their_means() -> None:
    levels = replace(LEVELS, listen=("prosodic", "acoustic"))
    x = torch.randn(50, FEATURES)
    heard = hear_all(x, levels)
    torch.testing.assert_close(heard[:, :8], torch.cat([x[:, 11:], x[:, :5]], -1))
    torch.testing.assert_close(heard[19, 8:], heard[:20, :8].mean(0))
    first, memory = hear(x[:7], Memory.start(levels), levels)
    assert torch.equal(torch.cat([first, hear(x[7:], memory, levels)[0]]), heard)
    assert torch.equal(hear_silence(x[0], levels), heard[0])  # the mean of one feature is that feature
    assert torch.equal(hear_all(x, replace(levels, memory=None)), heard[:, :8])
    with pytest.raises(ValueError, match="visual"):
        replace(LEVELS, listen=("visual",))


def test_selectors_mix_and_select() -> None:
    selector = LevelSelector(2, 3)
    values = torch.randn(3, 2, 4, 5)
    torch.testing.assert_close(selector(values), values.mean(0).expand(2, -1, -1, -1))
    with torch.no_grad():
        selector.logits[1, 1] = 50.0
    torch.testing.assert_close(selector(values)[0], values.mean(0))
    torch.testing.assert_close(selector(values)[1], values[1])


def test_uniform_selectors_are_learned_ones_before_they_learn() -> None:
    learned, uniform = make_net(fresh=True), make_net(fresh=True, selector="uniform")
    x, time, style = torch.randn(1, 4, 7), torch.rand(1, 4), torch.zeros(1, 3)
    for net in (learned, uniform):  # so that the output depends on anything
        torch.nn.init.normal_(net.outward.weight, generator=torch.Generator().manual_seed(0))
        for block in net.blocks:
            torch.nn.init.normal_(block.speech.out.weight, generator=torch.Generator().manual_seed(1))
    outputs = [net(x, time, net.listen(speech_for(4), style, 4, has_speech=YES, has_style=YES)) for net in (learned, uniform)]
    assert torch.equal(*outputs)
    for net, output in zip((learned, uniform), outputs, strict=True):
        output.square().sum().backward()
        assert (net.selector.logits.grad is None) == (net is uniform)


def test_film_scales_and_shifts_each_head_by_its_own_part() -> None:
    film = MultiHeadFiLM(8, 4, heads=2)
    hidden, condition = torch.randn(1, 3, 8), torch.randn(1, 3, 4)
    prepared = film.prepare(condition)
    assert film(hidden, prepared).abs().max() == 0  # a new block is the identity of its residual
    torch.nn.init.eye_(film.out.weight)
    query = film.query(hidden).view(1, 3, 2, 4)
    for head in range(2):
        gamma, beta = (condition[..., 2 * head : 2 * head + 2] @ film.modulation[head] + film.bias[head]).chunk(2, -1)
        torch.testing.assert_close(film(hidden, prepared)[..., 4 * head : 4 * head + 4], gamma * query[:, :, head] + beta)


def test_attention_sees_its_neighbours_and_mixes_by_the_selector() -> None:
    attention = WindowAttention(8, 4, heads=2, levels=3)
    hidden, levels = torch.randn(1, 9, 8), torch.randn(3, 1, 9, 4)
    weights = torch.tensor([0.2, 0.3, 0.5])
    base = attention.prepare(levels)
    assert attention(hidden, base, weights).abs().max() == 0
    torch.nn.init.normal_(attention.out.weight)
    for frame in range(9):
        other = levels.clone()
        other[:, :, frame] += 1.0
        moved = (attention(hidden, attention.prepare(other), weights) - attention(hidden, base, weights))[0].abs().amax(-1)
        near = [i for i in range(9) if abs(i - frame) <= attention.around]
        assert (moved > 1e-5).nonzero()[:, 0].tolist() == near
    # Where queries are nothing, what is attended is the mean over neighbours of the selector's mixture.
    for parameter in attention.query.parameters():
        torch.nn.init.zeros_(parameter)
    mixture = torch.einsum("l,lbtd->btd", weights, levels)[:, 2:7].mean(1)
    wanted = attention.out(torch.cat([mixture, mixture], -1))
    torch.testing.assert_close(attention(hidden, base, weights)[:, 4], wanted)


@pytest.mark.parametrize("injection", ["film", "attention"])
def test_a_new_network_is_deaf_until_it_learns(injection: str) -> None:
    net = make_net(fresh=True, injection=injection)
    torch.nn.init.normal_(net.outward.weight)
    x, time, style = torch.randn(1, 4, 7), torch.rand(1, 4), torch.zeros(1, 3)
    here, there = (net(x, time, net.listen(speech_for(4, seed=s), style, 4, has_speech=YES, has_style=YES)) for s in (0, 1))
    assert here.abs().max() > 0.01
    assert torch.equal(here, there)


@pytest.mark.parametrize("injection", ["film", "attention"])
def test_absent_speech_is_heard_by_nobody(injection: str) -> None:
    net = make_net(injection=injection)
    x, time, style = torch.randn(1, 4, 7), torch.rand(1, 4), torch.zeros(1, 3)
    deaf = net(x, time, net.listen(speech_for(4), style, 4, has_speech=NO, has_style=YES))
    other = net(x, time, net.listen(speech_for(4, seed=9), style, 4, has_speech=NO, has_style=YES))
    dropped = net(x, time, net.listen(speech_for(4), style, 4, has_speech=YES, has_style=YES).without("speech"))
    torch.testing.assert_close(deaf, other)
    torch.testing.assert_close(deaf, dropped)
    hearing = net(x, time, net.listen(speech_for(4), style, 4, has_speech=YES, has_style=YES))
    assert (hearing - deaf).abs().max() > 1e-3


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="telepathy"):
        make_net(injection="telepathy")
    with pytest.raises(ValueError, match="guess"):
        make_net(selector="guess")


def test_noise_belongs_to_seed_and_frame() -> None:
    assert torch.equal(frame_noise(3, range(4, FEATURES), 5), frame_noise(3, range(0, FEATURES), 5)[4:])
    assert not torch.equal(frame_noise(3, range(4), 5), frame_noise(4, range(4), 5))


@pytest.mark.parametrize(("injection", "led"), [("film", False), ("attention", False), ("film", True)])
@given(cuts=st.lists(st.integers(1, 23), min_size=1, max_size=12), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_any_cut_of_the_features_gives_the_same_motion(injection: str, led: bool, cuts: list[int], seed: int) -> None:
    generator = make_generator(injection=injection, lips=make_lips() if led else None)
    features = torch.randn(1, sum(cuts), FEATURES, generator=torch.Generator().manual_seed(seed))
    whole, _ = generator.step(features, generator.start(), seed=seed, last=True)
    state, parts = generator.start(), []
    for i, part in enumerate(features.split(cuts, 1)):
        made, state = generator.step(part, state, seed=seed, last=i + 1 == len(cuts))
        parts.append(made)
    assert whole.shape[1] == -(-sum(cuts) // LEVELS.stride)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_samples_are_what_each_seed_alone_makes() -> None:
    generator = make_generator()
    features = torch.randn(1, 61, FEATURES)
    together = generator.samples(features, [3, 8])
    for seed, ours in zip((3, 8), together, strict=True):
        alone, _ = generator.step(features, generator.start(), seed=seed, last=True)
        torch.testing.assert_close(ours[None], alone, atol=1e-4, rtol=1e-4)


def test_the_utterance_is_remembered_beyond_every_window() -> None:
    """Speech that no window sees any more still moves the running mean, and through it the motion; a new utterance forgets it."""
    generator = make_generator()
    later = torch.randn(1, 200, FEATURES)
    ends = []
    for first in (torch.zeros(1, 20, FEATURES), torch.ones(1, 20, FEATURES)):
        _, state = generator.step(first, generator.start(), seed=0)
        ends.append(replace(state, heard=torch.zeros_like(state.heard), prefix=torch.zeros_like(state.prefix)))
    here, there = (generator.step(later, state, seed=0)[0] for state in ends)
    assert (here - there).abs().max() > 1e-4
    fresh = [generator.resume(torch.zeros(1, 10, 7), 20, generator.start()) for _ in ends]
    assert fresh[0].memory.count == 0
    assert torch.equal(*(generator.step(later, state, seed=0)[0] for state in fresh))


def test_frames_come_as_soon_as_their_window_is_heard() -> None:
    generator = make_generator()
    need = LEVELS.stride * (generator.windows.hop - 1) + 1 + LEVELS.lookahead
    state = generator.start()
    early, state = generator.step(torch.randn(1, need - 1, FEATURES), state, seed=0)
    made, _ = generator.step(torch.randn(1, 1, FEATURES), state, seed=0)
    assert (early.shape[1], made.shape[1]) == (0, generator.windows.hop)


def test_motion_goes_on_from_its_prefix() -> None:
    """What a window makes depends on the motion before it: the prefix is not ignored."""
    generator = make_generator()
    features = torch.randn(1, 200, FEATURES)
    state = generator.start()
    _, state = generator.step(features, state, seed=0)
    here, _ = generator.step(features, state, seed=0)
    there, _ = generator.step(features, replace(state, prefix=state.prefix + 1.0), seed=0)
    assert (here - there).abs().max() > 1e-3


def test_resuming_from_its_own_motion_changes_nothing_but_what_was_heard() -> None:
    generator = make_generator()
    silence = generator.silence.expand(1, 60, -1)
    made, state = generator.step(silence, generator.start(), seed=5)
    resumed = generator.resume(made, state.done, state)
    torch.testing.assert_close(resumed.prefix, state.prefix)
    again, _ = generator.step(silence[:, :40], resumed, seed=5)
    goes_on, _ = generator.step(silence, state, seed=5)
    torch.testing.assert_close(again[:, :5], goes_on[:, :5], atol=1e-4, rtol=1e-4)


def test_weights_travel_with_statistics_and_configuration(tmp_path: Path) -> None:
    generator = make_generator(lips=make_lips())
    generator.save(tmp_path / "motion.safetensors", {"note": "test"})
    loaded = MotionGenerator.load(tmp_path / "motion.safetensors")
    features = torch.randn(1, 60, FEATURES)
    ours, _ = generator.step(features, generator.start(), seed=1, last=True)
    theirs, _ = loaded.step(features, loaded.start(), seed=1, last=True)
    assert torch.equal(ours, theirs)
    assert loaded.windows == generator.windows
    assert loaded.net.config == generator.net.config
    assert loaded.lips is not None
    assert loaded.lips.config == make_lips().config


def test_weights_of_another_version_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config = {"net": {"levels": {"streams": {"phonetic": 4}, "kernels": [3]}}, "layout": {}, "windows": {}}
    save_file({"mean": torch.zeros(1)}, tmp_path / "motion.safetensors", {"config": json.dumps(config)})
    with pytest.raises(ValueError, match="another version"):
        MotionGenerator.load(tmp_path / "motion.safetensors")


def test_inertia_keeps_part_of_the_last_frame_across_windows_and_nothing_else() -> None:
    generator = make_generator(inertia={"rotation": 0.25})
    free = make_generator()
    speech = torch.randn(1, 60, FEATURES, generator=torch.Generator().manual_seed(1))
    heavy, light = generator.samples(speech, [0])[0], free.samples(speech, [0])[0]
    lips = LAYOUT.widths["lips_jaw"]
    assert torch.equal(heavy[:, :lips], light[:, :lips])
    torch.testing.assert_close(heavy[0], light[0])
    torch.testing.assert_close(heavy[1:, lips:], 0.75 * light[1:, lips:] + 0.25 * heavy[:-1, lips:])
    first, state = generator.step(speech[:, :33], generator.start(), seed=0)
    second, _ = generator.step(speech[:, 33:], state, seed=0, last=True)
    assert 0 < first.shape[1] < len(heavy)
    assert torch.equal(torch.cat([first, second], 1)[0], generator.step(speech, generator.start(), seed=0, last=True)[0][0])


def test_expected_lips_hear_exactly_as_far_as_declared() -> None:
    lips = make_lips()
    config, frames = lips.config, 4
    heard = torch.randn(1, config.features(frames) + 6, config.heard, generator=torch.Generator().manual_seed(2))
    plain = lips(heard, frames)
    assert plain.abs().min() > 0
    first = heard.shape[1] - config.features(frames)
    last_of_first = first + config.stride * (config.past + 1 + config.ahead) - 1
    for feature, moves in ((first - 1, False), (first, True), (last_of_first, True), (last_of_first + 1, False)):
        changed = heard.clone()
        changed[:, feature] += 5.0
        assert ((lips(changed, frames) - plain)[0, 0].abs().max() > 1e-6) == moves, feature


def test_every_other_member_does_not_hear_the_means_and_none_hears_for_another() -> None:
    lips = make_lips()
    config = lips.config
    given = torch.randn(config.members, 2, config.past + 3 + config.ahead, config.stride * config.heard)
    plain = lips.each(given)
    means = torch.arange(config.heard).repeat(config.stride) >= config.plain
    moved = (lips.each(given + 3.0 * torch.randn(given.shape[-1]) * means) - plain).abs().amax((1, 2, 3))
    assert (moved > 1e-4).tolist() == [False, True] * (config.members // 2)
    other = given.clone()
    other[2] += torch.randn_like(other[2])
    moved = (lips.each(other) - plain).abs().amax((1, 2, 3))
    assert (moved > 1e-5).tolist() == [i == 2 for i in range(config.members)]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_motion_is_led_a_share_of_the_shortest_way_to_the_expected_lips(share: float) -> None:
    lips = make_lips(share=share)
    motion, expected, lively = torch.randn(3, 5, LAYOUT.width), torch.randn(1, 5, 2), torch.rand(5, 1) + 0.5
    led = lips.lead(motion, expected, lively)
    before, after = motion @ lips.directions.T, led @ lips.directions.T
    torch.testing.assert_close(after, before + share * (lips.level + lively * expected - before))
    across = torch.linalg.qr(lips.directions.T, mode="complete").Q[:, 2:]  # all that changes neither opening nor width
    torch.testing.assert_close(led @ across, motion @ across)


def test_what_is_expected_leads_every_frame_the_same_way_however_it_is_made() -> None:
    """In windows, in takes that are drawn again for post-training, and in graphs of live sessions."""
    lips = make_lips(share=1.0)
    generator, speech = make_generator(lips=lips), torch.randn(61, FEATURES, generator=torch.Generator().manual_seed(3))
    made = generator.samples(speech[None], [0])[0] @ lips.directions.T
    shown = generator.shown(torch.randn(1, 20, LAYOUT.width), speech, 0)[0] @ lips.directions.T
    torch.testing.assert_close(shown, made[:20], atol=1e-4, rtol=1e-4)
    later = generator.shown(torch.randn(1, 10, LAYOUT.width), speech, 12 * LEVELS.stride)[0] @ lips.directions.T
    torch.testing.assert_close(later, made[12:22], atol=1e-4, rtol=1e-4)
    free = make_generator().samples(speech[None], [0])[0] @ lips.directions.T
    assert (made - free).abs().mean() > 0.1
    live = generator.live()
    assert live.lips is lips
    torch.testing.assert_close(live.samples(speech[None], [0])[0] @ lips.directions.T, made, atol=1e-4, rtol=1e-4)


def test_the_slow_part_of_a_place_is_its_mean_that_forgets_however_it_is_cut() -> None:
    layout = Layout({"lips_jaw": 4, "translation": 2, "log_scale": 1})
    windows = WindowConfig(hop=5, prefix=10, sway=3.0, sway_seconds=0.4)
    swaying = MotionGenerator(
        make_net(), layout, windows, mean=torch.zeros(7), std=torch.ones(7), style=torch.zeros(3), silence=torch.zeros(FEATURES)
    )
    packed = torch.randn(1, 30, 7, generator=torch.Generator().manual_seed(4))
    share = 1 / (0.4 * MOTION_RATE_HZ)
    expected = torch.stack([sum(share * (1 - share) ** (t - i) * packed[0, i] for i in range(t + 1)) for t in range(30)])
    slow = swaying.slow(packed)
    torch.testing.assert_close(slow[0], expected)
    assert torch.equal(torch.cat([swaying.slow(packed[:, :7]), swaying.slow(packed[:, 7:], slow[:, 6])], 1), slow)
    moved = swaying.around_rest(packed) - packed
    torch.testing.assert_close(moved[..., 4:6], SWAY_MOST * torch.tanh(2 * slow[..., 4:6] / SWAY_MOST), atol=1e-5, rtol=1e-4)
    assert moved.abs().max() <= SWAY_MOST
    assert not moved[..., :4].any()
    assert not moved[..., 6:].any()
    assert torch.equal(swaying.around_rest(packed[:, 7:], slow[:, 7:]), swaying.around_rest(packed)[:, 7:])


def test_what_finishes_motion_tells_generators_apart() -> None:
    """Also where the network is the same, as when other lips or amplitudes were put beside it."""
    plain, led = make_generator(), make_generator(lips=make_lips())
    other = make_lips()
    other.level += 0.1
    wide = make_generator(amplitude={"rotation": 2.0})
    assert len({fingerprint(g) for g in (plain, led, wide)}) == 1
    assert finish(led) == finish(make_generator(lips=make_lips()))
    assert len({finish(g) for g in (plain, led, wide, make_generator(lips=other))}) == 4


def test_amplitude_scales_what_comes_out_and_nothing_else() -> None:
    plain, wide = make_generator(amplitude={}), make_generator(amplitude={"rotation": 2.0})
    features = torch.randn(1, 60, FEATURES)
    a, _ = plain.step(features, plain.start(), seed=0)
    b, state = wide.step(features, wide.start(), seed=0)
    torch.testing.assert_close(b[..., :4], a[..., :4])
    torch.testing.assert_close(b[..., 4:] - wide.mean[4:], 2 * (a[..., 4:] - plain.mean[4:]))
    torch.testing.assert_close(wide.resume(b, state.done, state).prefix, state.prefix)


def test_unknown_conditions_are_refused() -> None:
    net = make_net()
    condition = net.listen(speech_for(2), torch.zeros(1, 3), 2, has_speech=YES, has_style=YES)
    with pytest.raises(ValueError, match="colour"):
        condition.without("colour")
