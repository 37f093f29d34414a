"""What goes into the generation of a video and what it remembers: how windows are made, the scene, the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vivavoce.latent.space import Frame
from vivavoce.latent.video import DecoderState, VideoReference
from vivavoce.nets.hearing import Memory
from vivavoce.nets.redistribute import PICTURES

GUIDED = ("text", "reference", "speech", "identity", "skeleton", "intensity")


@dataclass(frozen=True, kw_only=True)
class VideoWindows:
    """How a velocity field becomes a video.

    ``latents``: of a window, known ones included. ``length``: "prefix" makes one window after the other, each with the last
    ``prefix`` latents before it clean, and can stream; "slide" solves the whole video at once in windows that begin ``slide``
    latents later in every step (`flow.slide`), each with the reference in front. ``opening``: with "prefix", windows that go on
    are built as if they began a video, which is all that a base by itself knows: behind the reference picture, or, where a base
    is told of pictures, with the latest ones encoded afresh. Adapters learn to go on without (`train.video_windows`).

    ``steps``: of Euler. ``shift``: of Wan's schedule, sigma' = s sigma / (1 + (s - 1) sigma). ``guidance``: scale of each part
    (`GUIDED`), in the order in which they are added; parts that a network or base does not have are left out. ``at_lips``: a
    single speaker's speech is guided only where the scene says that ``lips`` move; elsewhere its scale is 1. ``steady``: how far
    the mean and the spread of each channel of a window are led back to those of the first window, against drift of colour.
    ``temperature``: standard deviation of the noise that the flow begins with; less than 1 gives a small network's mean rather
    than its errors. ``held``: bases that are told of pictures see the known one go on where nothing is known, instead of grey.
    """

    latents: int = 21
    prefix: int = 2
    length: Literal["prefix", "slide"] = "prefix"
    slide: int = 7
    opening: bool = True
    steps: int = 30
    shift: float = 5.0
    guidance: Mapping[str, float] = field(default_factory=lambda: {"text": 5.0, "speech": 3.0})
    at_lips: bool = False
    steady: float = 1.0
    temperature: float = 1.0
    held: bool = False

    def __post_init__(self) -> None:
        if self.length not in ("prefix", "slide"):
            raise ValueError(f"length is {self.length!r}: give prefix or slide")
        if not 1 <= self.prefix < self.latents - 1:
            raise ValueError(
                f"windows of {self.latents} latents with a prefix of {self.prefix} were asked for: give a prefix of 1 or more, "
                f"and windows that are longer by two at least"
            )
        if not self.slide >= 1:
            raise ValueError(f"windows that slide by {self.slide} latents were asked for: give 1 or more")
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"{self.steps} solver steps were asked for: give 1 to 1000")
        if not self.shift > 0:
            raise ValueError(f"a schedule's shift of {self.shift} was asked for: give more than 0; 1 is none")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"a temperature of {self.temperature} was asked for: give 0 (no chance) to 2; 1 is what was trained")
        if not 0 <= self.steady <= 1:
            raise ValueError(f"steady is {self.steady}: give 0 (windows as they come) to 1")
        if unknown := sorted(set(self.guidance) - set(GUIDED)):
            raise ValueError(f"guidance by {unknown[0]!r} was asked for: give some of {', '.join(GUIDED)}")

    def times(self, begin: float = 0.0) -> list[float]:
        """Flow times of the steps, evenly spaced in sigma before the shift, from ``begin`` on."""
        sigmas = (1 - i / self.steps for i in range(self.steps + 1))
        times = [1 - self.shift * sigma / (1 + (self.shift - 1) * sigma) for sigma in sigmas]
        return [begin, *(time for time in times if time > begin + 1e-6)]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a video is made of besides speech and noise; see `VideoTransformer.listen`. The network must take what is given.

    ``event``: shape of a latent. ``reference``: the picture that the video begins with. ``masks``: one for each speaker, on the
    grid of latents; None for the only one. ``lips``: where the only speaker's move, 0 to 1; None: not known. ``skeleton``: of
    every picture; past its end the last one stays. ``guide``: latents of another video that this one follows, from flow time
    ``begin`` on, in place of pure noise; past its end the last one stays.
    """

    event: tuple[int, ...]
    text: Float[Tensor, "1 n k"]
    no_text: Float[Tensor, "1 n k"] | None = None
    reference: VideoReference | None = None
    image: Float[Tensor, "1 m i"] | None = None
    masks: tuple[Float[Tensor, "h w"] | None, ...] = (None,)
    lips: Float[Tensor, "h w"] | None = None
    face: Float[Tensor, "1 c y x"] | None = None
    face_mask: Float[Tensor, "h w"] | None = None
    skeleton: Float[Tensor, "T j 3"] | None = None
    intensity: Float[Tensor, "1 2"] | None = None
    guide: Float[Tensor, "1 t c h w"] | None = None
    begin: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < 1:
            raise ValueError(f"a flow that begins at {self.begin} was asked for: give 0 (pure noise) to less than 1 (the guide)")
        assert self.begin == 0 or self.guide is not None, "there is nothing to begin with but noise"


@dataclass(frozen=True, kw_only=True)
class VideoState:
    """What the generation of one video remembers. Never changed.

    ``heard``: of each speaker, features from number ``first`` on. ``memories``: their utterances so far. ``count``: features so
    far. ``known``: the latest latents, ``done`` of them in all. ``level``: mean and deviation of the first window's channels.
    ``shown``, ``tail``: for bases that are told of pictures, the decoder after the latest latents, and the latest pictures.
    """

    scene: Scene
    heard: tuple[Float[Tensor, "s v"], ...]
    memories: tuple[Memory, ...]
    first: int
    count: int = 0
    known: Float[Tensor, "1 p c h w"]
    done: int = 0
    level: tuple[Tensor, Tensor] | None = None
    shown: DecoderState | None = None
    tail: tuple[Frame, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Window:
    """Latents ``first`` to ``last`` (not included) of the video, of which ``known`` are there already. ``head``: the number of
    the latent whose one last picture the window begins with, as a video begins with one; None where it begins with four."""

    first: int
    last: int
    known: int
    head: int | None

    @property
    def start(self) -> int:
        """Its first picture."""
        return PICTURES * self.first - PICTURES + 1 if self.head is None else PICTURES * self.head

    @property
    def pictures(self) -> int:
        return PICTURES * (self.last - 1) + 1 - self.start
