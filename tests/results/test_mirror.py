"""MLflow has what the tables have: live, repeated, rebuilt, and whatever happens to the tracking server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from attnbench.results import Store, finish_mirror, start_mirror
from attnbench.results.compaction import compact
from attnbench.results.curves import POINTS, thinned
from attnbench.results.mirror import sync_once
from attnbench.results.mlflow_runs import Mirror
from tests.results.rows import final_row, request_rows, train_rows, val_row, write_trial

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes five seconds to make its tables: they are made once and copied."""
    folder = tmp_path_factory.mktemp("mlflow")
    Mirror(folder, f"sqlite:///{folder}/mlflow.db").client.search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def results(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


def content(results: Path, sweep: str) -> dict[str, Any]:
    """trial_id -> everything that MLflow has of it, but for what the clock and chance decide."""
    mirror = Mirror(results)
    experiment = mirror.client.get_experiment_by_name(sweep)
    runs: dict[str, Any] = {}
    for run in mirror.client.search_runs([experiment.experiment_id], max_results=1000):
        tags = {name: tag for name, tag in run.data.tags.items()}
        trial = tags["attnbench.trial_id"]
        assert trial not in runs, "two runs of one trial"
        histories = {
            name: sorted(
                (m.step, str(m.value), m.timestamp)
                for m in mirror.client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
        }
        runs[trial] = (
            run.info.run_name,
            run.info.status,
            run.info.end_time,
            tags,
            run.data.params,
            histories,
        )
    return runs


def fill(results: Path) -> Store:
    store = Store(results)
    long = {"train": {"steps": 2000, "lr": 0.1}, "attention": [{"name": "softmax"}]}
    store.request("s", [{**row, "config": long} for row in request_rows("a", "b", "c", "d")])
    write_trial(store, "s", "a", accuracy=0.8, steps=2000, config=long)
    write_trial(store, "s", "b", status="diverged", error="loss became nan", accuracy=float("nan"))
    write_trial(store, "s", "c", status="stopped")
    store.sink("s", "c").robustness([{"kind": "pgd", "severity": 0.03, "accuracy": 0.4}])
    alive = store.sink("s", "d")
    alive.steps([*train_rows(0, 50), val_row(49, 0.3)])
    alive.flush()
    return store


def test_every_trial_is_one_flat_run_with_its_tags_parameters_curves_and_figures(results: Path) -> None:
    fill(results)
    assert sync_once(results) == {"s": 4}
    runs = content(results, "s")
    assert {trial: run[1] for trial, run in runs.items()} == {
        "a": "FINISHED",
        "b": "FAILED",
        "c": "KILLED",
        "d": "RUNNING",
    }
    name, _, end, tags, params, histories = runs["a"]
    assert name == "softmax s0" and end == 1772366420000
    assert tags["mechanism"] == "softmax" and tags["seed"] == "0" and tags["status"] == "ok"
    assert params == {"train.steps": "2000", "train.lr": "0.1", "attention.0.name": "softmax"}
    assert len(histories["train/loss"]) == POINTS and histories["train/loss"][-1][:2] == (1999, str(1 / 2000))
    assert [point[1] for point in histories["val/accuracy"]] == ["0.5", "0.75"]
    assert histories["test/accuracy"][0][1] == "0.8" and histories["cost/peak_mib"][0][1] == "3.0"
    assert runs["b"][3]["error"] == "loss became nan" and runs["b"][5]["test/accuracy"][0][1] == "nan"


def test_doing_it_again_or_after_the_database_was_deleted_gives_the_same(
    results: Path, empty_database: Path
) -> None:
    store = fill(results)
    sync_once(results)
    first = content(results, "s")
    sync_once(results)
    sync_once(results)
    assert content(results, "s") == first
    shutil.copy(empty_database, results / "mlflow.db")
    compact(store.path, least=1, grace_s=0)
    sync_once(results)
    assert content(results, "s") == first


def test_a_curve_sent_while_it_grew_is_the_one_that_a_rebuild_sends(
    results: Path, empty_database: Path
) -> None:
    store = Store(results)
    config = {"train": {"steps": 700}}
    store.request("s", [{**request_rows("a")[0], "config": config}])
    sink, mirror = store.sink("s", "a"), Mirror(results)
    for first in range(0, 700, 90):
        sink.steps(train_rows(first, min(first + 90, 700)))
        sink.flush()
        mirror.sync("s")
        if first == 270:
            mirror = Mirror(results)  # the mirror was killed
            sink = store.sink("s", "a")
            sink.cut(299)  # and so was the trial
            sink.steps(train_rows(300, 360))
    sink.final(final_row(config=config))
    mirror.sync("s")
    live = content(results, "s")
    shutil.copy(empty_database, results / "mlflow.db")
    sync_once(results)
    assert content(results, "s") == live
    assert len(live["a"][5]["train/loss"]) <= POINTS + 1


def test_a_second_attempt_replaces_the_run_of_the_first(results: Path) -> None:
    store = Store(results)
    write_trial(store, "s", "a", status="failed", accuracy=None)
    sync_once(results)
    write_trial(store, "s", "a", attempt=2)
    assert sync_once(results) == {"s": 1}
    runs = content(results, "s")
    assert runs["a"][1] == "FINISHED" and runs["a"][3]["attnbench.attempt"] == "2"


@pytest.mark.parametrize("train", [{"steps": 5000}, {"epochs": 50}, {}])
def test_a_curve_has_at_most_a_hundred_points_and_ends_with_its_last(train: dict) -> None:
    rows = pa.table(
        {
            "split": ["train"] * 5000, "step": list(range(5000)), "epoch": [i / 100 for i in range(5000)],
            "seconds": [0.0] * 5000, "loss": [float(i) for i in range(5000)],
        }
    )  # fmt: skip
    points = list(thinned(rows, train, ended=True)("train", {"loss": "train/loss"}))
    assert len(points) == POINTS and points[-1][3] == 4999
    gaps = {after[3] - before[3] for before, after in pairwise(points)}
    assert gaps <= {49, 50, 51}
    half = list(thinned(rows.slice(0, 2510), train, ended=False)("train", {"loss": "train/loss"}))
    assert half == (points[: len(half)] if train else []) and len(half) == (50 if train else 0)


def wait_for(what: Callable[[], object], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


def test_a_running_sweep_is_seen_in_mlflow_and_its_mirror_ends_with_it(results: Path) -> None:
    store = Store(results)
    store.request("s", request_rows("a"))
    mirror = start_mirror(results, "s")
    try:
        sink = store.sink("s", "a")
        sink.steps(train_rows(0, 60))
        sink.flush()
        client = Mirror(results).client

        def runs() -> list:
            experiment = client.get_experiment_by_name("s")
            return client.search_runs([experiment.experiment_id]) if experiment else []

        wait_for(lambda: any("train/loss" in run.data.metrics for run in runs()))
        assert os.getpriority(os.PRIO_PROCESS, mirror.pid) >= 10
        sink.steps(train_rows(60, 100))
        sink.final(final_row())
        assert finish_mirror(mirror)
    finally:
        mirror.kill()
    assert [(run.info.status, run.data.metrics["test/accuracy"]) for run in runs()] == [("FINISHED", 0.9)]
    assert not [path for path in (results / ".mirror").iterdir() if path.is_dir()]


def test_a_tracking_server_that_is_down_hinders_nobody(results: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        write_trial(Store(results), "s", "a")
        mirror = start_mirror(results, "s", uri)
        try:
            log = results / ".mirror" / "s.log"
            wait_for(lambda: "mirror:" in log.read_text())
            assert mirror.poll() is None, "it goes on trying"
            started = time.monotonic()
            assert not finish_mirror(mirror, timeout_s=60)
            assert time.monotonic() - started < 60
        finally:
            mirror.kill()
    assert sync_once(results) == {"s": 1}


def test_the_mirror_ends_by_itself_when_its_sweep_is_killed(results: Path) -> None:
    write_trial(Store(results), "s", "a")
    script = (
        "import time; from attnbench.results import start_mirror\n"
        f"print(start_mirror({str(results)!r}, 's').pid, flush=True); time.sleep(600)"
    )
    sweep = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert sweep.stdout is not None
    mirror_pid = int(sweep.stdout.readline())
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    wait_for(lambda: not _alive(mirror_pid))
    assert content(results, "s")["a"][1] == "FINISHED"  # after a last pass


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # an orphan that nobody waits for stays as a zombie in a container
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_errors_of_the_mirror_are_one_line(results: Path, tmp_path: Path) -> None:
    write_trial(Store(results), "s", "a")
    for arguments in (["nothing"], ["--uri", "http://127.0.0.1:9"], ["--results", str(tmp_path / "none")]):
        command = [str(BIN / "attnbench"), "mlflow", "sync", "--results", str(results), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done


@pytest.mark.slow
def test_the_ui_prints_links_that_answer_and_leaves_no_process(results: Path) -> None:
    write_trial(Store(results), "s", "a")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(BIN / "attnbench"), "ui", "--results", str(results), "--port", str(port)]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert ui.stdout is not None
        line = ui.stdout.readline()
        assert (
            line.startswith(f"s: http://127.0.0.1:{port}/#/experiments/") and "compareRunsMode=CHART" in line
        )
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).status == 200
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait(30)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
