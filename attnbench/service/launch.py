"""The two commands behind `attnbench up`: Ray's head and MLflow's server, as processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from attnbench.errors import UsageError
from attnbench.service import processes
from attnbench.service.http import answers, is_up
from attnbench.service.jobs import STOP_WAIT_S
from attnbench.service.state import Session

RAY_LIMIT_S = 180
DASHBOARD_LIMIT_S = 60
MLFLOW_LIMIT_S = 180


def start_ray(session: Session) -> None:
    """Start the head, every port named and on loopback, and wait until its dashboard answers."""
    at = session.ports
    options = {
        "node-ip-address": "127.0.0.1",
        "port": at["ray"],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": at["dashboard"],
        "dashboard-agent-listen-port": at["dashboard_agent"],
        "dashboard-agent-grpc-port": at["dashboard_agent_grpc"],
        "metrics-export-port": at["metrics"],
        "runtime-env-agent-port": at["runtime_env_agent"],
        "node-manager-port": at["node_manager"],
        "object-manager-port": at["object_manager"],
        "ray-client-server-port": at["ray_client"],
        "min-worker-port": at["workers_first"],
        "max-worker-port": at["workers_last"],
        "temp-dir": session.temp_dir,
        "num-cpus": session.cpus,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = Path(session.temp_dir) / "ray-start.log"
    try:
        code = _daemon(command, _environment(session), log).wait(RAY_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise UsageError(f"Ray did not start within {RAY_LIMIT_S} s: {_last_line(log)}") from None
    if code != 0:
        raise UsageError(f"Ray did not start (exit code {code}): {_last_line(log)}")
    complaint = f"Ray's dashboard does not answer on {session.dashboard_url}"
    _wait(
        lambda: answers(session.dashboard_url + "/api/version", session.token()), DASHBOARD_LIMIT_S, complaint
    )


def start_mlflow(session: Session) -> Callable[[], None]:
    """Start MLflow's server over RESULTS/mlflow.db; the returned function waits until it answers."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(session.ports["mlflow"]),
    ]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{Path(session.results) / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(Path(session.results) / "mlflow-artifacts")]
    environment = _environment(session) | {
        # Its job runners are most of its processes and serve nothing that is used here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log = Path(session.temp_dir) / "mlflow.log"
    process = _daemon(command, environment, log)

    def wait() -> None:
        def ready() -> bool:
            if process.poll() is not None:
                raise UsageError(f"the MLflow server did not start: {_last_line(log)}")
            return is_up(session.mlflow_url + "/health")

        _wait(ready, MLFLOW_LIMIT_S, f"the MLflow server does not answer on {session.mlflow_url}")

    return wait


def _environment(session: Session) -> dict[str, str]:
    # What points a user's shell at another cluster must not reach this one.
    foreign = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_ID", "RAY_TMPDIR")
    inherited = {name: value for name, value in os.environ.items() if name not in foreign}
    own = {
        processes.MARKER: session.temp_dir,
        # Ray's memory monitor takes a whole sweep down; trials guard their own memory instead.
        "RAY_memory_monitor_refresh_ms": "0",
        # Ray's workers give way to everything else (niceness 15); here they are the work.
        "RAY_worker_niceness": "0",
        # A trial's workers talk through loopback, not where the host's name points.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        # Two more ports that Ray fixes unless told otherwise.
        "AUTOSCALER_METRIC_PORT": str(session.ports["autoscaler_metrics"]),
        "DASHBOARD_METRIC_PORT": str(session.ports["dashboard_metrics"]),
    }
    return inherited | session.driver_variables() | own


def _daemon(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen:
    # Output to a file: what outlives the command would keep a pipe open for ever.
    with log.open("w") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            start_new_session=True,
        )


def _wait(ready: Callable[[], bool], limit_s: float, complaint: str) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > end:
            raise UsageError(f"{complaint} after {limit_s:.0f} s: is the machine very busy? Try again")
        time.sleep(0.2)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"nothing was written to {log.name}"
