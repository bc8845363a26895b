"""Verdicts as rows: effects judged family by family, looks counted, written to the table `verdicts`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnbench.claims import judging, statistics
from attnbench.claims.costs import CostEffect
from attnbench.claims.evidence import Effect, trials_json
from attnbench.claims.hypothesis import (
    Calibration,
    Corrupted,
    CostAtMost,
    CostInside,
    Difference,
    FreeAtEvaluation,
    Hypothesis,
    Unable,
    hypotheses,
)
from attnbench.claims.variance import BATCHES as VARIANCE_BATCHES
from attnbench.claims.variance import LEAST_BATCHES, VarianceEffect

POINTS = 100.0


@dataclass
class Verdict:
    """One row of the table `verdicts`, and the sweep (or cost measurement) whose rows decided it."""

    sweep: str
    claim: str
    family: str
    scope: str | None
    direction: str | None
    size: str | None
    label: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str | None = None
    paper_value: float | None = None
    paper_source: str | None = None
    seeds: int | None = None
    p: float | None = None
    p_holm: float | None = None
    baseline: str | None = None
    arm: str | None = None
    reason: str = ""
    trials: str = "[]"
    decided_at: datetime | None = None

    def row(self) -> dict[str, Any]:
        """The row without nan and infinities."""
        return {
            name: finite(value) if isinstance(value, float) else value for name, value in asdict(self).items()
        }


def judge_effects(
    effects: Sequence[Effect], sweep: str, earlier: Sequence[dict[str, Any]] = ()
) -> list[Verdict]:
    """Verdicts of paired effects: Holm in each (method, family), then rules 9.1 at this look's level."""
    verdicts = []
    families: dict[tuple[str, str], list[Effect]] = {}
    for effect in effects:
        families.setdefault((effect.hypothesis.name, effect.hypothesis.family), []).append(effect)
    for members in families.values():
        adjusted = statistics.holm([member.interval.p for member in members])
        verdicts += [
            _paired_verdict(effect, p_holm, sweep, earlier)
            for effect, p_holm in zip(members, adjusted, strict=True)
        ]
    _note_removable(verdicts)
    return verdicts


def _paired_verdict(effect: Effect, p_holm: float, sweep: str, earlier: Sequence[dict[str, Any]]) -> Verdict:
    interval = effect.interval.scaled(POINTS)
    rule = effect.hypothesis.rule
    paper = effect.paper.value * POINTS if effect.paper else None
    look = look_of(effect, sweep, earlier)
    if isinstance(rule, Corrupted) or (isinstance(rule, (Difference, Calibration)) and rule.report_only):
        judged = judging.Judgement(
            None, None, "report", "reported, not judged: the paper makes no such claim"
        )
    else:
        judged = judging.judge_difference(
            interval,
            p_holm,
            scope=effect.scope,
            paper=paper,
            floor=rule.floor * POINTS if isinstance(rule, Difference) else 0.0,
            alpha=statistics.alpha_of_look(look),
            problems=effect.problems,
        )
    notes = [judged.reason, *effect.notes]
    if look > 1:
        notes.append(f"look {look}: decided at a level of {statistics.alpha_of_look(look):g}")
    return Verdict(
        sweep, effect.hypothesis.id, effect.hypothesis.family,
        effect.scope, judged.direction, judged.size, judged.label,
        interval.estimate, interval.low, interval.high, f"points of {effect.unit}", paper,
        _source(effect.paper), interval.n, interval.p, p_holm, effect.baseline, effect.arm,
        _sentence(notes), trials_json(effect.trials),
    )  # fmt: skip


def look_of(effect: Effect, sweep: str, earlier: Sequence[dict[str, Any]]) -> int:
    """1 for the first decision; each earlier one on the same comparison with fewer seeds was a look."""
    fewer = {
        row["seeds"]
        for row in earlier
        if row["claim"] == effect.hypothesis.id
        and (row["sweep"], row["arm"], row["baseline"]) == (sweep, effect.arm, effect.baseline)
        and row["seeds"] is not None
        and judging.LEAST_SEEDS <= row["seeds"] < effect.interval.n
    }
    return 1 + len(fewer)


def judge_costs(
    effects: Iterable[CostEffect], sweep: str, unequal: dict[str, list[str]] | None = None
) -> list[Verdict]:
    """Verdicts of cost claims. unequal: arm -> faults of its evaluation outputs (AD-OV-5)."""
    return [
        _cost_verdict(effect, sweep, (unequal or {}).get(str(effect.contrast.arm), [])) for effect in effects
    ]


def _cost_verdict(effect: CostEffect, sweep: str, unequal: list[str]) -> Verdict:
    rule = effect.hypothesis.rule
    paper = effect.contrast.paper[0] if effect.contrast.paper else None
    values = (effect.ratio, effect.low, effect.high)
    unit, shown = "time ratio", paper.value if paper else None
    if isinstance(rule, CostAtMost):
        values = tuple((value - 1) * POINTS for value in values)  # type: ignore[assignment]
        unit, shown = "% more time", (paper.value if paper else 0.0) * POINTS
        judged = judging.judge_at_most(
            effect.low - 1, effect.high - 1, paper.value if paper else 0.0, effect.problems
        )
    elif isinstance(rule, CostInside):
        values = (1 / effect.ratio, 1 / effect.high, 1 / effect.low)
        unit = "throughput ratio"
        judged = judging.judge_inside(values[1], values[2], (rule.low, rule.high), effect.problems)
    elif isinstance(rule, FreeAtEvaluation):
        values = tuple((value - 1) * POINTS for value in values)  # type: ignore[assignment]
        unit, shown = "% more time at evaluation", 0.0
        inside = (1 - rule.within, 1 + rule.within)
        judged = judging.judge_inside(effect.low, effect.high, inside, effect.problems)
        if unequal:
            judged = judging.Judgement("refuted", None, "refuted", "; ".join(unequal))
        else:
            effect.notes.insert(0, "evaluation outputs are equal bit for bit")
    else:
        judged = judging.judge_below(effect.low, effect.high, 1.0, effect.problems)
    return Verdict(
        sweep, effect.hypothesis.id, effect.hypothesis.family, "proxy", judged.direction, None, judged.label,
        *values, unit, shown, _source(paper), None, None, None, effect.baseline, effect.arm,
        _sentence([judged.reason, *effect.notes]), trials_json(effect.measurements),
    )  # fmt: skip


def judge_variances(effects: Sequence[VarianceEffect], sweep: str) -> list[Verdict]:
    """One verdict per (claim, arm, weights_of, loss level), never pooled."""
    return [_variance_verdict(effect, sweep, effects) for effect in effects]


def _variance_verdict(effect: VarianceEffect, sweep: str, others: Sequence[VarianceEffect]) -> Verdict:
    paper = effect.contrast.paper[0] if effect.contrast.paper else None
    problems = list(effect.problems)
    if VARIANCE_BATCHES < LEAST_BATCHES:
        problems.append(f"{VARIANCE_BATCHES} batches, a verdict needs {LEAST_BATCHES}")
    judged = judging.judge_variance(effect.change, problems)
    change = effect.change.scaled(POINTS)
    whose = "its own weights" if effect.weights_of == "own" else "the baseline's weights"
    notes = [judged.reason, *effect.notes]
    return Verdict(
        sweep, effect.hypothesis.id, effect.hypothesis.family, "proxy", judged.direction, None, judged.label,
        change.estimate, change.low, change.high, "% change",
        -paper.value * POINTS if paper else None, _source(paper),
        change.n, change.p, None, str(effect.contrast.baseline),
        f"{effect.contrast.arm} at {whose}, training loss {effect.level:g}",
        _sentence(notes), trials_json(effect.trials),
    )  # fmt: skip


def not_run(hypothesis: Hypothesis, sweep: str, reason: str, label: str = "not_run") -> Verdict:
    """A claim without figures, and why."""
    paper = next((value for contrast in hypothesis.contrasts for value in contrast.paper), None)
    return Verdict(
        sweep, hypothesis.id, hypothesis.family, None, None, None, label,
        paper_source=_source(paper), reason=reason,
    )  # fmt: skip


def unable(hypothesis: Hypothesis, sweep: str) -> Verdict:
    """The verdict of a claim that has no rule to run."""
    assert isinstance(hypothesis.rule, Unable)
    return not_run(hypothesis, sweep, hypothesis.rule.reason, hypothesis.rule.label)


def write(verdicts: Sequence[Verdict], results: str | Path) -> None:
    """Add verdicts to the table; earlier ones stay, as every decision is a look."""
    from attnbench.results import Store

    store, now = Store(results), datetime.now(UTC)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for verdict in verdicts:
        verdict.decided_at = now
        row = verdict.row()
        groups.setdefault((row.pop("sweep"), verdict.claim), []).append(row)
    for (sweep, claim), rows in groups.items():
        store.append("verdicts", sweep, claim, rows)


def latest(results: str | Path, sweep: str | None = None) -> list[Verdict]:
    """The newest verdict of every comparison that was judged: one per claim, sweep, arm and baseline."""
    from attnbench.results import Store

    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in Store(results).rows("verdicts", sweep):
        key = (row["claim"], row["sweep"], row["arm"], row["baseline"])
        if key not in newest or newest[key]["decided_at"] <= row["decided_at"]:
            newest[key] = row
    order = {hypothesis.id: place for place, hypothesis in enumerate(hypotheses())}
    rows = sorted(newest.values(), key=lambda row: (order.get(row["claim"], len(order)), row["sweep"]))
    return [Verdict(**row) for row in rows]


def finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _note_removable(verdicts: Sequence[Verdict]) -> None:
    """A gain in ECE that one temperature removes is said to be so, in the row of the plain difference."""
    suffix = " after temperature scaling"
    scaled = {(v.claim, v.arm, v.baseline): v for v in verdicts if v.arm and v.arm.endswith(suffix)}
    for verdict in verdicts:
        after = scaled.get((verdict.claim, f"{verdict.arm}{suffix}", verdict.baseline))
        if after is not None and verdict.label == "reproduced" and after.label != "reproduced":
            verdict.reason = _sentence(
                [verdict.reason, "removable by one parameter: not there after temperature scaling"]
            )


def _sentence(notes: Iterable[str]) -> str:
    return "; ".join(note for note in notes if note)


def _source(paper: Any) -> str | None:
    from attnbench.claims.hypothesis import sources

    if paper is None:
        return None
    return f"[{paper.source}] {sources()[paper.source]}; {paper.what}"
