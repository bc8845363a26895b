"""Sweeps: a specification in YAML, the trials that it asks for, and Ray Tune running them.

    from attnbench.sweep import read_specification, plan, run_sweep

Names are looked up on first use, so that `--help` imports nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.sweep.cluster import Cluster
    from attnbench.sweep.planning import plan
    from attnbench.sweep.runner import Outcome, run_file, run_sweep
    from attnbench.sweep.specification import Sweep, read_specification

_HOMES = {
    "Cluster": "cluster",
    "Outcome": "runner",
    "Sweep": "specification",
    "plan": "planning",
    "read_specification": "specification",
    "run_file": "runner",
    "run_sweep": "runner",
}


__all__ = ["Cluster", "Outcome", "Sweep", "plan", "read_specification", "run_file", "run_sweep"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attnbench.sweep' has no attribute {name!r}")
    return getattr(importlib.import_module(f"attnbench.sweep.{_HOMES[name]}"), name)
