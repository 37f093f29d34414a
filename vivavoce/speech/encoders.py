"""Which encoder the speech is heard with: opened by name, and written down so that motion weights find theirs again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.media.track import Track
from vivavoce.speech.analysis import Analysis
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, SpeechEncoder, SpeechSpec
from vivavoce.speech.pretrained import PretrainedEncoder, Windows
from vivavoce.speech.streams import SpeechStreams

STREAMS, ANALYSIS = "streams", "analysis"
"""Names of the encoder that ships, and of the part of it that needs no network."""


@dataclass(frozen=True, kw_only=True)
class JoinedState:
    states: tuple[Any, ...]
    """One of each encoder."""
    waiting: tuple[Float[Tensor, "1 t d"], ...]
    """Features of each encoder that another has not come to yet."""
    given: int


class Joined:
    """Several encoders side by side, their streams concatenated: a SpeechEncoder, as late as the latest of them."""

    def __init__(self, encoders: tuple[SpeechEncoder[Any], ...]):
        """ValueError where two encoders have a stream of the same name."""
        self.encoders = encoders
        specs = [encoder.spec for encoder in encoders]
        names = [name for spec in specs for name in spec.streams]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two of the encoders give the stream {twice[0]}: name each encoder once")
        lookahead = max(spec.lookahead_seconds for spec in specs)
        self.spec = SpeechSpec(
            sample_rate_hz=SAMPLE_RATE_HZ,
            rate_hz=RATE_HZ,
            streams=MappingProxyType({name: width for spec in specs for name, width in spec.streams.items()}),
            lookahead_seconds=lookahead,
            block_seconds=max(spec.lookahead_seconds + spec.block_seconds for spec in specs) - lookahead,
        )

    def start(self) -> JoinedState:
        nothing = tuple(torch.zeros(1, 0, encoder.spec.width) for encoder in self.encoders)
        return JoinedState(states=tuple(encoder.start() for encoder in self.encoders), waiting=nothing, given=0)

    def step(self, samples: Float[Tensor, " t"], state: JoinedState, *, last: bool = False) -> tuple[Track, JoinedState]:
        """See SpeechEncoder.step."""
        stepped = [
            encoder.step(samples, part, last=last) for encoder, part in zip(self.encoders, state.states, strict=True)
        ]
        waiting = [torch.cat([old, new.values], 1) for old, (new, _) in zip(state.waiting, stepped, strict=True)]
        ready = min(values.shape[1] for values in waiting)
        assert not last or all(values.shape[1] == ready for values in waiting), "encoders disagree on how long the sound was"
        track = Track(
            values=torch.cat([values[:, :ready] for values in waiting], -1), rate=float(RATE_HZ), start=state.given / RATE_HZ
        )
        rest = tuple(values[:, ready:].clone() for values in waiting)
        return track, JoinedState(states=tuple(part for _, part in stepped), waiting=rest, given=state.given + ready)


def open_encoder(*names: str) -> SpeechEncoder[Any]:
    """The encoder of a name; of several names, all of them side by side.

    A name is "streams" (the one that ships), "analysis" (log-mel energies and prosody alone) or FOLDER_OR_HUB_NAME:LAYERS for a
    pretrained network, such as "facebook/hubert-base-ls960:6,9" or "/models/whisper-tiny:2,4". ValueError where it can't be
    opened.
    """
    if not names:
        raise ValueError(f"no encoder was named: give {STREAMS!r} or FOLDER_OR_HUB_NAME:LAYERS")
    encoders = tuple(_open(name) for name in names)
    return encoders[0] if len(encoders) == 1 else Joined(encoders)


def prompt(encoder: SpeechEncoder[Any], block: int) -> SpeechEncoder[Any]:
    """The same encoder in blocks of so many features, where that is a choice of ours, so that its features wait for less; they
    are equal but for rounding. Pretrained networks keep their windows, which they cost too much to shorten."""
    if isinstance(encoder, SpeechStreams):
        return SpeechStreams(encoder.network, block)
    if isinstance(encoder, Analysis):
        return Analysis(block)
    return Joined(tuple(prompt(part, block) for part in encoder.encoders)) if isinstance(encoder, Joined) else encoder


def identity(encoder: SpeechEncoder[Any]) -> str:
    """JSON that says which encoder this is and what it gives, for the metadata of weights trained on its features.

    An encoder of somebody's own is noted by its class; `reopen` can't open that one.
    """
    return json.dumps([_describe(part) for part in _parts(encoder)])


def hearing(encoder: SpeechEncoder[Any]) -> str:
    """`identity` without where a pretrained network lies: equal for encoders that give the same features."""
    parts = [_describe(part) for part in _parts(encoder)]
    return json.dumps([{k: v for k, v in part.items() if k != "source" or "layers" not in part} for part in parts])


def reopen(
    identity_json: str, *, phonetic: Path | None = None, checkpoint: Path | None = None
) -> SpeechEncoder[Any]:
    """The encoder that `identity` wrote down.

    phonetic: the phonetic network's weights, if not those that ship; checkpoint: where the pretrained network lies now, if not
    where it did. ValueError where it can't be opened, or its features are not those of then: other weights, or other streams.
    """
    parts = json.loads(identity_json)
    moved = [part for part in parts if part["source"] not in (STREAMS, ANALYSIS)]
    if checkpoint is not None and len(moved) != 1:
        raise ValueError(f"{checkpoint} was given as a speech encoder's checkpoint, but the weights want {len(moved)} of them")
    encoders = tuple(_reopen(part, phonetic, checkpoint) for part in parts)
    return encoders[0] if len(encoders) == 1 else Joined(encoders)


def _open(name: str) -> SpeechEncoder[Any]:
    if name == STREAMS:
        return SpeechStreams.load()
    if name == ANALYSIS:
        return Analysis()
    source, _, numbers = name.rpartition(":")
    layers = numbers.split(",")
    if not source or not all(layer.isdecimal() for layer in layers):
        raise ValueError(
            f"there is no speech encoder {name!r}: give {STREAMS!r}, or a checkpoint's folder or hub name with its layers, such "
            f"as facebook/hubert-base-ls960:6,9"
        )
    return PretrainedEncoder.load(source, [int(layer) for layer in layers])


def _parts(encoder: SpeechEncoder[Any]) -> tuple[SpeechEncoder[Any], ...]:
    return encoder.encoders if isinstance(encoder, Joined) else (encoder,)


def _describe(encoder: SpeechEncoder[Any]) -> dict[str, Any]:
    gives = {"streams": dict(encoder.spec.streams)}
    if isinstance(encoder, PretrainedEncoder):
        net = encoder.net
        weights = {"layers": net.layers, "fingerprint": net.fingerprint, "windows": asdict(encoder.windows)}
        return {"source": encoder.source, **weights, **gives}
    if isinstance(encoder, SpeechStreams):
        return {"source": STREAMS, "fingerprint": encoder.network.fingerprint(), **gives}
    return {"source": ANALYSIS if isinstance(encoder, Analysis) else type(encoder).__name__, **gives}


def _reopen(part: Mapping[str, Any], phonetic: Path | None, checkpoint: Path | None) -> SpeechEncoder[Any]:
    encoder: SpeechEncoder[Any]
    where: str | Path
    if part["source"] == ANALYSIS:
        encoder, where, fingerprint = Analysis(), ANALYSIS, None
    elif part["source"] == STREAMS:
        encoder = streams = SpeechStreams.load(phonetic)
        where, fingerprint = phonetic or "the one that ships", streams.network.fingerprint()
    elif "layers" not in part:
        raise ValueError(
            f"the motion weights were trained with somebody's own encoder, {part['source']}, which can't be opened by name: "
            f"make an Animator of its three parts"
        )
    else:
        where = checkpoint or part["source"]
        encoder = pretrained = PretrainedEncoder.load(where, part["layers"], Windows(**part["windows"]))
        fingerprint = pretrained.net.fingerprint
    if fingerprint != part.get("fingerprint"):
        raise ValueError(
            f"the speech encoder, {where}, has other weights than the one that the motion weights were trained with "
            f"({part['source']}): give that one"
        )
    given, wanted = list(encoder.spec.streams.items()), list(part["streams"].items())  # their order counts
    if given != wanted:
        raise ValueError(
            f"the motion weights were trained on the streams {dict(wanted)}, but the encoder gives {dict(given)}: use the "
            f"version of vivavoce that they were trained with, or train again"
        )
    return encoder
