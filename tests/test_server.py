"""The server: REST and live sessions over a real socket, its limits, and clients that are slow, gone or not welcome."""

from __future__ import annotations

import base64
import io
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import numpy as np
import pytest
import skimage.data
import torch
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from serving import Live, Media, Received, Served, png, serving, tone, waited, wav

from vivavoce import Animator, Audio
from vivavoce.apps.server import requests
from vivavoce.apps.server.app import Access
from vivavoce.apps.server.control import spoken_at
from vivavoce.apps.server.documents import FAILURES, LIVE_ONLY
from vivavoce.apps.server.limits import Limits
from vivavoce.apps.server.media import PICTURE, PIECE, SOUND
from vivavoce.live.scheduler import LOST_SECONDS
from vivavoce.live.stream import LiveFrame, LiveStream

RATE = 16000
TOKEN = "open sesame"
FRIEND = "https://friend.example"
SMALL = Limits(size=256)
STRICT = Limits(
    size=128, upload_mib=1.0, upload_seconds=1.0, audio_seconds=2.0, sync_seconds=1.0, text_letters=40, sessions=1, queue=1,
    kept_videos=2, avatars=1, buffered_seconds=2.0, open_seconds=0.5, stuck_seconds=1.0, errors=5, message_mib=0.1,
)


@pytest.fixture(scope="module")
def picture() -> bytes:
    return png(skimage.data.astronaut()[:300, 80:380])


@pytest.fixture(scope="module")
def served(animator: Animator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose limits nobody meets here."""
    with serving(animator, tmp_path_factory.mktemp("server"), limits=SMALL) as running:
        yield running


@pytest.fixture(scope="module")
def strict(animator: Animator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that allows little, and wants a token."""
    access = Access(token=TOKEN, origins=(FRIEND,))
    with serving(animator, tmp_path_factory.mktemp("strict"), limits=STRICT, access=access, token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def ada(served: Served, picture: bytes) -> str:
    """A small registered portrait."""
    answer = served.http.post("/v1/avatars", files={"image_reference": ("ada.png", picture)}, data={"size": "128", "name": "Ada"})
    assert answer.status_code == 201
    return answer.json()["id"]


def error(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which has to be one sentence that does not give the server away."""
    said = answer.json()["error"]
    assert set(said) == {"code", "message"} and 10 < len(said["message"]) <= 400 and "\n" not in said["message"]
    assert "/tmp" not in said["message"] and "Traceback" not in answer.text
    return answer.status_code, said["code"]


def decoded(content: bytes) -> tuple[list[np.ndarray], np.ndarray, Fraction]:
    """Pictures, samples (n,) and pictures per second of a video."""
    with av.open(io.BytesIO(content)) as container:
        rate = container.streams.video[0].average_rate
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(io.BytesIO(content)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert rate is not None
    return pictures, samples, rate


def figures(served: Served) -> dict[str, float]:
    """What /metrics says."""
    families = text_string_to_metric_families(served.http.get("/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def completed(served: Served, video: dict[str, Any]) -> dict[str, Any]:
    """The video once it is over."""
    seen: list[dict[str, Any]] = []

    def over() -> bool:
        seen.append(served.http.get(f"/v1/videos/{video['id']}").json())
        return seen[-1]["status"] not in ("queued", "in_progress")

    assert waited(over, 60)
    assert all(a["progress"] <= b["progress"] for a, b in pairwise(seen))
    return seen[-1]


# Portraits


def test_one_picture_is_one_avatar_however_it_is_sent(served: Served, picture: bytes, ada: str) -> None:
    encoded = base64.encodebytes(picture).decode()  # in lines, as programs that encode files write it
    for reference in (encoded, "data:image/png;base64," + encoded.replace("\n", "")):
        body = {"image_reference": reference, "size": 128}
        known = served.http.post("/v1/avatars", json=body)
        assert known.status_code == 200 and (known.json()["id"], known.json()["name"]) == (ada, "Ada")
    renamed = served.http.post("/v1/avatars", json={**body, "name": "Countess of Lovelace"})
    assert renamed.status_code == 200 and renamed.json()["name"] == "Countess of Lovelace"
    assert served.http.get(f"/v1/avatars/{ada}").json() == renamed.json()
    assert served.http.post("/v1/avatars", json={**body, "name": "Ada"}).json()["name"] == "Ada"
    assert served.http.post("/v1/avatars", json={**body, "size": 96}).json()["id"] != ada
    listed = served.http.get("/v1/avatars").json()["data"]
    assert [listed[0]["id"], listed[1]["id"]] == ["demo", ada] and listed[1]["name"] == "Ada"
    shown = served.http.get(f"/v1/avatars/{ada}/picture")
    assert shown.headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(shown.content, np.uint8), cv2.IMREAD_COLOR).shape == (128, 128, 3)


def test_avatars_outlive_the_server_and_are_not_prepared_again(
    animator: Animator, served: Served, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = served.http.get(f"/v1/avatars/{ada}").json()
    with serving(animator, served.folder, limits=SMALL) as again:

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("prepared again")

        monkeypatch.setattr(Animator, "prepare", refuse)
        assert again.http.get(f"/v1/avatars/{ada}").json() == known
        with Live(again.port) as client:
            client.open(avatar=ada)
            assert len(client.watch(0.3)) > 4
        monkeypatch.undo()


def test_forgotten_avatars_are_gone_and_the_demonstration_stays(served: Served, picture: bytes) -> None:
    made = served.http.post("/v1/avatars", files={"image_reference": picture}, data={"size": "80", "crop": "false"}).json()["id"]
    kept = set(served.folder.rglob(f"{made}*"))
    assert len(kept) == 2
    assert served.http.delete(f"/v1/avatars/{made}").json() == {"id": made, "object": "avatar", "deleted": True}
    assert not any(file.exists() for file in kept)
    for answer in (served.http.get(f"/v1/avatars/{made}"), served.http.delete(f"/v1/avatars/{made}")):
        assert error(answer) == (404, "no_such_avatar")
    assert error(served.http.delete("/v1/avatars/demo")) == (403, "not_yours")


def test_a_damaged_avatar_says_so_and_can_be_registered_again(served: Served, picture: bytes) -> None:
    body = {"image_reference": base64.b64encode(picture).decode(), "size": 72}
    made = served.http.post("/v1/avatars", json=body).json()["id"]
    for n in range(8):  # others push it out of the memory
        served.http.post("/v1/avatars", json={**body, "size": 73 + n})
    (served.folder / "avatars" / f"{made}.npz").write_bytes(b"PK damaged")
    assert error(served.http.get(f"/v1/avatars/{made}/picture")) == (404, "no_such_avatar")
    assert served.http.post("/v1/avatars", json=body).json()["id"] == made
    assert served.http.get(f"/v1/avatars/{made}/picture").status_code == 200


# Videos


def test_a_picture_and_a_recording_become_a_video(served: Served, picture: bytes) -> None:
    speech = tone(0.9, RATE)
    answer = served.http.post(
        "/v1/videos", files={"image_reference": ("me.png", picture), "audio_reference": ("speech.wav", wav(speech, RATE))},
        data={"size": "128", "fps": "20"},
    )
    assert answer.status_code == 202
    video = answer.json()
    assert video["status"] in ("queued", "in_progress") and video["seconds"] == "0.90" and video["error"] is None
    over = completed(served, video)
    assert (over["status"], over["progress"], over["size"]) == ("completed", 100, "128x128")
    content = served.http.get(f"/v1/videos/{video['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    pictures, samples, fps = decoded(content.content)
    assert len(pictures) == 18 and fps == 20 and pictures[0].shape == (128, 128, 3)
    lag = int(np.argmax(np.correlate(samples, speech / 32768, "full"))) - (len(speech) - 1)
    assert abs(lag) / RATE < 0.005
    assert served.http.get("/v1/videos").json()["data"][0]["id"] == video["id"]
    assert served.http.delete(f"/v1/videos/{video['id']}").json()["deleted"] is True
    assert error(served.http.get(f"/v1/videos/{video['id']}")) == (404, "no_such_video")
    assert not list((served.folder / "videos").iterdir())


def test_waiting_for_a_video_and_asking_for_it_give_the_same(served: Served, ada: str) -> None:
    body = {"avatar_id": ada, "text": "Hello you", "voice": "en", "seed": 5}
    at_once = served.http.post("/v1/videos/sync", json=body)
    assert at_once.headers["content-type"] == "video/mp4"
    later = served.http.post("/v1/videos", files={name: (None, str(value)) for name, value in body.items()}).json()
    assert completed(served, later)["status"] == "completed"
    content = served.http.get(f"/v1/videos/{later['id']}/content").content
    for one, other in zip(decoded(at_once.content), decoded(content), strict=True):
        np.testing.assert_array_equal(one, other)
    served.http.delete(f"/v1/videos/{later['id']}")


def test_a_result_whose_file_is_gone_is_said_to_be(served: Served, ada: str) -> None:
    video = completed(served, served.http.post("/v1/videos", json={"avatar_id": ada, "text": "Hi"}).json())
    (served.folder / "videos" / f"{video['id']}.mp4").unlink()
    answer = served.http.get(f"/v1/videos/{video['id']}/content")
    assert error(answer) == (404, "no_such_video") and "gone" in answer.text
    assert served.http.delete(f"/v1/videos/{video['id']}").json()["deleted"] is True


def test_sound_that_is_none_is_called_so_once(served: Served) -> None:
    for content in (b"no sound at all", b""):
        answer = served.http.post("/v1/videos", files={"audio_reference": ("a.wav", content)})
        if content:
            assert error(answer) == (400, "bad_audio")
            assert answer.json()["error"]["message"].startswith("the sound is no sound or video")


def test_a_cancelled_video_leaves_nothing(served: Served, ada: str) -> None:
    text = "This sentence is long enough to be interrupted in the middle of it, and nobody will hear its end."
    video = served.http.post("/v1/videos", json={"avatar_id": ada, "text": text}).json()
    assert error(served.http.get(f"/v1/videos/{video['id']}/content")) == (409, "not_ready")
    assert waited(lambda: served.http.get(f"/v1/videos/{video['id']}").json()["progress"] > 0, 30)
    assert served.http.delete(f"/v1/videos/{video['id']}").json()["status"] == "cancelled"
    assert waited(lambda: "vivavoce-encoder" not in {thread.name for thread in threading.enumerate()}, 10)
    assert waited(lambda: not list((served.folder / "videos").iterdir()), 5)
    assert served.http.get("/healthz").json()["videos"] == 0


@pytest.mark.parametrize(("body", "refused"), [
    ({}, (400, "bad_request")),
    ({"text": "a", "audio_reference": "AAAA"}, (400, "bad_request")),
    ({"text": "a", "avatar_id": "demo", "image_reference": "AAAA"}, (400, "bad_request")),
    ({"text": "?!"}, (400, "bad_text")),
    ({"text": "a", "voice": "../../etc/passwd"}, (400, "bad_text")),
    ({"text": "a", "avatar_id": "../../etc/passwd"}, (404, "no_such_avatar")),
    ({"text": "a", "fps": 5}, (400, "bad_request")),
    ({"text": "a", "expression": -1}, (400, "bad_request")),
    ({"text": "a", "seed": -1}, (400, "bad_request")),
    ({"text": "a", "unknown": 1}, (422, "bad_field")),
    ({"text": "a", "size": "big"}, (422, "bad_field")),
    ({"text": "a", "size": 128}, (400, "bad_request")),
    ({"text": "a", "avatar_id": "demo", "size": 9000}, (400, "bad_request")),
    ({"text": "a", "crop": False}, (400, "bad_request")),
    ({"text": "a", "avatar_id": "demo", "face": 0}, (400, "bad_request")),
    ({"audio_reference": base64.b64encode(wav(tone(0.2, RATE), RATE)).decode(), "voice": "en"}, (400, "bad_request")),
    ({"text": "a", "image_reference": "not base64!"}, (400, "bad_base64")),
    ({"text": "a", "image_reference": ""}, (400, "missing_file")),
    ({"text": "a", "image_reference": "AAAA"}, (400, "bad_image")),
    ({"audio_reference": "AAAA"}, (400, "bad_audio")),
    ({"audio_reference": base64.b64encode(wav(np.zeros(8000, np.int16), RATE)).decode()}, (400, "bad_audio")),
])
def test_what_is_wrong_with_a_request_is_said(served: Served, body: dict[str, Any], refused: tuple[int, str]) -> None:
    for path in ("/v1/videos", "/v1/videos/sync"):
        assert error(served.http.post(path, json=body)) == refused
    assert not list((served.folder / "videos").iterdir())


# Limits and access


def test_each_limit_has_its_own_clear_error(strict: Served, picture: bytes) -> None:
    post = strict.http.post
    huge = png(np.zeros((7200, 7200, 3), np.uint8))
    long, short = wav(tone(2.5, RATE), RATE), wav(tone(1.5, RATE), RATE)
    met = {
        "too_large": post("/v1/avatars", content=bytes(2**20 + 1), headers={"content-type": "multipart/form-data; boundary=x"}),
        "too_many_pixels": post("/v1/avatars", files={"image_reference": huge}),
        "bad_size": post("/v1/avatars", files={"image_reference": picture}, data={"size": "400"}),
        "": post("/v1/avatars", files={"image_reference": picture}, data={"size": "80"}),
        "too_many_avatars": post("/v1/avatars", files={"image_reference": picture}, data={"size": "81"}),
        "too_long": post("/v1/videos", files={"audio_reference": long}),
        "too_long ": post("/v1/videos/sync", files={"audio_reference": short}),
        "too_long  ": post("/v1/videos", json={"text": "word " * 10}),
    }
    assert met.pop("").status_code == 201
    statuses = {name: error(answer) for name, answer in met.items()}
    assert {name.strip(): code for name, (_, code) in statuses.items()} == {name.strip(): name.strip() for name in met}
    assert all(any(letter.isdigit() for letter in answer.json()["error"]["message"]) for answer in met.values())
    assert {status for status, _ in statuses.values()} == {400, 413, 507}

    def body() -> Iterator[bytes]:  # of a size that is not announced
        for _ in range(40):
            yield bytes(2**15)

    assert error(post("/v1/avatars", content=body(), headers={"content-type": "application/json"})) == (413, "too_large")


def test_the_queue_is_limited_and_is_free_again(strict: Served) -> None:
    first = strict.http.post("/v1/videos", files={"audio_reference": wav(tone(1.9, RATE), RATE)})
    assert first.status_code == 202
    assert error(strict.http.post("/v1/videos", json={"text": "Hello"})) == (429, "queue_full")
    strict.http.delete(f"/v1/videos/{first.json()['id']}")
    made = [completed(strict, strict.http.post("/v1/videos", json={"text": "Hi"}).json()) for _ in range(3)]
    assert [video["status"] for video in made] == ["completed"] * 3
    kept = [video["id"] for video in strict.http.get("/v1/videos").json()["data"]]
    assert kept == [made[2]["id"], made[1]["id"]]  # the oldest was deleted
    for key in kept:
        strict.http.delete(f"/v1/videos/{key}")
    assert waited(lambda: not list((strict.folder / "videos").iterdir()), 5)


def test_a_token_is_wanted_everywhere_but_for_the_page_and_its_health(strict: Served) -> None:
    url = f"http://127.0.0.1:{strict.port}"
    for path in ("/v1/avatars", "/v1/videos", "/v1/avatars/demo", "/metrics"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic " + TOKEN}, {"Authorization": "Bearer"}):
            answer = httpx.get(url + path, headers=headers, trust_env=False)
            assert error(answer) == (401, "unauthorized") and answer.headers["www-authenticate"] == "Bearer"
        assert httpx.get(url + path, headers={"Authorization": f"bearer {TOKEN}"}, trust_env=False).status_code == 200
        assert httpx.get(url + path, params={"token": TOKEN}, trust_env=False).status_code == 200
    assert httpx.get(url + "/healthz", trust_env=False).status_code == 200
    for query in ("", "?token=wrong"):
        with Live(strict.port, query=query) as client:
            assert client.closed() == (4401, "unauthorized") and client.errors == ["unauthorized"]
    with Live(strict.port, query="?token=open+sesame") as client:
        assert client.open(avatar="demo")["width"] == 128
    assert strict.idle(5)
    with Live(strict.port, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        client.open()


def test_pages_of_other_origins_are_refused(served: Served, strict: Served) -> None:
    for origin in ("https://evil.example", "null", "http://[", f"http://127.0.0.1:{served.port + 1}", "file://"):
        for answer in (
            served.http.get("/v1/avatars", headers={"Origin": origin}),
            served.http.post("/v1/videos", json={"text": "a"}, headers={"Origin": origin}),
        ):
            assert error(answer) == (403, "bad_origin")
        with Live(served.port, headers={"Origin": origin}) as client:
            assert client.closed() == (4403, "bad_origin")
    assert served.http.get("/v1/avatars", headers={"Origin": f"http://127.0.0.1:{served.port}"}).status_code == 200
    allowed = strict.http.get("/v1/avatars", headers={"Origin": FRIEND})
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == FRIEND
    asked = {"Origin": FRIEND, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert strict.http.options("/v1/videos", headers=asked).headers["access-control-allow-origin"] == FRIEND
    # A page's own name may have been pointed to this machine.
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert error(served.http.get("/v1/avatars", headers=rebound)) == (403, "bad_host")
    assert served.http.get("/v1/avatars", headers={"Host": f"localhost:{served.port}"}).status_code == 200


def test_the_interface_is_documented_with_examples(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    operations = [(path, verb, about) for path, verbs in document["paths"].items() for verb, about in verbs.items()]
    assert {(path, verb) for path, verb, _ in operations} >= {
        ("/v1/videos", "post"), ("/v1/videos/sync", "post"), ("/v1/videos/{key}", "delete"), ("/v1/avatars", "post"),
        ("/v1/videos/{key}/content", "get"), ("/healthz", "get"), ("/metrics", "get"), ("/v1/webrtc/offer", "post"),
    }
    kinds = {"/v1/avatars": requests.AvatarRequest, "/v1/webrtc/offer": requests.OfferRequest}
    for path, verb, about in operations:
        if verb == "post":
            for content in about["requestBody"]["content"].values():
                assert content["examples"]
                for example in content["examples"].values():
                    kinds.get(path, requests.VideoRequest).model_validate(example["value"])
        if path.startswith("/v1"):
            assert about["summary"] and {"401", "403"} <= set(about["responses"])
            for status, answer in about["responses"].items():
                for example in answer["content"].get("application/json", {}).get("examples", {}).values():
                    assert int(status) >= 400 and set(example["value"]["error"]) == {"code", "message"}
            elsewhere = {code for failure, codes in FAILURES.items() for code in codes if str(failure) not in about["responses"]}
            shown = {code for answer in about["responses"].values()
                     for code in answer["content"].get("application/json", {}).get("examples", {})}
            assert shown and not shown & elsewhere and not shown & set(LIVE_ONLY)
    with pytest.raises(ValidationError):
        requests.VideoRequest.model_validate({"unknown": 1})


def test_the_token_is_documented_where_it_is_wanted(served: Served, strict: Served) -> None:
    document = served.http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["components"]["securitySchemes"]["query"]["name"] == "token"
    for path, verbs in document["paths"].items():
        for verb, about in verbs.items():
            assert about.get("security", []) == ([] if path == "/healthz" else [{"bearer": []}, {"query": []}]), (verb, path)
            assert "Validation Error" not in {answer["description"] for answer in about["responses"].values()}
            if verb == "get" and "{" not in path:
                status = httpx.get(f"http://127.0.0.1:{strict.port}{path}", trust_env=False).status_code
                assert status == (401 if "security" in about else 200), path
    for path in ("/", "/docs", "/openapi.json", "/page/app.js"):
        assert httpx.get(f"http://127.0.0.1:{strict.port}{path}", trust_env=False).status_code == 200


def test_examples_of_offers_can_be_sent(served: Served) -> None:
    for body in requests.OfferRequest.examples.values():
        answer = served.http.post("/v1/webrtc/offer", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["type"] == "answer" and "m=video" in answer.json()["sdp"]
    assert served.idle(SMALL.open_seconds + 5)


def test_the_pages_come_from_here_alone(served: Served) -> None:
    for path in ("/", "/docs", "/page/docs.js", "/page/docs.css", "/page/app.js"):
        answer = served.http.get(path)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert not re.search(r"https?://(?!www\.w3\.org)", answer.text), path
        head = served.http.head(path)
        assert head.status_code == 200 and head.content == b"" and head.headers["content-length"] == str(len(answer.content))
    assert served.http.head("/healthz").status_code == 200
    assert error(served.http.get("/redoc")) == (404, "not_found")


def test_fields_that_will_not_do_are_named_in_our_words(served: Served, picture: bytes) -> None:
    encoded = base64.b64encode(picture).decode()
    said = {}
    for name, value in {
        "size": "big", "crop": "maybe", "fps": [], "seed": 1.5, "avatar_id": 7, "text": {}, "voice": "x" * 99, "unknown": 1,
        "image_reference": 5, "expression": "very",
    }.items():
        answer = served.http.post("/v1/videos", json={"image_reference": encoded, "text": "a", name: value})
        assert error(answer) == (422, "bad_field")
        said[name] = answer.json()["error"]["message"]
    with_words = {"unknown": "there is no field 'unknown'", "size": "the field 'size' has to be a whole number"}
    assert all(said[name].startswith(words) for name, words in with_words.items())
    for name, value in {
        "audio_rate": 24001, "quality": 0, "video": "gif", "controls": {"head": "x"}, "fps": True, "colour": 1, "crop": "no",
        "avatar": 5, "controls ": 1, "face": "a",
    }.items():
        with Live(served.port) as client:
            client.send("open", **{name: value})
            assert client.closed() == (4400, "bad_open")
            said[f"open {name}"] = next(told["message"] for told in client.received if isinstance(told, dict))
    assert said["open audio_rate"].startswith("the field 'audio_rate' has to be a multiple of 25")
    assert "'jpeg' or 'mp4'" in said["open video"] and "'controls.head' has to be a number" in said["open controls"]
    assert not [words for words in said.values() if re.search("input|permitted|valid|pydantic|literal", words)]
    assert all(name.split()[-1] in words for name, words in said.items())


def test_health_and_figures_follow_what_happens(served: Served, ada: str) -> None:
    assert served.idle(5)
    before = figures(served)
    with Live(served.port) as client:
        client.open(avatar=ada)
        client.watch(0.5)
        during = figures(served)
        assert served.sessions() == during["vivavoce_sessions"] == before["vivavoce_sessions"] + 1
        assert during["vivavoce_frames_total"] >= before["vivavoce_frames_total"] + len(client.media) // 2
        assert during["vivavoce_busy_seconds_total"] > before["vivavoce_busy_seconds_total"]
    assert served.idle(5)
    assert figures(served)["vivavoce_sessions"] == 0 and before["process_resident_memory_bytes"] > 0


def test_heavy_work_does_not_hold_up_others(served: Served, picture: bytes) -> None:
    """While pictures are prepared, a minute of sound is decoded and a video is made, others are answered at once."""
    large = cv2.resize(skimage.data.astronaut(), (3000, 3000))
    heavy = [
        ("/v1/avatars", {"files": {"image_reference": png(large, ".jpg")}}),
        ("/v1/videos", {"files": {"audio_reference": wav(tone(60, 48000), 48000)}}),
        ("/v1/avatars", {"json": {"image_reference": base64.b64encode(png(large, ".jpg")).decode(), "size": 200}}),
    ]
    statuses: list[int] = []

    def work(path: str, body: dict[str, Any]) -> None:
        statuses.append(httpx.post(f"http://127.0.0.1:{served.port}{path}", timeout=60, trust_env=False, **body).status_code)

    threads = [threading.Thread(target=work, args=job) for job in heavy]
    for thread in threads:
        thread.start()
    times: list[float] = []
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        served.http.get("/healthz")
        times.append(time.monotonic() - began)
    assert sorted(statuses) == [201, 201, 202]
    assert np.median(times) < 0.1 and max(times) < max(0.5, sum(times) / 4)
    for video in served.http.get("/v1/videos").json()["data"]:
        served.http.delete(f"/v1/videos/{video['id']}")


def test_a_body_that_does_not_come_harms_nobody(strict: Served) -> None:
    head = f"POST /v1/avatars HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n"
    with socket.create_connection(("127.0.0.1", strict.port)) as slow:
        slow.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        began = time.monotonic()
        assert strict.http.get("/v1/avatars").status_code == 200 and time.monotonic() - began < 0.8
        slow.settimeout(10)
        answer = slow.recv(65536)
        assert b" 408 " in answer and b'"timeout"' in answer


# Live sessions


def sound_of(received: list[Received]) -> tuple[np.ndarray, float]:
    """All samples that came, and the time of the first."""
    parts = [taken for taken in received if isinstance(taken, Media) and taken.kind == SOUND]
    return np.concatenate([np.frombuffer(part.payload, "<i2") for part in parts]), parts[0].seconds


def test_a_session_idles_in_pictures_and_silence(served: Served, ada: str) -> None:
    with Live(served.port) as client:
        opened = client.open(avatar=ada, audio_rate=RATE, quality=70)
        assert (opened["width"], opened["height"], opened["fps"], opened["audio_rate"]) == (128, 128, 25.0, RATE)
        assert opened["mime"] == "image/jpeg" and 0 < opened["delay_seconds"] < 0.5 and opened["session"]
        client.watch(0.6)
        media = client.media
    pictures, sounds = ([one for one in media if one.kind == kind] for kind in (PICTURE, SOUND))
    assert not any(one.speech for one in media)
    for image, heard in zip(pictures, sounds, strict=False):
        assert image.number == heard.number and image.seconds == pytest.approx(image.number / 25, abs=1e-6)
        assert cv2.imdecode(np.frombuffer(image.payload, np.uint8), cv2.IMREAD_COLOR).shape == (128, 128, 3)
    for before, after in pairwise(sounds):  # without a gap, even if frames were left out
        assert after.seconds - before.seconds == pytest.approx(len(before.payload) / 2 / RATE, abs=2e-6)
    assert not any(any(heard.payload) for heard in sounds)


@pytest.mark.parametrize(("rate", "fps"), [(16000, 25), (24000, 25), (11025, 30)])
def test_speech_comes_back_sample_for_sample(served: Served, ada: str, rate: int, fps: float) -> None:
    said = [tone(0.35, rate), tone(0.2, rate)]
    generator = np.random.default_rng(rate)
    with Live(served.port) as client:
        opened = client.open(avatar=ada, audio_rate=rate, fps=fps)
        client.watch(0.2)
        for speech in said:
            data = speech.tobytes()
            cuts = [0, *sorted(generator.integers(0, len(data), 9) | 1), len(data)]  # odd ones
            for start, end in pairwise(cuts):
                client.socket.send(data[start:end])
            client.send("end_of_segment")
        client.until("segment", state="finished", segment=1)
        client.watch(0.2)
    heard, begin = sound_of(client.received)
    marks = [taken for taken in client.received if isinstance(taken, dict) and taken["type"] == "segment"]
    assert [(mark["state"], mark["segment"]) for mark in marks] == [(s, n) for n in (0, 1) for s in ("started", "finished")]
    spans = [tuple(round((mark["time"] - begin) * rate) for mark in marks[2 * n : 2 * n + 2]) for n in (0, 1)]
    for (start, end), speech in zip(spans, said, strict=True):
        np.testing.assert_array_equal(heard[start:end], speech)
        heard[start:end] = 0
    assert not heard.any()
    assert opened["delay_seconds"] >= 0.04
    speaking = [one.number for one in client.media if one.kind == SOUND and one.speech]
    assert speaking == list(range(speaking[0], speaking[-1] + 1)) or any(one.left_out for one in client.media)


def test_an_interruption_is_silent_at_once(served: Served, ada: str) -> None:
    with Live(served.port) as client:
        client.open(avatar=ada, audio_rate=RATE)
        client.socket.send(tone(8, RATE).tobytes())
        client.until("segment", state="started")
        gap = 0.0  # how long a frame takes on this machine, now
        for _ in range(8):
            began = time.monotonic()
            assert any(one.speech for one in client.watch(0.04))
            gap = max(gap, time.monotonic() - began)
        client.send("say", text="Nobody will ever hear this, for it is interrupted before it begins.")
        client.send("interrupt")
        began, seen = time.monotonic(), len(client.received)
        mark = client.until("interrupted")
        took = time.monotonic() - began
        client.watch(1.5)
    assert mark["segment"] == 0 and took < 0.08 + 3 * gap
    assert sum(isinstance(taken, Media) for taken in client.received[seen : client.received.index(mark)]) <= 2 * 6
    after = [one for one in client.received[client.received.index(mark) :] if isinstance(one, Media)]
    assert after[0].left_out or after[0].seconds == pytest.approx(mark["time"], abs=0.041)  # a busy machine skips some
    assert not any(one.speech for one in after) and not any(any(one.payload) for one in after if one.kind == SOUND)


def test_a_text_is_spoken_as_a_segment_of_its_own(served: Served, ada: str) -> None:
    expected = spoken_at(RATE, "Hello there", "en").to_pcm16()
    follows = tone(0.1, RATE)
    with Live(served.port) as client:
        client.open(avatar=ada, audio_rate=RATE)
        client.send("say", text="Hello there")
        client.socket.send(follows.tobytes())  # comes after it, although it is there before the text has become speech
        client.send("end_of_segment")
        marks = [client.until("segment", state=state, segment=n) for n in (0, 1) for state in ("started", "finished")]
        client.watch(0.1)
    heard, begin = sound_of(client.received)
    first, end, second, over = (round((mark["time"] - begin) * RATE) for mark in marks)
    np.testing.assert_array_equal(heard[first:end], expected)
    np.testing.assert_array_equal(heard[second:over], follows)


def test_messages_that_make_no_sense_are_answered_and_ignored(served: Served, ada: str) -> None:
    with Live(served.port) as client:
        client.open(avatar=ada, audio_rate=RATE)
        wrong = {
            "bad_message": [
                {"type": "controls", "expression": 9}, {"type": "controls", "nose": 1}, {"type": "controls", "blink": 1},
                {"type": "controls", "head": True}, {"type": "dance"}, {"type": ["ping"]}, {}, {"type": "ping", "id": {}},
                {"type": "open"},
            ],
            "bad_text": [{"type": "say"}, {"type": "say", "text": "..."}, {"type": "say", "text": "a", "voice": "xx-nobody"},
                         {"type": "say", "text": "a" * 3000}, {"type": "say", "text": 5}],
        }
        for code, messages in wrong.items():
            for message in messages:
                client.socket.send(httpx.Request("POST", "http://x", json=message).content.decode())
                assert client.until("error")["code"] == code, message
        for text in ("no json", "[]", "5", '{"type": NaN}', '{"type": 1e999}', "\N{GRINNING FACE}", ""):
            client.socket.send(text)
            assert client.until("error")["code"] == "bad_message"
        client.send("controls", expression=0.5, head=2, gaze=0)
        for key in (7, "seven", 7.5, None):
            client.send("ping", id=key)
            assert client.until("pong") == {"type": "pong", "id": key}
        client.send("close")
        assert client.closed() == (1000, "")


def test_the_status_tells_what_waits_and_what_ran_dry(served: Served, ada: str) -> None:
    with Live(served.port) as client:
        client.open(avatar=ada, audio_rate=RATE)
        client.socket.send(tone(3, RATE).tobytes())
        first, second = client.until("status"), client.until("status")
        assert 0 < second["buffered"] < first["buffered"] < 3
        assert set(first) == {"type", "buffered", "underruns", "left_out", "dropped", "lost"} and first["underruns"] == 0
        assert 0 <= first["lost"] <= second["lost"]
        client.until("status", underruns=1)
        client.socket.send(bytes(30 * 2 * RATE))
        client.socket.send(bytes(2**20 - 2))
        client.socket.send(bytes(2**20 - 2))
        assert client.until("error")["code"] == "buffer_full"
        client.send("interrupt")
        client.until("interrupted")
        assert client.until("status")["buffered"] == 0


def pieces(client: Live) -> tuple[list[tuple[float, np.ndarray]], np.ndarray, float, int]:
    """Pictures with their times, samples (n,), the time of the first of these, and their rate, of the MP4 that came."""
    content = b"".join(one.payload for one in client.media)
    with av.open(io.BytesIO(content)) as container:
        pictures = [(frame.time or 0.0, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    with av.open(io.BytesIO(content)) as container:
        sounds = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray()[0] for frame in sounds])
    return pictures, samples, sounds[0].time or 0.0, sounds[0].sample_rate


@pytest.mark.parametrize(("rate", "fps"), [(24000, 25), (10000, 30)])
def test_mp4_has_pictures_and_sound_in_time(served: Served, ada: str, rate: int, fps: float) -> None:
    speech = tone(0.5, rate)
    with Live(served.port) as client:
        opened = client.open(avatar=ada, video="mp4", audio_rate=rate, fps=fps)
        assert opened["mime"].startswith("video/mp4; codecs=")
        client.socket.send(speech.tobytes())
        client.send("end_of_segment")
        started = client.until("segment", state="started")["time"]
        client.until("segment", state="finished")
        client.watch(0.6)
    media = client.media
    assert {one.kind for one in media} == {PIECE}
    pictures, samples, begin, heard_rate = pieces(client)
    assert pictures[0][1].shape == (128, 128, 3)
    shown = np.array([seconds for seconds, _ in pictures])
    assert {round(one.seconds, 3) for one in media} <= set(np.round(shown, 3))
    expected = np.interp(np.arange(0, 0.5, 1 / heard_rate), np.arange(len(speech)) / rate, speech / 32768)
    onset = begin + int(np.argmax(np.correlate(samples, expected, "valid"))) / heard_rate
    assert abs(onset - started) < 0.005


def test_a_picture_can_be_brought_for_one_session(served: Served, picture: bytes) -> None:
    before = served.http.get("/v1/avatars").json()
    encoded = base64.b64encode(picture).decode()
    with Live(served.port) as client:
        url = f"data:image/png;base64,{encoded}"
        opened = client.open(image=url, size=96, crop=True, face=0, fps=12.5, controls={"head": 0, "blink": 2})
        assert (opened["width"], opened["height"], opened["fps"]) == (96, 96, 12.5)
        client.watch(0.2)
    assert served.http.get("/v1/avatars").json() == before
    with Live(served.port) as client:
        client.send("open", image=encoded, face=1)  # there is one only
        assert client.closed() == (4400, "bad_image")


def test_the_size_that_is_told_is_the_one_that_is_sent(served: Served, picture: bytes) -> None:
    with Live(served.port) as client:
        opened = client.open(image=base64.b64encode(picture).decode(), size=97, video="mp4")
        client.watch(1.0)
    assert (opened["width"], opened["height"]) == (96, 96)
    assert pieces(client)[0][0][1].shape == (96, 96, 3)


@pytest.mark.parametrize(("fields", "code", "reason"), [
    ({"avatar": "nobody"}, 4400, "no_such_avatar"),
    ({"avatar": "../demo"}, 4400, "no_such_avatar"),
    ({"avatar": 5}, 4400, "bad_open"),
    ({"image": "no base64!"}, 4400, "bad_image"),
    ({"image": "AAAA"}, 4400, "bad_image"),
    ({"image": "AAAA", "avatar": "demo"}, 4400, "bad_open"),
    ({"image": "AAAA", "size": 5000}, 4400, "bad_size"),
    ({"size": 128}, 4400, "bad_open"),
    ({"face": 0}, 4400, "bad_open"),
    ({"avatar": "demo", "crop": True}, 4400, "bad_open"),
    ({"video": "mp4", "quality": 80}, 4400, "bad_open"),
    ({"audio_rate": 4000}, 4400, "bad_open"),
    ({"audio_rate": 47999}, 4400, "bad_open"),
    ({"audio_rate": 24000.5}, 4400, "bad_open"),
    ({"audio_rate": True}, 4400, "bad_open"),
    ({"fps": 5}, 4400, "bad_open"),
    ({"fps": True}, 4400, "bad_open"),
    ({"seed": -1}, 4400, "bad_open"),
    ({"video": "gif"}, 4400, "bad_open"),
    ({"quality": 0}, 4400, "bad_open"),
    ({"controls": {"nose": 1}}, 4400, "bad_open"),
    ({"controls": {"head": 7}}, 4400, "bad_open"),
    ({"controls": 1}, 4400, "bad_open"),
    ({"unknown": 1}, 4400, "bad_open"),
])
def test_sessions_that_cannot_be_opened_say_why(served: Served, fields: dict[str, Any], code: int, reason: str) -> None:
    with Live(served.port) as client:
        client.send("open", **fields)
        assert client.closed() == (code, reason) and client.errors == [reason]


def test_live_limits_have_their_own_close_codes(animator: Animator, strict: Served, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def client() -> Live:
        assert strict.idle(5)
        return Live(strict.port, headers=headers)

    with client() as late:
        assert late.closed() == (4408, "timeout")
    with client() as first:
        first.open()
        with Live(strict.port, headers=headers) as second:
            assert second.closed() == (4503, "busy")
        first.socket.send(bytes(int(0.2 * 2**20)))
        assert first.closed() == (4413, "too_large")
    with client() as foolish:
        foolish.open()
        for _ in range(6):
            foolish.send("nonsense")
        assert foolish.closed() == (4429, "too_many_errors") and foolish.errors.count("bad_message") == 5
    with client() as wrong:
        wrong.socket.send(b"media first")
        assert wrong.closed() == (4400, "bad_open")
    with serving(animator, tmp_path, limits=replace(STRICT, session_seconds=0.5)) as brief, Live(brief.port) as lasting:
        lasting.open()
        assert lasting.closed() == (4408, "timeout")


# Clients that are slow, or gone


def reset(client: Live) -> None:
    """Vanish, without a word."""
    raw = client.socket.socket
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def test_a_client_that_vanishes_leaves_its_place(served: Served, ada: str) -> None:
    assert served.idle(5)
    clients = [Live(served.port) for _ in range(3)]
    for client, video in zip(clients, ("jpeg", "mp4", "jpeg"), strict=True):
        client.open(avatar=ada, video=video)
    clients[0].socket.send(tone(5, RATE).tobytes())
    clients[2].send("say", text="A text that is still being turned into speech when nobody is there any more.")
    assert served.sessions() == 3
    for client in clients:
        reset(client)
    assert served.idle(3)


class Noise(LiveStream):
    """A stream of large frames that cost nothing, so that clients are slow and the machine is not."""

    def step(self, leave_out: int = 0) -> LiveFrame:
        index = self._index + leave_out
        self._index = index + 1
        begin, end = (round(n * self.rate / self.fps) for n in (index - leave_out, index + 1))
        return LiveFrame(
            index=index, seconds=index / self.fps, picture=np.random.default_rng(index).integers(0, 256, (256, 256, 3), np.uint8),
            sound=Audio(samples=torch.zeros(1, end - begin), rate=self.rate), sound_seconds=begin / self.rate, marks=(),
            left_out=leave_out, speaking=False,
        )


class Stalled(Noise):
    """Frames that cost nothing, but for one."""

    def step(self, leave_out: int = 0) -> LiveFrame:
        if self._index == 5:
            time.sleep(LOST_SECONDS + 0.7)
        return super().step(leave_out)


def test_time_that_is_given_up_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivavoce.apps.server.live.LiveStream", Stalled)
    before = figures(served)["vivavoce_lost_seconds_total"]
    with Live(served.port) as client:
        client.open()
        lost = [client.until("status")["lost"] for _ in range(4)]
    assert lost == sorted(lost) and lost[-1] >= LOST_SECONDS
    assert figures(served)["vivavoce_lost_seconds_total"] - before >= LOST_SECONDS


def test_a_client_that_never_reads_is_given_up(strict: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivavoce.apps.server.live.LiveStream", Noise)
    assert strict.idle(5)
    with Live(strict.port, headers={"Authorization": f"Bearer {TOKEN}"}, buffer=4096) as client:
        client.send("open")
        assert waited(lambda: strict.sessions() == 1, 5)
        began = time.monotonic()
        assert strict.idle(STRICT.stuck_seconds + 5) and time.monotonic() - began > STRICT.stuck_seconds
        client.closed()


def test_slow_clients_miss_frames_and_hold_up_nobody(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivavoce.apps.server.live.LiveStream", Noise)
    with Live(served.port, buffer=32768) as slow, Live(served.port, buffer=32768) as whole, Live(served.port) as quick:
        for client, video in ((slow, "jpeg"), (whole, "mp4"), (quick, "jpeg")):
            client.open(fps=10, video=video)
        quick.watch(2.5)  # while the others read nothing
        assert quick.until("status")["dropped"] == 0
        assert any(slow.until("status")["dropped"] for _ in range(5))
        numbers = [one.number for one in slow.media if one.kind == PICTURE]
        assert numbers == sorted(set(numbers)) and max(b - a for a, b in pairwise(numbers)) > 1
        assert whole.closed() == (4408, "too_slow")  # an MP4 cannot do without some of its pieces
