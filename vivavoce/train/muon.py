"""Muon: steps in which all directions of a weight count alike (Jordan et al. 2024), for convolutions too.

torch.optim.Muon takes matrices only. It took the tiny autoencoder further than AdamW in as many minutes (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Jordan's quintic, whose fifth iterate of (0, 1] is about 0.7 to 1.2
_ITERATIONS = 5


def orthogonalised(matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """U V^T, nearly, where U S V^T is the matrix: Newton-Schulz iterations X <- a X + (b A + c A^2) X with A = X X^T."""
    turned = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if turned else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if turned else x


class Muon(torch.optim.Optimizer):
    """Weights of convolutions and linear layers, as matrices of a row for each output, go ``-lr * matrix_rate`` times their
    orthogonalised momentum (Nesterov's), scaled by sqrt(max(1, rows / columns)); whatever else is learned goes as Adam does,
    with ``lr``. ``weight_decay``: of the matrices, decoupled."""

    def __init__(
        self, parameters: Iterable[Tensor], *, lr: float, matrix_rate: float = 10.0, momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98), weight_decay: float = 0.01,
    ):
        super().__init__(parameters, {
            "lr": lr, "matrix_rate": matrix_rate, "momentum": momentum, "betas": betas, "weight_decay": weight_decay,
        })

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "losses are computed once a step"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["steps"] = torch.zeros(())
                    state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
                state["steps"] += 1
                if weight.ndim > 1 and min(weight.shape[:2]) > 1:
                    self._matrix(weight, weight.grad, state, group)
                else:
                    self._adam(weight, weight.grad, state, group)

    @staticmethod
    def _matrix(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict) -> None:
        state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["mean"], group["momentum"]).flatten(1)
        step = orthogonalised(ahead) * max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(step.view_as(weight), alpha=-group["lr"] * group["matrix_rate"])

    @staticmethod
    def _adam(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict) -> None:
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        mean, square = state["mean"] / (1 - first ** state["steps"]), state["square"] / (1 - second ** state["steps"])
        weight.addcdiv_(mean, square.sqrt() + 1e-8, value=-group["lr"])
