"""`vivavoce inspect levels`: which block of the motion network listens to which stream of the speech, and how far."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vivavoce.generate import MotionGenerator
from vivavoce.media.files import temporary_name
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.motion import MotionTransformer
from vivavoce.speech.encoder import RATE_HZ

SUFFIXES = (".png", ".svg", ".pdf")


def load_network(weights: Path) -> MotionTransformer:
    """The motion network in a folder of weights."""
    file = weights / "motion.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{weights} has no motion.safetensors: give a folder of vivavoce weights")
    return MotionGenerator.load(file).net


def level_names(levels: LevelsConfig) -> list[str]:
    """Streams and widths in words, level by level."""
    spans = [f"{1000 * span / RATE_HZ:.0f} ms" if span < RATE_HZ else f"{span / RATE_HZ:.1f} s" for span in levels.spans]
    if levels.memory is not None:
        spans[-1] = f"utterance ({spans[-1]})"
    return [f"{stream}, {span}" for stream in levels.listen for span in spans]


def listeners(net: MotionTransformer) -> tuple[list[str], Float[np.ndarray, "k l"]]:
    """Who listens (the estimate that speech alone makes, then the blocks), and their selector weights."""
    weights = torch.cat([net.expecting.weights(), net.selector.weights()]).detach().numpy()
    return ["estimate", *(f"block {i + 1}" for i in range(len(weights) - 1))], weights


def level_table(net: MotionTransformer) -> str:
    """Selector weights, a row per level and a column per listener; under them the shares of the streams."""
    who, weights = listeners(net)
    levels = net.config.levels
    rows = list(zip(level_names(levels), weights.T, strict=True))
    per_stream = len(levels.spans)
    shares = weights.reshape(len(weights), len(levels.listen), per_stream).sum(-1).T
    rows += [(f"{stream}, together", share) for stream, share in zip(levels.listen, shares, strict=True)]
    wide = max(len(name) for name, _ in rows)
    head = " " * wide + "".join(f"{name:>10}" for name in [*who, "mean"])
    lines = [f"{name:<{wide}}" + "".join(f"{v:10.3f}" for v in [*values, values.mean()]) for name, values in rows]
    count = len(levels.names)
    return "\n".join([head, *lines[:count], "-" * len(head), *lines[count:], *_remarks(net)])


def plot_levels(net: MotionTransformer, path: Path) -> None:
    """The same as a picture; it appears when it is complete."""
    from matplotlib.figure import Figure

    who, weights = listeners(net)
    names = level_names(net.config.levels)
    figure = Figure(figsize=(2.6 + 0.9 * len(weights), 0.8 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(weights.T, cmap="viridis", vmin=0, aspect="auto")
    axes.set_xticks(range(len(weights)), who)
    axes.set_yticks(range(len(names)), names)
    _write_numbers(axes, weights)
    for i in range(1, len(net.config.levels.listen)):
        axes.axhline(i * len(net.config.levels.spans) - 0.5, color="white", linewidth=2)
    axes.set_title("What each block listens to", fontsize=10)
    figure.colorbar(picture, ax=axes, label="selector weight")
    partial = path.parent / temporary_name(path.suffix.lower())
    try:
        figure.savefig(partial, dpi=150)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_numbers(axes: object, weights: Float[np.ndarray, "k l"]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    for (block, level), value in np.ndenumerate(weights):
        shade = "black" if value > 0.6 * weights.max() else "white"
        axes.text(block, level, f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)


def _remarks(net: MotionTransformer) -> list[str]:
    if net.config.injection == "attention":
        return ["This network attends to levels by their content as well; these are the weights before that."]
    return ["The selectors of this network are uniform by its configuration."] if net.config.selector == "uniform" else []
