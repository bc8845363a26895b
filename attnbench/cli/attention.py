"""`attnbench list`, `attnbench show`, `attnbench check`: what there is, what one mechanism is, whether "
"it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Row = dict[str, Any]


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("list")(list_)
    app.command("show")(show)
    app.command("check")(check)


def list_(
    what: Annotated[
        str, typer.Argument(help="attention, workloads, hosts, claims or jobs", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="a JSON array instead of a table")] = False,
    directory: Annotated[Path, typer.Option("--jobs", help="where specifications lie (for 'jobs')")] = Path(
        "jobs"
    ),
) -> None:
    """List the mechanisms, workloads, hosts, claims or ready-made job specifications."""
    from attnbench.errors import UsageError

    readers: dict[str, Callable[[], list[Row]]] = {
        "attention": _attention,
        "workloads": _workloads,
        "hosts": _hosts,
        "claims": _claims,
        "jobs": lambda: _jobs(directory),
    }
    if what not in readers:
        raise UsageError(f"list takes one of {', '.join(readers)}, not '{what}'")
    rows = readers[what]()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print(f"no {what} here")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    columns = [column for column in columns if not (column == "name" and "id" in columns)]
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "id"))
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    Console().print(table)


def show(
    name: Annotated[
        str, typer.Argument(help="a mechanism's name, or path/to/file.py:Class", show_default=False)
    ],
    length: Annotated[
        int, typer.Option(help="tokens of the random input in the picture", min=2, max=64)
    ] = 24,
    seed: Annotated[int, typer.Option(help="of the random input")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="the description as JSON, without the picture")
    ] = False,
) -> None:
    """Show a mechanism: what it does, its equations, parameters, paper, cost, and a picture of its map."""
    from attnbench.attention import find

    mechanism = find(name)
    if as_json:
        print(json.dumps(_description(mechanism), indent=2))
        return
    from rich.console import Console

    from attnbench.cli.mechanism_page import page

    console = Console()
    console.print(page(mechanism, name, length, seed, coloured=console.color_system is not None))


def check(
    target: Annotated[
        str, typer.Argument(help="a mechanism's name, or path/to/file.py:Class", show_default=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="a parameter as KEY=VALUE; may be repeated", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a JSON array instead of a table")] = False,
) -> None:
    """Put a mechanism through the conformance checks; exit code 1 if one fails."""
    from rich.console import Console
    from rich.progress import track

    from attnbench.conformance.suite import CHECKS, run, subject_of

    subject = subject_of(target, _parsed(settings or []))
    console = Console(stderr=True)
    progress = track(CHECKS, "checking", console=console, transient=True, disable=not console.is_terminal)
    results = [run(name, subject) for name in progress]
    if as_json:
        print(json.dumps([{**vars(result)} for result in results], indent=2))
    else:
        out = Console()
        marks = {"passed": "[green]ok[/]  ", "failed": "[red]FAIL[/]", "does not apply": "[dim]-[/]   "}
        for result in results:
            detail = (
                f"[dim]: {result.detail}[/]" if result.outcome != "failed" else f"\n       {result.detail}"
            )
            out.print(
                f"{marks[result.outcome]} {result.name.replace('_', ' ')}{detail if result.detail else ''}",
                highlight=False,
            )
        failed = sum(not result.passed for result in results)
        out.print(
            f"{target}: {len(results) - failed} of {len(results)} checks hold"
            + (f", {failed} fail" if failed else "")
        )
    if any(not result.passed for result in results):
        raise typer.Exit(1)


def _attention() -> list[Row]:
    from attnbench.attention import mechanisms

    return [
        {"name": m.name, "arxiv": m.arxiv, "stages": list(m.stages), "summary": m.summary}
        for m in mechanisms().values()
    ]


def _workloads() -> list[Row]:
    from attnbench.workloads import workloads

    return [
        {"name": n, "arxiv": getattr(w, "arxiv", None), "summary": w.summary} for n, w in workloads().items()
    ]


def _hosts() -> list[Row]:
    from attnbench.hosts import hosts

    return [{"name": name, "arxiv": None, "summary": summary} for name, summary in hosts().items()]


def _claims() -> list[Row]:
    from attnbench.claims import hypotheses

    return [{"id": h.id, "name": h.id, "arxiv": h.arxiv, "statement": h.statement} for h in hypotheses()]


def _jobs(directory: Path) -> list[Row]:
    """The specifications in a folder; the first comment line of a file says what it is."""
    from attnbench.errors import UsageError

    if not directory.is_dir():
        raise UsageError(f"there is no folder '{directory}' here; go to the checkout or name one with --jobs")
    rows = []
    for path in sorted(directory.rglob("*.y*ml")):
        first = path.read_text(encoding="utf-8").lstrip().partition("\n")[0]
        summary = first.lstrip("# ") if first.startswith("#") else ""
        rows.append({"name": path.stem, "arxiv": None, "path": str(path), "summary": summary})
    return rows


def _description(mechanism: Any) -> Row:
    import inspect

    fields = mechanism.schema.model_fields
    schema = mechanism.schema.model_json_schema()["properties"]
    return {
        "name": mechanism.name,
        "summary": mechanism.summary,
        "arxiv": mechanism.arxiv,
        "stages": list(mechanism.stages),
        "documentation": inspect.getdoc(mechanism),
        "parameters": {
            n: {"default": schema[n].get("default"), "description": f.description} for n, f in fields.items()
        },
    }


def _parsed(settings: list[str]) -> Row:
    """KEY=VALUE with the value read as YAML, so that numbers and lists have their types."""
    from ruamel.yaml import YAML

    from attnbench.errors import UsageError

    values: Row = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write KEY=VALUE")
        values[key] = YAML(typ="safe").load(text)
    return values


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return (
        {None: "-", True: "yes", False: "no"}.get(value, str(value)) if not isinstance(value, str) else value
    )
