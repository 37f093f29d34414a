"""How a block takes speech in: multi-head FiLM (ReFree-S2V, arXiv 2606.13304, Algorithm 1) or, for comparison, attention.

All start as the identity of their residual. What does not depend on flow time is done once per window, by `prepare`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class MultiHeadFiLM(nn.Module):
    """Per head k: (gamma_k, beta_k) = W_k(A_k), F_k = gamma_k * H_k + beta_k on H = W_Q(input) (Algorithm 1).

    The paper leaves the start open; here it is residual with zero-initialised output, so that a block begins as the identity.
    ``inner``: width of H, d where the paper's input has d_in; as wide as the input unless told otherwise.
    """

    def __init__(self, width: int, condition: int, heads: int, inner: int | None = None):
        super().__init__()
        inner = width if inner is None else inner
        assert inner % heads == 0 and condition % heads == 0, (inner, condition, heads)
        self.heads = heads
        self.query = nn.Linear(width, inner)
        self.modulation = nn.Parameter(torch.randn(heads, condition // heads, 2 * inner // heads) / (condition // heads) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * inner // heads))
        self.out = nn.Linear(inner, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def prepare(self, mixture: Float[Tensor, "b t c"]) -> Float[Tensor, "b t m"]:
        """Scales of all heads, then their shifts."""
        pair = torch.einsum("bthc,hcd->bthd", mixture.unflatten(-1, (self.heads, -1)), self.modulation) + self.bias
        return torch.cat([part.flatten(2) for part in pair.chunk(2, -1)], -1)

    def forward(self, hidden: Float[Tensor, "b *t d"], prepared: Float[Tensor, "b *#t m"]) -> Float[Tensor, "b *t d"]:
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


class TokenAttention(nn.Module):
    """Attention of a video's tokens to tokens of their own latent frame (Hallo4, arXiv 2505.23525; the frame-level stage of
    FantasyTalking, arXiv 2504.04842) or to tokens of the whole clip, where all frames have the same.

    Z + softmax(Q K^T / sqrt(d)) V with Q = Z W_Q, K = H W_K, V = H W_V, queries and keys of each head normalised as in Wan.
    There are many queries and few keys, so keys and values are computed where they are used and not kept for every block.
    """

    def __init__(self, width: int, condition: int, heads: int, inner: int):
        super().__init__()
        assert inner % heads == 0, (inner, heads)
        self.heads = heads
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(condition, inner)
        self.value = nn.Linear(condition, inner)
        self.query_norm = nn.RMSNorm(inner // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(inner // heads, eps=1e-6)
        self.out = nn.Linear(inner, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, hidden: Float[Tensor, "b t n d"], tokens: Float[Tensor, "b f m c"], bias: Float[Tensor, "k m"] | None = None
    ) -> Float[Tensor, "b t n d"]:
        """What is to be added to ``hidden``; one frame of tokens is for all; ``bias``: added to scores, by head or for all."""
        whole = tokens.shape[1] == 1  # all frames at once are then the queries
        query = self.query(hidden.flatten(1, 2)[:, None] if whole else hidden)
        q, k, v = (
            part.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (query, self.key(tokens), self.value(tokens))
        )
        scores = None if bias is None else bias[None, :, None].to(v.dtype)
        own = self.query_norm.weight.dtype  # under autocast q and k are not of it
        q, k = self.query_norm(q.to(own)).to(v.dtype), self.key_norm(k.to(own)).to(v.dtype)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=scores)
        return self.out(attended.transpose(1, 2).flatten(2).view(*hidden.shape[:3], -1))
