"""Live sessions by WebRTC, over UDP on this machine: what a client sees and hears, and what becomes of it when it goes."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import aioice.ice
import httpx
import numpy as np
import pytest
import torch
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from serving import Served, serving

from vivavoce import Animator, Audio
from vivavoce.apps.server import webrtc
from vivavoce.apps.server.control import spoken_at
from vivavoce.apps.server.limits import Limits
from vivavoce.live.stream import LiveFrame

RATE, PART = webrtc.RATE_HZ, webrtc.RATE_HZ // 50
OPUS_SECONDS = 312 / RATE  # that the codec looks ahead
LIMITS = Limits(size=128, sessions=2, open_seconds=2.5, stuck_seconds=2.5, errors=3)
LOUD = 0.02


@pytest.fixture(scope="module", autouse=True)
def loopback() -> Iterator[None]:
    """Both sides have no address but 127.0.0.1, which they would not use otherwise, and nobody is asked for others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aioice.ice, "get_host_addresses", lambda **_: ["127.0.0.1"])
        patch.setattr(aioice.ice, "server_reflexive_candidate", None)
        yield


@pytest.fixture(scope="module")
def served(animator: Animator, tmp_path_factory: pytest.TempPathFactory, loopback: None) -> Iterator[Served]:
    with serving(animator, tmp_path_factory.mktemp("server"), limits=LIMITS) as running:
        yield running


class Microphone(MediaStreamTrack):
    """Sound in real time, then silence."""

    kind = "audio"

    def __init__(self, sound: Audio):
        super().__init__()
        self._samples = np.round(sound.samples[0].numpy() * 32767).astype(np.int16)
        self._began, self._sent = time.monotonic(), 0

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(self._began + self._sent / RATE - time.monotonic())
        if self.readyState != "live":
            raise MediaStreamError
        part = self._samples[self._sent : self._sent + PART]
        frame = AudioFrame.from_ndarray(np.pad(part, (0, PART - len(part)))[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._sent, Fraction(1, RATE)
        self._sent += PART
        return frame


class Client:
    """What a browser would do. Times of pictures and sound are RTP's, from the first packet of each on."""

    def __init__(self, microphone: MediaStreamTrack | None = None):
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.connection.createDataChannel("control")
        self.channel.on("message", lambda message: self.told.append(json.loads(message)))
        self.told: list[dict[str, Any]] = []
        self.pictures: list[tuple[float, np.ndarray]] = []
        self.sounds: list[tuple[float, np.ndarray]] = []
        self.packets: dict[str, list[tuple[float, int]]] = defaultdict(list)  # arrival and RTP's time
        self.reports: dict[str, list[tuple[float, int]]] = defaultdict(list)  # the same, as the sender says
        self._tasks: list[asyncio.Task[None]] = []
        self.connection.on("track", lambda track: self._tasks.append(asyncio.create_task(self._take(track))))
        self.connection.addTransceiver(microphone or "audio", "sendrecv" if microphone else "recvonly")
        self.connection.addTransceiver("video", "recvonly")
        for way in self.connection.getTransceivers():
            self._spy(way.kind, way.receiver)

    def _spy(self, kind: str, receiver: Any) -> None:
        take_rtp, take_rtcp = receiver._handle_rtp_packet, receiver._handle_rtcp_packet

        async def rtp(packet: Any, arrival_time_ms: int) -> None:
            self.packets[kind].append((time.time(), packet.timestamp))
            await take_rtp(packet, arrival_time_ms)

        async def rtcp(packet: Any) -> None:
            if (said := getattr(packet, "sender_info", None)) is not None and said.ntp_timestamp:
                self.reports[kind].append((said.ntp_timestamp / 2**32, said.rtp_timestamp))
            await take_rtcp(packet)

        receiver._handle_rtp_packet, receiver._handle_rtcp_packet = rtp, rtcp

    async def _take(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, AudioFrame | VideoFrame) and frame.time is not None
                if isinstance(frame, VideoFrame):
                    self.pictures.append((frame.time, frame.to_ndarray(format="rgb24")))
                else:
                    assert frame.sample_rate == RATE
                    self.sounds.append((frame.time, frame.to_ndarray().reshape(-1, 2).mean(axis=1) / 32768))
        except MediaStreamError:
            pass

    async def offer(self, served: Served, **fields: object) -> httpx.Response:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return await offered(served, sdp=self.connection.localDescription.sdp, **fields)

    async def open(self, served: Served) -> Client:
        answer = await self.offer(served)
        assert answer.status_code == 200, answer.text
        assert answer.json()["type"] == "answer" and "m=video" in answer.json()["sdp"]
        await self.connection.setRemoteDescription(RTCSessionDescription(**answer.json()))
        await until(lambda: self.channel.readyState == "open" and bool(self.pictures) and bool(self.sounds))
        return self

    def send(self, kind: str, **fields: object) -> None:
        self.channel.send(json.dumps({"type": kind, **fields}))

    def notices(self, kind: str, **fields: object) -> list[dict[str, Any]]:
        return [told for told in self.told if told["type"] == kind and fields.items() <= told.items()]

    @property
    def heard(self) -> tuple[np.ndarray, np.ndarray]:
        """All sound, and the time of each sample."""
        times = np.concatenate([at + np.arange(len(sound)) / RATE for at, sound in self.sounds])
        return times, np.concatenate([sound for _, sound in self.sounds])

    def clock(self, kind: str, seen: dict[str, list[tuple[float, int]]]) -> float:
        """When what has the time 0 was sent, as far as `seen` tells: late packets tell less."""
        rate, first = (90000 if kind == "video" else RATE), self.packets[kind][0][1]
        return float(np.percentile([at - (stamp - first) % 2**32 / rate for at, stamp in seen[kind]], 10))

    async def close(self) -> None:
        await self.connection.close()
        await asyncio.gather(*self._tasks)


async def until(true: Callable[[], bool], seconds: float = 10.0) -> float:
    """Wait; how long it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def offered(served: Served, **fields: object) -> httpx.Response:
    return await asyncio.to_thread(served.http.post, "/v1/webrtc/offer", json=fields)


def figure(served: Served, name: str) -> float:
    """What /metrics says."""
    text = served.http.get("/metrics").text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))


async def gone(served: Served, seconds: float) -> float:
    """How long it takes until all sessions have ended; none may be stepped then."""
    took = await until(lambda: served.sessions() == 0, seconds)
    made = figure(served, "vivavoce_frames_total")
    await asyncio.sleep(0.3)
    assert figure(served, "vivavoce_frames_total") == made
    return took


def onsets(times: np.ndarray, sound: np.ndarray, pause: float = 0.6) -> list[float]:
    """Times of the first loud sample after each pause."""
    loud = np.flatnonzero(np.abs(sound) > LOUD)
    first = np.flatnonzero(np.diff(times[loud], prepend=-pause) >= pause)
    return [float(at) for at in times[loud][first]]


def lead(sound: Audio) -> float:
    """Seconds before the first loud sample."""
    return float(torch.nonzero(sound.samples[0].abs() > LOUD)[0, 0]) / sound.rate


def test_a_client_speaks_and_is_shown_speaking(served: Served) -> None:
    text = "My mother bought a blue boat."
    speech = spoken_at(RATE, text, "en")
    pause = torch.zeros(1, RATE * 3 // 2)

    async def talk() -> Client:
        client = Client(Microphone(Audio(samples=torch.cat([pause, speech.samples], dim=1), rate=RATE)))
        await client.open(served)
        client.send("ping", id=7)
        client.send("controls", expression=1.5, head=0.5)
        client.send("controls", blonk=1)
        await until(lambda: bool(client.notices("segment", state="finished", segment=0)))
        client.send("say", text=text)
        client.send("end_of_segment")
        await until(lambda: bool(client.notices("segment", state="finished", segment=1)))
        await asyncio.sleep(0.5)
        client.send("say", text=text * 5)
        await until(lambda: bool(client.notices("segment", state="started", segment=2)))
        await asyncio.sleep(1.0)
        client.send("interrupt")
        await until(lambda: bool(client.notices("interrupted")))
        await asyncio.sleep(1.0)
        assert served.sessions() == 1
        client.send("close")
        await gone(served, 3)
        await client.close()
        return client

    left_out = figure(served, "vivavoce_frames_left_out_total")
    client = asyncio.run(talk())
    left_out = figure(served, "vivavoce_frames_left_out_total") - left_out
    assert {"type": "pong", "id": 7} in client.told
    assert client.notices("error")[0]["code"] == "bad_message" and "blonk" in client.notices("error")[0]["message"]
    notices = [told for told in client.told if told["type"] in ("segment", "interrupted")]
    at = [notice.pop("time") for notice in notices]
    assert notices == [
        *({"type": "segment", "state": state, "segment": n} for n in (0, 1) for state in ("started", "finished")),
        {"type": "segment", "state": "started", "segment": 2}, {"type": "interrupted", "segment": 2},
    ]
    assert at == sorted(at)

    # What was said comes back, by the track and by `say`, at the times that the notices give.
    times, sound = client.heard
    assert np.all(np.diff(times) > 0)
    began = onsets(times, sound)
    assert len(began) == 3
    zero = [began[n] - lead(speech) - OPUS_SECONDS - at[2 * n] for n in range(3)]  # of the track in the stream's time
    assert zero[1] == pytest.approx(zero[2], abs=0.01) and zero[0] == pytest.approx(zero[1], abs=0.04)
    count = len(speech.samples[0]) - round(lead(speech) * RATE)
    spoken = speech.samples[0, -count:].numpy()
    by_track, by_say = (sound[(times >= start) & (times < start + count / RATE)] for start in began[:2])
    assert likeness(loudness(by_say), loudness(spoken)) > 0.8
    for heard in (by_track, by_say):
        assert likeness(colour(heard), colour(spoken)) > 0.9
    after = sound[times > at[5] + zero[2] + 0.1]
    assert len(after) > RATE / 2 and np.abs(after).max() < 0.001
    assert np.abs(sound[(times < at[5] + zero[2]) & (times > at[5] + zero[2] - 0.5)]).max() > LOUD

    # Pictures come 25 times a second, but for those that the server had no time for, and change.
    shown = 25 * np.array([at for at, _ in client.pictures])
    assert np.all(np.diff(shown) > 0) and np.abs(np.diff(shown) - np.round(np.diff(shown))).max() < 0.01
    assert len(shown) > 0.8 * (shown[-1] - left_out)
    assert client.pictures[0][1].shape == (128, 128, 3)
    changes = [np.abs(b.astype(int) - a).mean() for (_, a), (_, b) in zip(client.pictures, client.pictures[1:], strict=False)]
    assert np.mean(np.array(changes) > 0.05) > 0.5


def parts(sound: np.ndarray) -> np.ndarray:
    """20 ms each."""
    return sound[: len(sound) // PART * PART].reshape(-1, PART)


def loudness(sound: np.ndarray) -> np.ndarray:
    return np.sqrt((parts(sound) ** 2).mean(axis=1))


def colour(sound: np.ndarray) -> np.ndarray:
    """Mean spectrum up to 8 kHz."""
    return np.abs(np.fft.rfft(parts(sound))).mean(axis=0)[:160]


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    count = min(len(one), len(other))
    return float(np.corrcoef(one[:count], other[:count])[0, 1])


class Metronome:
    """A stream whose pictures tell their number in bars, and which beeps at every whole second; it stalls now and then."""

    def __init__(self, *_: object, rate: int, **__: object):
        self.fps, self.rate, self.buffered_seconds, self._index = 25.0, rate, 0.0, 0

    def step(self, leave_out: int = 0) -> LiveFrame:
        begin, index = self._index, self._index + leave_out
        self._index = index + 1
        if index % 40 == 20:
            time.sleep(0.35)
        samples = np.arange(round(begin / self.fps * self.rate), round(self._index / self.fps * self.rate))
        beep = np.where(samples % self.rate < self.rate // 5, 0.5 * np.sin(2 * np.pi * 1000 / self.rate * samples), 0)
        bars = np.array([220 if index >> bit & 1 else 20 for bit in range(8)], np.uint8)
        return LiveFrame(
            index=index, seconds=index / self.fps, picture=np.tile(np.repeat(bars, 16)[None, :, None], (128, 1, 3)),
            sound=Audio(samples=torch.from_numpy(beep.astype(np.float32))[None], rate=self.rate),
            sound_seconds=begin / self.fps, marks=(), left_out=leave_out, speaking=False,
        )


def test_pictures_and_sound_stay_together(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each picture and each beep belongs is known, so is how far RTP's times of both are from it, all the time."""
    monkeypatch.setattr(webrtc, "LiveStream", Metronome)

    async def watch() -> Client:
        client = await Client().open(served)
        await asyncio.sleep(5.0)
        await client.close()
        await gone(served, 3)
        return client

    client = asyncio.run(watch())
    numbers = [sum(1 << bit for bit in range(8) if picture[:, 16 * bit + 4 : 16 * bit + 12].mean() > 120)
               for _, picture in client.pictures]
    assert len(numbers) > 60 and max(np.diff(numbers)) > 3  # it did stall
    pictures = [at - number / 25 for (at, _), number in zip(client.pictures, numbers, strict=True)]
    heard = onsets(*client.heard, pause=0.5)
    beeps = [at - round(at - heard[1]) - OPUS_SECONDS for at in heard[1:]]
    assert len(beeps) >= 3
    assert np.ptp(pictures) < 0.001 and np.ptp(beeps) < 0.005
    for seen in (client.packets, client.reports):  # as they come, and as the sender tells a receiver that synchronises them
        apart = client.clock("video", seen) + pictures[0] - client.clock("audio", seen) - beeps[0]
        apart -= round(apart)  # beeps do not tell which second it is
        print(f"pictures are {1000 * apart:+.1f} ms from their sound")
        assert abs(apart) < 0.04


def test_offers_that_make_no_sense_are_refused_and_hold_no_place(served: Served) -> None:
    async def try_all() -> list[httpx.Response]:
        client = Client()
        await client.connection.setLocalDescription(await client.connection.createOffer())
        whole = client.connection.localDescription.sdp
        only_data = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        only_data.createDataChannel("control")
        await only_data.setLocalDescription(await only_data.createOffer())
        media = whole[whole.index("m=audio") :]
        offers = [
            "", "hello", "v=0\r\n", whole[:700], whole.replace("opus", "opium").replace("PCM", "PCN").replace("G722", "G7"),
            whole.replace("a=recvonly", "a=inactive"), whole.replace("a=ice-pwd", "a=ice-pw"), whole + media * 20,
            only_data.localDescription.sdp, whole.replace("a=fingerprint:sha-256 ", "a=fingerprint:"),
        ]
        said = [await offered(served, sdp=sdp) for sdp in offers]
        said.append(await offered(served, sdp=whole, avatar="0" * 24))
        said.append(await offered(served, sdp=whole, head=9))
        await client.close()
        await only_data.close()
        return said

    for answer in asyncio.run(try_all()):
        assert 400 <= answer.status_code < 500, answer.text
        error = answer.json()["error"]
        assert error["code"] in ("bad_offer", "bad_request", "no_such_avatar", "bad_field") and len(error["message"]) > 20
    assert served.sessions() == 0


def test_clients_that_vanish_lose_their_place(served: Served) -> None:
    async def vanish() -> None:
        never, crashed = Client(), await Client().open(served)
        assert (await never.offer(served)).status_code == 200  # and nothing is done with the answer
        full = await Client().offer(served)
        assert full.status_code == 503 and full.json()["error"]["code"] == "busy"
        ice = crashed.connection.getTransceivers()[0].receiver.transport.transport
        for protocol in ice._connection._protocols:
            protocol.transport.abort()  # no farewell, as if its machine went down
        assert served.sessions() == 2
        assert await gone(served, LIMITS.open_seconds + LIMITS.stuck_seconds + 3) > 1
        await asyncio.gather(never.close(), crashed.close())

    asyncio.run(vanish())


def test_a_client_that_makes_no_sense_is_told_so_and_let_go(served: Served) -> None:
    async def babble() -> list[dict[str, Any]]:
        client = await Client().open(served)
        for message in ("{", "[]", '{"type": "dance"}', b"\xff\x00"):
            client.channel.send(message)
        await gone(served, 5)
        await client.close()
        return client.told

    codes = [told["code"] for told in asyncio.run(babble())]
    assert codes == ["bad_message"] * 3 + ["too_many_errors"]


def test_the_end_of_the_server_ends_its_sessions(animator: Animator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def end() -> float:
        with serving(animator, tmp_path, limits=LIMITS) as served:
            waiting = Client()
            assert (await waiting.offer(served)).status_code == 200
            talking = await Client().open(served)
            began = time.monotonic()
        took = time.monotonic() - began
        await until(lambda: talking.connection.connectionState == "closed", 3)
        await asyncio.gather(waiting.close(), talking.close())
        return took

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(end()) < 2
    assert not caplog.records


CALL = """async () => {
    window.peer = new RTCPeerConnection();
    window.told = [];
    window.channel = peer.createDataChannel("control");
    channel.onmessage = message => told.push(JSON.parse(message.data).state);
    const video = document.createElement("video");
    video.autoplay = true;
    video.srcObject = new MediaStream();
    document.body.append(video);
    peer.ontrack = event => video.srcObject.addTrack(event.track);
    peer.addTransceiver("audio", {direction: "recvonly"});
    peer.addTransceiver("video", {direction: "recvonly"});
    await peer.setLocalDescription();
    while (peer.iceGatheringState != "complete") await new Promise(done => setTimeout(done, 10));
    const body = JSON.stringify({type: "offer", sdp: peer.localDescription.sdp});
    const headers = {"content-type": "application/json"};
    await peer.setRemoteDescription(await (await fetch("/v1/webrtc/offer", {method: "POST", headers, body})).json());
    channel.onopen = () => channel.send(JSON.stringify({type: "say", text: "Hello! How are you?"}));
}"""
RECEIVED = """async () => {
    const all = [...(await peer.getStats()).values()].filter(each => each.type == "inbound-rtp");
    const of = Object.fromEntries(all.map(each => [each.kind, each]));
    return {told, shown: of.video?.framesDecoded ?? 0, side: of.video?.frameWidth, heard: of.audio?.totalAudioEnergy ?? 0};
}"""


def test_a_browser_sees_and_hears(served: Served) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("google-chrome") or pytest.skip("there is no browser here")
    arguments = [
        "--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--allow-loopback-in-peer-connection",
        "--disable-features=WebRtcHideLocalIpsWithMdns",
    ]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{served.port}/healthz")
        page.evaluate(CALL)
        until = time.monotonic() + 30
        received = page.evaluate(RECEIVED)
        while time.monotonic() < until and not ("finished" in received["told"] and received["shown"] > 25):
            page.wait_for_timeout(100)
            received = page.evaluate(RECEIVED)
        browser.close()  # which says no goodbye
    assert received["told"] == ["started", "finished"]
    assert received["shown"] > 25 and received["side"] == 128 and received["heard"] > 0.001
    assert served.idle(LIMITS.stuck_seconds + 5)


class Listener:
    """What an ear tells its stream."""

    def __init__(self) -> None:
        self.segments: list[list[Audio]] = [[]]
        self.buffered_seconds = 0.0

    def push(self, audio: Audio) -> None:
        self.segments[-1].append(audio)

    def end_segment(self) -> None:
        self.segments.append([])


def test_an_ear_hears_speech_and_no_pauses(sentence: Audio) -> None:
    words = spoken_at(RATE, "Hello.", "en").samples[0].numpy()
    said = np.concatenate([np.zeros(RATE), words, np.zeros(2 * RATE), words, np.zeros(RATE // 4), words, np.zeros(RATE)])
    samples = np.round(said * 32767).astype(np.int16)
    listener = Listener()
    ear = webrtc.Ear(listener)  # type: ignore[arg-type]
    for first in range(0, len(samples), PART):
        ear.hear(samples[first : first + PART])
    one, both, rest = (sum(part.duration for part in segment) for segment in listener.segments)
    spoken = np.flatnonzero(np.abs(words) > 0.001)
    seconds = (spoken[-1] - spoken[0]) / RATE + webrtc.HUSH_SECONDS
    assert one == pytest.approx(seconds, abs=0.05)
    assert both == pytest.approx(seconds + len(words) / RATE + 0.25, abs=0.05)
    assert rest == 0


def test_an_ear_does_not_fall_behind() -> None:
    listener = Listener()
    ear = webrtc.Ear(listener)  # type: ignore[arg-type]
    noise = np.full(PART, 3000, np.int16)
    for waiting in (0.0, 0.9, 1.1, 5.0, 0.5):
        listener.buffered_seconds = waiting
        ear.hear(noise)
    assert len(listener.segments[0]) == 3


def test_a_track_gives_frames_when_they_are_due_and_of_late_pictures_the_newest() -> None:
    async def fetch(kind: str) -> tuple[list[str], list[float]]:
        track, now = webrtc._Track(kind), time.monotonic()
        for name, due in (("a", -0.3), ("b", -0.2), ("c", -0.1), ("d", 0.1), ("e", 0.2)):
            track.put(name, now + due)  # type: ignore[arg-type]
        got: list[str] = []
        at: list[float] = []
        while not got or got[-1] != "e":
            got.append(str(await track.recv()))
            at.append(time.monotonic() - now)
        last = asyncio.create_task(track.recv())
        await asyncio.sleep(0)
        track.stop()
        with pytest.raises(MediaStreamError):
            await last
        return got, at

    pictures, at = asyncio.run(fetch("video"))
    assert pictures == ["c", "d", "e"] and at[0] < 0.1 <= at[1] < 0.2 <= at[2]
    assert asyncio.run(fetch("audio"))[0] == ["a", "b", "c", "d", "e"]
