"""`attnbench report`: one HTML file from a results folder."""

from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("report")(report)


def report(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    sweep: Annotated[str | None, typer.Option(help="Only this sweep; all of them by default.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The arm to compare with; softmax by default.")] = None,
    results: Annotated[Path, typer.Option("--results", help="The results folder.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the file's path as JSON.")] = False,
) -> None:
    """Write the report: comparison, cost, curves, gradient variance, robustness, calibration, verdicts."""
    import json

    from attnbench.report.page import write_report

    path = write_report(results, out, sweep=sweep, baseline=baseline).resolve()
    print(json.dumps({"report": str(path), "bytes": path.stat().st_size}) if as_json else f"report: {path}")
