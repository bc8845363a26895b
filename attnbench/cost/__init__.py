"""Time, memory and FLOPs of a mechanism against a baseline, measured in pairs on a quiet machine."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.cost.measure import Outcome, Skipped, run_cost
    from attnbench.cost.reading import read_cost_specification
    from attnbench.cost.specification import CostSpec

_HOMES = {
    "CostSpec": "specification",
    "read_cost_specification": "reading",
    "run_cost": "measure",
    "Outcome": "measure",
    "Skipped": "measure",
}

__all__ = ["CostSpec", "Outcome", "Skipped", "read_cost_specification", "run_cost"]


def __getattr__(name: str) -> Any:
    """Import a public name's module at first use, so that reading a specification needs no measuring."""
    if name not in _HOMES:
        raise AttributeError(f"module 'attnbench.cost' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"attnbench.cost.{_HOMES[name]}"), name)
