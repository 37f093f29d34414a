"""Options of the video engine. What it does is in `commands_video.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

NONE = "(default: none)"
TINY = "tiny"  # the base of our own, which ships


@dataclass(frozen=True, kw_only=True)
class Wan:
    """For --engine wan: a pretrained video model of the Wan family. Needs pip install 'vivavoce[video]', and wants a GPU."""

    base: Annotated[str | None, arg(metavar="FOLDER|NAME", help_behavior_hint="")] = None
    """The pretrained model in diffusers' format: a folder, or a name on the Hugging Face hub such as
    Wan-AI/Wan2.2-TI2V-5B-Diffusers. tiny is one of our own that comes with vivavoce, with its adapter: 128 px, to try things on
    a processor."""
    adapter: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """What taught the base to speak, as `train video` writes it. Without one the base alone makes the picture move, and hears
    nothing."""
    prompt: Annotated[str | None, arg(metavar="WORDS", help_behavior_hint="(default: the adapter's own)")] = None
    """What is to be seen."""
    negative: Annotated[str | None, arg(metavar="WORDS", help_behavior_hint=NONE)] = None
    """What is not to be seen."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the adapter's own, or 30)")] = None
    """Steps of the solver: fewer are quicker, more are finer."""
    text_guidance: Annotated[float | None, arg(metavar="X", help_behavior_hint="(default: 5)")] = None
    """How closely the video follows the prompt; 1 is no guidance, which is quicker. --guidance is that of the speech (3)."""
    image_guidance: Annotated[float | None, arg(metavar="X", help_behavior_hint="(default: 1)")] = None
    """The same of the picture, for bases that are told of it (Wan 2.1 I2V)."""
    intensity: Annotated[tuple[float, float] | None, arg(metavar="FACE BODY", help_behavior_hint=NONE)] = None
    """How much face and body move, each 0 to 1, where the adapter learned it; 0.5 is as usual."""
    guide: Annotated[float | None, arg(metavar="0-1", help_behavior_hint="(default: 0)")] = None
    """How far the video follows the one that the motion engine makes, which --expression, --head, --gaze and --blink shape: 0 is
    not at all, and less than 1 the most."""
    length: Annotated[
        Literal["prefix", "slide"] | None, arg(metavar="prefix|slide", help_behavior_hint="(default: prefix)")
    ] = None
    """How long videos are made: in windows one after the other, or in windows that slide while all is solved at once."""
    offload: Annotated[
        Literal["none", "model", "sequential"] | None, arg(metavar="none|model|sequential", help_behavior_hint="(default: none)")
    ] = None
    """What waits in main memory: nothing, the networks that are not at work, or all layers but the one at work (slow)."""
    tiling: bool = False
    """Take pictures through the autoencoder tile by tile: needs less memory."""
    device: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: cuda where there is one, else cpu)")] = None
    """Where it works, such as cuda, cuda:1 or cpu."""

    def check(self) -> None:
        """Raises ValueError for numbers that would be refused only when everything has been loaded."""
        if self.guide is not None and not 0 <= self.guide < 1:
            raise ValueError(f"--guide is {self.guide:g}: give 0 (none) to less than 1 (nothing but the guide)")
        if self.intensity is not None and not all(0 <= value <= 1 for value in self.intensity):
            raise ValueError(f"--intensity is {self.intensity[0]:g} {self.intensity[1]:g}: give numbers from 0 to 1")

    def given(self) -> list[str]:
        """Names of the options that were given."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None and value is not False]
