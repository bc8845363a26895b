"""Claims about cost: the specification that measures them, and effects from rows of `cost_ratios`.

A ratio counts against the baseline's eager path (same path of the variant) and, as a second line, against its
fused one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench.claims.evidence import shape_of
from attnbench.claims.hypothesis import (
    Arm,
    Contrast,
    CostAtMost,
    CostBelowOne,
    CostInside,
    FreeAtEvaluation,
    Hypothesis,
)

EAGER = frozenset({"reference", "eager", "math"})
CostRule = CostAtMost | CostInside | CostBelowOne | FreeAtEvaluation

SHAPES: dict[str, dict[str, Any]] = {
    "cpu": {"batch": 32, "heads": 4, "head_dim": 16},
    "gpu": {"batch": 256, "heads": 12, "head_dim": 64},
}
LENGTHS = {"cpu": [17, 65, 197], "gpu": [197]}
LAM_LENGTHS = {"cpu": [64, 256], "gpu": [256, 1024, 4096]}
HOSTS = {"cpu": {"layers": 4, "patch": 2}, "gpu": {"layers": 12, "patch": 16}}


@dataclass
class CostEffect:
    """A time ratio with its interval for one contrast, shape and baseline path."""

    hypothesis: Hypothesis
    contrast: Contrast
    ratio: float
    low: float
    high: float
    arm: str
    baseline: str
    measurements: list[str]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def cost_document(hypothesis: Hypothesis, tier: str) -> dict[str, Any]:
    """The cost specification (as in a YAML file) that measures a claim."""
    rule = hypothesis.rule
    evaluation = isinstance(rule, FreeAtEvaluation)
    lengths = LAM_LENGTHS if isinstance(rule, CostBelowOne) else LENGTHS
    document: dict[str, Any] = {
        "cost": f"claims-{hypothesis.id}-{tier}",
        "attention": [_entry(contrast.arm) for contrast in hypothesis.contrasts],
        "baseline": list(hypothesis.contrasts[0].baseline.mechanisms),
        "shapes": [{**SHAPES[tier], "length": lengths[tier]}],
        "modes": ["eval" if evaluation else "step"],
        "target_half_width": 0.004 if evaluation else 0.02,
        "limit_s": 60 if evaluation else 30,
    }
    if not evaluation:
        document["host"] = HOSTS[tier]
    if tier == "gpu":
        document["precision"] = "bf16"
    return document


def _entry(arm: Arm) -> dict[str, Any]:
    entry: dict[str, Any] = {"attention": list(arm.mechanisms)}
    return {**entry, "objective": {"name": arm.objective}} if arm.objective else entry


def measure(document: dict[str, Any], results: Path, fresh: bool = False) -> str:
    """Run a cost specification unless its figures are there already; the name under which they are."""
    from attnbench.cost import CostSpec, run_cost
    from attnbench.results import Store, load

    spec = CostSpec.model_validate(document)
    if fresh or not results.exists() or load("cost_ratios", results, sweep=spec.cost).empty:
        store = Store(results)
        store.ensure_writable()
        sink = store.sink(spec.cost, spec.identity, store.next_attempt(spec.cost, spec.identity))
        run_cost(spec, sink, build_objective=_objective)
    return spec.cost


def _objective(spec: Any, attention: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    from attnbench.training.objectives import build_objective, canonical_objective, settle_passes

    written = settle_passes(canonical_objective(spec), attention)
    return written, build_objective(written)


def cost_effects(ratios: pd.DataFrame, hypothesis: Hypothesis, mode: str) -> list[CostEffect]:
    """One effect per contrast, shape and baseline path (eager, fused) that the rows answer."""
    rows = ratios[ratios["mode"] == mode] if len(ratios) else ratios
    effects = []
    for contrast in hypothesis.contrasts:
        for path, shape, own in _cells(rows, contrast):
            low, high = _interval(own)
            latest = own.iloc[-1]
            effect = CostEffect(
                hypothesis,
                contrast,
                math.exp(_mean_log(own["ratio"])),
                low,
                high,
                f"{contrast.arm} ({latest['path']}) at {shape}",
                f"{contrast.baseline} ({latest['baseline_path']})",
                sorted(set(own["cost_id"])),
            )
            effect.problems += _noise(rows, latest)
            effect.notes += _notes(own, path)
            effects.append(effect)
    return effects


def _cells(rows: pd.DataFrame, contrast: Contrast) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(eager or fused, shape, rows of all repeats); of the variant's paths the like one, or what it has."""
    if rows.empty:
        return
    baseline = "+".join(contrast.baseline.mechanisms)
    if contrast.baseline.objective:
        baseline += f" & {contrast.baseline.objective}"
    matching = [contrast.arm.matches(row) and row["baseline"] == baseline for row in rows.to_dict("records")]
    own = rows[matching]
    for keys, cell in own.groupby(
        ["batch", "heads", "length", "head_dim", "causal", "precision"], dropna=False
    ):
        shape = shape_of(dict(zip(("batch", "heads", "length", "head_dim"), keys, strict=False)))
        for path in ("eager", "fused"):
            against = cell[cell["baseline_path"].isin(EAGER) == (path == "eager")]
            alike = against[against["path"].isin(EAGER) == (path == "eager")]
            if len(alike) or len(against):
                yield path, shape, alike if len(alike) else against


def _interval(own: pd.DataFrame) -> tuple[float, float]:
    """The bootstrap interval; over 5 or more repeats the t interval of their logs, else the widest."""
    from attnbench.claims.statistics import mean_interval

    if own["repeat"].nunique() >= 5:
        over = mean_interval([math.log(ratio) for ratio in own["ratio"]])
        return math.exp(over.low), math.exp(over.high)
    return float(own["ratio_low"].min()), float(own["ratio_high"].max())


def _mean_log(ratios: pd.Series) -> float:
    return sum(math.log(ratio) for ratio in ratios) / len(ratios)


def _noise(rows: pd.DataFrame, latest: pd.Series) -> list[str]:
    """The machine timed against itself: its interval has to hold 1."""
    alike = (rows["mechanism"] == rows["baseline"]) & rows["objective"].isna()
    same = rows[alike & (rows["path"] == rows["baseline_path"])]
    own = same[(same["sweep"] == latest["sweep"]) & (same["precision"] == latest["precision"])]
    missed = own[(own["ratio_low"] > 1) | (own["ratio_high"] < 1)]
    if missed.empty:
        return []
    row = missed.iloc[0]
    return [
        f"the baseline against itself gave [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}], which misses 1"
    ]


def _notes(own: pd.DataFrame, path: str) -> list[str]:
    notes = [f"{int(own['blocks'].sum())} ABBA blocks, {own['repeat'].nunique()} repeats"]
    if path == "fused":
        notes.append("second line: against the fused baseline")
    if own["contended"].fillna(False).astype(bool).any():
        cpu = own["cpu_ratio"].dropna()
        notes.append(f"contended; by CPU time the ratio is {cpu.mean():.3f}" if len(cpu) else "contended")
    if not own["reached"].fillna(True).astype(bool).all():
        notes.append("stopped by the time limit before the interval was as narrow as asked")
    if own["flops"].notna().all() and (own["baseline_flops"] > 0).all():
        notes.append(f"FLOP ratio {(own['flops'] / own['baseline_flops']).mean():.3f}")
    return notes


def unequal_at_evaluation(
    arm: Arm, baseline: Arm, *, length: int = 65, width: int = 64, heads: int = 4
) -> list[str]:
    """The kernel paths on which evaluation outputs of two arms with the same weights differ in any bit."""
    import torch

    from attnbench.attention import build, seed_parameters
    from attnbench.errors import UsageError

    x = torch.randn(4, length, width, generator=torch.Generator().manual_seed(0))
    faults = []
    for kernel in ("reference", "fused"):
        outputs = []
        for side in (arm, baseline):
            try:
                layer = build(
                    list(side.mechanisms), width=width, heads=heads, kernel=kernel, max_length=length
                )
            except UsageError:
                break  # no fused form: nothing to compare on this path
            seed_parameters(layer, 0)
            with torch.no_grad():
                outputs.append(layer.eval()(x)[0])
        if len(outputs) == 2 and not torch.equal(*outputs):
            faults.append(
                f"{kernel}: evaluation outputs differ by up to {(outputs[0] - outputs[1]).abs().max():.2e}"
            )
    return faults
