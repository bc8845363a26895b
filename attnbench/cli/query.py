"""`attnbench query`, `results delete | export | verify`, `compact`: what is done with results that are
there.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

ResultsOption = Annotated[Path, typer.Option("--results", help="The results folder.")]
SweepArgument = Annotated[str, typer.Argument(help="The sweep's name.")]

#: What a terminal shows of an answer; the other formats write all of it.
TABLE_ROWS = 500


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("query")(query)
    results = typer.Typer(help="Delete, export or verify results.", no_args_is_help=True)
    results.command("delete")(delete)
    results.command("export")(export)
    results.command("verify")(verify)
    app.add_typer(results, name="results")
    app.command("compact")(compact)


def query(
    sql: Annotated[
        str,
        typer.Argument(
            help="One SELECT statement; '-' reads it from standard input. "
            "'show tables' lists what there is, 'describe trials' a table's columns."
        ),
    ],
    results: ResultsOption = Path("results"),
    format: Annotated[str, typer.Option("--format", help="table | csv | json | parquet")] = "table",
    out: Annotated[Path | None, typer.Option("--out", help="Write the answer to this file.")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, max=120, help="Seconds before it is stopped.")
    ] = 60.0,
    memory: Annotated[str, typer.Option("--memory", help="What DuckDB may use, for example 4GB.")] = "1GB",
) -> None:
    """Answer an SQL question over all results, read-only.

    Tables: trials, steps, gradients, robustness, requests, cost, cost_ratios, verdicts.
    Views: leaderboard, best_by_attention, pareto, curves, running.
    """
    import sys

    from attnbench.errors import UsageError
    from attnbench.results.querying import answer

    if format not in ("table", "csv", "json", "parquet"):
        raise UsageError(f"--format {format!r} is unknown; use table, csv, json or parquet")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.absolute().parent} does not exist")
    text = sys.stdin.read() if sql == "-" else sql
    if format == "parquet":
        _write_parquet(results, text, out, timeout_s, memory)
        return
    columns, rows = answer(results, text, limit_s=timeout_s, memory=memory)
    if out is None:
        _print(format, columns, rows, sys.stdout)
    else:
        with open(out, "w", newline="") as stream:
            _print(format, columns, rows, stream)


def _write_parquet(results: Path, sql: str, out: Path | None, timeout_s: float, memory: str) -> None:
    import os
    import sys
    import tempfile

    from attnbench.errors import UsageError
    from attnbench.results.querying import answer

    if out is None and sys.stdout.isatty():
        raise UsageError("--format parquet is binary: name a file with --out, or send the output into one")
    with tempfile.TemporaryDirectory(dir=out.absolute().parent if out else None) as folder:
        made = Path(folder) / "answer.parquet"
        answer(results, sql, limit_s=timeout_s, memory=memory, out=made)
        if out is None:
            sys.stdout.buffer.write(made.read_bytes())
        else:
            os.replace(made, out)


def _print(format: str, columns: list[str], rows: "Iterator[tuple]", stream) -> None:  # type: ignore[no-untyped-def]
    if format == "csv":
        import csv

        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    elif format == "json":
        import json

        objects = [{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in rows]
        json.dump(objects, stream, indent=None if len(objects) > 100 else 2, default=str, ensure_ascii=False)
        stream.write("\n")
    else:
        _print_table(columns, list(rows), stream)


def _plain(value: object) -> object:
    """JSON has no word for nan and infinity: null, as for what was not measured."""
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _print_table(columns: list[str], rows: list[tuple], stream) -> None:  # type: ignore[no-untyped-def]
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Piped, a table is as wide as it needs to be: nobody wants cells cut for a screen that is not there.
    console = Console(
        file=stream, width=None if stream.isatty() else 10_000, highlight=False, markup=False, emoji=False
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], (int, float)) for row in rows[:50])
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows[:TABLE_ROWS]:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)
    if len(rows) > TABLE_ROWS:
        print(f"the first {TABLE_ROWS} of {len(rows)} rows; --format csv or json writes all", file=sys.stderr)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def delete(
    sweep: SweepArgument,
    results: ResultsOption = Path("results"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete everything of a sweep: its rows in every table and its checkpoints."""
    import sys

    from attnbench.errors import UsageError
    from attnbench.results import Store
    from attnbench.results.layout import open_results

    store = Store(open_results(results))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"results delete {sweep}: say --yes to delete without being asked")
        typer.confirm(f"Delete all results of {sweep!r} in {results}?", abort=True)
    print(f"deleted {store.delete(sweep)} files of {sweep}")


def export(
    sweep: SweepArgument,
    results: ResultsOption = Path("results"),
    out: Annotated[Path | None, typer.Option("--out", help="A new folder; default SWEEP-export.")] = None,
) -> None:
    """Copy a sweep into a results folder of its own: one Parquet file per table, to query or to hand on."""
    from attnbench.results import Store
    from attnbench.results.layout import open_results

    target = out or Path(f"{sweep}-export")
    counts = Store(open_results(results)).export(sweep, target)
    for table, rows in counts.items():
        print(f"{table}: {rows} rows")
    print(f'attnbench query "select * from leaderboard" --results {target}')


def verify(
    results: ResultsOption = Path("results"),
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged files to RESULTS/quarantine.")
    ] = False,
) -> None:
    """Read every result file whole and say which are damaged; exit code 1 if any is left so."""
    import sys

    from attnbench.results import Store
    from attnbench.results.layout import open_results

    faults = Store(open_results(results)).verify(repair=repair)
    for fault in faults:
        print(fault)
    if not faults:
        print("every file is whole")
    elif not repair:
        print(
            f"{len(faults)} faults; 'attnbench results verify --repair' sets damaged files aside",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def compact(
    results: ResultsOption = Path("results"),
    least: Annotated[
        int, typer.Option("--least", min=1, help="Only tables with this many loose files.")
    ] = 100,
) -> None:
    """Merge the small files of finished trials, so that queries stay quick; may run at any time."""
    import sys

    from attnbench.results import Store
    from attnbench.results.layout import open_results

    store = Store(open_results(results))
    absorbed = store.compact(least=least, progress=lambda line: print(line, file=sys.stderr))
    if not absorbed:
        print(f"nothing to merge: no table has {least} loose files")
    for table, files in absorbed.items():
        print(f"{table}: {files} files merged")
