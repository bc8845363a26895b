"""What stages are told: which keys may be attended (`Valid`), everything of one call (`Context`), and what
comes back (`Aux`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Valid:
    """Which keys each query may attend; immutable, so that an abandoned plan can never have changed it.

    key_mask: (B,M) bool or None, True = may be attended; causal: keys after the query are hidden; q_positions
    (N,) or (B,N), k_positions (M,) or (B,M); slots: how many leading keys are extra slots, always visible;
    in_order: the positions are 0..N-1 for queries and keys alike, so that a kernel's own causal flag means
    the same.
    """

    key_mask: Tensor | None
    causal: bool
    q_positions: Tensor
    k_positions: Tensor
    slots: int = 0
    in_order: bool = True

    @property
    def everything(self) -> bool:
        """Nothing is hidden from anyone."""
        return self.key_mask is None and not self.causal

    def extended(self, slots: int) -> Valid:
        """The same with `slots` more leading keys, visible to every query; they carry position -1 and mean no
        place.
        """
        mask = None if self.key_mask is None else F.pad(self.key_mask, (slots, 0), value=True)
        positions = F.pad(self.k_positions, (slots, 0), value=-1)
        return Valid(mask, self.causal, self.q_positions, positions, self.slots + slots, in_order=False)

    def part(self, rows: slice, keys: int) -> Valid:
        """The same for some queries and the first `keys` keys."""
        mask = None if self.key_mask is None else self.key_mask[:, :keys]
        return Valid(
            mask,
            self.causal,
            self.q_positions[..., rows],
            self.k_positions[..., :keys],
            self.slots,
            in_order=False,
        )

    @cached_property
    def dense(self) -> Tensor:
        """Bool tensor that broadcasts to (B,H,N,M)."""
        mask = None if self.key_mask is None else self.key_mask[:, None, None, :]
        if not self.causal:
            if mask is None:
                return torch.ones(
                    1, 1, 1, self.k_positions.shape[-1], dtype=torch.bool, device=self.k_positions.device
                )
            return mask
        past = self.k_positions[..., None, :] <= self.q_positions[..., :, None]
        past = past[None, None] if past.dim() == 2 else past[:, None]
        return past if mask is None else past & mask

    @cached_property
    def empty(self) -> Tensor | None:
        """Rows that may attend nothing, (B,1,N or 1,1) bool, or None where there can be none."""
        if self.key_mask is None and (not self.causal or self.in_order):
            return None
        if self.key_mask is not None and not self.causal:
            return ~self.key_mask.any(-1)[:, None, None, None]
        if self.key_mask is not None and self.in_order:
            return (self.key_mask.cumsum(-1) == 0)[:, None, :, None]
        return ~self.dense.any(dim=-1, keepdim=True)

    @cached_property
    def counts(self) -> Tensor:
        """How many keys each row may attend, broadcastable to (B,H,N,1), int64."""
        return self.dense.sum(dim=-1, keepdim=True)


@dataclass
class Context:
    """Everything about one call of one layer. Stages read it; only the pipeline writes to it, stages only to
    losses and stats.

    x (B,N,D): the input that feeds the queries; source (B,M,D): what feeds keys and values, x itself in
    self-attention. q (B,H,N,d), k and v (B,H,M,d): after projection, position and extension; None before.
    valid: broadcastable to (B,H,N,M). shared: one dict per forward pass of the whole network. projections:
    the layer's own linear maps q, k, v, out. generator: of this layer and step; None draws from the default
    one.
    """

    x: Tensor
    source: Tensor
    cross: bool
    visible: Valid
    heads: int
    layer: int
    layers: int
    training: bool
    scale: float
    projections: Mapping[str, nn.Linear]
    generator: torch.Generator | None
    shared: dict[str, Any] | None
    probing: bool = False
    cache: dict[str, Any] | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    _draws: dict[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> Tensor:
        """Bool, broadcastable to (B,H,N,M); True = may be attended."""
        return self.visible.dense

    @property
    def causal(self) -> bool:
        return self.visible.causal

    @property
    def query_mask(self) -> Tensor | None:
        """(B,N) bool: which queries are no padding. Known in self-attention only, from the same mask as the
        keys.
        """
        mask = self.visible.key_mask
        return None if self.cross or mask is None or self.cache is not None else mask[:, self.visible.slots :]

    def drawn(self, name: str, draw: Callable[[], Any]) -> Any:
        """The value of a random draw, drawn once per call: a plan that is given up leaves the reference the
        same numbers.
        """
        if name not in self._draws:
            self._draws[name] = draw()
        return self._draws[name]

    def rand(self, *shape: int) -> Tensor:
        """Uniform [0,1) float32 from the call's generator, whatever the precision of the layer, so that all
        precisions draw alike.
        """
        return torch.rand(shape, generator=self.generator, device=self.x.device, dtype=torch.float32)


@dataclass(frozen=True)
class Aux:
    """What a layer returns beside its output.

    weights (B,H,N,M) if asked for; losses {name: scalar} to be added to the task's; state: for decoding, None
    otherwise; stats: `path` (which path ran) and what mechanisms report of themselves.
    """

    weights: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] | None = None
    stats: dict[str, Any] = field(default_factory=dict)
