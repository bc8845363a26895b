"""Arms against a baseline, paired by seed: `compare(load("trials", ...), "test_accuracy", "softmax")`.

Trials pair on (seed, fold) inside a context (workload, host, budget); folds are averaged within a seed, the
seed is the unit. Intervals are 95 % t intervals and unadjusted; "better" and "worse" need a Holm-adjusted p
below 0.05 in the family of all comparisons of the call.
"""

import difflib
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from attnbench.claims import metrics, pairing, statistics
from attnbench.claims.metrics import Metric
from attnbench.claims.pairing import Choice, Context
from attnbench.errors import UsageError

Member = tuple[int, int]  # seed, fold


@dataclass
class ArmRow:
    """One arm in one context; `difference` is arm minus baseline in the metric's unit, None for the base."""

    context: str
    arm: str
    configuration: str
    configurations: int
    seeds: int
    folds: int
    mean: statistics.Interval
    best: float | None
    best_of: int
    difference: statistics.Interval | None = None
    p_holm: float = math.nan
    decision: str = "baseline"
    more_seeds: int | None = None
    diverged: int = 0
    unpaired: list[str] = field(default_factory=list)
    trials: list[str] = field(default_factory=list)
    values: dict[int, float] = field(default_factory=dict)


@dataclass
class Comparison:
    """All arms of a sweep against one baseline on one metric."""

    metric: Metric
    baseline: str
    rows: list[ArmRow]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain objects, as `--json` prints them; differences are arm minus baseline in the metric's unit."""
        return {
            "metric": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "baseline": self.baseline,
            "intervals": "95 % t over seeds, unadjusted",
            "arms": [_plain(asdict(row)) for row in self.rows],
            "notes": self.notes,
        }


def compare(
    trials: pd.DataFrame, metric: str, baseline: str, *, unequal: bool = False, mixed: Collection[str] = ()
) -> Comparison:
    """Compare every arm in `trials` (rows of one sweep) with `baseline` on `metric`.

    unequal   compare although the arms were tuned over different numbers of configurations
    mixed     names of columns in which the trials may differ (git_hash, device, ...; also host, budget)

    UsageError: unknown metric or baseline, mixed or unequal trials without leave, nothing to compare.
    """
    measure = metrics.metric(metric)
    rows = pairing.prepare(trials)
    if rows.empty:
        raise UsageError("no finished trial to compare yet; 'attnbench run' makes some")
    _check_baseline(rows, baseline)
    notes = pairing.refuse_mixed(pairing.entering(rows), mixed)
    contexts = _contexts(rows, baseline)
    result: list[ArmRow] = []
    for context in contexts:
        chosen = _choices(rows, context, baseline, mixed)
        notes += pairing.refuse_unequal([choice for _, choice in chosen], unequal)
        worst = pairing.worst_value(measure, rows[rows["workload"] == context.workload])
        result += _compare_context(context, [choice for _, choice in chosen], measure, worst)
    _note_left_out(rows, contexts, result, notes)
    _decide(result, measure)
    return Comparison(measure, baseline, result, notes + _standing_notes(result, measure))


def _check_baseline(rows: pd.DataFrame, baseline: str) -> None:
    arms = sorted(set(rows["arm"]))
    if baseline not in arms:
        close = difflib.get_close_matches(baseline, arms, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"no arm '{baseline}' to compare with; {hint}arms: {', '.join(arms)}")


def _contexts(rows: pd.DataFrame, baseline: str) -> list[Context]:
    """The contexts that the baseline ran in, in a stable order."""
    own = pairing.entering(rows)
    own = own[own["arm"] == baseline]
    if own.empty:
        raise UsageError(f"arm '{baseline}' has no trial that may enter a comparison (only tuning trials)")
    return sorted(set(own["context"]), key=str)


def _choices(
    rows: pd.DataFrame, context: Context, baseline: str, mixed: Collection[str]
) -> list[tuple[Context, Choice]]:
    """The baseline's choice first, then every arm's in the same context (with leave: in one that differs)."""
    chosen = []
    for arm in [baseline, *sorted(set(rows["arm"]) - {baseline})]:
        own = set(rows[rows["arm"] == arm]["context"])
        allowed = [context] if context in own else []
        if arm != baseline and not allowed:
            allowed = [
                other for other in sorted(own, key=str) if set(context.differences(other)) <= set(mixed)
            ]
        for other in allowed:
            choice = pairing.choose(rows, other, arm)
            if choice is not None:
                chosen.append((other, choice))
    return chosen


def _compare_context(context: Context, choices: list[Choice], metric: Metric, worst: float) -> list[ArmRow]:
    base, *others = choices
    base_values, base_lost = _values(base, metric, worst)
    result = [_row(context, base, base_values, metric)]
    result[0].unpaired = [
        f"seed {seed} fold {fold}: {base.arm} {why}" for (seed, fold), why in base_lost.items()
    ]
    for choice in others:
        values, lost = _values(choice, metric, worst)
        row = _row(context, choice, values, metric)
        shared = sorted(values.keys() & base_values.keys())
        per_seed: dict[int, list[float]] = {}
        for seed, fold in shared:
            per_seed.setdefault(seed, []).append(values[seed, fold] - base_values[seed, fold])
        row.difference = statistics.paired_interval([sum(part) / len(part) for part in per_seed.values()])
        row.seeds = len(per_seed)
        for seed, fold in sorted({*values, *base_values, *lost} - set(shared)):
            arm, lacks = (base.arm, base_lost) if (seed, fold) in values else (choice.arm, lost)
            row.unpaired.append(f"seed {seed} fold {fold}: {arm} {lacks.get((seed, fold), 'has no trial')}")
        result.append(row)
    return result


def _values(choice: Choice, metric: Metric, worst: float) -> tuple[dict[Member, float], dict[Member, str]]:
    """(seed, fold) -> value of the chosen configuration, and (seed, fold) -> why there is none."""
    values: dict[Member, float] = {}
    lost: dict[Member, str] = {}
    for row in choice.rows.to_dict("records"):
        key = (int(row["seed"]), int(row["fold"]))
        value = pairing.counted(row, metric, worst)
        if value is None or math.isnan(value):
            lost[key] = f"is {row['status']}" if row["status"] != "ok" else f"has no {metric.name}"
        else:
            values[key] = value
    return values, lost


def _row(context: Context, choice: Choice, values: dict[Member, float], metric: Metric) -> ArmRow:
    per_seed: dict[int, list[float]] = {}
    for (seed, _), value in values.items():
        per_seed.setdefault(seed, []).append(value)
    means = {seed: sum(part) / len(part) for seed, part in sorted(per_seed.items())}
    best = (max if metric.higher_is_better else min)(values.values(), default=None)
    return ArmRow(
        context=str(context),
        arm=choice.arm,
        configuration=choice.configuration,
        configurations=choice.configurations,
        seeds=len(means),
        folds=len({fold for _, fold in values}),
        mean=statistics.mean_interval(list(means.values())),
        best=best,
        best_of=len(values),
        diverged=int((choice.rows["status"] == "diverged").sum()),
        trials=list(choice.rows["trial_id"]),
        values=means,
    )


def _decide(rows: list[ArmRow], metric: Metric) -> None:
    """Holm over all differences of the call; direction needs an adjusted p below 0.05."""
    tested = [(row, row.difference) for row in rows if row.difference is not None]
    adjusted = statistics.holm([difference.p for _, difference in tested])
    level = statistics.ALPHA / max(1, sum(not math.isnan(difference.p) for _, difference in tested))
    for (row, difference), p in zip(tested, adjusted, strict=True):
        row.p_holm = p
        if p < statistics.ALPHA and difference.decided:  # never true of nan
            row.decision = "better" if (difference.estimate > 0) == metric.higher_is_better else "worse"
        else:
            row.decision, row.more_seeds = "inconclusive", statistics.more_seeds(difference, alpha=level)


def _note_left_out(
    rows: pd.DataFrame, contexts: list[Context], result: list[ArmRow], notes: list[str]
) -> None:
    compared = {row.arm for row in result}
    for arm in sorted(set(rows["arm"]) - compared):
        own = sorted(set(rows[rows["arm"] == arm]["context"]), key=str)
        differing = contexts[0].differences(own[0])
        notes.append(
            f"{arm} is not compared: its {' and '.join(differing) or 'trials'} differ from the baseline's "
            f"({own[0]}); --mixed {' --mixed '.join(differing)} compares nevertheless"
        )


def _standing_notes(rows: list[ArmRow], metric: Metric) -> list[str]:
    notes = [
        "intervals are 95 % t intervals over seeds, unadjusted; the decision needs a Holm-adjusted p < 0.05"
    ]
    tested = [row.difference for row in rows if row.difference is not None and row.difference.n > 1]
    if tested:
        floors = sorted(statistics.smallest_effect(difference.sd, difference.n) for difference in tested)
        shown = " to ".join(dict.fromkeys(metric.show(floor) for floor in (floors[0], floors[-1])))
        notes.append(
            f"noise floor: a difference smaller than {shown} {metric.difference_unit} is missed by these "
            "seeds more than one time in five"
        )
    else:
        notes.append("fewer than two paired seeds: no interval, nothing can be decided")
    if any(row.diverged for row in rows):
        notes.append("diverged trials count as the worst value")
    if metric.name.startswith("val_"):
        notes.append(
            "validation also chose the configurations, so these figures flatter every arm that was tuned"
        )
    if metric.name in metrics.SPEED:
        notes.append("speeds inside a busy sweep are no measurement of cost; 'attnbench cost' makes one")
    return notes


def _plain(value: Any) -> Any:
    """Without nan and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
