"""`attnbench cost`: time, memory and FLOPs of mechanisms against a baseline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from attnbench.cost import CostSpec, Outcome


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("cost")(cost)


def cost(
    specification: Annotated[Path, typer.Argument(help="The cost specification, such as jobs/cost.yaml.")],
    results: Annotated[Path, typer.Option("--results", help="The results folder.")] = Path("results"),
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, such as limit_s=5; may be repeated.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be measured, and start nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Time every mechanism against the baseline, in pairs, and write tables `cost` and `cost_ratios`.

    Let the machine do nothing else meanwhile. Exit code 1 when a fused path was found wrong (it is then not
    timed), 2 when the specification is wrong.
    """
    import sys

    from attnbench.cost import read_cost_specification

    spec = read_cost_specification(specification, _overrides(override or []))
    if plan:
        _print_plan(spec, as_json)
        return
    outcome = _measured(spec, results)
    if as_json:
        _print_json(outcome)
    else:
        _print_outcome(outcome, spec, results)
    if any(skipped.refused for skipped in outcome.skipped):
        sys.exit(1)


def _measured(spec: "CostSpec", results: Path) -> "Outcome":
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from attnbench.cost import run_cost
    from attnbench.results import Store

    store = Store(results)
    store.ensure_writable()
    sink = store.sink(spec.cost, spec.identity, store.next_attempt(spec.cost, spec.identity))
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    quiet = not sys.stderr.isatty()
    # redrawn rarely: the bar's own thread takes time from what is being measured
    with Progress(
        *columns, console=Console(stderr=True), disable=quiet, transient=True, refresh_per_second=1
    ) as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=what)

        return run_cost(spec, sink, build_objective=_objective, progress=progress)


def _objective(spec: Any, attention: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    from attnbench.training.objectives import build_objective, canonical_objective, settle_passes

    written = settle_passes(canonical_objective(spec), attention)
    return written, build_objective(written)


def _print_plan(spec: "CostSpec", as_json: bool) -> None:
    import json

    from rich.console import Console

    arms, cells = spec.arms(), spec.cells()
    pairs = len(arms) * len(cells) * len(spec.paths) * len(spec.baseline_paths) * spec.repeats
    hours = pairs * spec.limit_s / 3600
    if as_json:
        print(json.dumps({"arms": [arm.label for arm in arms], "cells": [str(cell) for cell in cells],
                          "pairs": pairs, "hours_at_most": hours}))  # fmt: skip
        return
    console = Console()
    for arm in arms:
        console.print(f"  {arm.label}", markup=False)
    console.print(f"{len(arms)} arms in {len(cells)} cells: {', '.join(str(cell) for cell in cells)}")
    console.print(f"at most {pairs} pairs of paths and {60 * hours:.0f} minutes, usually far less")


def _print_json(outcome: "Outcome") -> None:
    import dataclasses
    import json

    skipped = [dataclasses.asdict(one) for one in outcome.skipped]
    whole = {"ratios": outcome.ratios, "skipped": skipped, "noisy": outcome.noisy, "wall_s": outcome.wall_s}
    print(json.dumps(whole, default=str))


def _print_outcome(outcome: "Outcome", spec: "CostSpec", results: Path) -> None:
    from rich.console import Console

    from attnbench.cost.table import LEGEND, cost_tables, marks

    console = Console()
    for table in cost_tables(outcome):
        console.print(table)
    if any(list(marks(row)) for row in outcome.ratios):
        console.print(LEGEND, soft_wrap=True)
    for skipped in outcome.skipped:
        style = "red" if skipped.refused else None
        console.print(f"not measured: {skipped.what}: {skipped.reason}", style=style, markup=False)
    if outcome.noisy:
        console.print(f"this machine is noisy now: {outcome.noisy}", style="yellow", markup=False)
    where = f"table cost_ratios of {results}, cost_id {spec.identity}"
    console.print(f"{len(outcome.ratios)} ratios in {outcome.wall_s:.0f} s: {where}")


def _overrides(pairs: list[str]) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from attnbench.errors import UsageError

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair!r}: write KEY=VALUE, such as limit_s=5")
        try:
            found[key] = YAML(typ="safe").load(value)
        except YAMLError as error:
            raise UsageError(f"--set {pair!r}: the value is no YAML") from error
    return found
