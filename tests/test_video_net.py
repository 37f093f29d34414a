"""The video network: a pretrained transformer, and what is added to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_wan_net import TEXT_WIDTH, load_tiny_wan, save_tiny_wan

from vivavoce.flow.guide import guided, mask_guided, pinned, with_prefix
from vivavoce.nets.inject import TokenAttention
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.redistribute import latent_frames, own_pictures, redistributed
from vivavoce.nets.video import POLICY, REFERENCE, RESIDUAL, VideoTransformer
from vivavoce.nets.video_condition import VideoCondition, Voice, still_channels
from vivavoce.nets.video_parts import PartsConfig, TokenMasks

pytest.importorskip("diffusers")
pytest.importorskip("peft")

LEVELS = LevelsConfig(
    streams={"phonetic": 3, "prosodic": 2}, widths=((1, 1), (2, 1)), memory=20, ahead=0, width=8, stem=8, dropout=0.0,
)
PARTS = PartsConfig(levels=LEVELS, width=16, heads=2, identity=True, joints=3, intensity=True)
PICTURES, FRAMES, SIDE = 9, 3, 4
KINDS = ("ti2v", "t2v", "i2v")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_tiny_wan(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def speech(batch: int = 2, seed: int = 1, pictures: int = PICTURES) -> torch.Tensor:
    return drawn(batch, LEVELS.history + 2 * (pictures - 1) + 1 + LEVELS.lookahead, LEVELS.heard, seed=seed)


def make(
    folder: Path, *, fresh: bool = False, rank: int = 0, dtype: torch.dtype = torch.float32, **parts: Any
) -> VideoTransformer:
    """A network over the checkpoint; not fresh: with outputs that are not zero any more."""
    torch.manual_seed(1)
    config = VideoTransformer.Config(parts=replace(PARTS, **parts), rank=rank)
    net = VideoTransformer(load_tiny_wan(folder, dtype), config).eval()
    return net if fresh else awake(net)


def awake(net: VideoTransformer) -> VideoTransformer:
    generator = torch.Generator().manual_seed(2)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and (parameter.abs().sum() == 0 or "lora_B" in name):
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return net


def given(net: VideoTransformer, batch: int = 2, **more: Any) -> dict[str, Any]:
    """What a network can be given, by its base and parts."""
    base, parts = net.base.config, net.config.parts
    channels, words = base.out_channels, 512 if base.image_dim else 5
    found: dict[str, Any] = {
        "text": drawn(batch, words, TEXT_WIDTH, seed=3), "no_text": drawn(1, words, TEXT_WIDTH, seed=4), "pictures": PICTURES,
    }
    if net.stills:
        known = torch.arange(PICTURES).expand(batch, -1) < 1
        found["still"] = still_channels(drawn(batch, FRAMES, channels, SIDE, SIDE, seed=5), known)
        found["image"] = drawn(batch, 7, base.image_dim, seed=6)
    if parts.levels is not None:
        found["voices"] = [Voice(speech=speech(batch))]
    if parts.identity:
        found["face"] = drawn(batch, channels, 4, 4, seed=7)
    if parts.joints:
        found["skeleton"] = drawn(batch, PICTURES, parts.joints, 3, seed=8)
    if parts.intensity:
        found["intensity"] = torch.rand(batch, 2, generator=torch.Generator().manual_seed(9))
    return found | more


def noisy(net: VideoTransformer, batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    return drawn(batch, frames, net.base.config.out_channels, SIDE, SIDE)


def at(time: float, batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    return torch.full((batch, frames), time)


def by_the_base(net: VideoTransformer, point: torch.Tensor, time: torch.Tensor, condition: VideoCondition) -> torch.Tensor:
    """Our velocity from the base's own forward, per clip, or per token where frames differ."""
    latents = point if condition.still is None else torch.cat([point, condition.still], 2)
    timestep = 1000 * (1 - time)
    each = timestep.repeat_interleave((SIDE // 2) ** 2, 1) if bool((time != time[:, :1]).any()) else timestep[:, 0]
    dtype = net.base.dtype
    image = None if condition.image is None else condition.image.to(dtype)
    with torch.no_grad():
        out = net.base(latents.transpose(1, 2).to(dtype), each, condition.text.to(dtype), image, return_dict=False)[0]
    return -out.transpose(1, 2).float()


@pytest.mark.parametrize("injection", ["film", "attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_is_its_base(folders: dict[str, Path], kind: str, injection: str) -> None:
    net = make(folders[kind], fresh=True, rank=2, injection=injection)
    condition, point = net.listen(**given(net)), noisy(net)
    times = [at(0.3), torch.tensor([[0.1] * FRAMES, [0.9] * FRAMES])]
    if not net.stills:
        times.append(torch.tensor([[1.0, 0.2, 0.2], [0.0, 0.5, 1.0]]))
    for time in times:
        wanted = by_the_base(net, point, time, condition)
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(net(point, time, condition), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_is_its_base_in_half_precision(folders: dict[str, Path], kind: str) -> None:
    net = make(folders[kind], fresh=True, rank=2, dtype=torch.bfloat16)
    condition, point = net.listen(**given(net)), noisy(net)
    wanted = by_the_base(net, point, at(0.3), condition)
    ours = net(point, at(0.3), condition)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, wanted, atol=0.02 * float(wanted.abs().max()), rtol=0)


def test_times_differ_by_frame_or_not_as_the_base_knows_them(folders: dict[str, Path]) -> None:
    net = make(folders["i2v"])
    condition = net.listen(**given(net))
    with pytest.raises(AssertionError, match="one flow time per clip"):
        net(noisy(net), torch.tensor([[1.0, 0.2, 0.2]] * 2), condition)


def residual(folder: Path, out: Path) -> Path:
    """The same base, saved by diffusers as one that draws what differs from what is known."""
    base = load_tiny_wan(folder)
    base.register_to_config(**{RESIDUAL: True})
    base.save_pretrained(out)
    return out


def test_a_residual_base_begins_from_noise_and_ends_with_what_differs(folders: dict[str, Path], tmp_path: Path) -> None:
    """On the way from noise to what is known, the base sees nothing but the noise, and what is known is added to its answer."""
    net = make(residual(folders["i2v"], tmp_path / "i2v"), fresh=True)
    condition = net.listen(**given(net))
    assert condition.still is not None
    known, noise = condition.still[:, :, 4:], noisy(net)
    plain = make(folders["i2v"], fresh=True)
    for time in (0.0, 0.4):
        point = (1 - time) * noise + time * known  # on the way from that noise to what is known
        inside = by_the_base(plain, (1 - time) * noise, at(time), condition)
        torch.testing.assert_close(net(point, at(time), condition), known + inside, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="not told by channels what is known: nothing can be residual to it"):
        make(residual(folders["ti2v"], tmp_path / "ti2v"), fresh=True)


def test_a_prefix_is_clean_frames_and_its_noise_plays_no_part(folders: dict[str, Path]) -> None:
    net = make(folders["ti2v"])
    condition, prefix = net.listen(**given(net)), drawn(2, 1, 48, SIDE, SIDE, seed=20)
    point = noisy(net)
    velocity = pinned(net, prefix)(point, at(0.4), condition)
    assert velocity[:, :1].abs().max() == 0
    direct = net(with_prefix(point, prefix), torch.tensor([[1.0, 0.4, 0.4]] * 2), condition)
    assert torch.equal(velocity[:, 1:], direct[:, 1:])
    other = torch.cat([point[:, :1] + 1, point[:, 1:]], 1)
    assert torch.equal(pinned(net, prefix)(other, at(0.4), condition), velocity)


def test_what_is_known_is_told_picture_by_picture() -> None:
    """As diffusers' image-to-video pipeline folds its mask: the first picture four times, then four by four."""
    latents, known = drawn(1, 3, 16, 2, 2), torch.tensor([[True, False, True, False, False, True, True, True, True]])
    still = still_channels(latents, known)
    rows = [[known[0, 0]] * 4, known[0, 1:5].tolist(), known[0, 5:9].tolist()]
    for frame, row in enumerate(rows):
        for i, yes in enumerate(row):
            assert (still[0, frame, i] == float(yes)).all()
    assert torch.equal(still[:, :, 4:], latents)


@pytest.mark.parametrize(("pictures", "around"), [(1, 0), (9, 0), (9, 2), (8, 1), (4, 0), (5, 6)])
def test_redistribution_against_a_loop(pictures: int, around: int) -> None:
    values = drawn(2, pictures, 3)
    ours = redistributed(values, around)
    groups = [[0] * 4] if pictures % 4 == 1 else []
    groups += [list(range(i, i + 4)) for i in range(pictures % 4, pictures, 4)]
    assert ours.shape[1] == len(groups) == latent_frames(pictures)
    for frame, own in enumerate(groups):
        near = [own[0] - i for i in range(around, 0, -1)] + own + [own[-1] + i for i in range(1, around + 1)]
        for place, picture in enumerate(near):
            assert torch.equal(ours[:, frame, place], values[:, min(max(picture, 0), pictures - 1)])


def test_pictures_that_fill_no_latent_frames_are_refused() -> None:
    for count in (0, 2, 7):
        with pytest.raises(ValueError, match=f"{count} pictures"):
            own_pictures(count)


def test_attention_to_tokens_is_the_formula() -> None:
    attention = TokenAttention(8, 6, heads=2, inner=4)
    hidden, tokens, bias = drawn(1, 3, 5, 8), drawn(1, 3, 7, 6, seed=1), drawn(2, 7, seed=2)
    assert attention(hidden, tokens, bias).abs().max() == 0
    torch.nn.init.eye_(attention.out.weight)
    ours = attention(hidden, tokens, bias)
    for frame in range(3):
        for head in range(2):
            mine = slice(2 * head, 2 * head + 2)
            q, k = attention.query(hidden[0, frame])[:, mine], attention.key(tokens[0, frame])[:, mine]
            q, k = (x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
            weights = torch.softmax(q @ k.T / 2**0.5 + bias[head], -1)
            torch.testing.assert_close(ours[0, frame, :, mine], weights @ attention.value(tokens[0, frame])[:, mine])
    # Tokens of the whole clip are those that every frame has.
    torch.testing.assert_close(attention(hidden, tokens[:, :1]), attention(hidden, tokens[:, :1].expand(-1, 3, -1, -1)))


def added(net: VideoTransformer, condition: VideoCondition, batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    """What the first injection adds to some hidden state, "b t n d"."""
    hidden = drawn(batch, frames, (SIDE // 2) ** 2, 24, seed=11)
    masks, weights = TokenMasks.of(condition, (2, 2)), net.parts.selector.weights()[0]
    return net.parts.injections[0](hidden, 0, condition, masks, weights)


NARROW = replace(LEVELS, widths=((1, 1),), memory=None)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("injection", ["film", "attention"])
def test_a_picture_is_heard_in_its_own_latent_frame_only(folders: dict[str, Path], injection: str, pooled: bool) -> None:
    """At the narrowest level, whose reach is one feature to each side; attention also hears ``around`` pictures more."""
    net = make(folders["t2v"], injection=injection, pooled=pooled, levels=NARROW, around=1)
    reach = 1 if injection == "attention" and not pooled else 0
    sound = drawn(1, NARROW.history + 2 * (PICTURES - 1) + 1 + NARROW.lookahead, NARROW.heard)
    text = drawn(1, 5, TEXT_WIDTH)
    base = added(net, net.listen(text, pictures=PICTURES, voices=[Voice(speech=sound)]), 1)
    for picture in range(PICTURES):
        other = sound.clone()
        other[:, NARROW.history + 2 * picture] += 3.0
        moved = added(net, net.listen(text, pictures=PICTURES, voices=[Voice(speech=other)]), 1) - base
        owns = [{0}, {1, 2, 3, 4}, {5, 6, 7, 8}]
        near = [t for t, own in enumerate(owns) if any(abs(picture - one) <= reach for one in own)]
        assert (moved.abs().amax((0, 2, 3)) > 1e-6).nonzero()[:, 0].tolist() == near


@pytest.mark.parametrize("injection", ["film", "attention"])
def test_pooling_forgets_the_order_of_pictures_and_redistribution_does_not(folders: dict[str, Path], injection: str) -> None:
    sound = drawn(1, NARROW.history + 2 * (PICTURES - 1) + 1 + NARROW.lookahead, NARROW.heard)
    turned = sound.clone()  # pictures 1 to 4 backwards, their neighbouring features with them
    first = NARROW.history + 2
    turned[:, first - 1 : first + 8] = sound[:, first - 1 : first + 8].flip(1)
    for pooled in (False, True):
        net = make(folders["t2v"], injection=injection, pooled=pooled, levels=NARROW, around=0)
        # A stem that hears the middle feature only, so that a picture is one number whichever way time runs.
        for stream in net.parts.levels.streams:
            weight = stream.stem[0].weight.data
            channels = weight.shape[1] // 3
            weight[:, :channels] = weight[:, 2 * channels :] = 0
        text = drawn(1, 5, TEXT_WIDTH)
        here, there = (
            added(net, net.listen(text, pictures=PICTURES, voices=[Voice(speech=x)]), 1) for x in (sound, turned)
        )
        assert bool((here - there)[:, 1].abs().max() > 1e-4) != pooled


@pytest.mark.parametrize("injection", ["film", "attention"])
def test_at_clip_level_every_frame_hears_the_same(folders: dict[str, Path], injection: str) -> None:
    net = make(folders["t2v"], injection=injection, identity=False, joints=0, intensity=False)
    voices, text = [Voice(speech=speech())], drawn(2, 5, TEXT_WIDTH)
    clip = net.listen(text, pictures=PICTURES, voices=voices, aligned=False)
    frames = net.listen(text, pictures=PICTURES, voices=voices)
    same = drawn(2, 1, 4, 24).expand(-1, FRAMES, -1, -1)
    def spoken(condition: VideoCondition) -> torch.Tensor:
        masks = TokenMasks.of(condition, (2, 2))
        return net.parts.injections[0](same, 0, condition, masks, net.parts.selector.weights()[0])

    torch.testing.assert_close(spoken(clip), spoken(clip)[:, :1].expand(-1, FRAMES, -1, -1))
    assert (spoken(frames) - spoken(frames)[:, :1]).abs().max() > 1e-3
    # What is heard last reaches the first frame, and absent speech is still absent.
    late = voices[0].speech.clone()
    late[:, -1 - LEVELS.lookahead] += 3.0
    moved = spoken(net.listen(text, pictures=PICTURES, voices=[Voice(speech=late)], aligned=False)) - spoken(clip)
    assert moved[:, 0].abs().max() > 1e-4
    silent = net.listen(text, pictures=PICTURES, aligned=False)
    torch.testing.assert_close(spoken(clip.without("speech")), spoken(silent))


def test_masks_keep_speakers_apart_exactly(folders: dict[str, Path]) -> None:
    for injection in ("film", "attention"):
        net = make(folders["t2v"], injection=injection, identity=False, joints=0, intensity=False)
        left = torch.zeros(2, FRAMES, SIDE, SIDE)
        left[..., : SIDE // 2] = 1
        text, places = drawn(2, 5, TEXT_WIDTH), (left, 1 - left)

        def heard(*seeds: int, masks: tuple[torch.Tensor | None, ...], net: Any = net, text: Any = text) -> torch.Tensor:
            voices = [Voice(speech=speech(seed=s), mask=m) for s, m in zip(seeds, masks, strict=True)]
            return added(net, net.listen(text, pictures=PICTURES, voices=voices)).unflatten(2, (SIDE // 2, SIDE // 2))

        both = heard(1, 2, masks=places)
        assert torch.equal(both[..., 0, :], heard(1, masks=(None,))[..., 0, :])
        assert torch.equal(both[..., 1, :], heard(2, masks=(None,))[..., 1, :])
        assert torch.equal(heard(1, 3, masks=places)[..., 0, :], both[..., 0, :])
        assert (heard(1, 3, masks=places)[..., 1, :] - both[..., 1, :]).abs().max() > 1e-3


def test_the_identity_stays_on_the_face(folders: dict[str, Path]) -> None:
    net = make(folders["t2v"])
    face_mask = torch.zeros(2, FRAMES, SIDE, SIDE)
    face_mask[:, 1, :2, :2] = 1
    here = net.listen(**given(net, face_mask=face_mask))
    there = net.listen(**given(net, face_mask=face_mask, face=drawn(2, 16, 4, 4, seed=40)))
    moved = (added(net, here) - added(net, there)).abs().amax((0, 3)) > 0
    assert moved.nonzero().tolist() == [[1, 0]]


def test_guidance_by_masks_is_the_closed_form(folders: dict[str, Path]) -> None:
    net = make(folders["t2v"])
    mask = torch.rand(2, FRAMES, SIDE, SIDE)
    voices = [Voice(speech=speech(seed=1), mask=mask), Voice(speech=speech(seed=2), mask=1 - mask)]
    condition, point = net.listen(**given(net, voices=voices)), noisy(net)
    alone = [net(point, at(0.4), net.listen(**given(net, voices=[Voice(speech=speech(seed=s))]))) for s in (1, 2)]
    nobody = net(point, at(0.4), net.listen(**given(net, voices=[])))
    wanted = nobody + 2.0 * mask[:, :, None] * (alone[0] - nobody) + 0.5 * (1 - mask)[:, :, None] * (alone[1] - nobody)
    torch.testing.assert_close(mask_guided(net, [2.0, 0.5])(point, at(0.4), condition), wanted, atol=1e-5, rtol=1e-4)
    one = net.listen(**given(net))
    torch.testing.assert_close(mask_guided(net, [1.0])(point, at(0.4), one), net(point, at(0.4), one), atol=1e-5, rtol=1e-4)
    # Within guidance of the text, as any field is.
    both = guided(mask_guided(net, [2.0, 0.5]), {"text": 3.0})(point, at(0.4), condition)
    plain = mask_guided(net, [2.0, 0.5])(point, at(0.4), condition.without("text"))
    torch.testing.assert_close(both, plain + 3.0 * (wanted - plain), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_each_part_counts_and_can_be_dropped(folders: dict[str, Path], kind: str) -> None:
    net = make(folders[kind])
    condition, point = net.listen(**given(net)), noisy(net)
    whole = net(point, at(0.4), condition)
    names = ["text", "speech", *(["reference"] if net.stills else []), "identity", "skeleton", "intensity"]
    assert list(condition.parts) == names
    for name in names:
        gone = net(point, at(0.4), condition.without(name))
        assert (whole - gone).abs().max() > 1e-4, name
        torch.testing.assert_close(gone, net(point, at(0.4), condition.without(name).without(name)))
        some = net(point, at(0.4), condition.kept(name, torch.tensor([True, False])))
        torch.testing.assert_close(some, torch.stack([whole[0], gone[1]]), atol=1e-5, rtol=1e-4)
    stacked = VideoCondition.stack([condition, condition.without("speech")])
    pair = net(torch.cat([point, point]), at(0.4, 4), stacked)
    torch.testing.assert_close(pair[:2], whole, atol=1e-5, rtol=1e-4)
    takes = net(point.repeat_interleave(2, 0), at(0.4, 4), condition.repeated(2))
    torch.testing.assert_close(takes[::2], whole, atol=1e-5, rtol=1e-4)


def test_absent_parts_are_those_that_were_not_given(folders: dict[str, Path]) -> None:
    net = make(folders["t2v"])
    point, full = noisy(net), given(net)
    for name, key in (("speech", "voices"), ("identity", "face"), ("skeleton", "skeleton"), ("intensity", "intensity")):
        less = {k: v for k, v in full.items() if k != key}
        here, there = net.listen(**less), net.listen(**full).without(name)
        torch.testing.assert_close(net(point, at(0.4), here), net(point, at(0.4), there), atol=1e-5, rtol=1e-4)


def test_unknown_and_missing_parts_are_refused(folders: dict[str, Path]) -> None:
    net = make(folders["t2v"], identity=False)
    condition = net.listen(drawn(2, 5, TEXT_WIDTH), pictures=PICTURES)
    for name in ("colour", "reference", "identity", "text"):
        with pytest.raises(ValueError, match=name):
            condition.without(name)
    with pytest.raises(ValueError, match="face"):
        net.listen(drawn(2, 5, TEXT_WIDTH), pictures=PICTURES, face=drawn(2, 16, 4, 4))
    with pytest.raises(ValueError, match="takes no image"):
        net.listen(drawn(2, 5, TEXT_WIDTH), pictures=PICTURES, image=drawn(2, 3, 20))
    image = make(folders["i2v"])
    wanting = given(image)
    with pytest.raises(ValueError, match="512"):
        image.listen(**{**wanting, "text": drawn(2, 6, TEXT_WIDTH)})
    with pytest.raises(ValueError, match="takes known latents"):
        image.listen(**{**wanting, "still": None})
    for wrong in ({"injection": "telepathy"}, {"selector": "guess"}, {"heads": 3}, {"levels": replace(LEVELS, stride=4)}):
        with pytest.raises(ValueError):
            replace(PARTS, **wrong)
    with pytest.raises(ValueError, match="5 x 4"):
        net(drawn(2, FRAMES, 16, 5, 4), at(0.4), condition)


def test_neutral_intensity_is_the_base(folders: dict[str, Path]) -> None:
    net = make(folders["t2v"], levels=None, identity=False, joints=0)
    point = noisy(net)
    neutral, lively = (net.listen(**given(net, intensity=torch.full((2, 2), x))) for x in (0.5, 0.9))
    torch.testing.assert_close(net(point, at(0.4), neutral), by_the_base(net, point, at(0.4), neutral), atol=1e-5, rtol=0)
    assert (net(point, at(0.4), lively) - net(point, at(0.4), neutral)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="1\\.5"):
        net.listen(**given(net, intensity=torch.full((2, 2), 1.5)))


@pytest.mark.parametrize("injection", ["film", "attention"])
def test_a_stretch_of_a_condition_is_that_of_its_frames(folders: dict[str, Path], injection: str) -> None:
    """Later frames of a long listening, against a window that went on: 4k pictures whose first frame is like all others."""
    net = make(folders["t2v"], injection=injection, levels=NARROW, around=0, joints=3)
    text, sound = drawn(2, 5, TEXT_WIDTH), drawn(2, NARROW.history + 2 * (PICTURES - 1) + 1 + NARROW.lookahead, NARROW.heard)
    bones = drawn(2, PICTURES, 3, 3)
    long = net.listen(text, pictures=PICTURES, voices=[Voice(speech=sound)], skeleton=bones).between(1, 3)
    later = net.listen(text, pictures=8, voices=[Voice(speech=sound[:, 2:])], skeleton=bones[:, 1:])
    point = noisy(net, frames=2)
    torch.testing.assert_close(net(point, at(0.4, frames=2), long), net(point, at(0.4, frames=2), later), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("injection", ["film", "attention"])
def test_gradient_reaches_every_own_parameter_after_one_step(folders: dict[str, Path], injection: str) -> None:
    net = make(folders["t2v"], fresh=True, rank=2, injection=injection)
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("own.policy.") or ".lora_" in name for name in trained)
    optimiser = torch.optim.SGD(trained.values(), lr=0.5)
    point, some = noisy(net), torch.tensor([True, False])
    for _ in range(2):
        condition = net.listen(**given(net))
        for name in ("speech", "identity", "skeleton"):
            condition = condition.kept(name, some if name == "speech" else ~some)
        optimiser.zero_grad()
        (net(point, at(0.4), condition) - point).square().sum().backward()
        optimiser.step()
    still = {name for name, parameter in trained.items() if parameter.grad is None or parameter.grad.abs().max() == 0}
    assert still == {name for name in still if name.endswith(".key.bias")}  # what all keys share changes no softmax


def test_checkpointed_gradients_are_the_same(folders: dict[str, Path]) -> None:
    found = []
    for again in (False, True):
        net = make(folders["t2v"], rank=2)
        net.config = replace(net.config, checkpointing=again)
        net(noisy(net), at(0.4), net.listen(**given(net))).square().sum().backward()
        found.append({name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 50
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_checkpointing_recomputes_each_block_once(folders: dict[str, Path]) -> None:
    net = make(folders["t2v"])
    counts = [0, 0]
    for i, asked in enumerate((False, True)):
        if asked:
            net.base.enable_gradient_checkpointing()
        handle = net.base.blocks[0].register_forward_hook(lambda *_, i=i: counts.__setitem__(i, counts[i] + 1))
        net(noisy(net), at(0.4), net.listen(**given(net))).square().sum().backward()
        with torch.no_grad():
            net(noisy(net), at(0.4), net.listen(**given(net)))
        handle.remove()
    assert counts == [2, 3]


def test_uniform_selectors_do_not_learn(folders: dict[str, Path]) -> None:
    nets = [make(folders["t2v"], selector=selector) for selector in ("learned", "uniform")]
    outputs = [net(noisy(net), at(0.4), net.listen(**given(net))) for net in nets]
    assert nets[0].parts.selector.logits.requires_grad and not nets[1].parts.selector.logits.requires_grad
    for net in nets:
        assert net.parts.selector.weights().shape == (3, len(LEVELS.names))
    assert all(output.isfinite().all() for output in outputs)


def test_an_injection_comes_after_every_so_many_blocks(folders: dict[str, Path]) -> None:
    for every, wanted in ((1, "b0 i0 b1 i1 b2 i2"), (2, "b0 b1 i0 b2"), (3, "b0 b1 b2 i0")):
        net, calls = make(folders["t2v"], every=every), list[str]()
        for letter, modules in (("b", net.base.blocks), ("i", net.parts.injections)):
            for i, module in enumerate(modules):
                module.register_forward_hook(lambda *_, name=f"{letter}{i}", calls=calls: calls.append(name))
        net(noisy(net), at(0.4), net.listen(**given(net)))
        assert " ".join(calls) == wanted
    with pytest.raises(ValueError, match="every 4 blocks"):
        make(folders["t2v"], every=4)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_travel_in_one_file(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    net = make(folders[kind], rank=2)
    net.save(tmp_path / "adapter.safetensors", {"note": "test"})
    loaded = VideoTransformer.load(load_tiny_wan(folders[kind]), tmp_path / "adapter.safetensors")
    assert loaded.config == net.config and loaded.metadata == {"note": "test"}
    point = noisy(net)
    ours, theirs = (one(point, at(0.4), one.listen(**given(one))) for one in (net, loaded))
    assert torch.equal(ours, theirs)
    weights = sum(weight.numel() for weight in net.adapter_state().values())
    assert weights == sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_adapters_of_half_precision_come_back_in_it(folders: dict[str, Path], tmp_path: Path) -> None:
    net = make(folders["t2v"], rank=2, dtype=torch.bfloat16)
    net.own.to(torch.bfloat16)
    net.save(tmp_path / "adapter.safetensors", {})
    loaded = VideoTransformer.load(load_tiny_wan(folders["t2v"], torch.bfloat16), tmp_path / "adapter.safetensors")
    point = noisy(net)
    ours, theirs = (one(point, at(0.4), one.listen(**given(one))) for one in (net, loaded))
    assert torch.equal(ours, theirs)


def test_another_base_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    net = make(folders["t2v"], rank=2)
    net.save(tmp_path / "adapter.safetensors", {})
    other = load_tiny_wan(save_tiny_wan(tmp_path / "other", "t2v", ffn_dim=40))
    with pytest.raises(ValueError, match="ffn_dim 32, this one has 40"):
        VideoTransformer.load(other, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match="carries a LoRA adapter already"):
        VideoTransformer(net.base, net.config)
    old = '{"net": {"parts": {"levels": null, "ears": 2}}, "base": {}}'
    save_file({"own.x": torch.zeros(1)}, tmp_path / "old.safetensors", {"config": old})
    with pytest.raises(ValueError, match="another version"):
        VideoTransformer.load(load_tiny_wan(folders["t2v"]), tmp_path / "old.safetensors")


@pytest.mark.parametrize("rank", [0, 2])
def test_a_reference_stays_while_the_policy_moves_and_nothing_leaks(folders: dict[str, Path], rank: int) -> None:
    net = make(folders["t2v"], rank=rank)
    point, time, inputs = noisy(net), at(0.4), given(net)

    @torch.no_grad()
    def now() -> torch.Tensor:
        return net(point, time, net.listen(**inputs))

    before = now()
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    reference = net.reference()
    held = reference(point, time, reference.listen(**inputs))
    torch.testing.assert_close(held, before, atol=1e-5, rtol=1e-5)
    assert [name for name, parameter in net.named_parameters() if parameter.requires_grad] == trained
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * drawn(*parameter.shape, seed=5)
    after = now()
    assert (after - before).abs().max() > 1e-2
    assert torch.equal(reference(point, time, reference.listen(**inputs)), held)
    assert torch.equal(now(), after)
    assert net.active == POLICY
    # Between the two halves of a step of the policy, too.
    net.zero_grad()
    loss = net(point, time, net.listen(**inputs)).square().sum()
    alone = torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
    net.listen(**inputs)
    loss = net(point, time, net.listen(**inputs)).square().sum()
    reference(point, time, reference.listen(**inputs))
    loss.backward()
    for expected, parameter in zip(alone, [p for p in net.parameters() if p.requires_grad], strict=True):
        assert (expected is None) == (parameter.grad is None)
        assert expected is None or torch.equal(expected, parameter.grad)
    assert not any(p.requires_grad or p.grad is not None for n, p in net.named_parameters() if REFERENCE in n)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_reference_follows_as_a_moving_average(folders: dict[str, Path], rank: int, tmp_path: Path) -> None:
    net = make(folders["t2v"], rank=rank)
    net.reference()
    start = {key: weight.clone() for key, weight in net.adapter_state(REFERENCE).items()}
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    policy = net.adapter_state()
    assert policy.keys() == start.keys()
    net.follow(0.75)
    for key, weight in net.adapter_state(REFERENCE).items():
        torch.testing.assert_close(weight, 0.75 * start[key] + 0.25 * policy[key])
    saved = tmp_path / "adapter.safetensors"
    net.save(saved, {})  # the policy only
    loaded = VideoTransformer.load(load_tiny_wan(folders["t2v"]), saved)
    assert all(torch.equal(weight, policy[key]) for key, weight in loaded.adapter_state().items())
    with pytest.raises(ValueError, match="judge"):
        with net.using("judge"):
            pass


def test_a_reference_never_drops_out(folders: dict[str, Path]) -> None:
    net = make(folders["t2v"], levels=replace(LEVELS, dropout=0.5)).train()
    reference, inputs, point = net.reference(), given(net), noisy(net)
    net.train()
    here, there = (reference(point, at(0.4), reference.listen(**inputs)) for _ in range(2))
    assert torch.equal(here, there)
    assert not torch.equal(*(net(point, at(0.4), net.listen(**inputs)) for _ in range(2)))
