"""SQL over a results folder: a locked DuckDB that sees exactly the files that count, and nothing else.

Only DuckDB is imported (77 ms); pandas comes in with `load` alone. DuckDB's allow-list guards reading, but
lets COPY overwrite a listed file, so the statement itself is looked at first: one SELECT, or nothing runs.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from attnbench.errors import UsageError
from attnbench.results.layout import QUERY_LIMIT_S, Snapshot, open_results, snapshot
from attnbench.results.schemas import TABLES
from attnbench.results.soundness import broken_file, check_ends, schema_version
from attnbench.results.views import VIEWS, select_rows

#: Tables whose rows belong to a trial's attempt: only the latest attempt seen in any of them counts. trials
#: comes first: whoever sees a final row must then see all the steps, which were flushed before it.
_ATTEMPT_TABLES = ("trials", "steps", "gradients", "robustness")

#: What DuckDB raises for a statement; damaged files raise anything else, there is no class for them.
_BY_STATEMENT = (
    duckdb.CatalogException,
    duckdb.BinderException,
    duckdb.ParserException,
    duckdb.PermissionException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.NotImplementedException,
)


def answer(
    results: str | os.PathLike[str],
    sql: str,
    *,
    limit_s: float = QUERY_LIMIT_S,
    memory: str = "1GB",
    out: Path | None = None,
) -> tuple[list[str], Iterator[tuple]]:
    """Run one SELECT statement over the tables and views; column names and an iterator over the rows.

    limit_s: the statement is interrupted after that, at most the grace that deleted files get.
    out: write the answer there as Parquet, and return no rows.
    UsageError, one line, for anything but a SELECT, for SQL that does not run, and for a damaged file (its
    name).
    """
    root = open_results(results)
    statement = only_select(sql)

    def run(con: duckdb.DuckDBPyConnection) -> tuple[list[str], list[tuple]]:
        with _deadline(con, limit_s):
            if out is not None:
                con.sql(statement).write_parquet(str(out), compression="zstd")
                return [], []
            con.execute(statement)
            return [column[0] for column in con.description or []], con.fetchall()

    columns, rows = _with_files(root, statement, run, memory=memory, out=out, limit_s=limit_s)
    return columns, iter(rows)


def load(table: str, results: str | os.PathLike[str] = "results", sweep: str | None = None) -> Any:
    """A table or view as a pandas.DataFrame, of all sweeps or of one. UsageError for an unknown one."""
    known = [*TABLES, *VIEWS]
    if table not in known:
        raise UsageError(
            f"no table or view {table!r}{_suggestion(table, known)}; there are {', '.join(known)}"
        )
    root = open_results(results)

    def run(con: duckdb.DuckDBPyConnection) -> Any:
        if sweep is None:
            return con.execute(f"select * from {table}").df()
        return con.execute(f"select * from {table} where sweep = ?", [sweep]).df()

    return _with_files(root, table, run, memory="8GB")


def only_select(sql: str) -> str:
    """The statement's text if `sql` is exactly one SELECT (DESCRIBE, SHOW, SUMMARIZE, VALUES and FROM are
    too).
    """
    try:
        statements = duckdb.connect(":memory:").extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(f"query: {_one_line(error)}") from error
    if len(statements) != 1:
        raise UsageError(f"query: one SELECT statement is expected, this is {len(statements)} statements")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        # EXPLAIN goes too: EXPLAIN ANALYZE COPY reports itself as EXPLAIN, and writes.
        name = str(kind).rsplit(".", 1)[-1].split(" ")[0]
        raise UsageError(
            f"query: only one SELECT statement may run, this is {name}; results are read-only here"
        )
    return statements[0].query.strip().rstrip(";")


def _with_files(
    root: Path, sql: str, run: Callable[[duckdb.DuckDBPyConnection], Any], **settings: Any
) -> Any:
    """Open the store and run; a file that was merged away in between means a new listing, not an error."""
    for attempt in range(20):
        listings = listing(root)
        try:
            con = connect(listings, sql, **{k: v for k, v in settings.items() if k in ("memory", "out")})
            try:
                return run(con)
            finally:
                con.close()
        except FileNotFoundError:
            continue
        except duckdb.InterruptException as error:
            limit = settings.get("limit_s")
            raise UsageError(
                f"query: stopped after {limit:g} s; narrow it (where sweep = ...) or raise --timeout"
            ) from error
        except duckdb.OutOfMemoryException as error:
            raise UsageError(
                f"query: needs more than {settings.get('memory')} of memory; select less or raise --memory"
            ) from error
        except duckdb.Error as error:
            paths = [path for shot in listings.values() for path in shot.paths]
            if any(not os.path.exists(path) for path in paths) and attempt < 19:
                continue
            if not isinstance(error, _BY_STATEMENT):
                culprit = broken_file({name: listings[name] for name in _named(sql) if name in listings})
                if culprit is not None:
                    raise culprit from error
            raise UsageError(f"query: {_one_line(error)}") from error
    raise UsageError(
        f"files under {root} keep vanishing while they are read; is something else deleting them?"
    )


def listing(root: Path) -> dict[str, Snapshot]:
    """What counts now, of every table; trials' side tables only at each trial's latest attempt."""
    latest: dict[tuple[str, str], int] = {}
    first = {name: snapshot(root, name) for name in _ATTEMPT_TABLES}
    for shot in first.values():
        for key, attempt in shot.highest.items():
            latest[key] = max(attempt, latest.get(key, 0))
    shots = {"trials": first["trials"]}
    for name in TABLES:
        if name in ("steps", "gradients", "robustness"):
            behind = any(latest[key] > attempt for key, attempt in first[name].highest.items())
            shots[name] = snapshot(root, name, floor=latest) if behind else first[name]
        elif name != "trials":
            shots[name] = snapshot(root, name)
    return shots


def connect(
    listings: dict[str, Snapshot], sql: str, *, memory: str = "1GB", out: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """A DuckDB that has the tables and views that `sql` names, may open no other file, and cannot be
    reset.
    """
    named = _named(sql)
    paths = [path for name, shot in listings.items() if name in named for path in shot.paths]
    versions = {path: schema_version(path) for path in paths}
    for path, version in versions.items():
        if version is None:
            check_ends(path)
    con = duckdb.connect(
        ":memory:",
        config={
            "threads": max(1, min(4, os.cpu_count() or 1)),
            "memory_limit": memory,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
        },
    )
    try:
        # The order matters: the list before access goes off, the views after it, the lock last.
        written = [] if out is None else [str(out), str(out.parent / f"tmp_{out.name}")]
        con.execute(f"set allowed_paths = {_list(paths + written)}")
        con.execute("set enable_external_access = false")
        for name, table in TABLES.items():
            if name in named:
                con.execute(f"create view {name} as {select_rows(table, listings[name], versions)}")
        for name, text in VIEWS.items():
            if name in named:
                con.execute(f"create view {name} as {text}")
        con.execute("set lock_configuration = true")
    except BaseException:
        con.close()
        raise
    return con


def _named(sql: str) -> set[str]:
    """Which tables and views a statement can mean, and what those views stand on: making all of them takes
    0.1 s.
    """
    words = set(re.findall(r"[a-z_]+", sql.lower()))
    if words & {"show", "information_schema", "sqlite_master"} or any(
        w.startswith(("duckdb_", "pg_")) for w in words
    ):
        return {*TABLES, *VIEWS}
    named = words & {*TABLES, *VIEWS}
    for name in reversed(VIEWS):  # a view stands on tables and on views before it
        if name in named:
            named |= set(re.findall(r"[a-z_]+", VIEWS[name].lower())) & {*TABLES, *VIEWS}
    return named


def _list(paths: list[str]) -> str:
    return "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + "]"


@contextmanager
def _deadline(con: duckdb.DuckDBPyConnection, limit_s: float) -> Iterator[None]:
    timer = threading.Timer(limit_s, con.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _one_line(error: Exception) -> str:
    """DuckDB's message without its class, its picture of the statement, and candidates that are not alike."""
    text = str(error).split("\n\n")[0].split("\nLINE ")[0]
    text = re.sub(r"^[A-Z][A-Za-z ]+ Error: ", "", text.strip())
    unknown = re.match(r"Table with name (\S+) does not exist", text)
    if unknown:
        known = [*TABLES, *VIEWS]
        hint = _suggestion(unknown.group(1), known) or f"; there are {', '.join(known)}"
        return f"no table or view {unknown.group(1)!r}{hint}"
    found = re.search(r'column(?: named)? "([^"]+)"', text)
    candidates = re.search(r"\nCandidate bindings: (.*)", text)
    if candidates:
        names = [name.rsplit(".", 1)[-1].strip('" ') for name in candidates.group(1).split(",")]
        text = text[: candidates.start()] + (_suggestion(found.group(1), names) if found else "")
    return " ".join(text.split())


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
