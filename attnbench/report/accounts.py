"""Parts of the report that give account: tuning and sizes, verdicts, measured cost, how every trial ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench.claims import metrics, pairing
from attnbench.claims.verdict import Verdict
from attnbench.errors import UsageError
from attnbench.report.section import Section, Source, Table
from attnbench.report.verdicts import command_for, estimate_words, paper_words


def tuning_section(source: Source) -> Section:
    """What each arm was tuned to, over how many trials; parameters and FLOPs beside the baseline's."""
    choices = source.choices()
    section = Section(
        "Tuning, parameters and FLOPs",
        text="Each arm's configuration, chosen on validation; what the choice cost; the size of the network.",
        commands=[source.query(f"select * from best_by_attention where sweep = '{source.sweep}'")],
    )
    base = choices.get(source.baseline)
    first = base.rows.iloc[0] if base else None
    columns = [
        "arm",
        "chosen",
        "tried",
        "trials",
        "epochs",
        "parameters",
        "of the mechanism",
        "forward FLOPs",
        "path",
    ]
    rows = []
    for arm, choice in choices.items():
        row = choice.rows.iloc[0]
        rows.append(
            [arm, _chosen(choice.configuration), choice.configurations, choice.trials, f"{choice.epochs:g}",
             _beside(row["parameters"], first["parameters"] if first is not None else None),
             _count(row["mechanism_parameters"]),
             _beside(row["forward_flops"], first["forward_flops"] if first is not None else None),
             row["kernel_path"] or "-"]
        )  # fmt: skip
    section.tables.append(Table(columns, rows, frozenset(columns[2:8])))
    section.notes += pairing.refuse_unequal(choices.values(), unequal=True)
    return section


def trials_section(source: Source) -> Section:
    """How the trials ended, and all of them as a table that sorts and filters."""
    trials = source.rows.trials
    counts = trials["status"].value_counts()
    section = Section(
        "Trials",
        text=", ".join(f"{count} {status}" for status, count in counts.items()),
        commands=[source.query(f"select * from trials where sweep = '{source.sweep}'")],
    )
    metric = metrics.main_metric(pairing.with_values(trials), "test")
    columns = [
        "arm",
        "seed",
        "fold",
        "role",
        "status",
        metric.name,
        "train_loss",
        "epochs",
        "wall_s",
        "device",
        "trial_id",
        "error",
    ]
    rows = [
        [r["arm"], r["seed"], r["fold"], r["role"], r["status"], metric.show(_number(r[metric.name])),
         _fixed(r["train_loss"], 4), _fixed(r["epochs"], 1), _fixed(r["wall_s"], 1), r["device"],
         r["trial_id"], "" if r["error"] is None or pd.isna(r["error"]) else str(r["error"])[:200]]
        for r in trials.to_dict("records")
    ]  # fmt: skip
    section.tables.append(
        Table(columns, rows, frozenset({"seed", "fold", metric.name, "train_loss", "epochs", "wall_s"}), True)
    )
    return section


def _chosen(configuration: str) -> str:
    """`attentiondrop_hard p=0.3; lr 0.001` from the configuration's JSON: what differs from the defaults."""
    from attnbench.attention import canonical

    parts: Mapping[str, Any] = json.loads(configuration)
    words = []
    for entry in parts["attention"] or ():
        try:
            default = canonical(entry["name"])[0]
        except UsageError:  # a mechanism of a file or package that is not here: everything is shown
            default = {}
        own = [
            f"{key}={value}" for key, value in entry.items() if key != "name" and default.get(key) != value
        ]
        words.append(" ".join([entry["name"], *own]))
    if parts["objective"]:
        own = [f"{key}={value}" for key, value in parts["objective"].items() if key in ("weight", "alpha")]
        words.append(" ".join([parts["objective"]["name"], *own]))
    return "; ".join([*words, f"lr {(parts['train'] or {}).get('lr')}"])


def _beside(value: Any, base: Any) -> str:
    if value is None or pd.isna(value):
        return "-"
    if base is None or pd.isna(base) or not base:
        return _count(value)
    return f"{_count(value)} ({value / base:.3f}x)"


def _count(value: Any) -> str:
    return "-" if value is None or pd.isna(value) else f"{int(value):,}"


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _fixed(value: Any, digits: int) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def verdict_section(verdicts: Sequence[Verdict], results: Path) -> Section:
    """The newest verdict on every comparison, with the paper's figure and where it was read."""
    section = Section(
        "Verdicts",
        text="By the rules of the claim sheets. A proxy (another model or data set than the paper's) never "
        "refutes the paper's own figures, and has no verdict on size.",
        commands=[*dict.fromkeys(command_for(verdict, results) for verdict in verdicts)],
    )
    if not verdicts:
        section.notes.append("no verdicts yet")
        section.commands = [f"attnbench claims verify attentiondrop --results {results}"]
        return section
    columns = ["claim", "verdict", "arm", "baseline", "estimate, 95 %", "the paper's", "seeds", "scope"]
    rows = [
        [v.claim, v.label, v.arm or "", v.baseline or "", estimate_words(v), paper_words(v),
         "" if v.seeds is None else v.seeds, v.scope or ""]
        for v in verdicts
    ]  # fmt: skip
    section.tables.append(Table(columns, rows, frozenset(columns[4:7])))
    section.notes += [
        f"{v.claim}{f', {v.arm} vs {v.baseline}' if v.arm else ''}: {v.reason}" for v in verdicts
    ]
    read = dict.fromkeys(v.paper_source.split(";")[0] for v in verdicts if v.paper_source)
    section.notes += [f"paper figures, {source}" for source in read]
    return section


def cost_table_section(results: Path) -> Section | None:
    """Every measured time ratio; None where none was measured."""
    from attnbench.results import load

    ratios = load("cost_ratios", results)
    if ratios.empty:
        return None
    columns = [
        "mechanism",
        "path",
        "baseline",
        "shape",
        "mode",
        "time ratio, 95 %",
        "memory ratio",
        "FLOP ratio",
        "blocks",
    ]
    rows = []
    for r in ratios.sort_values(["mechanism", "mode", "length", "baseline_path", "path"]).to_dict("records"):
        name = r["mechanism"] if not isinstance(r["objective"], str) else f"{r['mechanism']} + objective"
        shape = f"B{r['batch']} H{r['heads']} N{r['length']} d{r['head_dim']}"
        rows.append(
            [name, r["path"], f"{r['baseline']} ({r['baseline_path']})", shape, r["mode"],
             f"{r['ratio']:.3f} [{r['ratio_low']:.3f}, {r['ratio_high']:.3f}]",
             _ratio(r["peak_bytes"], r["baseline_peak_bytes"]), _ratio(r["flops"], r["baseline_flops"]),
             f"{r['blocks']}{' (contended)' if r['contended'] is True else ''}"]
        )  # fmt: skip
    table = Table(
        columns, rows, frozenset({"time ratio, 95 %", "memory ratio", "FLOP ratio", "blocks"}), True
    )
    return Section(
        "Measured cost",
        text="Variant and baseline alternate in one process (ABBA blocks); bootstrap intervals.",
        tables=[table],
        commands=[f'attnbench query "select * from cost_ratios" --results {results}'],
    )


def _ratio(value: Any, base: Any) -> str:
    return "-" if value is None or pd.isna(value) or not base or pd.isna(base) else f"{value / base:.2f}"
