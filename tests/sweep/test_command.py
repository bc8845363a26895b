"""`attnbench run` as it is typed: one line for a mistake, exit codes, nothing half-written."""

import json
import subprocess
import sys

import pytest


def attnbench(*arguments):
    command = [sys.executable, "-m", "attnbench.cli.main", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def refused(tmp_path):
    """refused(arguments...) -> the one line, after checking that there is no more, and no results."""

    def check(*arguments):
        done = attnbench(*arguments, "--results", tmp_path / "results")
        assert done.returncode == 2 and done.stdout == "", done.stdout + done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("attnbench: ")
        assert not (tmp_path / "results").exists()
        return done.stderr

    return check


def test_a_mistake_in_the_file_is_one_line_and_exit_code_2(specification, refused):
    line = refused(specification("wrong", attention=["softmacks"]))
    assert "wrong.yaml:" in line and "unknown mechanism 'softmacks'" in line and "softmax" in line


def test_a_results_folder_that_cannot_be_one_is_said_first(specification, tmp_path):
    (tmp_path / "taken").write_text("a file")
    done = attnbench(specification("fine"), "--results", tmp_path / "taken")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "a file is in the way" in done.stderr
    assert (tmp_path / "taken").read_text() == "a file"


def test_an_address_where_nothing_answers_is_one_line(specification, refused):
    assert "nothing answers there" in refused(specification("away"), "--address", "127.0.0.1:9")


def test_the_plan_starts_nothing_and_can_be_read_by_a_script(specification, tmp_path):
    path = specification("planned", attention=["softmax", {"name": "dropout", "p": [0.1, 0.2]}], seeds=3)
    done = attnbench(path, "--plan", "--json", "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["trials"] == 9 and plan["hours"] > 0 and plan["disk_bytes"] > 0
    assert [(arm["arm"], arm["trials"]) for arm in plan["arms"]] == [("softmax", 3), ("dropout", 6)]
    assert not (tmp_path / "results").exists()
    shown = attnbench(path, "--plan", "--set", "seeds=1", "--results", tmp_path / "results")
    assert shown.returncode == 0 and "3 trials" in shown.stdout and "dropout" in shown.stdout
