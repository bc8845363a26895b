"""Comparisons of rows with a known truth, through the real store."""

import json

import pytest

from attnbench.claims import statistics
from attnbench.claims.comparison import compare
from attnbench.errors import UsageError
from tests.claims.written import HOST, exactly, paired, trial, write


def arm_row(comparison, arm):
    return next(row for row in comparison.rows if row.arm == arm)


def test_a_known_difference_is_found_with_its_t_interval(tmp_path):
    frame = write(tmp_path, "s", paired({"dropout": (0.02, 0.01)}, "softmax", 8))
    row = arm_row(compare(frame, "test_accuracy", "softmax"), "dropout")
    truth = statistics.paired_interval(exactly(0.02, 0.01, 8))
    assert row.difference.estimate == pytest.approx(0.02)
    assert (row.difference.low, row.difference.high) == pytest.approx((truth.low, truth.high))
    assert row.decision == "better" and row.seeds == 8


def test_pairing_removes_what_the_seeds_have_in_common(tmp_path):
    """Seeds spread by 5 points; the arm is better by half a point in each: only the pairing can see it."""
    levels = exactly(0.9, 0.05, 6)
    rows = [trial("softmax", s, test_accuracy=levels[s]) for s in range(6)]
    rows += [trial("dropout", s, test_accuracy=levels[s] + 0.005 + 0.0002 * (s % 2)) for s in range(6)]
    assert (
        arm_row(compare(write(tmp_path, "s", rows), "test_accuracy", "softmax"), "dropout").decision
        == "better"
    )


def test_folds_are_averaged_within_a_seed_and_the_seed_is_the_unit(tmp_path):
    rows = []
    for seed in range(4):
        for fold in range(5):
            rows.append(trial("softmax", seed, fold, test_accuracy=0.9))
            rows.append(trial("dropout", seed, fold, test_accuracy=0.9 + 0.01 * seed + 0.002 * (fold - 2)))
    row = arm_row(compare(write(tmp_path, "s", rows), "test_accuracy", "softmax"), "dropout")
    assert (row.seeds, row.folds, row.difference.n) == (4, 5, 4)
    assert row.difference.estimate == pytest.approx(0.015)
    assert row.difference.sd == pytest.approx(statistics.paired_interval([0, 0.01, 0.02, 0.03]).sd)


def test_lower_is_better_for_calibration(tmp_path):
    frame = write(tmp_path, "s", paired({"dropout": (-0.01, 0.002)}, "softmax", 6, "test_ece", 0.04))
    assert arm_row(compare(frame, "test_ece", "softmax"), "dropout").decision == "better"


def test_direction_needs_holm_while_the_printed_interval_stays_unadjusted(tmp_path):
    """Five arms, each with p about 0.03: every interval excludes zero, none survives the family of five."""
    arms = {f"arm{i}": (0.01, 0.0107) for i in range(5)}
    comparison = compare(write(tmp_path, "s", paired(arms, "softmax", 8)), "test_accuracy", "softmax")
    for arm in arms:
        row = arm_row(comparison, arm)
        assert row.difference.low > 0 and 0.02 < row.difference.p < 0.05 < row.p_holm
        assert row.decision == "inconclusive"
    alone = compare(
        write(tmp_path, "t", paired({"arm0": (0.01, 0.0107)}, "softmax", 8)), "test_accuracy", "softmax"
    )
    assert arm_row(alone, "arm0").decision == "better"
    assert any("unadjusted" in note for note in comparison.notes)


def test_an_undecided_arm_says_how_many_more_seeds_would_decide(tmp_path):
    comparison = compare(
        write(tmp_path, "s", paired({"a": (0.004, 0.016)}, "softmax", 5)), "test_accuracy", "softmax"
    )
    row = arm_row(comparison, "a")
    assert (
        row.decision == "inconclusive" and row.more_seeds == statistics.seeds_for_half_width(0.016, 0.004) - 5
    )


def test_the_configuration_is_chosen_on_validation_and_never_on_test(tmp_path):
    rows = [
        trial("softmax", s, train={"epochs": 30, "batch": 64, "lr": lr})
        for s in range(3)
        for lr in (1e-3, 3e-3)
    ]
    for s in range(3):
        for lr, val, test in ((1e-3, 0.95, 0.80), (3e-3, 0.90, 0.99)):
            train = {"epochs": 30, "batch": 64, "lr": lr}
            rows.append(trial("dropout", s, train=train, val_accuracy=val, test_accuracy=test + 0.001 * s))
    row = arm_row(compare(write(tmp_path, "s", rows), "test_accuracy", "softmax"), "dropout")
    assert json.loads(row.configuration)["train"]["lr"] == 1e-3
    assert row.mean.estimate == pytest.approx(0.801) and row.configurations == 2


def test_unequal_tuning_is_refused_unless_told_and_then_said(tmp_path):
    rows = [trial("softmax", s) for s in range(2)]
    rows += [
        trial("hard", s, attention=[{"name": "attentiondrop_hard", "p": p}])
        for s in range(2)
        for p in (0.1, 0.2, 0.3)
    ]
    frame = write(tmp_path, "s", rows)
    with pytest.raises(UsageError, match=r"softmax 1, hard 3.*--unequal"):
        compare(frame, "test_accuracy", "softmax")
    assert any("UNEQUAL" in note for note in compare(frame, "test_accuracy", "softmax", unequal=True).notes)


def test_only_confirmation_runs_enter_where_there_are_any(tmp_path):
    rows = []
    for arm, tuned, confirmed in (("softmax", 0.99, 0.90), ("dropout", 0.99, 0.95)):
        for lr in (1e-3, 3e-3):
            train = {"epochs": 30, "batch": 64, "lr": lr}
            rows.append(trial(arm, 0, role="tune", train=train, status="stopped", test_accuracy=tuned))
        rows += [trial(arm, 1000 + s, role="confirm", test_accuracy=confirmed + 0.001 * s) for s in range(3)]
    row = arm_row(compare(write(tmp_path, "s", rows), "test_accuracy", "softmax"), "dropout")
    assert row.seeds == 3 and sorted(row.values) == [1000, 1001, 1002] and row.configurations == 2
    assert row.difference.estimate == pytest.approx(0.05)


def test_a_sweep_of_tuning_trials_alone_cannot_be_compared(tmp_path):
    frame = write(tmp_path, "s", [trial(arm, 0, role="tune") for arm in ("softmax", "dropout")])
    with pytest.raises(UsageError, match="confirm_seeds"):
        compare(frame, "test_accuracy", "softmax")


def test_a_diverged_member_counts_as_the_worst_value_and_is_said(tmp_path):
    rows = paired({"a": (0.02, 0.001)}, "softmax", 4)
    next(row for row in rows if row["arm"] == "a").update(status="diverged", test_accuracy=None)
    comparison = compare(write(tmp_path, "s", rows), "test_accuracy", "softmax")
    row = arm_row(comparison, "a")
    assert row.diverged == 1 and row.values[0] == 0.0 and row.decision == "inconclusive" and row.seeds == 4
    assert any("diverged" in note for note in comparison.notes)


def test_a_diverged_member_of_an_unbounded_metric_counts_as_the_worst_one_reached(tmp_path):
    rows = paired({"a": (-0.1, 0.01)}, "softmax", 3, "test_loss", 1.0)
    rows[0]["test_loss"] = 7.0
    next(row for row in rows if row["arm"] == "a").update(status="diverged", test_loss=None)
    assert arm_row(compare(write(tmp_path, "s", rows), "test_loss", "softmax"), "a").values[0] == 7.0


def test_unpaired_seeds_are_listed_with_the_reason(tmp_path):
    rows = paired({"a": (0.02, 0.01)}, "softmax", 5)
    rows = [row for row in rows if not (row["arm"] == "softmax" and row["seed"] == 4)]
    next(row for row in rows if row["arm"] == "a" and row["seed"] == 1).update(status="out_of_memory")
    row = arm_row(compare(write(tmp_path, "s", rows), "test_accuracy", "softmax"), "a")
    assert row.seeds == 3
    assert row.unpaired == ["seed 1 fold 0: a is out_of_memory", "seed 4 fold 0: softmax has no trial"]


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("git_hash", "def456"),
        ("git_dirty", True),
        ("data_sha256", "e" * 64),
        ("device", "NVIDIA H200"),
        ("threads", 2),
        ("precision", "bf16"),
        ("zero_stage", 1),
    ],
)
def test_mixing_is_refused_in_one_line_that_names_column_and_values(tmp_path, column, other):
    rows = paired({"a": (0.02, 0.01)}, "softmax", 3)
    first = str(rows[0][column])
    rows[-1][column] = other
    frame = write(tmp_path, "s", rows)
    with pytest.raises(UsageError) as refusal:
        compare(frame, "test_accuracy", "softmax")
    line = str(refusal.value)
    assert "\n" not in line and column in line and first[:16] in line and str(other)[:16] in line
    assert any(column in note for note in compare(frame, "test_accuracy", "softmax", mixed=[column]).notes)


def test_another_budget_or_host_is_never_paired_silently(tmp_path):
    rows = paired({"a": (0.02, 0.01)}, "softmax", 3)
    rows += [trial("longer", s, train={"epochs": 60, "batch": 64, "lr": 1e-3}) for s in range(3)]
    rows += [trial("wider", s, host_params={**HOST, "width": 128}) for s in range(3)]
    frame = write(tmp_path, "s", rows)
    comparison = compare(frame, "test_accuracy", "softmax")
    assert {row.arm for row in comparison.rows} == {"softmax", "a"}
    assert any("longer" in note and "--mixed budget" in note for note in comparison.notes)
    assert any("wider" in note and "--mixed host" in note for note in comparison.notes)
    assert arm_row(compare(frame, "test_accuracy", "softmax", mixed=["budget"]), "longer").seeds == 3


def test_the_best_of_n_is_shown_beside_the_mean(tmp_path):
    rows = [trial("softmax", s, test_accuracy=v) for s, v in enumerate((0.90, 0.97, 0.91))]
    row = compare(write(tmp_path, "s", rows), "test_accuracy", "softmax").rows[0]
    assert (row.best, row.best_of) == (0.97, 3)


def test_one_seed_decides_nothing(tmp_path):
    rows = [trial("softmax", 0, test_accuracy=0.9), trial("a", 0, test_accuracy=0.99)]
    comparison = compare(write(tmp_path, "s", rows), "test_accuracy", "softmax")
    assert arm_row(comparison, "a").decision == "inconclusive" and arm_row(comparison, "a").more_seeds is None
    assert any("nothing can be decided" in note for note in comparison.notes)
    json.dumps(comparison.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("metric", "baseline", "hint"),
    [
        ("test_acuracy", "softmax", "test_accuracy"),
        ("accuracy", "softmax", "test_accuracy"),
        ("test_accuracy", "sofmax", "softmax"),
    ],
)
def test_a_misspelt_metric_or_baseline_gets_the_nearest_name(tmp_path, metric, baseline, hint):
    frame = write(tmp_path, "s", paired({"a": (0.02, 0.01)}, "softmax", 3))
    with pytest.raises(UsageError, match=f"did you mean {hint}"):
        compare(frame, metric, baseline)


@pytest.mark.slow
def test_null_arms_are_called_better_or_worse_in_at_most_five_percent_of_families(tmp_path):
    import numpy as np

    wrong, generator = 0, np.random.default_rng(5)
    frame = write(tmp_path, "s", paired({f"a{i}": (0, 0.01) for i in range(3)}, "softmax", 5))
    for _ in range(150):
        frame["test_accuracy"] = generator.normal(0.9, 0.02, len(frame))
        wrong += any(
            row.decision in ("better", "worse") for row in compare(frame, "test_accuracy", "softmax").rows
        )
    assert wrong / 150 <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5
