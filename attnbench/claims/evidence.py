"""From a sweep's rows to paired effects: which arms answer a contrast, their difference over seeds, and
failed gates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench.claims import pairing
from attnbench.claims.comparison import ArmRow, compare
from attnbench.claims.hypothesis import Arm, Contrast, Hypothesis, PaperValue, decoded
from attnbench.claims.metrics import METRICS
from attnbench.claims.statistics import Interval
from attnbench.errors import UsageError

# What a sound run of a plain transformer reaches; below it a comparison says nothing about good models.
FLOORS = {"digits": 0.90, "cifar10": 0.50, "mqar": 0.50}


@dataclass
class Effect:
    """A paired effect, signed so that positive is the claim, with everything that a verdict row needs."""

    hypothesis: Hypothesis
    contrast: Contrast
    interval: Interval
    unit: str
    arm: str
    baseline: str
    scope: str
    paper: PaperValue | None
    trials: list[str]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class SweepRows:
    """The tables of one sweep, read at first use."""

    def __init__(self, results: str | Path, sweep: str) -> None:
        self.results, self.sweep = Path(results), sweep

    def _load(self, table: str) -> pd.DataFrame:
        from attnbench.results import load

        return load(table, self.results, sweep=self.sweep)

    @cached_property
    def trials(self) -> pd.DataFrame:
        return pairing.prepare(self._load("trials"))

    @cached_property
    def robustness(self) -> pd.DataFrame:
        return self._load("robustness")

    @cached_property
    def cost_ratios(self) -> pd.DataFrame:
        return self._load("cost_ratios")

    def arms(self, wanted: Arm) -> list[str]:
        """Labels of the arms that are of these mechanisms and this objective."""
        if self.trials.empty:
            return []
        first = self.trials.drop_duplicates("arm")
        return [row["arm"] for row in first.to_dict("records") if wanted.matches(row)]

    def budget(self, arm: str) -> float:
        """Epochs, or steps, of an arm's training as it was asked for."""
        train = decoded(self.trials[self.trials["arm"] == arm].iloc[0]["train"]) or {}
        return float(train.get("epochs") or train.get("steps") or 0)


def paired_effects(
    rows: SweepRows, hypothesis: Hypothesis, metric: str, trials: pd.DataFrame | None = None
) -> list[Effect]:
    """The effect of every contrast of `hypothesis` that the sweep holds both sides of.

    trials: the table to compare on, where `metric` was put into it from elsewhere (robustness); the sweep's
    by default.
    """
    frame = rows.trials if trials is None else trials
    effects = []
    for contrast in hypothesis.contrasts:
        for arm, baseline in pairs(rows, contrast):
            effects.append(_effect(rows, frame, hypothesis, contrast, metric, arm, baseline))
    return effects


def pairs(rows: SweepRows, contrast: Contrast) -> list[tuple[str, str]]:
    """(arm, baseline) labels of the sweep for a contrast: every matching arm against the one best
    baseline.
    """
    arms, baselines = rows.arms(contrast.arm), rows.arms(contrast.baseline)
    found = []
    for arm in arms:
        wanted = rows.budget(arm) * contrast.baseline.budget
        fitting = [label for label in baselines if label != arm and abs(rows.budget(label) - wanted) < 1e-9]
        if fitting:
            found.append((arm, fitting[0] if len(fitting) == 1 else _best(rows, fitting)))
    return found


def _best(rows: SweepRows, labels: Iterable[str]) -> str:
    """Of several baselines the one that validation likes best: the claim must beat the strongest."""
    from attnbench.claims.metrics import main_metric

    entered = pairing.entering(rows.trials)
    by = main_metric(pairing.with_values(entered), "val")
    means = {label: entered[entered["arm"] == label][by.name].mean() for label in labels}
    return (max if by.higher_is_better else min)(means, key=lambda label: means[label])


def _effect(
    rows: SweepRows,
    frame: pd.DataFrame,
    hypothesis: Hypothesis,
    contrast: Contrast,
    metric: str,
    arm: str,
    baseline: str,
) -> Effect:
    from attnbench.claims.statistics import paired_interval

    own = frame[frame["arm"].isin([arm, baseline])]
    mixed = ["budget"] if contrast.baseline.budget != 1 else []
    scope, paper = scope_of(hypothesis, contrast, own)
    known = METRICS[metric]
    effect = Effect(
        hypothesis, contrast, paired_interval([]), metric, arm, _named(contrast, baseline), scope, paper, []
    )
    try:
        comparison = compare(own, metric, baseline, unequal=True, mixed=mixed)
    except UsageError as error:
        effect.problems.append(str(error))
        return effect
    found = {row.arm: row for row in comparison.rows}
    if arm not in found or found[arm].difference is None:
        effect.problems.append("; ".join(comparison.notes[:2]))
        return effect
    row, base = found[arm], found[baseline]
    assert row.difference is not None
    effect.interval = row.difference.scaled(1 if known.higher_is_better else -1)
    effect.trials = [*row.trials, *base.trials]
    effect.problems += _gates(row, base, rows.trials)
    effect.notes += _notes(row)
    return effect


def _gates(row: ArmRow, base: ArmRow, trials: pd.DataFrame) -> list[str]:
    """Unequal tuning, and a baseline below the floor of its workload (clean test accuracy)."""
    problems = []
    if row.configurations != base.configurations:
        tried = f"{base.arm} {base.configurations} configurations, {row.arm} {row.configurations}"
        problems.append(f"unequal tuning: {tried}")
    own = trials[trials["trial_id"].isin(base.trials)]
    workload = str(own.iloc[0]["workload"])
    floor, reached = FLOORS.get(workload), own["test_accuracy"].mean()
    if floor is not None and not reached >= floor:
        problems.append(f"the baseline reaches {reached:.1%}, below the floor of {floor:.0%} for {workload}")
    return problems


def _notes(row: ArmRow) -> list[str]:
    notes = []
    if row.diverged:
        notes.append(f"{row.diverged} diverged trials counted as the worst value")
    if row.unpaired:
        notes.append(f"unpaired: {'; '.join(row.unpaired[:3])}")
    return notes


def _named(contrast: Contrast, baseline: str) -> str:
    factor = contrast.baseline.budget
    return baseline if factor == 1 else f"{baseline} ({factor:g}x the budget)"


def scope_of(hypothesis: Hypothesis, contrast: Contrast, own: pd.DataFrame) -> tuple[str, PaperValue | None]:
    """`matched` where workload and network are the paper's, and the figure that this run is held against."""
    row = own.iloc[0]
    host = decoded(row["host_params"]) or {}
    params = decoded(row["workload_params"]) or {}
    whole = not params.get("subset")
    for value in contrast.paper:
        alike = hypothesis.matched_host and all(host.get(k) == v for k, v in hypothesis.matched_host.items())
        if value.workload == row["workload"] and alike and whole:
            return "matched", value
    return "proxy", contrast.paper[0] if contrast.paper else None


def trials_json(trials: Iterable[str]) -> str:
    """The trials behind a verdict, each once."""
    return json.dumps(sorted(set(trials)))


def shape_of(row: Mapping[str, Any]) -> str:
    """`B32 H4 N197 d16`."""
    return f"B{row['batch']} H{row['heads']} N{row['length']} d{row['head_dim']}"
