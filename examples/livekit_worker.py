"""A face for an agent of LiveKit: joins the agent's room, and a picture speaks there with the agent's voice.

    pip install livekit-agents==1.0.23 livekit==1.0.17 livekit-protocol==1.0.8
    python examples/livekit_worker.py wss://HOST TOKEN portrait.jpg

Later versions want a protobuf that mediapipe, which finds the face in the picture, does not work with.

TOKEN admits this worker to the room under a name of its own. The agent sends its voice to that name:

    session.output.audio = DataStreamAudioOutput(room, destination_identity=NAME, sample_rate=24000)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vivavoce import Animator, Portrait
from vivavoce.animate import Settings
from vivavoce.live.avatar import AudioFrame, AudioSegmentEnd, LiveAvatar, VideoFrame
from vivavoce.live.scheduler import Scheduler

if TYPE_CHECKING:
    from livekit.agents.voice.avatar import VideoGenerator

RATE_HZ = 24000


def video_generator(avatar: LiveAvatar) -> VideoGenerator:
    """The portrait as LiveKit's type. LiveKit counts how much was spoken by the sound that it gets, so silence is kept back."""
    from livekit import rtc
    from livekit.agents.voice import avatar as kit

    class Generator(kit.VideoGenerator):
        async def push_audio(self, frame: Any) -> None:
            if isinstance(frame, kit.AudioSegmentEnd):
                return await avatar.push_audio(AudioSegmentEnd())
            samples = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels).mean(axis=1).astype(np.int16)
            return await avatar.push_audio(AudioFrame(samples=samples, sample_rate=frame.sample_rate))

        def clear_buffer(self) -> None:
            avatar.clear_buffer()

        async def __aiter__(self) -> AsyncIterator[Any]:
            async for frame in avatar:
                match frame:
                    case VideoFrame(image=image):
                        yield rtc.VideoFrame(image.shape[1], image.shape[0], rtc.VideoBufferType.RGB24, image.tobytes())
                    case AudioFrame(samples=samples, speaking=True):
                        yield rtc.AudioFrame(samples.tobytes(), frame.sample_rate, 1, len(samples))
                    case AudioSegmentEnd():
                        yield kit.AudioSegmentEnd()

    return Generator()


async def work(url: str, token: str, picture: Path) -> None:
    """Until the agent leaves the room."""
    from livekit import rtc
    from livekit.agents.voice.avatar import AvatarOptions, AvatarRunner, DataStreamAudioReceiver

    animator, settings = Animator.load(), Settings()
    reference = animator.prepare(Portrait.open(picture), size=512, crop=True)
    width, height = reference.size
    options = AvatarOptions(
        video_width=width, video_height=height, video_fps=settings.fps, audio_sample_rate=RATE_HZ, audio_channels=1
    )
    scheduler, room, over = Scheduler(), rtc.Room(), asyncio.Event()
    room.on("disconnected", lambda *_: over.set())
    agent = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
    room.on("participant_disconnected", lambda who: over.set() if who.kind == agent else None)
    try:
        await room.connect(url, token)
        async with LiveAvatar(scheduler, animator.live(), reference, settings, rate=RATE_HZ) as avatar:
            receiver = DataStreamAudioReceiver(room)
            runner = AvatarRunner(room, audio_recv=receiver, video_gen=video_generator(avatar), options=options)
            await runner.start()
            await over.wait()
            await runner.aclose()
    finally:
        await room.disconnect()
        scheduler.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        asyncio.run(work(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed. {__doc__}")
    except KeyboardInterrupt:
        pass
