"""Verdicts from rows with a known truth, written through the real store."""

import json
import math

import numpy as np
import pytest

from attnbench.claims import find, hypotheses, verify
from attnbench.claims.evidence import SweepRows, paired_effects
from attnbench.claims.hypothesis import Unable, sources
from attnbench.claims.verdict import judge_effects, latest
from attnbench.errors import UsageError
from attnbench.results import Store
from tests.claims.written import HOST, exactly, paired, trial, write

VIT_B = {**HOST, "layers": 12, "width": 768, "heads": 12, "patch": 16}
CONSISTENCY = {"name": "consistency", "weight": 1.0}


def one(verdicts, claim, **columns):
    found = [v for v in verdicts if v.claim == claim and all(getattr(v, k) == w for k, w in columns.items())]
    assert len(found) == 1, [(v.claim, v.arm, v.baseline) for v in verdicts]
    return found[0]


def hard_against_dropout(mean, sd, n=12, **values):
    return paired({"attentiondrop_hard": (mean, sd)}, "dropout", n, level=0.95, **values)


@pytest.mark.parametrize(
    ("mean", "sd", "label"),
    [(0.010, 0.008, "reproduced"), (-0.010, 0.008, "refuted"), (0.002, 0.016, "inconclusive")],
)
def test_a_known_difference_gets_the_label_of_the_rules(tmp_path, mean, sd, label):
    write(tmp_path, "s", hard_against_dropout(mean, sd))
    verdict = one(verify("AD-ACC-1", results=tmp_path, from_sweep="s"), "AD-ACC-1")
    assert (verdict.label, verdict.scope, verdict.size, verdict.seeds) == (label, "proxy", None, 12)
    assert verdict.estimate == pytest.approx(100 * mean) and verdict.unit == "points of test_accuracy"
    assert verdict.paper_value == pytest.approx(1.0) and verdict.paper_source.startswith("[S3] second-hand")
    if label == "inconclusive":
        assert "more seeds" in verdict.reason


def test_the_papers_own_model_and_data_are_judged_by_size_too(tmp_path):
    matched = {
        "workload": "cifar10",
        "workload_params": {"name": "cifar10", "subset": None},
        "host_params": VIT_B,
    }
    write(tmp_path, "full", hard_against_dropout(0.010, 0.004, **matched))
    write(tmp_path, "small", hard_against_dropout(0.002, 0.001, **matched))
    full = one(verify("AD-ACC-1", results=tmp_path, from_sweep="full"), "AD-ACC-1")
    small = one(verify("AD-ACC-1", results=tmp_path, from_sweep="small"), "AD-ACC-1")
    assert (full.scope, full.direction, full.size) == ("matched", "reproduced", "reproduced")
    assert (small.direction, small.size) == ("reproduced", "refuted")
    subset = {**matched, "workload_params": {"name": "cifar10", "subset": 5000}}
    write(tmp_path, "subset", hard_against_dropout(0.010, 0.004, **subset))
    assert one(verify("AD-ACC-1", results=tmp_path, from_sweep="subset"), "AD-ACC-1").scope == "proxy"


def test_verdicts_are_rows_that_query_sees(tmp_path):
    from attnbench.results import load

    write(tmp_path, "s", hard_against_dropout(0.01, 0.008))
    verify("attentiondrop", results=tmp_path, from_sweep="s")
    rows = load("verdicts", tmp_path)
    row = rows[rows["claim"] == "AD-ACC-1"].iloc[0]
    assert row["label"] == "reproduced" and row["p_holm"] >= row["p"] and len(json.loads(row["trials"])) == 24


def test_holm_counts_the_whole_family_whichever_claim_is_asked_for(tmp_path):
    rows = hard_against_dropout(0.008, 0.011)
    rows += [trial("attentiondrop_blur", s, test_accuracy=0.95 + 0.01 * math.sin(s)) for s in range(12)]
    write(tmp_path, "s", rows)
    alone = one(verify("AD-ACC-1", results=tmp_path, from_sweep="s"), "AD-ACC-1")
    together = one(verify("attentiondrop", results=tmp_path, from_sweep="s"), "AD-ACC-1")
    assert alone.p_holm == together.p_holm > alone.p


def test_a_weak_baseline_and_unequal_tuning_are_failed_gates(tmp_path):
    write(tmp_path, "weak", paired({"attentiondrop_hard": (0.05, 0.01)}, "dropout", 12, level=0.6))
    weak = one(verify("AD-ACC-1", results=tmp_path, from_sweep="weak"), "AD-ACC-1")
    assert weak.label == "inconclusive" and "below the floor" in weak.reason
    rows = hard_against_dropout(0.01, 0.004)
    rows += [trial("attentiondrop_hard", s, attention=[{"name": "attentiondrop_hard", "p": 0.5}],
                   test_accuracy=0.5, val_accuracy=0.5) for s in range(12)]  # fmt: skip
    write(tmp_path, "unequal", rows)
    unequal = one(verify("AD-ACC-1", results=tmp_path, from_sweep="unequal"), "AD-ACC-1")
    assert unequal.label == "inconclusive" and "unequal tuning" in unequal.reason


def test_mixed_code_versions_are_a_failed_gate_not_a_crash(tmp_path):
    rows = hard_against_dropout(0.01, 0.004)
    rows[-1]["git_hash"] = "other"
    write(tmp_path, "s", rows)
    verdict = one(verify("AD-ACC-1", results=tmp_path, from_sweep="s"), "AD-ACC-1")
    assert verdict.label == "inconclusive" and "git_hash" in verdict.reason


def consistent(seed, accuracy, **values):
    return trial(
        "blur_consistent",
        seed,
        mechanism="attentiondrop_blur",
        objective=CONSISTENCY,
        test_accuracy=accuracy,
        **values,
    )


def test_blur_with_consistency_is_also_held_against_dropout_with_twice_the_steps(tmp_path):
    base = exactly(0.94, 0.01, 12)
    rows = [trial("dropout", s, test_accuracy=base[s]) for s in range(12)]
    longer = {"epochs": 60, "steps": None, "batch": 64, "lr": 1e-3}
    rows += [
        trial(
            "dropout_2x", s, mechanism="dropout", train=longer, test_accuracy=base[s] + 0.02 + 0.001 * (s % 3)
        )
        for s in range(12)
    ]
    rows += [consistent(s, base[s] + 0.01 + 0.001 * (s % 2)) for s in range(12)]
    write(tmp_path, "s", rows)
    found = verify("AD-ACC-3", results=tmp_path, from_sweep="s")
    assert one(found, "AD-ACC-3", baseline="dropout").label == "reproduced"
    assert one(found, "AD-ACC-3", baseline="dropout_2x (2x the budget)").label == "refuted"


def attacked(tmp_path, pgd, fgsm):
    rows = hard_against_dropout(0.0, 0.004, n=6)
    write(tmp_path, "s", rows)
    store = Store(tmp_path)
    for row in rows:
        gain = 0.05 if row["arm"] == "attentiondrop_hard" else 0.0
        sink = store.sink("s", row["trial_id"], 1)
        for kind, curve in (("pgd", pgd), ("fgsm", fgsm)):
            sink.robustness(
                [
                    {
                        "kind": kind,
                        "severity": i,
                        "epsilon": e,
                        "accuracy": a + (gain if 0.1 < a < 0.9 else 0) + 0.001 * (row["seed"] % 3),
                    }
                    for i, (e, a) in enumerate(curve.items(), start=1)
                ]
            )
        sink.flush()


def test_robustness_gets_one_verdict_per_radius(tmp_path):
    attacked(tmp_path, {0.05: 0.6, 0.1: 0.3, 0.4: 0.01}, {0.05: 0.7, 0.1: 0.5, 0.4: 0.2})
    found = [v for v in verify("AD-ROB-1", results=tmp_path, from_sweep="s") if v.baseline == "dropout"]
    assert [v.arm for v in found] == [f"attentiondrop_hard at eps {e}" for e in ("0.05", "0.1", "0.4")]
    assert [v.label for v in found] == ["reproduced", "reproduced", "inconclusive"]


@pytest.mark.parametrize(
    ("pgd", "fgsm", "fault"),
    [
        ({0.05: 0.3, 0.1: 0.6, 0.4: 0.01}, {0.05: 0.9, 0.1: 0.9, 0.4: 0.9}, "accuracy rises"),
        ({0.05: 0.6, 0.1: 0.5, 0.4: 0.4}, {0.05: 0.9, 0.1: 0.9, 0.4: 0.9}, "still"),
        ({0.05: 0.6, 0.1: 0.3, 0.4: 0.01}, {0.05: 0.2, 0.1: 0.2, 0.4: 0.2}, "weaker fgsm"),
    ],
)
def test_a_failed_attack_gate_fails_every_radius(tmp_path, pgd, fgsm, fault):
    attacked(tmp_path, pgd, fgsm)
    found = verify("AD-ROB-1", results=tmp_path, from_sweep="s")
    assert found and all(v.label == "inconclusive" and fault in v.reason for v in found)


def test_calibration_that_one_temperature_repairs_is_said_to_be_so(tmp_path):
    rows = paired(
        {"attentiondrop_hard": (-0.012, 0.004)}, "dropout", 8, "test_ece", 0.045, test_accuracy=0.95
    )
    write(tmp_path, "s", rows)
    store = Store(tmp_path)
    noise = exactly(0.0, 0.004, 8, seed=3)
    for row in rows:
        ece = 0.02 + (noise[row["seed"]] if row["arm"] == "dropout" else 0.0)
        sink = store.sink("s", row["trial_id"], 1)
        sink.robustness(
            [
                {
                    "kind": "temperature",
                    "severity": 0,
                    "epsilon": None,
                    "accuracy": 0.95,
                    "nll": 0.2,
                    "ece": ece,
                }
            ]
        )
        sink.flush()
    found = verify("AD-CAL-1", results=tmp_path, from_sweep="s")
    plain = one(found, "AD-CAL-1", arm="attentiondrop_hard")
    assert plain.label == "reproduced" and plain.estimate == pytest.approx(1.2)
    assert "removable by one parameter" in plain.reason
    assert one(found, "AD-CAL-1", arm="attentiondrop_hard after temperature scaling").label == "inconclusive"


def ratio(
    mechanism, value, half, *, length=65, path="reference", baseline_path="reference", mode="step", **more
):
    return {
        "mechanism": mechanism, "attention": [{"name": mechanism}], "objective": None, "baseline": "softmax",
        "baseline_path": baseline_path, "path": path, "shape": {}, "batch": 32, "heads": 4, "length": length,
        "head_dim": 16, "causal": False, "mode": mode, "precision": "fp32", "device": "cpu", "threads": 1,
        "repeat": 0, "ratio": value, "ratio_low": value - half, "ratio_high": value + half,
        "cpu_ratio": value,
        "half_width": half, "reached": True, "blocks": 60, "contended": False, "flops": 110.0,
        "baseline_flops": 100.0, **more,
    }  # fmt: skip


def measured(tmp_path, rows):
    sink = Store(tmp_path).sink("c", "measurement", 1)
    sink.add("cost_ratios", rows)
    sink.flush()


def test_overhead_is_judged_per_shape_against_eager_and_against_fused(tmp_path):
    measured(
        tmp_path,
        [
            ratio("attentiondrop_hard", 1.02, 0.02),
            ratio("attentiondrop_hard", 1.30, 0.02, length=197),
            ratio("attentiondrop_hard", 1.06, 0.02, path="reference", baseline_path="flash_cpu"),
        ],
    )
    found = verify("AD-OV-1", results=tmp_path, from_sweep="c")
    labels = {(v.arm.split(" at ")[1].split()[2], v.baseline): v.label for v in found}
    assert labels == {
        ("N65", "softmax (reference)"): "reproduced",
        ("N197", "softmax (reference)"): "refuted",
        ("N65", "softmax (flash_cpu)"): "inconclusive",
    }
    assert all(v.size is None and v.scope == "proxy" for v in found)


def test_a_machine_that_misses_one_against_itself_decides_nothing(tmp_path):
    measured(tmp_path, [ratio("softmax", 1.2, 0.05), ratio("attentiondrop_hard", 1.02, 0.01)])
    verdict = verify("AD-OV-1", results=tmp_path, from_sweep="c")[0]
    assert verdict.label == "inconclusive" and "against itself" in verdict.reason


def test_throughput_is_the_inverse_of_the_time_ratio(tmp_path):
    row = ratio("attentiondrop_blur", 2.0, 0.1, objective=CONSISTENCY, baseline="attentiondrop_blur")
    measured(tmp_path, [row])
    verdict = verify("AD-OV-3", results=tmp_path, from_sweep="c")[0]
    assert verdict.label == "reproduced" and verdict.estimate == pytest.approx(0.5)
    assert verdict.low == pytest.approx(1 / 2.1) and verdict.high == pytest.approx(1 / 1.9)


def test_free_at_evaluation_means_equal_bits_and_equal_time(tmp_path):
    rows = [ratio(name, 1.001, 0.004, mode="eval") for name in ("attentiondrop_hard", "attentiondrop_blur")]
    measured(tmp_path, rows)
    found = verify("AD-OV-5", results=tmp_path, from_sweep="c")
    assert {v.label for v in found} == {"reproduced"} and "bit for bit" in found[0].reason


def test_a_mechanism_that_acts_at_evaluation_is_caught(tmp_path):
    from attnbench.claims.costs import unequal_at_evaluation
    from attnbench.claims.hypothesis import Arm

    softmax = Arm(("softmax",))
    assert unequal_at_evaluation(Arm(("attentiondrop_hard",)), softmax) == []
    assert "differ" in unequal_at_evaluation(Arm(("alibi",)), softmax)[0]


def test_lam_reduces_nothing_when_its_ratio_is_above_one(tmp_path):
    measured(tmp_path, [ratio("lam", 1.3, 0.05)])
    verdict = verify("LAM-OV-1", results=tmp_path, from_sweep="c")[0]
    assert verdict.label == "refuted" and "FLOP ratio 1.100" in verdict.reason


def test_a_top_up_of_seeds_is_a_second_look_at_half_the_level(tmp_path):
    write(tmp_path, "s", hard_against_dropout(0.002, 0.016, n=6))
    verify("AD-ACC-1", results=tmp_path, from_sweep="s")
    verify("AD-ACC-1", results=tmp_path, from_sweep="s")  # the same rows again are no new look
    rows = hard_against_dropout(0.01, 0.004, n=12)
    write(tmp_path, "s", [row for row in rows if row["seed"] >= 6])
    second = one(verify("AD-ACC-1", results=tmp_path, from_sweep="s"), "AD-ACC-1")
    assert second.seeds == 12 and "look 2: decided at a level of 0.025" in second.reason
    assert len([v for v in latest(tmp_path) if v.claim == "AD-ACC-1"]) == 1


def test_a_sweep_that_answers_nothing_is_an_error_in_one_line(tmp_path):
    write(tmp_path, "s", [trial("softmax", s) for s in range(3)])
    with pytest.raises(UsageError, match="answer no claim"):
        verify("attentiondrop", results=tmp_path, from_sweep="s")
    with pytest.raises(UsageError, match="no sweep 'other'"):
        verify("attentiondrop", results=tmp_path, from_sweep="other")
    with pytest.raises(UsageError, match="did you mean AD-ACC-1"):
        verify("AD-ACC-11", results=tmp_path, from_sweep="s")


def test_every_claim_names_its_paper_and_where_each_figure_was_read():
    known = hypotheses()
    assert len({claim.id for claim in known}) == len(known)
    for claim in known:
        assert claim.arxiv and claim.statement and claim.metric
        assert claim.contrasts or isinstance(claim.rule, Unable)
        for contrast in claim.contrasts:
            for value in contrast.paper:
                assert "second-hand" in sources()[value.source]
        json.dumps(claim.as_dict(), allow_nan=False)
    assert {claim.name for claim in find("lam")} == {"lam"} and len(find("all")) == len(known)


def test_the_sheets_figures_are_the_ones_registered():
    paper = {
        (c.id, str(k.arm), str(k.baseline)): [v.value for v in k.paper]
        for c in hypotheses()
        for k in c.contrasts
    }
    assert paper["AD-ACC-1", "attentiondrop_hard", "dropout"] == pytest.approx([0.945 - 0.935, 0.753 - 0.742])
    consistent_arm = "attentiondrop_blur & consistency"
    assert paper["AD-ACC-3", consistent_arm, "dropout"] == pytest.approx([0.948 - 0.935, 0.756 - 0.742])
    assert paper["AD-CAL-1", consistent_arm, "dropout"] == pytest.approx([0.045 - 0.029])
    assert paper["AD-ROB-1", "attentiondrop_hard", "dropout & r_drop"] == pytest.approx([0.472 - 0.457])


def test_null_sweeps_are_rarely_called_reproduced(tmp_path):
    generator, called = np.random.default_rng(11), 0
    write(tmp_path, "s", hard_against_dropout(0.0, 0.01, n=8))
    rows = SweepRows(tmp_path, "s")
    for _ in range(60):
        rows.trials["test_accuracy"] = generator.normal(0.95, 0.01, len(rows.trials))
        effects = paired_effects(rows, find("AD-ACC-1")[0], "test_accuracy")
        called += judge_effects(effects, "s")[0].label == "reproduced"
    assert called <= 5  # one side of 5 %, 60 times: 1.5 expected
