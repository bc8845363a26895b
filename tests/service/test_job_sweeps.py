"""Sweeps sent to a real service, from specification to rows. The name puts it before the test of `down`."""

import json
import time
from pathlib import Path

import pytest

from attnbench.service.state import Session
from tests.service.conftest import listening

MECHANISM = '''
"""A user's own mechanism."""
from attnbench.attention import Mechanism

class Halved(Mechanism):
    """logits' = logits / 2"""
    name = "halved"
    summary = "halves the logits"

    def bias(self, c, logits):
        return logits / 2
'''


def specification(folder: Path, name: str, steps: int) -> Path:
    (folder / "ideas").mkdir(exist_ok=True)
    (folder / "ideas/halved.py").write_text(MECHANISM)
    (folder / f"{name}.yaml").write_text(
        f"sweep: {name}\n"
        "workload: {name: digits, subset: 100}\n"
        "host: {kind: encoder, layers: 1, width: 16, heads: 2, patch: 4}\n"
        "attention: [softmax, 'ideas/halved.py:Halved']\n"
        f"train: {{steps: {steps}, batch: 16}}\n"
        "seeds: 2\n"  # more trials than actors: some run in an actor that had another before
    )
    return folder / f"{name}.yaml"


def rows(attnbench, results: Path, sql: str) -> list[dict]:
    answer = attnbench("query", sql, "--format", "json", "--results", results)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_a_bad_specification_is_refused_before_anything_is_sent(attnbench, up, tmp_path):
    job = specification(tmp_path, "bad", 5)
    job.write_text(job.read_text().replace("softmax", "sofmax"))
    before = attnbench("jobs", "list", "--json").stdout
    refused = attnbench("submit", job, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and "bad.yaml:4" in refused.stderr and "softmax" in refused.stderr
    assert attnbench("jobs", "list", "--json").stdout == before


def test_a_submitted_sweep_ends_with_a_row_for_every_trial(attnbench, up, results, tmp_path):
    job = specification(tmp_path, "sent", 5)
    sent = attnbench("submit", job, "--wait", cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr + attnbench("jobs", "logs", sent.stdout.strip()).stdout
    ended = rows(
        attnbench, results, "select arm, status, attention from trials where sweep = 'sent' order by arm"
    )
    assert [(row["arm"], row["status"]) for row in ended] == [("Halved", "ok")] * 2 + [("softmax", "ok")] * 2
    assert "ideas/halved.py:Halved" in str(ended[0]["attention"])
    assert "4 ok of 4 trials" in attnbench("jobs", "logs", sent.stdout.strip()).stdout


@pytest.mark.slow
def test_a_job_that_fails_is_told_by_the_exit_code(attnbench, up, results, tmp_path):
    job = specification(tmp_path, "fails", 5)
    broken = (
        (tmp_path / "ideas/halved.py")
        .read_text()
        .replace("return logits / 2", "raise RuntimeError('broken')")
    )
    (tmp_path / "ideas/halved.py").write_text(broken)
    sent = attnbench("submit", job, "--follow", cwd=tmp_path)
    assert sent.returncode == 2 and "ended as failed" in sent.stderr
    ended = rows(
        attnbench, results, "select arm, status, error from trials where sweep = 'fails' order by arm"
    )
    assert [(row["arm"], row["status"]) for row in ended] == [("Halved", "failed")] * 2 + [
        ("softmax", "ok")
    ] * 2
    assert "broken" in ended[0]["error"]


@pytest.mark.slow
def test_a_stopped_sweep_is_marked_as_interrupted_and_goes_on_when_sent_again(
    attnbench, up, results, tmp_path
):
    job = specification(tmp_path, "halted", 1500)
    sent = attnbench("submit", job, cwd=tmp_path).stdout.strip()
    under_way = "select trial_id, state, step from running where sweep = 'halted'"
    end = time.monotonic() + 120
    while not any((row["step"] or 0) >= 300 for row in rows(attnbench, results, under_way)):
        assert time.monotonic() < end, attnbench("jobs", "logs", sent).stdout
    stopped = attnbench("jobs", "stop", sent)
    assert "stopped" in stopped.stdout
    left = rows(attnbench, results, under_way)
    assert {row["state"] for row in left} == {"interrupted"}
    assert "Traceback" not in attnbench("jobs", "logs", sent).stdout
    reached = {row["trial_id"]: row["step"] or 0 for row in left}

    again = attnbench("submit", job, "--wait", cwd=tmp_path)
    assert again.returncode == 0, attnbench("jobs", "logs", again.stdout.strip()).stdout
    ended = rows(
        attnbench, results, "select trial_id, attempt, status, steps from trials where sweep = 'halted'"
    )
    assert {(row["attempt"], row["status"], row["steps"]) for row in ended} == {(1, "ok", 1500)}
    assert not rows(attnbench, results, under_way)
    steps = "select trial_id, count(*) n, count(distinct step) d from steps where sweep = 'halted'"
    first = rows(attnbench, results, f"{steps} and split = 'train' group by 1")
    assert {(row["n"], row["d"]) for row in first} == {(1500, 1500)} and len(first) == len(reached)


@pytest.mark.slow
def test_the_workers_of_a_trial_listen_on_loopback_alone(attnbench, up, state, results, tmp_path):
    session = Session(**json.loads((state / "service.json").read_text()))
    job = specification(tmp_path, "shared", 100)
    job.write_text(job.read_text() + "resources: {workers: 2}\ndeepspeed: {zero_stage: 2}\n")
    sent = attnbench("submit", job, cwd=tmp_path).stdout.strip()
    seen: dict[int, tuple[str, str]] = {}
    end = time.monotonic() + 300
    while json.loads(attnbench("jobs", "status", sent, "--json").stdout)["status"] in ("PENDING", "RUNNING"):
        assert time.monotonic() < end, attnbench("jobs", "logs", sent).stdout
        for process, address in listening(session.temp_dir):
            seen[address.port] = (process, address.ip.removeprefix("::ffff:"))
    ended = rows(attnbench, results, "select status, workers from trials where sweep = 'shared'")
    assert [(row["status"], row["workers"]) for row in ended] == [("ok", 2)] * 4
    assert any("TrainWorker" in process for process, _ in seen.values())
    assert {address for _, address in seen.values()} == {"127.0.0.1"}


@pytest.mark.slow
def test_run_joins_the_service_by_address_auto(attnbench, up, results, tmp_path):
    job = specification(tmp_path, "joined", 5)
    joined = attnbench("run", job, "--address", "auto", "--results", results, cwd=tmp_path)
    assert joined.returncode == 0, joined.stderr
    assert "4 ok of 4 trials" in joined.stdout
