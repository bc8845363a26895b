"""`attnbench compare`: arms of a sweep against a baseline, paired by seed."""

from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("compare")(compare)


def compare(
    sweep: Annotated[str, typer.Argument(help="The sweep, by its name.")],
    metric: Annotated[str, typer.Option(help="A metric column of `trials`.")] = "test_accuracy",
    baseline: Annotated[str, typer.Option(help="The arm that the others are compared with.")] = "softmax",
    unequal: Annotated[bool, typer.Option("--unequal", help="Compare although tuning was unequal.")] = False,
    mixed: Annotated[list[str] | None, typer.Option(help="A column in which trials may differ.")] = None,
    results: Annotated[Path, typer.Option(help="Results folder.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare the arms of SWEEP with a baseline: paired by seed, 95 % intervals, Holm-corrected decisions."""
    import json

    from attnbench.claims.comparison import compare as compare_trials
    from attnbench.claims.pairing import trials_of

    comparison = compare_trials(
        trials_of(sweep, results), metric, baseline, unequal=unequal, mixed=mixed or ()
    )
    if as_json:
        print(json.dumps({"sweep": sweep, **comparison.as_dict()}, indent=2, allow_nan=False))
        return
    from attnbench.report.terminal import print_comparison

    print_comparison(comparison, f"{sweep}: ")
