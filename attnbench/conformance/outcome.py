"""How a check says what it found."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Failed(AssertionError):
    """The mechanism does not hold what the check is named after."""


class DoesNotApply(Exception):
    """The check has no meaning for this mechanism."""


def hold(condition: bool, otherwise: str) -> None:
    """Failed with `otherwise` unless the condition is true."""
    if not condition:
        raise Failed(otherwise)


def same(a: Tensor, b: Tensor, tolerance: float, otherwise: str) -> None:
    """Failed if any entry differs by more than the tolerance."""
    gap = (a - b).abs().max().item() if a.numel() else 0.0
    if not gap <= tolerance:
        raise Failed(f"{otherwise} by {gap:.2g} (allowed {tolerance:.0e})")


def equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules have the same parameters to the bit."""
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
