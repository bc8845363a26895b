"""Hard masking of a row's top logits: the choice, the fill, and an exact fused form over row tiles.

A row's k-th largest logit is needed before its softmax; tiles of whole rows give that in one pass, and the
backward pass recomputes them, so that nothing of size N x M is kept. Saved: q, k, v, out, lse, the k chosen
indices and the coins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from attnbench.attention.context import Valid
from attnbench.attention.plan import Plan

TILE = 65_536  # entries of one head's tile: large enough for the products, small enough for the cache


def stable_topk(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest along the last axis, largest first, ties to the lower index."""
    values, indices = scores.topk(min(k + 1, scores.shape[-1]), dim=-1)
    tied = (values[..., 1:] == values[..., :-1]) & (values[..., 1:] != float("-inf"))
    if (
        tied.any()
    ):  # topk breaks ties as it likes; the stable sort costs several times as much and is rarely needed
        indices = scores.sort(dim=-1, descending=True, stable=True).indices
    return indices[..., :k]


def drop_table(coins: Tensor, rows: Tensor | None, visible: Valid, keys: int, keep_one: bool) -> Tensor:
    """Which of the chosen keys drop: coins (B,H,N,k) True = drop, limited to each row's own k; keep_one:
    never all valid keys.
    """
    k = coins.shape[-1]
    drop = coins if rows is None else coins & (torch.arange(k, device=coins.device) < rows)
    if keep_one and (k >= keys or not visible.everything):
        all_dropped = drop.sum(-1, keepdim=True) >= visible.counts
        drop = drop & ~(all_dropped & (torch.arange(k, device=coins.device) == 0))
    return drop


def fill_dropped(logits: Tensor, visible: Valid, chosen: Tensor, drop: Tensor, mask_value: str) -> Tensor:
    """logits with the dropped entries replaced by 0, by -inf or by the row's least valid logit."""
    dropped = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device).scatter_(-1, chosen, drop)
    if mask_value == "rowmin":
        least = logits.masked_fill(~visible.dense, float("inf")).amin(-1, keepdim=True)
        return torch.where(dropped, least, logits)
    return logits.masked_fill(dropped, 0.0 if mask_value == "zero" else float("-inf"))


def tiled(coins: Tensor, rows: Tensor | None, mask_value: str) -> Callable[[Plan], Tensor]:
    """The plan's kernel for these coins; rows: k of each row, broadcastable to (B,H,N,1), or None."""

    def kernel(plan: Plan) -> Tensor:
        return _TiledHardMask.apply(
            plan.q, plan.k, plan.v, plan.bias, coins, rows, plan.visible, plan.scale, mask_value
        )

    return kernel


class _Tiles:
    """Row tiles of the logits (before any drop), with -inf nowhere."""

    def __init__(self, q: Tensor, k: Tensor, bias: Tensor | None, visible: Valid, scale: float) -> None:
        self.dtype = torch.promote_types(q.dtype, torch.float32)
        self.q, self.k = q.to(self.dtype) * scale, k.to(self.dtype)
        self.bias, self.visible = bias, visible

    def __iter__(self) -> Iterator[tuple[slice, int, Tensor, Valid]]:
        """rows, the number of keys that they can see, their logits (B,H,T,keys) and their part of the
        mask.
        """
        n, m = self.q.shape[2], self.k.shape[2]
        height = max(1, TILE // m)
        for start in range(0, n, height):
            rows = slice(start, min(start + height, n))
            keys = rows.stop if self.visible.causal and self.visible.in_order else m
            logits = self.q[:, :, rows] @ self.k[:, :, :keys].transpose(-1, -2)
            if self.bias is not None:
                logits += self.bias[..., rows if self.bias.shape[2] > 1 else slice(None), :keys].to(
                    self.dtype
                )
            yield rows, keys, logits, self.visible.part(rows, keys)


class _TiledHardMask(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, coins: Tensor, k_rows: Tensor | None,
        visible: Valid, scale: float, mask_value: str,
    ) -> Tensor:  # fmt: skip
        tiles = _Tiles(q, k, bias, visible, scale)
        out = torch.empty(*q.shape[:3], v.shape[-1], dtype=v.dtype, device=v.device)
        lse = torch.empty(*q.shape[:3], 1, dtype=tiles.dtype, device=q.device)
        small = torch.int16 if k.shape[2] <= 32767 else torch.int32
        indices = torch.zeros(coins.shape, dtype=small, device=q.device)
        drops = torch.zeros_like(coins)
        for rows, keys, logits, part in tiles:
            count = min(coins.shape[-1], keys)
            hidden = None if visible.everything else ~part.dense
            chosen = stable_topk(
                logits if hidden is None else logits.masked_fill(hidden, float("-inf")), count
            )
            own = k_rows if k_rows is None or k_rows.shape[2] == 1 else k_rows[:, :, rows]
            drop = drop_table(coins[:, :, rows, :count], own, part, keys, mask_value == "neginf")
            indices[:, :, rows, :count], drops[:, :, rows, :count] = chosen.to(small), drop
            weights, lse[:, :, rows] = _softmax(logits, part, hidden, chosen, drop, mask_value)
            out[:, :, rows] = (weights @ v[:, :, :keys].to(tiles.dtype)).to(v.dtype)
        ctx.save_for_backward(q, k, v, bias, out, lse, indices, drops)
        ctx.visible, ctx.scale, ctx.mask_value = visible, scale, mask_value
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, out, lse, indices, drops = ctx.saved_tensors
        tiles = _Tiles(q, k, bias, ctx.visible, ctx.scale)
        grad, v_ = grad.to(tiles.dtype), v.to(tiles.dtype)
        dq = torch.empty_like(tiles.q)
        dk, dv = torch.zeros_like(tiles.k), torch.zeros_like(v_)
        for rows, keys, logits, part in tiles:
            count = min(indices.shape[-1], keys)
            chosen, drop = indices[:, :, rows, :count].long(), drops[:, :, rows, :count]
            hidden = None if ctx.visible.everything else ~part.dense
            least = _argmin(logits, hidden) if ctx.mask_value == "rowmin" else None
            weights, _ = _softmax(logits, part, hidden, chosen, drop, ctx.mask_value, lse[:, :, rows])
            g = grad[:, :, rows]
            dv[:, :, :keys] += weights.transpose(-1, -2) @ g
            ds = g @ v_[:, :, :keys].transpose(-1, -2)
            ds -= (g * out[:, :, rows]).sum(-1, keepdim=True)
            ds *= weights
            at = ds.gather(-1, chosen)
            ds.scatter_(-1, chosen, at.masked_fill(drop, 0.0))  # no gradient passes a dropped logit
            if least is not None:  # it took the value of the row's least one, which gets the gradient
                ds.scatter_add_(-1, least, at.masked_fill_(~drop, 0.0).sum(-1, keepdim=True))
            dq[:, :, rows] = ds @ tiles.k[:, :, :keys]
            dk[:, :, :keys] += ds.transpose(-1, -2) @ tiles.q[:, :, rows]
        return (
            (dq * ctx.scale).to(q.dtype),
            dk.to(k.dtype),
            dv.to(v.dtype),
            None,
            None,
            None,
            None,
            None,
            None,
        )


def _argmin(logits: Tensor, hidden: Tensor | None) -> Tensor:
    visible = logits if hidden is None else logits.masked_fill(hidden, float("inf"))
    return visible.argmin(-1, keepdim=True)


def _softmax(
    logits: Tensor,
    part: Valid,
    hidden: Tensor | None,
    chosen: Tensor,
    drop: Tensor,
    mask_value: str,
    lse: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fill, mask and normalise a tile in place -> weights and lse; rows with nothing to attend get zeros and
    lse 0.
    """
    at = logits.gather(-1, chosen)
    if mask_value == "rowmin":
        at = torch.where(drop, logits.gather(-1, _argmin(logits, hidden)), at)
    else:
        at = at.masked_fill(drop, 0.0 if mask_value == "zero" else float("-inf"))
    logits = logits.scatter_(-1, chosen, at)
    if hidden is not None:
        logits = logits.masked_fill_(hidden, float("-inf"))
    if lse is None:
        lse = logits.logsumexp(-1, keepdim=True)
        lse = lse.masked_fill(lse == float("-inf"), 0.0)
    return logits.sub_(lse).exp_(), lse
