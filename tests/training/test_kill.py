"""kill -9 in mid-training: the same command again ends with the very figures of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from attnbench.results import Store
from attnbench.training import read_config
from tests.training.conftest import timeless

FAULTY = str(Path(__file__).with_name("faulty.py")) + ":Faulty"

CONFIG = f"""
workload: digits
host: {{kind: encoder, layers: 2, width: 16, heads: 2, patch: 2}}
attention: [alibi, {{name: attentiondrop_hard, p: 0.3}}, {{name: "{FAULTY}", fault: kill, layers: [0]}}]
objective: consistency
train: {{steps: 60, batch: 32, lr: 3.0e-3, eval_every: 10}}
measure: {{gradients: {{every: 20, batches: 2, draws: 2}}, robustness: [clean, noise]}}
"""


def run(path, results, kill_at=None):
    words = [
        sys.executable,
        "-m",
        "attnbench.cli.main",
        "trial",
        str(path),
        "--results",
        str(results),
        "--json",
    ]
    environment = os.environ | ({} if kill_at is None else {"KILL_AT": str(kill_at)})
    return subprocess.run(words, capture_output=True, text=True, env=environment)


def test_a_trial_killed_in_mid_training_goes_on_to_the_very_figures(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text(CONFIG)
    trial_id = read_config(path).trial_id
    whole = json.loads(run(path, tmp_path / "a").stdout)
    assert whole["status"] == "ok", whole["error"]
    for kill_at in (5, 25):  # before the first checkpoint of all, and between two
        assert run(path, tmp_path / "b", kill_at).returncode == -signal.SIGKILL
    assert (tmp_path / "b" / "checkpoints" / "trial" / trial_id / "resume.pt").exists()
    again = json.loads(run(path, tmp_path / "b").stdout)
    assert timeless(again) == timeless(whole)
    for table in ("steps", "gradients", "robustness"):
        first, second = (
            [timeless(row) for row in Store(tmp_path / name).rows(table, "trial", trial_id)] for name in "ab"
        )
        order = lambda row: json.dumps(row, sort_keys=True, default=str)  # noqa: E731
        assert sorted(first, key=order) == sorted(second, key=order)
    assert not (tmp_path / "b" / "checkpoints" / "trial").exists()
