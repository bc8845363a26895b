"""Starting, describing and ending the service; the commands themselves are in launch.py."""

import contextlib
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnbench.errors import UsageError
from attnbench.service import ports, processes
from attnbench.service.http import Refused, Unreachable, answers, get_json, is_up
from attnbench.service.jobs import ENDED, STOP_WAIT_S, JobClient
from attnbench.service.launch import start_mlflow, start_ray
from attnbench.service.state import (
    Session,
    exclusive,
    forget_session,
    read_session,
    write_session,
    write_token,
)


def start(
    results: Path, *, cpus: int | None = None, port: int | None = None, mlflow_port: int | None = None
) -> tuple[Session, bool]:
    """Start the service, or find it running; (session, True if this call started it).

    results            where jobs write and MLflow's database lies; made if missing
    cpus               what Ray may hand out; default all cores
    port, mlflow_port  where dashboard and MLflow listen; left out, the usual ones or free ones

    Raises UsageError when it runs already with other settings, and when a part does not start.
    """
    results = results.expanduser().absolute()
    if cpus is not None and cpus < 1:
        raise UsageError(f"--cpus {cpus}: at least 1 is needed")
    with exclusive():
        session = read_session()
        if session is not None:
            if session.started and all(parts(session).values()):
                _same_settings(session, results, cpus, port, mlflow_port)
                return session, False
            _clear(session)
        _writable(results)
        chosen = ports.choose(port, mlflow_port)
        session = Session(
            # Not below $TMPDIR, which may be long: Ray's socket paths hold 107 characters at most.
            temp_dir=tempfile.mkdtemp(prefix="attnbench-", dir="/tmp"),
            results=str(results),
            cpus=cpus or len(os.sched_getaffinity(0)),
            ports=chosen,
            token_path=str(write_token()),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            python=sys.executable,
        )
        write_session(session)
        try:
            # MLflow makes its database while Ray starts.
            wait_for_mlflow = start_mlflow(session)
            start_ray(session)
            wait_for_mlflow()
        except BaseException:
            _clear(session)
            raise
        session.started = True
        write_session(session)
        return session, True


def stop() -> int:
    """End the service: its jobs first, so that they end well, then every process; how many were ended."""
    with exclusive():
        session = read_session()
        if session is None:
            return 0
        _stop_jobs(session)
        return _clear(session)


def parts(session: Session) -> dict[str, bool]:
    """Whether each part answers: {"ray", "dashboard", "mlflow"}."""
    return {
        # The head proper, and the raylet that runs the work.
        "ray": all(ports.listens("127.0.0.1", session.ports[part]) for part in ("ray", "node_manager")),
        "dashboard": answers(session.dashboard_url + "/api/version", session.token()),
        "mlflow": is_up(session.mlflow_url + "/health"),
    }


def status(session: Session) -> dict[str, Any]:
    """What runs now: running (all parts answer), parts, nodes, cpus, jobs ({status: count}), addresses."""
    now = parts(session)
    nodes: list[dict[str, Any]] = []
    jobs: dict[str, int] = {}
    if now["ray"] and now["dashboard"]:
        with contextlib.suppress(Unreachable, Refused):
            reply = get_json(session.dashboard_url + "/api/v0/nodes", session.token(), timeout_s=10)
            nodes = [node for node in reply["data"]["result"]["result"] if node.get("state") == "ALIVE"]
            for job in _jobs(session):
                jobs[job["status"]] = jobs.get(job["status"], 0) + 1
    return {
        "running": all(now.values()),
        "parts": now,
        "nodes": len(nodes),
        "cpus": int(sum(node.get("resources_total", {}).get("CPU", 0) for node in nodes)),
        "jobs": jobs,
        "dashboard_url": session.dashboard_url,
        "mlflow_url": session.mlflow_url,
        "ray_address": session.ray_address,
        "results": session.results,
        "token_path": session.token_path,
        "started_at": session.started_at,
    }


def _jobs(session: Session) -> list[dict[str, Any]]:
    jobs = get_json(session.dashboard_url + "/api/jobs/", session.token(), timeout_s=10)
    return [job for job in jobs if job.get("submission_id")]


def _stop_jobs(session: Session) -> None:
    """Ask what runs to stop, and wait; a head that no longer answers has no job to save."""
    with contextlib.suppress(UsageError, Unreachable, Refused):
        if not ports.listens("127.0.0.1", session.ports["ray"]):
            return
        running = [job["submission_id"] for job in _jobs(session) if job["status"] not in ENDED]
        if not running:
            return
        client = JobClient(session.dashboard_url, session.token())
        for job in running:
            client.stop(job)
        for job in running:
            client.wait(job, limit_s=STOP_WAIT_S + 5)


def _clear(session: Session) -> int:
    count, left = processes.end(session.temp_dir)
    if left:
        raise UsageError(f"processes of the service would not end: {' '.join(map(str, left))}; try again")
    shutil.rmtree(session.temp_dir, ignore_errors=True)
    forget_session()
    return count


def _same_settings(
    session: Session, results: Path, cpus: int | None, port: int | None, mlflow_port: int | None
) -> None:
    settings: list[tuple[str, Any, Any]] = [
        ("--results", str(results), session.results),
        ("--cpus", cpus, session.cpus),
        ("--port", port, session.ports["dashboard"]),
        ("--mlflow-port", mlflow_port, session.ports["mlflow"]),
    ]
    for option, asked, running in settings:
        if asked is not None and asked != running:
            raise UsageError(
                f"already running with {option} {running}, not {asked}: `attnbench down` first to change it"
            )


def _writable(results: Path) -> None:
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise UsageError(
            f"--results {results} cannot be written ({error.strerror}): give a folder of yours"
        ) from None
