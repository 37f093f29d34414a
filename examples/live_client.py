"""A client of a live session: sends a sound file as fast as it is spoken, and keeps what comes back as a video.

    vivavoce serve --port 8000
    python examples/live_client.py speech.wav talking.mp4 ws://127.0.0.1:8000/v1/live

docs/protocol.md has the messages.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from vivavoce.media.audio import Audio, Resampler, concatenate
from vivavoce.media.files import check_writable
from vivavoce.media.video import VideoWriter

RATE_HZ, PIECE = 24000, 960  # samples a second, and of a piece that is sent
PICTURE, SOUND = 1, 2
HEADER = struct.Struct("<BBHIQ")  # kind, flags, 0, number of the frame, microseconds
AFTER_SECONDS = 0.5  # of the portrait at rest


class SessionRefused(ConnectionError):
    """What the server says of a session that it does not open, or ends."""


async def send(server: ClientConnection, samples: np.ndarray) -> None:
    """Samples, 16-bit, as fast as they are spoken."""
    began = asyncio.get_running_loop().time()
    for first in range(0, len(samples), PIECE):
        await asyncio.sleep(began + first / RATE_HZ - asyncio.get_running_loop().time())
        await server.send(samples[first : first + PIECE].tobytes())
    await server.send(json.dumps({"type": "end_of_segment"}))


async def talk(url: str, samples: np.ndarray, output: Path) -> None:
    """Speech, 16-bit, to a video of it."""
    pictures: dict[int, bytes] = {}
    sounds: dict[int, np.ndarray] = {}
    heard, end = 0.0, float("inf")  # seconds
    async with connect(url, max_size=None) as server:
        await server.send(json.dumps({"type": "open", "avatar": "demo", "audio_rate": RATE_HZ}))
        opened = json.loads(await server.recv())
        if opened["type"] == "error":
            raise SessionRefused(opened["message"])
        sending = asyncio.create_task(send(server, samples))
        while heard < end + AFTER_SECONDS:
            message = await server.recv()
            if isinstance(message, str):
                note = json.loads(message)
                if note["type"] == "error":
                    raise SessionRefused(note["message"])
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


def main(arguments: list[str]) -> None:
    """Ends with a sentence where something is wrong that whoever called it can mend."""
    if len(arguments) != 3:
        sys.exit(__doc__)
    sound, output, url = Path(arguments[0]), Path(arguments[1]), arguments[2]
    try:
        check_writable(output, (".mp4",), overwrite=True)
        asyncio.run(talk(url, speech(sound), output))
    except InvalidURI:
        sys.exit(f"{url} is no address of a live session: give one such as ws://127.0.0.1:8000/v1/live")
    except InvalidHandshake as error:
        sys.exit(f"{url} answers, but opens no live session ({error}): is it vivavoce's, and does it end in /v1/live?")
    except ConnectionClosed as error:
        sys.exit(f"the server at {url} ended the session ({error})")
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        said = f"cannot talk with {url} ({error}): start a server with `vivavoce serve`"
        sys.exit(str(error) if isinstance(error, SessionRefused) else said)
    except (OSError, ValueError) as error:  # of the files: the library's own sentences
        sys.exit(str(error))
    print(f"{output}: written")


if __name__ == "__main__":
    main(sys.argv[1:])
