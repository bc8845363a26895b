"""One trial from configuration to rows: repeatability, statuses, cadence, resuming, what is measured."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import attnbench.training.loop
from attnbench.results import MemorySink
from attnbench.training import Trial, load_model, run_trial
from attnbench.training.loop import Loop
from tests.training.conftest import HOST, timeless

FAULTY = str(Path(__file__).with_name("faulty.py")) + ":Faulty"
HARD = ["alibi", {"name": "attentiondrop_hard", "p": 0.3}]


def rows(config, **keywords):
    """(result, tables without what clocks decide) of a run."""
    sink = MemorySink(config.sweep, config.trial_id)
    result = run_trial(config, sink, **keywords)
    tables = {name: [timeless(row) for row in held] for name, held in sink.tables.items() if name != "trials"}
    return result, {**tables, "trials": [timeless(row) for row in sink.tables["trials"]]}


def test_a_trial_ends_ok_with_its_figures(make):
    config = make(HARD, label="mine")
    result, tables = rows(config)
    row = result.row
    assert (result.status, result.error) == ("ok", None)
    assert row["arm"] == "mine" and row["mechanism"] == "alibi+attentiondrop_hard"
    assert [r["step"] for r in tables["steps"] if r["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in tables["steps"] if r["split"] == "val"] == [2, 4, 6]
    assert row["steps"] == 6 and row["examples"] == 6 * 32 and row["tokens"] == 6 * 32 * 16
    for name in ("loss", "accuracy", "nll", "ece", "brier"):
        assert row[f"val_{name}"] is not None and row[f"test_{name}"] is not None
    assert row["step_ms"] > 0 and row["samples_per_s"] == pytest.approx(32e3 / row["step_ms"])
    assert row["peak_bytes"] > 4 * 4 * row["parameters"]
    assert row["device"] == "cpu" and row["threads"] == 1 and len(row["data_sha256"]) == 64
    assert row["git_hash"] is None or len(row["git_hash"]) == 40
    assert row["wall_s"] >= row["busy_s"] > 0
    assert row["started_at"] < row["ended_at"]
    assert row["val_loss"] == tables["steps"][-1]["loss"]


def test_every_column_written_exists_in_the_tables(make):
    # MemorySink refuses unknown columns as the store does
    config = make(
        HARD, measure={"gradients": {"every": 3, "batches": 2, "draws": 2}, "robustness": ["clean", "noise"]}
    )
    result, tables = rows(config)
    assert result.status == "ok"
    assert {r["kind"] for r in tables["robustness"]} == {"clean", "noise"}
    assert {r["step"] for r in tables["gradients"]} == {3, 6}


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize("objective", [None, "consistency"])
def test_the_same_configuration_gives_the_same_rows_whatever_ran_before(make, stage, objective):
    config = make(HARD, objective=objective, deepspeed={"zero_stage": stage}, host={**HOST, "dropout": 0.1})
    _, first = rows(config)
    rows(make("attentiondrop_blur", seed=5, train={"steps": 3, "batch": 16}))
    rows(make({"name": "dropout", "p": 0.3}))
    random.random(), np.random.rand(), torch.rand(3)
    _, second = rows(config)
    assert first == second


def test_measuring_does_not_change_the_training(make):
    _, plain = rows(make(HARD))
    asked = {"gradients": {"every": 1, "batches": 2, "draws": 2}, "robustness": ["noise"]}
    _, measured = rows(make(HARD, measure=asked))
    drop = lambda held: [{k: v for k, v in r.items() if k != "grad_variance"} for r in held]  # noqa: E731
    assert drop(plain["steps"]) == drop(measured["steps"])


def test_arms_start_from_equal_weights_and_see_equal_batches(make):
    seen = {}
    for name in ("softmax", "attentiondrop_hard"):
        loop = Loop(make(name), torch.device("cpu"))
        weights = {key: tensor.clone() for key, tensor in loop.engine.weights().items()}
        seen[name] = (weights, loop.batches.indices(3).tolist())
        loop.destroy()
    (first, order), (second, same_order) = seen.values()
    assert order == same_order and first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_learning_rate_of_each_step_is_in_its_row(make):
    train = {"steps": 10, "batch": 32, "lr": 0.01, "warmup": 0.2, "schedule": "linear"}
    _, tables = rows(make(train=train))
    found = [r["lr"] for r in tables["steps"] if r["split"] == "train"]
    assert found == pytest.approx([0.005, 0.01, *[0.01 * (1 - i / 8) for i in range(8)]])


def test_an_epoch_budget_evaluates_every_epoch(make):
    config = make(train={"epochs": 2, "batch": 256})
    trial = Trial(config)
    reports = []
    while not reports or not reports[-1]["done"]:
        reports.append(trial.advance())
    trial.close()
    assert [r["epoch"] for r in reports] == [1, 2]
    assert [r["status"] for r in reports] == ["running", "ok"]
    assert reports[0]["val_accuracy"] >= 0 and "test_accuracy" not in reports[0]
    assert trial.advance() == reports[-1]


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("nan", "diverged", "the training loss is nan at step 4"),
        ("error", "failed", "ValueError: the map is not square (faulty.py:"),
        ("memory", "out_of_memory", "memory"),
    ],
)
def test_what_goes_wrong_in_training_ends_as_a_row(make, fault, status, said, tmp_path):
    config = make({"name": FAULTY, "fault": fault, "at": 3, "layers": [0]})
    sink = MemorySink(config.sweep, config.trial_id)
    result = run_trial(config, sink, tmp_path)
    assert result.status == status and said in result.error and "\n" not in result.error
    (row,) = sink.tables["trials"]
    assert row["status"] == status and row["error"] == result.error
    assert row["test_accuracy"] is None and row["val_accuracy"] is not None
    assert row["steps"] == (4 if fault == "nan" else 3)
    assert not list(tmp_path.rglob("*.pt"))
    # the process is none the worse for it
    assert rows(make())[0].status == "ok"


def test_a_diverged_trials_last_row_shows_the_loss(make):
    config = make({"name": FAULTY, "fault": "nan", "at": 2, "layers": [0]})
    sink = MemorySink(config.sweep, config.trial_id)
    run_trial(config, sink)
    assert np.isnan(sink.tables["steps"][-1]["loss"])


def test_an_error_before_the_first_step_ends_as_a_row_too(make):
    config = make(train={"steps": 2, "batch": 5000})
    result = run_trial(config)
    assert result.status == "failed" and "5000 is more than" in result.error
    assert result.row["steps"] == 0


def test_an_interrupt_from_the_keyboard_passes(make):
    config = make({"name": FAULTY, "fault": "interrupt", "at": 1})
    with pytest.raises(KeyboardInterrupt):
        run_trial(config)


def test_a_stopped_trial_keeps_what_it_reached_and_leaves_the_test_part_alone(make):
    config = make()
    sink = MemorySink(config.sweep, config.trial_id)
    trial = Trial(config, sink)
    trial.advance()
    report = trial.stop()
    trial.close()
    (row,) = sink.tables["trials"]
    assert report["done"] and report["status"] == row["status"] == "stopped"
    assert row["steps"] == 2 and row["val_accuracy"] is not None and row["test_accuracy"] is None
    assert trial.stop() == report


def test_the_test_part_is_used_once(make, monkeypatch):
    asked = []
    evaluate = Loop.evaluate
    monkeypatch.setattr(Loop, "evaluate", lambda self, part: asked.append(part) or evaluate(self, part))
    run_trial(make())
    assert asked == ["val", "val", "val", "test"]


def test_training_ends_early_once_the_metric_is_reached(make):
    train = {"steps": 6, "batch": 32, "eval_every": 2, "stop": {"metric": "val_accuracy", "at_least": 0.0}}
    result, _ = rows(make(train=train))
    assert result.status == "ok" and result.row["steps"] == 2 and result.row["test_accuracy"] is not None


@pytest.mark.parametrize("stage", [0, 1, 3])
@pytest.mark.parametrize("objective", [None, "r_drop"])
def test_a_trial_made_anew_replays_and_goes_on_to_the_very_figures(make, tmp_path, stage, objective):
    config = make(
        HARD,
        objective=objective,
        deepspeed={"zero_stage": stage},
        measure={"gradients": {"every": 3, "batches": 2, "draws": 2}},
    )
    _, undisturbed = rows(config)
    sink = MemorySink(config.sweep, config.trial_id)
    first = Trial(config, sink, tmp_path)
    before = [first.advance(), first.advance()]
    first.loop.step()  # work beyond the checkpoint, its row recorded
    sink.steps([{"step": 5, "split": "train", "loss": 0.0, "epoch": 0.1}])
    sink.flush()
    first.close()
    second = Trial(config, sink, tmp_path)
    replayed = [second.advance(), second.advance()]
    drop = lambda r: {k: v for k, v in r.items() if k not in ("seconds", "train_loss")}  # noqa: E731
    assert [drop(r) for r in replayed] == [drop(r) for r in before]
    assert second.advance()["done"]
    second.close()
    tables = {name: [timeless(row) for row in held] for name, held in sink.tables.items()}
    assert tables == undisturbed
    assert not list(tmp_path.rglob("*.pt"))


def test_a_damaged_checkpoint_means_starting_over(make, tmp_path):
    config = make()
    _, undisturbed = rows(config)
    sink = MemorySink(config.sweep, config.trial_id)
    first = Trial(config, sink, tmp_path)
    first.advance()
    first.close()
    (file,) = tmp_path.rglob("resume.pt")
    file.write_bytes(file.read_bytes()[:1000])
    assert run_trial(config, sink, tmp_path).status == "ok"
    assert [timeless(r) for r in sink.tables["steps"]] == undisturbed["steps"]


def test_a_checkpoint_of_another_attempt_is_not_gone_on_from(make, tmp_path):
    config = make()
    first = Trial(config, MemorySink(config.sweep, config.trial_id, 1), tmp_path)
    first.advance()
    first.close()
    second = Trial(config, MemorySink(config.sweep, config.trial_id, 2), tmp_path)
    assert second.loop.done == 0
    second.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_weights_load_to_the_model_that_was_evaluated(make, tmp_path, precision):
    from attnbench import workloads
    from attnbench.evaluation import evaluate

    train = {"steps": 4, "batch": 32, "eval_every": 2, "precision": precision, "keep": "last"}
    config = make(["lam"], train=train)
    result = run_trial(config, MemorySink(config.sweep, config.trial_id), tmp_path)
    assert result.status == "ok", result.error
    (file,) = tmp_path.rglob("*.pt")
    model, again = load_model(file)
    assert file.name == "last.pt" and again == config
    found = evaluate(model, workloads.load("digits").split("test"))
    assert found["loss"] == pytest.approx(result.row["test_loss"], rel=1e-6)


def test_weights_are_kept_at_the_asked_points_and_at_the_best(make, tmp_path):
    for keep, names in (({"at": [1, 3]}, {"at-1.pt", "at-3.pt"}), ("best", {"best.pt"})):
        config = make(train={"steps": 4, "batch": 32, "eval_every": 2, "keep": keep})
        run_trial(config, MemorySink(config.sweep, config.trial_id), tmp_path / str(names))
        assert {file.name for file in (tmp_path / str(names)).rglob("*.pt")} == names


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_trains_at_every_zero_stage(make, stage):
    train = {"steps": 3, "batch": 32, "precision": "bf16"}
    result = run_trial(make(HARD, train=train, deepspeed={"zero_stage": stage}))
    assert result.status == "ok", result.error
    assert result.row["precision"] == "bf16" and np.isfinite(result.row["test_loss"])


def test_gradient_statistics_are_equal_at_every_zero_stage(make):
    asked = {"gradients": {"every": 4, "batches": 4, "draws": 2}}
    found = {}
    for stage in (0, 1, 2, 3):
        train = {"steps": 4, "batch": 32}
        _, tables = rows(make(HARD, train=train, measure=asked, deepspeed={"zero_stage": stage}))
        found[stage] = {row["layer_group"]: row for row in tables["gradients"]}
    assert {"total", "embedding", "head", "layer.0.attention", "layer.1.mlp"} <= found[0].keys()
    assert found[0]["total"]["trace_mechanism"] > 0
    for stage in (1, 2, 3):
        for group, row in found[stage].items():
            for column in ("trace_total", "trace_data", "trace_mechanism", "mean_sq_norm", "train_loss"):
                assert row[column] == pytest.approx(found[0][group][column], rel=2e-3, abs=1e-7)


def test_peak_memory_on_cpu_is_repeatable_and_grows_with_the_batch(make):
    figures = {}
    for batch in (16, 32):
        for _ in range(2):
            attnbench.training.loop._peaks.clear()
            result, _ = rows(make(train={"steps": 2, "batch": batch}))
            figures.setdefault(batch, set()).add(result.row["peak_bytes"])
    assert all(len(found) == 1 for found in figures.values())
    assert min(figures[32]) > 1.5 * min(figures[16])


def test_language_models_and_recall_train_too(make):
    host = {"kind": "decoder", "layers": 1, "width": 16, "heads": 2}
    recall = {
        "name": "mqar",
        "vocabulary": 64,
        "length": 16,
        "pairs": 2,
        "examples": 256,
        "test_examples": 64,
    }
    for objective in (None, "r_drop"):
        result, _ = rows(make(workload=recall, host=host, objective=objective))
        assert result.status == "ok", result.error
        assert result.row["tokens"] == 6 * 32 * 16 and 0 <= result.row["test_accuracy"] <= 1
