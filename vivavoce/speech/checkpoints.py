"""Speech networks from files in the format of transformers: wav2vec 2.0, HuBERT and Whisper, as functions of a window of sound.

transformers is imported only when a checkpoint is opened: it takes seconds and is an extra (``pretrained``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.components import UNREADABLE, Opener, checkpoint_folder, load_weights, module, read_config, said, weight_files
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ

FAMILIES = ("wav2vec2", "hubert", "whisper")
_HOP = SAMPLE_RATE_HZ // RATE_HZ
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_OPENER = Opener(
    needs="pretrained speech encoders need", extra="pretrained", given="a checkpoint", libraries=("transformers",)
)


class WindowNet(Protocol):
    """Hidden layers of a network at RATE_HZ for a window of samples.

    The first feature's time is the window's sample ``before``, the next features follow every 1 / RATE_HZ seconds, and the window
    ends ``after`` samples behind the last one's time.
    """

    @property
    def family(self) -> str: ...
    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def width(self) -> int:
        """Of each layer."""
        ...

    @property
    def before(self) -> int: ...
    @property
    def after(self) -> int: ...
    @property
    def longest(self) -> float:
        """Samples of the longest window that it takes."""
        ...

    @property
    def normalised(self) -> bool:
        """Whether it was trained on recordings brought to zero mean and unit variance."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the weights."""
        ...

    def hidden(self, window: Float[Tensor, " t"]) -> Float[Tensor, "layers f d"]: ...


@dataclass(frozen=True, kw_only=True)
class ConvNet:
    """wav2vec 2.0 or HuBERT: convolutions without padding on the samples, then a transformer."""

    model: Any
    family: str
    layers: tuple[int, ...]
    field: int
    """Samples that one output of the convolutions sees; its middle is the output's time."""
    normalised: bool
    fingerprint: str
    longest: float = math.inf

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @property
    def before(self) -> int:
        return self.field // 2

    @property
    def after(self) -> int:
        return self.field - self.before

    def hidden(self, window: Float[Tensor, " t"]) -> Float[Tensor, "layers f d"]:
        states = self.model(window[None], output_hidden_states=True).hidden_states
        return torch.cat([states[layer] for layer in self.layers])


@dataclass(frozen=True, kw_only=True)
class WhisperNet:
    """Whisper's encoder. The window is the whole recording to it, with silence behind it up to the 30 seconds of its training.

    Its mel frames are centred on every 10 ms from the first sample on, and its second convolution on every other one of them, so
    feature j lies exactly j / RATE_HZ seconds into the window.
    """

    model: Any
    extractor: Any
    layers: tuple[int, ...]
    fingerprint: str
    family: str = "whisper"
    normalised: bool = False
    before: int = 0
    after: int = _HOP

    @property
    def width(self) -> int:
        return self.model.config.d_model

    @property
    def longest(self) -> float:
        return float(self.extractor.n_samples)

    def hidden(self, window: Float[Tensor, " t"]) -> Float[Tensor, "layers f d"]:
        heard = self.extractor(window.numpy(), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", padding="max_length")
        states = self.model(heard.input_features, output_hidden_states=True).hidden_states
        return torch.cat([states[layer] for layer in self.layers])[:, : window.shape[0] // _HOP]


def open_checkpoint(source: str | Path, layers: Sequence[int]) -> WindowNet:
    """The checkpoint in a folder (config.json, preprocessor_config.json, safetensors), or of a hub's name "owner/name".

    Layer k is transformers' hidden_states[k]: 0 is what the transformer is given, k what its k-th block gives. ValueError where
    files are missing, damaged or of another kind, and where there is no such layer.
    """
    folder = checkpoint_folder(source, [_CONFIG, _PREPROCESSOR, "*.safetensors*"], _OPENER)
    config, preprocessor = _settings(folder, _CONFIG), _settings(folder, _PREPROCESSOR)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"{folder} holds a model of type {family!r}: give a checkpoint of type {', '.join(FAMILIES)}")
    rate = preprocessor.get("sampling_rate", SAMPLE_RATE_HZ)
    if rate != SAMPLE_RATE_HZ:
        raise ValueError(f"{folder} was trained at {rate} Hz: give a checkpoint for {SAMPLE_RATE_HZ} Hz")
    depth = config.get("encoder_layers" if family == "whisper" else "num_hidden_layers")
    if not isinstance(depth, int) or depth < 1:
        raise ValueError(f"{folder / _CONFIG} says nothing of the number of layers: it is no whole checkpoint, download it again")
    if not layers or sorted(set(layers)) != list(layers) or layers[0] < 0 or layers[-1] > depth:
        raise ValueError(f"layers {list(layers)} of {folder} were asked for: give rising numbers from 0 to {depth}")
    fingerprint = _fingerprint(folder)
    if family == "whisper":
        return _whisper(folder, tuple(layers), fingerprint)
    return _conv(folder, family, tuple(layers), bool(preprocessor.get("do_normalize", True)), fingerprint)


def _conv(folder: Path, family: str, layers: tuple[int, ...], normalised: bool, fingerprint: str) -> ConvNet:
    transformers = module("transformers", _OPENER)
    model = _load(transformers.HubertModel if family == "hubert" else transformers.Wav2Vec2Model, folder)
    field, hop = 1, 1
    for kernel, stride in zip(model.config.conv_kernel, model.config.conv_stride, strict=True):
        field, hop = field + (kernel - 1) * hop, hop * stride
    if hop != _HOP:
        raise ValueError(f"{folder} gives a feature every {hop} samples: give a checkpoint with one every {_HOP}")
    model.encoder.layers = model.encoder.layers[: max(layers[-1], 1)]  # what no layer asked for needs
    return ConvNet(model=model, family=family, layers=layers, field=field, normalised=normalised, fingerprint=fingerprint)


def _whisper(folder: Path, layers: tuple[int, ...], fingerprint: str) -> WhisperNet:
    transformers = module("transformers", _OPENER)
    try:
        extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{folder / _PREPROCESSOR} can't be used ({said(error)}): download the checkpoint again") from error
    extractor.dither = 0.0  # equal sound, equal features
    model = _load(transformers.WhisperModel, folder).encoder
    hop, heard = 2 * extractor.hop_length, model.config.max_source_positions
    if hop != _HOP or extractor.n_samples != hop * heard or extractor.feature_size != model.config.num_mel_bins:
        raise ValueError(
            f"{folder / _PREPROCESSOR} prepares {extractor.n_samples} samples as {extractor.feature_size} bands every "
            f"{extractor.hop_length}, but {_CONFIG} wants {_HOP * heard}, {model.config.num_mel_bins} and {_HOP // 2}: the files "
            f"are not of one checkpoint"
        )
    if layers[-1] < len(model.layers):  # hidden_states of the last block come after the closing norm, those of others don't
        model.layers, model.layer_norm = model.layers[: max(layers[-1], 1)], torch.nn.Identity()
    return WhisperNet(model=model, extractor=extractor, layers=layers, fingerprint=fingerprint)


def _settings(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise ValueError(f"{folder} has no {name}: give the folder of a checkpoint that transformers saved")
    return read_config(folder, name)


def _fingerprint(folder: Path) -> str:
    """Of all weights in the folder, which are read for it once."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _load(kind: Any, folder: Path) -> Any:
    return load_weights(kind, folder, _OPENER, unused=_unused, dtype=torch.float32)


def _unused(name: str) -> bool:
    """Whether no inference uses that tensor: the mask of training, which some checkpoints lack, and Whisper's decoder."""
    return name.endswith("masked_spec_embed") or name.startswith("decoder.")
