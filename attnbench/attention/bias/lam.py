"""LAM, the learnable attention mask (arXiv 2406.02761; resubmitted as LCAAM, OpenReview abHtkQkumD)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.attention.context import Context
from attnbench.attention.mechanism import LayerShape, Mechanism, Parameters, Site
from attnbench.attention.registry import register
from attnbench.errors import UsageError

LENGTH_ALONE = 512  # most keys of a layer that is built without any host to say so
ACTIVATIONS = {
    "none": lambda t: t,
    "softplus": F.softplus,
    "2sigmoid": lambda t: 2 * t.sigmoid(),
    "exp": torch.exp,
}
GIVES_ONE = {"none": 1.0, "softplus": math.log(math.e - 1), "2sigmoid": 0.0, "exp": 0.0}


class LamParameters(Parameters):
    scope: Literal["multi", "single"] = Field(
        "multi", description="a mask of its own per layer, or one of the embedded input for all"
    )
    combine: Literal["multiply", "add"] = Field("multiply", description="how mask and logits meet")
    init: Literal["literal", "identity"] = Field(
        "literal", description="the framework's default, or W_n = 0 and a bias of no effect"
    )
    activation: Literal["none", "softplus", "2sigmoid", "exp"] = Field(
        "none", description="of the mask's last layer"
    )
    per_head: bool = Field(False, description="a mask per head instead of one for all")
    n: int = Field(2, ge=1, description="linear layers of the mask's network")
    hidden: int | float = Field(
        1.0, gt=0, description="hidden width: a whole number, or a share of the model's width"
    )
    layer_scale: bool = Field(False, description="scope single: a learned factor per layer, starting at 1")
    mlp: Literal["token", "flattened"] = Field(
        "token", description="flattened: one network over all tokens at once, for tiny sizes"
    )
    max_length: int | None = Field(
        None, ge=1, description="most keys; default: what the host says, or 512 for a layer built alone"
    )
    sites: list[Site] = Field(["encoder_self"], description="the paper's scope")

    @model_validator(mode="after")
    def _fits(self) -> LamParameters:
        if self.scope == "single" and "cross" in self.sites:
            raise ValueError(
                "scope 'single' reads the encoder's input and has no rows for cross-attention; use scope "
                "'multi' there"
            )
        if self.layer_scale and self.scope != "single":
            raise ValueError("layer_scale belongs to scope 'single'")
        return self


@register
class Lam(Mechanism):
    """A small network turns each query token into its row of the mask, which meets the logits.

        h_i = ReLU(W_i h_(i-1) + b_i), h_0 = x       (B,N,hidden),  i = 1..n-1
        Mk  = act(W_n h_(n-1) + b_n)                 (B,N,N_max), sliced to (B,N,M); act is none
        logits' = logits * Mk   or   logits + Mk     (B,H,N,M), after 1/sqrt(d), in float32

    scope multi: x is this layer's own (normalised) input; single: the embedded input of the network, one mask
    for all layers, owned by the host. Column j is an absolute key position, row i depends on token i alone:
    causal use leaks nothing. Rows of padded queries are 0; the pipeline's -inf comes after the product.
    Ambiguous: the paper leaves n, width and initialisation open. `literal` starts with nearly uniform
    attention (Mk is about 0), `identity` as plain attention; report both, never mix. With [alibi, lam] the
    order decides what is multiplied. More keys than N_max are an error, never interpolated. Cost: 2 N (D
    hidden + hidden N_max) + H N M FLOPs, and the map has to exist: no fused form.
    """

    name = "lam"
    arxiv = "2406.02761"
    summary = "multiplies (or adds) a mask that a small network makes of each query token"
    schema = LamParameters
    breaks = frozenset({"logits_bilinear"})
    precise = True

    def __init__(self, settings: LamParameters, shape: LayerShape) -> None:
        super().__init__(settings, shape)
        self.mask = MaskNetwork(settings, shape) if settings.scope == "multi" else None
        self.scale = nn.Parameter(torch.ones(())) if settings.layer_scale else None

    @classmethod
    def refuses_causal(cls, settings: Any) -> str | None:
        return "mlp 'flattened' lets every row see every token" if settings.mlp == "flattened" else None

    @classmethod
    def shared_module(cls, settings: Any, shape: LayerShape) -> nn.Module | None:
        return MaskNetwork(settings, shape) if settings.scope == "single" else None

    def reset_parameters(self) -> None:
        if self.scale is not None:
            nn.init.ones_(self.scale)

    def bias(self, c: Context, logits: Tensor) -> Tensor:
        mask = self._mask(c, logits.shape[-1]).to(logits.dtype)
        mask = mask if self.scale is None else self.scale * mask
        if c.probing:
            c.stats["lam.mean_abs"] = mask.detach().abs().mean().item()
            c.stats["lam.negative_share"] = (mask < 0).double().mean().item()
            c.stats["lam.logit_sd"] = logits.detach().std().item()
        mask = F.pad(mask, (c.visible.slots, 0), value=1.0 if self.settings.combine == "multiply" else 0.0)
        return logits * mask if self.settings.combine == "multiply" else logits + mask

    def _mask(self, c: Context, keys: int) -> Tensor:
        """(B, H or 1, N, M without slots)."""
        keys -= c.visible.slots
        if self.mask is not None:
            return self.mask(c.x, c.query_mask, keys)
        modules, x = (c.shared or {}).get("modules", {}), (c.shared or {}).get("embedded")
        if "lam" not in modules or x is None:
            raise UsageError(
                "lam with scope 'single' needs its host: hand over shared={'embedded': ..., 'modules': "
                "shared_modules(...)}"
            )
        assert c.shared is not None
        if "lam.mask" not in c.shared:
            c.shared["lam.mask"] = modules["lam"](x, c.query_mask, keys)
        return c.shared["lam.mask"]

    def flops(self, n: int, m: int, training: bool = False) -> float:
        combine = float(self.shape.heads * n * m)
        if self.settings.scope == "single" and self.shape.layer > 0:
            return combine  # the network runs once, counted with the first layer
        calls = 1 if self.settings.mlp == "flattened" else n
        return combine + 2.0 * calls * sum(a * b for a, b in pairwise(widths_of(self.settings, self.shape)))


class MaskNetwork(nn.Module):
    """x (B,N,D), query_mask (B,N) or None, M -> Mk (B, H or 1, N, M)."""

    def __init__(self, settings: LamParameters, shape: LayerShape) -> None:
        super().__init__()
        self.settings = settings
        self.length = length_of(settings, shape)
        self.heads = shape.heads if settings.per_head else 1
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths_of(settings, shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """`identity` overrides the last layer's default; everything else keeps the framework's."""
        if self.settings.init == "identity":
            last = self.linears[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.constant_(
                last.bias, GIVES_ONE[self.settings.activation] if self.settings.combine == "multiply" else 0.0
            )

    def forward(self, x: Tensor, query_mask: Tensor | None, keys: int) -> Tensor:
        n = x.shape[1]
        if max(n if self.settings.mlp == "flattened" else 0, keys) > self.length:
            raise UsageError(
                f"lam: {keys} keys, but its mask was built for max_length {self.length}; build with a "
                "larger max_length"
            )
        live = None if query_mask is None else query_mask[..., None].to(x.dtype)
        h = x if live is None else x * live
        if self.settings.mlp == "flattened":
            h = F.pad(h, (0, 0, 0, self.length - n)).flatten(1)
        for i, linear in enumerate(self.linears):
            h = linear(F.relu(h) if i else h)
        mask = ACTIVATIONS[self.settings.activation](h.float() if h.element_size() < 4 else h)
        mask = mask.reshape(x.shape[0], -1, self.heads, self.length)[:, :n, :, :keys].transpose(1, 2)
        return mask if live is None else mask * live[:, None].to(mask.dtype)


def length_of(settings: LamParameters, shape: LayerShape) -> int:
    """N_max, the number of columns of the mask."""
    return settings.max_length or shape.max_length or LENGTH_ALONE


def widths_of(settings: LamParameters, shape: LayerShape) -> list[int]:
    """The widths between the mask's linear layers, input first."""
    hidden = (
        settings.hidden if isinstance(settings.hidden, int) else max(1, round(settings.hidden * shape.width))
    )
    length = length_of(settings, shape)
    tokens = length if settings.mlp == "flattened" else 1
    columns = length * (shape.heads if settings.per_head else 1)
    return [tokens * shape.width, *[hidden] * (settings.n - 1), tokens * columns]
