"""Services of their own that lose a part: what is left behind, and who still gets in."""

import json
import subprocess
import sys

import psutil
import pytest

from attnbench.service import processes
from attnbench.service.state import Session
from tests.service.conftest import attnbench_in


@pytest.fixture
def own(tmp_path):
    """A service that belongs to one test: (command line, session)."""
    command = attnbench_in(tmp_path / "state")
    started = command("up", "--results", tmp_path / "results", "--cpus", "1")
    assert started.returncode == 0, started.stderr
    yield command, Session(**json.loads((tmp_path / "state/service.json").read_text()))
    command("down")


@pytest.mark.slow
def test_down_ends_the_agents_that_a_killed_raylet_orphaned(own):
    command, session = own
    for process in processes.find(session.temp_dir):
        if process.name() in ("raylet", "gcs_server"):
            process.kill()
    assert command("status").returncode == 1
    assert [process for process in processes.find(session.temp_dir) if "Agent" in process.name()]
    down = command("down")
    assert down.returncode == 0, down.stderr
    assert not processes.find(session.temp_dir)


@pytest.mark.slow
def test_up_starts_again_where_a_part_has_died_and_leaves_nothing_of_the_first(own, tmp_path):
    command, session = own
    raylets = [process for process in processes.find(session.temp_dir) if process.name() == "raylet"]
    for process in raylets:
        process.kill()
    psutil.wait_procs(raylets, 5)
    again = command("up", "--results", tmp_path / "results", "--cpus", "1")
    assert again.returncode == 0 and "attnbench is up" in again.stdout, again.stderr
    assert not processes.find(session.temp_dir)
    assert command("status").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, "0" * 64])
def test_the_heads_own_port_refuses_a_driver_without_the_token(own, token):
    _, session = own
    variables = session.driver_variables() | {"RAY_AUTH_MODE": "disabled"}
    if token:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    variables.pop("RAY_AUTH_TOKEN_PATH")
    code = f"import ray; ray.init(address='{session.ray_address}'); print('in')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=150
    )
    assert done.returncode != 0 and "in" not in done.stdout.split()
