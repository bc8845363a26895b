"""ALiBi: attention with linear biases (arXiv 2108.12409, section 3)."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attnbench.attention.context import Context, Valid
from attnbench.attention.mechanism import LayerShape, Mechanism, Parameters, Site
from attnbench.attention.plan import Plan
from attnbench.attention.registry import register


class AlibiParameters(Parameters):
    max_exponent: float = Field(
        8.0, gt=0, description="the last head's slope is 2^-max_exponent (for a power of two of heads)"
    )
    sites: list[Site] = Field(
        ["encoder_self", "decoder_self"], description="self-attention: positions of a context share no axis"
    )


@register
class Alibi(Mechanism):
    """A fixed penalty per head that grows with the distance of query and key; no parameters.

        logits'_hij = logits_hij - m_h |i - j|                          (B,H,N,M)
        m_h = 2^(-8 h / H), h = 1..H                                     for H a power of two
        other H: the slopes of the largest power of two P below H, then every other slope of 2 P heads

    i and j are the positions of the call, not indices; extra slots get no penalty. The paper is causal, where
    |i - j| = i - j; for bidirectional use the symmetric distance is our reading. Fused: a fixed bias of the
    kernel. Cost: 2 H N M.
    """

    name = "alibi"
    arxiv = "2108.12409"
    summary = "subtracts a fixed slope per head times the distance of query and key"
    schema = AlibiParameters

    def __init__(self, settings: AlibiParameters, shape: LayerShape) -> None:
        super().__init__(settings, shape)
        self.slopes = slopes_of(
            shape.heads, settings.max_exponent
        )  # no buffer: casting the model must not round them

    def bias(self, c: Context, logits: Tensor) -> Tensor:
        return logits + self._penalty(c.visible, logits)

    def fuse_bias(self, c: Context, plan: Plan) -> Plan:
        penalty = self._penalty(plan.visible, plan.q)
        return plan.with_(bias=penalty if plan.bias is None else plan.bias + penalty)

    def _penalty(self, visible: Valid, like: Tensor) -> Tensor:
        """(1 or B,H,N,M), from positions."""
        q, k = visible.q_positions, visible.k_positions[..., visible.slots :]
        distance = (q[..., :, None] - k[..., None, :]).abs()
        distance = distance[None, None] if distance.dim() == 2 else distance[:, None]
        slopes = torch.tensor(
            self.slopes, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32)
        )
        return F.pad(-slopes[:, None, None] * distance, (visible.slots, 0)).to(like.dtype)

    def flops(self, n: int, m: int, training: bool = False) -> float:
        return 2.0 * self.shape.heads * n * m


def slopes_of(heads: int, max_exponent: float = 8.0) -> list[float]:
    """One slope per head, steepest first within a power of two."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-max_exponent * h / power) for h in range(1, power + 1)]
    return slopes if power == heads else slopes + slopes_of(2 * power, max_exponent)[0::2][: heads - power]
