"""`attnbench run`: a sweep from its specification."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from attnbench.sweep import Outcome, Sweep


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("run")(run)


def run(
    specification: Annotated[
        Path, typer.Argument(help="The sweep's YAML file, such as jobs/quickstart.yaml.")
    ],
    results: Annotated[Path, typer.Option("--results", help="The results folder.")] = Path("results"),
    plan: Annotated[
        bool, typer.Option("--plan", help="Print arms, trials, hours and disk, and start nothing.")
    ] = False,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key, such as train.steps=200; may be repeated."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            envvar="RAY_ADDRESS",
            help="A running Ray cluster: auto or host:port. Default: one of its own.",
        ),
    ] = None,
    cpus: Annotated[
        int | None, typer.Option("--cpus", min=1, help="CPUs of its own cluster. Default: this machine's.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start every trial over instead of resuming.")
    ] = False,
    mlflow: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Follow into the local MLflow store.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan or the outcome as JSON.")] = False,
) -> None:
    """Run a sweep: every arm under equal conditions, through Ray Tune. The same command again goes on
    where it stopped.

    Exit code 0 when every trial ended by itself, 1 when any failed, 2 when the specification is wrong.
    """
    import signal
    import sys

    overrides = override or []
    if plan:
        _print_plan(specification, results, overrides, cpus, as_json)
        return
    # `attnbench jobs stop` sends TERM: end as after Ctrl-C, with Ray's processes and the mirror.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from attnbench.service.state import join
    from attnbench.sweep import run_file

    outcome = run_file(
        specification,
        results,
        overrides=overrides,
        address=join(address),
        fresh=fresh,
        mirror=mlflow,
        quiet=quiet,
        cpus=cpus,
        ends_with_it=True,
    )
    _print_outcome(outcome, results, as_json)
    if not outcome.ok:
        sys.exit(1)


def _print_outcome(outcome: "Outcome", results: Path, as_json: bool) -> None:
    import dataclasses
    import json
    import sys

    if as_json:
        print(json.dumps({**dataclasses.asdict(outcome), "ok": outcome.ok}))
        return
    if outcome.hopeless:
        print(f"attnbench: {outcome.hopeless}", file=sys.stderr)
    print(outcome.line())
    if not outcome.ok:
        print(
            f'why: attnbench query "select arm, seed, status, error from trials '
            f"where sweep = '{outcome.sweep}' and status not in ('ok', 'stopped')\" --results {results}",
            file=sys.stderr,
        )


def _print_plan(
    specification: Path, results: Path, overrides: list[str], cpus: int | None, as_json: bool
) -> None:
    import json

    from attnbench.results import Store
    from attnbench.sweep import read_specification
    from attnbench.sweep.estimate import estimate

    sweep = read_specification(specification, overrides)
    workers = _workers(sweep, cpus)
    guess = estimate(sweep, Store(results), workers)
    arms = _arms(sweep)
    if as_json:
        print(
            json.dumps(
                {
                    "sweep": sweep.name,
                    "arms": arms,
                    "trials": guess.trials,
                    "tuning": guess.tuning,
                    "confirming": guess.confirming,
                    "hours": guess.hours,
                    "workers": workers,
                    "disk_bytes": guess.disk_bytes,
                    "estimated_from": guess.source,
                }
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"sweep {sweep.name}: {sweep.search.kind}, {sweep.metric} ({sweep.direction})",
        title_justify="left",
    )
    for heading in ("arm", "configurations", "trials", "axes"):
        table.add_column(
            heading, justify="right" if heading in ("configurations", "trials") else "left", overflow="fold"
        )
    for arm in arms:
        table.add_row(arm["arm"], str(arm["configurations"]), str(arm["trials"]), arm["axes"])
    Console().print(table)
    phases = f"{guess.tuning} to tune, {guess.confirming} to confirm" if sweep.tunes else "one phase"
    print(f"{guess.trials} trials ({phases})")
    print(
        f"about {_hours(guess.hours)} with {workers} at a time, from {guess.source}; "
        f"{guess.disk_bytes / 1e6:.1f} MB of results"
    )
    if not sweep.search.prunes and len({arm["configurations"] for arm in arms}) > 1:
        print(
            "arms have unequal numbers of configurations; "
            "'attnbench compare' will want --unequal, or say search.samples"
        )


def _arms(sweep: "Sweep") -> list[dict]:
    from attnbench.sweep.planning import first_phase

    planned = first_phase(sweep)
    found = []
    for arm in sweep.arms:
        axes = {
            ".".join(str(step) for step in place): axis for place, axis in {**arm.scopes, **arm.tuned}.items()
        }
        shown = [
            f"{name} {list(axis.values) if axis.finite else f'{axis.kind} {axis.low:g} to {axis.high:g}'}"
            for name, axis in axes.items()
        ]
        trials = sum(one.config.label == arm.label for one in planned)
        confirming = (
            len({one.group for one in planned if one.config.label == arm.label})
            * len(sweep.confirm_seeds)
            * len(sweep.folds)
        )
        found.append(
            {
                "arm": arm.label,
                "configurations": len(
                    {
                        one.config.model_copy(update={"seed": 0, "fold": 0}).trial_id
                        for one in planned
                        if one.config.label == arm.label
                    }
                ),
                "trials": trials + confirming,
                "axes": ", ".join(shown),
            }
        )
    return found


def _workers(sweep: "Sweep", cpus: int | None) -> int:
    import os

    resources = sweep.header.resources
    return max(1, (cpus or len(os.sched_getaffinity(0))) // (resources.cpus * resources.workers))


def _hours(hours: float) -> str:
    return (
        f"{hours * 3600:.0f} s"
        if hours < 1 / 40
        else f"{hours * 60:.0f} min"
        if hours < 1.5
        else f"{hours:.1f} h"
    )
