"""`vivavoce evaluate` as a whole: videos in, a report out."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vivavoce import Animator, Audio, Portrait
from vivavoce.apps.cli import main
from vivavoce.judge import look as looking
from vivavoce.judge.evaluation import evaluate
from vivavoce.judge.figures import FIGURES, figures_of
from vivavoce.judge.gather import Tools, gather
from vivavoce.judge.pairs import Pair, read_pairs
from vivavoce.judge.sets import Clip, mesh_frechet
from vivavoce.media.video import VideoWriter

JUDGE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "judge.py"
SIZE = 256  # px
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def _write(path: Path, frames: list[np.ndarray], sound: Audio | None) -> None:
    with VideoWriter(path, fps=25, size=frames[0].shape[1::-1], sound=sound) as writer:
        for frame in frames:
            writer.write(frame)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, animator: Animator, astronaut: Portrait, sentence: Audio) -> Path:
    """Two takes of a portrait saying a sentence, one of them also late, and things that are no talking face."""
    folder = tmp_path_factory.mktemp("clips")
    takes = [list(animator.animate(astronaut, sentence, size=SIZE, crop=True, seed=seed)) for seed in (0, 1)]
    _write(folder / "take0.mp4", takes[0], sentence)
    _write(folder / "take1.mp4", takes[1], sentence)
    _write(folder / "late.mp4", [takes[1][0]] * 4 + takes[1][:-4], sentence)
    _write(folder / "half.mp4", takes[1][: len(takes[1]) // 2], None)
    _write(folder / "grey.mp4", [np.full((64, 64, 3), 128, np.uint8)] * 30, None)
    (folder / "broken.mp4").write_bytes((folder / "take0.mp4").read_bytes()[:2000])
    Image.fromarray(takes[0][0]).save(folder / "portrait.png")
    return folder


def _pairs(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def report(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two systems, in which much is wrong."""
    out = tmp_path_factory.mktemp("out") / "report"
    said = "My mother bought a blue boat. People may be busy."
    more = {"portrait": "portrait.png", "transcript": said}
    rows = [
        {"name": "a", "system": "ours", "generated": "take1.mp4", "real": "take0.mp4", **more},
        {"name": "b", "system": "ours", "generated": "half.mp4", "real": "take0.mp4"},
        {"name": "c", "system": "ours", "generated": "take1.mp4", "real": "grey.mp4"},
        {"name": "d", "system": "ours", "generated": "take1.mp4"},
        {"name": "a", "system": "theirs", "generated": "late.mp4", "real": "take0.mp4", "rewards": "lip_corr"},
        {"name": "b", "system": "theirs", "generated": "missing.mp4", "real": "take0.mp4"},
        {"name": "c", "system": "theirs", "generated": "grey.mp4", "real": "take0.mp4"},
        {"name": "d", "system": "theirs", "generated": "broken.mp4", "real": "take0.mp4"},
    ]
    assert main(["evaluate", str(_pairs(clips, rows)), "-o", str(out), "--seed", "3"]) == 0
    return out


@pytest.fixture(scope="module")
def found(report: Path) -> dict[str, Any]:
    return json.loads((report / "report.json").read_text())


def _clip(found: dict[str, Any], system: str, name: str) -> dict[str, Any]:
    (clip,) = [clip for clip in found["clips"] if (clip["system"], clip["name"]) == (system, name)]
    return clip


def test_every_clip_is_in_the_report_with_what_was_wrong_with_it(found: dict[str, Any]) -> None:
    assert [clip["problem"] is None for clip in found["clips"]] == [True] * 4 + [True, False, False, False]
    assert "missing.mp4 does not exist" in _clip(found, "theirs", "b")["problem"]
    assert "a face in only 0%" in _clip(found, "theirs", "c")["problem"]
    assert "damaged or cut short" in _clip(found, "theirs", "d")["problem"]
    assert "were compared" in " ".join(_clip(found, "ours", "b")["notes"])
    assert "grey.mp4 has a face in only 0%" in " ".join(_clip(found, "ours", "c")["notes"])


def test_what_is_not_there_is_not_measured(found: dict[str, Any]) -> None:
    whole, bare = (_clip(found, "ours", name)["figures"] for name in ("a", "d"))
    assert {"lip_corr", "psnr", "face_sharp", "head_spread", "head_spread_real"} <= set(whole)
    assert {"head_spread", "blink_per_min", "flicker", "beat_align", "sound_corr"} <= set(bare)
    assert not {"lip_corr", "psnr", "face_sharp", "head_spread_real"} & set(bare)


def test_late_lips_are_late_and_the_difference_has_an_interval(found: dict[str, Any]) -> None:
    assert _clip(found, "ours", "a")["figures"]["lip_lag_ms"] == pytest.approx(0, abs=40)
    late = _clip(found, "theirs", "a")["figures"]["lip_lag_ms"] - _clip(found, "ours", "a")["figures"]["lip_lag_ms"]
    assert late == pytest.approx(160, abs=40)
    (difference,) = [d for d in found["differences"] if d["figure"] == "lip_lag_ms"]
    assert difference["mean"]["value"] == late and difference["mean"]["count"] == 1 and difference["mean"]["low"] is None
    (summary,) = [s for s in found["summaries"] if (s["system"], s["figure"]) == ("ours", "head_spread")]
    assert summary["mean"]["low"] <= summary["mean"]["value"] <= summary["mean"]["high"] and summary["mean"]["count"] == 4


def test_rewards_are_named(report: Path, found: dict[str, Any]) -> None:
    assert {(s["system"], s["figure"]) for s in found["summaries"] if s["reward"]} == {("theirs", "lip_corr")}
    assert "lip_corr (theirs)" in (report / "report.md").read_text()
    assert 'class="reward">reward' in (report / "index.html").read_text()


def test_the_page_needs_nothing_else_and_shows_the_worst_first(report: Path, found: dict[str, Any]) -> None:
    page = (report / "index.html").read_text()
    assert not re.findall(r"https?://|<script|<link|@import|url\(", page)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]+)', page))
    assert page.count('class="clip"') == 5 and page.count("<img") == 5
    assert page.count('aria-label="Opening of the lips over the waveform"') == 5
    ranks = [float(rank) for rank in re.findall(r'<td class="n">(\d\.\d\d)</td><td class="said">', page)]
    assert ranks == sorted(ranks, reverse=True) and len(ranks) == 5
    for clip in found["clips"]:
        assert clip["problem"] is None or clip["problem"] in page.replace("&#x27;", "'")


def test_the_page_fits_a_phone(report: Path) -> None:
    api: ModuleType = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((report / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("img").first.evaluate("image => image.naturalWidth") > 500
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        browser.close()


def test_a_second_run_looks_at_nothing_again(report: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (report / name).read_bytes() for name in ("report.json", "report.md", "index.html")}

    def again(video: Path, *more: Any) -> looking.Arrays:
        assert video.name in ("grey.mp4", "broken.mp4"), f"{video} was looked at again"
        return watch(video, *more)

    watch = looking._watch
    monkeypatch.setattr(looking, "_watch", again)
    assert main(["evaluate", str(clips / "pairs.csv"), "-o", str(report), "--seed", "3"]) == 0
    after = {name: (report / name).read_bytes() for name in before}
    assert after == before


def test_the_independent_judge_agrees(clips: Path) -> None:
    if not JUDGE.is_file():
        pytest.skip("the independent judge (../shared/tools/judge.py) is not here")
    spec = importlib.util.spec_from_file_location("independent_judge", JUDGE)
    assert spec is not None and spec.loader is not None
    judge = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = judge  # its dataclasses look themselves up
    spec.loader.exec_module(judge)
    tools = Tools.found()
    names = ("take1", "take0", "portrait")
    generated, real, portrait = (clips / f"{name}{'.png' if name == 'portrait' else '.mp4'}" for name in names)
    theirs, mesh, mesh_real = judge.judge(
        str(generated), str(real), str(portrait), judge.Identity() if tools.describe is not None else None, None
    )
    evidence, _ = gather(Pair(name="take", generated=generated, recording=real, portrait=portrait), None, tools)
    ours, _ = figures_of(evidence, FIGURES)
    assert set(theirs) - {"identity"} <= {name.replace("_real", "") for name in ours} | {"blink_per_min_real"}
    # It converts colours less exactly, so landmarks differ by noise, of which jerk is a third difference: on equal landmarks it
    # is equal to the last digits (test_metrics_judge).
    tolerance = {
        "lip_corr": 0.02, "lip_lag_ms": 0, "lip_gain": 0.02, "width_corr": 0.02, "closure_f1": 0.06, "head_ratio": 0.02,
        "jerk_ratio": 0.2, "brow_ratio": 0.05, "blink_per_min": 1e-6, "blink_per_min_real": 1e-6, "mouth_sharp": 0.02,
        "flicker": 0.02, "face_found": 0, "face_sharp": 0.05, "identity": 0.01,
    }
    assert {name: (ours[name], theirs[name]) for name in theirs if abs(ours[name] - theirs[name]) > tolerance[name]} == {}
    over = mesh_frechet([Clip(figures=ours, evidence=lambda: evidence, compared=True)])
    assert over(np.array([0])) == pytest.approx(judge.frechet(mesh_real, mesh), rel=0.03)


# --- What is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.csv", "-o", "out"], "do not exist"), (["portrait.png", "-o", "out"], "is no text"),
        (["empty", "-o", "out"], "has no videos"),
        (["alone.csv", "-o", "out", "--rewards", "beauty"], "'beauty' is none of the figures"),
        (["alone.csv", "-o", "out", "--rewards", "lse_c"], "'lse_c' is measured by a network whose weights are not there"),
        (["alone.csv", "-o", "out", "--rewards", "lse_d"], "give them with --syncnet"),
        (["alone.csv", "-o", "out", "--rewards", "fvd"], "with --i3d, or leave that reward out"),
        (["nowhere.csv", "-o", "out", "--seed=-1"], "--seed is -1"),  # before anything is looked at
        (["grey.csv", "-o", "out"], "none of the 1 clips could be judged"), (["alone.csv", "-o", "portrait.png"], "is a file"),
        (["alone.csv", "-o", "site"], "index.html that no evaluation wrote"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.csv").write_text(f"generated\n{clips / 'take0.mp4'}\n")
    (tmp_path / "grey.csv").write_text(f"generated\n{clips / 'grey.mp4'}\n")
    shutil.copy(clips / "portrait.png", tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my own")
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("vivavoce: ") and complaint in said
    assert (tmp_path / "site" / "index.html").read_text() == "my own"
    assert not list(tmp_path.rglob("report.*"))


def test_a_folder_of_videos_is_judged_without_recordings(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(clips / "half.mp4", folder / "mute.mp4")
    (row,) = evaluate(read_pairs(folder), tmp_path / "out").rows
    assert row.problem is None and "there is no sound to judge it by" in row.notes
    assert {"head_spread", "blink_per_min", "flicker"} <= set(row.figures)
    assert "beat_align" not in row.figures
