"""`attnbench trial`: what it prints, what it refuses, and that it does nothing twice."""

import json
import subprocess
import sys

CONFIG = """
workload: digits
host: {kind: encoder, layers: 1, width: 16, heads: 2, patch: 2}
attention: softmax
train: {steps: 4, batch: 32}
"""


def attnbench(*words, cwd):
    return subprocess.run([sys.executable, "-m", "attnbench.cli.main", "trial", *words], capture_output=True, text=True, cwd=cwd)


def test_a_trial_prints_its_figures_once_trained_and_again_without_training(tmp_path):
    (tmp_path / "trial.yaml").write_text(CONFIG)
    first = attnbench("trial.yaml", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "softmax on digits, seed 0: ok" in first.stdout and "test_accuracy" in first.stdout
    assert first.stderr == ""
    second = attnbench("trial.yaml", "--json", cwd=tmp_path)
    row = json.loads(second.stdout)
    assert row["status"] == "ok" and row["attempt"] == 1
    fresh = attnbench("trial.yaml", "--json", "--fresh", cwd=tmp_path)
    again = json.loads(fresh.stdout)
    assert again["test_loss"] == row["test_loss"]
    assert len(list((tmp_path / "results").rglob("trials/**/*.parquet"))) == 2


def test_bad_input_is_one_line_with_the_file_and_leaves_nothing_behind(tmp_path):
    wrong = {
        "key.yaml": (CONFIG.replace("train:", "trian:"), "key.yaml"),
        "type.yaml": (CONFIG.replace("32", "many"), "type.yaml:5: train.batch"),
        "name.yaml": (CONFIG.replace("softmax", "attentiondrop_hrad"), "attentiondrop_hard"),
        "batch.yaml": (CONFIG.replace("32", "5000"), "batch.yaml: train.batch 5000 is more than"),
        "patch.yaml": (CONFIG.replace("patch: 2", "patch: 3"), "patch.yaml: host.patch 3 does not divide"),
        "many.yaml": (CONFIG + "resources: {workers: 2}\n", "many.yaml: resources.workers 2"),
        "kind.yaml": (CONFIG + "measure: {robustness: [byte_noise]}\n", "kind.yaml: robustness"),
    }
    for name, (text, said) in wrong.items():
        (tmp_path / name).write_text(text)
        done = attnbench(name, cwd=tmp_path)
        assert done.returncode == 2, name
        assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
        assert said in done.stderr, (name, done.stderr)
        assert not (tmp_path / "results").exists()
