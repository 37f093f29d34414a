"""Speech encoders that others trained: wav2vec 2.0, HuBERT and Whisper checkpoints as a SpeechEncoder (extra ``pretrained``).

These networks hear whole recordings, so they run on overlapping windows at fixed places, always of one shape: a block of
features, context before it and a little after it. What a window gives for its context is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.media.track import Track
from vivavoce.speech import acoustic
from vivavoce.speech.acoustic import Acoustic
from vivavoce.speech.checkpoints import WindowNet, open_checkpoint
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, SpeechSpec, checked
from vivavoce.speech.level import LevelState, follow
from vivavoce.speech.prosody import Prosody

_HOP = SAMPLE_RATE_HZ // RATE_HZ

LEVEL_OVER_RMS_DB = 2.0
"""The speaker's level over a whole recording's mean square: median of 27 recordings in eight languages, deciles 1.3 and 4.1."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What the network hears at a time, in seconds: whole features, so multiples of 1 / RATE_HZ."""

    back_seconds: float
    """Before a block."""
    block_seconds: float
    """How much is kept: longer is faster and later."""
    ahead_seconds: float
    """Behind a block."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            frames = value * RATE_HZ
            if not frames >= 1 or abs(frames - round(frames)) > 1e-6:
                raise ValueError(f"{name} of {value} was asked for: give a multiple of {1 / RATE_HZ} seconds")

    @property
    def frames(self) -> tuple[int, int, int]:
        return round(self.back_seconds * RATE_HZ), round(self.block_seconds * RATE_HZ), round(self.ahead_seconds * RATE_HZ)


WINDOWS = Windows(back_seconds=2.0, block_seconds=0.4, ahead_seconds=0.2)
WHISPER_WINDOWS = Windows(back_seconds=8.0, block_seconds=1.0, ahead_seconds=0.2)
"""A window costs Whisper the same, however much of its 30 seconds is sound."""


@dataclass(frozen=True, kw_only=True)
class PretrainedState:
    """Everything the encoder remembers of one listener."""

    samples: Float[Tensor, " t"]
    """Samples from the next window's start on."""
    received: int
    """Samples heard so far."""
    given: int
    """Features given so far."""
    ended: bool
    level: LevelState


class PretrainedEncoder:
    """Hidden layers of a pretrained network, one stream per layer ("hubert.6"): a SpeechEncoder.

    Feature i is the network's output whose receptive field is centred on i / RATE_HZ seconds; silence is assumed before the first
    sample and behind the last. Where the checkpoint was trained on recordings of zero mean and unit variance, a window is brought
    to zero mean and by the speaker's level as known at the block's end (`level.follow`) to where unit variance puts it: the
    recording's variance is not known before it is over, and a window's own would blow up pauses. Each layer's vector is
    standardised over its width, since the layers' scales differ by orders of magnitude. Whisper numbers its inputs from the
    window's start, so its features hold a part that repeats with every block. Holds constants only and may be shared.
    """

    def __init__(self, net: WindowNet, windows: Windows, *, source: str):
        back, block, ahead = windows.frames
        self.net, self.windows, self.source = net, windows, source
        self._span = net.before + _HOP * (back + block + ahead - 1) + net.after
        if self._span > net.longest:
            raise ValueError(
                f"windows of {self._span / SAMPLE_RATE_HZ:g} seconds were asked for, but {source} hears at most "
                f"{net.longest / SAMPLE_RATE_HZ:g}: give a shorter back_seconds"
            )
        self.spec = SpeechSpec(
            sample_rate_hz=SAMPLE_RATE_HZ,
            rate_hz=RATE_HZ,
            streams=MappingProxyType({f"{net.family}.{layer}": net.width for layer in net.layers}),
            lookahead_seconds=(ahead * _HOP + net.after) / SAMPLE_RATE_HZ,
            block_seconds=block / RATE_HZ,
        )
        self._acoustic, self._prosody = Acoustic(), Prosody()
        self._centres = net.before + _HOP * (back + torch.arange(block))

    @classmethod
    def load(cls, source: str | Path, layers: Sequence[int], windows: Windows | None = None) -> PretrainedEncoder:
        """The encoder in a checkpoint's folder, or of a hub's name; for layers and ValueErrors see `open_checkpoint`."""
        net = open_checkpoint(source, layers)
        return cls(net, windows or (WHISPER_WINDOWS if net.family == "whisper" else WINDOWS), source=str(source))

    def start(self) -> PretrainedState:
        before = torch.zeros(self.net.before + _HOP * self.windows.frames[0])
        return PretrainedState(samples=before, received=0, given=0, ended=False, level=LevelState())

    @torch.no_grad()
    def step(self, samples: Float[Tensor, " t"], state: PretrainedState, *, last: bool = False) -> tuple[Track, PretrainedState]:
        """See SpeechEncoder.step. ValueError where the samples are not one channel of finite floating-point numbers."""
        assert not state.ended, "the sound has ended: start again"
        block = self.windows.frames[1]
        received = state.received + samples.shape[-1]
        heard = torch.cat([state.samples, checked(samples)])
        wanted = -(-received // _HOP) - state.given if last else 0
        if last:
            blocks = -(-wanted // block)
            heard = torch.nn.functional.pad(heard, (0, max(0, blocks * block * _HOP + self._span - heard.shape[0])))
        else:
            blocks = max(0, (heard.shape[0] - self._span) // (block * _HOP) + 1)
            wanted = blocks * block
        level, values = state.level, [torch.zeros(0, self.spec.width)]
        for begin in range(0, blocks * block * _HOP, block * _HOP):
            part, level = self._block(heard[begin : begin + self._span], level)
            values.append(part)
        track = Track(values=torch.cat(values)[None, :wanted], rate=float(RATE_HZ), start=state.given / RATE_HZ)
        rest = heard[blocks * block * _HOP :].clone()  # a view would keep a whole recording alive
        after = replace(state, samples=rest, received=received, given=state.given + wanted, ended=last, level=level)
        return track, after

    def _block(self, window: Float[Tensor, " span"], level: LevelState) -> tuple[Float[Tensor, "block d"], LevelState]:
        if self.net.normalised:
            window, level = self._normalised(window, level)
        back, block, _ = self.windows.frames
        hidden = self.net.hidden(window.contiguous())[:, back : back + block]
        standard = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:])
        return standard.transpose(0, 1).flatten(1), level

    def _normalised(self, window: Float[Tensor, " span"], level: LevelState) -> tuple[Float[Tensor, " span"], LevelState]:
        energy = acoustic.energy_dbfs(self._acoustic.bands(window, self._centres))
        voicing = self._prosody.pitch(window, self._centres, self._prosody.start()).voicing
        levels, level = follow(energy.tolist(), voicing.tolist(), level)
        gain = 10 ** ((LEVEL_OVER_RMS_DB - levels[-1]) / 20)
        return (window - window.mean()) * gain, level
