"""Plans: every runnable claim gets something that can be run, on equal terms for every arm."""

import pytest

from attnbench.claims import find, hypotheses
from attnbench.claims.plans import steps_for
from attnbench.cost import CostSpec
from attnbench.errors import UsageError
from attnbench.sweep import read_specification


def test_every_runnable_claim_is_answered_by_a_step_that_reads_as_a_specification(tmp_path):
    claims = [claim for claim in hypotheses() if claim.name == "attentiondrop" and claim.runnable]
    steps = steps_for("attentiondrop", claims, "cpu", tmp_path)
    assert {claim.id for step in steps for claim in step.claims} == {claim.id for claim in claims}
    for step in steps:
        if step.kind == "cost":
            assert CostSpec.model_validate(step.document).cells()
        else:
            sweep = read_specification(step.path)
            assert sweep.name == step.name and step.trials > 0


def test_every_arm_of_a_paired_plan_is_tuned_over_as_many_configurations(tmp_path):
    step = steps_for("attentiondrop", find("attentiondrop"), "cpu", tmp_path, seeds=7)[0]
    sweep = read_specification(step.path)
    counts = {arm.label: len(list(arm.configurations(sweep.search.samples, 0))) for arm in sweep.arms}
    assert set(counts.values()) == {6} and len(sweep.confirm_seeds) == 7 and len(sweep.folds) == 5
    assert {"dropout", "dropout & r_drop", "dropout, 2x budget"} <= set(counts)


def test_what_a_claim_needs_is_measured(tmp_path):
    measured = steps_for("x", find("AD-ROB-1") + find("AD-CAL-1"), "cpu", tmp_path)[0].document["measure"]
    assert measured["robustness"] == ["clean", "fgsm", "pgd", "temperature"]
    kept = steps_for("y", find("AD-GV-1"), "cpu", tmp_path)[0].document["train"]["keep"]
    assert kept == {"at": list(range(1, 31))}


def test_an_unknown_tier_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(UsageError, match="cpu, gpu"):
        steps_for("x", find("AD-ACC-1"), "tpu", tmp_path)


def test_a_cost_claim_is_measured_once_and_judged_from_its_rows(tmp_path, monkeypatch):
    """The real measurement at a size that takes seconds; a second call reads what is there."""
    from attnbench.claims import costs, verify
    from attnbench.results import load

    monkeypatch.setattr(costs, "SHAPES", {"cpu": {"batch": 2, "heads": 2, "head_dim": 4}})
    monkeypatch.setattr(costs, "LENGTHS", {"cpu": [8]})
    real = costs.cost_document
    monkeypatch.setattr("attnbench.claims.plans.cost_document", lambda *a: {**real(*a), "limit_s": 0.2})
    found = verify("AD-OV-5", results=tmp_path)
    assert {v.claim for v in found} == {"AD-OV-5"} and len(found) == 4  # two arms, eager and fused baseline
    assert all("bit for bit" in v.reason or "against itself" in v.reason for v in found)
    rows = len(load("cost_ratios", tmp_path))
    assert len(verify("AD-OV-5", results=tmp_path)) == 4 and len(load("cost_ratios", tmp_path)) == rows
