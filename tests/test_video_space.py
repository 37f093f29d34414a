"""VideoSpace: what diffusers' autoencoder and pipelines give, in any chunks, for any number of clips at once."""

from __future__ import annotations

import ast
import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_wan import VAE_2_1, VAE_2_2, make_vae, save_vae
from torch import Tensor

import vivavoce
from vivavoce import Portrait
from vivavoce.latent.framing import HEAD_AND_SHOULDERS, chosen_face, cut, window
from vivavoce.latent.space import Frame, LatentSpec
from vivavoce.latent.tiles import Tiling
from vivavoce.latent.video import DecoderState, EncoderState, VideoSpace

KINDS = {"2.1": VAE_2_1, "2.2": VAE_2_2}
HEIGHT, WIDTH, FPS = 32, 48, 16.0
CHUNKS = st.lists(st.integers(0, 5), max_size=6)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_vae(tmp_path_factory.mktemp("wan"), **config) for name, config in KINDS.items()}


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, bases: dict[str, Path]) -> Path:
    return bases[request.param]


@pytest.fixture(scope="module")
def space(base: Path) -> VideoSpace:
    return VideoSpace.load(base, height=HEIGHT, width=WIDTH, fps=FPS)


@pytest.fixture(scope="module")
def vae(base: Path) -> AutoencoderKLWan:
    """diffusers' own, from the same files."""
    return AutoencoderKLWan.from_pretrained(base, subfolder="vae").eval().requires_grad_(False)


def clip(pictures: int, seed: int = 0, *, height: int = HEIGHT, width: int = WIDTH) -> list[Frame]:
    """Colours that move, so that no picture is like another."""
    rng = np.random.default_rng(seed)
    phase, speed = rng.uniform(0, 6, (2, 1, 1, 1, 3))
    t, y, x = np.meshgrid(np.arange(pictures), np.arange(height), np.arange(width), indexing="ij")
    waves = np.sin(phase + speed * t[..., None] + 0.3 * y[..., None] + 0.2 * x[..., None])
    return list((127.5 + 100 * waves + rng.uniform(-25, 25, waves.shape)).astype(np.uint8))


def noise(space: VideoSpace, latents: int, seed: int = 0) -> Tensor:
    return torch.randn(1, latents, *space.spec.event, generator=torch.Generator().manual_seed(seed))


def as_wan(frames: list[Frame]) -> Tensor:
    """As diffusers' pipelines have a video: (1, 3, t, h, w), -1 to 1."""
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def statistics(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    mean, deviation = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    return mean, deviation


def encoded_by(vae: AutoencoderKLWan, frames: list[Frame]) -> Tensor:
    mean, deviation = statistics(vae)
    return ((vae.encode(as_wan(frames)).latent_dist.mode() - mean) / deviation).transpose(1, 2)


def decoded_by(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    mean, deviation = statistics(vae)
    return vae.decode(latents.transpose(1, 2) * deviation + mean).sample.transpose(1, 2)


def pieces(items: Any, sizes: list[int]) -> Iterator[Any]:
    """Cut into pieces of these sizes, and the rest."""
    begin = 0
    for size in sizes:
        yield items[begin : begin + size]
        begin += size
    yield items[begin:]


def decoded_in(space: VideoSpace, latents: Tensor, sizes: list[int]) -> Tensor:
    state, parts = space.start(), []
    for piece in pieces(latents[0], sizes):
        part, state = space.decode_float(piece[None], state)
        parts.append(part)
    assert state.latents == latents.shape[1]
    return torch.cat(parts, 1)


def encoded_in(space: VideoSpace, frames: list[Frame], sizes: list[int]) -> Tensor:
    state, parts = space.start_encoding(), []
    for piece in pieces(frames, sizes):
        part, state = space.encode_more(piece, state)
        parts.append(part)
    assert not state.waiting
    return torch.cat(parts, 1)


@given(st.integers(1, 9).flatmap(lambda stride: st.tuples(st.just(stride), st.integers(1, stride))), st.integers(0, 1000))
def test_pictures_and_latents_count_each_other(rule: tuple[int, int], count: int) -> None:
    spec = LatentSpec(event=(3,), rate_hz=2.0, stride=rule[0], first=rule[1])
    assert spec.latents(spec.pictures(count)) == count
    try:
        assert spec.pictures(spec.latents(count)) == count
    except ValueError as error:
        offers = [int(word) for word in str(error).split("give ")[1].split(" or ")]
        assert all(spec.pictures(spec.latents(offer)) == offer > 0 for offer in offers)
        assert min(offers) > count or min(offers) < count < max(offers)


def test_counts_that_do_not_divide_are_refused_with_what_to_give() -> None:
    spec = LatentSpec(event=(16, 60, 104), rate_hz=4.0, stride=4, first=1)
    assert (spec.pictures(21), spec.latents(81), spec.fps) == (81, 21, 16.0)
    with pytest.raises(ValueError, match=r"^80 pictures were given, but latents are 1 picture and then 4 each: give 77 or 81$"):
        spec.latents(80)
    with pytest.raises(ValueError, match="-1 latents"):
        spec.pictures(-1)


def test_a_spec_follows_from_the_config(bases: dict[str, Path]) -> None:
    for name, event in (("2.1", (4, 4, 6)), ("2.2", (6, 2, 3))):
        space = VideoSpace.load(bases[name], height=32, width=48, fps=24.0)
        assert space.spec == LatentSpec(event=event, rate_hz=6.0, stride=4, first=1)
        assert space.at(64, 96).spec.event == (event[0], 2 * event[1], 2 * event[2])


PUBLISHED = {
    "2.1": ({}, (16, 60, 104)),
    "2.2": (
        {"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
         "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16},
        (48, 30, 52),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "event"), PUBLISHED.values(), ids=PUBLISHED)
def test_the_published_sizes_go_through(config: dict[str, Any], event: tuple[int, ...]) -> None:
    """Without their numbers: on torch's meta device, which knows shapes only."""
    with torch.device("meta"):
        vae = AutoencoderKLWan(**config)
    space = VideoSpace(vae, height=480, width=832, fps=16.0)
    assert space.spec.event == event
    pictures, state = space.decode_float(torch.zeros(1, 2, *event, device="meta"), space.start())
    assert pictures.shape == (1, space.spec.pictures(2), 3, 480, 832)
    assert space.decode_float(torch.zeros(1, 1, *event, device="meta"), state)[0].shape[1] == space.spec.stride


def test_encoding_equals_the_pipelines_however_pictures_come(space: VideoSpace, vae: AutoencoderKLWan) -> None:
    frames = clip(13)
    whole = space.encode(iter(frames))
    torch.testing.assert_close(whole, encoded_by(vae, frames), atol=1e-5, rtol=0)

    @settings(max_examples=4, deadline=None)
    @given(CHUNKS)
    def any_chunks(sizes: list[int]) -> None:
        assert torch.equal(encoded_in(space, frames, sizes), whole)

    any_chunks()


def test_decoding_equals_the_autoencoders_however_latents_come(space: VideoSpace, vae: AutoencoderKLWan) -> None:
    latents = noise(space, 5)
    theirs = decoded_by(vae, latents)
    assert theirs.std() > 0.2 and (theirs.abs() == 1).float().mean() < 0.5  # neither grey nor all cut off

    @settings(max_examples=4, deadline=None)
    @given(CHUNKS)
    def any_chunks(sizes: list[int]) -> None:
        torch.testing.assert_close(decoded_in(space, latents, sizes), theirs, atol=1e-5, rtol=0)

    any_chunks()
    pictures, _ = space.decode(latents, space.start())
    assert pictures.shape == (space.spec.pictures(5), HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(pictures, 127.5 * (theirs[0].permute(0, 2, 3, 1).numpy() + 1), atol=0.501)


def test_the_memory_matters(space: VideoSpace) -> None:
    """What the equalities above are worth: without what was before, pictures and latents are others."""
    latents, frames = noise(space, 3), clip(9)
    begun, _ = space.decode_float(latents[:, 2:], space.start())
    assert (decoded_in(space, latents, [])[:, -1] - begun[:, 0]).abs().max() > 0.1
    assert (space.encode(frames)[:, 2:] - space.encode(frames[4:])[:, 1:]).abs().max() > 0.01


def test_clips_share_a_space_without_hearing_of_each_other(space: VideoSpace) -> None:
    clips, videos = [noise(space, 4, seed) for seed in (1, 2)], [clip(9, seed) for seed in (1, 2)]
    alone = [decoded_in(space, latents, []) for latents in clips]
    alone_encoded = [space.encode(frames) for frames in videos]
    decoders, encoders = [space.start(), space.start()], [space.start_encoding(), space.start_encoding()]
    made: list[list[Tensor]] = [[], []]
    encoded: list[list[Tensor]] = [[], []]
    for listener in (0, 1, 1, 0, 0, 1, 1, 0):
        done = decoders[listener].latents
        pictures, decoders[listener] = space.decode_float(clips[listener][:, done : done + 1], decoders[listener])
        latents, encoders[listener] = space.encode_more(videos[listener][3 * done : 3 * done + 3], encoders[listener])
        made[listener].append(pictures)
        encoded[listener].append(latents)
    for listener in (0, 1):
        assert torch.equal(torch.cat(made[listener], 1), alone[listener])
        assert torch.equal(torch.cat(encoded[listener], 1), alone_encoded[listener])


def test_a_state_may_be_gone_on_from_again_and_again(space: VideoSpace) -> None:
    latents, frames = noise(space, 4), clip(10)
    _, decoder = space.decode(latents[:, :2], space.start())
    _, encoder = space.encode_more(frames[:6], space.start_encoding())
    kept = [tensor.clone() for tensor in tensors(decoder) + tensors(encoder)]
    other, _ = space.decode_float(noise(space, 2, seed=9), decoder)
    first, second = (space.decode_float(latents[:, 2:], decoder)[0] for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(first, decoded_in(space, latents, [])[:, 5:])
    third, fourth = (space.encode_more(frames[6:9], encoder)[0] for _ in range(2))
    assert torch.equal(third, fourth) and torch.equal(third, space.encode(frames[:9])[:, 2:])
    assert all(torch.equal(a, b) for a, b in zip(kept, tensors(decoder) + tensors(encoder), strict=True))


def tensors(state: DecoderState | EncoderState) -> list[Tensor]:
    return [feature for cache in state.caches for feature in cache if isinstance(feature, Tensor)]


def test_memory_does_not_grow_with_the_clip(space: VideoSpace) -> None:
    alive: set[int] = set()
    most = 0

    def recorded() -> Iterator[Frame]:
        nonlocal most
        for index in range(25):
            frame = np.full((HEIGHT, WIDTH, 3), index, np.uint8)
            alive.add(index)
            weakref.finalize(frame, alive.discard, index)
            yield frame
            most = max(most, len(alive))

    _, state = space.encode_more(recorded(), space.start_encoding())
    assert most <= space.spec.stride + 1  # and the one that comes
    _, shorter = space.encode_more(clip(9), space.start_encoding())
    assert sum(t.numel() for t in tensors(state)) == sum(t.numel() for t in tensors(shorter))
    sizes = []
    decoder = space.start()
    for latent in noise(space, 6)[0]:
        _, decoder = space.decode(latent[None, None], decoder)
        sizes.append(sum(t.numel() for t in tensors(decoder)))
    assert len(set(sizes[2:])) == 1


@pytest.mark.parametrize("size", [(64, 96), (80, 32)])
def test_tiles_stream_as_diffusers_joins_them(base: Path, vae: AutoencoderKLWan, size: tuple[int, int]) -> None:
    tiling = Tiling(side=48, stride=32)
    space = VideoSpace.load(base, height=size[0], width=size[1], fps=FPS, tiling=tiling)
    latents, frames = noise(space, 3), clip(9, height=size[0], width=size[1])
    whole = decoded_by(vae, latents)
    vae.enable_tiling(tiling.side, tiling.side, tiling.stride, tiling.stride)
    try:
        theirs, theirs_encoded = decoded_by(vae, latents), encoded_by(vae, frames)
    finally:
        vae.disable_tiling()
    assert (whole - theirs).abs().max() > 0.01  # there are seams to be joined
    for sizes in ([], [1, 1]):
        torch.testing.assert_close(decoded_in(space, latents, sizes), theirs, atol=2e-5, rtol=0)
        torch.testing.assert_close(encoded_in(space, frames, [3 * n for n in sizes]), theirs_encoded, atol=2e-5, rtol=0)


def test_what_fits_into_a_tile_stays_whole(base: Path, space: VideoSpace) -> None:
    tiled = VideoSpace.load(base, height=HEIGHT, width=WIDTH, fps=FPS, tiling=Tiling(side=48, stride=32))
    latents = noise(space, 2)
    assert torch.equal(decoded_in(tiled, latents, []), decoded_in(space, latents, []))
    assert torch.equal(tiled.encode(clip(5)), space.encode(clip(5)))


def test_a_pipelines_own_video_is_what_we_decode(space: VideoSpace, vae: AutoencoderKLWan) -> None:
    """WanPipeline from noise to pictures, against its latents through VideoSpace."""
    channels = space.spec.event[0]
    torch.manual_seed(3)
    net = WanTransformer3DModel(
        in_channels=channels, out_channels=channels, num_attention_heads=2, attention_head_dim=12, text_dim=8, freq_dim=16,
        ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    pipeline = WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(), transformer=net
    )
    pipeline.set_progress_bar_config(disable=True)

    def made(kind: str) -> Any:
        return pipeline(
            prompt_embeds=torch.ones(1, 4, 8), guidance_scale=1.0, num_inference_steps=2, height=64, width=32, num_frames=9,
            generator=torch.Generator().manual_seed(4), output_type=kind,
        ).frames  # fmt: skip

    pictures, _ = space.at(64, 32).decode(made("latent").transpose(1, 2), space.start())
    np.testing.assert_allclose(pictures, 255 * made("np")[0], atol=0.501)


@pytest.mark.parametrize("expand", [False, True], ids=["channels beside the noise", "first latent"])
def test_a_still_is_what_the_image_pipelines_condition_on(space: VideoSpace, vae: AutoencoderKLWan, expand: bool) -> None:
    pipeline = WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(), transformer=None,
        expand_timesteps=expand,
    )  # fmt: skip
    picture = clip(1)[0]
    _, condition, *_ = pipeline.prepare_latents(
        pipeline.video_processor.preprocess(picture[None] / np.float32(255), height=HEIGHT, width=WIDTH), 1,
        num_channels_latents=space.spec.event[0], height=HEIGHT, width=WIDTH, num_frames=13, dtype=torch.float32,
        generator=torch.Generator(),
    )  # fmt: skip
    if expand:
        ours = space.encode([picture])
    else:
        ours, condition = space.opening(picture, 4), condition[:, space.spec.stride :]  # after its mask
    torch.testing.assert_close(ours.transpose(1, 2), condition, atol=1e-5, rtol=0)


def test_gradients_reach_latents_and_no_weights(space: VideoSpace) -> None:
    latents = noise(space, 2).requires_grad_()
    pictures, _ = space.decode_float(latents, space.start())
    (slope,) = torch.autograd.grad(pictures[:, -1].sum(), latents)
    assert (slope.abs().sum((0, 2, 3, 4)) > 0).all()  # of both: the last picture shows what was before
    assert not any(p.requires_grad for p in space.vae.parameters())


def test_half_precision_keeps_its_latents_whole(base: Path, space: VideoSpace) -> None:
    half = VideoSpace.load(base, height=HEIGHT, width=WIDTH, fps=FPS, dtype=torch.bfloat16)
    latents = half.encode(clip(5))
    assert half.vae.dtype == torch.bfloat16 and latents.dtype == torch.float32
    torch.testing.assert_close(latents, space.encode(clip(5)), atol=0.1, rtol=0.05)
    given, _ = half.decode_float(noise(space, 2), half.start())
    assert (given - decoded_in(space, noise(space, 2), [])).abs().mean() < 0.02


def test_a_reference_is_the_picture_and_its_latent(space: VideoSpace) -> None:
    picture = clip(1)[0]
    reference = space.reference(Portrait(image=picture))
    assert np.array_equal(reference.picture, picture)  # of the space's size already, and no face to be cut out
    assert torch.equal(reference.latent, space.encode([picture]))
    twice = space.reference(Portrait(image=picture.repeat(2, 0).repeat(2, 1)))
    assert np.array_equal(twice.picture, picture)
    with pytest.raises(ValueError, match="no face was found"):
        space.reference(Portrait(image=picture), crop=HEAD_AND_SHOULDERS)
    with pytest.raises(ValueError, match="no face was found"):
        space.reference(Portrait(image=picture, face=0))


def test_a_picture_that_is_held_is_a_clip_of_it(space: VideoSpace) -> None:
    first, *_, last = pictures = list(clip(5))
    assert torch.equal(space.opening(first, 3, held=True), space.encode([first] * 9))
    assert torch.equal(space.begun(pictures, 3, held=True), space.encode([*pictures, *[last] * 4]))


@pytest.mark.parametrize("size", [(96, 96), (64, 128), (128, 64)])
def test_a_crop_is_round_the_face(space: VideoSpace, astronaut: Portrait, size: tuple[int, int]) -> None:
    height, width = size
    face = chosen_face(astronaut)
    middle = face[:, :2].mean(0)
    for close in (HEAD_AND_SHOULDERS, 1.4, None):
        low, extent = window(face, astronaut.image.shape, aspect=width / height, close=close)
        assert (low >= 0).all() and (low + extent <= [*astronaut.image.shape[1::-1]]).all()
        assert (low < face[:, :2].min(0)).all() and (face[:, :2].max(0) < low + extent).all()  # nothing of it is cut off
        assert extent[0] / extent[1] == pytest.approx(width / height)
        shown = cut(astronaut.image, low, extent, height=height, width=width)
        x, y = np.round((middle - low) * width / extent[0]).astype(int)
        around = astronaut.image[int(middle[1]) - 6 : int(middle[1]) + 6, int(middle[0]) - 6 : int(middle[0]) + 6]
        np.testing.assert_allclose(shown[y, x], around.mean((0, 1)), atol=25)  # the nose is where it has to be
    closer = window(face, astronaut.image.shape, aspect=width / height)[1]
    wider = window(face, astronaut.image.shape, aspect=width / height, close=None)[1]
    assert (closer <= wider).all() and (width != height or (closer < wider).all())
    reference = space.at(height, width).reference(astronaut, crop=HEAD_AND_SHOULDERS)
    assert np.array_equal(reference.picture, cut(astronaut.image, *window(face, astronaut.image.shape, aspect=width / height),
                                                 height=height, width=width))  # fmt: skip


def test_pictures_and_latents_of_other_shapes_are_refused(space: VideoSpace) -> None:
    with pytest.raises(ValueError, match=r"\(16, 48, 3\).*take the space `at` that size"):
        space.encode([np.zeros((16, WIDTH, 3), np.uint8)])
    with pytest.raises(ValueError, match="float64 was given"):
        space.encode([np.zeros((HEIGHT, WIDTH, 3))])
    with pytest.raises(ValueError, match=r"7 pictures were given, .* give 5 or 9"):
        space.encode(clip(7))
    with pytest.raises(ValueError, match="no pictures"):
        space.encode([])
    with pytest.raises(ValueError, match=r"latents of shape \(2, 1, "):
        space.decode(noise(space, 1).repeat(2, 1, 1, 1, 1), space.start())
    with pytest.raises(ValueError, match=r"^a width of 100 px .* multiple of (8, like 96 or 104|16, like 96 or 112)$"):
        space.at(32, 100)


def test_settings_that_cannot_be_are_refused(bases: dict[str, Path]) -> None:
    vae = AutoencoderKLWan.from_pretrained(bases["2.2"] / "vae")
    with pytest.raises(ValueError, match=r"^0 pictures per second"):
        VideoSpace(vae, height=32, width=32, fps=0)
    with pytest.raises(ValueError, match="give multiples of 16"):
        VideoSpace(vae, height=32, width=32, fps=25, tiling=Tiling(side=40, stride=32))
    with pytest.raises(ValueError, match="stride from 1 to the side"):
        Tiling(side=32, stride=48)
    with pytest.raises(ValueError, match=r"says 8x smaller .* layers make it 16x"):
        VideoSpace(make_vae(**VAE_2_2 | {"scale_factor_spatial": 8}), height=32, width=32, fps=25)
    with pytest.raises(ValueError, match="takes 1 and gives 1 channels"):
        VideoSpace(make_vae(**VAE_2_1, in_channels=1, out_channels=1), height=32, width=32, fps=25)


def test_folders_of_all_kinds(bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(base: str | Path) -> VideoSpace:
        return VideoSpace.load(base, height=HEIGHT, width=WIDTH, fps=FPS)

    base, latents = bases["2.1"], torch.ones(1, 1, 4, 4, 6)
    expected, _ = load(base).decode(latents, DecoderState())
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for source in (str(base), base / "vae", "Wan-AI/Wan2.1-Tiny"):
        assert np.array_equal(load(source).decode(latents, DecoderState())[0], expected)
    assert asked == [("Wan-AI/Wan2.1-Tiny", ["vae/*.json", "vae/*.safetensors", "vae/*.model"])]

    def unreachable(name: str, allow_patterns: list[str]) -> str:
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match=r"did not give it \(no route\): download the checkpoint and give its folder$"):
        load("Wan-AI/Wan2.1-Tiny")
    for nowhere in (tmp_path / "nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
            load(nowhere)
    with pytest.raises(ValueError, match=r"has no vae/config\.json"):
        load(tmp_path)


def test_damaged_folders_are_told_apart(bases: dict[str, Path], tmp_path: Path) -> None:
    def refused(folder: Path, sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence) as caught:
            VideoSpace.load(tmp_path, height=HEIGHT, width=WIDTH, fps=FPS)
        assert "\n" not in str(caught.value)

    vae, source = tmp_path / "vae", bases["2.1"] / "vae"
    shutil.copytree(source, vae)
    weights, config = next(vae.glob("*.safetensors")), json.loads((vae / "config.json").read_text())
    stored = load_file(weights)
    name = next(key for key in stored if key.startswith("decoder"))
    save_file({key: value for key, value in stored.items() if key != name}, weights)
    refused(vae, "lack 1 tensors like decoder|can't be used .*decoder")
    save_file(stored | {name: torch.zeros(3)}, weights)
    refused(vae, "can't be used")
    weights.write_bytes(weights.read_bytes()[:100])
    refused(vae, "can't be used")
    weights.unlink()
    refused(vae, "has no safetensors, and pickled weights")
    (vae / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))
    refused(vae, "holds a model of class 'AutoencoderKL': give one with a vae of class AutoencoderKLWan")
    (vae / "config.json").write_text("{")
    refused(vae, "is not JSON")
    (vae / "config.json").write_text("[]")
    refused(vae, "holds no settings but list")


def test_loading_is_silent(bases: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    VideoSpace.load(bases["2.2"], height=HEIGHT, width=WIDTH, fps=FPS)
    assert capfd.readouterr() == ("", "")


def test_diffusers_is_imported_only_where_it_is_used() -> None:
    """Nor is what comes with it: `import vivavoce` takes long enough."""
    package = Path(vivavoce.__file__).parent
    for path in [package / "components.py", *(package / "latent").glob("*.py"), *(package / "media").glob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"diffusers", "transformers", "huggingface_hub"}, path
