"""`attnbench claims`: papers' claims as hypotheses, and their verdicts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from attnbench.claims import Verdict

Results = Annotated[Path, typer.Option("--results", help="The results folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print an array of JSON objects.")]


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    claims = typer.Typer(help="Papers' claims: list, verify, verdicts.", no_args_is_help=True)
    claims.command("list")(list_claims)
    claims.command("verify")(verify)
    claims.command("verdicts")(verdicts)
    app.add_typer(claims, name="claims")


def list_claims(as_json: AsJson = False) -> None:
    """List every registered claim: its statement, the paper's figures and where each was read."""
    import json

    from attnbench.claims import hypotheses

    if as_json:
        print(json.dumps([claim.as_dict() for claim in hypotheses()], indent=2))
        return
    from attnbench.report.verdicts import print_claims

    print_claims(hypotheses())


def verify(
    name: Annotated[str, typer.Argument(help="A claim (AD-OV-1), a method, a family, or all.")],
    tier: Annotated[str, typer.Option(help="What to run: cpu (two cores will do) or gpu.")] = "cpu",
    results: Results = Path("results"),
    plan: Annotated[bool, typer.Option("--plan", help="Print what would run and how long.")] = False,
    from_sweep: Annotated[
        str | None, typer.Option("--from-sweep", help="Run nothing; judge what this sweep's rows can answer.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=2, help="Confirming seeds, fixed before looking.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the sweeps, such as train.epochs=5.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run everything again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run what a claim needs, or read a sweep that has run, and write verdicts by the sheets' rules."""
    import json
    import sys

    from attnbench.claims import verify as verify_claims

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            print(what, file=sys.stderr)

    found = verify_claims(
        name,
        tier,
        results,
        plan,
        seeds,
        from_sweep=from_sweep,
        overrides=override or (),
        fresh=fresh,
        progress=progress,
    )
    if as_json:
        print(json.dumps([verdict.row() for verdict in found], indent=2, default=str))
        return
    if plan:
        from attnbench.report.verdicts import print_plan

        print_plan(found)
        return
    _print(found, results)


def verdicts(results: Results = Path("results"), as_json: AsJson = False) -> None:
    """Show the latest verdict on every claim that was judged, with the command that reproduces it."""
    import json

    from attnbench.claims.verdict import latest

    found = latest(results)
    if as_json:
        print(json.dumps([verdict.row() for verdict in found], indent=2, default=str))
        return
    if not found:
        print("no verdicts yet; 'attnbench claims verify NAME' makes some")
        return
    _print(found, results)


def _print(found: "list[Verdict]", results: Path, **_: Any) -> None:
    from attnbench.report.verdicts import print_verdicts

    print_verdicts(found, results)
