"""Sweeps through real Ray: every requested trial ends as exactly one row, whatever is killed on the way."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from attnbench.results import Store
from attnbench.sweep.planning import first_phase
from attnbench.sweep.specification import read_specification
from tests.sweep.conftest import actor_pids

BROKEN = Path(__file__).with_name("broken_mechanisms.py")


def one_row_each(results, name):
    """Final rows by trial, after checking that each requested trial has exactly one and no step is there
    twice.
    """
    store = Store(results)
    requested = [row["trial_id"] for row in store.rows("requests", name)]
    rows = store.rows("trials", name)
    assert sorted(requested) == sorted(row["trial_id"] for row in rows) and len(set(requested)) == len(
        requested
    )
    steps = Counter(
        (row["trial_id"], row["attempt"], row["split"], row["step"]) for row in store.rows("steps", name)
    )
    assert set(steps.values()) == {1}
    return {row["trial_id"]: row for row in rows}


def test_a_grid_runs_on_both_workers_and_the_same_command_again_runs_nothing(run, specification, tmp_path):
    path = specification("grid", attention=["softmax", {"name": "dropout", "p": [0.1, 0.2]}], seeds=2)
    outcome = run(path)
    assert outcome.ok and outcome.counts == {"ok": 6} and outcome.workers_used == outcome.workers == 2
    rows = one_row_each(tmp_path / "results", "grid")
    assert Counter((row["arm"], row["seed"]) for row in rows.values()) == {
        ("softmax", 0): 1,
        ("softmax", 1): 1,
        ("dropout", 0): 2,
        ("dropout", 1): 2,
    }
    assert all(
        row["steps"] == 12 and row["role"] == "grid" and row["test_accuracy"] is not None
        for row in rows.values()
    )
    assert not list((tmp_path / "results").rglob("*.pt"))
    again = run(path)
    assert again.ok and again.resumed == 6 and again.first_report_s is None
    fresh = run(path, fresh=True)
    assert fresh.ok and {row["attempt"] for row in one_row_each(tmp_path / "results", "grid").values()} == {2}
    for trial_id, row in one_row_each(tmp_path / "results", "grid").items():
        assert row["test_loss"] == rows[trial_id]["test_loss"]


def test_halving_gives_arms_equal_budgets_ends_losers_once_and_confirms_winners(run, specification, tmp_path):
    path = specification(
        "halving",
        attention=["softmax", {"name": "dropout", "p": 0.2}],
        train={"steps": 9, "batch": 32, "lr": {"loguniform": [1e-4, 1e-2]}, "eval_every": 1},
        search={"kind": "halving", "samples": 9, "grace": 1, "reduction": 3, "confirm_seeds": 2},
    )
    outcome = run(path)
    assert outcome.ok and outcome.counts == {"ok": 6, "stopped": 16}
    rows = list(one_row_each(tmp_path / "results", "halving").values())
    for arm in ("softmax", "dropout"):
        tuned = [row for row in rows if row["arm"] == arm and row["role"] == "tune"]
        assert sorted(row["steps"] for row in tuned) == [1] * 6 + [3] * 2 + [9]
        winner = next(row for row in tuned if row["status"] == "ok")
        confirmed = [row for row in rows if row["arm"] == arm and row["role"] == "confirm"]
        assert sorted(row["seed"] for row in confirmed) == [1000, 1001]
        assert {row["train"] for row in confirmed} == {winner["train"]}
        assert all(row["test_accuracy"] is None for row in tuned if row["status"] == "stopped")
    assert run(path).resumed == 22


def test_asha_runs_one_scheduler_per_arm(run, specification, tmp_path):
    path = specification(
        "asha",
        attention=["softmax", {"name": "dropout", "p": 0.2}],
        train={"steps": 9, "batch": 32, "lr": {"loguniform": [1e-4, 1e-2]}, "eval_every": 1},
        search={"kind": "asha", "samples": 4, "grace": 1, "confirm_seeds": 0},
    )
    outcome = run(path)
    assert outcome.ok and sum(outcome.counts.values()) == 8 and outcome.counts["ok"] >= 2
    rows = one_row_each(tmp_path / "results", "asha").values()
    assert all(row["steps"] == 9 if row["status"] == "ok" else row["steps"] < 9 for row in rows)


def test_a_worker_killed_in_mid_training_goes_on_from_its_checkpoint(run, specification, tmp_path):
    path = specification("killed", train={"steps": 240, "batch": 32, "lr": 3e-3, "eval_every": 20})
    with killed_when_there_is_a_checkpoint(tmp_path / "results", "TrialActor") as killed:
        outcome = run(path)
    assert killed and outcome.ok and outcome.counts == {"ok": 1}
    [row] = one_row_each(tmp_path / "results", "killed").values()
    assert row["attempt"] == 1 and row["steps"] == 240 and row["pid"] not in killed
    from attnbench.training import run_trial

    undisturbed = run_trial(first_phase(read_specification(path))[0].config).row
    assert (row["test_loss"], row["val_loss"]) == (undisturbed["test_loss"], undisturbed["val_loss"])


def test_a_killed_command_is_finished_by_the_same_command(run, specification, tmp_path):
    path = specification("resumed", seeds=8, train={"steps": 40, "batch": 32, "lr": 3e-3, "eval_every": 5})
    results = tmp_path / "results"
    kill_command(path, results, when=lambda: len(list(results.glob("trials/*/*.parquet"))) >= 2)
    before = {row["trial_id"]: row for row in Store(results).rows("trials", "resumed")}
    assert 0 < len(before) < 8
    outcome = run(path)
    assert outcome.ok and outcome.counts == {"ok": 8} and outcome.resumed == len(before)
    after = one_row_each(results, "resumed")
    assert {row["attempt"] for row in after.values()} == {1}
    assert all(after[trial_id]["pid"] == row["pid"] for trial_id, row in before.items())


def test_a_failing_trial_spares_the_rest_and_is_tried_again_by_the_next_command(run, specification, tmp_path):
    arms = ["softmax", {"name": f"{BROKEN}:Raises", "above": [0.1, 0.9]}]
    path = specification("failing", attention=arms, retries=1)
    outcome = run(path)
    assert not outcome.ok and outcome.counts == {"ok": 2, "failed": 1} and outcome.hopeless is None
    [failed] = [
        row for row in one_row_each(tmp_path / "results", "failing").values() if row["status"] == "failed"
    ]
    assert "this mechanism is broken" in failed["error"] and failed["attempt"] == 1
    assert run(path).counts == {"ok": 2, "failed": 1}
    [failed] = [
        row for row in one_row_each(tmp_path / "results", "failing").values() if row["status"] == "failed"
    ]
    assert failed["attempt"] == 2
    third = run(path)
    assert third.resumed == 3 and not third.ok, "retries are used up"


def test_a_sweep_in_which_everything_fails_stops_early(run, specification):
    path = specification("hopeless", attention=[f"{BROKEN}:Raises"], seeds=30)
    outcome = run(path)
    assert not outcome.ok and outcome.hopeless is not None and "this mechanism is broken" in outcome.hopeless
    assert outcome.counts["failed"] < 10 and outcome.counts["unfinished"] > 20


def test_a_worker_that_takes_too_much_memory_ends_as_out_of_memory_and_spares_the_rest(
    run, specification, tmp_path
):
    path = specification("hoarding", attention=["softmax", f"{BROKEN}:Hoards"], memory_gb=2.0)
    outcome = run(path)
    assert outcome.counts == {"ok": 1, "out_of_memory": 1}
    [row] = [
        row
        for row in one_row_each(tmp_path / "results", "hoarding").values()
        if row["status"] == "out_of_memory"
    ]
    assert "its share is 2.00 GB" in row["error"]


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_as_failed(run, specification, tmp_path):
    path = specification("hanging", attention=["softmax", f"{BROKEN}:Sleeps"], hang_s=25.0)
    outcome = run(path)
    assert outcome.counts == {"ok": 1, "failed": 1}
    [row] = [
        row for row in one_row_each(tmp_path / "results", "hanging").values() if row["status"] == "failed"
    ]
    assert "no report for 25 s" in row["error"]


@pytest.mark.slow
def test_two_workers_share_each_trial_and_a_killed_one_costs_only_what_its_checkpoint_lacks(
    run, specification, tmp_path
):
    train = {"steps": 120, "batch": 32, "lr": 3e-3, "eval_every": 10}
    path = specification("pairs", train=train, seeds=3, resources={"workers": 2}, deepspeed={"zero_stage": 2})
    assert run(path, results=tmp_path / "undisturbed").counts == {"ok": 3}
    wanted = one_row_each(tmp_path / "undisturbed", "pairs")
    assert {row["workers"] for row in wanted.values()} == {2}
    for kind in ("RayTrainWorker", "TrialActor"):
        results = tmp_path / kind
        with killed_when_there_is_a_checkpoint(results, kind) as killed:
            outcome = run(path, results=results)
        assert killed and outcome.counts == {"ok": 3}
        found = one_row_each(results, "pairs")
        assert {row["attempt"] for row in found.values()} == {1}
        assert all(abs(row["val_loss"] - wanted[key]["val_loss"]) < 1e-6 for key, row in found.items())


@pytest.mark.slow
def test_halving_killed_at_any_moment_and_run_again_prunes_the_same_trials(run, specification, tmp_path):
    path = specification(
        "pruned",
        attention=["softmax", {"name": "dropout", "p": 0.2}, "alibi"],
        train={"epochs": 9, "batch": 64, "lr": {"loguniform": [1e-4, 3e-2]}},
        search={"kind": "halving", "samples": 9, "grace": 1, "reduction": 3, "confirm_seeds": 0},
    )
    run(path, results=tmp_path / "undisturbed")
    wanted = {
        key: (row["status"], row["steps"], row["val_loss"])
        for key, row in one_row_each(tmp_path / "undisturbed", "pruned").items()
    }
    for arm in ("softmax", "dropout", "alibi"):
        epochs = [
            row["epochs"]
            for row in Store(tmp_path / "undisturbed").rows("trials", "pruned")
            if row["arm"] == arm
        ]
        assert sorted(epochs) == [1.0] * 6 + [3.0] * 2 + [9.0]
    for number, steps_files in enumerate((6, 30)):
        results = tmp_path / f"killed-{number}"
        kill_command(
            path,
            results,
            when=lambda at=results, many=steps_files: len(list(at.glob("steps/*/*.parquet"))) >= many,
        )
        assert len(Store(results).rows("trials", "pruned")) < 27
        run(path, results=results)
        found = {
            key: (row["status"], row["steps"], row["val_loss"])
            for key, row in one_row_each(results, "pruned").items()
        }
        assert found == wanted


@contextlib.contextmanager
def killed_when_there_is_a_checkpoint(results, kind):
    """kill -9 one of this test's actors of `kind` once a checkpoint lies there; the list of killed ones."""
    killed, over = [], threading.Event()

    def wait_and_kill():
        while not over.wait(0.01) and not killed:
            files = (results / "checkpoints").rglob("*")
            if any(file.is_file() and not file.name.startswith(".") for file in files):
                for pid in actor_pids(kind)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=wait_and_kill)
    killer.start()
    yield killed
    over.set()
    killer.join()


def kill_command(path, results, when, patience_s=180):
    """Start `attnbench run` as a process of its own and kill -9 it as soon as `when` holds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    command = [
        sys.executable,
        "-m",
        "attnbench.cli.main",
        "run",
        str(path),
        "--results",
        str(results),
        "--no-mlflow",
        "--cpus",
        "2",
    ]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + patience_s
    while not when():
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline, "the command never got so far"
        time.sleep(0.02)
    process.kill()
    process.wait()
    process.stderr.close()
