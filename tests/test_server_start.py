"""How a server begins: what it refuses before anything is loaded, what it leaves alone, and when it says that it is ready."""

from __future__ import annotations

import ast
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import waited

import vivavoce.apps.server
from vivavoce import Animator
from vivavoce.apps import cli
from vivavoce.apps.server import documents, run
from vivavoce.apps.server.app import NO_ROUTE, Access
from vivavoce.apps.server.avatars import Avatars
from vivavoce.apps.server.folder import LOCK, held
from vivavoce.apps.server.limits import Limits, refused
from vivavoce.apps.server.live import CLOSE_CODES
from vivavoce.apps.server.videos import Videos
from vivavoce.live.scheduler import Scheduler

KEY = "0123456789abcdef01234567"
PROTOCOL = Path(__file__).parents[1] / "docs" / "protocol.md"


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads the models has failed."""

    def load() -> None:
        raise AssertionError("the models were loaded")

    monkeypatch.setattr(run, "load", load)


def test_a_server_deletes_nothing_but_what_servers_made(tmp_path: Path) -> None:
    videos, avatars = tmp_path / "videos", tmp_path / "avatars"
    kept = [
        videos / "holiday.mp4", videos / "video_1.mp4", videos / "notes.txt", videos / f"video_{KEY}.mp4.bak", videos / ".hidden",
        videos / "folder" / "inner.mp4", videos / f"video_{'f' * 24}.mp4" / "a folder by that name",
        avatars / "mine.part", avatars / "download.npz.part", avatars / f"{'f' * 24}.part" / "x", tmp_path / "dear.txt",
    ]
    ours = [
        videos / f"video_{KEY}.mp4", videos / f"{KEY}.sound", videos / ".vivavoce-0123456789abcdef.part.mp4",
        avatars / f"{KEY}.part", avatars / f"{KEY}.npz.part",
    ]
    for file in (*kept, *ours):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("dear")
    Videos(videos, None, None, Limits())  # type: ignore[arg-type]
    Avatars(avatars, None, Limits())  # type: ignore[arg-type]
    assert [file for file in kept if not file.is_file()] == []
    assert [file for file in ours if file.exists()] == []


def test_a_folder_is_one_servers_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with held(folder) as given:
        assert given == folder and folder.is_dir()
        with pytest.raises(ValueError, match=r"another vivavoce server uses the folder .*: stop it"), held(folder):
            pass
        with held(tmp_path / "other"):
            pass
    with held(folder):
        assert [file.name for file in folder.iterdir()] == [LOCK]


@pytest.mark.parametrize(("line", "says"), {
    "--workers=-2": "--workers is -2: give 1 or more", "--workers 0": "--workers is 0", "--workers x": "--workers cannot be 'x'",
    "--sessions=-1": "--sessions is -1", "--sessions 0": "--sessions is 0", "--port 80a": "--port cannot be '80a'",
    "--origin https://example.org/page": "without a path", "--origin example.org": "'example.org'.*https://",
    "stray": "nothing takes 'stray'", "--folder afile": "afile is a file", "--folder afile/inner": "afile/inner is a file, or",
    "--folder taken": "another vivavoce server uses the folder taken", "--port 99999": "99999.*there is no such port",
}.items())
@pytest.mark.parametrize("command", ["serve", "web"])
@pytest.mark.usefixtures("unloaded")
def test_what_cannot_be_served_is_refused_in_a_sentence_before_the_models_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, line: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("dear")
    folder = [] if "--folder" in line else ["--folder", "free"]
    with held(Path("taken")):
        assert cli.main([command, *line.split(), *folder]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("vivavoce: ") and err.count("\n") == 1
    assert re.search(says, err), err
    assert Path("afile").read_text() == "dear"


def test_threads_are_as_many_as_processors_may_be_used_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    scheduler = Scheduler()
    assert len(scheduler._threads) == 3
    scheduler.close()
    for workers in (0, -2):
        with pytest.raises(ValueError, match=f"{workers} threads .* give 1 or more"):
            Scheduler(workers)


def test_the_browser_is_opened_when_the_server_answers(
    animator: Animator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered: list[tuple[str, int]] = []
    running: list[Any] = []
    server = run.server

    def opened(url: str) -> bool:
        answered.append((url, httpx.get(url, trust_env=False).status_code))
        return True

    def kept(*args: Any, **how: Any) -> Any:
        running.append(server(*args, **how))
        return running[-1]

    monkeypatch.setattr(run, "load", lambda: animator)
    monkeypatch.setattr(run, "server", kept)
    monkeypatch.setattr(run.webbrowser, "open", opened)
    serving = cli.Serving(port=0, folder=tmp_path, token="a b", workers=1)
    thread = threading.Thread(target=lambda: run.serve(serving, browser=True))
    thread.start()
    try:
        assert waited(lambda: bool(answered) or not thread.is_alive(), 60)
    finally:
        running[0].should_exit = True
        thread.join(30)
    (url, status), = answered
    said = capsys.readouterr().out.splitlines()
    assert status == 200 and said[0] == "loading the models"
    assert said[1].startswith("ready: http://127.0.0.1:") and f"{url.partition('/?')[0]}/docs" in said[1]


def test_an_origin_is_a_scheme_and_a_host() -> None:
    Access(origins=("https://example.org", "http://localhost:3000", "http://[::1]:80", "chrome-extension://abc"))
    for origin in ("example.org", "https://example.org/", "*", "", "https://", "https://a b"):
        with pytest.raises(ValueError, match="give scheme and host"):
            Access(origins=(origin,))


# The table of codes


def refusals() -> Iterator[tuple[str, int, str]]:
    """Place, status and code of every refusal that the server's modules write down."""
    for file in Path(vivavoce.apps.server.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
            if name not in ("Refusal", "refused"):
                continue
            assert isinstance(node, ast.Call)
            place = f"{file.name}:{node.lineno}"
            if name == "Refusal":
                status, code = node.args[:2]
            else:
                status, code = node.args[2] if len(node.args) > 2 else ast.Constant(refused.__defaults__[0]), node.args[1]
            if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
                yield place, status.value, code.value
            else:  # of routes that are not there, and `refused` itself
                assert ast.unparse(status) in ("error.status_code", "status"), place


def test_every_refusal_is_in_the_table_and_the_table_has_no_other() -> None:
    written = {(status, code) for _, status, code in refusals()} | set(NO_ROUTE.items())
    table = {(status, code) for status, codes in documents.FAILURES.items() for code in codes}
    assert written == table
    for codes in documents.FAILURES.values():
        for code, sentence in codes.items():
            assert 10 < len(sentence) <= 400 and not sentence[0].isupper(), code


def test_the_live_protocol_names_every_code_that_it_knows() -> None:
    said = PROTOCOL.read_text()
    files = ("live.py", "control.py", "avatars.py", "access.py", "places.py", "webrtc.py")
    codes = {(status, code) for place, status, code in refusals() if place.split(":")[0] in files}
    for status, code in codes - {(507, "too_many_avatars"), (403, "not_yours")}:
        assert f"`{code}`" in said, code
        assert status in CLOSE_CODES or status == 500, (status, code)
    assert set(documents.LIVE_ONLY) <= {code for _, code in codes}
