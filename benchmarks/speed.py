"""How fast the main job is, where the time goes, and how much memory a long recording takes.

    python benchmarks/speed.py                  # ten minutes of speech, two cores, 512x512 pixels, 25 frames per second
    python benchmarks/speed.py --minutes 1 --json speed.json

The astronaut of scikit-image speaks a looped text from a WAV file into an MP4 file, everything included: reading the sound,
speech features, motion, rendering, H.264 and AAC. The stages are timed from outside, by wrapping the methods that they
consist of.

Shares are of processor time, because encoder and refiner work beside the rest; "clock" is what the main thread spends by the
clock, waiting included.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
import wave
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does; it is read when numpy is imported

from vivavoce.animate import AHEAD, Session, Settings
from vivavoce.apps.stages import Stages, peak, resident, thread_seconds
from vivavoce.latent.motion_space import REFINING

TEXT = (
    "The ferry leaves the harbour at a quarter past five, so we should pack the bags before lunch. My brother will bring bread, "
    "cheese and a bottle of water; you could look for the blue umbrella. If the weather stays fine, we will sit outside, watch "
    "the waves, and talk about everything that happened this summer."
)
FPS = 25.0
SIZE = 512  # px
SAMPLE_SECONDS = 0.5  # between looks at the memory


class Watch:
    """Memory of this process over time, and the processor time of its threads. A context manager."""

    def __enter__(self) -> Watch:
        self.memory: list[tuple[float, float]] = []  # seconds, MiB resident
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._begun = time.perf_counter()
        self._thread.start()
        self._threads, self._busy, self._main = thread_seconds(), time.process_time(), time.thread_time()
        return self

    def elapsed(self) -> float:
        return time.perf_counter() - self._begun

    def __exit__(self, *_: object) -> None:
        self.seconds = self.elapsed()
        self.main = time.thread_time() - self._main
        self.total = time.process_time() - self._busy
        now, own = thread_seconds(), threading.get_native_id()
        others = {i: now[i] - seconds for i, seconds in self._threads.items() if i in now and i != own}
        self.helpers = sum(others.values())  # there before and after; the encoder's have gone
        beside = {thread.native_id for thread in threading.enumerate() if thread.name.startswith(REFINING)}
        self.refining = sum(seconds for i, seconds in now.items() if i in beside)
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.memory.append((self.elapsed(), resident()))


def write_speech(path: Path, seconds: float) -> None:
    """A looped text as a mono 16-bit WAV file."""
    from vivavoce.media.speak import speak

    speech = speak(TEXT)
    samples = (speech.samples[0].clamp(-1, 1) * 32767).short().numpy().tobytes()
    left = round(seconds * speech.rate) * 2
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, speech.rate, 0, "NONE", ""))
        while left > 0:
            file.writeframes(samples[:left])
            left -= len(samples)


def watch_stages(stages: Stages) -> None:
    """Time the methods that the main thread spends itself in; none of them calls another."""
    from vivavoce.generate import MotionGenerator
    from vivavoce.latent.motion_space import MotionSpace, Painter
    from vivavoce.media.audio import Resampler
    from vivavoce.media.video import VideoWriter
    from vivavoce.speech.streams import SpeechStreams

    stages.watch(Resampler, "push", "reading sound")
    stages.watch(Resampler, "finish", "reading sound")
    stages.watch(SpeechStreams, "step", "speech features")
    stages.watch(MotionGenerator, "step", "motion generation")
    stages.watch(MotionSpace, "with_blinks", "retargeting")
    stages.watch(MotionSpace, "landmarks", "retargeting")
    stages.watch(Painter, "begin", "rendering")
    stages.watch(Painter, "take", "rendering")
    stages.watch(VideoWriter, "write", "handing to the encoder")


def measure(folder: Path, seconds: float, threads: int) -> dict[str, Any]:
    """The main job once, on a recording of that length."""
    begun = time.perf_counter()
    import skimage.data
    import torch

    from vivavoce import Animator, Portrait
    from vivavoce.media.audio import read_audio
    from vivavoce.media.video import VideoWriter

    imported = time.perf_counter()
    torch.set_num_threads(threads)
    animator = Animator.load()
    loaded = time.perf_counter()
    reference = animator.prepare(Portrait(image=skimage.data.astronaut(), name="astronaut"), size=SIZE, crop=True)
    prepared = time.perf_counter()

    speech = folder / "speech.wav"
    write_speech(speech, seconds)
    stages = Stages()
    watch_stages(stages)
    count, first_frame = 0, 0.0
    with Watch() as watch:
        session = Session(animator, reference, Settings(fps=FPS), ahead=AHEAD)
        with VideoWriter(folder / "speed.mp4", fps=FPS, size=session.size, sound=speech) as writer:
            blocks = stages.iterate(read_audio(speech), "reading sound")
            for frame in chain(chain.from_iterable(map(session.push, blocks)), finishing(session)):
                first_frame = first_frame or watch.elapsed()
                writer.write(frame)
                count += 1
    assert count == round(seconds * FPS), (count, seconds)
    busy = {
        **stages.busy, "refining": watch.refining,
        "encoding": watch.total - watch.main - watch.helpers - watch.refining,
        "rest of the main thread": watch.main - sum(stages.busy.values()), "helper threads (OpenCV, torch)": watch.helpers,
    }
    table = {
        name: {
            "busy_ms": 1000 * spent / count, "share": spent / watch.total, "clock_ms": 1000 * stages.wall.get(name, 0.0) / count,
        } for name, spent in busy.items()
    }
    return {
        "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "torch_threads": torch.get_num_threads(),
        "frames": count, "seconds": watch.seconds, "frames_per_second": count / watch.seconds,
        "import_seconds": imported - begun, "load_seconds": loaded - imported, "prepare_seconds": prepared - loaded,
        "first_frame_seconds": first_frame, "lookahead_seconds": lookahead(animator.session(reference, Settings(fps=FPS))),
        "stages": table, "peak_mib": peak(), "growth_mib_per_minute": growth(watch.memory, seconds), "memory_mib": watch.memory,
    }


def finishing(session: Any) -> Iterator[Any]:
    """What is left, asked for when it is its turn."""
    yield from session.finish()


def lookahead(session: Any) -> float:
    """Seconds of sound that have to be heard before the first frame is determined."""
    import torch

    from vivavoce import Audio
    from vivavoce.speech.encoder import SAMPLE_RATE_HZ

    step = SAMPLE_RATE_HZ // 100
    heard = 0
    while True:
        heard += step
        if any(True for _ in session.push(Audio(samples=torch.zeros(1, step), rate=SAMPLE_RATE_HZ))):
            return heard / SAMPLE_RATE_HZ


def growth(memory: list[tuple[float, float]], seconds: float) -> float:
    """MiB per minute of recording after the first fifth, by least squares."""
    import numpy as np

    late = np.array(memory[len(memory) // 5 :])
    return float(np.polyfit(late[:, 0], late[:, 1], 1)[0] * memory[-1][0] / (seconds / 60)) if len(late) > 2 else 0.0


def report(result: dict[str, Any]) -> None:
    """For people."""
    print("{cores} cores, load {load:.1f} at the end, {torch_threads} threads of torch".format(**result))
    print("{frames} frames in {seconds:.1f} s: {frames_per_second:.1f} per second".format(**result))
    print("imports {import_seconds:.2f} s, models {load_seconds:.2f} s, portrait {prepare_seconds:.2f} s".format(**result))
    print("first frame {first_frame_seconds:.2f} s after the start; it needs {lookahead_seconds:.2f} s of sound".format(**result))
    print(f"\n{'stage':32}{'ms/frame':>10}{'share':>8}{'clock':>10}")
    for name, stage in sorted(result["stages"].items(), key=lambda item: -item[1]["busy_ms"]):
        print(f"{name:32}{stage['busy_ms']:10.2f}{stage['share']:8.1%}{stage['clock_ms']:10.2f}")
    memory = [mib for _, mib in result["memory_mib"]]
    at = ", ".join(f"{memory[int(part * (len(memory) - 1))]:.0f} at {part:.0%}" for part in (0.1, 0.25, 0.5, 0.75, 1))
    print(f"\nresident memory, MiB: at most {result['peak_mib']:.0f}; {at} of the recording")
    print("growth after its first fifth: {growth_mib_per_minute:+.2f} MiB per minute of recording".format(**result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the recording")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of torch; the command line takes one")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), 60 * args.minutes, args.threads)
    report(result)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
