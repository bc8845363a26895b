"""Blur along the keys: of a map (reference), of the keys themselves (the same by linearity), and under a
causal mask.

Always by w shifted slices: a one-channel conv1d is several times slower and keeps tens of maps in memory on
CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbench.attention.plan import Plan


@dataclass(frozen=True)
class Layout:
    """How the keys lie: in a row, or `leading` tokens (left alone) and then a grid in raster order."""

    grid: tuple[int, int] | None = None
    leading: int = 0


def smooth(t: Tensor, valid: Tensor, kernel: Tensor, layout: Layout, normalised: bool) -> Tensor:
    """Blur t (B,H,N,M) along the keys over valid entries; kernel (H or 1,w). Entries that are not valid come
    out finite.
    """
    mass = _convolve(valid.to(t.dtype), kernel, layout, -1) if normalised else None
    blurred = _convolve(t * valid, kernel, layout, -1)
    return blurred if mass is None else blurred / torch.where(mass > 0, mass, 1.0)


def blur_keys(k: Tensor, key_mask: Tensor | None, kernel: Tensor, layout: Layout, normalised: bool) -> Tensor:
    """k (B,H,M,d) -> k' with q k'^T = smooth(q k^T), in float32 at least."""
    dtype = torch.promote_types(k.dtype, torch.float32)
    kernel = kernel.to(dtype)
    valid = (
        k.new_ones(1, 1, k.shape[2], 1, dtype=dtype)
        if key_mask is None
        else key_mask[:, None, :, None].to(dtype)
    )
    mass = _convolve(valid, kernel, layout, -2) if normalised else None
    blurred = _convolve(k.to(dtype) if key_mask is None else k.to(dtype) * valid, kernel, layout, -2)
    return (blurred if mass is None else blurred / torch.where(mass > 0, mass, 1.0)).to(k.dtype)


def _convolve(t: Tensor, kernel: Tensor, layout: Layout, dim: int) -> Tensor:
    """Sum of shifted slices along `dim`; over both axes of the grid if there is one (a Gaussian is
    separable).
    """
    if layout.grid is None:
        return _shift_add(t, kernel, dim)
    before, grid = t.split([layout.leading, t.shape[dim] - layout.leading], dim)
    grid = grid.unflatten(dim, layout.grid)
    columns, rows = (-1, -2) if dim == -1 else (-2, -3)
    grid = _shift_add(_shift_add(grid, kernel, columns), kernel, rows)
    return torch.cat(
        [
            before.expand(grid.shape[0], grid.shape[1], *before.shape[2:]),
            grid.flatten(min(rows, columns), max(rows, columns)),
        ],
        dim,
    )


def _shift_add(t: Tensor, kernel: Tensor, dim: int, until: int | None = None) -> Tensor:
    """out[j] = sum_u kernel[u] t[j + u - r] with zeros outside; `until`: the last offset u - r that
    counts.
    """
    r, length = kernel.shape[-1] // 2, t.shape[dim]
    padded = F.pad(t, (0, 0) * (-dim - 1) + (r, r))
    weights = kernel.view(*kernel.shape, *[1] * (t.dim() - 2))
    total = weights[:, 0] * padded.narrow(dim, 0, length)
    for u in range(1, (2 * r if until is None else r + until) + 1):
        total = total + weights[:, u] * padded.narrow(dim, u, length)
    return total


def causal_blur(kernel: Tensor, normalised: bool) -> Callable[[Plan], Tensor]:
    """The plan's kernel for causal attention on blurred rows, exact.

    A key at distance i - j >= r sees its whole kernel, so those pairs are one causal kernel call on shifted q
    and k'. The r nearest distances each have a key set of their own, whose blur stops at the query: O(N r d)
    products. Both parts are joined by their log-sum-exp.
    """

    def attention(plan: Plan) -> Tensor:
        g = kernel.to(torch.promote_types(plan.k.dtype, torch.float32))
        mask, r = plan.visible.key_mask, g.shape[-1] // 2
        full = blur_keys(plan.k, mask, kernel, Layout(), normalised)
        near = torch.stack([_cut(plan.k, mask, g, distance, normalised) for distance in range(r)], dim=3)
        return _FarAndNear.apply(plan.q, full, near, plan.v, mask, plan.scale)

    return attention


def _cut(k: Tensor, key_mask: Tensor | None, kernel: Tensor, distance: int, normalised: bool) -> Tensor:
    """For each query i the blurred key j = i - distance, from keys up to i only; (B,H,N,d), zeros where j <
    0.
    """
    n, dtype = k.shape[2], kernel.dtype
    valid = k.new_ones(1, 1, n, 1, dtype=dtype) if key_mask is None else key_mask[:, None, :, None].to(dtype)
    cut = _shift_add(k.to(dtype) * valid, kernel, -2, distance)
    if normalised:
        mass = _shift_add(valid, kernel, -2, distance)
        cut = cut / torch.where(mass > 0, mass, 1.0)
    return _delay(cut.to(k.dtype), distance)


def _delay(t: Tensor, distance: int) -> Tensor:
    """Row i of the result is row i - distance of t (B,H,N,...); zeros before."""
    return F.pad(t, (0, 0, distance, 0))[:, :, : t.shape[2]] if distance else t


def _advance(t: Tensor, distance: int) -> Tensor:
    """The adjoint of `_delay`."""
    return F.pad(t, (0, 0, 0, distance))[:, :, distance:] if distance else t


class _FarAndNear(torch.autograd.Function):
    """One softmax over two key sets: far (q_i with full_j, j <= i - r) and near (q_i with near_i,delta, delta
    < r).

    The kernel's own backward takes any `out` and `lse`: given the joined ones it returns the exact gradient
    of its part.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, full: Tensor, near: Tensor, v: Tensor, key_mask: Tensor | None, scale: float
    ) -> Tensor:
        n, r = q.shape[2], near.shape[3]
        dtype = torch.promote_types(q.dtype, torch.float32)
        logits = torch.einsum("bhnd,bhnrd->bhnr", q.to(dtype), near.to(dtype)) * scale
        logits = logits.masked_fill(~_visible_near(n, r, key_mask, q.device), float("-inf"))
        lse = logits.logsumexp(-1)
        far_mask, far_lse = None, None
        if n > r:
            if key_mask is not None:
                far_mask = torch.zeros(key_mask.shape, dtype=q.dtype).masked_fill(~key_mask, float("-inf"))
                far_mask = far_mask[:, None, None, : n - r].expand(-1, 1, n - r, -1)
            far, far_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q[:, :, r:], full[:, :, : n - r], v[:, :, : n - r], 0.0, True, attn_mask=far_mask, scale=scale
            )
            far_lse = far_lse.to(dtype)
            if key_mask is not None:  # the kernel calls the log-sum-exp of an empty row 0
                far_lse = far_lse.masked_fill(key_mask[:, None, : n - r].cumsum(-1) == 0, float("-inf"))
            lse = torch.cat([lse[:, :, :r], torch.logaddexp(lse[:, :, r:], far_lse)], dim=2)
        lse = lse.masked_fill(
            lse == float("-inf"), 0.0
        )  # a row with nothing to attend: all weights below are exp(-inf)
        weights = (logits - lse[..., None]).exp()
        out = sum(
            (weights[..., u, None] * _delay(v.to(dtype), u) for u in range(r)),
            torch.zeros_like(v, dtype=dtype),
        )
        if far_lse is not None:
            out[:, :, r:] += (far_lse - lse[:, :, r:]).exp()[..., None] * far
        out = out.to(v.dtype)
        ctx.save_for_backward(q, full, near, v, far_mask, weights, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, full, near, v, far_mask, weights, out, lse = ctx.saved_tensors
        n, r, dtype = q.shape[2], near.shape[3], weights.dtype
        g = grad.to(dtype)
        delta = (g * out).sum(-1)
        dlogits = (
            torch.stack([(g * _delay(v.to(dtype), u)).sum(-1) - delta for u in range(r)], dim=-1)
            * weights
            * ctx.scale
        )
        dq = torch.einsum("bhnr,bhnrd->bhnd", dlogits, near.to(dtype))
        dnear = dlogits[..., None] * q.to(dtype)[:, :, :, None]
        dv = sum((_advance(weights[..., u, None] * g, u) for u in range(r)), torch.zeros_like(g))
        dfull = torch.zeros_like(full)
        if n > r:
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad[:, :, r:].contiguous(), q[:, :, r:], full[:, :, : n - r], v[:, :, : n - r],
                out[:, :, r:], lse[:, :, r:].transpose(1, 2).contiguous().transpose(1, 2), 0.0, True,
                attn_mask=far_mask, scale=ctx.scale,
            )  # fmt: skip
            dq[:, :, r:] += parts[0]
            dfull[:, :, : n - r] = parts[1]
            dv[:, :, : n - r] += parts[2]
        return dq.to(q.dtype), dfull, dnear.to(near.dtype), dv.to(v.dtype), None, None


def _visible_near(n: int, r: int, key_mask: Tensor | None, device: torch.device) -> Tensor:
    """(B or 1,1,N,r): whether key i - delta exists and is no padding."""
    exists = torch.arange(n, device=device)[:, None] >= torch.arange(r, device=device)
    if key_mask is None:
        return exists[None, None]
    columns = [_delay(key_mask[:, None, :, None].to(torch.uint8), u)[..., 0].bool() for u in range(r)]
    return torch.stack(columns, dim=-1) & exists
