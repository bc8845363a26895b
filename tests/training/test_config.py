"""The configuration of a trial: what it accepts, what it says when it does not, and what its hash covers."""

import json
import subprocess
import sys

import pytest

from attnbench.errors import UsageError
from attnbench.training import TrialConfig, canonical_json, read_config

BASE = {"workload": "digits", "host": {"kind": "encoder"}, "attention": "softmax", "train": {"epochs": 2}}


def changed(**changes):
    return TrialConfig.parse({**BASE, **changes})


def test_equal_configurations_written_differently_have_one_id():
    long = changed(
        workload={"name": "digits"},
        attention=[{"name": "softmax"}],
        train={"epochs": 2, "lr": 0.001, "eval_every": 1, "batch": 64},
    )
    assert long.trial_id == changed().trial_id


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"fold": 1},
        {"train": {"epochs": 3}},
        {"train": {"epochs": 2, "lr": 2e-3}},
        {"attention": ["alibi"]},
        {"objective": "r_drop"},
        {"deepspeed": {"zero_stage": 1}},
        {"host": {"kind": "encoder", "layers": 3}},
    ],
)
def test_what_changes_figures_changes_the_id(change):
    assert changed(**change).trial_id != changed().trial_id


@pytest.mark.parametrize(
    "change",
    [
        {"sweep": "other"},
        {"label": "other"},
        {"role": "confirm"},
        {"resources": {"cpus": 2}},
        {"measure": {"gradients": {"every": 10}, "robustness": ["noise"]}},
    ],
)
def test_names_resources_and_measurements_leave_the_id_alone(change):
    assert changed(**change).trial_id == changed().trial_id


def test_the_id_is_the_same_in_another_process():
    code = (
        "import json,sys; from attnbench.training import TrialConfig; "
        "print(TrialConfig.parse(json.loads(sys.argv[1])).trial_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(BASE)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == changed().trial_id


def test_the_canonical_text_reads_back_as_the_same_trial():
    config = changed(attention=["alibi", {"name": "attentiondrop_hard", "p": 0.3}], objective="consistency")
    again = TrialConfig.parse(json.loads(config.canonical()))
    assert again == config and again.canonical() == config.canonical()


def test_the_cadence_of_evaluation_is_written_out():
    assert changed().train.eval_every == 1
    assert changed(train={"steps": 95}).train.eval_every == 9
    assert changed(train={"steps": 5}).train.eval_every == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"epochs": 1, "steps": 5}}, "exactly one of epochs and steps"),
        ({"train": {}}, "exactly one of epochs and steps"),
        ({"train": {"epochs": 2, "leraning_rate": 1}}, "train.leraning_rate: unknown key"),
        ({"train": {"epochs": 2, "warmpu": 0.1}}, "Did you mean warmup?"),
        ({"train": {"epochs": 2, "lr": [1e-3, 1e-2]}}, "train.lr"),
        ({"train": {"epochs": "many"}}, "train.epochs"),
        ({"train": {"epochs": 2, "lr": -1}}, "train.lr"),
        ({"train": {"epochs": 2, "batch": 30, "grad_accum": 4}}, "a multiple of 4 would"),
        ({"train": {"epochs": 2, "keep": {"at": [3]}}}, "beyond the budget of 2 epochs"),
        ({"train": {"epochs": 2, "stop": {"metric": "val_accuracy"}}}, "exactly one of at_least and at_most"),
        ({"attention": "sofmax"}, "softmax"),
        ({"workload": "digit"}, "digits"),
        ({"objective": "rdrop"}, "there are r_drop, consistency"),
        ({"objective": {"name": "r_drop", "beta": 1}}, "unknown parameter 'beta'"),
        ({"objective": {"name": "consistency", "weight": -1}}, "objective consistency: weight"),
        ({"sed": 1}, "Did you mean seed?"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_names_it(change, said):
    with pytest.raises(UsageError) as caught:
        changed(**change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_wrong_key_is_named_with_its_line(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text(
        "workload: digits\nhost: {kind: encoder}\nattention: softmax\ntrain:\n  epochs: 2\n  bath: 3\n"
    )
    with pytest.raises(UsageError, match=r"trial.yaml:6: train.bath: unknown key. Did you mean batch\?"):
        read_config(path)


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("workload: [digits\n")
    with pytest.raises(UsageError, match=r"broken.yaml:\d"):
        read_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match="a trial is a mapping"):
        read_config(tmp_path / "list.yaml")


def test_canonical_json_refuses_what_json_cannot_say():
    with pytest.raises(ValueError):
        canonical_json({"x": float("nan")})


def test_concatenated_passes_beside_a_draw_per_call_are_refused_and_auto_avoids_them():
    blur = {"attention": "attentiondrop_blur"}
    with pytest.raises(UsageError, match="attentiondrop_blur draws once per call"):
        changed(**blur, objective={"name": "consistency", "passes": "concatenated"})
    assert changed(**blur, objective="consistency").objective["passes"] == "sequential"
    assert (
        changed(attention="attentiondrop_hard", objective="consistency").objective["passes"] == "concatenated"
    )
