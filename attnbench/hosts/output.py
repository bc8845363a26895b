"""What every host returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class HostOutput(NamedTuple):
    """logits (B,classes) of an encoder, (B,N,vocabulary) of a decoder, (K,vocabulary) where K positions
    were asked for; losses of the mechanisms by name, summed over layers, to be added to the task's; stats:
    "path" (the attention paths that ran, joined by commas) and "layers" (what each layer reported);
    weights: one (B,H,N,M) per layer, or None.
    """

    logits: Tensor
    losses: dict[str, Tensor]
    stats: dict[str, Any]
    weights: list[Tensor | None] | None
