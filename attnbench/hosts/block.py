"""One pre-norm transformer block: x + attention(norm(x)), then x + MLP(norm(x))."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.attention import AttentionLayer, Aux
from attnbench.hosts.config import HostConfig


class Dropout(nn.Module):
    """Zeroes entries with probability p and scales the rest by 1/(1-p), by a generator that is handed
    in.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.p == 0 or not self.training:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=generator)
        return x * keep.mul_(1 / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class MLP(nn.Module):
    """(..., D) -> (..., D): linear, GELU, dropout, linear."""

    def __init__(self, host: HostConfig) -> None:
        super().__init__()
        self.up = nn.Linear(host.width, host.hidden)
        self.dropout = Dropout(host.dropout)
        self.down = nn.Linear(host.hidden, host.width)

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x)), generator))


class Block(nn.Module):
    """An attention layer, as it came from `attention.build`, and an MLP in a residual stream."""

    def __init__(self, host: HostConfig, attention: AttentionLayer) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(host.width)
        self.attention = attention
        self.norm_mlp = nn.LayerNorm(host.width)
        self.mlp = MLP(host)
        self.dropout = Dropout(host.dropout)

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None,
        shared: dict[str, Any],
        generators: tuple[torch.Generator | None, torch.Generator | None],
        need_weights: bool,
        at: Tensor | None = None,
    ) -> tuple[Tensor, Aux]:
        """x (B,N,D) -> (B,N,D), or (K,D) for the flat positions `at` (K,): behind attention nothing mixes
        positions.

        generators: of the mechanism and of dropout.
        """
        of_mechanism, of_dropout = generators
        attended, aux = self.attention(
            self.norm_attention(x),
            key_mask=key_mask,
            shared=shared,
            generator=of_mechanism,
            need_weights=need_weights,
        )
        x = x + self.dropout(attended, of_dropout)
        if at is not None:
            x = x.flatten(0, 1).index_select(0, at)
        return x + self.dropout(self.mlp(self.norm_mlp(x), of_dropout), of_dropout), aux
