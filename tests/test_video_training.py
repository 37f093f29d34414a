"""Training of the video engine: its cache, its windows, and one process, many, interrupted or not."""

from __future__ import annotations

import json
import socket
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib import resources
from multiprocessing import set_forkserver_preload
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from claims import assert_other_run, assert_unknown_run
from tiny_video import Loudness, StandInBase, make_recordings, process, quiet, tiny_space
from tiny_wan import VAE_2_2, make_vae
from tiny_wan_net import load_tiny_wan, save_tiny_wan
from torch import multiprocessing
from video_processes import WINDOWS, awake, recipe_of, trained, work

from vivavoce.flow.loss import flow_matching_loss, weighted_square
from vivavoce.latent.mesh import FaceModel, lip_opening, mouth_width
from vivavoce.latent.regions import RegionWeights
from vivavoce.latent.stills import known_pictures, known_then
from vivavoce.latent.video import VideoSpace
from vivavoce.nets.hearing import hear_all
from vivavoce.nets.levels import LevelsConfig, SpeechLevels
from vivavoce.nets.video import VideoTransformer
from vivavoce.nets.video_condition import still_channels
from vivavoce.nets.video_parts import PartsConfig
from vivavoce.speech.encoder import features
from vivavoce.train import video_data, video_hearing
from vivavoce.train.video import (
    CLIP_LEVEL,
    FRAME_LEVEL,
    Stage,
    Step,
    VideoTask,
    new_network,
    sight_of,
    steps_of,
    train_video,
    windows_of,
)
from vivavoce.train.video_clips import VideoClip
from vivavoce.train.video_data import Base, CacheConfig, load_cache, make_cache, measured_scale, mouths
from vivavoce.train.video_ears import teach_ears
from vivavoce.train.video_hearing import added, hearing, whole_windows
from vivavoce.train.video_loop import Training, make_accelerator
from vivavoce.train.video_windows import Batch, Place, Windows

pytest.importorskip("accelerate")

CONFIG = CacheConfig(faces=2, opening=4, seconds=0.4)
BASE = Base(path=Path("."), text_width=6, image=False, stills=False)
PICTURES, COUNT = 27, 4


@pytest.fixture(scope="module")
def recordings() -> tuple[list[VideoClip], dict[Path, torch.Tensor]]:
    model = FaceModel.load(Path(str(resources.files("vivavoce") / "weights" / "face.safetensors")))
    return make_recordings(COUNT, PICTURES, model)


@pytest.fixture(scope="module")
def space() -> VideoSpace:
    return tiny_space()


@pytest.fixture(scope="module")
def sounds(recordings: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_data, "load_sound", lambda path: recordings[1][path])
        yield recordings[1]


@pytest.fixture(scope="module")
def cache(recordings: Any, space: VideoSpace, sounds: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by two processes, one after the other, of which the second is interrupted and starts again."""
    out = tmp_path_factory.mktemp("cache")

    def stop(_: str, done: int, __: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    make_cache(recordings[0], out, space, Loudness(), BASE, CONFIG, quiet, process=0, processes=2)
    with pytest.raises(KeyboardInterrupt):
        make_cache(recordings[0], out, space, Loudness(), BASE, CONFIG, stop, process=1, processes=2)
    assert len(load_cache(out, "train")[0]) == 3
    before = {file: file.stat().st_mtime_ns for file in out.glob("train__*")}
    make_cache(recordings[0], out, space, Loudness(), BASE, CONFIG, quiet, process=1, processes=2)
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    return out


def test_recordings_that_were_added_are_encoded(recordings: Any, space: VideoSpace, sounds: Any, tmp_path: Path) -> None:
    make_cache(recordings[0][:1], tmp_path, space, Loudness(), BASE, CONFIG, quiet)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert [e.name for e in load_cache(tmp_path, "train")[0]] == ["clip0"]
    make_cache(recordings[0][:2], tmp_path, space, Loudness(), BASE, CONFIG, quiet)
    assert [e.name for e in load_cache(tmp_path, "train")[0]] == ["clip0", "clip1"]
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.fixture(scope="module")
def windows(cache: Path) -> Windows:
    return make_windows(cache)


def make_windows(cache: Path, **changed: Any) -> Windows:
    recipe = recipe_of(cache, cache)
    examples, common = load_cache(cache, "train")
    levels = LevelsConfig.of({"streams": common.stamp["streams"], **recipe.levels})
    net = VideoTransformer(StandInBase(), VideoTransformer.Config(
        parts=PartsConfig(levels=levels, identity=True, intensity=True, **recipe.parts)
    ))
    return windows_of(replace(recipe, windows=replace(WINDOWS, **changed)), net, examples, common, measured_scale(examples))


def test_the_cache_is_what_the_spaces_say(
    recordings: Any, space: VideoSpace, cache: Path, windows: Windows
) -> None:
    examples, common = load_cache(cache, "train")
    assert len(examples) == COUNT and [e.person for e in examples[:2]] == ["person0", "person1"]
    clip, example = recordings[0][2], examples[2]
    assert example.latents == 7  # 25 of 27 pictures
    whole = space.encode(clip.pictures[:25])[0]
    torch.testing.assert_close(example.window("latents", slice(2, 5)), whole[2:5], atol=2e-3, rtol=2e-3)
    # What a window that begins with latent 3, picture 9, hears.
    levels = windows.parts.levels
    heard = hear_all(features(Loudness(), recordings[1][clip.recording]).values[0], levels)
    place = video_place(number=2, start=3)
    own = windows.heard(place, 12)
    at = 2 * 9 - levels.history
    torch.testing.assert_close(own, heard[at : at + len(own)])
    assert len(own) == levels.history + 2 * 11 + 1 + levels.lookahead
    # Nobody hears the silent person, and before an utterance there is silence.
    still = windows.heard(video_place(number=1, start=3), 12)
    assert torch.equal(still, still[:1].expand_as(still)) and torch.equal(still[0], windows.heard(video_place(number=2), 9)[0])
    assert float(common.text.abs().sum()) == 0 and common.no_text is None  # there is no text encoder, as the stamp says
    assert common.stamp["base"]["text_encoder"] is False


def video_place(number: int, start: int = 0, known: int = 1) -> Place:
    return Place(number=number, start=start, stop=start + 3, known=known)


def test_a_cache_of_other_things_is_refused(recordings: Any, space: VideoSpace, sounds: Any, cache: Path, tmp_path: Path) -> None:
    other = VideoSpace(make_vae(**VAE_2_2), height=32, width=32, fps=25)
    with pytest.raises(ValueError, match="another autoencoder"):
        make_cache(recordings[0], cache, other, Loudness(), BASE, CONFIG, quiet)
    with pytest.raises(ValueError, match="another config"):
        make_cache(recordings[0], cache, space, Loudness(), BASE, replace(CONFIG, faces=1), quiet)
    with pytest.raises(ValueError, match="32 px wide at 25"):
        make_cache(recordings[0], tmp_path, space.at(64, 64), Loudness(), BASE, CONFIG, quiet)
    with pytest.raises(ValueError, match="no text encoder"):
        make_cache(recordings[0], tmp_path, space, Loudness(), BASE, replace(CONFIG, prompt="a person talks"), quiet)
    with pytest.raises(ValueError, match="no latents of the split 'val'"):
        load_cache(cache, "val")


def test_livelier_recordings_have_stronger_intensity(windows: Windows) -> None:
    faces = [windows.shown([video_place(number, 2)], torch.zeros(1, 3, *windows.spec.event), torch.ones(1, 3) > 0).intensity
             for number in (0, COUNT - 1)]
    assert float(faces[0][0, 0]) < float(faces[1][0, 0])


def test_draws_are_those_of_the_place_in_the_whole_batch(windows: Windows) -> None:
    for step in range(4):
        whole = windows.draw(step, range(4), lip_mask=True)
        parts = [windows.draw(step, range(2 * i, 2 * i + 2), lip_mask=True) for i in range(2)]
        for name in ("data", "noise", "time", "counts", "weight"):
            assert torch.equal(vars(whole)[name], torch.cat([vars(part)[name] for part in parts])), name
        assert torch.equal(whole.shown.speech, torch.cat([part.shown.speech for part in parts]))
    assert not torch.equal(whole.noise[0], whole.noise[1])
    kinds = {windows.draw(step, range(1), lip_mask=False).shown.pictures for step in range(12)}
    assert kinds == {9, 12}  # of windows that begin videos, and of windows that go on with one


def test_windows_begin_clean_and_the_rest_counts(cache: Path) -> None:
    windows = make_windows(cache, prefix=2, prefix_noise=0.0)
    known = set()
    for step in range(8):
        batch = windows.draw(step, range(4), lip_mask=False)
        assert torch.equal(batch.counts, batch.time < 1)
        known |= set((~batch.counts).sum(1).tolist())
        assert bool((~batch.counts[:, 0]).all() and batch.counts[:, -1].all())
        torch.testing.assert_close(batch.weight.mean((2, 3, 4)), torch.ones(4, 3))
    assert known == {1, 2}
    disturbed = make_windows(cache, prefix=2, prefix_noise=0.5).draw(3, range(4), lip_mask=False)
    plain = windows.draw(3, range(4), lip_mask=False)
    assert torch.equal(disturbed.data[plain.counts], plain.data[plain.counts])
    assert (disturbed.data - plain.data)[~plain.counts].std() > 0.3


def test_close_windows_are_squares_around_the_lips_of_what_would_have_been_seen(cache: Path) -> None:
    windows = make_windows(cache, eta=0.0, weights=RegionWeights(face=0.0, rest=1e-6))  # lips are all that has weight
    lips, all_lips = 0.0, 0.0
    for step in range(3):
        whole, close = (windows.draw(step, range(4), lip_mask=False, close=side) for side in (None, 2))
        both = zip(whole.data, whole.noise, whole.weight, whole.shown.face_mask, strict=True)
        for i, (data, noise, weight, mask) in enumerate(both):
            assert close.data.shape[-2:] == (2, 2)
            squares = [(..., slice(y, y + 2), slice(x, x + 2)) for y in (0, 2) for x in (0, 2)]
            square, = (one for one in squares if torch.equal(noise[one], close.noise[i]))
            assert torch.equal(close.data[i], data[square]) and torch.equal(close.weight[i], weight[square])
            assert torch.equal(close.shown.face_mask[i], mask[square])
            lips, all_lips = lips + float(close.weight[i].sum()), all_lips + float(weight.sum())
        parts = [windows.draw(step, range(2 * i, 2 * i + 2), lip_mask=False, close=2) for i in range(2)]
        assert torch.equal(torch.cat([part.data for part in parts]), close.data)  # however many processes share the batch
    assert lips > 0.4 * all_lips  # a quarter is chance, and half the most: they lie across two squares
    with pytest.raises(ValueError, match="6 latents around the lips were asked for, pictures have 4 x 4"):
        windows.draw(0, range(1), lip_mask=False, close=6)


def test_ears_learn_what_lips_do_from_speech_alone(cache: Path) -> None:
    """Lips are as far open here as the sound is loud."""
    found = []
    for steps in (1, 60, 60):
        windows = make_windows(cache)
        torch.manual_seed(0)
        levels = SpeechLevels(windows.levels)
        found.append((float(teach_ears(levels, windows, steps, quiet)[0]), levels.state_dict()))
    assert found[0][0] < 0.5 < 0.85 < found[1][0]
    for name, weight in found[1][1].items():
        assert torch.equal(weight, found[2][1][name])
    silent = make_windows(cache)
    silent.examples = [replace(example, talks=False) for example in silent.examples]
    with pytest.raises(ValueError, match="nobody talks in these clips: give some of people who do"):
        teach_ears(levels, silent, 1, quiet)


def test_ears_that_were_taught_learn_slowly_later(cache: Path, tmp_path: Path) -> None:
    for ears, share in ((0, 1.0), (1, 0.1)):
        recipe = recipe_of(cache, tmp_path, ears=ears)
        part = next(part for part in recipe.rates if part in "net.own.policy.levels.mlp.0.weight")
        assert recipe.rates[part] == pytest.approx(share * recipe.own_rate)
        assert recipe.rates[next(part for part in recipe.rates if part in "net.own.policy.injections.0.norm")] == recipe.own_rate


def test_what_speech_adds_goes_with_the_recording_or_not(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a new network, all of it in one that knows the recording as soon as it hears."""
    torch.manual_seed(0)
    windows = make_windows(cache, **vars(whole_windows(WINDOWS)))
    windows.common = replace(windows.common, sight=torch.randn(6, 4, 2, 3, 3))
    deaf = VideoTransformer(StandInBase(), VideoTransformer.Config(parts=windows.parts)).eval()
    assert added(deaf, windows, close=2, steps=2, batch=4) == 0

    def knows(_: VideoTransformer, batch: Batch, sign: float = 1.0) -> torch.Tensor:
        return batch.data * sign * batch.shown.keep["speech"][:, None, None, None, None]

    for sign in (1.0, -1.0):
        monkeypatch.setattr(video_hearing, "_guess", partial(knows, sign=sign))
        assert added(deaf, windows, close=2, steps=2, batch=4) == pytest.approx(sign, abs=1e-5)


def test_hearing_is_what_speech_does_to_the_lips_in_pictures(
    cache: Path, space: VideoSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new network does not hear: it guesses the same without speech. One that does guesses otherwise, the same every time. What
    the autoencoder makes of the recordings depends on no network. Pictures without a face count for nothing."""

    def lips(pictures: np.ndarray) -> np.ndarray:  # the stand-in's pictures show no face
        found = np.stack([pictures.mean((1, 2, 3)), pictures.std((1, 2, 3))], -1)
        found[0] = np.nan
        return found

    monkeypatch.setattr(video_hearing, "tracked_lips", lips)
    torch.manual_seed(0)
    windows = make_windows(cache, **vars(whole_windows(WINDOWS)))
    deaf = VideoTransformer(StandInBase(), VideoTransformer.Config(parts=windows.parts)).eval()
    told = hearing(deaf, windows, space, steps=2)
    assert told.opening == told.deaf
    ears = deepcopy(deaf)
    awake(ears)
    heard = hearing(ears, windows, space, steps=2)
    assert heard == hearing(ears, windows, space, steps=2)
    assert heard.opening != heard.deaf and heard.most == told.most
    assert all(-1 <= value <= 1 for value in vars(heard).values())
    windows.examples = [replace(example, talks=False) for example in windows.examples]
    assert all(np.isnan(value) for value in vars(hearing(ears, windows, space, steps=2)).values())


def test_lips_that_follow_are_heard(cache: Path, space: VideoSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pictures' lips are the recorded ones the figure is 1, and what a window has of its own does not count."""
    windows = make_windows(cache, **vars(whole_windows(WINDOWS)))
    drawn = [windows.draw(0, range(4), lip_mask=False)]
    talks = drawn[0].shown.keep["speech"].nonzero().flatten().tolist()
    right = iter([3 + 0.5 * drawn[0].mouth[i, 1:].flatten(0, 1).numpy() + i for i in talks for _ in range(3)])
    monkeypatch.setattr(video_hearing, "tracked_lips", lambda pictures: next(right))
    net = VideoTransformer(StandInBase(), VideoTransformer.Config(parts=windows.parts)).eval()
    assert vars(hearing(net, windows, space, steps=1)) == pytest.approx(dict.fromkeys(("opening", "width", "deaf", "most"), 1.0))


def test_a_window_says_what_lips_did(recordings: Any, cache: Path) -> None:
    """Opening and width of each latent's own four pictures; the picture that begins a clip is no latent of four."""
    example, points = load_cache(cache, "train")[0][2], recordings[0][2].points
    told = mouths(example, slice(0, 3))
    assert told.shape == (3, 4, 2) and bool(told[0].isnan().all()) and torch.equal(mouths(example, slice(1, 3)), told[1:])
    opening, width = torch.from_numpy(lip_opening(points[5:9])), torch.from_numpy(mouth_width(points[5:9]))
    torch.testing.assert_close(told[2], torch.stack([opening, width], -1).float())


def test_a_shift_draws_noisier_times(cache: Path) -> None:
    plain, shifted = (make_windows(cache, shift=shift).draw(1, range(64), lip_mask=False) for shift in (1.0, 6.0))
    sigma = 1 - plain.time[:, -1]
    torch.testing.assert_close(1 - shifted.time[:, -1], 6 * sigma / (1 + 5 * sigma))  # Wan's schedule
    assert torch.equal(shifted.time == 1, plain.time == 1)


def test_the_lip_mask_leaves_the_lips(cache: Path) -> None:
    batch, plain = (make_windows(cache, eta=0.0).draw(1, range(4), lip_mask=mask) for mask in (True, False))
    assert batch.weight.shape == plain.weight.shape
    inside = batch.weight > 0
    assert 0 < inside.float().mean() < 0.7 and bool((batch.weight <= plain.weight + 1e-6).all())
    assert torch.equal(make_windows(cache, eta=1.0).draw(1, range(4), lip_mask=True).weight, plain.weight)


def test_weights_by_sample_and_frame_are_those_of_each_alone() -> None:
    data, noise, weight = (torch.randn(3, 4, 2, 5, 5) for _ in range(3))
    weight, time = weight[:, :, :1].abs(), torch.rand(3, 4)
    mask = time < 0.8
    arguments = {"noise": noise, "time": time, "mask": mask}
    whole = flow_matching_loss(lambda x, t, c: x, data, None, weight=weight, **arguments)
    by_hand = torch.zeros(3)
    for b in range(3):
        for t in range(4):
            point = (1 - time[b, t]) * noise[b, t] + time[b, t] * data[b, t]
            error = ((point - (data - noise)[b, t]) ** 2 * weight[b, t]).mean()
            by_hand[b] += error * mask[b, t] / mask[b].sum().clamp(min=1)
    torch.testing.assert_close(whole, by_hand)


def test_training_clips_are_heard_in_disguises(
    recordings: Any, space: VideoSpace, sounds: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here another pace and half as loud: what is kept is at the pictures' pace."""

    def slow(samples: torch.Tensor, others: Any, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        assert len(others) == 2
        return 0.5 * samples.repeat_interleave(2), 2.0

    monkeypatch.setattr(video_data, "disguise", slow)
    clips = [recordings[0][0], recordings[0][1], replace(recordings[0][2], split="val")]
    make_cache(clips, tmp_path, space, Loudness(), BASE, replace(CONFIG, disguises=2), quiet)
    (talks, mute), (other,) = (load_cache(tmp_path, split)[0] for split in ("train", "val"))
    assert [e.disguises for e in (talks, mute, other)] == [2, 0, 0]
    plain, changed = talks.disguised(0), talks.disguised(2)
    assert torch.equal(plain, load_cache(cache, "train")[0][0].speech) and len(changed) == len(plain)
    assert not torch.allclose(changed, plain, atol=1e-3)
    assert torch.corrcoef(torch.stack([plain[:, 0], changed[:, 0]]))[0, 1] > 0.8, "the same moments"

    windows = make_windows(cache)
    windows.examples = [talks]
    windows._groups = {opens: windows._people(5) for opens in (True, False)}
    drawn = [windows._place(np.random.default_rng(i), True).disguise for i in range(400)]
    shares = np.bincount(drawn) / 400
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.07)
    places = [Place(number=0, start=1, stop=4, known=1, disguise=i) for i in (0, 2)]
    assert not torch.equal(*(windows.heard(place, 8) for place in places))


def test_what_is_seen_of_errors_counts_by_its_share(
    recordings: Any, space: VideoSpace, sounds: Any, cache: Path, tmp_path: Path
) -> None:
    make_cache(recordings[0][:2], tmp_path, space, Loudness(), BASE, replace(CONFIG, sight=2), quiet)
    common = load_cache(tmp_path, "train")[1]
    recipe = recipe_of(tmp_path, tmp_path, sight=0.25)
    sight = sight_of(recipe, common)
    assert sight is not None
    batch = make_windows(cache).draw(1, range(2), lip_mask=False)
    field = Deaf()
    plain, both, only = (
        VideoTask(field, sight, share)(Step(batch=batch, aligned=True))[0] for share in (0.0, 0.25, 1.0)  # type: ignore[arg-type]
    )
    error = torch.where(batch.counts[:, :, None, None, None], -(batch.data - batch.noise), 0.0)
    torch.testing.assert_close(only, weighted_square(sight(error), batch.counts, batch.weight).mean())
    torch.testing.assert_close(plain, VideoTask(field)(Step(batch=batch, aligned=True))[0])  # type: ignore[arg-type]
    torch.testing.assert_close(both, 0.75 * plain + 0.25 * only)
    with pytest.raises(ValueError, match="does not tell what is seen of latents"):
        sight_of(recipe_of(cache, tmp_path, sight=0.25), load_cache(cache, "train")[1])
    with pytest.raises(ValueError, match=r"what is seen is to be 1\.5 of the loss: give 0 \(none\) to 1"):
        recipe_of(tmp_path, tmp_path, sight=1.5)


class Deaf(torch.nn.Module):
    """A field that is zero, whatever it is told."""

    def listen(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(parts={})

    def forward(self, point: torch.Tensor, time: torch.Tensor, condition: Any) -> torch.Tensor:
        return torch.zeros_like(point)


def test_what_is_known_of_an_opening_is_said_as_by_wan(recordings: Any, space: VideoSpace) -> None:
    """Of one known picture exactly what diffusers' pipeline gives image-to-video bases, but for the precision of the cache."""
    picture, latents = recordings[0][0].pictures[0], space.encode(recordings[0][0].pictures[:13])
    grey, known = space.opening(picture, 4), torch.arange(4)[None] < 1
    pictures = known_pictures(known, space.spec, opens=True)
    assert pictures[0].tolist() == [True] + [False] * 12
    ours = still_channels(known_then(latents, grey, known), pictures)
    torch.testing.assert_close(ours, still_channels(grey, pictures))
    later = known_pictures(known, space.spec, opens=False)
    assert later[0].tolist() == [True] * 4 + [False] * 12


def test_stages_and_shares_are_checked(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, tmp_path, stages=(Stage(steps=3, aligned=False, lip_mask=False), FRAME_LEVEL))
    assert [recipe.stage(i).aligned for i in (0, 2, 3)] == [False, False, True]
    assert recipe.steps == 3 + FRAME_LEVEL.steps and CLIP_LEVEL.steps > 0
    for wrong, said in (({"batch": 0}, "batches of 0"), ({"stages": ()}, "no steps")):
        with pytest.raises(ValueError, match=said):
            recipe_of(tmp_path, tmp_path, **wrong)
    with pytest.raises(ValueError, match="'colour'"):
        replace(WINDOWS, dropout={"colour": 0.1})
    with pytest.raises(ValueError, match="3 of 3 latents"):
        replace(WINDOWS, prefix=3)


def test_windows_longer_than_clips_are_refused(cache: Path) -> None:
    with pytest.raises(ValueError, match="longest clip has 7"):
        make_windows(cache, latents=8)


def two_processes(recipe: Any, *, sharded: bool, until: int | None = None) -> dict[str, torch.Tensor]:
    """What they make of it. They are forked from a process that has imported what they need and nothing else."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    set_forkserver_preload(["video_processes", "torch._dynamo"])
    multiprocessing.start_processes(work, (port, recipe, sharded, until), nprocs=2, start_method="forkserver")
    return torch.load(recipe.out / "weights.pt", weights_only=True)


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_are_one_with_twice_the_batch(cache: Path, tmp_path: Path, sharded: bool) -> None:
    """Each with half of the weights, or with all of them; other processes go on after two steps."""
    one = trained(recipe_of(cache, tmp_path / "one", batch=4))
    recipe = recipe_of(cache, tmp_path / "two", batch=2)
    two_processes(recipe, sharded=sharded, until=2)
    two = two_processes(recipe, sharded=sharded)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-4, msg=name)
    logs = [[json.loads(line)["step"] for line in (tmp_path / run / "log.jsonl").open()] for run in ("one", "two")]
    assert logs == [[2, 4], [2, 4]]


def test_accumulated_batches_are_one(cache: Path, tmp_path: Path) -> None:
    whole = trained(recipe_of(cache, tmp_path / "whole", batch=4))
    parts = trained(recipe_of(cache, tmp_path / "parts", batch=2, accumulate=2))
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, atol=1e-5, rtol=1e-4, msg=name)


def tiny_base(folder: Path, kind: str = "t2v", **changed: Any) -> Path:
    channels = {"in_channels": 4, "out_channels": 4} if kind == "t2v" else {"in_channels": 12, "out_channels": 4}
    save_tiny_wan(folder / "transformer", kind, text_dim=6, num_layers=2, **{**channels, **changed})
    return folder


def test_an_interrupted_run_gives_the_weights_of_an_unbroken_one(cache: Path, tmp_path: Path) -> None:
    recipe = recipe_of(
        cache, tmp_path / "whole", base=tiny_base(tmp_path / "base"), train_base=False, rank=2, ears=2,
        levels={**recipe_of(cache, tmp_path).levels, "dropout": 0.2},
    )
    accelerator = make_accelerator("no")
    unbroken = train_video(recipe, accelerator, quiet, quiet)

    def stop(_: str, step: int, __: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    again, said = replace(recipe, out=tmp_path / "again"), list[str]()
    with pytest.raises(KeyboardInterrupt):
        train_video(again, accelerator, stop, quiet)
    resumed = train_video(again, accelerator, quiet, said.append)
    assert said == ["going on at step 2"]
    first, second = (VideoTransformer.load(load_tiny_wan(tmp_path / "base" / "transformer"), p) for p in (unbroken, resumed))
    for (name, one), two in zip(first.adapter_state().items(), second.adapter_state().values(), strict=True):
        assert torch.equal(one, two), name
    assert any("lora" in name and weight.abs().sum() > 0 for name, weight in first.adapter_state().items())
    logs = [[json.loads(line) for line in (run.parent / "log.jsonl").open()] for run in (unbroken, resumed)]
    assert logs[0] == logs[1] and [line["aligned"] for line in logs[0]] == [False, True]
    assert {"encoder", "silence", "latents", "window", "intensity", "recipe", "prompt", "autoencoder"} <= first.metadata.keys()
    assert json.loads(first.metadata["framing"]) == pytest.approx(2 * 0.95, abs=0.2)  # such a face is half of the picture
    examples, common = load_cache(cache, "train")
    other_net = VideoTask(new_network(replace(again, rank=0), common, measured_scale(examples), accelerator))
    with pytest.raises(ValueError, match="other parts"):
        Training(accelerator, other_net, again.pace, again.out).restore()
    other_base = replace(again, base=tiny_base(tmp_path / "other", freq_dim=64))
    for other in (replace(again, rank=0), replace(again, seed=6), replace(again, batch=3), other_base):
        assert_other_run(again.out, partial(train_video, other, accelerator, quiet, quiet))
    assert_unknown_run(again.out, partial(train_video, again, accelerator, quiet, quiet))


def test_a_base_of_our_own_learns_and_is_a_base_afterwards(cache: Path, tmp_path: Path) -> None:
    recipe = recipe_of(
        cache, tmp_path / "run", base=tiny_base(tmp_path / "base"), stages=(Stage(steps=30, aligned=True, lip_mask=False),),
        batch=4, log_every=10, checkpoint_every=30, ema=0.0,
    )
    adapter = train_video(recipe, make_accelerator("no"), quiet, quiet)
    losses = [json.loads(line)["loss"] for line in (recipe.out / "log.jsonl").open()]
    assert losses[-1] < 0.8 * losses[0]
    net = VideoTransformer.load(load_tiny_wan(recipe.out / "transformer"), adapter)
    started = load_tiny_wan(tmp_path / "base" / "transformer")
    assert not torch.equal(net.base.proj_out.weight, started.proj_out.weight)
    # What was saved is what was trained: its loss is as low.
    windows, task = make_windows(cache), VideoTask(net)
    with torch.no_grad():
        steps = [step for i in range(20, 30) for step in steps_of(recipe, windows, recipe.stage(i), i, process())]
        again = np.mean([float(task(step)[0]) for step in steps])
    assert abs(again - losses[-1]) < 0.15 * losses[-1]


def test_image_to_video_bases_are_told_what_is_known(
    recordings: Any, space: VideoSpace, sounds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Images:
        def __init__(self, *_: Any, **__: Any):
            pass

        def __call__(self, picture: np.ndarray) -> torch.Tensor:
            return torch.full((1, 7, 20), float(picture.mean()) / 255)

    monkeypatch.setattr(video_data, "ImageEncoder", Images)
    base = tiny_base(tmp_path / "base", "i2v")
    make_cache(recordings[0][:2] * 4, tmp_path / "cache", space, Loudness(), Base.of(base), CONFIG, quiet)
    recipe = recipe_of(tmp_path / "cache", tmp_path / "run", base=base, train_base=False, parts={"width": 8, "heads": 2})
    train_video(recipe, make_accelerator("no"), quiet, quiet)
    losses = [json.loads(line)["loss"] for line in (recipe.out / "log.jsonl").open()]
    assert len(losses) == 2 and np.isfinite(losses).all()
