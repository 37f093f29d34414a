"""The models that ship, and those of a folder of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from vivavoce.latent.mesh import FaceModel
from vivavoce.speech.encoder import SpeechEncoder
from vivavoce.speech.encoders import STREAMS, open_encoder
from vivavoce.speech.streams import SpeechStreams


def shipped() -> Path:
    """Folder of the weights that ship."""
    return Path(str(resources.files("vivavoce") / "weights"))


def parts(folder: Path, encoder: Sequence[str] = (STREAMS,)) -> tuple[FaceModel, SpeechEncoder]:
    """Face model and speech encoder for training: those in the folder, where it has its own, or else the ones that ship."""
    face, phonetic = folder / "face.safetensors", folder / "phonetic.safetensors"
    model = FaceModel.load(face if face.is_file() else shipped() / face.name)
    if tuple(encoder) == (STREAMS,) and phonetic.is_file():
        return model, SpeechStreams.load(phonetic)
    return model, open_encoder(*encoder)
