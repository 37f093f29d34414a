"""The judges' parts: pairs, looking, listening, figures, sets, and which clips come first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vivavoce import Animator, Audio
from vivavoce.judge.evidence import Evidence, aligned
from vivavoce.judge.figures import FIGURES, figures_of
from vivavoce.judge.kept import kept
from vivavoce.judge.look import RATE_HZ, SHOTS, Look, _Shots, at_rate
from vivavoce.judge.pairs import Pair, read_pairs
from vivavoce.judge.plots import ticks
from vivavoce.judge.results import Evaluation, Row, Summary
from vivavoce.judge.sets import Clip, mesh_frechet, theval_score
from vivavoce.judge.sound import BEAT_APART_SECONDS, Heard, hear, words_for
from vivavoce.judge.worst import worst_first
from vivavoce.latent.mesh import flat_mesh
from vivavoce.latent.topology import INNER_LOWER, LIPS
from vivavoce.metrics import distances
from vivavoce.metrics.confidence import Interval
from vivavoce.speech.align import Aligner
from vivavoce.speech.phones import PHONES
from vivavoce.train.corpus import write_flac

FRAMES = 150
PAIR = Pair(name="clip", generated=Path("clip.mp4"))


def figures(evidence: Evidence) -> dict[str, float]:
    return figures_of(evidence, FIGURES)[0]


def _table(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text)
    return path


def test_a_pairs_file_of_the_independent_judge_is_read(tmp_path: Path) -> None:
    pairs = read_pairs(_table(tmp_path, "generated,real,portrait\na/x.mp4,/r/x.mp4,p.png\ny.mp4,/r/y.mp4,\n"))
    assert [(p.name, p.generated, p.recording, p.portrait) for p in pairs] == [
        ("x", tmp_path / "a/x.mp4", Path("/r/x.mp4"), tmp_path / "p.png"), ("y", tmp_path / "y.mp4", Path("/r/y.mp4"), None),
    ]
    assert {(p.system, p.group, p.transcript, p.audio, p.driving) for p in pairs} == {("generated", "all", None, None, None)}


def test_every_column_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("Buy, my boy.\n")
    text = "name,generated,recording,audio,driving,transcript,group,system,rewards\n"
    text += 'one,g.mp4,r.mp4,a.wav,d.mp4,x.txt,wild,ours,"lip_corr psnr"\n'
    (pair,) = read_pairs(_table(tmp_path, text))
    assert pair == Pair(
        name="one", generated=tmp_path / "g.mp4", recording=tmp_path / "r.mp4", audio=tmp_path / "a.wav",
        driving=tmp_path / "d.mp4", transcript="Buy, my boy.", group="wild", system="ours", rewards=("lip_corr", "psnr"),
    )


def test_clips_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    pairs = read_pairs(_table(tmp_path, "generated,system\na/x.mp4,s\nb/x.mp4,s\nc/x.mp4,t\n"))
    assert [pair.name for pair in pairs] == ["a/x", "b/x", "x"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no column 'generated'"), ("video,real\na.mp4,b.mp4\n", "no column 'generated'"),
        ("generated,reel\na.mp4,b.mp4\n", "unknown column 'reel'"), ("generated,real\n", "lists no pairs"),
        ("generated,real,recording\na,b,c\n", "which mean the same"), ("generated,real\n,b.mp4\n", "line 2: no generated video"),
        ("generated,real\na.mp4\n", "line 2: another number of values"), ("generated\na.mp4,b.mp4\n", "another number of values"),
        ("generated,name\na.mp4,x\nb.mp4,x\n", "/x' of 'generated' 2 times"),
        ("generated,transcript\na.mp4,no.txt\n", "no.txt does not"),
    ],
)
def test_what_is_no_pairs_file_is_said(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises((ValueError, OSError), match=complaint):
        read_pairs(_table(tmp_path, text))


def test_a_video_is_no_pairs_file(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ValueError, match="is no text: a pairs file is"):
        read_pairs(tmp_path / "x.mp4")
    with pytest.raises(FileNotFoundError, match="do not exist"):
        read_pairs(tmp_path / "none.csv")


def test_a_folder_is_its_videos_with_what_lies_beside_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no videos"):
        read_pairs(tmp_path)
    for name in ("b.mp4", "a.webm", "a.wav", "a.txt", "notes.md"):
        (tmp_path / name).write_text("good morning")
    first, second = read_pairs(tmp_path)
    assert (first.name, first.audio, first.transcript) == ("a", tmp_path / "a.wav", "good morning")
    assert (second.name, second.audio, second.transcript, second.recording) == ("b", None, None, None)


def test_what_is_kept_is_worked_out_once_until_the_file_changes(tmp_path: Path) -> None:
    file, made = tmp_path / "file", []

    def work() -> dict[str, np.ndarray]:
        made.append(1)
        return {"x": np.arange(3.0)}

    file.write_text("one")
    for _ in range(2):
        assert kept(tmp_path, "sum", (file,), work)["x"].tolist() == [0, 1, 2]
    assert len(made) == 1
    kept(tmp_path, "product", (file,), work)
    file.write_text("three")
    kept(tmp_path, "sum", (file,), work)
    assert len(made) == 3
    stored = max(tmp_path.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
    stored.write_bytes(stored.read_bytes()[:40])  # a copy that broke off
    kept(tmp_path, "sum", (file,), work)
    assert len(made) == 4
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("count", [1, 7, 16, 17, 100, 1000])
def test_shots_are_few_and_spread_over_everything(count: int) -> None:
    shots: _Shots[int] = _Shots()
    for i in range(count):
        shots.offer(lambda i=i: i)
    steps = set(np.diff(shots.kept).tolist())
    assert len(steps) <= 1 and shots.kept[0] == 0
    assert min(count, SHOTS // 2) <= len(shots.kept) <= SHOTS
    assert count - shots.kept[-1] <= max(steps, default=1)


def test_landmarks_of_any_rate_come_out_at_ours_and_gaps_are_bridged() -> None:
    times = 3.0 + np.arange(61) / 30.0
    points = np.repeat((5 * times)[:, None, None], 478, 1).repeat(3, 2).astype(np.float32)
    points[[0, 10, 11, 12, 60]] = np.nan
    found = at_rate(points, times)
    expected = 15 + 5 * np.arange(51) / RATE_HZ
    expected = np.clip(expected, 15 + 5 / 30, 25 - 5 / 30)  # the ends stand still
    assert found.shape == (51, 478, 3)
    np.testing.assert_allclose(found[:, 7, 1], expected, atol=1e-4)


# --- Figures -----------------------------------------------------------------------------------------------------------------


def _look(points: np.ndarray) -> Look:
    rng = np.random.default_rng(1)
    return Look(
        points=points.astype(np.float32), found=np.ones(len(points), bool), size=(256, 256), frame_rate_hz=RATE_HZ,
        mouth_sharp=4.0, face_sharp=5.0, border=np.full(len(points) - 1, 0.5), background=0.2,
        colours=rng.normal(100, 1, (len(points), 3)),
        described=True, descriptors=np.eye(128)[:2], thumbs=np.zeros((2, 8, 8, 3), np.uint8), times=np.array([0.0, 1.0]),
    )


@pytest.fixture(scope="module")
def recorded(animator: Animator) -> Look:
    """A face that talks, nods and blinks."""
    time = np.arange(FRAMES) / RATE_HZ
    face = np.repeat(animator.space.model.mean[None] * 100 + 128, FRAMES, 0)
    opening = 3 * (1 + np.sin(2 * np.pi * 2.1 * time) * np.sin(2 * np.pi * 0.3 * time))
    face[:, INNER_LOWER, 1] += opening[:, None]
    face[:, LIPS, 0] *= 1 + 0.01 * np.sin(2 * np.pi * 1.3 * time)[:, None]
    angle = 0.1 * np.sin(2 * np.pi * 0.4 * time) + 0.03 * np.sin(2 * np.pi * 1.1 * time)
    turned = face.copy()
    turned[..., 0] = np.cos(angle)[:, None] * face[..., 0] + np.sin(angle)[:, None] * face[..., 2]
    turned[..., 2] = -np.sin(angle)[:, None] * face[..., 0] + np.cos(angle)[:, None] * face[..., 2]
    turned[..., 1] += 2 * np.sin(2 * np.pi * 0.7 * time)[:, None] * np.linspace(0, 1, face.shape[1])
    return _look(turned)


def _delayed(look: Look, frames: int) -> Look:
    index = np.clip(np.arange(len(look.points)) - frames, 0, None)
    return replace(look, points=look.points[index])


def test_a_recording_is_its_own_best_copy(recorded: Look) -> None:
    found = figures(Evidence(pair=PAIR, shown=recorded, recording=recorded))
    exact = {"lip_corr": 1, "lip_lag_ms": 0, "lip_gain": 1, "width_corr": 1, "closure_f1": 1, "head_ratio": 1, "jerk_ratio": 1,
             "brow_ratio": 1, "mouth_sharp": 1}
    assert {name: found[name] for name in exact} == pytest.approx(exact)
    alone = [figure.name for figure in FIGURES if figure.alone and figure.name in found]
    assert len(alone) > 10
    assert {name: found[name] for name in alone} == {name: found[f"{name}_real"] for name in alone}


@pytest.mark.parametrize("frames", [1, 3, 6])
def test_late_lips_are_measured_as_late(recorded: Look, frames: int) -> None:
    found = figures(Evidence(pair=PAIR, shown=_delayed(recorded, frames), recording=recorded))
    assert found["lip_lag_ms"] == 1000 / RATE_HZ * frames
    assert found["lip_corr"] < 0.99


def test_figures_say_only_what_the_evidence_allows(recorded: Look) -> None:
    alone = figures(Evidence(pair=PAIR, shown=recorded))
    driven = figures(Evidence(pair=PAIR, shown=recorded, driving=recorded))
    assert not any(name.endswith("_real") for name in {*alone, *driven})
    assert {"head_spread", "blink_per_min", "flicker"} <= set(alone)
    assert not {"lip_corr", "psnr", "identity", "beat_align", "bilabial_closure"} & set(alone)
    assert set(driven) - set(alone) == {
        "lip_corr", "lip_lag_ms", "lip_gain", "width_corr", "closure_f1", "head_ratio", "jerk_ratio", "brow_ratio",
    }


def test_looks_of_other_lengths_are_cut_to_the_same_moments(recorded: Look) -> None:
    evidence = aligned(Evidence(pair=PAIR, shown=recorded.first(100), recording=recorded))
    assert len(evidence.shown.points) == 100
    assert evidence.recording is not None and len(evidence.recording.points) == 100
    assert figures(evidence)["lip_corr"] == pytest.approx(1)


def test_sound_that_is_shorter_than_the_pictures_goes_on_as_it_ended(recorded: Look) -> None:
    heard = Heard(
        loudness=np.linspace(0, 1, 40), level_db=np.random.default_rng(0).normal(size=40), silent=np.arange(40) > 20,
        beats=np.array([0.2, 0.9]), wave=np.ones(80), starts=np.zeros(0), ends=np.zeros(0), phones=np.zeros(0, int),
    )
    found = figures(Evidence(pair=PAIR, shown=recorded, heard=heard))
    assert {"beat_align", "silent_lips", "theval_sync", "head_sync_200"} <= set(found)
    assert "bilabial_closure" not in found


# --- Sound -------------------------------------------------------------------------------------------------------------------


def test_words_come_from_a_transcript_or_from_a_sentence_of_grid() -> None:
    assert words_for("Good morning!", "grid-s4-bbaf2n") == ("good", "morning")
    assert words_for(None, "take-3", "s4_bbaf2n") == ("bin", "blue", "at", "f", "two", "now")
    assert words_for(None, "interview", "talk") == ()
    with pytest.raises(ValueError, match="digits"):
        words_for("room 101")


def test_bilabials_are_found_where_they_are_spoken(tmp_path: Path, sentence: Audio) -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    from vivavoce.speech.sound import at_rate as resampled

    path = tmp_path / "sentence.flac"
    write_flac(path, resampled(sentence))
    words = words_for("My mother bought a blue boat. People may be busy.")
    heard = hear(path, words, tmp_path, Aligner().align)
    assert [PHONES[p] for p in heard.phones if PHONES[p] in "pbm"] == list("mmbbbppmbb")
    assert len(heard.bilabials) == 10 and (np.diff(heard.bilabials, axis=1) > 0).all()
    assert len(heard.loudness) == len(heard.silent) == -(-int(sentence.duration * 50 + 0.999) // 2)
    assert len(heard.beats) > 5 and np.diff(heard.beats).min() >= BEAT_APART_SECONDS
    again = hear(path, words, tmp_path, Aligner().align)
    assert (again.phones == heard.phones).all() and again.note == ""
    assert "does not fit" in hear(path, ("xylophone",) * 60, None, Aligner().align).note


# --- Sets and order ----------------------------------------------------------------------------------------------------------


def test_mesh_fid_of_clips_is_that_of_their_frames_together(recorded: Look) -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for spread in (0.5, 1.0, 2.0):
        real = replace(recorded, points=recorded.points + rng.normal(0, spread, recorded.points.shape).astype(np.float32))
        pairs.append((_delayed(real, 5), real))
    clips = [
        Clip(figures={}, evidence=lambda a=a, b=b: Evidence(pair=PAIR, shown=a, recording=b), compared=True) for a, b in pairs
    ]
    ours, theirs = (np.concatenate([flat_mesh(pair[i].points.astype(float)) for pair in pairs]) for i in (0, 1))
    over = mesh_frechet(clips)
    assert over(np.arange(3)) == pytest.approx(distances.mesh_frechet(theirs, ours), rel=1e-3)
    assert over(np.array([0, 0, 0])) != over(np.array([2, 2, 2]))


def test_theval_s_mean_is_one_for_what_moves_as_recorded() -> None:
    names = ("theval_lips", "theval_head", "theval_brows", "theval_silence", "theval_sync")
    like = {name + end: 2.0 for name in names for end in ("", "_real")}
    other = like | {"theval_head": 1.0}

    def over(figures: dict[str, float]) -> float:
        return theval_score([Clip(figures=figures, evidence=lambda: None, compared=True)])(np.array([0]))  # type: ignore[arg-type, return-value]

    assert over(like) == 1
    assert over(other) == pytest.approx(0.9)


def _evaluation(rows: list[Row], rewards: tuple[str, ...] = ()) -> Evaluation:
    one = Interval(value=0.0, low=0.0, high=0.0, count=1)
    summaries = tuple(
        Summary(system="generated", group="all", figure=name, mean=one, median=one, real=None, reward=True) for name in rewards
    )
    return Evaluation(
        figures=FIGURES, systems=("generated",), groups=("all",), rows=tuple(rows), summaries=summaries, differences=(),
    )


def test_the_worst_come_first_whichever_side_is_the_bad_one() -> None:
    values = {"good": (0.9, 1.0, 0.0), "middling": (0.6, 2.0, 80.0), "bad": (0.2, 0.2, -200.0)}
    rows = [
        Row(pair=replace(PAIR, name=name), figures=dict(zip(("lip_corr", "lip_gain", "lip_lag_ms"), v, strict=True)))
        for name, v in values.items()
    ]
    failed = Row(pair=replace(PAIR, name="failed"), figures={}, problem="no face")
    ranked = worst_first(_evaluation([*rows, failed]))
    assert [clip.row.pair.name for clip in ranked] == ["bad", "middling", "good"]
    assert [clip.badness for clip in ranked] == [1.0, 0.5, 0.0]
    other = worst_first(_evaluation(rows, rewards=("lip_gain", "lip_lag_ms")))
    assert {figure.name for clip in other for figure in clip.worst} == {"lip_corr"}


@pytest.mark.parametrize(("low", "high", "most"), [(0, 1, 4), (-3.2, 4.1, 3), (0, 30, 8), (0.000123, 0.000987, 4), (5, 5, 3)])
def test_ticks_are_few_round_and_inside(low: float, high: float, most: int) -> None:
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    assert all(len(f"{tick:g}") <= 8 for tick in found)


def test_a_figure_that_fails_leaves_the_others_alone(recorded: Look) -> None:
    evidence = Evidence(pair=PAIR, shown=recorded)

    def fails(_: Evidence) -> float:
        raise ValueError("pictures of one size are compared")

    broken = replace(FIGURES[-1], name="broken", needs=frozenset(), alone=False, measure=fails)
    silent = replace(broken, name="untold", measure=lambda _: float("nan"))
    found, notes = figures_of(evidence, (*FIGURES, broken, silent))
    assert found == figures(evidence)
    assert notes[0] == "broken: pictures of one size are compared"
    assert "untold" in notes[-1]
