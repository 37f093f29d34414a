"""Speech networks from files in the format of transformers: wav2vec 2.0, HuBERT and Whisper, as functions of a window of sound.

transformers is imported only here and only when a checkpoint is opened: it takes seconds and is an extra (``pretrained``).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ

FAMILIES = ("wav2vec2", "hubert", "whisper")
_HOP = SAMPLE_RATE_HZ // RATE_HZ
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TRAINING_ONLY = ("masked_spec_embed",)  # weights that no inference uses, and that some checkpoints lack
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


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
    folder = _folder(source)
    config, preprocessor = _json(folder, _CONFIG), _json(folder, _PREPROCESSOR)
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
    transformers = _module("transformers")
    model = _load(transformers.HubertModel if family == "hubert" else transformers.Wav2Vec2Model, folder)
    field, hop = 1, 1
    for kernel, stride in zip(model.config.conv_kernel, model.config.conv_stride, strict=True):
        field, hop = field + (kernel - 1) * hop, hop * stride
    if hop != _HOP:
        raise ValueError(f"{folder} gives a feature every {hop} samples: give a checkpoint with one every {_HOP}")
    model.encoder.layers = model.encoder.layers[: max(layers[-1], 1)]  # what no layer asked for needs
    return ConvNet(model=model, family=family, layers=layers, field=field, normalised=normalised, fingerprint=fingerprint)


def _whisper(folder: Path, layers: tuple[int, ...], fingerprint: str) -> WhisperNet:
    transformers = _module("transformers")
    try:
        extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except _UNREADABLE as error:
        raise ValueError(f"{folder / _PREPROCESSOR} can't be used ({_line(error)}): download the checkpoint again") from error
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


def _folder(source: str | Path) -> Path:
    """Where the checkpoint's files are; a hub's name is looked up in its cache or downloaded."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or folder.exists() or not _HUB_NAME.fullmatch(source):
        raise ValueError(f"there is no folder {source}: give a checkpoint's folder, or its name on the Hugging Face hub")
    hub = _module("huggingface_hub")
    try:
        return Path(hub.snapshot_download(source, allow_patterns=[_CONFIG, _PREPROCESSOR, "*.safetensors*"]))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} is no folder, and the Hugging Face hub did not give it ({_line(error)}): download the checkpoint and give "
            f"its folder"
        ) from error


def _json(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise ValueError(f"{folder} has no {name}: give the folder of a checkpoint that transformers saved")
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / name} is not JSON ({_line(error)}): download the checkpoint again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{folder / name} holds no settings but {type(values).__name__}: download the checkpoint again")
    return values


def _fingerprint(folder: Path) -> str:
    """Of all weights in the folder, which are read for it once."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder} has no model.safetensors, and pickled weights (pytorch_model.bin) are not opened, since they can run "
            f"code: save the checkpoint with safetensors"
        )
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _load(kind: Any, folder: Path) -> Any:
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except _UNREADABLE as error:
        raise ValueError(f"the weights in {folder} can't be used ({_line(error)}): download the checkpoint again") from error
    # Weights that the files lack would be random numbers without a word. The decoder's are not used.
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(_TRAINING_ONLY) and not key.startswith("decoder."))
    if missing:
        raise ValueError(f"the weights in {folder} lack {len(missing)} tensors like {missing[0]}: download the checkpoint again")
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws no progress bars and logs no reports meanwhile: a library doesn't print."""
    logging = _module("transformers.utils.logging")
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _module(name: str) -> Any:
    """transformers, or what came with it. By name, since its types cost type checkers minutes and say Any in the end."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError("pretrained speech encoders need transformers: pip install 'vivavoce[pretrained]'") from error


def _line(error: BaseException) -> str:
    """The first line of what it says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
