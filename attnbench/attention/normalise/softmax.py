"""Plain softmax attention, the baseline of everything (arXiv 1706.03762, equation 1)."""

from __future__ import annotations

from torch import Tensor

from attnbench.attention.context import Context
from attnbench.attention.mechanism import Mechanism
from attnbench.attention.plan import Plan
from attnbench.attention.registry import register


@register
class Softmax(Mechanism):
    """Scaled dot-product attention.

        logits  = q k^T / sqrt(d)             (B,H,N,M)
        weights = softmax(logits, over keys)  (B,H,N,M)
        heads   = weights v                   (B,H,N,d)

    A query with no valid key gets zeros. Cost: 4 N M D FLOPs for the products and 5 H N M for the softmax.
    """

    name = "softmax"
    arxiv = "1706.03762"
    summary = "plain scaled dot-product attention, the baseline"

    def normalise(self, c: Context, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def fuse_normalise(self, c: Context, plan: Plan) -> Plan:
        return plan
