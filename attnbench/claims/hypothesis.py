"""A paper's claim as a small declarative object: what is said, by whom it was read, against what it is held.

A hypothesis holds no code. Its `rule` says how it is judged (judging.py), its contrasts which arms are held
against which, its paper values what the paper printed and where that was read. The catalogues are
attentiondrop.py and lam.py.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from attnbench.errors import UsageError


@dataclass(frozen=True)
class PaperValue:
    """A figure of the paper, signed so that positive is the claim.

    source      the tag of the sheet's list of sources (SOURCES): nearly all are second-hand
    workload    where a run on that workload and `matched` host would be the paper's own setting; None:
    unknown
    """

    value: float
    unit: str
    what: str
    source: str
    workload: str | None = None


@dataclass(frozen=True)
class Arm:
    """An arm by what it is: exactly these mechanisms, this objective, this many times the baseline's
    budget.
    """

    mechanisms: tuple[str, ...]
    objective: str | None = None
    budget: float = 1.0

    def __str__(self) -> str:
        text = "+".join(self.mechanisms) + (f" & {self.objective}" if self.objective else "")
        return text if self.budget == 1 else f"{text}, {self.budget:g}x budget"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row (of `trials` or `cost_ratios`) is of these mechanisms and this objective; budget
        aside.
        """
        names = tuple(sorted(entry["name"] for entry in decoded(row.get("attention")) or ()))
        objective = decoded(row.get("objective"))
        return names == tuple(sorted(self.mechanisms)) and (objective or {}).get("name") == self.objective


@dataclass(frozen=True)
class Contrast:
    """One arm against one baseline, with the figures that the paper gives for this pair."""

    arm: Arm
    baseline: Arm
    paper: tuple[PaperValue, ...] = ()


@dataclass(frozen=True)
class Difference:
    """Paired difference of a metric of `trials` over seeds; `floor`: the smallest effect that counts."""

    metric: str
    floor: float = 0.0
    report_only: bool = False


@dataclass(frozen=True)
class Calibration:
    """Difference of ECE, and the same after one temperature fitted on validation."""

    metric: str = "test_ece"
    report_only: bool = False


@dataclass(frozen=True)
class Attacked:
    """Difference of accuracy under an attack, one verdict per radius, behind the attack's sanity gates."""

    kind: str = "pgd"


@dataclass(frozen=True)
class Corrupted:
    """Difference of mean accuracy over the severities of each corruption; reported, not judged."""

    kinds: tuple[str, ...] = ("noise", "blur", "patch_drop")


@dataclass(frozen=True)
class CostAtMost:
    """Time ratio minus 1 at most twice the paper's figure, against eager and against fused."""

    mode: str = "step"


@dataclass(frozen=True)
class CostInside:
    """Throughput ratio inside an interval."""

    low: float
    high: float
    mode: str = "step"


@dataclass(frozen=True)
class CostBelowOne:
    """Time ratio below 1; the FLOP ratio is arithmetic and printed beside it."""

    mode: str = "step"


@dataclass(frozen=True)
class FreeAtEvaluation:
    """Evaluation outputs equal bit for bit, and evaluation time within +-within of the baseline's."""

    within: float = 0.01


@dataclass(frozen=True)
class VarianceFall:
    """tr Cov(g) at fixed weights against no perturbation on the same batches; scaled: over |E g|^2."""

    scaled: bool = False


@dataclass(frozen=True)
class Unable:
    """No rule that runs: `label` (not_run, not_testable or a settled one) and the reason."""

    label: str
    reason: str


Rule = (
    Difference | Calibration | Attacked | Corrupted | CostAtMost | CostInside | CostBelowOne
    | FreeAtEvaluation | VarianceFall | Unable
)  # fmt: skip


@dataclass(frozen=True)
class Hypothesis:
    """One row of a sheet's list of claims. `name`: the method, by which all its claims are verified
    together.
    """

    id: str
    name: str
    arxiv: str
    family: str
    statement: str
    metric: str
    direction: str
    rule: Rule
    contrasts: tuple[Contrast, ...] = ()
    matched_host: Mapping[str, int] | None = None

    @property
    def runnable(self) -> bool:
        return not isinstance(self.rule, Unable)

    def as_dict(self) -> dict[str, Any]:
        """What `attnbench claims list --json` prints."""
        return {
            "id": self.id,
            "name": self.name,
            "arxiv": self.arxiv,
            "family": self.family,
            "statement": self.statement,
            "metric": self.metric,
            "direction": self.direction,
            "rule": type(self.rule).__name__,
            "runnable": self.runnable,
            "reason": self.rule.reason if isinstance(self.rule, Unable) else None,
            "contrasts": [
                {
                    "arm": str(contrast.arm),
                    "baseline": str(contrast.baseline),
                    "paper": [{**asdict(v), "read_in": sources()[v.source]} for v in contrast.paper],
                }
                for contrast in self.contrasts
            ],
        }


def hypotheses() -> list[Hypothesis]:
    """Every registered claim, in the order of the sheets."""
    from attnbench.claims import attentiondrop, lam

    return [*attentiondrop.HYPOTHESES, *lam.HYPOTHESES]


def sources() -> dict[str, str]:
    """Tag -> where figures with that tag were read."""
    from attnbench.claims import attentiondrop, lam

    return {**attentiondrop.SOURCES, **lam.SOURCES}


def find(name: str) -> list[Hypothesis]:
    """The claims that `name` means: one id, all of a method or family, or "all"; UsageError with the
    nearest.
    """
    known = hypotheses()
    wanted = name.lower()
    found = [h for h in known if wanted in (h.id.lower(), h.name.lower(), h.family.lower(), "all")]
    if wanted == "all":
        return known
    if not found:
        names = list(dict.fromkeys([h.name for h in known] + [h.id for h in known]))
        close = [n for word in (name.upper(), wanted) for n in difflib.get_close_matches(word, names, n=1)]
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"no claim '{name}'; {hint}'attnbench claims list' shows all")
    return found


def decoded(value: Any) -> Any:
    """A JSON column as an object, whether it was read as text, as an object or as a missing value."""
    if isinstance(value, str):
        return json.loads(value)
    return value if isinstance(value, (dict, list)) else None
