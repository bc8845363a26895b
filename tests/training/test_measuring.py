"""Gradient statistics of several mechanisms at the same weights."""

import pytest
import torch

from attnbench import workloads
from attnbench.hosts import HostConfig
from attnbench.training import Trial, load_model, paired_gradient_statistics, run_trial
from attnbench.training.network import build_network
from tests.training.conftest import HOST


def measured(arms, weights, **changes):
    asked = {"batches": 3, "draws": 2, "batch": 32, "seed": 1} | changes
    return paired_gradient_statistics(
        arms, host=HostConfig(**HOST), workload=workloads.load("digits"), weights=weights, **asked
    )


def weights_of(make, attention="softmax"):
    return {name: p.detach() for name, p in build_network(make(attention)).named_parameters()}


def totals(found):
    return {label: statistics.rows()[-1] for label, statistics in found.items()}


def test_an_arm_that_does_nothing_has_the_baselines_gradient(make):
    arms = {"base": "softmax", "idle": {"name": "attentiondrop_hard", "p": 0.0}, "hard": "attentiondrop_hard"}
    rows = totals(measured(arms, weights_of(make)))
    assert rows["idle"]["trace_total"] == pytest.approx(rows["base"]["trace_total"], rel=1e-4)
    assert rows["base"]["trace_mechanism"] == pytest.approx(0.0, abs=1e-9)
    assert rows["hard"]["trace_mechanism"] > 0
    assert rows["hard"]["trace_data"] == pytest.approx(rows["base"]["trace_data"], rel=0.5)


def test_a_mechanisms_own_parameters_start_as_its_trial_would_start_them(make):
    rows = totals(measured(["softmax", {"name": "lam", "init": "identity"}], weights_of(make)))
    assert rows["lam"]["train_loss"] == pytest.approx(rows["softmax"]["train_loss"], rel=1e-5)


def test_the_parts_of_a_batch_change_nothing(make):
    weights = weights_of(make)
    whole, parts = (totals(measured(["softmax"], weights, micro=micro))["softmax"] for micro in (32, 8))
    assert parts["trace_total"] == pytest.approx(whole["trace_total"], rel=1e-4)


def test_an_objective_is_part_of_its_arms_gradient(make):
    from attnbench.training import canonical_objective

    arms = {"plain": "attentiondrop_hard", "with": "attentiondrop_hard"}
    objectives = {"with": canonical_objective({"name": "consistency", "weight": 50.0})}
    rows = totals(measured(arms, weights_of(make), objectives=objectives))
    assert rows["with"]["train_loss"] > rows["plain"]["train_loss"]


def test_a_trials_figures_are_those_of_its_kept_weights_on_the_same_batches(make, tmp_path):
    from attnbench.results import MemorySink
    from attnbench.training.batches import Batches
    from attnbench.training.gradients import gradient_statistics
    from attnbench.training.measuring import batch_loss

    asked = {"gradients": {"every": 4, "batches": 3, "draws": 2}}
    config = make("attentiondrop_hard", train={"steps": 4, "batch": 32, "keep": "last"}, measure=asked)
    sink = MemorySink(config.sweep, config.trial_id)
    run_trial(config, sink, tmp_path)
    model, _ = load_model(next(tmp_path.rglob("last.pt")))
    split = workloads.load("digits").split("train")
    loss = batch_loss(split, seed=0, step=4, draws=2, micro=32, device=torch.device("cpu"))
    found = gradient_statistics(
        model.train(),
        dict(model.named_parameters()),
        Batches(split, 32, 0).measuring(4, 3),
        2,
        loss,
        groups=model.layer_groups(),
    )
    recorded = sink.tables["gradients"][-1]
    assert recorded["layer_group"] == "total" and recorded["weights_of"] == "own"
    assert recorded["trace_total"] == found.rows()[-1]["trace_total"]


def test_the_default_cadence_costs_at_most_a_tenth_of_training(make):
    import statistics
    import time

    config = make("attentiondrop_hard", host={**HOST, "width": 64, "layers": 4}, measure={"gradients": {}})
    trial = Trial(config)
    loop = trial.loop
    for _ in range(3):
        loop.step()
    loop.gradient_rows()
    cost: dict[str, list[float]] = {"step": [], "rows": []}
    for _ in range(3):
        for name, work, times in (("step", loop.step, 5), ("rows", loop.gradient_rows, 1)):
            for _ in range(times):
                begun = time.thread_time()
                work()
                cost[name].append(time.thread_time() - begun)
    trial.close()
    step, rows = (statistics.median(cost[name]) for name in ("step", "rows"))
    assert rows <= 0.10 * config.measure.gradients.every * step
