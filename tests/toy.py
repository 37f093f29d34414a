"""A toy network that listens, its examples, and its face model: what tests of post-training start from."""

from __future__ import annotations

import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
from test_train import quiet, toy_examples, toy_recipe

from vivavoce import Animator
from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.speech.analysis import Analysis
from vivavoce.train.data import Example
from vivavoce.train.motion import train_motion

SMALL = {"width": 32, "context": 16, "blocks": 2, "heads": 2, "speech_heads": 2}


@pytest.fixture(scope="module")
def model(animator: Animator) -> FaceModel:
    return animator.space.model


@pytest.fixture(scope="module")
def examples(model: FaceModel) -> list[Example]:
    return toy_examples(model)


@pytest.fixture(scope="module")
def base() -> MotionGenerator:
    return _trained()


@cache
def _trained() -> MotionGenerator:
    """Once for all modules."""
    model = FaceModel.load(Path(str(resources.files("vivavoce") / "weights" / "face.safetensors")))
    with tempfile.TemporaryDirectory() as folder:
        recipe = toy_recipe(Path(folder) / "run", model, steps=20, batch=8, net=SMALL)
        return MotionGenerator.load(train_motion(recipe, model, Analysis(), quiet, quiet))
