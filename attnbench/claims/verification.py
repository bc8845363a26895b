"""Verify claims: run what a tier needs (or read a sweep that has run), judge, write the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from attnbench.claims import attacks, costs, evidence, plans, variance, verdict
from attnbench.claims.evidence import Effect, SweepRows
from attnbench.claims.hypothesis import (
    Attacked,
    Calibration,
    Corrupted,
    CostAtMost,
    CostBelowOne,
    CostInside,
    Difference,
    FreeAtEvaluation,
    Hypothesis,
    Unable,
    VarianceFall,
    find,
    hypotheses,
)
from attnbench.claims.verdict import Verdict
from attnbench.errors import UsageError

Progress = Callable[[str], None]


def verify(
    name: str,
    tier: str = "cpu",
    results: str | Path = "results",
    plan_only: bool = False,
    seeds: int | None = None,
    *,
    from_sweep: str | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Verdicts on the claim, method or family `name` ("all": every claim), written to the table `verdicts`.

    tier         "cpu" or "gpu": what to run where nothing has run yet; a run that was begun goes on
    plan_only    run and write nothing: every claim comes back as not_run with the hours that it would take
    seeds        confirming seeds; fix them before looking, more of them later is another look
    from_sweep   run nothing: judge every claim that the rows of this sweep (or cost measurement) can answer
    overrides    `key=value` on the sweeps' specifications, as `attnbench run --set`

    UsageError: unknown name, tier or sweep; nothing that the sweep's rows answer.
    """
    claims, root = find(name), Path(results)
    if from_sweep is not None:
        found = judge_sweep(claims, root, from_sweep, progress)
        if not found:
            raise UsageError(
                f"the rows of '{from_sweep}' answer no claim of '{name}': not both arms of any contrast are "
                "there; 'attnbench claims list --json' shows which arms each claim needs"
            )
    else:
        steps = plans.steps_for(name, claims, tier, root, seeds, overrides)
        if plan_only:
            return [_planned(claim, steps) for claim in claims]
        found = [verdict.unable(claim, "none") for claim in claims if isinstance(claim.rule, Unable)]
        for step in steps:
            _run(step, root, overrides, fresh)
            found += judge_sweep(step.claims, root, step.name, progress) or [
                verdict.not_run(claim, step.name, "its sweep ended without rows that answer it")
                for claim in step.claims
            ]
    verdict.write(found, root)
    return found


def judge_sweep(
    claims: Sequence[Hypothesis], results: Path, sweep: str, progress: Progress | None = None
) -> list[Verdict]:
    """Verdicts on every one of `claims` that the rows of `sweep` answer; writes nothing."""
    from attnbench.results import Store

    store = Store(results)
    if sweep not in store.sweeps():
        raise UsageError(
            f"no sweep '{sweep}' in {results}; sweeps: {', '.join(store.sweeps()) or 'none yet'}"
        )
    rows = SweepRows(results, sweep)
    found: list[Verdict] = []
    effects: list[Effect] = []
    for claim in claims:
        rule = claim.rule
        if isinstance(rule, (CostAtMost, CostInside, CostBelowOne, FreeAtEvaluation)):
            found += _judge_cost(claim, rows)
        elif isinstance(rule, VarianceFall):
            found += verdict.judge_variances(
                variance.variance_effects(rows, claim, rule.scaled, progress), sweep
            )
    _explained_by_scale(found)
    if not rows.trials.empty:
        # Holm counts the whole family, whichever of its claims was asked for.
        families = {(claim.name, claim.family) for claim in claims}
        for claim in hypotheses():
            if (claim.name, claim.family) in families:
                effects += _paired(rows, claim)
    asked = {claim.id for claim in claims}
    judged = verdict.judge_effects(effects, sweep, store.rows("verdicts", sweep))
    return found + [one for one in judged if one.claim in asked]


def _paired(rows: SweepRows, claim: Hypothesis) -> list[Effect]:
    rule = claim.rule
    if isinstance(rule, Attacked):
        return attacks.attacked_effects(rows, claim, rule)
    if isinstance(rule, Corrupted):
        return attacks.corrupted_effects(rows, claim, rule)
    if isinstance(rule, Calibration):
        plain = evidence.paired_effects(rows, claim, rule.metric)
        scaled = attacks.scaled_effects(rows, claim, rule)
        for effect in plain if not scaled else ():
            effect.notes.append(
                "not repeated after temperature scaling: measure.robustness lacks `temperature`"
            )
        return plain + scaled
    return evidence.paired_effects(rows, claim, rule.metric) if isinstance(rule, Difference) else []


def _judge_cost(claim: Hypothesis, rows: SweepRows) -> list[Verdict]:
    free = isinstance(claim.rule, FreeAtEvaluation)
    effects = costs.cost_effects(rows.cost_ratios, claim, "eval" if free else claim.rule.mode)  # type: ignore[union-attr]
    unequal = {}
    if free and effects:
        unequal = {str(c.arm): costs.unequal_at_evaluation(c.arm, c.baseline) for c in claim.contrasts}
    return verdict.judge_costs(effects, rows.sweep, unequal)


def _explained_by_scale(found: Sequence[Verdict]) -> None:
    """Where the variance falls and the variance over the squared mean does not, it is a smaller gradient."""
    scaled = {(v.arm, v.baseline): v for v in found if v.claim == "AD-GV-2"}
    for one in found:
        other = scaled.get((one.arm, one.baseline))
        if one.claim == "AD-GV-1" and one.label == "reproduced" and other and other.label != "reproduced":
            one.reason += "; explained by scale: AD-GV-2 does not hold beside it"


def _run(step: plans.Step, results: Path, overrides: Sequence[str], fresh: bool) -> None:
    if step.kind == "cost":
        costs.measure(step.document, results, fresh)
        return
    from attnbench.sweep import run_file

    assert step.path is not None
    run_file(step.path, results, overrides=overrides, fresh=fresh)


def _planned(claim: Hypothesis, steps: Sequence[plans.Step]) -> Verdict:
    if isinstance(claim.rule, Unable):
        return verdict.unable(claim, "none")
    step = next(step for step in steps if claim in step.claims)
    return verdict.not_run(claim, step.name, step.line())
