"""`up`, `down`, `status`, `submit` and `jobs`: the service on this machine and the jobs sent to it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from attnbench.errors import UsageError

Address = Annotated[
    str | None, typer.Option(help="The dashboard's URL; default: the service on this machine.")
]
TokenFile = Annotated[
    Path | None, typer.Option(help="File that holds Ray's token; default: found by itself.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    for command in (up, down, status, submit):
        app.command()(command)
    jobs = typer.Typer(
        help="Jobs on the service or on a cluster: list, status, logs, stop.", no_args_is_help=True
    )
    jobs.command("list")(list_jobs)
    jobs.command("status")(job_status)
    jobs.command("logs")(job_logs)
    jobs.command("stop")(job_stop)
    app.add_typer(jobs, name="jobs")


def up(
    results: Annotated[Path, typer.Option(help="Where jobs write, with MLflow's database beside it.")] = Path(
        "results"
    ),
    cpus: Annotated[int | None, typer.Option(help="CPU cores that Ray may hand out; default: all.")] = None,
    port: Annotated[int | None, typer.Option(help="Of the dashboard; default: 8265 or a free one.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="Of MLflow; default: 5000 or a free one.")] = None,
) -> None:
    """Start a head node on this machine: Ray with a token, dashboard and MLflow server, all on loopback."""
    from attnbench.service.head import start

    with _busy("starting Ray and MLflow"):
        session, started = start(results, cpus=cpus, port=port, mlflow_port=mlflow_port)
    print("attnbench is up" if started else f"attnbench is already running, since {session.started_at}")
    print(f"  dashboard  {session.dashboard_url}   (asks for the token: the content of {session.token_path})")
    print(f"  MLflow     {session.mlflow_url}")
    print(f"  results    {session.results}")
    print(f"  CPUs       {session.cpus}")
    print("submit with  attnbench submit JOB.yaml --follow     end with  attnbench down")


def down() -> None:
    """End the service: its jobs, then every process of it and of nothing else."""
    from attnbench.service.head import stop
    from attnbench.service.state import read_session

    if read_session() is None:
        print("attnbench is not running here")
        return
    with _busy("stopping jobs, then Ray and MLflow"):
        count = stop()
    print(f"attnbench is down: {count} processes ended")


def status(as_json: AsJson = False) -> None:
    """What runs on this machine and whether each part answers; exit code 1 if not all of it does."""
    from attnbench.service.head import status as ask
    from attnbench.service.state import read_session

    session = read_session()
    now: dict[str, Any] = {"running": False} if session is None else ask(session)
    if as_json:
        print(json.dumps(now, indent=2))
    elif session is None:
        print("attnbench is not running here: `attnbench up` starts it")
    else:
        for part, url in (("ray", "ray_address"), ("dashboard", "dashboard_url"), ("mlflow", "mlflow_url")):
            print(f"{part:10} {'answers' if now['parts'][part] else 'DOES NOT ANSWER':16} {now[url]}")
        jobs = ", ".join(f"{count} {name.lower()}" for name, count in sorted(now["jobs"].items())) or "none"
        print(
            f"nodes      {now['nodes']}\ncpus       {now['cpus']}\njobs       {jobs}\n"
            f"results    {now['results']}"
        )
        if not now["running"]:
            print("part of it does not answer: `attnbench up` clears what is left and starts again")
    if not now["running"]:
        raise typer.Exit(1)


def submit(
    job: Annotated[Path, typer.Argument(help="Sweep specification.")],
    address: Address = None,
    token_file: TokenFile = None,
    results: Annotated[
        str | None, typer.Option(help="Where the job writes; default: as given to `up`.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key.key=value, as for `run`.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the job has ended; exit code 1 unless it succeeded.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's output; implies --wait.")] = False,
) -> None:
    """Check a sweep here, then send it to the service on this machine or to a cluster, through Ray Jobs."""
    from attnbench.service.jobs import submit_sweep

    with _busy("checking and submitting"):
        client, job_id = submit_sweep(
            job,
            address=address,
            token_file=token_file,
            results=results,
            overrides=overrides or (),
            fresh=fresh,
        )
    # On the error stream with --follow, so that the standard output is the job's own.
    print(job_id, file=sys.stderr if follow else sys.stdout, flush=True)
    if not (wait or follow):
        return
    try:
        if follow:
            client.follow(job_id, _write)
        with _busy(f"{job_id}: waiting") as busy:
            ended = client.wait(job_id, watch=lambda now: busy.update(f"{job_id}: {now.lower()}"))
    except KeyboardInterrupt:
        print(f"attnbench: job {job_id} goes on; `attnbench jobs stop {job_id}` ends it", file=sys.stderr)
        raise typer.Exit(130) from None
    if ended != "SUCCEEDED":
        raise UsageError(
            f"job {job_id} ended as {ended.lower()}: `attnbench jobs logs {job_id}` says why"
        ) from None


def list_jobs(address: Address = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Every submitted job, newest first."""
    from attnbench.service.jobs import connect

    client, _ = connect(address, token_file)
    jobs = client.list()
    if as_json:
        print(json.dumps(jobs, indent=2))
        return
    if not jobs:
        print("no jobs yet: `attnbench submit JOB.yaml` sends one")
        return
    width = max(len(job["job_id"]) for job in jobs)
    print(f"{'job':{width}}  {'status':9}  {'started (UTC)':19}  {'took':>8}  results")
    for job in jobs:
        print(
            f"{job['job_id']:{width}}  {job['status'].lower():9}  {(job['started_at'] or '-')[:19]:19}  "
            f"{_took(job):>8}  {job['results'] or '-'}"
        )


def job_status(
    job_id: str, address: Address = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """One job: its status, times and message."""
    from attnbench.service.jobs import connect

    client, _ = connect(address, token_file)
    job = client.describe(job_id)
    if as_json:
        print(json.dumps(job, indent=2))
        return
    for name, value in job.items():
        if value is not None:
            print(f"{name:10}  {value}")


def job_logs(
    job_id: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """What a job has written."""
    from attnbench.service.jobs import connect

    client, _ = connect(address, token_file)
    if follow:
        client.follow(job_id, _write)
    else:
        _write(client.logs(job_id))


def job_stop(job_id: str, address: Address = None, token_file: TokenFile = None) -> None:
    """Stop a job; its finished trials stay, and submitting the same specification goes on from there."""
    from attnbench.service.jobs import STOP_WAIT_S, connect

    client, _ = connect(address, token_file)
    with _busy(f"stopping {job_id}"):
        stopped = client.stop(job_id)
        last = client.wait(job_id, limit_s=STOP_WAIT_S + 10)
    print(f"{job_id} {last.lower()}" if stopped else f"{job_id} had already ended: {last.lower()}")


def _took(job: dict[str, Any]) -> str:
    from datetime import UTC, datetime

    if job["started_at"] is None:
        return "-"
    end = datetime.fromisoformat(job["ended_at"]) if job["ended_at"] else datetime.now(UTC)
    return f"{(end - datetime.fromisoformat(job['started_at'])).total_seconds():.0f} s"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _busy(what: str) -> Any:
    """A spinner on the error stream while something takes a while; silent where there is no terminal."""
    from rich.console import Console

    return Console(stderr=True).status(what)
