"""The web page in a real browser, against the real server: what a person sees, hears and does."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading
import time
import wave
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from vivavoce import Animator, Audio, Portrait
from vivavoce.media.audio import Resampler, concatenate, read_audio
from vivavoce.media.video import read_video

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright, WebSocket

SIZE = 256  # of pictures, px
RATE_HZ = 24000
PATIENCE_MS = 30000  # the machine may be busy with other things
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SOUND_AT_ONCE = "--autoplay-policy=no-user-gesture-required"
# Every sound that is scheduled to be played: when it begins and how long it is, seconds of the sound's clock.
LISTEN = """
    window.played = [];
    const start = AudioBufferSourceNode.prototype.start;
    AudioBufferSourceNode.prototype.start = function (when) {
        window.played.push([when, this.buffer.duration]);
        return start.call(this, when);
    };
"""
SPEECH = 1  # a flag of docs/protocol.md
HEADER_BYTES = 16


@dataclass
class Wire:
    """What went over the live connections of a page, and what its console said."""

    sent: list[dict] = field(default_factory=list)
    received: list[dict] = field(default_factory=list)
    speech_sent: bytes = b""
    speech_heard: int = 0  # packets of sound with speech in them
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("websocket", self._listen)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def kinds(self, messages: list[dict]) -> list[str]:
        regular = ("status", "ping", "pong")
        return [message.get("state", message["type"]) for message in messages if message["type"] not in regular]

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framesent", self._sent)
        socket.on("framereceived", self._received)

    def _sent(self, data: str | bytes) -> None:
        if isinstance(data, str):
            self.sent.append(json.loads(data))
        else:
            self.speech_sent += data

    def _received(self, data: str | bytes) -> None:
        if isinstance(data, str):
            self.received.append(json.loads(data))
        else:
            self.speech_heard += data[0] == 2 and bool(data[1] & SPEECH)


@contextmanager
def served(animator: Animator, folder: Path, token: str | None = None) -> Generator[str, None, None]:
    """The real server on a free port of this machine."""
    from vivavoce.apps.server.app import Access, create_app
    from vivavoce.apps.server.limits import Limits
    from vivavoce.apps.server.run import listen, server

    with listen("127.0.0.1", 0) as listening:
        app = create_app(animator, folder, limits=Limits(size=SIZE), access=Access(token=token), workers=1)
        running = server(app)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not running.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    api: ModuleType = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"there is no browser here: none of {', '.join(NAMES)} was found")
    return found


@pytest.fixture(scope="module")
def live_server_url(
    chromium: str, playwright: Playwright, animator: Animator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    pytest.importorskip("fastapi", reason="the server's packages are not installed")
    pytest.importorskip("uvicorn", reason="the server's packages are not installed")
    with served(animator, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="module")
def recording(sentence: Audio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentence as a WAV file: what the browser's microphone hears."""
    file = tmp_path_factory.mktemp("sound") / "sentence.wav"
    file.write_bytes(wav(sentence))
    return file


@pytest.fixture(scope="module")
def browser(playwright: Playwright, chromium: str, recording: Path) -> Iterator[Browser]:
    heard = f"--use-file-for-fake-audio-capture={recording}"
    started = playwright.chromium.launch(executable_path=chromium, args=[*ARGUMENTS, SOUND_AT_ONCE, heard])
    yield started
    started.close()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def page(browser: Browser, live_server_url: str, wire: Wire) -> Iterator[Page]:
    """The page, connected."""
    with opened(browser, live_server_url, wire) as page:
        yield page


@contextmanager
def opened(browser: Browser, url: str, wire: Wire, **how) -> Generator[Page, None, None]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **how})
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(LISTEN)
    page = context.new_page()
    wire.watch(page)
    try:
        page.goto(url)
        told(page, "Ready")
        yield page
    finally:
        context.close()


def told(page: Page, words: str) -> None:
    """Wait until the status line says so."""
    from playwright.sync_api import expect

    expect(page.locator("#state")).to_have_text(words, timeout=PATIENCE_MS)


def complained(page: Page, words: str) -> str:
    """Wait for an error in words; all of it."""
    from playwright.sync_api import expect

    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(words, timeout=PATIENCE_MS, ignore_case=True)
    expect(alert).to_be_visible()
    return alert.inner_text()


def wait_for(page: Page, what: Callable[[], bool]) -> None:
    """Playwright's own waiting evaluates strings, which the page's policy forbids."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not what():
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(50)


def tab_to(page: Page, selector: str) -> None:
    """Go there by the keyboard alone."""
    for _ in range(40):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} is not reached by the keyboard")


def played(page: Page) -> np.ndarray:
    """When sounds begin and end, (sounds, 2), seconds."""
    found = np.array(page.evaluate("window.played")).reshape(-1, 2)
    return np.stack([found[:, 0], found[:, 0] + found[:, 1]], axis=1)


def shown(page: Page) -> np.ndarray:
    """The canvas made small, (32, 32, 3)."""
    pixels = page.evaluate("""() => {
        const small = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
        small.drawImage(document.getElementById("portrait"), 0, 0, 32, 32);
        return btoa(String.fromCharCode(...small.getImageData(0, 0, 32, 32).data));
    }""")
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(32, 32, 4)[..., :3].astype(float)


def lives(page: Page) -> None:
    """Wait until the portrait has been seen in several poses."""
    seen = set()

    def another() -> bool:
        picture = shown(page)
        if picture.std() > 20:  # a picture, not a plain field
            seen.add(picture.tobytes())
        return len(seen) >= 4

    wait_for(page, another)


def wav(sound: Audio) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes((sound.samples[0].numpy() * 32767).astype("<i2").tobytes())
    return content.getvalue()


def jpeg(portrait: Portrait) -> bytes:
    content = io.BytesIO()
    Image.fromarray(portrait.image[:, ::-1]).save(content, "JPEG")
    return content.getvalue()


def drop(page: Page, name: str, kind: str, content: bytes) -> None:
    """A file let go over the page."""
    page.evaluate(
        """([name, type, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], name, { type }));
            for (const event of ["dragenter", "dragover", "drop"]) {
                document.body.dispatchEvent(new DragEvent(event, { bubbles: true, cancelable: true, dataTransfer }));
            }
        }""",
        [name, kind, base64.b64encode(content).decode()],
    )


def test_the_portrait_lives_and_nothing_comes_from_elsewhere(page: Page, wire: Wire, live_server_url: str):
    lives(page)
    assert wire.hosts <= {urlsplit(live_server_url).netloc, ""}  # blobs have no host
    assert wire.complaints == []
    assert page.get_by_text("Tell people so").is_visible()


def test_text_is_spoken_and_stopped_by_keyboard_alone(page: Page, wire: Wire):
    tab_to(page, "#text")
    page.keyboard.type("My mother bought a blue boat, and people may be busy for a good while.")
    tab_to(page, "[type=submit]")
    page.keyboard.press("Enter")
    told(page, "Speaking")
    wait_for(page, lambda: wire.speech_heard > 5 and len(played(page)) > 0)
    tab_to(page, "#stop")
    page.keyboard.press("Enter")
    told(page, "Ready")
    wait_for(page, lambda: wire.kinds(wire.received)[-1:] == ["interrupted"])
    assert wire.kinds(wire.sent) == ["open", "say", "interrupt"]
    assert wire.kinds(wire.received) == ["opened", "started", "interrupted"]
    before = len(played(page))
    page.wait_for_timeout(300)
    assert len(played(page)) == before  # it is silent
    assert page.locator("#stop").is_disabled()
    assert page.evaluate("document.activeElement.id") == "text"  # the keyboard is not lost with the button
    assert wire.complaints == []


def test_the_microphone_is_heard_in_real_time(page: Page, wire: Wire):
    tab_to(page, "#microphone")
    page.keyboard.press("Space")
    told(page, "Listening to you")
    assert page.locator("#microphone").get_attribute("aria-pressed") == "true"
    wait_for(page, lambda: len(wire.speech_sent) > 0)
    before, began = len(wire.speech_sent), time.monotonic()
    wait_for(page, lambda: "started" in wire.kinds(wire.received) and time.monotonic() - began > 1.5)
    seconds = (len(wire.speech_sent) - before) / 2 / RATE_HZ
    assert seconds == pytest.approx(time.monotonic() - began, abs=0.4)
    page.keyboard.press("Space")
    told(page, "Ready")
    assert wire.kinds(wire.sent) == ["open", "end_of_segment"]
    assert wire.kinds(wire.received) == ["opened", "started", "finished"]
    assert np.abs(np.frombuffer(wire.speech_sent, "<i2")).max() > 1000
    assert len(played(page)) == 0  # one's own voice is not played back unless one wants it
    page.get_by_label("Play my own voice back").check()
    page.locator("#microphone").press("Enter")
    wait_for(page, lambda: len(played(page)) > 0)
    assert wire.complaints == []


@pytest.mark.parametrize("rate", [44100, 48000])
def test_the_microphone_keeps_tones_that_fit_and_drops_those_that_do_not(page: Page, rate: int):
    """A tone within the lower rate's band keeps its pitch and level; one above it does not come back as another tone."""
    heard = page.evaluate(
        """async ([from, to]) => {
            const tone = async (frequency) => {
                const context = new OfflineAudioContext(1, from, from);
                await context.audioWorklet.addModule("/page/microphone.js");
                const node = new AudioWorkletNode(context, "microphone", { processorOptions: { rate: to } });
                const oscillator = new OscillatorNode(context, { frequency });
                oscillator.connect(node).connect(context.destination);
                oscillator.start();
                const heard = [];
                node.port.onmessage = ({ data }) => heard.push(...data.samples);
                await context.startRendering();
                await new Promise((resolve) => setTimeout(resolve, 300));
                return heard;
            };
            return [await tone(1000), await tone(15000)];
        }""",
        [rate, RATE_HZ],
    )
    low, high = (np.array(samples[-RATE_HZ // 2 :]) / 32768 for samples in heard)
    assert len(heard[0]) == pytest.approx(RATE_HZ, rel=0.03)
    spectrum = np.abs(np.fft.rfft(low)) / (len(low) / 2)
    assert spectrum.argmax() * RATE_HZ / len(low) == pytest.approx(1000, abs=2)
    assert spectrum.max() == pytest.approx(1, abs=0.02)
    assert np.abs(np.delete(spectrum, np.arange(spectrum.argmax() - 2, spectrum.argmax() + 3))).max() < 0.001
    assert np.abs(high).max() < 0.01


def test_a_sound_file_is_spoken_whole(page: Page, wire: Wire, recording: Path, sentence: Audio):
    page.set_input_files("#sound-file", recording)
    told(page, "Speaking")
    told(page, "Ready")
    assert wire.kinds(wire.sent) == ["open", "end_of_segment"]
    assert wire.kinds(wire.received) == ["opened", "started", "finished"]
    sent = np.frombuffer(wire.speech_sent, "<i2") / 32768
    resampler = Resampler(sentence.rate, RATE_HZ)
    expected = concatenate([resampler.push(sentence), resampler.finish()]).samples[0].numpy()
    assert len(sent) == pytest.approx(len(expected), abs=RATE_HZ // 100)
    common = min(len(sent), len(expected))
    assert np.corrcoef(sent[:common], expected[:common])[0, 1] > 0.99
    heard = played(page)
    assert -0.1 < (heard[:, 1] - heard[:, 0]).sum() - sentence.duration < 0.5  # and some silence around it
    gaps = heard[1:, 0] - heard[:-1, 1]
    assert gaps.min() > -1e-6  # nothing is heard over what came before it
    assert np.median(np.abs(gaps)) < 1e-6  # and what comes in time touches it


def test_a_dropped_picture_becomes_the_portrait(page: Page, wire: Wire, astronaut: Portrait):
    before = shown(page)
    drop(page, "mirrored.jpg", "image/jpeg", jpeg(astronaut))
    chosen = page.get_by_role("button", name="mirrored", pressed=True)
    chosen.wait_for()
    told(page, "Ready")
    wait_for(page, lambda: wire.kinds(wire.received) == ["opened", "opened"])
    assert wire.sent[-1]["avatar"] != "demo"
    # The other way round: it is more like the demonstration's mirror image than like the demonstration.
    wait_for(page, lambda: difference(shown(page), before[:, ::-1]) < difference(shown(page), before))
    page.get_by_role("button", name="Remove this portrait").click()
    page.get_by_role("button", name="Demonstration", pressed=True).wait_for()
    assert page.get_by_role("button", name="mirrored").count() == 0
    assert wire.complaints == []


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def test_files_that_will_not_do_are_explained_in_words(page: Page, wire: Wire):
    page.set_input_files("#picture-file", {"name": "broken.png", "mimeType": "image/png", "buffer": b"this is no picture"})
    assert len(complained(page, "picture").split()) > 4
    page.get_by_role("button", name="Dismiss").click()
    assert not page.locator("#problem").is_visible()
    drop(page, "notes.txt", "text/plain", b"hello")
    complained(page, "neither a picture nor a sound")
    drop(page, "broken.wav", "audio/wav", b"this is no sound")
    complained(page, "holds no sound")
    told(page, "Ready")
    page.locator("#text").press("Enter")
    complained(page, "there is no text")
    assert wire.kinds(wire.sent) == ["open"]


def last(messages: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The latest of a kind: the page asks how long a message takes whenever it likes."""
    return next(message for message in reversed(messages) if message["type"] == kind)


def test_sliders_act_at_once_and_blinking_anew(page: Page, wire: Wire):
    page.locator("#expression").press("ArrowRight")
    wait_for(page, lambda: "controls" in wire.kinds(wire.sent))
    assert last(wire.sent, "controls")["expression"] == pytest.approx(1.1)
    page.locator("#blink").press("ArrowLeft")
    wait_for(page, lambda: wire.kinds(wire.received) == ["opened", "opened"])
    assert last(wire.sent, "open")["controls"] == pytest.approx({"expression": 1.1, "head": 1, "blink": 0.9, "gaze": 1})
    told(page, "Ready")


def test_a_video_of_the_text_is_made_and_saved(page: Page, wire: Wire, tmp_path: Path):
    page.locator("#text").fill("Hello.")
    page.get_by_role("button", name="Make an MP4").click()
    page.get_by_role("link", name="Save MP4").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save MP4").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.suffix == ".mp4"
    sound = concatenate(list(read_audio(file)))
    frames = sum(1 for _ in read_video(file))
    assert frames / 25 == pytest.approx(sound.duration, abs=0.1)
    assert sound.samples.abs().max() > 0.05
    assert wire.complaints == []


def test_a_video_can_be_cancelled(page: Page, live_server_url: str):
    page.locator("#text").fill("Somewhat longer, so that there is time to think better of it. " * 5)
    page.get_by_role("button", name="Make an MP4").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Make an MP4").wait_for()
    wait_for(page, lambda: page.request.get(f"{live_server_url}/healthz").json()["videos"] == 0)
    assert page.request.get(f"{live_server_url}/v1/videos").json()["data"] == []


def test_nothing_is_wider_than_a_phone(browser: Browser, live_server_url: str, wire: Wire):
    with opened(browser, live_server_url, wire, color_scheme="dark", reduced_motion="reduce") as page:
        page.set_viewport_size({"width": 360, "height": 740})
        page.locator("#text").fill("w" * 300)
        drop(page, f"{'n' * 90}.txt", "text/plain", b"hello")
        complained(page, "neither")
        beyond = page.evaluate("""() => [...document.querySelectorAll("body *")]
            .filter((each) => each.checkVisibility() && each.getBoundingClientRect().right > 360.5)
            .map((each) => each.outerHTML.slice(0, 80))""")
        assert beyond == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


PHONE = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2, "viewport": {"width": 320, "height": 640}}


def test_a_small_phone_shows_all_of_it_and_a_thumb_can_press_it(browser: Browser, live_server_url: str, wire: Wire):
    with opened(browser, live_server_url, wire, **PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.evaluate("matchMedia('(pointer: coarse)').matches")
        sizes = page.evaluate("""() => [...document.querySelectorAll("button, select, label.button, .slider input, .check label")]
            .filter((each) => each.checkVisibility()).map((each) => [each.outerHTML.slice(0, 60), each.offsetHeight])""")
        assert len(sizes) > 12 and [small for small in sizes if small[1] < 40] == []
        assert page.evaluate("(({ offsetHeight, style }) => offsetHeight)(document.querySelector('#own-voice'))") >= 24
        # What is in a button stands on one line, within it; the two ways to lend a voice side by side.
        spilt = page.evaluate("""() => [...document.querySelectorAll("button, label.button, select")]
            .filter((each) => each.checkVisibility() && each.scrollWidth > each.clientWidth + 1)
            .map((each) => each.outerHTML.slice(0, 60))""")
        assert spilt == []
        one, other = (page.locator(each).bounding_box() for each in ("#microphone", "label.button"))
        assert one is not None and other is not None
        assert one["y"] == other["y"] and one["height"] == other["height"] < 50
        language = page.locator("#voice").bounding_box()
        assert language is not None and language["x"] > 0 and language["x"] + language["width"] <= 320
        page.locator("#voice").select_option("cmn")
        words = page.evaluate("""() => {
            const brush = document.createElement("canvas").getContext("2d");
            const select = document.querySelector("#voice");
            brush.font = getComputedStyle(select).font;
            return [...select.options].map((each) => brush.measureText(each.text).width);
        }""")
        assert max(words) + 30 < language["width"]  # the longest language, and the arrow beside it


def test_portraits_of_one_name_are_numbered(page: Page, astronaut: Portrait):
    for side in (300, 310):
        picture = Portrait(image=np.ascontiguousarray(astronaut.image[:side, 80 : 80 + side]), name="astronaut")
        drop(page, "portrait.jpg", "image/jpeg", jpeg(picture))
        told(page, "Ready")
        page.wait_for_function("(count) => document.querySelectorAll('#portraits button').length >= count", arg=2 + (side == 310))
    names = [button.get_attribute("aria-label") for button in page.locator("#portraits button").all()]
    assert "portrait 1" in names and "portrait 2" in names and "portrait" not in names
    for _ in range(2):
        page.get_by_role("button", name="portrait 1").or_(page.get_by_role("button", name="portrait", exact=True)).click()
        page.get_by_role("button", name="Remove this portrait").click()
        page.get_by_role("button", name="Demonstration", pressed=True).wait_for()


def test_the_interface_is_read_and_tried_without_any_other_host(page: Page, wire: Wire, live_server_url: str):
    page.goto(f"{live_server_url}/docs")
    page.locator("details").first.wait_for()
    document = page.request.get(f"{live_server_url}/openapi.json").json()
    shown = page.evaluate("""() => [...document.querySelectorAll("summary")]
        .map((each) => [each.querySelector(".verb").textContent.toLowerCase(), each.querySelector(".path").textContent])""")
    assert shown == [[verb, path] for path, verbs in document["paths"].items() for verb in verbs]

    def route(verb: str, path: str):
        return page.locator("details").nth(shown.index([verb, path]))

    # By keyboard alone: a route is opened, filled in and sent.
    text = route("post", "/v1/videos/sync")
    text.locator("summary").focus()
    page.keyboard.press("Enter")
    assert {"text", "voice", "expression"} <= set(text.locator("table").first.locator("th").all_inner_texts())
    text.locator("select").first.select_option("application/json")
    text.locator("select").nth(1).select_option("a registered portrait and words")
    text.get_by_role("button", name="Send").press("Enter")
    text.locator("video").wait_for()
    assert "200 video/mp4" in text.locator(".answer").inner_text()
    picture = route("get", "/v1/avatars/{key}/picture")
    picture.locator("summary").press("Enter")
    picture.locator("input").fill("demo")
    picture.locator("input").press("Enter")
    picture.locator("img").wait_for()
    # A form with a file, and what is wrong with it in the server's words.
    avatar = route("post", "/v1/avatars")
    avatar.locator("summary").click()
    avatar.get_by_role("button", name="Send").click()
    avatar.get_by_text("Choose a file for image_reference").wait_for()
    avatar.locator("input[type=file]").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    complaints = len(wire.complaints)
    for media in ("multipart/form-data", "application/json"):
        avatar.locator("select").first.select_option(media)
        avatar.get_by_role("button", name="Send").click()
        avatar.get_by_text("bad_image", exact=False).locator("visible=true").first.wait_for()
    assert all("400" in said for said in wire.complaints[complaints:]) and complaints == 0
    assert wire.hosts <= {urlsplit(live_server_url).netloc, ""}


def test_without_a_gesture_pictures_run_and_sound_is_offered(
    playwright: Playwright, chromium: str, live_server_url: str, wire: Wire
):
    browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
    with opened(browser, live_server_url, wire) as page:
        button = page.get_by_role("button", name="Turn sound on")
        button.wait_for()
        lives(page)
        button.click()
        button.wait_for(state="hidden")
        lives(page)
    browser.close()


def test_a_lost_connection_is_said_and_opened_again(browser: Browser, live_server_url: str, wire: Wire):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    sockets = []

    def through(socket) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/v1/live", through)
    page.goto(live_server_url)
    told(page, "Ready")
    sockets[0].close(code=1011)
    told(page, "Not connected")
    complained(page, "connection to the server was lost")
    page.get_by_role("button", name="Reconnect").press("Enter")
    told(page, "Ready")
    assert not page.locator("#problem").is_visible()
    context.close()


@pytest.mark.usefixtures("live_server_url")  # its packages are there
def test_a_token_in_the_address_is_passed_on(browser: Browser, animator: Animator, tmp_path: Path, wire: Wire):
    with served(animator, tmp_path, token="open sesame") as url:
        with opened(browser, f"{url}/?token=open+sesame", wire) as page:
            page.get_by_role("button", name="Demonstration", pressed=True).wait_for()
            assert wire.complaints == []
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        told(page, "Not connected")
        complained(page, "token")
        page.goto(f"{url}/docs")
        listed = page.locator("details").first
        listed.locator("summary").click()
        listed.get_by_role("button", name="Send").click()
        listed.locator(".answer").get_by_text("unauthorized").wait_for()
        page.get_by_label("Token").fill("open sesame")
        listed.get_by_role("button", name="Send").click()
        listed.locator(".answer").get_by_text("Demonstration").wait_for()
        context.close()
