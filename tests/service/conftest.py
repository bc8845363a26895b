"""One service for all tests of this folder: `attnbench up` takes 10 to 20 s."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from attnbench.service import processes

Attnbench = Callable[..., subprocess.CompletedProcess]


def attnbench_in(state: Path) -> Attnbench:
    """The command line with its own state directory: `attnbench("status", "--json")`."""

    def command(
        *words: str | Path, cwd: Path | None = None, timeout_s: float = 240
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "attnbench.cli.main", *map(str, words)],
            env=os.environ | {"ATTNBENCH_STATE": str(state), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=cwd,
        )

    return command


def listening(temp_dir: str) -> list[tuple[str, Any]]:
    """(process name, address) of every socket on which a process of the session listens."""
    found = []
    for process in processes.find(temp_dir):
        with contextlib.suppress(psutil.Error):
            name = process.name()
            found += [
                (name, one.laddr)
                for one in process.net_connections("inet")
                if one.status == psutil.CONN_LISTEN
            ]
    return found


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of the shared service."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder that the shared service was started with."""
    return tmp_path_factory.mktemp("up") / "results"


@pytest.fixture(scope="session")
def attnbench(state: Path) -> Attnbench:
    """The command line against the shared state, whether the service runs or not."""
    return attnbench_in(state)


@pytest.fixture(scope="session")
def up(attnbench: Attnbench, results: Path) -> Iterator[str]:
    """The shared service; its value is what `up` printed."""
    started = attnbench("up", "--results", results, "--cpus", "2")
    assert started.returncode == 0, started.stderr
    yield started.stdout
    ended = attnbench("down")
    assert ended.returncode == 0, ended.stderr
