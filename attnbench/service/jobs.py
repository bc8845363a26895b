"""Jobs on a head, ours or a cluster's, through Ray Jobs: submit a sweep, list, follow, stop."""

import asyncio
import logging
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnbench.errors import UsageError
from attnbench.service.http import Refused, Unreachable, get_json
from attnbench.service.parcel import pack
from attnbench.service.state import Session, read_session

ENDED = ("SUCCEEDED", "STOPPED", "FAILED")
# The head takes submissions before its agent is there to run them.
AGENT_LIMIT_S = 60.0
STOP_WAIT_S = 20


class JobClient:
    """Ray Jobs at one address; every failure that a user can mend is a UsageError.

    address: the dashboard's URL. token: Ray's token, or None for a cluster without one.
    """

    def __init__(self, address: str, token: str | None):
        self.address = address if "://" in address else f"http://{address}"
        self.address = self.address.rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise UsageError(
                f"--address {address}: the dashboard's URL is needed, such as http://127.0.0.1:8265"
            )
        self._probe(token)
        from ray.job_submission import JobSubmissionClient

        # Ray announces every upload and every log stream that it closes.
        for chatty in (
            "dashboard.modules.job.sdk",
            "dashboard.modules.dashboard_sdk",
            "_private.runtime_env.packaging",
        ):
            logging.getLogger(f"ray.{chatty}").setLevel(logging.WARNING)

        # The token goes into the header here, since Ray reads its own variables only once per process.
        headers = {"Authorization": f"Bearer {token}"} if token else None
        self._ray = JobSubmissionClient(self.address, headers=headers)

    def _probe(self, token: str | None) -> None:
        try:
            get_json(self.address + "/api/version", token)
        except Refused:
            what = "does not accept this token" if token else "wants a token"
            raise UsageError(
                f"{self.address} {what}: name the file that holds it with --token-file or RAY_AUTH_TOKEN_PATH"
            ) from None
        except Unreachable:
            raise UsageError(
                f"nothing answers at {self.address}: `attnbench up` starts a service on this machine, "
                "`attnbench status` says what runs, --address names another"
            ) from None

    def submit(
        self, entrypoint: str, *, name: str, folder: Path | None = None,
        variables: dict[str, str] | None = None, about: dict[str, str] | None = None,
    ) -> str:  # fmt: skip
        """Submit a command line; returns the job's id, `<name>-<6 hex digits>`.

        folder: what travels as its working directory. variables: its environment. about: text kept with it.
        """
        runtime: dict[str, Any] = {
            "env_vars": {"PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        }
        runtime["env_vars"].update(variables or {})
        if folder is not None:
            runtime["working_dir"] = str(folder)
        job_id = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}-{secrets.token_hex(3)}"
        end = time.monotonic() + AGENT_LIMIT_S
        while True:
            try:
                return self._ray.submit_job(
                    entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime, metadata=about or {}
                )
            except RuntimeError as error:
                if "No available agent" not in str(error):
                    raise UsageError(f"{self.address} refuses the job: {_reason(error)}") from None
                if time.monotonic() > end:
                    raise UsageError(
                        f"{self.address} has had no agent to run a job for {AGENT_LIMIT_S:.0f} s: "
                        "`attnbench down`, then `attnbench up` again"
                    ) from None
                time.sleep(1.0)
            except OSError as error:
                raise self._gone(error) from None

    def list(self) -> list[dict[str, Any]]:
        """Every submitted job, newest first, each as `describe` gives it."""
        jobs = [_described(job) for job in self._asked(self._ray.list_jobs) if job.submission_id]
        return sorted(jobs, key=lambda job: job["started_at"] or "", reverse=True)

    def describe(self, job_id: str) -> dict[str, Any]:
        """job_id, status, sweep, results, started_at, ended_at (ISO, UTC), exit_code, message, entrypoint."""
        return _described(self._asked(self._ray.get_job_info, job_id))

    def logs(self, job_id: str) -> str:
        """All that the job has written so far."""
        return self._asked(self._ray.get_job_logs, job_id)

    def follow(self, job_id: str, write: Callable[[str], Any]) -> None:
        """Hand the job's output to `write` as it comes, until the job ends."""

        async def tail() -> None:
            async for lines in self._ray.tail_job_logs(job_id):
                write(lines)

        self.describe(job_id)
        try:
            asyncio.run(tail())
        except (RuntimeError, OSError) as error:
            raise self._gone(error) from None

    def stop(self, job_id: str) -> bool:
        """Ask the job to stop; False if it had ended. Its driver gets SIGTERM and STOP_WAIT_S to end well."""
        return bool(self._asked(self._ray.stop_job, job_id))

    def wait(
        self, job_id: str, *, limit_s: float | None = None, watch: Callable[[str], Any] | None = None
    ) -> str:
        """Wait until the job has ended, or for limit_s; its last status, as `watch` is told at each look."""
        end = None if limit_s is None else time.monotonic() + limit_s
        while True:
            status = self.describe(job_id)["status"]
            if watch is not None:
                watch(status)
            if status in ENDED or (end is not None and time.monotonic() > end):
                return status
            time.sleep(0.5)

    def _asked(self, question: Callable[..., Any], *arguments: str) -> Any:
        try:
            return question(*arguments)
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                raise UsageError(
                    f"no job {arguments[0]} at {self.address}: `attnbench jobs list` shows all"
                ) from None
            raise UsageError(f"{self.address}: {_reason(error)}") from None
        except OSError as error:
            raise self._gone(error) from None

    def _gone(self, error: Exception) -> UsageError:
        return UsageError(
            f"{self.address} no longer answers ({_reason(error)}): `attnbench status` says what runs"
        )


def connect(address: str | None = None, token_file: Path | None = None) -> tuple[JobClient, Session | None]:
    """A client for `address` or for the service on this machine; with the session if that is what it is."""
    session = read_session()
    if address is None and session is None:
        raise UsageError("no service runs here: `attnbench up` starts one, or --address names another")
    ours = session is not None and (address is None or _same_place(address, session.dashboard_url))
    url = session.dashboard_url if session is not None and ours else str(address)
    return JobClient(url, find_token(token_file, session if ours else None)), session if ours else None


def find_token(token_file: Path | None, session: Session | None) -> str | None:
    """The token of --token-file, the session, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    A session's token is for that session's address alone: it is never sent elsewhere.
    """
    if token_file is None and session is not None:
        token_file = Path(session.token_path)
    elif token_file is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
        return token
    elif token_file is None and (named := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        token_file = Path(named)
    elif token_file is None:
        token_file = Path.home() / ".ray" / "auth_token"
        if not token_file.exists():
            return None
    try:
        return token_file.read_text().strip()
    except OSError as error:
        raise UsageError(f"the token file {token_file} cannot be read ({error.strerror})") from None


def submit_sweep(
    job: Path, *, address: str | None = None, token_file: Path | None = None, results: str | None = None,
    overrides: Sequence[str] = (), fresh: bool = False,
) -> tuple[JobClient, str]:  # fmt: skip
    """Check the specification here, then send it: (client, job id).

    results: folder on the head's side; by default the one that `up` was given. A relative path is meant from
        here, so it is only taken for the service on this machine.
    """
    from attnbench.sweep import read_specification

    sweep = read_specification(job, overrides)
    client, session = connect(address, token_file)
    if session is None and (results is None or not ("://" in results or os.path.isabs(results))):
        raise UsageError("--results: another machine needs an absolute path or a URL that it can write")
    if session is not None:
        results = session.results if results is None else str(Path(results).expanduser().absolute())
    variables = {}
    if session is not None and (data := os.environ.get("ATTNBENCH_DATA")):
        variables["ATTNBENCH_DATA"] = str(Path(data).expanduser().absolute())
    with tempfile.TemporaryDirectory(prefix="attnbench-job-") as folder:
        name, overrides = pack(job, Path(folder), overrides)
        command = [
            session.python if session is not None else "python",
            "-m",
            "attnbench.cli.main",
            "run",
            str(name),
        ]
        command += ["--address", "auto", "--results", str(results)]
        command += [word for override in overrides for word in ("--set", override)]
        command += ["--fresh"] if fresh else []
        # exec: the shell in between would take the stop signal without passing it on.
        job_id = client.submit(
            "exec " + shlex.join(command), name=sweep.name, folder=Path(folder), variables=variables,
            about={"sweep": sweep.name, "results": str(results), "specification": job.name},
        )  # fmt: skip
    return client, job_id


def _described(job: Any) -> dict[str, Any]:
    about = job.metadata or {}
    return {
        "job_id": job.submission_id,
        "status": job.status.value if hasattr(job.status, "value") else str(job.status),
        "sweep": about.get("sweep"),
        "results": about.get("results"),
        "started_at": _time(job.start_time),
        "ended_at": _time(job.end_time),
        "exit_code": job.driver_exit_code,
        "message": job.message,
        "entrypoint": job.entrypoint,
    }


def _time(milliseconds: int | None) -> str | None:
    return (
        datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
        if milliseconds
        else None
    )


def _same_place(address: str, url: str) -> bool:
    bare = address.split("://", 1)[-1].rstrip("/").replace("localhost:", "127.0.0.1:")
    return bare == url.split("://", 1)[-1]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
