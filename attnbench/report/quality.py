"""Parts of the report about quality: the comparison, accuracy against cost, calibration."""

from __future__ import annotations

import math

import pandas as pd

from attnbench.claims import metrics, pairing
from attnbench.claims.comparison import Comparison
from attnbench.errors import UsageError
from attnbench.report import drawing
from attnbench.report.drawing import Dot
from attnbench.report.section import Section, Source, Table, compare_command
from attnbench.report.terminal import in_order, interval_words, verdict_words


def comparison_section(source: Source) -> Section:
    """Every arm against the baseline on the workload's own metric, paired by seed."""
    metric = metrics.main_metric(pairing.with_values(source.rows.trials), "test").name
    section = Section("Comparison", commands=[compare_command(source, metric)])
    try:
        comparison = source.compared(metric)
    except UsageError as error:
        section.notes.append(str(error))
        return section
    section.text = (
        f"{metric} minus that of {source.baseline}, paired by seed. Dots: single seeds; bars: 95 % "
        "intervals; blue is better, orange worse, grey undecided after Holm's correction."
    )
    section.text += (
        f" {comparison.rows[0].context}." if len({r.context for r in comparison.rows}) == 1 else ""
    )
    section.plots.append(_difference_plot(source, comparison))
    section.tables.append(_comparison_table(comparison))
    section.notes += comparison.notes + _unpaired(comparison)
    return section


def cost_section(source: Source) -> Section:
    """Quality against cost: measured time ratios where there are any for this shape, else forward FLOPs."""
    section = Section("Accuracy against cost")
    pareto = source.load("pareto")
    section.commands.append(source.query(f"select * from pareto where sweep = '{source.sweep}'"))
    if pareto.empty:
        section.notes.append("no arm has a final figure yet")
        return section
    pareto = pareto[pareto["metric"] == pareto["metric"].iloc[0]]
    metric = metrics.metric(str(pareto["metric"].iloc[0]))
    measured = pareto["cost_ratio"].notna().any()
    base = pareto[pareto["arm"] == source.baseline]
    flops = float(base["forward_flops"].iloc[0]) if len(base) else math.nan
    points = {}
    for row in pareto.to_dict("records"):
        x = row["cost_ratio"] if measured else row["forward_flops"] / flops
        if x is not None and not math.isnan(x):
            half = row["half_width"] if row["half_width"] is not None else math.nan
            points[str(row["arm"])] = (float(x), row["mean"] * metric.factor, half * metric.factor)
    points = {arm: points[arm] for arm in source.arms if arm in points}
    xlabel = (
        "time of a step or pass, over fused softmax" if measured else f"forward FLOPs, over {source.baseline}"
    )
    unit = f", {metric.unit}" if metric.unit else ""
    if points:
        section.plots.append(
            drawing.scatter(f"{source.sweep} cost", points, xlabel=xlabel, ylabel=f"{metric.name}{unit}")
        )
    section.text = (
        "Bars are 95 % intervals over seeds. Time is from `attnbench cost` at this shape, device and path; "
        "speeds inside a sweep are not used."
        if measured
        else "No time was measured at this shape and device, so the axis is arithmetic: forward FLOPs. It "
        "leaves out memory traffic and the backward pass; `attnbench cost` measures time."
    )
    if not measured:
        section.commands.append(f"attnbench cost jobs/cost.yaml --results {source.results}")
    return section


def calibration_section(source: Source) -> Section | None:
    """ECE against the baseline's, and NLL, Brier and ECE after temperature scaling. None without ECE."""
    if "test_ece" not in pairing.with_values(source.rows.trials):
        return None
    section = Section("Calibration", commands=[compare_command(source, "test_ece")])
    try:
        comparison = source.compared("test_ece")
    except UsageError as error:
        section.notes.append(str(error))
        return section
    section.text = "Expected calibration error, 15 equal-width bins, minus the baseline's; lower is better."
    section.plots.append(_difference_plot(source, comparison))
    scaled = source.rows.robustness
    scaled = (
        scaled[scaled["kind"] == "temperature"].set_index("trial_id")["ece"]
        if len(scaled)
        else pd.Series(dtype=float)
    )
    trials = source.rows.trials.set_index("trial_id")
    rows = []
    for row in comparison.rows:
        own = trials.loc[row.trials]
        after = scaled[scaled.index.isin(row.trials)].mean()
        rows.append(
            [row.arm, metrics.METRICS["test_ece"].show(row.mean.estimate), f"{own['test_nll'].mean():.4f}",
             f"{own['test_brier'].mean():.4f}", "-" if math.isnan(after) else f"{after * 100:.2f}"]
        )  # fmt: skip
    columns = ["arm", "ECE %", "NLL", "Brier", "ECE % after temperature scaling"]
    section.tables.append(Table(columns, rows, frozenset(columns[1:])))
    if scaled.empty:
        section.notes.append("temperature scaling was not measured: measure.robustness lacks `temperature`")
    return section


def _difference_plot(source: Source, comparison: Comparison) -> str:
    metric, by_arm = comparison.metric, {row.arm: row for row in comparison.rows}
    base = by_arm[comparison.baseline]
    rows = []
    for row in comparison.rows:
        if row.difference is None or math.isnan(row.difference.estimate):
            continue
        shared = [seed for seed in row.values if seed in base.values]
        rows.append(
            Dot(
                row.arm,
                row.difference.estimate * metric.factor,
                row.difference.low * metric.factor,
                row.difference.high * metric.factor,
                [(row.values[seed] - base.values[seed]) * metric.factor for seed in shared],
                f"{interval_words(row, comparison)}  {verdict_words(row)}",
                row.decision != "inconclusive",
            )
        )
    better = 1 if metric.higher_is_better else -1
    rows.sort(key=lambda dot: -better * dot.estimate)
    unit = f", {metric.difference_unit}" if metric.difference_unit else ""
    name = f"{source.sweep} {metric.name}"
    return drawing.dots(name, rows, xlabel=f"{metric.name} - {comparison.baseline}{unit}", better=better)


def _comparison_table(comparison: Comparison) -> Table:
    metric = comparison.metric
    unit = f" {metric.unit}" if metric.unit else ""
    columns = [
        "arm", f"{metric.name}{unit}", "difference, 95 %", "decision", "p", "p (Holm)", "seeds", "folds",
        "best of n",
    ]  # fmt: skip
    several = len({row.context for row in comparison.rows}) > 1
    rows = [
        [
            row.arm,
            metric.show(row.mean.estimate),
            interval_words(row, comparison) if row.difference else "",
            verdict_words(row),
            _p(row.difference.p) if row.difference else "",
            _p(row.p_holm),
            row.seeds,
            row.folds,
            f"{metric.show(row.best)} of {row.best_of}",
            *([row.context] if several else []),
        ]
        for row in in_order(comparison)
    ]
    return Table([*columns, *(["where"] if several else [])], rows, frozenset(columns) - {"arm", "decision"})


def _unpaired(comparison: Comparison) -> list[str]:
    return [f"unpaired, {row.arm}: {'; '.join(row.unpaired)}" for row in comparison.rows if row.unpaired]


def _p(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
