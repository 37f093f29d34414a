"""Functions of tensors as graphs: what is computed again and again on inputs of one shape need not pass through Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Graph = Callable[..., Any]


class _Traceable(nn.Module):
    def __init__(self, function: Callable[..., Any], networks: tuple[nn.Module, ...]):
        super().__init__()
        self.function, self.networks = function, nn.ModuleList(networks)

    def forward(self, *given: Tensor) -> Any:
        return self.function(*given)


def traced(function: Callable[..., Any], *given: Tensor, networks: tuple[nn.Module, ...] = ()) -> Graph:
    """The function, for inference on inputs of the shapes and types of those given.

    What depends on constants only is computed once, and while it runs other threads may hold Python's lock. Results are equal but
    for rounding. ``networks``: those that it uses, for evaluation; their weights must not change any more. The
    function must do the same whatever the inputs' numbers are, and return a tensor or a tuple of tensors.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are constants here, which is what it warns of
        graph = torch.jit.trace(_Traceable(function, networks).eval(), given, check_trace=False)
        return torch.jit.optimize_for_inference(graph)
