"""Starting and ending the process that mirrors a sweep into MLflow, and the command of the server that shows
it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from attnbench.results.layout import check_name

#: Popen -> its stop file. A file, not a signal: a signal that comes during the two seconds of imports would
# kill.
_stop_files: dict[int, Path] = {}


def start_mirror(results: str | os.PathLike[str], sweep: str, uri: str | None = None) -> subprocess.Popen:
    """Mirror a sweep into MLflow while it runs, in a process that outlives Ctrl-C and ends when this one is
    gone.

    It writes what hinders it to RESULTS/.mirror/SWEEP.log.
    """
    folder = Path(results).absolute() / ".mirror"
    folder.mkdir(parents=True, exist_ok=True)
    stop = Path(tempfile.mkdtemp(dir=folder)) / "stop"
    command = [sys.executable, "-m", "attnbench.results.mirror", str(Path(results).absolute())]
    command += ["--follow", check_name("sweep", sweep), "--stop", str(stop), "--parent", str(os.getpid())]
    command += ["--uri", uri] if uri else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / f"{sweep}.log", "a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    _stop_files[process.pid] = stop
    return process


def finish_mirror(process: subprocess.Popen, timeout_s: float = 60.0) -> bool:
    """Tell the mirror that the sweep is over and wait for its last pass.

    True if MLflow has everything; else `attnbench mlflow sync` catches up later.
    """
    stop = _stop_files.pop(process.pid, None)
    if stop is not None:
        stop.touch()
    try:
        done = process.wait(timeout_s) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        done = False
    if stop is not None:
        stop.unlink(missing_ok=True)
        stop.parent.rmdir()
    return done


def server_command(
    results: str | os.PathLike[str], *, host: str = "127.0.0.1", port: int = 5000
) -> list[str]:
    """The command line of an MLflow server on the local mirror. Start it in a process group of its own and
    stop the
    group: the server is several processes.
    """
    root = Path(results).absolute()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}"),
        *("--artifacts-destination", str(root / "mlartifacts")),
        *("--host", host, "--port", str(port)),
    ]


def server_environment() -> dict[str, str]:
    """The environment for `server_command`: no telemetry."""
    return {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
