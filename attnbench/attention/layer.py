"""Multi-head attention as one pipeline of stages; a mechanism replaces the stages it changes and says nothing
of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.attention.context import Aux, Context, Valid
from attnbench.attention.mechanism import FUSIBLE, STAGES, LayerShape, Mechanism
from attnbench.attention.plan import Plan, attend
from attnbench.errors import UsageError

KERNELS = ("auto", "reference", "fused")
Active = dict[str, list[Any]]  # stage -> the mechanisms that provide it, in order


class AttentionLayer(nn.Module):
    """One attention layer: out, aux = layer(x, ...). Build it with `build`.

    q, k, v, out are the projections (width -> width, with bias) that every arm has; what mechanisms own lies
    under `mechanism.<name>`. kernel: `reference` (readable, keeps the map), `fused` (error where there is no
    exact fused form) or `auto` (fused where there is one). aux.stats["path"] names the path that ran.
    """

    def __init__(self, mechanisms: Sequence[Mechanism], shape: LayerShape, kernel: str = "auto") -> None:
        super().__init__()
        self.shape, self.kernel, self.causal = shape, kernel, shape.causal
        self.scale = shape.head_dim**-0.5
        self.q = nn.Linear(shape.width, shape.width)
        self.k = nn.Linear(shape.width, shape.width)
        self.v = nn.Linear(shape.width, shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.mechanism = nn.ModuleDict({m.name: m for m in mechanisms})
        self._active: dict[bool, Active] = {}  # by mode; a plain dict, so that nothing is registered twice
        for training in (False, True):
            uses = [(m, m.active(training)) for m in mechanisms]
            self._active[training] = {s: [m for m, stages in uses if s in stages] for s in STAGES}
        if kernel == "fused":
            self._refuse_unfusible()

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        key_mask: Tensor | None = None,
        state: dict[str, Any] | None = None,
        positions: Tensor | None = None,
        shared: dict[str, Any] | None = None,
        generator: torch.Generator | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Aux]:
        """x (B,N,D) -> (output (B,N,D), Aux).

        context (B,M,D): cross-attention to it. key_mask (B,M) bool, True = may be attended; a row with no
        valid key gives zeros. positions (N,) or (B,N): of the queries (and keys,
        in self-attention); 0..N-1 if left out. state: {} starts decoding, then what aux.state returned;
        causal self-attention only. shared: one dict per forward of the whole network. generator: for this
        layer's random draws in training. need_weights: the map in aux.weights.
        """
        if need_weights and self.kernel == "fused":
            raise UsageError(
                "need_weights with kernel='fused': a fused kernel never forms the map; build with "
                "kernel='auto' or 'reference'"
            )
        on = self._active[self.training]
        c = self._open(x, context, key_mask, state, positions, shared, generator, need_weights)
        q, k, v = on["project"][0].project(c) if on["project"] else project(c)
        for m in on["position"]:
            q, k = m.position(c, q, k)
        new_state = None
        if c.cache is not None:
            k, v = (
                torch.cat([c.cache[name], t], dim=2) if name in c.cache else t
                for name, t in (("k", k), ("v", v))
            )
            new_state = {"k": k, "v": v, "positions": c.visible.k_positions}
        c.q, c.k, c.v = q, k, v
        heads, weights, c.stats["path"] = self._attend(c, on, need_weights)
        for m in on["heads"]:
            heads = m.heads(c, heads)
        merged = heads.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)
        for m in on["gate"]:
            merged = m.gate(c, merged)
        output = on["out"][0].out(c, merged) if on["out"] else self.out(merged)
        if c.visible.empty is not None:
            output = output.masked_fill(c.visible.empty[:, 0], 0.0)
        return output, Aux(weights, c.losses, new_state, c.stats)

    def _attend(self, c: Context, on: Active, need_weights: bool) -> tuple[Tensor, Tensor | None, str]:
        """q, k, v in the context -> heads (B,H,N,d), the map if it was asked for, the path that ran."""
        if self.kernel != "reference" and not need_weights:
            plan, reason = self._plan(c, on)
            if plan is not None and (self.kernel == "fused" or plan.k.shape[2] >= plan.worth_from):
                c.visible = plan.visible
                heads, path = attend(plan)
                return heads, None, path
            if self.kernel == "fused":
                raise UsageError(f"kernel='fused': {reason}; use kernel='auto' or 'reference'")
        heads, weights = reference(c, on)
        return heads, weights if need_weights else None, "reference"

    def _plan(self, c: Context, on: Active) -> tuple[Plan | None, str]:
        assert c.q is not None and c.k is not None and c.v is not None
        plan: Plan | None = Plan(c.q, c.k, c.v, c.visible, c.scale)
        broken: frozenset[str] = frozenset()
        for stage in FUSIBLE:
            for m in on[stage]:
                fuse = getattr(m, f"fuse_{stage}", None)
                plan = None if fuse is None or m.fused_requires & broken else fuse(c, plan)
                if plan is None:
                    mode = "training" if c.training else "evaluation"
                    return (
                        None,
                        f"{m.name} has no fused form of its stage '{stage}' for this composition in {mode}",
                    )
                broken |= m.breaks_of(m.settings)
        return plan, ""

    def _refuse_unfusible(self) -> None:
        """Refuse at building what no mode could ever fuse."""
        for stage in FUSIBLE:
            for m in self._active[False][stage]:
                if m in self._active[True][stage] and not hasattr(m, f"fuse_{stage}"):
                    raise UsageError(
                        f"kernel='fused': {m.name} has no fused form of its stage '{stage}'; "
                        "use kernel='auto' or 'reference'"
                    )

    def _open(
        self,
        x: Tensor,
        context: Tensor | None,
        key_mask: Tensor | None,
        state: dict[str, Any] | None,
        positions: Tensor | None,
        shared: dict[str, Any] | None,
        generator: torch.Generator | None,
        probing: bool,
    ) -> Context:
        """Check what was handed in and make the context of this call."""
        if x.dim() != 3 or x.shape[-1] != self.shape.width:
            raise UsageError(f"x has shape {tuple(x.shape)}; it must be (batch, length, {self.shape.width})")
        if self.causal and context is not None:
            raise UsageError(
                "a causal layer takes no context: cross-attention has no order between queries and keys; "
                "build with causal=False"
            )
        if state is not None and not self.causal:
            raise UsageError(
                "state is for decoding, which needs causal self-attention; build with causal=True"
            )
        source = x if context is None else context
        n, device = x.shape[1], x.device
        past = state["positions"] if state else None
        start = 0 if past is None else past.shape[-1]
        q_positions = torch.arange(start, start + n, device=device) if positions is None else positions
        if context is not None:
            k_positions = torch.arange(source.shape[1], device=device)
        else:
            k_positions = q_positions if past is None else torch.cat([past, q_positions], dim=-1)
        m = k_positions.shape[-1]
        if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape != (x.shape[0], m)):
            raise UsageError(
                f"key_mask is {key_mask.dtype} of shape {tuple(key_mask.shape)}; it must be torch.bool "
                f"of shape ({x.shape[0]}, {m}), True = may be attended"
            )
        in_order = positions is None and past is None and context is None
        visible = Valid(key_mask, self.causal, q_positions, k_positions, in_order=in_order)
        return Context(
            x=x, source=source, cross=context is not None, visible=visible, heads=self.shape.heads,
            layer=self.shape.layer, layers=self.shape.layers, training=self.training, scale=self.scale,
            projections={"q": self.q, "k": self.k, "v": self.v, "out": self.out},
            generator=generator, shared=shared, probing=probing, cache=state,
        )  # fmt: skip

    def mechanism_parameter_names(self) -> set[str]:
        """Names, relative to the layer, of the parameters that mechanisms own."""
        return {f"mechanism.{name}" for name, _ in self.mechanism.named_parameters()}

    def flops(self, n: int, m: int | None = None, training: bool = False) -> float:
        """Forward FLOPs of one example with n queries and m keys (n if left out).

        A multiply-add is 2, every other elementary operation 1, softmax 5 per entry; a causal map counts in
        full. Projections 2 D^2 (2 n + 2 m), products 4 n m D, softmax 5 H n m, and what each mechanism adds.
        """
        m = n if m is None else m
        d, h = self.shape.width, self.shape.heads
        plain = 2.0 * d * d * (2 * n + 2 * m) + 4.0 * n * m * d + 5.0 * h * n * m + n * d
        return plain + sum(mechanism.flops(n, m, training) for mechanism in self.mechanism.values())  # type: ignore[operator]

    def extra_repr(self) -> str:
        return (
            f"heads={self.shape.heads}, causal={self.causal}, kernel={self.kernel}, layer={self.shape.layer}"
        )


def project(c: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Default: q = W_q x, k = W_k source, v = W_v source, split into heads."""
    p = c.projections
    return split(p["q"](c.x), c.heads), split(p["k"](c.source), c.heads), split(p["v"](c.source), c.heads)


def split(t: Tensor, heads: int) -> Tensor:
    """(B,N,D) -> (B,H,N,d)."""
    return t.view(t.shape[0], t.shape[1], heads, -1).transpose(1, 2)


def reference(c: Context, on: Active) -> tuple[Tensor, Tensor]:
    """The readable path: every stage in order -> heads (B,H,N,d) and weights (B,H,N,M)."""
    q, k, v = c.q, c.k, c.v
    assert q is not None and k is not None and v is not None
    for m in on["extend"]:
        length = k.shape[2]
        k, v = m.extend(c, k, v)
        c.visible = c.visible.extended(k.shape[2] - length)
    c.k, c.v = k, v
    if any(m.precise for stage in FUSIBLE for m in on[stage]) and q.element_size() < 4:
        q, k = q.float(), k.float()
    logits = on["score"][0].score(c, q, k) if on["score"] else (q * c.scale) @ k.transpose(-1, -2)
    for m in on["bias"]:
        logits = m.bias(c, logits)
    for m in on["perturb"]:
        logits = m.perturb(c, logits)
    empty = c.visible.empty
    if not c.visible.everything:
        # A row with nothing to attend keeps its logits, so that no normaliser meets a row of -inf;
        # its weights are zeroed below.
        hidden = ~c.valid if empty is None else ~(c.valid | empty)
        logits = logits.masked_fill(hidden, float("-inf"))
    weights = on["normalise"][0].normalise(c, logits) if on["normalise"] else logits.softmax(-1)
    if empty is not None:
        weights = weights.masked_fill(empty, 0.0)
    for m in on["reweight"]:
        weights = m.reweight(c, weights)
    weights = weights.to(v.dtype)
    heads = on["mix"][0].mix(c, weights, v) if on["mix"] else weights @ v
    return heads, weights


def renormalised(weights: Tensor) -> Tensor:
    """Rows divided by their sum; a row of zeros stays one, with a gradient of zero."""
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)
