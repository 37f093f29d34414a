"""Things that every test may borrow."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import skimage.data
import torch

from vivavoce import Animator, Audio, Portrait
from vivavoce.latent.motion_space import Reference
from vivavoce.media.speak import speak

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """A shell that runs the tests in the background has SIGINT ignored, and what tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def animator() -> Animator:
    """The shipped models."""
    return Animator.load()


@pytest.fixture(scope="session")
def astronaut() -> Portrait:
    return Portrait(image=skimage.data.astronaut(), name="astronaut")


@pytest.fixture(scope="session")
def small(animator: Animator, astronaut: Portrait) -> Reference:
    """A quick head and shoulders."""
    return animator.prepare(astronaut, size=128, crop=True)


@pytest.fixture(scope="session")
def sentence() -> Audio:
    return speak("My mother bought a blue boat. People may be busy.")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The shared recordings; tests that need them are skipped where they are not."""
    if not (SHARED / "MANIFEST.csv").is_file():
        pytest.skip("the recordings (../shared/data) are not here")
    return SHARED
