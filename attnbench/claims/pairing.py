"""Which trials of a sweep may enter a comparison, and how they pair: contexts, choice on validation.

A context is what two trials must have in common to be a pair besides seed and fold: workload, host and
budget. Within one, every arm enters with the configuration that validation chose; the test part plays no
role in the choice.
"""

import difflib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench.claims.metrics import Metric, main_metric
from attnbench.errors import UsageError

UNMIXED = ("git_hash", "git_dirty", "data_sha256", "device", "threads", "precision", "zero_stage")
# Regularisation and kernel path belong to the arm, not to the network that carries it.
ARM_OWNED_HOST_KEYS = frozenset({"dropout", "kernel"})


@dataclass(frozen=True)
class Context:
    """What paired trials share: the workload, the network that carries the attention, and the budget."""

    workload: str
    workload_params: str
    host: str
    host_params: str
    budget: str

    def __str__(self) -> str:
        size = json.loads(self.host_params)
        layers, width = size.get("layers", "?"), size.get("width", "?")
        return f"{self.workload} · {self.host} {layers}x{width} · {self.budget}"

    def differences(self, other: "Context") -> list[str]:
        """Names of the parts in which two contexts differ."""
        return [name for name in ("workload", "host", "budget") if self._part(name) != other._part(name)]

    def _part(self, name: str) -> tuple[str, ...]:
        return (self.budget,) if name == "budget" else (getattr(self, name), getattr(self, f"{name}_params"))


@dataclass(frozen=True)
class Choice:
    """One arm in one context: the configuration that validation chose, and what it was chosen from."""

    arm: str
    configuration: str
    rows: pd.DataFrame
    configurations: int  # distinct configurations that were tried to arrive at this one
    trials: int  # trials spent on that
    epochs: float  # and the epochs in them


def trials_of(sweep: str, results: str | Path) -> pd.DataFrame:
    """The final rows of one sweep; UsageError with the sweeps that there are when it has none."""
    from attnbench.results import Store, load

    rows = load("trials", results, sweep=sweep)
    if rows.empty:
        known = Store(results).sweeps()
        close = difflib.get_close_matches(sweep, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"sweeps: {', '.join(known) or 'none yet'}"
        raise UsageError(f"no finished trial of sweep '{sweep}' in {results}; {hint}")
    return rows


def prepare(trials: pd.DataFrame) -> pd.DataFrame:
    """The newest attempt of each trial, with the columns `context` and `configuration` added."""
    if trials.empty:
        return trials.assign(context=None, configuration=None)
    newest = trials.sort_values("attempt").drop_duplicates(["sweep", "trial_id"], keep="last").copy()
    contexts, configurations = [], []
    for row in newest.to_dict("records"):
        context = _context(row)
        contexts.append(context)
        parts = {name: _json(row.get(name)) for name in ("attention", "objective", "train", "host_params")}
        configurations.append(json.dumps({**parts, "workload": context.workload_params}, sort_keys=True))
    newest["context"], newest["configuration"] = contexts, configurations
    newest["fold"] = newest["fold"].fillna(0).astype(int)
    return newest.sort_values(["arm", "seed", "fold", "trial_id"]).reset_index(drop=True)


def entering(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that may enter a comparison: the confirmation runs where there are any, else the grid's."""
    for role in ("confirm", "grid"):
        rows = trials[trials["role"] == role]
        if len(rows):
            return rows
    raise UsageError(
        "this sweep holds only tuning trials so far, and those never enter a comparison; "
        "set search.confirm_seeds (or let the sweep finish its confirmation runs)"
    )


def refuse_mixed(rows: pd.DataFrame, mixed: Collection[str] = ()) -> list[str]:
    """UsageError when rows differ in code, data, device, threads, precision or ZeRO stage; the notes to
    print else.

    Data checksums are held equal within a workload. `mixed` names the columns that may differ nevertheless.
    """
    unknown = set(mixed) - {*UNMIXED, "host", "budget", "workload"}
    if unknown:
        raise UsageError(
            f"--mixed takes one of {', '.join((*UNMIXED, 'host', 'budget'))}, not '{sorted(unknown)[0]}'"
        )
    notes = []
    for column in UNMIXED:
        groups = rows.groupby("workload_params", dropna=False) if column == "data_sha256" else [("", rows)]
        for _, group in groups:
            values = sorted({str(value) for value in group[column].dropna()})
            if len(values) < 2:
                continue
            shown = ", ".join(value[:16] for value in values)
            if column not in mixed:
                raise UsageError(
                    f"the trials differ in {column} ({shown}), so their figures cannot be compared; run them "
                    f"again under one, or say --mixed {column} to compare nevertheless"
                )
            notes.append(f"mixed {column}: {shown}")
    if rows["git_dirty"].fillna(False).astype(bool).any():
        notes.append("the code had uncommitted changes: these figures cannot be tied to a commit")
    return notes


def choose(trials: pd.DataFrame, context: Context, arm: str, by: Metric | None = None) -> Choice | None:
    """The configuration of `arm` in `context` with the best mean validation metric; None where it has no
    trial.

    Fewer missing members come first, then the mean over seeds and folds, where a diverged trial counts as
    the worst.
    """
    own = trials[(trials["arm"] == arm) & (trials["context"] == context)]
    candidates = entering(trials)
    candidates = candidates[(candidates["arm"] == arm) & (candidates["context"] == context)]
    if candidates.empty:
        return None
    by = by or main_metric(with_values(trials[trials["workload"] == context.workload]), "val")
    worst = worst_value(by, trials[trials["context"] == context])
    ranked = []
    for configuration, rows in candidates.groupby("configuration"):
        values = [counted(row, by, worst) for row in rows.to_dict("records")]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else math.nan
        goodness = -math.inf if math.isnan(mean) else mean if by.higher_is_better else -mean
        ranked.append((len(known), goodness, str(configuration), rows))
    ranked.sort(key=lambda entry: (-entry[0], -entry[1], entry[2]))
    tuning = own[own["role"] != "confirm"]
    spent = tuning if len(tuning) else own
    _, _, configuration, rows = ranked[0]
    tried = int(spent["configuration"].nunique())
    return Choice(arm, configuration, rows, tried, len(spent), float(spent["epochs"].fillna(0).sum()))


def refuse_unequal(choices: Iterable[Choice], unequal: bool) -> list[str]:
    """UsageError when the arms were tuned over different numbers of configurations; a note with `unequal`."""
    choices = list(choices)
    tried = {choice.arm: choice.configurations for choice in choices}
    if len(set(tried.values())) < 2:
        spent = {choice.arm: round(choice.epochs, 1) for choice in choices}
        if max(spent.values()) <= 1.1 * min(spent.values()):
            return []
        shown = ", ".join(f"{arm} {epochs}" for arm, epochs in spent.items())
        return [f"equally many configurations but unequal budgets for tuning, epochs: {shown}"]
    shown = ", ".join(f"{arm} {count}" for arm, count in sorted(tried.items(), key=lambda item: item[1]))
    if not unequal:
        raise UsageError(
            f"unequal tuning, configurations tried: {shown}; give every arm as many "
            "(search.samples), or say --unequal to compare nevertheless"
        )
    return [f"UNEQUAL TUNING: configurations tried: {shown}; the arm with more of them has the luckier best"]


def counted(row: Mapping[str, Any], metric: Metric, worst: float) -> float | None:
    """The value with which a trial enters: its own, the worst if it diverged, None where there is none."""
    if row["status"] == "diverged":
        return worst
    value = row.get(metric.name)
    if row["status"] != "ok" or value is None or pd.isna(value):
        return None
    return float(value)


def worst_value(metric: Metric, rows: pd.DataFrame) -> float:
    """What a diverged trial counts as: the metric's bound, else the worst that any of `rows` reached."""
    if metric.worst is not None:
        return metric.worst
    finite = [value for value in rows[metric.name].dropna() if math.isfinite(value)]
    if not finite:
        return math.nan
    return float(min(finite) if metric.higher_is_better else max(finite))


def with_values(rows: pd.DataFrame) -> set[str]:
    """Columns in which at least one row has a value."""
    return {str(name) for name in rows.columns if rows[name].notna().any()}


def _context(row: Mapping[str, Any]) -> Context:
    train = _json(row.get("train")) or {}
    network = _json(row.get("host_params")) or {}
    host = json.dumps({k: v for k, v in network.items() if k not in ARM_OWNED_HOST_KEYS}, sort_keys=True)
    unit = "epochs" if train.get("epochs") is not None else "steps"
    budget = f"{train.get(unit)} {unit}" + (f" of {train.get('batch')}" if unit == "steps" else "")
    workload = json.dumps(_json(row.get("workload_params")), sort_keys=True)
    return Context(str(row["workload"]), workload, str(row["host"]), host, budget)


def _json(value: Any) -> Any:
    """A JSON column's value, whether it comes as text, as an object or as a missing value."""
    if isinstance(value, str):
        return json.loads(value)
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value
