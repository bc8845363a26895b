"""kill -9 in mid-training: the same command again ends with the very figures of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time

from attnbench.results import Store
from attnbench.training import read_config
from tests.training.conftest import timeless

CONFIG = """
workload: digits
host: {kind: encoder, layers: 2, width: 16, heads: 2, patch: 2}
attention: [alibi, {name: attentiondrop_hard, p: 0.3}]
objective: consistency
train: {steps: 400, batch: 32, lr: 3.0e-3, eval_every: 20}
measure: {gradients: {every: 100, batches: 2, draws: 2}, robustness: [clean, noise]}
"""


def command(path, results):
    return [sys.executable, "-m", "attnbench.cli.main", "trial", str(path), "--results", str(results), "--json"]


def test_a_trial_killed_in_mid_training_goes_on_to_the_very_figures(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text(CONFIG)
    trial_id = read_config(path).trial_id
    whole = json.loads(subprocess.run(command(path, tmp_path / "a"), capture_output=True, check=True).stdout)
    kills = 0
    for after in (1, 6):  # files of step rows that are there when the kill comes
        running = subprocess.Popen(command(path, tmp_path / "b"), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and running.poll() is None:
            numbers = [int(f.stem.split("-")[-1]) for f in (tmp_path / "b" / "steps").rglob("*.parquet")]
            if max(numbers, default=0) > after:
                os.kill(running.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        kills += running.wait() == -signal.SIGKILL
    assert kills == 2
    assert (tmp_path / "b" / "checkpoints" / "trial" / trial_id / "resume.pt").exists()
    again = json.loads(subprocess.run(command(path, tmp_path / "b"), capture_output=True, check=True).stdout)
    assert timeless(again) == timeless(whole)
    for table in ("steps", "gradients", "robustness"):
        first, second = (
            [timeless(row) for row in Store(tmp_path / name).rows(table, "trial", trial_id)] for name in "ab"
        )
        order = lambda row: json.dumps(row, sort_keys=True, default=str)  # noqa: E731
        assert sorted(first, key=order) == sorted(second, key=order)
    assert not (tmp_path / "b" / "checkpoints" / "trial").exists()
