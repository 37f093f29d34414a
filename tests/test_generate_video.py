"""Video of any length: our windows against diffusers' own pipelines, and what windows must not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_wan import VAE_2_1, VAE_2_2, make_vae
from tiny_wan_net import TEXT_WIDTH, load_tiny_wan, save_tiny_wan

from vivavoce.flow.slide import integrate_sliding, windows
from vivavoce.flow.solve import euler, integrate
from vivavoce.generate_video import VideoGenerator, latent_noise
from vivavoce.latent.video import VideoReference, VideoSpace
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.video import VideoTransformer
from vivavoce.nets.video_parts import PartsConfig
from vivavoce.video_scene import Scene, VideoWindows

pytest.importorskip("diffusers")

LEVELS = LevelsConfig(
    streams={"phonetic": 3, "prosodic": 2}, widths=((1, 1), (2, 1)), memory=20, ahead=1, width=8, stem=8, dropout=0.0
)
SILENCE = torch.zeros(5)
KINDS = {"ti2v": VAE_2_2 | {"z_dim": 48}, "i2v": VAE_2_1 | {"z_dim": 16}}
SIDES = {"ti2v": 32, "i2v": 16}  # px: latents of 2 x 2
SHORT = VideoWindows(latents=5, prefix=2, steps=2, shift=3.0, guidance={"speech": 2.0}, steady=0.0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_tiny_wan(tmp_path_factory.mktemp(kind), kind, num_layers=2) for kind in ("ti2v", "t2v", "i2v")}


@pytest.fixture(scope="module")
def spaces() -> dict[str, VideoSpace]:
    return {kind: VideoSpace(make_vae(**vae), height=SIDES[kind], width=SIDES[kind], fps=25.0) for kind, vae in KINDS.items()}


def make(folder: Path, *, hears: bool = True, fresh: bool = False) -> VideoTransformer:
    torch.manual_seed(1)
    parts = PartsConfig(levels=LEVELS if hears else None, width=16, heads=2)
    net = VideoTransformer(load_tiny_wan(folder), VideoTransformer.Config(parts=parts)).eval()
    if hears and not fresh:
        generator = torch.Generator().manual_seed(2)
        for parameter in net.parameters():
            if parameter.requires_grad and parameter.abs().sum() == 0:
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return net


def picture(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def scene(net: VideoTransformer, space: VideoSpace | None = None, **more: Any) -> Scene:
    words = 512 if net.stills else 5
    found: dict[str, Any] = {"text": drawn(1, words, TEXT_WIDTH, seed=3), "no_text": drawn(1, words, TEXT_WIDTH, seed=4)}
    found["event"] = (net.base.config.out_channels, 2, 2)
    if space is not None:
        shown = picture(space.height)
        found["reference"] = VideoReference(picture=shown, latent=space.encode([shown]))
    if net.stills:
        found["image"] = drawn(1, 7, net.base.config.image_dim, seed=6)
    return Scene(**found | more)


def heard(features: int, seed: int = 5) -> torch.Tensor:
    return drawn(features, 5, seed=seed)


def scheduler(shift: float) -> Any:
    """Wan's own schedule: sigmas from 1 in equal steps, shifted, and 0."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    class Shifted(FlowMatchEulerDiscreteScheduler):
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # type: ignore[override]
            super().set_timesteps(sigmas=np.linspace(1, 0, num_inference_steps + 1)[:-1], device=device)  # type: ignore[arg-type]

    return Shifted(shift=shift)


@pytest.mark.parametrize("kind", ["t2v", "ti2v", "i2v"])
def test_one_window_is_what_diffusers_pipeline_makes(folders: dict[str, Path], spaces: dict[str, VideoSpace], kind: str) -> None:
    """A new adapter, guidance by text, the first frame given where there is one; from the same noise."""
    from diffusers import WanImageToVideoPipeline, WanPipeline
    from PIL import Image

    net, plan = make(folders[kind], fresh=True), replace(SHORT, steps=3, guidance={"text": 4.0, "speech": 2.0})
    space = spaces.get(kind)
    given = scene(net, space)
    generator = VideoGenerator(net, plan, silence=SILENCE, space=space)
    ours = generator.whole([heard(2 * 17)], given, seed=7)
    assert ours.shape[1] == 5
    options: dict[str, Any] = {
        "prompt_embeds": given.text, "negative_prompt_embeds": given.no_text, "num_frames": 17, "num_inference_steps": 3,
        "guidance_scale": 4.0, "output_type": "latent", "latents": latent_noise(7, range(5), given.event).transpose(1, 2),
    }
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "transformer": net.base, "scheduler": scheduler(3.0)}
    if space is None:
        pipe: Any = WanPipeline(vae=None, **parts)
        side = 16
    else:
        pipe = WanImageToVideoPipeline(
            vae=space.vae, image_encoder=None, image_processor=None, expand_timesteps=not net.stills, **parts
        )
        assert given.reference is not None
        pipe.encode_image = lambda *_: given.image
        options["image"] = Image.fromarray(given.reference.picture)
        side = SIDES[kind]
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        theirs = pipe(height=side, width=side, **options).frames.transpose(1, 2)
    assert ours.abs().max() > 0.5
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "opening"), [("ti2v", True), ("ti2v", False), ("i2v", True), ("i2v", False)])
def test_how_speech_is_cut_changes_nothing(
    folders: dict[str, Path], spaces: dict[str, VideoSpace], kind: str, opening: bool
) -> None:
    net = make(folders[kind])
    generator = VideoGenerator(net, replace(SHORT, opening=opening), silence=SILENCE, space=spaces[kind])
    given, speech = scene(net, spaces[kind]), heard(2 * 41 + 1)
    whole = generator.whole([speech], given, seed=1)
    assert whole.shape[1] == 1 + 11  # 42 pictures
    for cuts in ((30, 31, 70), (1, 83)):
        state, made, begin = generator.start(given), [], 0
        for end in (*cuts, len(speech)):
            new, state = generator.step([speech[begin:end]], state, seed=1, last=end == len(speech))
            made.append(new)
            begin = end
        assert torch.equal(torch.cat(made, 1), whole)
        assert sum(part.shape[1] > 0 for part in made) > 1 or cuts[0] == 1
    assert not torch.equal(generator.whole([speech], given, seed=2)[:, 1:], whole[:, 1:])


def test_a_window_hears_its_own_pictures_and_sees_what_came_before(
    folders: dict[str, Path], spaces: dict[str, VideoSpace]
) -> None:
    """Window 1 by hand: the reference, two clean latents, then two new ones."""
    net, space = make(folders["ti2v"]), spaces["ti2v"]
    generator, given, speech = VideoGenerator(net, SHORT, silence=SILENCE), scene(net, space), heard(100)
    whole = generator.whole([speech], given, seed=1)
    from vivavoce.flow.guide import guided, pinned
    from vivavoce.nets.hearing import hear_all, hear_silence
    from vivavoce.nets.video_condition import Voice

    quiet = hear_silence(SILENCE, LEVELS).expand(LEVELS.history, -1)
    all_heard = torch.cat([quiet, hear_all(speech, LEVELS)])
    # Latents 3 to 6; the picture of the reference's place is the last one of latent 2, which is number 8.
    first, pictures = 8, 17
    part = all_heard[2 * first : 2 * first + LEVELS.history + 2 * (pictures - 1) + 1 + LEVELS.lookahead]
    condition = net.listen(given.text, pictures=pictures, no_text=given.no_text, voices=[Voice(speech=part[None])])
    assert given.reference is not None
    clean = torch.cat([given.reference.latent, whole[:, 3:5]], 1)
    start = torch.cat([clean, latent_noise(1, range(5, 7), given.event)], 1)
    with torch.no_grad():
        solved = integrate(pinned(guided(net, {"speech": 2.0}), clean), start, condition, times=SHORT.times(), step=euler)
    torch.testing.assert_close(whole[:, 5:7], solved[:, 3:], atol=1e-5, rtol=1e-5)
    later = speech.clone()
    later[2 * 25 + LEVELS.lookahead + 1 :] += 1  # behind all that window 1 hears
    assert torch.equal(generator.whole([later], given, seed=1)[:, :7], whole[:, :7])
    assert torch.equal(whole[:, :1], given.reference.latent)


def test_the_cooler_the_less_chance(folders: dict[str, Path]) -> None:
    net, speech = make(folders["ti2v"]), heard(100)

    def apart(temperature: float) -> float:
        generator = VideoGenerator(net, replace(SHORT, temperature=temperature), silence=SILENCE)
        one, other = (generator.whole([speech], scene(net), seed=seed) for seed in (1, 2))
        return float((one - other).abs().mean())

    assert 0 == apart(0.0) < apart(0.3) < apart(1.0)


def test_every_latent_is_in_one_window_in_every_step() -> None:
    for total in (1, 5, 21, 50):
        for offset in range(12):
            parts = windows(total, 8, offset)
            assert [i for part in parts for i in part] == list(range(total))
            assert max(map(len, parts)) <= 8
    seams = [{part.start for part in windows(50, 8, 3 * step)} - {0} for step in range(3)]
    assert not seams[0] & seams[1] and not seams[1] & seams[2]


def test_sliding_windows_are_one_large_one_where_the_field_is_local() -> None:
    noise, times = drawn(2, 23, 3), VideoWindows(steps=6).times()

    def local(point: torch.Tensor, time: torch.Tensor, _: object) -> torch.Tensor:
        return torch.sin(3 * point) * time[..., None] - point

    slid = integrate_sliding(local, noise, times=times, length=7, shift=3)
    torch.testing.assert_close(slid, integrate(local, noise, None, times=times, step=euler))


@pytest.mark.parametrize("kind", ["ti2v", "i2v", "t2v"])
def test_a_video_that_fits_one_window_is_the_same_either_way(
    folders: dict[str, Path], spaces: dict[str, VideoSpace], kind: str
) -> None:
    net, space = make(folders[kind]), spaces.get(kind)
    given, speech = scene(net, space), heard(2 * 17)
    one, slid = (
        VideoGenerator(net, replace(SHORT, length=length, slide=5), silence=SILENCE, space=space).whole([speech], given, seed=1)
        for length in ("prefix", "slide")
    )
    torch.testing.assert_close(slid, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ti2v", "i2v"])
def test_seams_of_sliding_windows_are_bridged(folders: dict[str, Path], spaces: dict[str, VideoSpace], kind: str) -> None:
    """Far latents know of each other in two steps, which they would not in windows that stay; the reference stays what it is."""
    net, space = make(folders[kind]), spaces[kind]
    given, speech = scene(net, space), heard(2 * 41)
    still = torch.zeros(1, 11, *given.event)
    far = still.clone()
    far[:, 1] = 5.0
    shifts: dict[int, bool] = {}
    for slide in (2, 5):
        plan = replace(SHORT, length="slide", slide=slide, steps=2, shift=1.0)
        generator = VideoGenerator(net, plan, silence=SILENCE, space=space)
        near, away = (
            generator.whole([speech], replace(given, guide=guide, begin=0.1), seed=1) for guide in (still, far)
        )
        shifts[slide] = bool((near[:, 5:] - away[:, 5:]).abs().max() > 1e-6)
        if kind == "ti2v":
            assert given.reference is not None
            torch.testing.assert_close(near[:, :1], given.reference.latent)
    assert shifts == {2: True, 5: False}


def test_several_speakers_are_heard_each_in_their_place(folders: dict[str, Path], spaces: dict[str, VideoSpace]) -> None:
    """In one step from noise, a speaker's words change the video only where the speaker is."""
    net, space = make(folders["ti2v"]), spaces["ti2v"]
    left = torch.tensor([[1.0, 0.0]] * 2)
    given = scene(net, space, masks=(left, 1 - left))
    plan = replace(SHORT, steps=1, guidance={"text": 2.0, "speech": 3.0})
    generator = VideoGenerator(net, plan, silence=SILENCE)
    one, two, other = heard(34, 1), heard(34, 2), heard(34, 3)
    both = generator.whole([one, two], given, seed=1)
    changed = generator.whole([one, other], given, seed=1) - both
    assert changed[..., 0].abs().max() < 1e-5 < 1e-3 < changed[..., 1].abs().max()
    with pytest.raises(ValueError, match="speech of 1 speakers was given, the scene has 2"):
        generator.whole([one], given, seed=1)
    with pytest.raises(ValueError, match="fill up the shorter ones with silence"):
        generator.whole([one, heard(9)], given, seed=1)


@pytest.mark.parametrize("length", ["prefix", "slide"])
def test_one_speaker_is_guided_at_the_lips(folders: dict[str, Path], spaces: dict[str, VideoSpace], length: Any) -> None:
    """In one step from noise, what is not at the lips is as without guidance, and what is, as with."""
    net, space = make(folders["ti2v"]), spaces["ti2v"]
    left, speech = torch.tensor([[1.0, 0.0]] * 2), [heard(34)]
    plan = replace(SHORT, steps=1, length=length, guidance={"text": 2.0, "speech": 3.0})
    plain = replace(plan, guidance={"text": 2.0, "speech": 1.0})

    def made(windows: VideoWindows, lips: torch.Tensor | None) -> torch.Tensor:
        return VideoGenerator(net, windows, silence=SILENCE).whole(speech, scene(net, space, lips=lips), seed=1)

    here, everywhere, nowhere = made(replace(plan, at_lips=True), left), made(plan, left), made(plain, None)
    assert (everywhere - nowhere)[:, 1:].abs().amin((0, 1, 2, 3)).max() > 0
    torch.testing.assert_close(here[..., 0], everywhere[..., 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(here[..., 1], nowhere[..., 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made(replace(plan, at_lips=True), None), everywhere, atol=1e-5, rtol=1e-5)


def test_the_level_of_the_first_window_is_kept(folders: dict[str, Path], spaces: dict[str, VideoSpace]) -> None:
    """A random network drifts from window to window; held, every channel keeps the first window's mean and deviation."""
    net, space = make(folders["ti2v"]), spaces["ti2v"]
    given, speech = scene(net, space), heard(2 * 81)
    for steady in (0.0, 1.0):
        video = VideoGenerator(net, replace(SHORT, steady=steady), silence=SILENCE).whole([speech], given, seed=1)
        assert video.shape[1] == 21
        first, later = video[:, 1:5], [video[:, i : i + 2] for i in range(5, 21, 2)]
        away = [
            max(
                float((part.mean((1, 3, 4)) - first.mean((1, 3, 4))).abs().max()),
                float((part.std((1, 3, 4), correction=0) - first.std((1, 3, 4), correction=0)).abs().max()),
            )
            for part in later
        ]
        assert max(away) < 1e-4 if steady else min(away) > 0.1


def test_a_guide_under_no_noise_is_the_video_and_under_all_noise_plays_no_part(
    folders: dict[str, Path], spaces: dict[str, VideoSpace]
) -> None:
    net, space = make(folders["ti2v"]), spaces["ti2v"]
    given, speech = scene(net, space), heard(2 * 33)
    guide = drawn(1, 9, *given.event, seed=9)
    generator = VideoGenerator(net, replace(SHORT, steps=8), silence=SILENCE)
    plain = generator.whole([speech], given, seed=1)
    apart = [
        float((generator.whole([speech], replace(given, guide=guide, begin=begin), seed=1) - guide)[:, 1:].std())
        for begin in (0.0, 0.5, 0.9, 0.999)
    ]
    assert torch.equal(generator.whole([speech], replace(given, guide=guide), seed=1), plain)
    assert apart == sorted(apart, reverse=True) and apart[-1] < 0.01
    assert len(SHORT.times(0.5)) - 1 <= SHORT.steps


def test_the_schedule_is_wan_s() -> None:
    plan = VideoWindows(steps=10, shift=5.0)
    times = plan.times()
    assert (times[0], times[-1]) == (0.0, 1.0)
    theirs = scheduler(5.0)
    theirs.set_timesteps(10)
    np.testing.assert_allclose(1 - np.array(times), theirs.sigmas.numpy(), atol=1e-6)
    assert plan.times(0.3)[0] == 0.3 and plan.times(0.3)[1:] == [time for time in times if time > 0.3]


@pytest.mark.parametrize(("wrong", "says"), [
    ({"length": "loop"}, "give prefix or slide"), ({"latents": 3}, "windows of 3 latents with a prefix of 2"),
    ({"guidance": {"sound": 1.0}}, "guidance by 'sound'"), ({"steps": 0}, "0 solver steps"), ({"shift": 0.0}, "shift of 0.0"),
    ({"steady": 2.0}, "steady is 2.0"), ({"temperature": 3.0}, "temperature of 3.0"), ({"slide": 0}, "slide by 0"),
])  # fmt: skip
def test_windows_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VideoWindows(**wrong)
