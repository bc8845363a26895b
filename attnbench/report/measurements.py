"""Parts of the report about training and its product: learning curves, gradient variance, robustness."""

from __future__ import annotations

from attnbench.claims import metrics, pairing
from attnbench.report import drawing
from attnbench.report.drawing import Line
from attnbench.report.section import Section, Source, entered_ids


def curves_section(source: Source) -> Section:
    """Validation metric over training, mean over seeds with the range of the seeds as a band."""
    columns = pairing.with_values(source.rows.trials)
    metric = metrics.main_metric(columns, "val")
    column = metric.name.removeprefix("val_")
    section = Section("Learning curves")
    entered = pairing.entering(source.rows.trials)
    steps = source.load("steps")
    steps = steps[(steps["split"] == "val") & steps["trial_id"].isin(entered_ids(source))]
    if steps.empty:
        section.notes.append("no evaluations recorded")
        return section
    arm_of = entered.set_index("trial_id")["arm"]
    steps = steps.assign(arm=steps["trial_id"].map(arm_of), at=steps["epoch"].round(3))
    curves = []
    for arm in source.arms:
        own = (
            steps[steps["arm"] == arm].groupby("at")[column].agg(["mean", "min", "max"]).dropna()
            * metric.factor
        )
        if len(own):
            x = [float(at) for at in own.index]
            curves.append(Line(arm, x, list(own["mean"]), list(own["min"]), list(own["max"])))
    unit = f", {metric.unit}" if metric.unit else ""
    section.plots.append(
        drawing.lines(f"{source.sweep} curves", curves, xlabel="epoch", ylabel=f"{metric.name}{unit}")
    )
    section.text = "Mean over seeds; the band is the range of the seeds."
    section.commands.append(
        source.query(
            f"select arm, epoch, avg({column}) as {column} from curves "
            f"where sweep = '{source.sweep}' and split = 'val' group by all order by arm, epoch"
        )
    )
    return section


def gradient_section(source: Source) -> Section | None:
    """tr Cov(g) against training loss on each arm's own weights; None where none was measured."""
    found = source.load("gradients")
    arm_of = source.rows.trials.set_index("trial_id")["arm"]
    found = found[(found["layer_group"] == "total") & found["trial_id"].isin(arm_of.index)]
    if found.empty:
        return None
    found = found.assign(arm=found["trial_id"].map(arm_of))
    curves = []
    for arm in source.arms:
        own = found[found["arm"] == arm].groupby("step")[["train_loss", "trace_total"]].mean()
        own = own[(own["trace_total"] > 0) & (own["train_loss"] > 0)].sort_values("train_loss")
        if len(own):
            curves.append(Line(arm, list(own["train_loss"]), list(own["trace_total"])))
    batches, draws = sorted(set(found["batches"])), sorted(set(found["draws"]))
    section = Section(
        "Gradient variance",
        text=(
            "tr Cov(g) at fixed weights, each arm on its own, against its training loss at that point: arms "
            "are comparable at equal loss only. Measured along the way; verdicts take more batches."
        ),
        commands=[
            source.query(
                "select trial_id, step, weights_of, train_loss, trace_data, trace_mechanism, trace_total "
                f"from gradients where sweep = '{source.sweep}' and layer_group = 'total' order by all"
            )
        ],
    )
    section.plots.append(
        drawing.lines(
            f"{source.sweep} gradients", curves, xlabel="training loss", ylabel="tr Cov(g)",
            log_x=True, log_y=True, points=True, flip=True,
        )
    )  # fmt: skip
    section.notes.append(
        f"{'/'.join(map(str, batches))} batches x {'/'.join(map(str, draws))} draws per point"
    )
    if min(batches) < 16:
        section.notes.append("fewer than 16 batches a point: too few for a verdict")
    return section


def robustness_section(source: Source) -> Section | None:
    """Accuracy against severity, a panel per kind; the attacks' gates below. None where none was measured."""
    from attnbench.claims.attacks import gate_faults

    found = source.rows.robustness
    found = found[found["trial_id"].isin(entered_ids(source))]
    kinds = [kind for kind in dict.fromkeys(found["kind"]) if kind not in ("clean", "temperature")]
    if not kinds:
        return None
    arm_of = source.rows.trials.set_index("trial_id")["arm"]
    found = found.assign(arm=found["trial_id"].map(arm_of))
    plots: dict[str, list[Line]] = {}
    for kind in kinds:
        attack = found[found["kind"] == kind]["epsilon"].notna().any()
        x = "epsilon" if attack else "severity"
        curves = []
        for arm in source.arms:
            own = found[(found["kind"] == kind) & (found["arm"] == arm)].groupby(x)["accuracy"].mean() * 100
            if len(own):
                curves.append(Line(arm, [float(at) for at in own.index], list(own)))
        plots[f"{kind} ({x})"] = curves
    section = Section(
        "Robustness",
        text="Test accuracy under corruption (by severity) and attack (by radius), mean over seeds.",
        plots=[drawing.panels(f"{source.sweep} robustness", plots, xlabel="", ylabel="accuracy, %")],
        commands=[
            source.query(
                "select t.arm, r.kind, r.severity, r.epsilon, avg(r.accuracy) as accuracy, avg(r.ece) as ece "
                "from robustness r join trials t using (sweep, trial_id) "
                f"where sweep = '{source.sweep}' group by all order by all"
            )
        ],
    )
    if found["kind"].isin(["fgsm", "pgd"]).any():
        for arm in source.arms:
            faults = gate_faults(found[found["arm"] == arm])
            section.notes += [f"attack gate, {arm}: {fault}" for fault in faults]
    return section
