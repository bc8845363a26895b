"""Effects from the table `robustness`: accuracy under attack per radius behind its gates, corruption,
temperature.
"""

from __future__ import annotations

import pandas as pd

from attnbench.claims.evidence import Effect, SweepRows, paired_effects
from attnbench.claims.hypothesis import Attacked, Calibration, Corrupted, Hypothesis


def attacked_effects(rows: SweepRows, hypothesis: Hypothesis, rule: Attacked) -> list[Effect]:
    """One effect per contrast and radius. Every radius inherits the failures of the two arms' attack
    gates.
    """
    table = rows.robustness
    effects = []
    for epsilon in sorted(table[table["kind"] == rule.kind]["epsilon"].dropna().unique()):
        at = table[(table["kind"] == rule.kind) & (table["epsilon"] == epsilon)]
        for effect in paired_effects(
            rows, hypothesis, "test_accuracy", _with(rows, at, "accuracy", "test_accuracy")
        ):
            own = table[table["trial_id"].isin(effect.trials)]
            effect.problems += [f"attack gate: {fault}" for fault in gate_faults(own)]
            effect.notes.append("transfer attacks were not run")
            effect.arm += f" at eps {epsilon:.3g}"
            effect.unit = f"accuracy under {rule.kind}"
            effects.append(effect)
    return effects


def gate_faults(table: pd.DataFrame) -> list[str]:
    """What is wrong with the attacks on these trials: the gates, on each arm's curves averaged over its
    trials.
    """
    from attnbench.evaluation import attack_gates

    means = table.groupby(["kind", "severity"], dropna=False).agg({"epsilon": "first", "accuracy": "mean"})
    records = means.reset_index().to_dict("records")
    return attack_gates(
        [{**row, "epsilon": None if pd.isna(row["epsilon"]) else row["epsilon"]} for row in records]
    )


def corrupted_effects(rows: SweepRows, hypothesis: Hypothesis, rule: Corrupted) -> list[Effect]:
    """One effect per contrast and kind: accuracy averaged over the severities."""
    table = rows.robustness
    effects = []
    for kind in rule.kinds:
        of_kind = table[table["kind"] == kind]
        if of_kind.empty:
            continue
        mean = of_kind.groupby("trial_id", as_index=False)["accuracy"].mean()
        for effect in paired_effects(
            rows, hypothesis, "test_accuracy", _with(rows, mean, "accuracy", "test_accuracy")
        ):
            effect.arm += f" under {kind}"
            effect.unit = "accuracy, mean over severities"
            effects.append(effect)
    return effects


def scaled_effects(rows: SweepRows, hypothesis: Hypothesis, rule: Calibration) -> list[Effect]:
    """The difference of ECE after temperature scaling, from rows of kind `temperature`; none where none were
    asked for.
    """
    table = rows.robustness
    scaled = table[table["kind"] == "temperature"]
    if scaled.empty:
        return []
    effects = paired_effects(rows, hypothesis, rule.metric, _with(rows, scaled, "ece", rule.metric))
    for effect in effects:
        effect.arm += " after temperature scaling"
    return effects


def _with(rows: SweepRows, table: pd.DataFrame, column: str, into: str) -> pd.DataFrame:
    """The sweep's trials with `into` replaced by another table's figure; trials without one have none."""
    values = table.drop_duplicates("trial_id").set_index("trial_id")[column]
    return rows.trials.assign(**{into: rows.trials["trial_id"].map(values)})
