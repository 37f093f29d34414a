"""What the benchmarks compute by themselves: samples in batches, curves without pictures, stretches of speech and silence."""

from __future__ import annotations

import sys
from collections import deque
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import languages
from common import Kept, landmarks, motions, samples, table
from silence import FADE_SECONDS, SILENCE_SECONDS, interrupted, silent_frames
from validate import Judge

from vivavoce import Animator, Audio
from vivavoce.animate import Settings
from vivavoce.latent.mesh import lip_opening
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.motion_space import MotionSpace, Reference
from vivavoce.latent.topology import BROWS, MOUTH_CORNERS, SKULL
from vivavoce.media.audio import Resampler
from vivavoce.speech.encoder import SAMPLE_RATE_HZ, features
from vivavoce.speech.phones import BILABIAL, split_ipa

JUDGE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "judge.py"


@pytest.fixture(scope="module")
def sound(sentence: Audio) -> torch.Tensor:
    resampler = Resampler(sentence.rate, SAMPLE_RATE_HZ)
    return torch.cat([resampler.push(sentence).samples[0], resampler.finish().samples[0]])


def test_many_samples_at_once_are_those_of_the_generator(animator: Animator, sound: torch.Tensor) -> None:
    """Neither the other seeds nor the other recordings of the batch matter, whatever their length."""
    parts = (sound[: 2 * SAMPLE_RATE_HZ], sound[: round(0.7 * SAMPLE_RATE_HZ)])
    heard = [features(animator.encoder, part).values for part in parts]
    together = samples(animator.generator, heard, (3, 5))
    for speech, made in zip(heard, together, strict=True):
        for seed, packed in zip((3, 5), made, strict=True):
            alone, _ = animator.generator.step(speech, animator.generator.start(), seed=seed, last=True)
            torch.testing.assert_close(packed, alone[0], atol=2e-3, rtol=2e-3)


def test_curves_are_what_a_session_would_paint_but_for_brows_and_corners(
    animator: Animator, small: Reference, sentence: Audio, sound: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched(deque[np.ndarray]):
        room = property(lambda self: 1 - len(self))
        waiting = property(len)
        begin, take = deque.append, deque.popleft

    monkeypatch.setattr(MotionSpace, "painter", lambda *_, **__: Watched())
    session = animator.session(small, Settings(fps=MOTION_RATE_HZ, seed=4))
    painted = np.stack([*session.push(sentence), *session.finish()])
    ((motion,),) = motions(animator, [sound], [small.seed(4)])
    ours = landmarks(animator, motion, small.rest, small.seed(4))
    off = np.abs(ours[: len(painted)] - painted).max((0, 2))  # px of a face that is about 60 px large
    assert off[SKULL].max() < 0.05 < min(off[BROWS].max(), off[list(MOUTH_CORNERS)].max())
    np.testing.assert_allclose(lip_opening(ours[: len(painted)]), lip_opening(painted), atol=2e-3)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_merged_intervals_cover_the_same_seconds_once(places: list[tuple[int, int]]) -> None:
    intervals = [(a / 10, (a + n) / 10) for a, n in places]
    merged = languages.merged(intervals)
    covered = {tenth for a, n in places for tenth in range(a, a + n)}
    assert {t for a, b in merged for t in range(round(10 * a), round(10 * b))} == covered
    assert all(one[1] + 1e-3 < other[0] for one, other in pairwise(merged))


def test_a_frame_is_reached_within_the_margin_and_not_beyond() -> None:
    mask = np.zeros(50, bool)
    mask[20] = True  # at 0.8 s
    assert languages.reached(mask, 0.70, 0.77) and languages.reached(mask, 0.83, 0.9) and languages.reached(mask, 0.79, 0.81)
    assert not languages.reached(mask, 0.60, 0.75) and not languages.reached(mask, 0.85, 0.95)


@pytest.mark.parametrize("code", ["en", "ja"])
def test_other_stretches_touch_neither_bilabials_nor_pauses(code: str) -> None:
    speech = languages.spoken(languages.TEXTS[code][:2], code, 150)
    margin = languages.MARGIN_SECONDS
    others = languages.other_stretches(speech, np.random.default_rng(0))
    assert len(speech.bilabials) > 5 and len(others) > 20
    for start, end in others:
        assert all(end + margin <= a or start - margin >= b for a, b in (*speech.bilabials, *speech.pauses))


def test_every_language_has_bilabials_to_close_lips_on() -> None:
    for code, sentences in languages.TEXTS.items():
        speech = languages.spoken(sentences[:3], code, 150)
        assert len(speech.bilabials) >= 8, code
    assert {*split_ipa("p"), *split_ipa("b"), *split_ipa("m")} <= BILABIAL


@pytest.mark.parametrize("seconds", [4.0, 14.0])
def test_the_silence_between_sentences_is_silent(seconds: float) -> None:
    speech = 0.1 * torch.randn(round(seconds * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(0))
    made = interrupted(speech, None)
    begin, end = (round(s * SAMPLE_RATE_HZ) for s in made.silent)
    assert end - begin == SILENCE_SECONDS * SAMPLE_RATE_HZ
    assert not made.sound[begin:end].any() and made.sound[:begin].any() and made.sound[end:].any()
    fade = round(FADE_SECONDS * SAMPLE_RATE_HZ)
    assert made.sound[begin - 1].abs() < 1e-6 and made.sound[begin - fade : begin].abs().max() > 0
    frames = silent_frames(round(len(made.sound) / SAMPLE_RATE_HZ * MOTION_RATE_HZ), made.silent)
    assert 9.6 * MOTION_RATE_HZ <= frames.sum() <= 9.8 * MOTION_RATE_HZ


def test_results_are_kept_and_belong_to_one_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kept.json"
    assert Kept(path, {"seed": 1}).get("x", lambda value: value + 1, 2) == 3
    assert Kept(path, {"seed": 1}).get("x", lambda: pytest.fail("computed again")) == 3
    with pytest.raises(SystemExit) as stop:
        Kept(path, {"seed": 2})
    assert stop.value.code == 2 and "another folder" in capsys.readouterr().err


def test_a_table_shows_numbers_and_their_absence() -> None:
    lines = table(["name", "a", "b"], [["first", 0.5, None], ["second", float("nan"), 7]]).splitlines()
    assert [line.split() for line in lines] == [["name", "a", "b"], ["first", "0.500", "-"], ["second", "-", "7"]]


def test_meshes_are_compared_as_the_judge_compares_them() -> None:
    if not JUDGE.is_file():
        pytest.skip("the judge (../shared/tools/judge.py) is not here")
    judge = Judge(JUDGE)
    rng = np.random.default_rng(0)
    shapes = rng.standard_normal((30, 478, 3)) * (1 / np.arange(1, 31))[:, None, None]
    still = rng.standard_normal((1, 478, 3))
    real, generated = (
        judge.of_points(100 * (still + np.einsum("tk,knc->tnc", scale * rng.standard_normal((90, 30)), shapes)))
        for scale in (0.3, 0.2)
    )
    space = judge.mesh_space([real], [80])
    expected = judge.module.frechet(judge.module.flat_mesh(real)[:80], judge.module.flat_mesh(generated)[:80])
    # flat_mesh centres a whole clip, before it is cut
    assert judge.frechet([generated], space) == pytest.approx(expected, rel=1e-4)
