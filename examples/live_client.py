"""A client of a live session: sends a sound file as fast as it is spoken, and keeps what comes back as a video.

    vivavoce serve --port 8000
    python examples/live_client.py speech.wav talking.mp4 ws://127.0.0.1:8000/v1/live

docs/protocol.md has the messages.
"""

from __future__ import annotations

import asyncio
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

from vivavoce.media.audio import Audio, Resampler, concatenate
from vivavoce.media.video import VideoWriter

RATE_HZ, PIECE = 24000, 960  # samples a second, and of a piece that is sent
PICTURE, SOUND = 1, 2
HEADER = struct.Struct("<BBHIQ")  # kind, flags, 0, number of the frame, microseconds
AFTER_SECONDS = 0.5  # of the portrait at rest


async def send(socket: ClientConnection, samples: np.ndarray) -> None:
    began = asyncio.get_running_loop().time()
    for first in range(0, len(samples), PIECE):
        await asyncio.sleep(began + first / RATE_HZ - asyncio.get_running_loop().time())
        await socket.send(samples[first : first + PIECE].tobytes())
    await socket.send(json.dumps({"type": "end_of_segment"}))


async def talk(url: str, samples: np.ndarray, output: Path) -> None:
    """Speech, 16-bit, to a video of it."""
    pictures: dict[int, bytes] = {}
    sounds: dict[int, np.ndarray] = {}
    heard, end = 0.0, float("inf")  # seconds
    async with connect(url, max_size=None) as socket:
        await socket.send(json.dumps({"type": "open", "avatar": "demo", "audio_rate": RATE_HZ}))
        opened = json.loads(await socket.recv())
        if opened["type"] == "error":
            raise ConnectionError(opened["message"])
        sending = asyncio.create_task(send(socket, samples))
        while heard < end + AFTER_SECONDS:
            message = await socket.recv()
            if isinstance(message, str):
                note = json.loads(message)
                if note["type"] == "error":
                    raise ConnectionError(note["message"])
                if note["type"] == "segment" and note["state"] == "finished":
                    end = note["time"]
                continue
            kind, _, _, number, microseconds = HEADER.unpack_from(message)
            data = message[HEADER.size :]
            if kind == PICTURE:
                pictures[number] = data
            elif kind == SOUND:
                at, part = round(microseconds * RATE_HZ / 1e6), np.frombuffer(data, "<i2")
                sounds[at], heard = part, (at + len(part)) / RATE_HZ
        await sending
    keep(output, opened, pictures, sounds)


def keep(output: Path, opened: dict, pictures: dict[int, bytes], sounds: dict[int, np.ndarray]) -> None:
    """The video. Where a frame was left out, the one before it is shown longer."""
    first, last = min(pictures), max(pictures)
    sound = np.zeros(max(at + len(part) for at, part in sounds.items()), np.int16)
    for at, part in sounds.items():
        sound[at : at + len(part)] = part
    heard = Audio.from_pcm16(sound[round(first / opened["fps"] * RATE_HZ) :].tobytes(), RATE_HZ)
    with VideoWriter(output, fps=opened["fps"], size=(opened["width"], opened["height"]), sound=heard, overwrite=True) as video:
        for number in range(first, last + 1):
            if number in pictures:
                picture = np.asarray(Image.open(io.BytesIO(pictures[number])).convert("RGB"))
            video.write(picture)


def speech(path: Path) -> np.ndarray:
    """Any sound file, as it is sent."""
    sound = Audio.open(path)
    resampler = Resampler(sound.rate, RATE_HZ)
    return concatenate([resampler.push(sound), resampler.finish()]).to_pcm16()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(talk(sys.argv[3], speech(Path(sys.argv[1])), Path(sys.argv[2])))
