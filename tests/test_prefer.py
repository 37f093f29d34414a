"""`vivavoce prefer`: what is asked, over HTTP, and once with a keyboard in a browser."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from serving import wav
from test_page import Wire, chromium, playwright  # noqa: F401 - fixtures
from test_train import quiet
from toy import base, examples, model  # noqa: F401 - fixtures

from vivavoce import Animator
from vivavoce.generate import MotionGenerator
from vivavoce.latent.motion_space import Reference
from vivavoce.media.audio import Audio
from vivavoce.media.video import read_frames
from vivavoce.train.data import Clip, Example
from vivavoce.train.preferences import read_pairs
from vivavoce.train.rollout import Rollout

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

pytest.importorskip("fastapi", reason="the server's packages are not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from vivavoce.apps.clips import Stage, excerpt  # noqa: E402
from vivavoce.apps.prefer.app import create_app  # noqa: E402
from vivavoce.apps.prefer.trials import Ballot, Trial, clip_file, make_clips, trials  # noqa: E402
from vivavoce.apps.server.run import listen, server  # noqa: E402

FRAMES, TAKES = 12, 2
RATE = 16000


def rolled(width: int, stretches: int = 2) -> list[Rollout]:
    made = torch.Generator().manual_seed(0)
    return [Rollout(example=i, takes=0.5 * torch.randn(TAKES, FRAMES, width, generator=made)) for i in range(stretches)]


@pytest.fixture(scope="module")
def clips(
    animator: Animator, small: Reference, base: MotionGenerator, examples: list[Example],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Clips of all takes, with a tone that grows louder as the recording's sound."""
    folder = tmp_path_factory.mktemp("clips")
    t = np.arange(4 * RATE) / RATE
    (folder / "sound.wav").write_bytes(wav((3000 * t * np.sin(2 * np.pi * 440 * t)).astype("<i2"), RATE))
    recordings = {e.clip: Clip(path=folder / "sound.wav", split="train", person=e.person, talks=True) for e in examples}
    stage = Stage(animator.space, small, base, recordings)
    shifted = [replace(e, first=50) for e in examples]
    make_clips(rolled(base.layout.width), shifted, stage, folder, quiet)
    return folder


@pytest.fixture
def asked(examples: list[Example]) -> list[Trial]:
    return trials(rolled(3), examples, seed=0)


@contextmanager
def served(ballot: Ballot, clips: Path) -> Generator[str, None, None]:
    running = server(create_app(ballot, clips))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not running.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(20)


@pytest.fixture
def url(asked: list[Trial], clips: Path, tmp_path: Path) -> Iterator[str]:
    with served(Ballot(asked, tmp_path / "pairs.jsonl"), clips) as url:
        yield url


def test_every_two_takes_are_compared_once_and_sides_are_fair(examples: list[Example]) -> None:
    many = [Rollout(example=i % len(examples), takes=torch.zeros(5, 2, 1)) for i in range(6)]
    asked = trials(many, examples, seed=1)
    assert len({trial.pair for trial in asked}) == len(asked) == 6 * 10
    assert {trial.example for trial in asked[:6]} == {r.example for r in many}  # each once before any comes again
    left = Counter(trial.takes[0] < trial.takes[1] for trial in asked)
    assert abs(left[True] - left[False]) < 24
    assert trials(many, examples, seed=1) == asked
    assert trials(many, examples, seed=2) != asked


def test_clips_show_the_take_and_sound_as_recorded(
    clips: Path, small: Reference, base: MotionGenerator, examples: list[Example]
) -> None:
    frames = [np.stack(list(read_frames(clip_file(clips, 0, k), 25.0))).astype(float) for k in range(TAKES)]
    assert frames[0].shape == (FRAMES, 128, 128, 3)
    assert np.abs(frames[0] - frames[1]).mean() > 0.3
    sound = Audio.open(clip_file(clips, 0, 0)).mono()
    expected = excerpt(clips / "sound.wav", 1.0, FRAMES / 25)  # from the stretch's feature 50, at 50 a second, on
    assert sound.duration == pytest.approx(FRAMES / 25, abs=0.05)
    level = float(sound.samples[0, 1000:7000].square().mean() / expected.samples[0, 1000:7000].square().mean())
    assert level == pytest.approx(1.0, abs=0.05)
    assert float(excerpt(clips / "sound.wav", 3.9, 0.5).samples[0, 2000:].abs().max()) == 0.0
    before = {file: file.stat().st_mtime_ns for file in clips.glob("*.mp4")}
    make_clips(rolled(base.layout.width), examples, Stage(None, small, base, {}), clips, quiet)  # type: ignore[arg-type]
    assert {file: file.stat().st_mtime_ns for file in clips.glob("*.mp4")} == before
    other = Stage(None, replace(small, number=1), base, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another portrait"):
        make_clips(rolled(base.layout.width), examples, other, clips, quiet)


def test_answers_are_kept_and_a_sitting_goes_on(asked: list[Trial], clips: Path, tmp_path: Path, url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/v1/state").json() == {"trials": 2, "answered": 0, "next": 0}
        shown = [http.get(f"/v1/trials/0/{side}") for side in "AB"]
        for part, take in zip(shown, asked[0].takes, strict=True):
            assert part.headers["content-type"] == "video/mp4"
            assert part.content == clip_file(clips, asked[0].example, take).read_bytes()
            assert not any(f"{asked[0].example}-{take}" in value for value in part.headers.values())  # blind
        first = http.post("/v1/trials/0", json={"sync": "A", "naturalness": "same"}).json()
        assert first == {"trials": 2, "answered": 1, "next": 1}
        again = http.post("/v1/trials/0", json={"sync": "B", "naturalness": "B"}).json()
        assert again == first
    (choice,) = read_pairs(tmp_path / "pairs.jsonl")
    assert (choice.takes, choice.clip, choice.sync, choice.naturalness) == (asked[0].takes, asked[0].clip, "B", "B")
    resumed = Ballot(asked, tmp_path / "pairs.jsonl")
    assert (resumed.answered, resumed.following) == (1, 1)


@pytest.mark.parametrize(("path", "body", "status"), [
    ("/v1/trials/0", b'{"sync": "A"}', 400), ("/v1/trials/0", b'{"sync": "A", "naturalness": "C"}', 400),
    ("/v1/trials/0", b'{"sync": "A", "naturalness": "A", "take": 1}', 400), ("/v1/trials/0", b"A", 400),
    ("/v1/trials/0", b'{"sync": [], "naturalness": "A"}', 400),
    ("/v1/trials/0", b"[" * 9000, 400), ("/v1/trials/0", b" " * 20000, 413),
    ("/v1/trials/2", b'{"sync": "A", "naturalness": "A"}', 404), ("/v1/trials/-1", b'{"sync": "A", "naturalness": "A"}', 404),
])
def test_what_is_no_answer_is_refused(url: str, tmp_path: Path, path: str, body: bytes, status: int) -> None:
    answer = httpx.post(url + path, content=body, headers={"Content-Type": "application/json"}, trust_env=False)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert not (tmp_path / "pairs.jsonl").exists()


def test_nobody_else_may_answer(url: str) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert httpx.get(f"{url}/v1/state", headers=headers, trust_env=False).status_code == 403
    assert httpx.get(f"{url}/page/..%2Fapp.py", trust_env=False).status_code == 404
    assert httpx.get(f"{url}/v1/trials/0/C", trust_env=False).status_code == 404


def test_a_damaged_pairs_file_stops_the_sitting(asked: list[Trial], tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("no answer\n")
    with pytest.raises(ValueError, match="line 1"):
        Ballot(asked, tmp_path / "pairs.jsonl")


def test_pairs_are_judged_by_keyboard_in_a_browser(
    chromium: str, playwright: Playwright, url: str, asked: list[Trial], tmp_path: Path,
) -> None:
    from playwright.sync_api import expect

    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page, wire = browser.new_page(), Wire()
    page.set_default_timeout(30000)
    wire.watch(page)
    try:
        page.goto(url)
        expect(page.locator("#progress")).to_have_text("Pair 1 of 2, 0 answered")
        page.keyboard.press("ArrowLeft")  # nothing was seen yet
        expect(page.locator("#answer-A")).to_be_disabled()
        page.keyboard.press("Space")
        for answers in (("ArrowLeft", "ArrowDown"), ("ArrowRight", "ArrowRight")):
            expect(page.locator("#answer-A")).to_be_enabled(timeout=30000)  # both were played, one after the other
            expect(page.locator("#question")).to_contain_text("lips")
            page.keyboard.press("ArrowDown")
            expect(page.locator("#question")).to_contain_text("person")
            page.keyboard.press("Backspace")  # thought better of it
            expect(page.locator("#question")).to_contain_text("lips")
            page.keyboard.press(answers[0])
            page.keyboard.press(answers[1])
            expect(page.locator("#progress")).to_contain_text("1 answered" if answers[1] == "ArrowDown" else "2 of 2 answered")
        expect(page.locator("#done")).to_be_visible()
        assert "take" not in page.content()
    finally:
        browser.close()
    assert [(c.takes, c.sync, c.naturalness) for c in read_pairs(tmp_path / "pairs.jsonl")] == [
        (asked[0].takes, "A", "same"), (asked[1].takes, "B", "B"),
    ]
    assert wire.hosts == {urlsplit(url).netloc}
    assert wire.complaints == []
