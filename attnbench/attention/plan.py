"""The fused path: an immutable plan that each active stage rewrites or declines, and the kernel that runs it.

A plan never touches the context: one that is given up half-way must leave no trace for the reference path
that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbench.attention.context import Valid

_BACKENDS = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}


@dataclass(frozen=True)
class Plan:
    """softmax(scale q k^T + bias, over `visible`) v, then each of `post`; or `kernel(plan)` in place of the
    first part.

    q (B,H,N,d); k, v (B,H,M,d); bias broadcastable to (B,H,N,M) or None; post: maps heads (B,H,N,d) -> heads;
    kernel: an exact kernel of our own, named `kernel_name`; algebra: a stage was replaced by an identity
    around the kernel; worth_from: with fewer keys the reference is quicker, and `kernel: auto` takes it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    visible: Valid
    scale: float
    bias: Tensor | None = None
    post: tuple[Callable[[Tensor], Tensor], ...] = ()
    kernel: Callable[[Plan], Tensor] | None = None
    kernel_name: str = ""
    algebra: bool = False
    worth_from: int = 0

    def with_(self, **changes: Any) -> Plan:
        """A copy with some fields replaced."""
        return replace(self, **changes)


def attend(plan: Plan) -> tuple[Tensor, str]:
    """Run a plan -> heads (B,H,N,d) and the name of the path that ran (`flash_cpu`, `math`, `algebra+flash`,
    `tiled`, ...).
    """
    if plan.kernel is not None:
        heads, path = plan.kernel(plan), plan.kernel_name
    else:
        heads, path = _sdpa(plan)
    for after in plan.post:
        heads = after(heads)
    if plan.algebra:
        path = f"algebra+{path.removesuffix('_cpu')}"
    return heads, path


def _sdpa(plan: Plan) -> tuple[Tensor, str]:
    on_cpu = plan.q.device.type == "cpu"
    call = _arguments(plan, pair=on_cpu)
    choice = _choice(plan, call)
    if choice == "math" and call["is_causal"] and call["attn_mask"] is not None:
        call = _arguments(plan, pair=False)  # the slow form refuses a mask beside the causal flag
        choice = _choice(plan, call)
    heads = F.scaled_dot_product_attention(plan.q, plan.k, plan.v, **call)
    if not on_cpu and plan.visible.empty is not None:
        heads = heads.masked_fill(plan.visible.empty, 0.0)  # the CPU kernels give zeros by themselves
    return heads, "flash_cpu" if choice == "flash" and on_cpu else choice


def _choice(plan: Plan, call: dict[str, Any]) -> str:
    """The kernel that scaled_dot_product_attention will take.

    Its own dispatcher is asked, since it falls back to its slow form silently; a private function, held by a
    test against what ran.
    """
    return _BACKENDS.get(torch._fused_sdp_choice(plan.q, plan.k, plan.v, **call), "other")


def _arguments(plan: Plan, pair: bool) -> dict[str, Any]:
    """attn_mask, is_causal and scale. pair: a mask and the causal flag may stand together, as the CPU's fused
    kernel allows and no other; else causality goes into the mask.
    """
    visible = plan.visible
    flag = visible.causal and visible.in_order
    hidden: Tensor | None = None
    if flag and (pair or (visible.key_mask is None and plan.bias is None)):
        hidden = None if visible.key_mask is None else visible.key_mask[:, None, None, :]
    else:
        flag = False
        hidden = None if visible.everything else visible.dense
    mask = hidden
    if plan.bias is not None:
        bias = plan.bias.to(plan.q.dtype)
        if not torch.is_grad_enabled():
            bias = bias.detach()  # a bias that wants a gradient is refused by the fused kernel, graph or none
        bias = bias if hidden is None else bias.masked_fill(~hidden, float("-inf"))
        mask = bias.expand(plan.q.shape[0], plan.bias.shape[1], plan.q.shape[2], plan.k.shape[2])
    return {"attn_mask": mask, "is_causal": flag, "scale": plan.scale}
