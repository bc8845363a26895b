"""The quality of a model over a split, batch by batch, without a trace in the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from attnbench.evaluation.quality import TALLY_SIZE, figures, tally

if TYPE_CHECKING:
    from attnbench.workloads import Split

Batch = tuple[Tensor, Tensor, Tensor | None]


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch: int = 256,
    device: torch.device | str | None = None,
    metric: str = "accuracy",
) -> dict[str, float]:
    """Metrics of `model` in evaluation mode over every example of `split`, as `quality.figures` defines them.

    model(inputs, key_mask=...) returns a HostOutput; targets of -100 do not count. batch: examples per
    forward pass; device: where the model lies (default: where its parameters are). Training flags are
    restored.
    """
    device = where(model, device)
    sums = torch.zeros(TALLY_SIZE, dtype=torch.float64, device=device)
    with evaluation_mode(model), torch.no_grad():
        for inputs, targets, key_mask in batches(split, batch, device):
            sums += tally(model(inputs, key_mask=key_mask).logits, targets)
    return figures(sums, metric)


def batches(split: Split, size: int, device: torch.device) -> Iterator[Batch]:
    """(inputs, targets, key_mask) of the split in order, at most `size` examples at a time, on `device`."""
    for start in range(0, len(split.targets), size):
        part = slice(start, start + size)
        mask = None if split.key_mask is None else split.key_mask[part].to(device)
        yield split.inputs[part].to(device), split.targets[part].to(device), mask


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode inside the block; afterwards every module has its own training flag back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def where(model: nn.Module, device: torch.device | str | None = None) -> torch.device:
    """The device asked for, else the one that the model's parameters are on."""
    if device is not None:
        return torch.device(device)
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
