"""Pictures of what vivavoce makes: two portraits that anybody may use, speaking, and turning as far as they can.

    python examples/contact_sheet.py docs

writes docs/speaking.jpg (a row per portrait, eight moments of a sentence each) and docs/turning.jpg (yaw, pitch and roll). The
portraits come with scikit-image (Eileen Collins) and matplotlib (Grace Hopper); both are in the public domain.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage.data
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image

from vivavoce import Animator, Portrait
from vivavoce.latent.motion import Motion
from vivavoce.media.speak import speak

MOMENTS, SIDE = 8, 256
SENTENCE = "Hello! One picture and a few words are all that I need to speak."
TURNS_DEGREES = (  # pitch, yaw, roll
    (0, 0, 0), (0, 20, 0), (0, -20, 0), (15, 0, 0), (-15, 0, 0), (0, 0, 15), (0, 0, -15), (8, 12, -8),
)


def portraits() -> list[Portrait]:
    with get_sample_data("grace_hopper.jpg") as file:
        hopper = np.asarray(Image.open(file).convert("RGB"))
    return [Portrait(image=skimage.data.astronaut(), name="Eileen Collins"), Portrait(image=hopper, name="Grace Hopper")]


def speaking(animator: Animator, portrait: Portrait) -> np.ndarray:
    frames = list(animator.animate(portrait, speak(SENTENCE), crop=True, size=SIDE))
    return np.concatenate([frames[i] for i in np.linspace(4, len(frames) - 8, MOMENTS).astype(int)], axis=1)


def turning(animator: Animator, portrait: Portrait) -> np.ndarray:
    reference, space = animator.prepare(portrait, crop=True, size=SIDE), animator.space
    rest = space.layout.unpack(torch.zeros(len(TURNS_DEGREES), space.layout.width))
    motion = Motion(**{**vars(rest), "rotation": torch.deg2rad(torch.tensor(TURNS_DEGREES, dtype=torch.float32))})
    return np.concatenate(space.painter(reference).paint(space.landmarks(motion, reference)), axis=1)


def main(folder: Path) -> None:
    animator = Animator.load()
    for name, row in (("speaking", speaking), ("turning", turning)):
        sheet = np.concatenate([row(animator, portrait) for portrait in portraits()])
        Image.fromarray(sheet).save(folder / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
