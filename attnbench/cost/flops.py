"""FLOPs of one call, counted from the operations that ran: matrix products and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def counted_flops(call: Callable[[], object]) -> float:
    """FLOPs of the matrix products and attention kernels in one `call`, backward included where it runs.

    torch's counter, taught the CPU's flash kernel, which it does not know and would count as nothing. A
    causal kernel counts in full, as in the formula `AttentionLayer.flops`; what kernels recompute is
    counted as they do it.
    """
    with FlopCounterMode(display=False, custom_mapping=_CPU_KERNELS) as counter:
        call()
    return float(counter.get_total_flops())


def _forward(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _backward(grad: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


_CPU_KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
