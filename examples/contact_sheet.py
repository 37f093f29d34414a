"""A picture of what vivavoce makes: moments of one portrait speaking, side by side.

    python examples/contact_sheet.py docs/astronaut.jpg
"""

from __future__ import annotations

import sys

import numpy as np
import skimage.data
from PIL import Image

from vivavoce import Animator, Portrait
from vivavoce.media.speak import speak

MOMENTS, SIDE = 12, 256


def main(output: str) -> None:
    portrait = Portrait(image=skimage.data.astronaut(), name="astronaut")
    speech = speak("Hello! One picture and a few words are all that I need to speak.")
    frames = list(Animator.load().animate(portrait, speech, crop=True, size=SIDE))
    chosen = [frames[i] for i in np.linspace(4, len(frames) - 8, MOMENTS).astype(int)]
    rows = [np.concatenate(chosen[i : i + MOMENTS // 2], axis=1) for i in (0, MOMENTS // 2)]
    Image.fromarray(np.concatenate(rows)).save(output, quality=85)


if __name__ == "__main__":
    main(sys.argv[1])
