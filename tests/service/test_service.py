"""A real service on this machine: what listens, who gets in, what becomes of jobs, and what `down` leaves."""

import json
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from attnbench.service import processes
from attnbench.service.http import get_json
from attnbench.service.jobs import JobClient
from attnbench.service.state import Session
from tests.service.conftest import listening

pytestmark = pytest.mark.usefixtures("up")


@pytest.fixture
def session(state):
    return Session(**json.loads((state / "service.json").read_text()))


@pytest.fixture
def client(session):
    return JobClient(session.dashboard_url, session.token())


def test_up_prints_where_things_are_and_how_to_submit(up, session, results):
    assert session.dashboard_url in up and session.mlflow_url in up and str(results) in up
    assert "attnbench submit" in up


def test_up_again_says_that_it_runs_and_starts_nothing(attnbench, results, session):
    before = {process.pid for process in processes.find(session.temp_dir)}
    again = attnbench("up", "--results", results)
    assert again.returncode == 0 and "already running" in again.stdout
    assert {process.pid for process in processes.find(session.temp_dir)} >= before


def test_up_with_other_settings_is_refused_with_one_line(attnbench, tmp_path):
    other = attnbench("up", "--results", tmp_path)
    assert other.returncode == 2
    assert (
        other.stderr.count("\n") == 1 and "attnbench down" in other.stderr and "Traceback" not in other.stderr
    )


def test_status_says_that_each_part_answers(attnbench):
    now = json.loads(attnbench("status", "--json").stdout)
    assert now["running"] and all(now["parts"].values())
    assert (now["nodes"], now["cpus"]) == (1, 2)


def test_the_token_is_in_one_private_file_and_in_no_command_line(session):
    path = Path(session.token_path)
    token = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token == token.strip() and len(token) == 64
    assert not any(token in " ".join(process.cmdline()) for process in processes.find(session.temp_dir))


@pytest.mark.parametrize("page", ["/api/version", "/api/jobs/", "/nodes", "/api/cluster_status", "/metrics"])
@pytest.mark.parametrize("token", [None, "0" * 64])
def test_without_the_token_the_dashboard_tells_nothing(session, page, token):
    request = urllib.request.Request(session.dashboard_url + page)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    # 403 is Ray's answer to a wrong token, 401 to none.
    assert refused.value.code == (403 if token else 401)


def test_a_wrong_or_missing_token_is_one_clear_line(attnbench, session, tmp_path):
    (tmp_path / "token").write_text("0" * 64)
    wrong = attnbench("jobs", "list", "--token-file", tmp_path / "token")
    missing = attnbench("jobs", "list", "--token-file", tmp_path / "none")
    for answer, reason in ((wrong, "does not accept this token"), (missing, "cannot be read")):
        assert answer.returncode == 2
        assert answer.stderr.count("\n") == 1 and reason in answer.stderr


def test_nothing_at_the_address_is_one_clear_line(attnbench):
    answer = attnbench("jobs", "list", "--address", "http://127.0.0.1:9")
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1 and "nothing answers at http://127.0.0.1:9" in answer.stderr


def test_the_sessions_token_is_not_sent_to_another_address(attnbench, tmp_path):
    code = (
        "import http.server, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        print(self.headers.get('Authorization'), file=sys.stderr, flush=True)\n"
        "        self.send_response(401); self.end_headers()\n"
        "    def log_message(self, *a): pass\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), H)\n"
        "print(s.server_port, flush=True); s.handle_request()\n"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)
    answer = attnbench("jobs", "list", "--address", f"http://127.0.0.1:{server.stdout.readline().strip()}")
    _, seen = server.communicate(timeout=20)
    assert "wants a token" in answer.stderr
    assert seen.strip() == "None"


def test_a_jobs_output_can_be_read_and_followed_and_its_status_asked(attnbench, client, tmp_path):
    (tmp_path / "hello.txt").write_text("hello from the folder")
    job = client.submit(
        f"exec {sys.executable} -c 'print(open(\"hello.txt\").read())'",
        name="hello",
        folder=tmp_path,
        about={"sweep": "x"},
    )
    assert client.wait(job, limit_s=120) == "SUCCEEDED"
    assert "hello from the folder" in attnbench("jobs", "logs", job).stdout
    assert "hello from the folder" in attnbench("jobs", "logs", job, "-f").stdout
    told = json.loads(attnbench("jobs", "status", job, "--json").stdout)
    assert (told["status"], told["exit_code"], told["sweep"]) == ("SUCCEEDED", 0, "x")
    assert job in {line["job_id"] for line in json.loads(attnbench("jobs", "list", "--json").stdout)}


def test_an_unknown_job_is_one_clear_line(attnbench):
    for command in ("status", "logs", "stop"):
        answer = attnbench("jobs", command, "nosuchjob")
        assert answer.returncode == 2, command
        assert answer.stderr.count("\n") == 1 and "nosuchjob" in answer.stderr


def test_everything_that_listens_does_so_on_loopback(session, client):
    # A job with a task in it, so that a driver and workers are among what listens.
    task = (
        "import ray, time; ray.init(); ray.get(ray.remote(lambda: 1).remote());"
        'print("ready", flush=True); time.sleep(60)'
    )
    job = client.submit(f"exec {sys.executable} -c '{task}'", name="listen")
    while "ready" not in client.logs(job):
        assert client.wait(job, limit_s=0) in ("PENDING", "RUNNING")
    found = [address for _, address in listening(session.temp_dir)]
    client.stop(job)
    client.wait(job, limit_s=30)
    assert {address.port for address in found} >= {
        session.ports[part] for part in ("ray", "dashboard", "mlflow")
    }
    assert {address.ip.removeprefix("::ffff:") for address in found} == {"127.0.0.1"}


def test_mlflow_answers_on_a_database_beside_the_results(session, results):
    with urllib.request.urlopen(session.mlflow_url + "/version", timeout=10) as reply:
        assert reply.read().decode()
    assert (results / "mlflow.db").exists()


def test_down_ends_every_process_of_the_service_and_nothing_else(attnbench, session, state, client):
    client.submit(f"exec {sys.executable} -c 'import time; time.sleep(600)'", name="endless")
    bystander = subprocess.Popen(["tail", "-f", f"{session.temp_dir}/mlflow.log"], stdout=subprocess.DEVNULL)
    assert get_json(session.dashboard_url + "/api/version", session.token())
    pids = [process.pid for process in processes.find(session.temp_dir)]
    down = attnbench("down")
    try:
        assert down.returncode == 0, down.stderr
        assert not [
            pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"
        ]
        assert not processes.find(session.temp_dir)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert not os.path.exists(session.temp_dir)
    assert not (state / "token").exists() and not (state / "service.json").exists()
    again = attnbench("down")
    assert again.returncode == 0 and "not running" in again.stdout
    assert attnbench("status").returncode == 1
