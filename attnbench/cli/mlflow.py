"""`attnbench mlflow sync` and `attnbench ui`: the results as MLflow shows them."""

from pathlib import Path
from typing import Annotated

import typer

ResultsOption = Annotated[Path, typer.Option("--results", help="The results folder.")]


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    mlflow = typer.Typer(help="The mirror of the results in MLflow.", no_args_is_help=True)
    mlflow.callback()(lambda: None)  # keeps `sync` a subcommand while it is the only one
    mlflow.command("sync")(sync)
    app.add_typer(mlflow, name="mlflow")
    app.command("ui")(ui)


def sync(
    sweeps: Annotated[list[str] | None, typer.Argument(help="Only these sweeps; default all.")] = None,
    results: ResultsOption = Path("results"),
    uri: Annotated[
        str | None,
        typer.Option("--uri", help="Tracking server; default $MLFLOW_TRACKING_URI or RESULTS/mlflow.db."),
    ] = None,
) -> None:
    """Send to MLflow whatever it lacks. May be repeated; rebuilds a deleted database."""
    import sys

    from attnbench.errors import UsageError
    from attnbench.results.mirror import sync_once

    def progress(sweep: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{sweep}: {done} of {total} runs", end="\n" if done == total else "", file=sys.stderr)

    try:
        written = sync_once(results, sweeps, uri, progress)
    except (UsageError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a tracking server answers, or does not
        raise UsageError(
            f"mlflow sync: {type(error).__name__}: {str(error)[:300]}; nothing is lost, try again"
        ) from error
    for sweep, runs in written.items():
        print(f"{sweep}: {runs} runs written" if runs else f"{sweep}: up to date")
    if not written:
        print(f"no trials in {results} yet")


def ui(
    results: ResultsOption = Path("results"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's pages on the local results, on this machine only; Ctrl-C ends it."""
    import contextlib
    import os
    import signal
    import subprocess
    import sys

    from attnbench.errors import UsageError
    from attnbench.results.mirror import sync_once
    from attnbench.results.mirror_process import server_command, server_environment

    _check_port_is_free(port)
    local = f"sqlite:///{results.absolute() / 'mlflow.db'}"
    with contextlib.suppress(KeyError):
        del os.environ[
            "MLFLOW_TRACKING_URI"
        ]  # this command shows the local mirror, wherever sweeps report to
    print("bringing MLflow up to date ...", file=sys.stderr)
    try:
        sync_once(results, uri=local)
    except UsageError as error:
        if "under way" not in str(error):  # a sweep's own mirror is at work: as good
            raise
    server = subprocess.Popen(
        server_command(results, port=port),
        env=server_environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        print("starting the MLflow server, about ten seconds ...", file=sys.stderr)
        _wait_until_it_answers(server, port)
        for name, identity in _experiments(local):
            print(f"{name}: http://127.0.0.1:{port}/#/experiments/{identity}/runs?compareRunsMode=CHART")
        print("Ctrl-C ends it", file=sys.stderr)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _check_port_is_free(port: int) -> None:
    import socket

    from attnbench.errors import UsageError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"port {port} is taken; give another with --port") from error


def _wait_until_it_answers(server, port: int) -> None:  # type: ignore[no-untyped-def]
    import threading
    import time
    import urllib.request

    from attnbench.errors import UsageError

    tail: list[str] = []

    def drain() -> None:  # or the server stops when the pipe is full
        for line in server.stderr:
            tail.append(line.rstrip())
            del tail[:-5]

    threading.Thread(target=drain, daemon=True).start()
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if server.poll() is not None:
            raise UsageError(
                f"the MLflow server ended with code {server.returncode}: {' | '.join(tail)[-300:]}"
            )
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            return
        except OSError:
            time.sleep(0.3)
    raise UsageError("the MLflow server did not answer within 120 s")


def _experiments(uri: str) -> list[tuple[str, str]]:
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=uri).search_experiments()
    return [(one.name, one.experiment_id) for one in reversed(found) if one.name != "Default"]
