"""`attnbench trial`: what it prints, what it refuses, and that it does nothing twice."""

import json
import subprocess
import sys

import pytest

from attnbench.cli.main import main

CONFIG = """
workload: digits
host: {kind: encoder, layers: 1, width: 16, heads: 2, patch: 2}
attention: softmax
train: {steps: 4, batch: 32}
"""


def attnbench(*words, cwd):
    command = [sys.executable, "-m", "attnbench.cli.main", "trial", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def here(monkeypatch, capsys, *words):
    """The row that the command prints when it runs in this process."""
    monkeypatch.setattr(sys, "argv", ["attnbench", "trial", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return json.loads(capsys.readouterr().out)


def test_a_trial_prints_its_figures_once_trained_and_again_without_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "trial.yaml").write_text(CONFIG)
    first = attnbench("trial.yaml", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "softmax on digits, seed 0: ok" in first.stdout and "test_accuracy" in first.stdout
    assert first.stderr == ""
    monkeypatch.chdir(tmp_path)
    row = here(monkeypatch, capsys, "trial.yaml", "--json")
    assert row["status"] == "ok" and row["attempt"] == 1
    assert len(list((tmp_path / "results").rglob("trials/**/*.parquet"))) == 1
    again = here(monkeypatch, capsys, "trial.yaml", "--json", "--fresh")
    assert again["test_loss"] == row["test_loss"]
    assert len(list((tmp_path / "results").rglob("trials/**/*.parquet"))) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONFIG.replace("train:", "trian:"), "trial.yaml:5: trian: unknown key. Did you mean train?"),
        (CONFIG.replace("32", "many"), "trial.yaml:5: train.batch"),
        (CONFIG.replace("softmax", "attentiondrop_hrad"), "attentiondrop_hard"),
        (CONFIG.replace("32", "5000"), "trial.yaml: train.batch 5000 is more than"),
        (CONFIG.replace("patch: 2", "patch: 3"), "trial.yaml: host.patch 3 does not divide"),
        (CONFIG + "resources: {workers: 2}\n", "trial.yaml: resources.workers 2"),
        (CONFIG + "measure: {robustness: [byte_noise]}\n", "trial.yaml: robustness"),
        (CONFIG.replace("digits", "cifar11"), "trial.yaml:2: workload"),
    ],
)
def test_bad_input_is_one_line_with_the_file_and_leaves_nothing_behind(
    tmp_path, monkeypatch, capsys, text, said
):
    (tmp_path / "trial.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attnbench", "trial", "trial.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert said in printed.err
    assert not (tmp_path / "results").exists()
