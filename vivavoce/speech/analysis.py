"""What of speech needs no trained network: log-mel energies and prosody, from samples as they arrive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.media.track import Track
from vivavoce.speech import acoustic, prosody
from vivavoce.speech.acoustic import Acoustic
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, SpeechSpec, checked
from vivavoce.speech.level import LevelState, follow
from vivavoce.speech.prosody import Prosody, ProsodyState

_HOP = SAMPLE_RATE_HZ // RATE_HZ
_REACH = max(Acoustic.reach, Prosody.reach)
BLOCK = 5  # features computed at a time in a stream; more is faster and later


@dataclass(frozen=True, kw_only=True)
class AnalysisState:
    """Everything the encoder remembers of one listener."""

    samples: Float[Tensor, " t"]
    """Samples from _REACH before the next feature's time on."""
    received: int
    """Samples heard so far."""
    given: int
    """Features given so far."""
    ended: bool
    level: LevelState
    prosody: ProsodyState


class Analysis:
    """Log-mel energies and prosody at the speaker's own loudness, concatenated: a SpeechEncoder.

    Feature i is centred on sample i * sample_rate_hz / rate_hz, so the track starts at 0 s. Work is done in blocks of a fixed
    number of features at fixed places, always with the same shapes: that makes every bit independent of how the sound was cut.
    The encoder holds constants only and may be shared.
    """

    def __init__(self, block: int = BLOCK) -> None:
        """``block``: features computed at a time. More is several times faster, for sound that is all there, and equal but for
        rounding and the choice of a doubtful pitch's octave."""
        self._block_frames = block
        self._span = (block - 1) * _HOP + 2 * _REACH  # samples that a block reads
        self._acoustic = Acoustic()
        self._prosody = Prosody()
        self._centres = _REACH + _HOP * torch.arange(block)
        self.spec = SpeechSpec(
            sample_rate_hz=SAMPLE_RATE_HZ, rate_hz=RATE_HZ,
            streams=MappingProxyType({"acoustic": acoustic.WIDTH, "prosodic": prosody.WIDTH}),
            lookahead_seconds=_REACH / SAMPLE_RATE_HZ, block_seconds=block / RATE_HZ,
        )

    def start(self) -> AnalysisState:
        before = torch.zeros(_REACH)  # silence is assumed before the first sample, as behind the last
        return AnalysisState(samples=before, received=0, given=0, ended=False, level=LevelState(), prosody=self._prosody.start())

    @torch.no_grad()
    def step(self, samples: Float[Tensor, " t"], state: AnalysisState, *, last: bool = False) -> tuple[Track, AnalysisState]:
        """See SpeechEncoder.step. ValueError where the samples are not one channel of finite floating-point numbers."""
        assert not state.ended, "the sound has ended: start again"
        received = state.received + samples.shape[-1]
        heard = torch.cat([state.samples, checked(samples)])
        wanted = -(-received // _HOP) - state.given if last else 0
        if last:
            blocks = -(-wanted // self._block_frames)
            heard = torch.nn.functional.pad(heard, (0, max(0, blocks * self._block_frames * _HOP + self._span - heard.shape[0])))
        else:
            blocks = max(0, (heard.shape[0] - self._span) // (self._block_frames * _HOP) + 1)
            wanted = blocks * self._block_frames
        level, prosodic = state.level, state.prosody
        values = [torch.zeros(0, self.spec.width)]
        for block in range(blocks):
            begin = block * self._block_frames * _HOP
            part, level, prosodic = self._block(heard[begin : begin + self._span], level, prosodic)
            values.append(part)
        track = Track(values=torch.cat(values)[None, :wanted], rate=float(RATE_HZ), start=state.given / RATE_HZ)
        rest = heard[blocks * self._block_frames * _HOP :].clone()  # a view would keep a whole recording alive
        after = replace(
            state, samples=rest, received=received, given=state.given + wanted, ended=last, level=level, prosody=prosodic
        )
        return track, after

    def _block(
        self, samples: Float[Tensor, " span"], level: LevelState, prosodic: ProsodyState
    ) -> tuple[Float[Tensor, "block d"], LevelState, ProsodyState]:
        bands = self._acoustic.bands(samples, self._centres)
        pitch = self._prosody.pitch(samples, self._centres, prosodic)
        energy = acoustic.energy_dbfs(bands)
        levels, level = follow(energy.tolist(), pitch.voicing.tolist(), level)
        level_dbfs = torch.tensor(levels)
        bands_db = acoustic.decibels(bands)
        spectral = self._acoustic.features(bands_db, level_dbfs)
        values, prosodic = self._prosody.features(pitch, energy, bands_db, level_dbfs, prosodic)
        return torch.cat([spectral, values], dim=-1), level, prosodic
