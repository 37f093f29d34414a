"""The judge against a stub of its endpoint: what is sent, what counts as an answer, and how it is asked again."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from serving import wav
from test_train import quiet
from toy import base, examples, model  # noqa: F401 - fixtures

from vivavoce import Animator, Audio
from vivavoce.apps.clips import Stage
from vivavoce.apps.model_judge import AT_ONCE, CRITERIA, EVERY, RUBRIC, SCHEMA, ModelJudge, judged, parsed, side_by_side
from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion_space import Reference
from vivavoce.train.data import Clip, Example
from vivavoce.train.policy import PolicyRecipe, train_policy
from vivavoce.train.scorers import REGULARISERS, composed

SCORES = {"sync": 4, "expressiveness": 2, "motion": 5}
FRAMES = [np.full((24, 32, 3), 10 * i, np.uint8) for i in range(9)]
SOUND = Audio(samples=0.5 * torch.sin(torch.arange(5760) / 10.0)[None], rate=16000)
DOCS = Path(__file__).parent.parent / "docs"


def completion(words: object) -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": words}}]})


GOOD = completion(json.dumps(SCORES))


@dataclass
class Stub:
    """Answers in turn, the last one for ever. ``got``: path, headers and body of each request."""

    answers: list[tuple[int, str]] = field(default_factory=lambda: [GOOD])
    delay_seconds: float = 0.0
    got: list[tuple[str, dict, dict]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def stub() -> Iterator[Stub]:
    told = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.got.append((self.path, dict(self.headers), body))
            status, words = told.answers[min(len(told.got), len(told.answers)) - 1]
            time.sleep(told.delay_seconds)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", words)
            self.end_headers()
            with suppress(BrokenPipeError):  # whoever asked has gone
                self.wfile.write(words.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def judge(stub: Stub, tmp_path: Path) -> ModelJudge:
    return ModelJudge(url=stub.url, model="seer", cache=tmp_path / "scores", key="secret", wait_seconds=0.01, timeout_seconds=60)


def test_frames_and_sound_are_sent_and_scores_come_back(judge: ModelJudge, stub: Stub) -> None:
    assert judge(FRAMES, SOUND) == SCORES
    ((path, headers, body),) = stub.got
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "seer"
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    system, user = body["messages"]
    assert system["content"] == RUBRIC
    text, *pictures, heard = user["content"]
    assert text["text"].startswith("3 frames, 0.16 s apart")
    for part, frame in zip(pictures, FRAMES[::EVERY], strict=True):
        kind, _, data = part["image_url"]["url"].partition(",")
        assert kind == "data:image/jpeg;base64"
        np.testing.assert_allclose(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int), frame, atol=2)
    assert heard["input_audio"]["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(heard["input_audio"]["data"]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, 5760)
        samples = np.frombuffer(file.readframes(5760), "<i2") / 32767
    np.testing.assert_allclose(samples, SOUND.samples[0].numpy(), atol=1e-4)
    assert "secret" not in repr(judge)


def test_nothing_is_judged_twice(judge: ModelJudge, stub: Stub) -> None:
    for _ in range(2):
        assert judge(FRAMES, SOUND) == SCORES
    assert replace(judge, key=None)(FRAMES, SOUND) == SCORES
    assert len(stub.got) == 1
    judge(FRAMES[::-1], SOUND)
    replace(judge, model="other")(FRAMES, SOUND)
    assert len(stub.got) == 3


@pytest.mark.parametrize("words", [
    "sync: 4", "[4, 2, 5]", '{"sync": 4, "expressiveness": 2}', json.dumps({**SCORES, "why": "x"}),
    *(json.dumps({**SCORES, "sync": value}) for value in (0, 6, 4.0, True, "4", None)),
    f"```json\n{json.dumps(SCORES)}\n```", "[" * 100000,
])
def test_what_is_no_score_is_asked_for_again(judge: ModelJudge, stub: Stub, words: str) -> None:
    with pytest.raises(ValueError):
        parsed(words)
    stub.answers = [completion(words), GOOD]
    assert judge(FRAMES, SOUND) == SCORES
    assert len(stub.got) == 2


@pytest.mark.parametrize("answer", [(500, "busy"), (429, "later"), (200, "{}"), (200, "<html>"), completion(None)])
def test_what_fails_is_asked_for_again(judge: ModelJudge, stub: Stub, answer: tuple[int, str]) -> None:
    stub.answers = [answer, answer, answer, GOOD]
    assert judge(FRAMES, SOUND) == SCORES
    assert len(stub.got) == 4


def test_it_gives_up_in_a_sentence(judge: ModelJudge, stub: Stub, tmp_path: Path) -> None:
    stub.answers = [(500, "broken")]
    with pytest.raises(ValueError, match="no scores in 4 tries; at last it answered 500: broken"):
        judge(FRAMES, SOUND)
    assert not (tmp_path / "scores").exists()
    stub.answers, stub.delay_seconds = [GOOD], 0.5
    with pytest.raises(ValueError, match="no scores in 2 tries; at last it cannot be reached"):
        replace(judge, timeout_seconds=0.1, retries=1)(FRAMES, SOUND)


@pytest.mark.parametrize(("status", "words"), [(401, "no such key"), (404, "no such model"), (302, "http://127.0.0.1:9/")])
def test_a_refusal_is_final(judge: ModelJudge, stub: Stub, status: int, words: str) -> None:
    stub.answers = [(status, words)]
    with pytest.raises(ValueError, match=f"refuses: it answered {status}: {words}"):
        judge(FRAMES, SOUND)
    assert len(stub.got) == 1


def test_addresses_are_of_the_web(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "localhost:8000", "http://", "http://[::1/v1", "http://x:99999/v1", "http://x/v 1"):
        with pytest.raises(ValueError, match="give an http or https address"):
            ModelJudge(url=url, model="seer", cache=tmp_path)


def test_a_key_that_cannot_be_sent_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="VIVAVOCE_JUDGE_KEY has letters") as raised:
        ModelJudge(url="http://x/v1", model="seer", cache=tmp_path, key="secret\n")
    assert "secret" not in str(raised.value)


def test_a_damaged_score_is_named(judge: ModelJudge) -> None:
    judge(FRAMES, SOUND)
    (kept,) = judge.cache.iterdir()
    kept.write_text("")
    with pytest.raises(ValueError, match=f"{kept.name} holds no scores: remove it"):
        judge(FRAMES, SOUND)


def test_answers_come_in_order_and_an_error_waits_for_none() -> None:
    pause, asked = threading.Event(), []

    def slow(item: int) -> int:
        asked.append(item)
        if item == 0:
            raise ValueError("no")
        pause.wait(60)
        return item

    assert side_by_side(lambda item: -item, range(20)) == [-item for item in range(20)]
    began = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        side_by_side(slow, range(20))
    assert time.monotonic() - began < 30  # the others are still waiting
    pause.set()
    time.sleep(0.05)
    assert len(asked) <= 2 * AT_ONCE


def test_pauses_double(judge: ModelJudge, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, monotonic_ns=time.monotonic_ns)
    monkeypatch.setattr("vivavoce.apps.model_judge.time", clock)  # not the stub's
    stub.answers = [(503, "")] * 3 + [GOOD]
    judge(FRAMES, SOUND)
    assert waited == [0.01, 0.02, 0.04]


def test_the_rubric_is_documented() -> None:
    said = " ".join((DOCS / "model-judge.md").read_text().replace("\n>", "\n").split())
    assert " ".join(RUBRIC.split()) in said


def test_takes_are_rendered_and_judged_in_training(
    animator: Animator, small: Reference, base: MotionGenerator, examples: list[Example], model: FaceModel,
    tmp_path: Path,
) -> None:
    """A judge whom bright pictures please, beside regularisers that look at motion."""
    seen: list[tuple[int, float]] = []

    def bright(frames: list[np.ndarray], sound: Audio) -> dict[str, int]:
        light = float(np.mean([f.mean() for f in frames]))
        seen.append((len(frames), sound.duration))
        return dict.fromkeys(CRITERIA, 1 + round(1000 * light) % 5)

    (tmp_path / "sound.wav").write_bytes(wav(np.arange(4 * 16000, dtype="<i2"), 16000))
    clips = {e.clip: Clip(path=tmp_path / "sound.wav", split="train", person=e.person, talks=True) for e in examples}
    stage = Stage(animator.space, small, base, clips)
    recipe = PolicyRecipe(
        out=tmp_path / "run", steps=1, updates=1, groups=1, takes=2, windows=1, log_every=1, checkpoint_every=1,
        rewards={**{f"judge_{name}": 1.0 for name in CRITERIA}, "perceptual": 0.25, "temporal": 0.25},
    )
    train_policy(recipe, base, examples, [judged(bright, stage), composed(REGULARISERS, base, model)], quiet, quiet)
    assert seen == [(10, pytest.approx(0.4))] * 2
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert 1 <= entry["reward_judge_sync"] <= 5


def test_the_sound_is_that_of_the_moment(base: MotionGenerator, examples: list[Example], tmp_path: Path) -> None:
    ramp = np.arange(4 * 16000) // 4
    (tmp_path / "sound.wav").write_bytes(wav(ramp.astype("<i2"), 16000))
    clips = {examples[0].clip: Clip(path=tmp_path / "sound.wav", split="train", person="p", talks=True)}
    stage = Stage(None, None, base, clips)  # type: ignore[arg-type]
    sound = stage.sound(replace(examples[0], first=50), 25, 10)
    assert sound.duration == pytest.approx(0.4)
    assert float(sound.samples[0, 0]) * 32768 == pytest.approx(2 * 16000 / 4, abs=1)  # a second to the stretch, one to the take
