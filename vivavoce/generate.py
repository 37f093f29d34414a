"""Speech features to motion: windows of flow matching with a clean prefix, one after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vivavoce.flow.guide import guided, pinned, with_prefix
from vivavoce.flow.solve import euler, integrate
from vivavoce.graph import Graph, traced
from vivavoce.latent.closure import LEAD, TRAIL, LipClosure, demanded
from vivavoce.latent.motion import MOTION_RATE_HZ, POSE, Layout
from vivavoce.nets.condition import Condition
from vivavoce.nets.expectation import LipExpectation
from vivavoce.nets.hearing import Memory, cut, hear, hear_all, hear_silence
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.motion import MotionTransformer
from vivavoce.nets.vivacity import Vivacity
from vivavoce.speech.phones import VISEMES
from vivavoce.speech.streams import said, spoken

SWAY_MOST = 0.15  # face heights that swaying adds at most: shoulders stay, and necks are seen to stretch
LIVE_HOP, LIVE_PREFIX, LIVE_STEPS = 2, 12, 2  # windows of `MotionGenerator.live`


@dataclass(frozen=True)
class GeneratorState:
    """What the generation for one listener remembers.

    ``heard``: from ``history`` features before the prefix's first frame on. ``memory``: the utterance so far. ``prefix``: the
    latest motion, normalised, for each seed, as the network made it. ``said``: posteriors of visemes from `TRAIL` features before
    the next motion frame's own on. ``last``: the latest motion as it came out, one frame or none. ``voice``: the speaker's in
    this utterance; ``lively``: logarithms of its factors on the motion fields, from the feature before the next motion frame's
    own on; ``calm``: the same before the utterance. ``done``: motion frames so far.
    """

    heard: Float[Tensor, "1 s v"]
    memory: Memory
    prefix: Float[Tensor, "b p d"]
    said: Float[Tensor, "s v"]
    last: Float[Tensor, "b n d"]
    voice: Memory
    lively: Float[Tensor, "s f"]
    calm: Float[Tensor, " f"]
    done: int = 0


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Window k makes frames [k * hop, (k + 1) * hop) and sees up to ``prefix`` frames before them, clean (flow time 1).

    ``steps``: Euler steps; each is one network evaluation, two when guided. ``guidance``: scale of the speech condition.
    ``temperature``: standard deviation of the noise by motion field, and ``amplitude``: factor on the motion that comes out,
    which gives back the spread that sampling in few steps loses; 1 for fields that are not named. ``inertia``: share of its last
    place that a field keeps from frame to frame, 0 if it is not named: a head is heavy, and sampling in few steps trembles.
    ``sway``: factor on the slow part of the head's place, its mean that forgets within ``sway_seconds``: people sway, and windows
    of a second or two don't see it.
    """

    hop: int = 10
    prefix: int = 30
    steps: int = 4
    guidance: float = 2.0
    temperature: Mapping[str, float] = field(default_factory=dict)
    amplitude: Mapping[str, float] = field(default_factory=dict)
    inertia: Mapping[str, float] = field(default_factory=dict)
    sway: float = 1.0
    sway_seconds: float = 2.0


class MotionGenerator:
    """A trained velocity network with its statistics and windows. Holds constants only; may be shared by any number of listeners.

    The noise of frame i is a function of (seed, i) and windows sit at absolute places, so the motion does not depend on how
    the speech was cut.
    """

    def __init__(
        self, net: MotionTransformer, layout: Layout, windows: WindowConfig, *,
        mean: Float[Tensor, " d"], std: Float[Tensor, " d"], style: Float[Tensor, " k"], silence: Float[Tensor, " w"],
        closure: LipClosure | None = None, vivacity: Vivacity | None = None, lips: LipExpectation | None = None,
        metadata: Mapping[str, str] | None = None, fixed: bool = False,
    ):
        """``mean``, ``std``: of packed motion; ``style``: the default one, normalised; ``silence``: the features of silence.

        ``closure``: shuts the lips on p, b, m and in silence, where the encoder tells of them (`speech.streams`). ``vivacity``:
        makes lively voices move more; without it all move alike. ``lips``: leads them to what speech alone makes one expect of
        them. ``metadata``: what was saved with the weights; "encoder" says
        which encoder's features they want (`speech.encoders`). ``fixed``: windows of one listener with a whole prefix, steps and
        guidance as recommended, are a graph (`graph.traced`): they take half the time.
        """
        if lips is not None:  # they hear what the network does, no further
            levels = net.config.levels
            assert lips.config.fits(levels.history, levels.lookahead), (lips.config, levels)
        self.net, self.layout, self.windows, self.metadata = net.eval(), layout, windows, metadata or {}
        self.closure, self.vivacity = closure, vivacity
        self.lips = lips.eval().requires_grad_(False) if lips else None  # what is learned from its motion does not change it
        self.mean, self.std, self.style, self.silence = mean, std, style, silence
        unchanged = dict.fromkeys(layout.widths, 1.0)
        self.noise_scale = layout.spread({**unchanged, **windows.temperature})
        self.scale = std * layout.spread({**unchanged, **windows.amplitude})
        self.inertia = layout.spread({**dict.fromkeys(layout.widths, 0.0), **windows.inertia})
        self.swaying = layout.spread({name: float(name == "translation") for name in layout.widths})
        self._whole = self._traced() if fixed else None
        self._expects = None if self.lips is None else self._expecting(self.lips, fixed)

    def live(self) -> MotionGenerator:
        """The same network for sound that is still being spoken: in short windows it waits for less of it, and with a short
        prefix and few steps they cost less. Measured in docs/log.md: lips follow as well, heads move a little more."""
        windows = replace(self.windows, hop=LIVE_HOP, prefix=LIVE_PREFIX, steps=LIVE_STEPS)
        return MotionGenerator(
            self.net, self.layout, windows, mean=self.mean, std=self.std, style=self.style, silence=self.silence,
            closure=self.closure, vivacity=self.vivacity, lips=self.lips, metadata=self.metadata, fixed=True,
        )

    def start(self, seeds: int = 1) -> GeneratorState:
        """Before the first feature there was silence."""
        nothing = self.mean.new_zeros(seeds, 0, self.layout.width)
        rest, head = (0.0, 0.0) if self.vivacity is None else (self.vivacity.unknown, self.vivacity.unknown_head)
        lively = self.mean.new_tensor([head if name in POSE else rest for name in self.layout.widths])
        return self._after_silence(nothing, nothing, lively, 0)

    def resume(self, motion: Float[Tensor, "1 t d"], frame: int, before: GeneratorState) -> GeneratorState:
        """State for new speech from motion frame ``frame`` on, after (denormalised, packed) ``motion`` and silence; ``before``:
        the state that the motion came with."""
        lively = before.lively[0]
        known = ((motion - self.mean) / (self.scale * self._factors(lively)))[:, max(0, motion.shape[1] - self.windows.prefix) :]
        return self._after_silence(known, motion[:, max(0, motion.shape[1] - 1) :], lively, frame)

    def _after_silence(
        self, known: Float[Tensor, "b p d"], last: Float[Tensor, "b n d"], lively: Float[Tensor, " f"], frame: int
    ) -> GeneratorState:
        levels = self.net.config.levels
        silence = hear_silence(self.silence, levels).expand(1, levels.history + levels.stride * known.shape[1], -1)
        nobody = Memory.empty(0) if self.vivacity is None else self.vivacity.start()
        return GeneratorState(
            heard=silence.clone(), memory=Memory.start(levels), prefix=known, said=known.new_zeros(TRAIL, len(VISEMES)),
            last=last, voice=nobody, lively=lively[None].clone(), calm=lively.clone(), done=frame,
        )

    def around_rest(
        self, packed: Float[Tensor, "*b t d"], slow: Float[Tensor, "*b t d"] | None = None
    ) -> Float[Tensor, "*b t d"]:
        """Packed motion for a portrait whose cheeks, brows, lids and gaze are taken as they are (their averages come off), and
        that sways. ``slow``: `slow` of these frames; by default they are taken for the first ones of a session."""
        still = self.layout.spread({name: float(name in ("cheeks_brows", "eyelids", "gaze")) for name in self.layout.widths})
        rested = packed - still * self.mean
        if self.windows.sway == 1:
            return rested
        further = (self.windows.sway - 1) * self.swaying * (self.slow(packed) if slow is None else slow)
        return rested + SWAY_MOST * torch.tanh(further / SWAY_MOST)

    def slow(self, packed: Float[Tensor, "*b t d"], before: Float[Tensor, "*b d"] | None = None) -> Float[Tensor, "*b t d"]:
        """The slow part of packed motion at each frame; ``before``: at the frame before. In the portrait's own place at first."""
        share = 1 / (self.windows.sway_seconds * MOTION_RATE_HZ)
        value, values = packed.new_zeros(*packed.shape[:-2], packed.shape[-1]) if before is None else before, [packed[..., :0, :]]
        for frame in packed.unbind(-2):
            value = torch.lerp(value, frame, share)
            values.append(value[..., None, :])
        return torch.cat(values, -2)

    def step(
        self, features: Float[Tensor, "1 s w"], state: GeneratorState, *, seed: int, last: bool = False,
        steps: int | None = None, guidance: float | None = None,
    ) -> tuple[Float[Tensor, "1 t d"], GeneratorState]:
        """Packed motion that the features so far determine, and the new state.

        With ``last`` silence follows, until there is a motion frame for every ``stride`` features.
        """
        return self._step(features, state, (seed,), last, steps, guidance)

    def samples(
        self, features: Float[Tensor, "1 s w"], seeds: Sequence[int], *, steps: int | None = None, guidance: float | None = None
    ) -> Float[Tensor, "n t d"]:
        """What `step` makes of a whole recording with each of the seeds, side by side: cheaper, and equal up to rounding."""
        return self._step(features, self.start(len(seeds)), seeds, True, steps, guidance)[0]

    def shown(self, takes: Float[Tensor, "k t d"], features: Float[Tensor, "s w"], first: int) -> Float[Tensor, "k t d"]:
        """Packed motion as it comes out, of normalised takes as the network makes them: with the amplitudes, lips as the
        utterance makes one expect and closed where it demands it, and inertia; vivacity is left out, and sway (`around_rest`).

        ``features``: of the whole utterance; ``first``: the feature of the takes' first frame.
        """
        levels = self.net.config.levels
        begin, end = first - TRAIL, first + levels.stride * takes.shape[1] + levels.lookahead
        heard = said(features, levels.streams)[max(begin, 0) : max(end, 0)]
        around = (max(-begin, 0), max(end - max(len(features), begin), 0))
        visemes = torch.cat([heard.new_zeros(around[0], heard.shape[1]), heard, heard.new_zeros(around[1], heard.shape[1])])
        moved = takes * self.scale + self.mean
        if self.lips is not None:
            span = range(first - levels.history, first + levels.stride * (takes.shape[1] - 1) + 1 + levels.lookahead)
            heard = cut(hear_all(features, levels), span, hear_silence(self.silence, levels))
            moved = self.lips.lead(moved, self.lips(heard[None], takes.shape[1]), takes.new_ones(1, 1))
        return self._settled(self._closed(moved, visemes), takes[:, :0])

    @torch.inference_mode()
    def _step(
        self, features: Tensor, state: GeneratorState, seeds: Sequence[int], last: bool, steps: int | None, guidance: float | None
    ) -> tuple[Tensor, GeneratorState]:
        levels, hop = self.net.config.levels, self.windows.hop
        new, memory = hear(features[0], state.memory, levels)
        heard = torch.cat([state.heard, new[None]], 1)
        visemes = torch.cat([state.said, said(features[0], levels.streams)])
        expected, voice = self._liveliness(features[0], state)
        lively = torch.cat([state.lively, expected])
        total = -(-(heard.shape[1] - levels.history) // levels.stride) - state.prefix.shape[1]  # frames begun by what was heard
        if last:
            quiet, memory = hear(self.silence.expand((hop + 1) * levels.stride + levels.lookahead, -1), memory, levels)
            heard = torch.cat([heard, quiet[None]], 1)
            visemes = torch.cat([visemes, said(self.silence, levels.streams).expand(len(quiet), -1)])
            lively = torch.cat([lively, lively[-1:].expand(len(quiet), -1)])
        prefix, done = state.prefix, state.done
        made, shown = [prefix[:, :0]], state.last
        while made_frames(made) < total:
            span = self._span(prefix.shape[1])
            if heard.shape[1] < span:
                break
            window = self._window(heard[:, :span], prefix, done, seeds, steps or self.windows.steps, guidance)
            factors = lively[1 : 1 + hop * levels.stride : levels.stride]
            moved = self._led(window * (self.scale * self._factors(factors)) + self.mean, heard[:, :span], factors)
            made.append(self._settled(self._closed(moved, visemes), shown))
            shown = made[-1][:, -1:]
            known = torch.cat([prefix, window], 1)
            dropped = max(0, known.shape[1] - self.windows.prefix)
            heard, visemes = heard[:, dropped * levels.stride :], visemes[hop * levels.stride :]
            lively = lively[hop * levels.stride :]
            prefix, done = known[:, dropped:], done + hop
        motion = torch.cat(made, 1)
        if last:
            motion = motion[:, : max(total, 0)]
        return motion, GeneratorState(
            heard=heard.clone(), memory=memory, prefix=prefix, said=visemes.clone(), last=shown, voice=voice,
            lively=lively.clone(), calm=state.calm, done=done,
        )

    def _span(self, prefix: int) -> int:
        """What a window after so many known frames has to hear."""
        levels = self.net.config.levels
        return levels.history + levels.stride * (prefix + self.windows.hop - 1) + 1 + levels.lookahead

    def _liveliness(self, features: Float[Tensor, "s w"], state: GeneratorState) -> tuple[Float[Tensor, "s f"], Memory]:
        """What the voice makes one expect at new features, and the voice so far."""
        if self.vivacity is None:
            return state.calm.expand(len(features), -1), state.voice
        return self.vivacity(features, spoken(features, self.net.config.levels.streams), state.voice, state.calm)

    def _factors(self, lively: Float[Tensor, "*t f"]) -> Float[Tensor, "*t d"]:
        """Factors on packed motion from their logarithms by field."""
        return torch.exp(lively).repeat_interleave(torch.tensor(list(self.layout.widths.values())), -1)

    def _led(
        self, motion: Float[Tensor, "b t d"], heard: Float[Tensor, "1 s v"], lively: Float[Tensor, "t f"]
    ) -> Float[Tensor, "b t d"]:
        """New frames, their lips led to what is expected; ``heard``: up to all that the last frame depends on."""
        if self.lips is None or self._expects is None:
            return motion
        field = list(self.layout.widths).index("lips_jaw")
        near = heard[:, heard.shape[1] - self.lips.config.features(motion.shape[1]) :]
        return self.lips.lead(motion, self._expects(near), torch.exp(lively[:, field : field + 1]))

    def _closed(self, motion: Float[Tensor, "b t d"], visemes: Float[Tensor, "s v"]) -> Float[Tensor, "b t d"]:
        """New frames, their lips shut where the visemes demand it; ``visemes``: from `TRAIL` features before the first on."""
        if self.closure is None:
            return motion
        levels = self.net.config.levels
        later = min(LEAD, levels.lookahead)
        near = visemes[: TRAIL + levels.stride * (motion.shape[1] - 1) + 1 + later]
        bilabial, silence = (near[:, VISEMES.index(name)] for name in ("PBM", "sil"))
        return self.closure(motion, demanded(bilabial, silence, levels.stride, later))

    def _settled(self, motion: Float[Tensor, "b t d"], last: Float[Tensor, "b n d"]) -> Float[Tensor, "b t d"]:
        """New frames with the inertia of their fields, after ``last``."""
        frames = [motion[:, 0] if last.shape[1] == 0 else torch.lerp(motion[:, 0], last[:, 0], self.inertia)]
        for i in range(1, motion.shape[1]):
            frames.append(torch.lerp(motion[:, i], frames[-1], self.inertia))
        return torch.stack(frames, 1)

    def _window(
        self, heard: Tensor, prefix: Tensor, done: int, seeds: Sequence[int], steps: int, guidance: float | None
    ) -> Float[Tensor, "b t d"]:
        recommended = self.windows
        fresh = torch.stack([frame_noise(seed, range(done, done + recommended.hop), self.layout.width) for seed in seeds])
        scale = recommended.guidance if guidance is None else guidance
        whole = prefix.shape[:2] == (1, recommended.prefix) and (steps, scale) == (recommended.steps, recommended.guidance)
        if whole and self._whole is not None:
            return self._whole(heard, prefix, fresh)
        return self._solved(heard, prefix, fresh, steps, scale)

    def _solved(
        self, heard: Float[Tensor, "1 s v"], prefix: Float[Tensor, "b p d"], fresh: Float[Tensor, "b t d"], steps: int,
        scale: float,
    ) -> Float[Tensor, "b t d"]:
        """The frames that follow the prefix, from noise of unit variance."""
        count, known = len(fresh), prefix.shape[1]
        yes = torch.ones(1, dtype=torch.bool)
        condition = self.net.listen(heard, self.style[None], known + fresh.shape[1], has_speech=yes, has_style=yes)
        start = with_prefix(torch.cat([prefix, fresh * self.noise_scale], 1), prefix)
        velocity = pinned(guided(self.net, {"speech": scale}), prefix)
        times = [i / steps for i in range(steps + 1)]
        return integrate(velocity, start, Condition.stack([condition] * count), times=times, step=euler)[:, known:]

    def _traced(self) -> Graph:
        levels, windows, width = self.net.config.levels, self.windows, self.layout.width

        def solved(heard: Tensor, prefix: Tensor, fresh: Tensor) -> Tensor:
            return self._solved(heard, prefix, fresh, windows.steps, windows.guidance)

        heard = hear_silence(self.silence, levels).expand(1, self._span(windows.prefix), -1)
        prefix, fresh = heard.new_zeros(1, windows.prefix, width), heard.new_zeros(1, windows.hop, width)
        return traced(solved, heard, prefix, fresh, networks=(self.net,))

    def _expecting(self, lips: LipExpectation, fixed: bool) -> Graph:
        """What lips are expected in a window's new frames, of all that these depend on."""
        hop = self.windows.hop

        def expects(heard: Tensor) -> Tensor:
            return lips(heard, hop)

        near = hear_silence(self.silence, self.net.config.levels).expand(1, lips.config.features(hop), -1)
        return traced(expects, near, networks=(lips,)) if fixed else expects

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Weights, statistics and configuration in one safetensors file."""
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {"mean": self.mean, "std": self.std, "style": self.style, "silence": self.silence}
        if self.closure is not None:
            tensors["closure.across"] = self.closure.across
        if self.vivacity is not None:
            tensors |= {"vivacity.weight": self.vivacity.weight, "vivacity.mean": self.vivacity.mean}
        if self.lips is not None:
            tensors |= {f"lips.{k}": v for k, v in self.lips.state_dict().items()}
        config = {"net": asdict(self.net.config), "layout": dict(self.layout.widths), "windows": asdict(self.windows)}
        if self.lips is not None:
            config["lips"] = asdict(self.lips.config)
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, {**metadata, "config": json.dumps(config)})

    @classmethod
    def load(cls, path: Path) -> MotionGenerator:
        """What `save` saved. ValueError where the file is damaged, or of something else."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}
                metadata = file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{path} holds no weights, or it is damaged ({error}): give another file") from error
        try:
            config = json.loads(metadata.pop("config"))
            net = MotionTransformer(net_config(config["net"]))
            windows = WindowConfig(**config["windows"])
            lips = LipExpectation(LipExpectation.Config.of(config["lips"])) if "lips" in config else None
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is of another version of vivavoce ({error}): train the network again") from error
        net.load_state_dict(_part(tensors, "net."))
        if lips is not None:
            lips.load_state_dict(_part(tensors, "lips."))
        return cls(
            net, Layout(config["layout"]), windows,
            mean=tensors["mean"], std=tensors["std"], style=tensors["style"], silence=tensors["silence"],
            closure=LipClosure(tensors["closure.across"]) if "closure.across" in tensors else None,
            vivacity=Vivacity(tensors["vivacity.weight"], tensors["vivacity.mean"]) if "vivacity.mean" in tensors else None,
            lips=lips, metadata=metadata,
        )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def net_config(values: Mapping[str, Any]) -> MotionTransformer.Config:
    """The configuration from its JSON; TypeError where keys are unknown."""
    return MotionTransformer.Config(**{**values, "levels": LevelsConfig.of(values["levels"])})


def made_frames(parts: list[Tensor]) -> int:
    """Frames of the parts together."""
    return sum(p.shape[1] for p in parts)


def frame_noise(seed: int, frames: range, width: int) -> Float[Tensor, "t d"]:
    """Standard normal noise; row i is a function of (seed, frames[i]) alone."""
    rows = []
    for frame in frames:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + frame) % (2**63))
        rows.append(torch.randn(width, generator=generator))
    return torch.stack(rows)
