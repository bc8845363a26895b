"""A specification is refused in one line with file, line and place, and what is accepted expands as
DESIGN 10 says.
"""

import os

import pytest

from attnbench.errors import UsageError
from attnbench.sweep.specification import read_specification

GOOD = """\
sweep: demo
workload: digits
host: {kind: encoder, layers: 2, width: 32, heads: 4, patch: 2}
attention:
  - softmax
  - {name: dropout, p: 0.1}
train: {epochs: 3, batch: 64, lr: [1.0e-3, 3.0e-3]}
seeds: 2
"""

REFUSED = [
    ("  - softmax\n", "  - softmaks\n", [":5: attention[0]", "unknown mechanism 'softmaks'", "softmax"]),
    ("p: 0.1", "pp: 0.1", [":6: attention[1].pp", "unknown parameter 'pp'", "Did you mean 'p'?"]),
    ("p: 0.1", "p: much", [":6: attention[1].p", "'much'"]),
    ("p: 0.1", "p: 1.5", [":6: attention[1].p", "1.5"]),
    ("p: 0.1", "p: [0.1, 1.5]", [":6: attention[1].p[1]", "1.5"]),
    ("workload: digits", "workload: digts", [":2: workload", "unknown workload 'digts'", "mean 'digits'?"]),
    ("workload: digits", "workload: {name: digits, foldz: 3}", [":2: workload.foldz", "mean 'folds'?"]),
    ("workload: digits", "workload: [digits, mqar]", [":2: workload", "must be a workload's name"]),
    ("sweep: demo", "sweep: [demo]", [":1: sweep", "must be text, not ['demo']", "a list is an axis"]),
    ("sweep: demo", "sweep: a/b", [":1: sweep", "must be a name of letters"]),
    ("sweep: demo\n", "", ["sweep: is missing"]),
    ("seeds: 2", "seeds: two", [":8: seeds", "must be a number n", "'two'"]),
    ("seeds: 2", "seeds: [1, 1]", [":8: seeds", "different"]),
    ("seeds: 2", "sedes: 2", [":8: sedes: unknown key", "Did you mean 'seeds'?"]),
    ("seeds: 2", "seeds: 2\nseeds: 3", [":9: the key 'seeds' stands twice"]),
    ("epochs: 3", "epoch: 3", [":7: train.epoch", "Did you mean 'epochs'?"]),
    ("epochs: 3", "epochs: 3, steps: 5", [":7: train", "exactly one of epochs and steps"]),
    ("epochs: 3", "epochs: three", [":7: train.epochs", "a whole number", "'three'"]),
    ("batch: 64", "batch: 64, grad_accum: 3", [":7: train", "64", "divide"]),
    ("lr: [1.0e-3, 3.0e-3]", "lr: [1.0e-3, -1]", [":7: train.lr[1]", "greater than 0", "-1"]),
    ("lr: [1.0e-3, 3.0e-3]", "lr: []", [":7: train.lr", "at least one value"]),
    ("lr: [1.0e-3, 3.0e-3]", "lr: {loguniform: [1.0e-3, 1.0e-2]}", ["search.samples"]),
    ("lr: [1.0e-3, 3.0e-3]", "lr: {loguniform: [0.1, 0.01]}", [":7: train.lr", "the lower first"]),
    ("heads: 4", "heads: 5", [":3: host", "divisible"]),
    ("kind: encoder", "kind: decoder", [":3: host", "use encoder"]),
    ("patch: 2", "patch: 3", [":3: host.patch", "8 x 8"]),
    ("layers: 2", "layerz: 2", [":3: host.layerz", "Did you mean 'layers'?"]),
    ("seeds: 2", "search: {kind: halving, samples: 9}", ["samples asks for 9 configurations", "only 2"]),
    ("seeds: 2", "search: {kind: halvin}", [":8: search.kind", "'halving'", "'halvin'"]),
    ("seeds: 2", "search: {kind: halving, grace: 5}", [":8: search.grace", "beyond the budget of 3 epochs"]),
    ("seeds: 2", "search: {kind: grid, grace: 1}", [":8: search.grace", "belongs to halving and asha"]),
    ("seeds: 2", "search: {metric: test_accuracy}", [":8: search.metric", "unknown metric", "val_accuracy"]),
    ("seeds: 2", "measure: {robustness: [nois]}", [":8: measure.robustness", "nois"]),
    ("seeds: 2", "measure: {robustness: [byte_noise]}", [":8: measure.robustness", "byte_noise"]),
    ("seeds: 2", "resources: {cpus: [1, 2]}", [":8: resources.cpus", "a list is an axis only in"]),
    ("seeds: 2", "folds: 200", ["folds", "100"]),
    ("seeds: 2", "folds: [7]", [":8: folds", "folds 0 to 4"]),
    ("  - softmax\n", "  - {name: dropout, p: 0.1}\n", [":6: attention[1]", "stands twice"]),
    ("  - softmax\n", "  - {label: x, attention: dropout, p: 0.1}\n", [":5: attention[0].p: unknown key"]),
    ("  - softmax\n", "  - {name: lam, objective: rdrop}\n", [":5: attention[0].objective", "r_drop"]),
    ("  - softmax\n", "  - {name: lam, objective: {name: r_drop, alpa: 1}}\n", ["objective.alpa"]),
    ("  - softmax\n", "  - 3\n", [":5: attention[0]", "write a mechanism's name"]),
    ("  - softmax\n  - {name: dropout, p: 0.1}\n", "  []\n", [":4: attention", "list of arms"]),
    ("sweep: demo", "sweep: demo: x", [":1", "not valid YAML"]),
]  # fmt: skip


def written(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("old", "new", "wanted"), REFUSED, ids=[case[1].strip()[:50] for case in REFUSED])
def test_a_wrong_specification_is_refused_in_one_line_that_says_where(tmp_path, old, new, wanted):
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        read_specification(written(tmp_path, GOOD.replace(old, new, 1)))
    line = str(caught.value)
    assert "\n" not in line and "x.yaml" in line
    for part in wanted:
        assert part in line, line


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_specification(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="a folder"):
        read_specification(tmp_path)


def test_arms_expand_and_axes_multiply(tmp_path):
    sweep = read_specification(written(tmp_path, GOOD.replace("p: 0.1", "p: [0.1, 0.2]")))
    assert [arm.label for arm in sweep.arms] == ["softmax", "dropout"]
    found = [
        (arm.label, config.train.lr, config.attention[0].get("p")) for arm, _, config in sweep.configurations
    ]
    assert found == [
        ("softmax", 1e-3, None), ("softmax", 3e-3, None),
        ("dropout", 1e-3, 0.1), ("dropout", 1e-3, 0.2), ("dropout", 3e-3, 0.1), ("dropout", 3e-3, 0.2),
    ]  # fmt: skip


def test_an_arm_overrides_the_sweep(tmp_path):
    arm = (
        "  - {label: small, attention: [softmax], train: {steps: 20, lr: 0.01}, host: {width: 16},"
        " objective: {name: r_drop, alpha: 0.5}}\n"
    )
    sweep = read_specification(written(tmp_path, GOOD.replace("  - softmax\n", arm)))
    small = sweep.configurations[0][2]
    assert (small.label, small.train.steps, small.train.epochs, small.train.lr, small.host.width) == (
        "small",
        20,
        None,
        0.01,
        16,
    )
    assert small.objective["alpha"] == 0.5 and sweep.configurations[-1][2].objective is None


def test_a_list_for_a_sequence_is_a_value_and_a_grid_is_an_axis(tmp_path):
    text = GOOD.replace("p: 0.1", "p: 0.1, layers: [0, 1]").replace(
        "batch: 64", "batch: 64, betas: {grid: [[0.9, 0.99], [0.9, 0.95]]}"
    )
    sweep = read_specification(written(tmp_path, text))
    dropouts = [config for arm, _, config in sweep.configurations if arm.label == "dropout"]
    assert len(dropouts) == 4 and all(config.attention[0]["layers"] == [0, 1] for config in dropouts)
    assert {config.train.betas for config in dropouts} == {(0.9, 0.99), (0.9, 0.95)}


def test_samples_are_the_same_each_time_and_equal_over_arms(tmp_path):
    text = GOOD.replace("lr: [1.0e-3, 3.0e-3]", "lr: {loguniform: [1.0e-4, 1.0e-2]}").replace(
        "p: 0.1", "p: [0.1, 0.2, 0.3]"
    )
    text = text.replace("seeds: 2", "search: {kind: halving, samples: 4, grace: 1}")
    first, again = (read_specification(written(tmp_path, text)) for _ in range(2))
    ids = [config.trial_id for _, _, config in first.configurations]
    assert ids == [config.trial_id for _, _, config in again.configurations] and len(set(ids)) == 8
    rates = {arm.label: [c.train.lr for a, _, c in first.configurations if a is arm] for arm in first.arms}
    assert rates["softmax"] == rates["dropout"] and all(1e-4 <= rate <= 1e-2 for rate in rates["softmax"])


def test_overrides_replace_values_and_are_named_when_wrong(tmp_path):
    path = written(tmp_path, GOOD)
    sweep = read_specification(path, ["train.steps=200", "attention.1.p=0.3", "host.width=16"])
    config = sweep.configurations[-1][2]
    assert (config.train.steps, config.train.epochs, config.attention[0]["p"], config.host.width) == (
        200,
        None,
        0.3,
        16,
    )
    for override, wanted in [
        ("train.step=5", "--set train.step: unknown key"),
        ("train.lr", "key.key=value"),
        ("attention.9.p=1", "nothing at"),
    ]:
        with pytest.raises(UsageError, match=wanted):
            read_specification(path, [override])


def test_arms_that_differ_in_a_parameter_get_labels_that_say_so(tmp_path):
    sweep = read_specification(
        written(tmp_path, GOOD.replace("  - softmax\n", "  - {name: dropout, p: 0.2}\n"))
    )
    assert [arm.label for arm in sweep.arms] == ["dropout(p=0.2)", "dropout(p=0.1)"]


def test_a_scope_is_tuned_within_and_not_across(tmp_path):
    sweep = read_specification(written(tmp_path, GOOD.replace("layers: 2", "layers: [1, 2]")))
    assert [group for _, group, _ in sweep.configurations][::2] == [
        "softmax [host.layers=1]", "softmax [host.layers=2]",
        "dropout [host.layers=1]", "dropout [host.layers=2]",
    ]  # fmt: skip


def test_data_that_is_not_there_is_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=r"x.yaml:2: workload.*cifar10 is not on this machine"):
        read_specification(written(tmp_path, GOOD.replace("workload: digits", "workload: cifar10")))
    assert not os.path.exists(tmp_path / "cache")
