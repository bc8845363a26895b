"""Papers' claims as hypotheses, the statistics that judge them, and verdicts.

    from attnbench.claims import compare, hypotheses, verify

Names are looked up on first use, so that listing claims imports neither scipy nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.claims.comparison import Comparison, compare
    from attnbench.claims.hypothesis import Hypothesis, find, hypotheses
    from attnbench.claims.verdict import Verdict
    from attnbench.claims.verification import verify

_HOMES = {
    "Comparison": "comparison",
    "compare": "comparison",
    "Hypothesis": "hypothesis",
    "find": "hypothesis",
    "hypotheses": "hypothesis",
    "Verdict": "verdict",
    "verify": "verification",
}

__all__ = ["Comparison", "Hypothesis", "Verdict", "compare", "find", "hypotheses", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attnbench.claims' has no attribute {name!r}")
    return getattr(importlib.import_module(f"attnbench.claims.{_HOMES[name]}"), name)
