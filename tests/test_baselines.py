"""Baselines: each does what its rule says; the order of systems is checked; Rhubarb's cues become mouths."""

from __future__ import annotations

import json
import os
import stat
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vivavoce import Animator, Audio
from vivavoce.apps import cli, rhubarb
from vivavoce.judge.figures import Figure
from vivavoce.judge.pairs import Pair
from vivavoce.judge.results import Evaluation, Row
from vivavoce.latent.closure import LipClosure
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import MOTION_RATE_HZ, Layout
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.retarget import rest_of_picture
from vivavoce.media.video import read_frames
from vivavoce.metrics.lips import correlation
from vivavoce.speech.encoder import SAMPLE_RATE_HZ, SpeechSpec, features
from vivavoce.speech.phones import VISEMES
from vivavoce.train.baselines import (
    SHAPES,
    Cue,
    Heard,
    Opening,
    Ridge,
    fit_ridge,
    fitted,
    levels,
    mouth_cues,
    mouth_shapes,
    mouthed,
    nearest,
    regressed,
    shuffled,
    still,
    surroundings,
)
from vivavoce.train.data import Clip, Example
from vivavoce.train.standing import BASELINES, CEILING, OURS, merit, order_lines, ordering, tells_sync
from vivavoce.train.takes import Take, TakeConfig, chosen, drawn, fingerprint, keep_to, recorded_motion, spoken_motion, write

BANDS = 80
SPEC = SpeechSpec(
    sample_rate_hz=SAMPLE_RATE_HZ, rate_hz=50, streams={"acoustic": BANDS, "visemes": len(VISEMES)}, lookahead_seconds=0.1,
    block_seconds=0.2,
)


@pytest.fixture(scope="module")
def model(animator: Animator) -> FaceModel:
    return animator.space.model


@pytest.fixture(scope="module")
def layout(model: FaceModel) -> Layout:
    return Layout.of(model.widths())


def heard_of(values: torch.Tensor, sound: torch.Tensor | None = None) -> Heard:
    frames = len(values) // 2
    return Heard(sound=torch.zeros(frames * 640) if sound is None else sound, features=values, frames=frames)


def example_of(motion: torch.Tensor, speech: torch.Tensor | None, *, first: int = 0) -> Example:
    return Example(person="p", clip="c", motion=motion, speech=speech, first=first, style=torch.zeros(3))


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def take_of(reference: Reference, animator: Animator, folder: Path, frames: int = 60) -> Take:
    """The portrait, recorded while it does nothing."""
    points = np.repeat(animator.space.landmarks(
        animator.space.layout.unpack(torch.zeros(1, animator.space.layout.width)), reference
    ), frames, 0)
    return Take(
        name="a", person="p", portrait=folder / "a.png", recording=folder / "a.mp4", sound=torch.zeros(frames * 640), words=None,
        points=points, rest=rest_of_picture(points[0], animator.space.model), reference=reference,
    )


def test_pictures_of_the_still_portrait_are_equal(small: Reference, animator: Animator, tmp_path: Path) -> None:
    take = take_of(small, animator, tmp_path, 5)
    motion = animator.space.layout.unpack(still(heard_of(torch.zeros(10, 3)), animator.space.layout))
    frames = list(drawn(take, animator.space, motion))
    assert len(frames) == 5
    assert all(np.array_equal(frame, frames[0]) for frame in frames)
    blinking = spoken_motion(take, animator, animator.generator.mean.expand(150, -1))
    assert blinking.eyelids.std(0).max() > 0.1, "what speaks blinks, the still portrait does not"
    assert blinking.cheeks_brows.abs().max() < 1e-5, "cheeks and brows move around the portrait's own"


def test_a_video_of_a_take_has_its_sound_and_is_made_once(small: Reference, animator: Animator, tmp_path: Path) -> None:
    take = take_of(small, animator, tmp_path, 5)
    write(tmp_path / "v.mp4", drawn(take, animator.space, recorded_motion(take, animator.space)), take.sound)
    before = (tmp_path / "v.mp4").stat().st_mtime_ns
    assert len(list(read_frames(tmp_path / "v.mp4", MOTION_RATE_HZ))) == 5
    write(tmp_path / "v.mp4", iter(()), take.sound)
    assert (tmp_path / "v.mp4").stat().st_mtime_ns == before


def test_levels_are_decibels() -> None:
    tone = torch.sin(2 * torch.pi * 200 * torch.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ)
    sound = torch.cat([0.5 * tone, 0.05 * tone, torch.zeros(SAMPLE_RATE_HZ)])
    found = levels(sound, 125)
    assert found[25].item() == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.05)
    assert (found[25] - found[75]).item() == pytest.approx(20, abs=0.05)
    assert found[115].item() == pytest.approx(-100)


def test_the_mouth_opens_with_loudness(model: FaceModel, layout: Layout) -> None:
    across = LipClosure.of(model).across
    share = noise(0, 400, 1).abs()
    opener = Opening.of([example_of(share * across / across.square().sum() + 0.01 * noise(1, 400, layout.width), None)], model)
    loud = torch.linspace(0.001, 1, 100)
    sound = loud.repeat_interleave(640) * noise(2, 64000) * 0.1
    motion = opener(heard_of(torch.zeros(200, 3), sound))
    gap = motion @ across
    assert correlation(gap.numpy().astype(float), levels(sound, 100).clamp(min=-60).numpy()) > 0.8
    assert gap.min() == 0
    assert gap.max().item() == pytest.approx(torch.quantile(share, 0.95).item(), rel=0.1)
    assert (motion[:, across == 0] == 0).all(), "nothing but lips and jaw moves"
    assert torch.isfinite(opener(heard_of(torch.zeros(200, 3)))).all(), "silence"


def test_ridge_recovers_a_linear_relation() -> None:
    x, slope, level = noise(0, 500, 6).double(), noise(1, 6, 3).double(), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    weight = torch.ones(500)
    weight[:100] = 0
    y = level + x @ slope
    y[:100] = 99.0  # what has no weight does not count
    fit = Ridge.fit(x, y, weight, strength=0.0)
    fresh = noise(2, 50, 6).double()
    assert torch.allclose(fit(fresh).double(), level + fresh @ slope, atol=1e-4)
    halved = Ridge.fit(noise(3, 100000, 1), noise(3, 100000, 1), torch.ones(100000), strength=1.0)
    assert halved.slope.item() == pytest.approx(0.5, abs=0.01)


def test_ridge_hears_around_the_frame(layout: Layout) -> None:
    """Motion that is the sound of 80 ms before is learned, from the place of the stretch in the clip on."""
    speech = noise(0, 1400, SPEC.width)
    motion = speech[100 - 4 : 100 - 4 + 1200 : 2, :1].expand(-1, layout.width).contiguous()
    ridge = fit_ridge([example_of(motion, speech, first=100)], SPEC)
    fresh = noise(1, 400, SPEC.width)
    found = regressed(heard_of(fresh), ridge, SPEC)
    assert correlation(found[10:, 0].numpy().astype(float), fresh[16:396:2, 0].numpy().astype(float)) > 0.7
    with pytest.raises(ValueError, match="nobody talks"):
        fit_ridge([example_of(motion, None)], SPEC)


def test_surroundings_hold_at_the_ends() -> None:
    values = torch.arange(5.0)[:, None]
    assert surroundings(values, range(0, 5, 2), range(-1, 2)).tolist() == [[0, 0, 1], [1, 2, 3], [3, 4, 4]]


@pytest.mark.parametrize("frames", [60, 13, 7])
def test_the_nearest_neighbour_finds_itself(layout: Layout, frames: int) -> None:
    """Among others, and where the stretch begins in the middle of its clip."""
    speech = [noise(i, 300, SPEC.width) for i in range(3)]
    examples = [example_of(noise(9 + i, 120, layout.width), s, first=40) for i, s in enumerate(speech)]
    found = nearest(heard_of(speech[1][40 : 40 + 2 * frames]), examples, SPEC)
    assert found.shape == (frames, layout.width)
    assert torch.allclose(found[: frames - 1], examples[1].motion[: frames - 1], atol=1e-5)


def test_the_nearest_neighbour_needs_something_long_enough(layout: Layout) -> None:
    with pytest.raises(ValueError, match="give longer ones"):
        nearest(heard_of(noise(0, 100, SPEC.width)), [example_of(noise(1, 5, layout.width), noise(2, 10, SPEC.width))], SPEC)


def test_shuffled_sound_is_another_clips() -> None:
    people = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    found = shuffled(list(people), people, {"a1": 10, "a2": 30, "b1": 12, "b2": 29})
    assert found == {"a1": "b1", "a2": "b2", "b1": "a1", "b2": "a2"}
    alone = shuffled(["a1", "a2"], people, {"a1": 1, "a2": 1})
    assert alone == {"a1": "a2", "a2": "a1"}
    with pytest.raises(ValueError, match="at least two"):
        shuffled(["a1"], people, {"a1": 1})
    assert fitted(torch.arange(3.0), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert fitted(torch.arange(9.0), 2).tolist() == [0, 1]


def test_mouth_shapes_come_from_who_says_so(model: FaceModel, layout: Layout) -> None:
    """Frames that sound like a vowel teach the wide mouth; the closed ones are closed whatever the frames show."""
    across = LipClosure.of(model).across
    wide, ajar = (amount * across / across.square().sum() for amount in (0.3, 0.05))
    visemes = torch.zeros(200, len(VISEMES))
    visemes[:100, VISEMES.index("A")] = 1
    visemes[100:, VISEMES.index("PBM")] = 1
    motion = torch.cat([wide.expand(50, -1), ajar.expand(50, -1)])
    shapes = mouth_shapes([example_of(motion, torch.cat([torch.zeros(200, BANDS), visemes], 1))], SPEC, model)
    assert set(shapes) == set(SHAPES)
    assert (shapes["D"] @ across).item() == pytest.approx(0.3, abs=1e-5)
    assert (shapes["A"] @ across).item() == pytest.approx(0.0, abs=1e-5)
    assert (shapes["G"] == 0).all(), "nobody said f"
    with pytest.raises(ValueError, match="does not tell visemes"):
        mouth_shapes([], replace(SPEC, streams={"acoustic": BANDS}), model)


def test_cues_become_mouths_at_their_times() -> None:
    shapes = {shape: torch.full((2,), float(i)) for i, shape in enumerate(SHAPES)}
    shapes["X"] = torch.zeros(2)
    cues = (Cue(start=0.2, end=0.6, shape="D"), Cue(start=0.6, end=9.0, shape="B"))
    motion = mouthed(heard_of(torch.zeros(60, 3)), cues, shapes)[:, 0]
    assert motion[:4].tolist() == [0] * 4
    assert motion[7:13].tolist() == [3] * 6
    assert motion[17:].tolist() == [1] * 13
    assert 0 < motion[4] < motion[5] < 3, "from one to the next over some frames"


def test_cues_are_read_or_refused() -> None:
    rows = [{"start": 0.0, "end": 0.05, "value": "X"}, {"start": 0.05, "end": 1, "value": "C"}]
    wanted = (Cue(start=0.0, end=0.05, shape="X"), Cue(start=0.05, end=1.0, shape="C"))
    assert mouth_cues(json.dumps({"metadata": {"duration": 1}, "mouthCues": rows})) == wanted
    for bad in ("", "[]", "{}", '{"mouthCues": [{"start": 0}]}', '{"mouthCues": 3}'):
        with pytest.raises(ValueError, match="no list of mouth cues"):
            mouth_cues(bad)
    for wrong in ({"start": 0, "end": 1, "value": "Z"}, {"start": 2, "end": 1, "value": "A"}):
        with pytest.raises(ValueError, match="no mouth cue of rhubarb"):
            mouth_cues(json.dumps({"mouthCues": [wrong]}))


def test_rhubarb_is_asked_once_where_it_is_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that answers with the length of the WAV that it is given."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert rhubarb.found() is None
    program = tmp_path / "bin" / "rhubarb"
    program.parent.mkdir()
    program.write_text(
        "#!/usr/bin/env python3\nimport json, sys, wave\n"
        "assert sys.argv[1:4:2] == ['-f', '-o'] and sys.argv[2] == 'json', sys.argv\n"
        "with wave.open(sys.argv[5]) as f: end = f.getnframes() / f.getframerate()\n"
        "open(sys.argv[4], 'w').write(json.dumps({'mouthCues': [{'start': 0, 'end': end, 'value': 'D'}]}))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert rhubarb.found() == program
    sound = tmp_path / "a.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\1\2" * 16000)
    clip = Clip(path=sound, split="val", person="p", talks=True)
    steps: list[int] = []
    for _ in range(2):  # the second time nothing is asked: the program fails by then
        cues = rhubarb.cues_of([clip], 1.5, tmp_path / "cues", program, lambda _, done, total: steps.append(done))
        assert cues == {"a": (Cue(start=0, end=1.5, shape="D"),)}
        program.write_text("#!/bin/sh\necho 'no such voice' >&2\nexit 3\n")
    with pytest.raises(ValueError, match="code 3: no such voice"):
        rhubarb.cues_of([replace(clip, path=sound.rename(tmp_path / "b.wav"))], 1.5, tmp_path / "cues", program, lambda *_: None)
    assert sorted(p.name for p in (tmp_path / "cues").iterdir()) == ["a.json"]


def figure(name: str, better: str = "higher") -> Figure:
    return Figure(
        name=name, title=name, topic="", unit="", better=better, what="", measure=lambda _: float("nan"),  # type: ignore[arg-type]
    )


def evaluation_of(values: dict[str, np.ndarray], better: str = "higher", real: float | None = None) -> Evaluation:
    """Clips 0, 1 ... of each system with their values of the figure "f"."""
    theirs = {} if real is None else {"f_real": real}
    rows = tuple(
        Row(pair=Pair(name=str(i), generated=Path("v"), system=system), figures={"f": float(v), **theirs})
        for system, each in values.items() for i, v in enumerate(each)
    )
    return Evaluation(
        figures=(figure("f", better),), systems=tuple(values), groups=("all",), rows=rows, summaries=(), differences=(),
    )


def test_the_order_finds_a_planted_violation() -> None:
    rng = np.random.default_rng(0)
    clips = rng.normal(size=20)
    found = evaluation_of({
        CEILING: clips + 3, OURS: clips + 1, "ridge": clips + 2 + 0.1 * rng.normal(size=20), "still": clips,
        "nearest": clips + 1 + rng.normal(size=20) - 0.01,
    })
    verdicts = {(s.above, s.below): s.verdict for s in ordering(found, found.figures)}
    assert verdicts == {
        (CEILING, OURS): "holds", (OURS, "ridge"): "violated", (OURS, "still"): "holds", (OURS, "nearest"): "open",
    }
    (line,) = order_lines(ordering(found, found.figures))
    assert line.startswith("- f: violated: ours > ridge (-1"), line
    assert "holds: recording > ours (+2" in line


def test_the_order_goes_by_what_is_good() -> None:
    orders = {"lower": (1, 2, 3), "near 0": (0, -40, 320), "near 1": (1, 0.8, 0), "near real": (5, 6, 1)}
    for better, order in orders.items():
        values = {name: np.full(5, float(v)) for name, v in zip((CEILING, OURS, "still"), order, strict=True)}
        found = evaluation_of(values, better, real=5.0)
        assert {s.verdict for s in ordering(found, found.figures)} == {"holds"}, better
    assert np.isnan(merit("none", np.ones(3), np.ones(3))).all()


def test_clips_that_only_one_system_has_do_not_count() -> None:
    found = evaluation_of({OURS: np.array([1.0, 1.0, 50.0]), "still": np.array([2.0, 2.0])})
    (step,) = ordering(found, found.figures)
    assert (step.gap.value, step.gap.count, step.verdict) == (-1.0, 2, "violated")
    assert set(BASELINES) >= {"still"}


def test_sync_figures_are_those_of_lips_and_sound() -> None:
    assert [tells_sync(figure(n)) for n in ("lip_corr", "sync_confidence", "head_ratio", "psnr")] == [True, True, False, False]


def test_takes_are_chosen_by_person() -> None:
    clips = [Clip(path=Path(f"{p}{i}.mp4"), split="val", person=p, talks=p != "c") for p in "abcde" for i in range(3)]
    assert [c.name for c in chosen(clips, TakeConfig(most=2))] == ["a0", "a1", "b0", "b1", "d0", "d1", "e0", "e1"]
    assert [c.name for c in chosen(clips, TakeConfig(most=1, people=2))] == ["a0", "e0"]
    for wrong in ({"seconds": 0.5}, {"most": 0}, {"people": 0}, {"seconds": float("nan")}):
        with pytest.raises(ValueError, match="were asked for: give at least"):
            TakeConfig(**wrong)


def test_a_folder_belongs_to_one_setting(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    keep_to(folder, TakeConfig(), "w")
    keep_to(folder, TakeConfig(), "w")
    for config, weights in ((TakeConfig(seconds=5), "w"), (TakeConfig(), "other")):
        with pytest.raises(ValueError, match="another setting"):
            keep_to(folder, config, weights)


def test_a_judges_weights_are_not_the_engines(tmp_path: Path) -> None:
    for name in ("face", "motion", "phonetic", "renderer"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    before = fingerprint(tmp_path)
    (tmp_path / "sync.safetensors").write_bytes(b"judge")
    assert fingerprint(tmp_path) == before
    (tmp_path / "motion.safetensors").write_bytes(b"other")
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize("bench", ["baselines", "metrics"])
def test_recordings_are_examined_first(tmp_path: Path, bench: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", bench, str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]) == 2
    assert "has no MANIFEST.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_engine_moves_as_in_a_session(animator: Animator, small: Reference) -> None:
    """What the table calls ours is what users get: the same landmarks as a session's, up to rounding."""
    sound = 0.1 * noise(0, SAMPLE_RATE_HZ)
    made = replace(take_of(small, animator, Path(), 25), reference=small)
    packed = animator.generator.samples(features(animator.encoder, sound).values, [small.seed(0)])[0]
    ours = list(drawn(made, animator.space, spoken_motion(made, animator, packed)))
    session = list(animator.session(small).speak([Audio(samples=sound[None], rate=SAMPLE_RATE_HZ)]))
    assert len(ours) == len(session) == 25
    apart = [np.abs(a.astype(int) - b).mean() for a, b in zip(ours, session, strict=True)]
    assert max(apart) < 0.05, apart
