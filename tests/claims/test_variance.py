"""Gradient variance at fixed weights: the arithmetic on known figures, the whole path on trained weights."""

import math

import pytest

from attnbench.claims import find, variance, verify
from attnbench.claims.evidence import SweepRows
from attnbench.results import Store
from attnbench.training import TrialConfig, run_trial
from tests.claims.written import exactly

HOST = {"kind": "encoder", "layers": 1, "width": 16, "heads": 2, "patch": 4}


def test_the_interval_of_a_ratio_is_taken_on_logs_and_turned_back():
    logs = exactly(math.log(0.9), 0.05, 6)
    change = variance.from_logs(logs)
    assert change.estimate == pytest.approx(-0.1) and change.n == 6
    assert (1 + change.low) * (1 + change.high) == pytest.approx(0.81)  # symmetric about the mean on logs


def test_one_seed_gives_no_interval():
    change = variance.from_logs([0.1])
    assert (change.low, change.high) == (-1.0, math.inf)


def test_groups_add_up_and_what_the_mechanism_owns_stays_out():
    part = {"trace_data": 1.0, "trace_mechanism": 0.5, "trace_total": 1.5, "mean_sq_norm": 2.0, "batches": 16}
    groups = ("embedding", "layer.0.attention", "layer.0.mechanism", "head", "total")
    found = variance.summed([{**part, "layer_group": group} for group in groups])
    assert (found.total, found.data, found.mechanism, found.mean_sq_norm) == (4.5, 3.0, 1.5, 6.0)


def test_the_scaled_ratio_tells_a_smaller_gradient_from_less_noise():
    plain = variance.Figures(4.0, 4.0, 0.0, 2.0, 16)
    shrunk = variance.Figures(1.0, 1.0, 0.0, 0.5, 16)
    assert variance.ratio_of(shrunk, plain, scaled=False) == 0.25
    assert variance.ratio_of(shrunk, plain, scaled=True) == 1.0
    assert variance.ratio_of(variance.Figures(1.0, 1.0, 0.0, -0.1, 16), plain, scaled=True) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two arms, two seeds, trained for two epochs with their weights kept after each."""
    results = tmp_path_factory.mktemp("variance")
    for arm in ("softmax", "attentiondrop_hard"):
        for seed in (0, 1):
            train = {"epochs": 2, "batch": 64, "lr": 3e-3, "keep": {"at": [1, 2]}}
            asked = {"sweep": "kept", "label": arm, "workload": "digits", "host": HOST, "attention": arm}
            config = TrialConfig.parse({**asked, "seed": seed, "train": train})
            sink = Store(results).sink("kept", config.trial_id, 1)
            run_trial(config, sink, checkpoints=results / "checkpoints")
    return results


def test_one_verdict_per_arm_weights_and_loss_level_and_none_pooled(trained, monkeypatch):
    rows = SweepRows(trained, "kept")
    contrast = find("AD-GV-1")[0].contrasts[0]
    trial = next(row for row in rows.trials.to_dict("records") if row["arm"] == "softmax")
    losses = variance.plain_losses(rows, trial, contrast)
    assert [path.stem for path in losses] == ["at-1", "at-2"]
    level = round(min(losses.values()), 2)
    monkeypatch.setattr(variance, "LEVELS", (level, 1e-6))
    monkeypatch.setattr(variance, "BATCHES", 16)
    found = verify("AD-GV-1", results=trained, from_sweep="kept")
    assert {v.arm for v in found} == {
        f"attentiondrop_hard at {whose} weights, training loss {loss:g}"
        for whose in ("its own", "the baseline's")
        for loss in (level, 1e-6)
    }
    near = [v for v in found if v.arm.endswith(f"{level:g}")]
    assert all(v.label == "inconclusive" and v.seeds == 2 and abs(v.estimate) < 100 for v in near)
    assert all("2 seeds, the rule asks for at least 5" in v.reason for v in near)
    assert all(v.seeds == 0 for v in found if v not in near)
    assert all(v.scope == "proxy" and v.size is None for v in found)


def test_figures_measured_once_are_read_again_and_carry_whose_weights(trained, monkeypatch):
    rows = SweepRows(trained, "kept")
    trial = next(row for row in rows.trials.to_dict("records") if row["arm"] == "softmax")
    level = round(min(variance.plain_losses(rows, trial, find("AD-GV-1")[0].contrasts[0]).values()), 2)
    monkeypatch.setattr(variance, "LEVELS", (level,))
    first = verify("AD-GV-1", results=trained, from_sweep="kept")
    before = Store(trained).rows("gradients", "kept")
    again = verify("AD-GV-1", results=trained, from_sweep="kept")
    assert [v.estimate for v in again] == [v.estimate for v in first]
    assert len(Store(trained).rows("gradients", "kept")) == len(before) > 0
    assert {row["weights_of"] for row in before} == {"own", "baseline"}


def test_a_perturbation_that_never_acts_changes_nothing(trained):
    """The same weights and batches without a perturbation on either side: a ratio of 1 to the last digit."""
    from attnbench.claims.hypothesis import Arm, Contrast

    rows = SweepRows(trained, "kept")
    trial = next(row for row in rows.trials.to_dict("records") if row["arm"] == "softmax")
    softmax = Contrast(Arm(("softmax",)), Arm(("softmax",)))
    level = min(variance.plain_losses(rows, trial, softmax).values())
    perturbed, plain = variance.figures_at(rows, trial, softmax, "own", level)
    assert variance.ratio_of(perturbed, plain, scaled=False) == 1.0 and plain.mechanism == pytest.approx(
        0.0, abs=1e-12
    )
