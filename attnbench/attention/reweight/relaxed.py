"""Relaxed attention: every row is mixed with the uniform one (arXiv 2209.09735; cross-attention only in
2107.01275).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attnbench.attention.context import Context, Valid
from attnbench.attention.mechanism import Mechanism, Parameters, Site
from attnbench.attention.plan import Plan
from attnbench.attention.registry import register


class RelaxedParameters(Parameters):
    gamma: float = Field(0.1, ge=0, le=1, description="share of the uniform distribution")
    fuzzy_std: float = Field(
        0.0,
        ge=0,
        description="fuzzy relaxation: gamma ~ N(gamma, std) per call in training, clipped to [0,1]",
    )
    matched_inference: bool = Field(False, description="relax in evaluation too, with the mean gamma")
    uniform_over: Literal["valid", "all"] = Field(
        "valid", description="all: padding counts as keys, as in the public code"
    )
    sites: list[Site] = Field(
        ["encoder_self", "cross"], description="the paper leaves masked decoder self-attention alone"
    )


@register
class Relaxed(Mechanism):
    """Training only by default; after the softmax and before any dropout of weights.

        weights' = (1 - gamma) weights + gamma / M_valid    over the keys that a row may attend    (B,H,N,M)
        heads'   = (1 - gamma) heads + gamma mean(v)            the same, exactly, around a fused kernel

    Ambiguous: the public implementation divides by the padded length and so puts gamma / M on padding;
    `uniform_over: all` does that and can not be causal. In a causal map M_valid counts the keys up to the
    query, so that nothing leaks; the paper does not go there, hence the default sites. The fuzzy form is
    drawn once per layer and step. Cost: 2 H N M, fused N D.
    """

    name = "relaxed"
    arxiv = "2209.09735"
    summary = "mixes every row of the map with the uniform distribution"
    schema = RelaxedParameters
    requires = frozenset({"rows_sum_to_one"})

    @classmethod
    def refuses_causal(cls, settings: Any) -> str | None:
        return (
            "uniform_over 'all' would put weight on future keys" if settings.uniform_over == "all" else None
        )

    def active(self, training: bool) -> tuple[str, ...]:
        s = self.settings
        idle = s.gamma == 0 and not (training and s.fuzzy_std > 0)
        return () if idle or not (training or s.matched_inference) else ("reweight",)

    def reweight(self, c: Context, weights: Tensor) -> Tensor:
        gamma = self._gamma(c)
        if self.settings.uniform_over == "all":
            return (1 - gamma) * weights + gamma / weights.shape[-1]
        if c.visible.everything:
            return (1 - gamma) * weights + gamma / weights.shape[-1]
        uniform = c.valid.to(weights.dtype) / c.visible.counts.clamp(min=1)
        return (1 - gamma) * weights + gamma * uniform

    def fuse_reweight(self, c: Context, plan: Plan) -> Plan:
        gamma = self._gamma(c)
        visible = None if self.settings.uniform_over == "all" else plan.visible
        mean = mean_of_visible(plan.v, visible)
        return plan.with_(post=(*plan.post, lambda heads: (1 - gamma) * heads + gamma * mean), algebra=True)

    def _gamma(self, c: Context) -> float | Tensor:
        s = self.settings
        if not (self.training and s.fuzzy_std > 0):
            return s.gamma

        def draw() -> Tensor:
            noise = torch.randn((), generator=c.generator, device=c.x.device, dtype=torch.float32)
            return (s.gamma + s.fuzzy_std * noise).clamp(0, 1).to(c.x.dtype)

        return c.drawn(self.name, draw)

    @classmethod
    def draws_per_call(cls, settings: Any) -> bool:
        return settings.fuzzy_std > 0

    def flops(self, n: int, m: int, training: bool = False) -> float:
        return 2.0 * self.shape.heads * n * m if self.active(training) else 0.0


def mean_of_visible(v: Tensor, visible: Valid | None) -> Tensor:
    """The plain mean of the values that each query may attend, broadcastable to (B,H,N,d); zeros where there
    are none.
    """
    if visible is None or visible.everything:
        return v.mean(2, keepdim=True)
    mask = visible.key_mask
    if visible.causal and not visible.in_order:
        return (visible.dense.to(v.dtype) / visible.counts.clamp(min=1)) @ v
    ones = v.new_ones(1, 1, v.shape[2], 1) if mask is None else mask[:, None, :, None].to(v.dtype)
    total, count = (v if mask is None else v * ones), ones
    if visible.causal:
        return total.cumsum(2) / count.cumsum(2).clamp(min=1)
    return total.sum(2, keepdim=True) / count.sum(2, keepdim=True).clamp(min=1)
