"""`attnbench trial`: one trial in this process, without Ray."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

SHOWN = ("train_loss", "grad_norm", "step_ms", "samples_per_s", "peak_bytes", "parameters", "steps", "wall_s")
"""What is printed beside the metrics."""


def trial(
    config: Annotated[Path, typer.Argument(help="YAML file with the keys of TrialConfig.")],
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the trial's row as one JSON object.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option(help="Run again, also if it has ended or can go on from a checkpoint.")
    ] = False,
) -> None:
    """Train and measure one configuration; the same command again goes on from its checkpoint, or shows
    what ended."""
    from attnbench.training.reading import read_config

    wanted = read_config(config)
    from attnbench.errors import UsageError
    from attnbench.results import Store
    from attnbench.training.network import check_trial
    from attnbench.training.process import choose_device

    if wanted.resources.workers > 1:
        raise UsageError(
            f"{config}: resources.workers {wanted.resources.workers} needs a cluster: attnbench run"
        )
    choose_device(wanted.resources.gpus)
    try:
        check_trial(wanted)
    except UsageError as error:
        raise UsageError(f"{config}: {error}") from error
    store = Store(results)
    store.ensure_writable()
    ended = None if fresh else store.finals(wanted.sweep).get(wanted.trial_id)
    if ended is not None and ended["status"] in ("ok", "stopped", "diverged"):
        row, note = ended, " (was done before; --fresh runs it again)"
    else:
        tried = store.attempts(wanted.sweep).get(wanted.trial_id, 0)
        attempt = tried + 1 if fresh or ended is not None else max(1, tried)  # an interrupted attempt goes on
        sink = store.sink(wanted.sweep, wanted.trial_id, attempt)
        row, note = _run(wanted, sink, results, quiet=as_json), ""
    if as_json:
        typer.echo(json.dumps(row, default=str, sort_keys=True))
    else:
        _print(row, results, note)
    if row["status"] not in ("ok", "stopped"):
        raise typer.Exit(1)


def _run(wanted: Any, sink: Any, results: Path, *, quiet: bool) -> dict[str, Any]:
    """Run to the end with a progress bar on a terminal; the final row."""
    import sys

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from attnbench.training import Trial

    running = Trial(wanted, sink, results / "checkpoints", replay=False)
    budget, unit = wanted.train.budget, wanted.train.unit
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:g}/{task.total:g} " + unit),
    )
    try:
        with Progress(
            *columns, TimeRemainingColumn(), disable=quiet or not sys.stderr.isatty(), transient=True
        ) as bar:
            task = bar.add_task(wanted.label or "training", total=budget)
            while running.result is None:
                report = running.advance()
                bar.update(task, completed=report["epoch" if unit == "epochs" else "step"])
        return running.result.row
    finally:
        running.close()


def _print(row: dict[str, Any], results: Path, note: str) -> None:
    """The figures of a final row, one per line."""
    typer.echo(f"{row['arm']} on {row['workload']}, seed {row['seed']}: {row['status']}{note}")
    if row.get("error"):
        typer.echo(f"  {row['error']}")
    shown = [name for name in row if name.startswith(("val_", "test_"))]
    for name in [*shown, *SHOWN]:
        if row.get(name) is not None:
            value = row[name]
            typer.echo(f"  {name:<20} {value:.6g}" if isinstance(value, float) else f"  {name:<20} {value:,}")
    typer.echo(f"  {'trial_id':<20} {row['trial_id']}   rows in {results}/, sweep {row['sweep']}")


def add(app: typer.Typer) -> None:
    """Register the command of this group."""
    app.command("trial")(trial)
