"""Windows of cached clips with all that is drawn for them: what a step of the video network's training sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce.latent.intensity import NEUTRAL, IntensityScale, Spread
from vivavoce.latent.regions import RegionWeights, lip_traced
from vivavoce.latent.space import LatentSpec
from vivavoce.latent.stills import known_pictures, known_then
from vivavoce.nets.hearing import cut, hear_all, hear_silence
from vivavoce.nets.video import Reference, VideoTransformer
from vivavoce.nets.video_condition import VideoCondition, Voice, still_channels
from vivavoce.nets.video_parts import PartsConfig
from vivavoce.train.objectives import Rungs
from vivavoce.train.video_data import PER_PICTURE, Common, VideoExample, mouths, regions_of

PARTS = ("text", "speech", "reference", "identity", "skeleton", "intensity")
_AROUND = 1 / 3  # of a close window's side: how far from its middle the lips may be
DROPOUT = {"text": 0.1, "speech": 0.1, "reference": 0.05, "identity": 0.1, "skeleton": 0.5, "intensity": 0.2}


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """``latents`` of a window, of which 1 to ``prefix`` are known; ``opening``: share of windows that begin a video, where the
    first latent is one picture; all others go on with one. ``prefix_noise``: on known latents, which are made ones at inference.
    ``person_power``: people are drawn in proportion to seconds to this power. ``dropout``: how often a part of the condition is
    absent. ``eta``: share of windows without the lip mask where there is one (FantasyTalking). ``shift``: as in Wan's schedule,
    sigma' = s sigma / (1 + (s - 1) sigma): more than 1 draws noisier flow times, where speech tells what the latents don't.
    ``elsewhere``: share of close windows that are anywhere; rotary positions are relative, and who sees lips alone draws lips
    everywhere."""

    latents: int = 13
    prefix: int = 3
    opening: float = 0.3
    prefix_noise: float = 0.05
    person_power: float = 0.5
    weights: RegionWeights = field(default_factory=RegionWeights)
    dropout: Mapping[str, float] = field(default_factory=DROPOUT.copy)
    eta: float = 0.2
    shift: float = 1.0
    elsewhere: float = 0.25

    def __post_init__(self) -> None:
        if not 1 <= self.prefix < self.latents:
            raise ValueError(f"{self.prefix} of {self.latents} latents are to be known: give 1 or more, and fewer than there are")
        if not self.shift > 0:
            raise ValueError(f"a shift of {self.shift} was asked for: give more than 0; 1 is none")
        for name, share in self.dropout.items():
            if name not in PARTS or not 0 <= share < 1:
                raise ValueError(f"dropout of {name!r} is {share}: give 0 to 1 for some of {', '.join(PARTS)}")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What windows are shown to the network with: arguments of `VideoTransformer.listen`, and which samples keep which part."""

    text: Float[Tensor, "b n k"]
    pictures: int
    no_text: Float[Tensor, "1 n k"] | None = None
    speech: Float[Tensor, "b s v"] | None = None
    image: Float[Tensor, "b m i"] | None = None
    still: Float[Tensor, "b t s h w"] | None = None
    face: Float[Tensor, "b c h w"] | None = None
    face_mask: Float[Tensor, "b t h w"] | None = None
    skeleton: Float[Tensor, "b T j 3"] | None = None
    intensity: Float[Tensor, "b 2"] | None = None
    keep: Mapping[str, Bool[Tensor, " b"]] = field(default_factory=dict)

    def heard(self, ears: VideoTransformer | Reference, *, aligned: bool = True) -> VideoCondition:
        """The condition for the network, or for its reference."""
        given = {name: vars(self)[name] for name in (
            "pictures", "no_text", "image", "still", "face", "face_mask", "skeleton", "intensity",
        )}
        voices = () if self.speech is None else (Voice(speech=self.speech),)
        condition = ears.listen(self.text, voices=voices, aligned=aligned, **given)
        for name, yes in self.keep.items():
            if name in condition.parts:
                condition = condition.kept(name, yes)
        return condition


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``counts``: latents that the loss counts, ``weight``: how much each of their cells does; ``mouth``: what lips did
    (`video_data.mouths`)."""

    data: Float[Tensor, "b t c h w"]
    noise: Float[Tensor, "b t c h w"]
    time: Float[Tensor, "b t"]
    counts: Bool[Tensor, "b t"]
    weight: Float[Tensor, "b t 1 h w"]
    mouth: Float[Tensor, "b t p 2"]
    shown: Shown


def moved(value: Any, device: torch.device) -> Any:
    """The tensors in a batch on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(moved(part, device) for part in value)
    if isinstance(value, Batch | Shown | Rungs):
        return replace(value, **{f.name: moved(vars(value)[f.name], device) for f in fields(value)})
    return value


def closer(batch: Batch, squares: Sequence[tuple[slice, slice]]) -> Batch:
    """Rows and columns of each sample of a batch."""

    def cut(values: Tensor) -> Tensor:
        return torch.stack([own[..., rows, columns] for own, (rows, columns) in zip(values, squares, strict=True)])

    shown = batch.shown
    return replace(
        batch, data=cut(batch.data), noise=cut(batch.noise), weight=cut(batch.weight), shown=replace(
            shown, still=None if shown.still is None else cut(shown.still),
            face_mask=None if shown.face_mask is None else cut(shown.face_mask),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Place:
    """A window of an example: latents ``start`` to ``stop``, the first ``known`` of which are. ``disguise``: of its sound, 0 for
    none, which is drawn twice as often as each."""

    number: int
    start: int
    stop: int
    known: int
    disguise: int = 0


class Windows:
    """Draws windows; every draw is a function of seed, step and the sample's place in the whole batch, so that it does not
    matter how many processes share a batch."""

    def __init__(
        self, examples: Sequence[VideoExample], common: Common, config: WindowConfig, spec: LatentSpec, *,
        parts: PartsConfig, stills: bool, scale: IntensityScale | None, seed: int,
    ):
        """``parts``: of the network; ``stills``: whether its base is told by channels what is known; ``scale``: of intensity,
        which only networks that have that part need.

        ValueError where no clip is long enough.
        """
        assert scale is not None or not parts.intensity
        self.examples, self.common, self.config, self.spec, self.seed = examples, common, config, spec, seed
        self.parts, self.stills, self.scale, self.levels = parts, stills, scale, parts.levels
        self._heard: dict[tuple[int, int], Tensor] = {}
        self._silence = None if parts.levels is None else hear_silence(common.silence, parts.levels)
        self._groups = {opens: self._people(config.latents + (not opens)) for opens in (True, False)}
        if not self._groups[True]:
            most = max(example.latents for example in examples)
            raise ValueError(f"windows of {config.latents} latents are asked for, and the longest clip has {most}: ask for fewer")

    def draw(self, step: int, places: range, *, lip_mask: bool, close: int | None = None) -> Batch:
        """The samples of one step that have these places in its batch. All windows of a step are of one kind. ``close``: so many
        latents, mostly around the lips, are all that is seen, which leaves time for more windows."""
        config = self.config
        opens = np.random.default_rng((self.seed, step)).random() < config.opening or not self._groups[False]
        found, noises, times, draws, keeps = [], [], [], [], []
        event = (config.latents, *self.spec.event)
        for place in places:
            rng = np.random.default_rng((self.seed, step, place))
            found.append(self._place(rng, opens))
            times.append(rng.random())
            draws.append(rng.random())
            keeps.append({name: rng.random() >= config.dropout.get(name, 0.0) for name in PARTS})
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            noises.append(torch.randn(2, *event, generator=generator))
        data = torch.stack([self.latents(place) for place in found])
        noise, disturbance = torch.stack(noises, 1)
        known = torch.arange(config.latents) < torch.tensor([[place.known] for place in found])
        drawn = torch.tensor(times, dtype=torch.float32)
        time = (drawn / (config.shift - (config.shift - 1) * drawn))[:, None].expand(-1, config.latents)
        if not self.stills:
            time = torch.where(known, 1.0, time)
        disturbed = torch.where(known[:, :, None, None, None], data + config.prefix_noise * disturbance, data)
        shown = self.shown(found, disturbed, known)
        talks = torch.tensor([self.examples[place.number].talks for place in found])
        keep = {name: torch.tensor([one[name] for one in keeps]) for name in PARTS}
        keep["speech"] = keep["speech"] & talks
        batch = Batch(
            data=data if self.stills else disturbed, noise=noise, time=time, counts=time < 1.0,
            weight=self.weight(found, torch.tensor(draws) if lip_mask else None), shown=replace(shown, keep=keep),
            mouth=torch.stack([mouths(self.examples[place.number], slice(place.start, place.stop)) for place in found]),
        )
        if close is None:
            return batch
        return closer(batch, [
            self._square(own, close, np.random.default_rng((self.seed, step, place, 1)))
            for own, place in zip(found, places, strict=True)
        ])

    def _square(self, place: Place, side: int, rng: np.random.Generator) -> tuple[slice, slice]:
        """Rows and columns of latents around a window's lips, moved a little; of some windows, and where lips were not tracked,
        anywhere. It begins at even ones, where patches do."""
        size = self.spec.event[1:]
        if side > min(size):
            raise ValueError(f"{side} latents around the lips were asked for, pictures have {size[0]} x {size[1]}: ask for fewer")
        lips = self.examples[place.number].window("lips_ever", slice(place.start, place.stop)).amax(0)
        elsewhere, found = rng.random() < self.config.elsewhere, []
        for cells, most in zip((lips.amax(1), lips.amax(0)), size, strict=True):
            there = cells[:0] if elsewhere else cells.nonzero()
            middle = there.float().mean().item() + 0.5 if len(there) else rng.uniform(0, most)
            first = round((middle + rng.uniform(-_AROUND, _AROUND) * side - side / 2) / 2)
            found.append(2 * int(np.clip(first, 0, (most - side) // 2)))
        return slice(found[0], found[0] + side), slice(found[1], found[1] + side)

    def spoken(self, step: int, places: range) -> tuple[Float[Tensor, "b s v"], Float[Tensor, "b T 2"]]:
        """What is heard in windows of people who talk, and opening and width of their lips in each picture (`video_data.mouths`).
        ValueError where nobody talks."""
        opens = not self._groups[False]
        group = self._groups[opens]
        assert group is not None
        if not any(self.examples[number].talks for clips in group[0].values() for number in clips):
            raise ValueError("nobody talks in these clips: give some of people who do")
        heard, mouth = [], []
        for place in places:
            rng = np.random.default_rng((self.seed, step, place, 2))
            found = self._place(rng, opens)
            while not self.examples[found.number].talks:
                found = self._place(rng, opens)
            count = self.spec.pictures(found.stop) - self.spec.pictures(found.start)
            heard.append(self.heard(found, count))
            mouth.append(mouths(self.examples[found.number], slice(found.start, found.stop)).flatten(0, 1)[-count:])
        return torch.stack(heard), torch.stack(mouth)

    def latents(self, place: Place) -> Float[Tensor, "t c h w"]:
        return self.examples[place.number].window("latents", slice(place.start, place.stop))

    def weight(self, places: Sequence[Place], draws: Float[Tensor, " b"] | None) -> Float[Tensor, "b t 1 h w"]:
        """Region weights, of lips only where the draw says so (`lip_traced`)."""
        weights, lips = [], []
        for place in places:
            mean, ever, _ = regions_of(self.examples[place.number], slice(place.start, place.stop))
            weights.append(self.config.weights(mean))
            lips.append(ever)
        weight = torch.stack(weights)
        if draws is not None:
            weight = weight * lip_traced(torch.stack(lips), draws, self.config.eta)
        return weight[:, :, None]

    def shown(
        self, places: Sequence[Place], latents: Float[Tensor, "b t c h w"], known: Bool[Tensor, "b t"]
    ) -> Shown:
        """What the network hears and sees at these places, nothing dropped. ``latents``: as they are known."""
        opens = places[0].start == 0
        assert all((place.start == 0) == opens for place in places), "windows that begin videos, and others"
        count = self.spec.pictures(places[0].stop) - self.spec.pictures(places[0].start)
        own: dict[str, Any] = {}
        if self.levels is not None:
            own["speech"] = torch.stack([self.heard(place, count) for place in places])
        if self.parts.identity:
            own |= self._faces(places)
        if self.parts.joints:
            spans = [slice(first, first + count) for first in (self.spec.pictures(place.start) for place in places)]
            skeletons = [self.examples[p.number].window("skeleton", span) for p, span in zip(places, spans, strict=True)]
            own["skeleton"] = torch.stack(skeletons)[:, :, : self.parts.joints]
        if self.parts.intensity:
            own["intensity"] = torch.stack([self._intensity(place) for place in places])
        if self.stills:
            openings = torch.stack([self.examples[place.number].whole("opening") for place in places])
            own["still"] = still_channels(
                known_then(latents, openings, known), known_pictures(known, self.spec, opens=opens)
            )
        if self.common.stamp["base"]["image"]:
            own["image"] = torch.stack([self.examples[place.number].whole("image") for place in places])
        text = self.common.text.expand(len(places), -1, -1)
        return Shown(text=text, no_text=self.common.no_text, pictures=count, **own)

    def heard(self, place: Place, pictures: int) -> Float[Tensor, "s v"]:
        """What the levels take for the window, silence where nobody talks."""
        assert self.levels is not None and self._silence is not None
        example, levels = self.examples[place.number], self.levels
        key = place.number, place.disguise
        if example.talks and key not in self._heard:
            self._heard[key] = hear_all(example.disguised(place.disguise), levels)
        at = example.first + PER_PICTURE * self.spec.pictures(place.start)
        span = range(at - levels.history, at + PER_PICTURE * (pictures - 1) + 1 + levels.lookahead)
        return cut(self._heard.get(key), span, self._silence)

    def _faces(self, places: Sequence[Place]) -> dict[str, Tensor]:
        """A still of each face, and where faces are. Which still is a matter of where the window is: the one furthest away, since
        one from inside the window would also tell the expression that is to be made."""
        faces, masks = [], []
        for place in places:
            example = self.examples[place.number]
            stills = example.whole("faces")
            middle = (place.start + place.stop) / 2 / example.latents
            away = [abs(middle - i / max(len(stills) - 1, 1)) for i in range(len(stills))]
            faces.append(stills[int(np.argmax(away))])
            masks.append(regions_of(example, slice(place.start, place.stop))[2])
        return {"face": torch.stack(faces), "face_mask": torch.stack(masks)}

    def _intensity(self, place: Place) -> Float[Tensor, " 2"]:
        """Where the window's motion stands among the recordings', neutral where it was not tracked."""
        assert self.scale is not None
        values = self.examples[place.number].window("spreads", slice(place.start, place.stop))
        mean = values[~values[:, 0].isnan()].mean(0)
        if not len(values) or bool(mean.isnan().any()):
            return torch.full((2,), NEUTRAL)
        there = self.scale(Spread(expression=float(mean[0]), body=float(mean[1])))
        return torch.tensor([there.expression, there.body])

    def _place(self, rng: np.random.Generator, opens: bool) -> Place:
        group = self._groups[opens]
        assert group is not None
        people, shares = list(group[0].values()), group[1]
        clips = people[int(rng.choice(len(people), p=shares))]
        lengths = np.array([self.examples[i].latents for i in clips], float)
        number = clips[int(rng.choice(len(clips), p=lengths / lengths.sum()))]
        room = self.examples[number].latents - self.config.latents
        start = int(rng.integers(1, room + 1)) if not opens else 0
        known = int(rng.integers(1, self.config.prefix + 1))
        disguise = int(rng.integers(-1, self.examples[number].disguises + 1)) if self.examples[number].disguises else 0
        return Place(number=number, start=start, stop=start + self.config.latents, known=known, disguise=max(disguise, 0))

    def _people(self, least: int) -> tuple[dict[str, list[int]], np.ndarray] | None:
        """Clips with so many latents by person, and how often each person is drawn; None where there are none."""
        people: dict[str, list[int]] = {}
        for i, example in enumerate(self.examples):
            if example.latents >= least:
                people.setdefault(example.person, []).append(i)
        if not people:
            return None
        seconds = [sum(self.examples[i].latents for i in group) for group in people.values()]
        shares = np.array(seconds, float) ** self.config.person_power
        return people, shares / shares.sum()
