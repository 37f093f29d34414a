"""How a block takes speech in: multi-head FiLM (ReFree-S2V, arXiv 2606.13304, Algorithm 1) or, for comparison, attention.

Both have a part that does not depend on flow time, `prepare`, done once per window, and start as the identity of their residual.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MultiHeadFiLM(nn.Module):
    """Per head k: (gamma_k, beta_k) = W_k(A_k), F_k = gamma_k * H_k + beta_k on H = W_Q(input) (Algorithm 1).

    The paper leaves the start open; here it is residual with zero-initialised output, so that a block begins as the identity.
    """

    def __init__(self, width: int, condition: int, heads: int):
        super().__init__()
        assert width % heads == 0 and condition % heads == 0, (width, condition, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.modulation = nn.Parameter(torch.randn(heads, condition // heads, 2 * width // heads) / (condition // heads) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * width // heads))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def prepare(self, mixture: Float[Tensor, "b t c"]) -> Float[Tensor, "b t m"]:
        """Scales of all heads, then their shifts."""
        pair = torch.einsum("bthc,hcd->bthd", mixture.unflatten(-1, (self.heads, -1)), self.modulation) + self.bias
        return torch.cat([part.flatten(2) for part in pair.chunk(2, -1)], -1)

    def forward(self, hidden: Float[Tensor, "b t d"], prepared: Float[Tensor, "b t m"]) -> Float[Tensor, "b t d"]:
        """What is to be added to ``hidden``."""
        gamma, beta = prepared.chunk(2, -1)
        return self.out(gamma * self.query(hidden) + beta)


class WindowAttention(nn.Module):
    """Attention of each frame to all levels at its own and the ``around`` neighbouring frames on either side.

    Frame-aligned windows as in FantasyTalking (arXiv 2504.04842). Keys and values of a head are linear in the tokens, so they are
    computed on the other side: queries are mapped to the levels' space, and what was attended is mapped back. Levels weigh by
    their selector (its logarithm is added to the scores) as well as by their content.
    """

    around = 2

    def __init__(self, width: int, condition: int, heads: int, levels: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads * condition)
        self.place = nn.Parameter(torch.zeros(heads, 2 * self.around + 1, levels))
        self.out = nn.Linear(heads * condition, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def prepare(self, levels: Float[Tensor, "l b t c"]) -> Float[Tensor, "b t n c"]:
        """The tokens of every frame; beyond the window its first and last frame stay."""
        frames = torch.arange(levels.shape[2], device=levels.device)
        near = [levels[:, :, (frames + i).clamp(0, levels.shape[2] - 1)] for i in range(-self.around, self.around + 1)]
        return torch.stack(near).flatten(0, 1).permute(1, 2, 0, 3)

    def forward(
        self, hidden: Float[Tensor, "b t d"], tokens: Float[Tensor, "b t n c"], weights: Float[Tensor, " l"]
    ) -> Float[Tensor, "b t d"]:
        """What is to be added to ``hidden``; ``weights``: the block's selector."""
        query = self.query(hidden).unflatten(-1, (self.heads, -1)) / tokens.shape[-1] ** 0.5
        bias = (self.place + weights.log()).flatten(1)
        attended = torch.softmax(query @ tokens.transpose(-1, -2) + bias, -1) @ tokens
        return self.out(attended.flatten(2))
