"""All streams of speech, acoustic, phonetic and prosodic, from samples as they arrive: the encoder that ships."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce.graph import traced
from vivavoce.media.track import Track
from vivavoce.speech import acoustic, prosody
from vivavoce.speech.analysis import BLOCK, Analysis, AnalysisState
from vivavoce.speech.encoder import RATE_HZ, SpeechSpec, features
from vivavoce.speech.phones import VISEMES
from vivavoce.speech.phonetic import PhoneticNetwork, PhoneticState

VISEME_STREAM = "visemes"
"""The stream of posteriors of `phones.VISEMES`: for whoever wants to know what is said."""


@dataclass(frozen=True, kw_only=True)
class StreamsState:
    """Everything the encoder remembers of one listener."""

    analysis: AnalysisState
    phonetic: PhoneticState
    pending: Float[Tensor, "n d"]
    """Analysed frames whose phonetic features still need sound to come."""


def said(features: Float[Tensor, "*b w"], streams: Mapping[str, int]) -> Float[Tensor, "*b v"]:
    """Posteriors of `phones.VISEMES` in the features of an encoder with these streams; 0 if it does not tell."""
    if VISEME_STREAM not in streams:
        return features.new_zeros(*features.shape[:-1], len(VISEMES))
    return dict(zip(streams, features.split(list(streams.values()), -1), strict=True))[VISEME_STREAM]


def spoken(features: Float[Tensor, "s w"], streams: Mapping[str, int]) -> Bool[Tensor, " s"]:
    """Where the features of an encoder with these streams are of speech; everywhere if it does not tell."""
    return said(features, streams)[:, VISEMES.index("sil")] < 0.5


def listened_streams(streams: Mapping[str, int]) -> tuple[str, ...]:
    """The streams that a motion network hears by default: all but the visemes, which repeat the phonetic one."""
    return tuple(name for name in streams if name != VISEME_STREAM)


class SpeechStreams:
    """The analysis and, from its acoustic stream, the phonetic network's bottleneck and viseme posteriors: a SpeechEncoder.

    The network works in blocks of a fixed number of frames at fixed places, so that, as in the analysis, every bit is independent
    of how the sound was cut. The encoder holds constants only and may be shared.
    """

    def __init__(self, network: PhoneticNetwork, block: int = BLOCK):
        """``block``: features computed at a time, see `Analysis`."""
        self.network, self.analysis, self._block = network.eval(), Analysis(block), block
        spec = self.analysis.spec
        self.spec = SpeechSpec(
            sample_rate_hz=spec.sample_rate_hz, rate_hz=spec.rate_hz,
            streams={
                "acoustic": acoustic.WIDTH, "phonetic": network.config.bottleneck, VISEME_STREAM: len(VISEMES),
                "prosodic": prosody.WIDTH,
            },
            lookahead_seconds=spec.lookahead_seconds + network.config.lookahead_seconds, block_seconds=spec.block_seconds,
        )
        start = self.network.start(torch.zeros(acoustic.WIDTH))
        self._hear = traced(self._heard, torch.zeros(block, acoustic.WIDTH), *start, networks=(network,))
        second = features(self.analysis, torch.zeros(spec.sample_rate_hz)).values[0]
        self._silence = second[len(second) // 2]

    @classmethod
    def load(cls, weights: Path | None = None, block: int = BLOCK) -> SpeechStreams:
        """The encoder with the phonetic network saved in a file, by default the one that ships."""
        shipped = Path(str(resources.files("vivavoce") / "weights" / "phonetic.safetensors"))
        return cls(PhoneticNetwork.load(weights or shipped), block)

    def start(self) -> StreamsState:
        silence = self._silence[: acoustic.WIDTH]
        pending = self._silence.new_zeros(0, len(self._silence))
        return StreamsState(analysis=self.analysis.start(), phonetic=self.network.start(silence), pending=pending)

    @torch.inference_mode()
    def step(self, samples: Float[Tensor, " t"], state: StreamsState, *, last: bool = False) -> tuple[Track, StreamsState]:
        """See SpeechEncoder.step. ValueError where the samples are not one channel of finite floating-point numbers."""
        track, analysis = self.analysis.step(samples, state.analysis, last=last)
        analysed = track.values[0]
        first = round(track.start * RATE_HZ) - len(state.pending)
        known = torch.cat([state.pending, analysed])
        ahead = self.network.config.ahead
        if last:  # silence follows
            spare = -(len(analysed) + ahead) % self._block
            analysed = torch.cat([analysed, self._silence.expand(ahead + spare, -1)])
        phonetic, parts = state.phonetic, [known.new_zeros(0, self.network.config.bottleneck + len(VISEMES))]
        for begin in range(0, len(analysed), self._block):
            part, *after_part = self._hear(analysed[begin : begin + self._block, : acoustic.WIDTH].contiguous(), *phonetic)
            parts.append(part)
            phonetic = tuple(after_part)
        heard = torch.cat(parts)
        heard = heard[max(0, ahead - round(track.start * RATE_HZ)) :]  # the first outputs belong to frames before the sound
        count = len(known) if last else len(heard)
        spectral, prosodic = known[:count].split([acoustic.WIDTH, prosody.WIDTH], dim=1)
        values = torch.cat([spectral, heard[:count], prosodic], dim=1)
        after = StreamsState(analysis=analysis, phonetic=phonetic, pending=known[count:].clone())
        return Track(values=values[None], rate=float(RATE_HZ), start=first / RATE_HZ), after

    def _heard(self, spectra: Float[Tensor, "n c"], *state: Tensor) -> tuple[Tensor, ...]:
        """A block of acoustic features to bottleneck and visemes, side by side, and the network's state after it."""
        part, after = self.network.step(spectra, state)
        return torch.cat([part, self.network.visemes(part)], dim=1), *after
