"""Dropout of attention weights (arXiv 1706.03762; the usual baseline of every attention regulariser)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from attnbench.attention.context import Context
from attnbench.attention.mechanism import Mechanism, Parameters
from attnbench.attention.registry import register


class DropoutParameters(Parameters):
    p: float = Field(0.1, ge=0, lt=1, description="probability that a weight is dropped")


@register
class Dropout(Mechanism):
    """Training only: each weight is dropped by itself, the kept ones grow, nothing is renormalised.

        m_ij     ~ Bernoulli(1 - p)                (B,H,N,M)
        weights' = weights * m / (1 - p)

    Rows then sum to 1 only in expectation, so what needs normalised rows (relaxed) has to be listed before
    it. Acts on the map alone; a host's `dropout` (MLP, residual) is apart. No fused form: the kernels' own
    dropout draws from the global generator. Cost: one random number and two products per entry of the map.
    """

    name = "dropout"
    arxiv = "1706.03762"
    summary = "drops attention weights in training and rescales the rest"
    schema = DropoutParameters
    breaks = frozenset({"rows_sum_to_one"})

    def active(self, training: bool) -> tuple[str, ...]:
        return ("reweight",) if training and self.settings.p > 0 else ()

    def reweight(self, c: Context, weights: Tensor) -> Tensor:
        keep = c.drawn(self.name, lambda: c.rand(*weights.shape) >= self.settings.p)
        return weights * (keep.to(weights.dtype) / (1 - self.settings.p))

    def flops(self, n: int, m: int, training: bool = False) -> float:
        return 3.0 * self.shape.heads * n * m if "reweight" in self.active(training) else 0.0
