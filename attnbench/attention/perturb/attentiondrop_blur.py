"""AttentionDrop V2, blurred attention smoothing (arXiv 2504.12088)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from attnbench.attention.context import Context
from attnbench.attention.kernels.blurred_keys import Layout, blur_keys, causal_blur, smooth
from attnbench.attention.layer import renormalised
from attnbench.attention.mechanism import Mechanism, Parameters, Site
from attnbench.attention.plan import Plan
from attnbench.attention.registry import register
from attnbench.errors import UsageError

CAUSAL_WORTH_FROM = (
    64  # keys: measured forward and backward on CPU; at 16 the two key sets take twice as long
)
SIGMA_LEAST = 1e-3  # below it the kernel is the identity


class BlurParameters(Parameters):
    w: int = Field(5, ge=1, description="kernel width, odd; cut to the largest odd number that fits the row")
    sigma_max: float = Field(1.0, ge=0, description="sigma ~ Uniform(0, sigma_max)")
    per_step_shared: bool = Field(
        False, description="one sigma for all layers of a pass instead of one per layer"
    )
    per_head: bool = Field(False, description="a sigma per head")
    dims: Literal["1d", "2d"] = Field(
        "1d", description="along the row of keys, or over the grid of image patches"
    )
    grid_size: list[int] | None = Field(
        None, description="[rows, columns] of the 2d grid; default: the square that fits"
    )
    edges: Literal["normalised", "zero"] = Field(
        "normalised", description="divide by the kernel's mass on valid keys, or pad with 0"
    )
    space: Literal["logit", "prob"] = Field("logit", description="prob: blur the weights after the softmax")
    alpha: float = Field(1.0, ge=0, le=1, description="space prob: share of the blurred map")
    sites: list[Site] = Field(["encoder_self"], description="the paper's scope")

    @field_validator("w")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"should be odd; {value - 1} or {value + 1}")
        return value

    @field_validator("grid_size")
    @classmethod
    def _pair(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and (len(value) != 2 or min(value) < 1):
            raise ValueError("should be [rows, columns], both at least 1")
        return value


@register
class AttentionDropBlur(Mechanism):
    """Training only: each row of logits is smoothed along the keys by a Gaussian of random width.

        sigma    ~ Uniform(0, sigma_max)                               one draw per call
        G[u]     = exp(-u^2 / (2 sigma^2)) / sum,  u = -r..r,  w = 2 r + 1
        logits'_ij = sum_u G[u] logits_i,j+u / sum_u G[u]              over valid keys j+u    (B,H,N,M)

    Decided: sigma is shared by B, H and N of a call; sigma below 0.001 is the identity; the normalised form
    at edges, padding and the causal border (zero padding pulls logits towards 0, which a row shift does not
    survive); w is cut to the row; 1-D joins the row ends of an image, which only `dims: 2d` mends (tokens
    before the grid, such as CLS, are left out there). `space: prob` is the account of another source: (1 -
    alpha) A + alpha blur(A), renormalised over valid keys. Fused, exactly: blur is linear in k, so blur k by
    w shifted sums, O(M w d); under a causal mask the r keys next to the query have key sets of their own.
    Cost: 2 w H N M in the reference, 2 w M D fused; no parameter, nothing in evaluation.
    """

    name = "attentiondrop_blur"
    arxiv = "2504.12088"
    summary = "smooths each row of logits along the keys in training"
    schema = BlurParameters
    requires = frozenset({"keys_in_order", "logits_finite"})
    fused_requires = frozenset({"logits_bilinear"})
    precise = True

    @classmethod
    def stages_of(cls, settings: Any) -> tuple[str, ...]:
        return ("perturb",) if settings.space == "logit" else ("reweight",)

    def active(self, training: bool) -> tuple[str, ...]:
        s = self.settings
        idle = s.w == 1 or s.sigma_max == 0 or (s.space == "prob" and s.alpha == 0)
        return self.stages_of(s) if training and not idle else ()

    def perturb(self, c: Context, logits: Tensor) -> Tensor:
        layout, kernel = self._kernel(c, logits.shape[-1])
        if kernel is None:
            return logits
        return smooth(logits, c.valid, kernel.to(logits.dtype), layout, self.settings.edges == "normalised")

    def reweight(self, c: Context, weights: Tensor) -> Tensor:
        layout, kernel = self._kernel(c, weights.shape[-1])
        if kernel is None:
            return weights
        blurred = (
            smooth(weights, c.valid, kernel.to(weights.dtype), layout, self.settings.edges == "normalised")
            * c.valid
        )
        mixed = (1 - self.settings.alpha) * weights + self.settings.alpha * blurred
        return renormalised(mixed)

    def fuse_perturb(self, c: Context, plan: Plan) -> Plan | None:
        s, visible = self.settings, plan.visible
        if plan.bias is not None or plan.kernel is not None:
            return None  # the blur of q k + b is not q times the blur of k, plus b
        if visible.causal and (s.dims == "2d" or not visible.in_order or plan.q.device.type != "cpu"):
            return None
        layout, kernel = self._kernel(c, plan.k.shape[2])
        if kernel is None:
            return plan
        normalised = s.edges == "normalised"
        if visible.causal:
            return plan.with_(
                kernel=causal_blur(kernel, normalised),
                kernel_name="flash_cpu",
                algebra=True,
                worth_from=CAUSAL_WORTH_FROM,
            )
        return plan.with_(k=blur_keys(plan.k, visible.key_mask, kernel, layout, normalised), algebra=True)

    def _kernel(self, c: Context, keys: int) -> tuple[Layout, Tensor | None]:
        """How the keys lie, and the kernel (H or 1, w) in float64; None for a width of 1."""
        layout = self._layout(keys)
        fits = min(layout.grid) if layout.grid else keys
        w = min(self.settings.w, fits if fits % 2 else fits - 1)
        c.stats[f"{self.name}.w"] = w
        return layout, None if w <= 1 else gaussian(self._sigma(c), w)

    def _layout(self, keys: int) -> Layout:
        s = self.settings
        if s.dims == "1d":
            return Layout()
        if s.grid_size is None:
            side = math.isqrt(keys)
            if keys - side * side > 1:
                raise UsageError(
                    f"{self.name}: {keys} keys are no square grid (with or without one token before it); "
                    "give grid_size: [rows, columns]"
                )
            return Layout((side, side), keys - side * side)
        rows, columns = s.grid_size
        if rows * columns > keys:
            raise UsageError(
                f"{self.name}: grid_size {s.grid_size} has {rows * columns} places, but there are {keys} keys"
            )
        return Layout((rows, columns), keys - rows * columns)

    def _sigma(self, c: Context) -> Tensor:
        """(H or 1,), drawn once per call, or once per pass of the network."""
        count = self.shape.heads if self.settings.per_head else 1
        draw = lambda: c.rand(count).double() * self.settings.sigma_max  # noqa: E731
        if not (self.settings.per_step_shared and c.shared is not None):
            return c.drawn(self.name, draw)
        if f"{self.name}.sigma" not in c.shared:
            c.shared[f"{self.name}.sigma"] = draw()
        return c.shared[f"{self.name}.sigma"]

    @classmethod
    def draws_per_call(cls, settings: Any) -> bool:
        return True

    def flops(self, n: int, m: int, training: bool = False) -> float:
        return 2.0 * self.settings.w * self.shape.heads * n * m if self.active(training) else 0.0


def gaussian(sigma: Tensor, w: int) -> Tensor:
    """sigma (S,) -> kernels (S,w) that sum to 1. Unnormalised exponents first: the paper's 1/sigma cancels
    and would overflow.
    """
    u = torch.arange(w, device=sigma.device, dtype=sigma.dtype) - w // 2
    g = torch.exp(-(u**2) / (2 * sigma.clamp(min=SIGMA_LEAST)[:, None] ** 2))
    g = torch.where(sigma[:, None] < SIGMA_LEAST, (u == 0).to(g.dtype), g)
    return g / g.sum(-1, keepdim=True)
