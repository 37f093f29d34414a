"""A multimodal language model as a judge of takes, behind an endpoint that speaks OpenAI chat completions (docs/model-judge.md).

It sees some of the pictures, hears the sound, and answers with three whole numbers by the rubric, as JSON and nothing else. What
is no such answer is an error and asked for again; scores are kept on disk by what was sent, so nothing is judged twice.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.apps.clips import Stage
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.space import Frame
from vivavoce.media.audio import Audio
from vivavoce.train.scorers import Scorer, Takes

T = TypeVar("T")
S = TypeVar("S")
KEY_VARIABLE = "VIVAVOCE_JUDGE_KEY"
RUBRIC = """\
You judge a computer-made video of a talking head. You get frames of it in order, evenly spaced, and its sound. Give three whole \
numbers from 1 to 5. Judge each by itself, and use the whole range: 3 is what an average system makes.

sync: do the lips fit the sound? 5: every closure on p, b and m and every open vowel is where it is heard. 3: they open and \
close with the speech, but sounds are missed or late. 1: they move without regard to it, or do not move.
expressiveness: do brows, eyes and head live with what is said? 5: as a lively person's. 3: some movement, little of it about \
the speech. 1: a mask.
motion: is the movement smooth and possible? 5: as recorded. 3: now and then stiff, or trembling. 1: jumps, shaking or distortion.

Answer with JSON only: {"sync": n, "expressiveness": n, "motion": n}."""
CRITERIA = ("sync", "expressiveness", "motion")
LOWEST, HIGHEST = 1, 5
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": list(CRITERIA),
    "properties": {name: {"type": "integer", "minimum": LOWEST, "maximum": HIGHEST} for name in CRITERIA},
}
EVERY = 4  # frames: one in so many is sent, 6.25 a second
JPEG_QUALITY = 85
AT_ONCE = 4  # requests
LARGEST_ANSWER = 2**20  # bytes
PASSING = (408, 409, 425, 429)  # statuses below 500 that may be others the next time


class _StayHere(HTTPRedirectHandler):
    """Redirects are errors: the key is for the host that was named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class ModelJudge:
    """``url``: what comes before /chat/completions, such as http://localhost:8000/v1; ``cache``: folder of scores; ``key``: sent
    as a bearer token. A request that fails is repeated up to ``retries`` times, after ``wait_seconds``, twice that, and so on."""

    url: str
    model: str
    cache: Path
    key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 120.0
    retries: int = 3
    wait_seconds: float = 1.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port or brackets that are none
            good = False
        if not good or not self.url.isascii() or any(letter.isspace() for letter in self.url):
            raise ValueError(f"--judge is {self.url!r}: give an http or https address, such as http://localhost:8000/v1")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):  # what refuses it later would show it
            raise ValueError(f"the key in ${KEY_VARIABLE} has letters that no key has, such as the end of a line: mend it")

    @staticmethod
    def of(url: str, model: str, cache: Path) -> ModelJudge:
        """With the key in the environment, if there is one."""
        return ModelJudge(url=url, model=model, cache=cache, key=os.environ.get(KEY_VARIABLE) or None)

    def __call__(self, frames: Sequence[Frame], sound: Audio) -> dict[str, int]:
        """Scores by criterion, 1 to 5. ``frames``: at the motion's rate. ValueError where none can be had."""
        body = json.dumps(request(self.model, frames, sound), sort_keys=True).encode()
        kept = self.cache / f"{hashlib.sha256(body).hexdigest()}.json"
        if kept.exists():
            try:
                return parsed(kept.read_text())
            except ValueError as error:
                raise ValueError(f"{kept} holds no scores: remove it, and the take is judged again") from error
        scores = self._asked(body)
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
        partial.write_text(json.dumps(scores))
        partial.replace(kept)
        return scores

    def _asked(self, body: bytes) -> dict[str, int]:
        for tried in range(self.retries + 1):
            if tried:
                time.sleep(self.wait_seconds * 2 ** (tried - 1))
            try:
                return parsed(content(self._sent(body)))
            except HTTPError as error:
                said = f"it answered {error.code}: {error.read(300).decode(errors='replace').strip() or error.reason}"
                if error.code < 500 and error.code not in PASSING:
                    check = f"check --judge, --model and ${KEY_VARIABLE}"
                    raise ValueError(f"the judge at {self.url} refuses: {said}: {check}") from error
            except (URLError, OSError, http.client.HTTPException) as error:
                said = f"it cannot be reached ({getattr(error, 'reason', error)})"
            except ValueError as error:
                said = str(error)
        raise ValueError(f"the judge at {self.url} gave no scores in {self.retries + 1} tries; at last {said}")

    def _sent(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        wanted = Request(f"{self.url.rstrip('/')}/chat/completions", data=body, headers=headers, method="POST")
        with _opener(self.url).open(wanted, timeout=self.timeout_seconds) as answer:
            return answer.read(LARGEST_ANSWER)


def _opener(url: str) -> OpenerDirector:
    """Without a proxy for this machine's own servers."""
    host = urlsplit(url).hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return build_opener(_StayHere, *([ProxyHandler({})] if here else []))


def request(model: str, frames: Sequence[Frame], sound: Audio) -> dict[str, Any]:
    """What is sent: the rubric, one frame in `EVERY`, the whole sound, and the form of the answer."""
    chosen = frames[::EVERY]
    told = f"{len(chosen)} frames, {EVERY / MOTION_RATE_HZ:g} s apart, and {len(frames) / MOTION_RATE_HZ:g} s of sound."
    pictures = [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_base64(_jpeg(f))}"}} for f in chosen]
    heard = {"type": "input_audio", "input_audio": {"data": _base64(sound.to_wav()), "format": "wav"}}
    return {
        "model": model, "temperature": 0,
        "messages": [
            {"role": "system", "content": RUBRIC},
            {"role": "user", "content": [{"type": "text", "text": told}, *pictures, heard]},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "scores", "strict": True, "schema": SCHEMA}},
    }


def content(answer: bytes) -> str:
    """The words of a chat completion; ValueError where it is none."""
    try:
        words = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"it answered with no chat completion: {answer[:100]!r}") from error
    if not isinstance(words, str):
        raise ValueError(f"it answered with no words but {words!r}")
    return words


def parsed(words: str) -> dict[str, int]:
    """Scores in JSON: an object with the criteria and nothing else, each a whole number within bounds. ValueError otherwise."""
    try:
        scores = json.loads(words)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it answered with no JSON: {words[:100]!r}") from error
    if not isinstance(scores, dict) or scores.keys() != set(CRITERIA):
        raise ValueError(f"it answered {words[:100]!r}, not {', '.join(CRITERIA)} and nothing else")
    for name, value in scores.items():
        if type(value) is not int or not LOWEST <= value <= HIGHEST:
            raise ValueError(f"it gave {value!r} for {name}, not a whole number from {LOWEST} to {HIGHEST}")
    return scores


def judged(judge: Callable[[Sequence[Frame], Audio], Mapping[str, int]], stage: Stage) -> Scorer:
    """The judge as a scorer for GRPO: takes are rendered, with the recording's own sound. Rewards: judge_sync and so on."""

    def score(takes: Takes) -> dict[str, Float[Tensor, " k"]]:
        sound = stage.sound(takes.example, takes.start, takes.motion.shape[1])
        shown = [list(stage.frames(take, seed=takes.start)) for take in takes.motion]
        scores = side_by_side(lambda frames: judge(frames, sound), shown)
        return {f"judge_{name}": torch.tensor([float(s[name]) for s in scores]) for name in CRITERIA}

    return score


def side_by_side(ask: Callable[[T], S], items: Sequence[T]) -> list[S]:
    """What is answered to each, AT_ONCE at a time. The first error, and Ctrl-C, end it at once: answers that are under way are
    not waited for (hence no pool, which would at the end of the process), and nothing else is asked."""
    waiting: SimpleQueue[int] = SimpleQueue()
    answered: SimpleQueue[Future[tuple[int, S]]] = SimpleQueue()
    stopped = threading.Event()
    for number in range(len(items)):
        waiting.put(number)

    def work() -> None:
        with suppress(Empty):
            while not stopped.is_set():
                number = waiting.get_nowait()
                told: Future[tuple[int, S]] = Future()
                try:
                    told.set_result((number, ask(items[number])))
                except Exception as error:  # noqa: BLE001 - raised again by whoever waits
                    told.set_exception(error)
                answered.put(told)

    for _ in range(min(AT_ONCE, len(items))):
        threading.Thread(target=work, name="judge", daemon=True).start()
    found: dict[int, S] = {}
    try:
        while len(found) < len(items):
            number, answer = answered.get().result()
            found[number] = answer
    finally:
        stopped.set()
    return [found[number] for number in range(len(items))]


def _jpeg(frame: Frame) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
