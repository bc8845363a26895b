"""Calibration beyond one ECE: equal-mass bins, and how much of an error a single temperature removes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from attnbench.evaluation.evaluate import batches, evaluation_mode, where
from attnbench.evaluation.quality import BINS, IGNORED, TALLY_SIZE, figures, tally

if TYPE_CHECKING:
    from attnbench.workloads import Split

FITTED_TARGETS = 20_000  # logits kept for the fit; one scalar needs no more


def adaptive_ece(logits: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """ECE over bins of equal mass (arXiv 1904.01685): logits (..., C), targets (...) with -100 ignored."""
    logits, targets = logits.detach().reshape(-1, logits.shape[-1]).float(), targets.reshape(-1)
    counted = targets != IGNORED
    confidence, predicted = logits[counted].softmax(-1).max(-1)
    correct = (predicted == targets[counted]).double()
    order = confidence.argsort(stable=True)
    gaps = [
        float((confidence[part].double() - correct[part]).sum().abs()) for part in order.tensor_split(bins)
    ]
    return sum(gaps) / max(1, len(order))


def fit_temperature(
    model: nn.Module, split: Split, *, batch: int = 256, device: torch.device | str | None = None
) -> float:
    """T that minimises the NLL of logits / T (arXiv 1706.04599) on `split`, never the test part."""
    device = where(model, device)
    kept, labels, count = [], [], 0
    with evaluation_mode(model), torch.no_grad():
        for inputs, targets, key_mask in batches(split, batch, device):
            logits = model(inputs, key_mask=key_mask).logits
            counted = targets.reshape(-1) != IGNORED
            kept.append(logits.reshape(-1, logits.shape[-1])[counted].double())
            labels.append(targets.reshape(-1)[counted])
            count += len(labels[-1])
            if count >= FITTED_TARGETS:
                break
    return _minimise_nll(torch.cat(kept), torch.cat(labels))


def at_temperature(
    model: nn.Module,
    split: Split,
    temperature: float,
    *,
    batch: int = 256,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """The figures of `evaluate` with every logit divided by `temperature`; accuracy is untouched by it."""
    device = where(model, device)
    sums = torch.zeros(TALLY_SIZE, dtype=torch.float64, device=device)
    with evaluation_mode(model), torch.no_grad():
        for inputs, targets, key_mask in batches(split, batch, device):
            sums += tally(model(inputs, key_mask=key_mask).logits / temperature, targets)
    return figures(sums)


def _minimise_nll(logits: Tensor, targets: Tensor) -> float:
    """T in [1/64, 64] by bisection on the derivative: the NLL is convex in b = 1/T.

    d NLL / d b = mean(E_p[logit] - logit of the target), with p = softmax(b logits).
    """
    hit = logits.gather(1, targets[:, None])[:, 0]
    low, high = -6.0, 6.0  # log2 of b
    for _ in range(50):
        middle = (low + high) / 2
        p = (logits * 2.0**middle).softmax(-1)
        slope = float(((p * logits).sum(-1) - hit).mean())
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(2.0 ** -((low + high) / 2))
