"""Graphs compute what the functions compute that they were traced from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vivavoce import Animator
from vivavoce.generate import frame_noise
from vivavoce.graph import traced


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.LayerNorm(16), nn.Linear(16, 3)).eval()


def test_a_graph_is_its_function_for_inputs_that_it_has_not_seen() -> None:
    net, weights = network(), torch.linspace(0.1, 1.0, 6)

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return net(x * weights) + y, torch.cat([x[:, :2], y], 1)

    graph = traced(function, torch.zeros(4, 6), torch.zeros(4, 3), networks=(net,))
    for seed in range(3):
        made = torch.Generator().manual_seed(seed)
        given = torch.randn(4, 6, generator=made), torch.randn(4, 3, generator=made)
        for ours, theirs in zip(graph(*given), function(*given), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("seed", [0, 7])
def test_live_windows_are_those_of_the_network(animator: Animator, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of a live generator, and its plain computation, on features that it was not traced with."""
    generator = animator.live().generator
    windows, levels, width = generator.windows, generator.net.config.levels, generator.layout.width
    made = torch.Generator().manual_seed(seed)
    heard = torch.randn(1, generator._span(windows.prefix), levels.heard, generator=made)
    prefix = torch.randn(1, windows.prefix, width, generator=made)
    fresh = frame_noise(seed, range(windows.hop), width)[None]
    with torch.inference_mode():
        plain = generator._solved(heard, prefix, fresh, windows.steps, windows.guidance)
        monkeypatch.setattr(generator, "_solved", None)  # the graph does without it
        quick = generator._window(heard, prefix, 0, (seed,), windows.steps, None)
    torch.testing.assert_close(quick, plain, atol=1e-4, rtol=1e-4)
    assert plain.std() > 0.05
