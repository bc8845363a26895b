"""Deleting, exporting and verifying what lies in a results folder."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from attnbench.errors import UsageError
from attnbench.results.compaction import alone
from attnbench.results.layout import (
    Manifest,
    MergedFile,
    Snapshot,
    check_name,
    loose_files,
    open_results,
    read_manifest,
    snapshot,
    sweep_folder,
    sweeps,
    write_manifest,
)
from attnbench.results.parquet import read_file, write_file
from attnbench.results.schemas import TABLES


def delete(root: Path, sweep: str) -> int:
    """Remove every file of a sweep, and its checkpoints. Queries see it whole or not at all, table by
    table.
    """
    folders = [sweep_folder(root, table, sweep) for table in TABLES] + [
        root / "checkpoints" / check_name("sweep", sweep)
    ]
    if not any(folder.is_dir() for folder in folders):
        known = sorted({name for table in TABLES for name in sweeps(root, table)})
        raise UsageError(
            f"no sweep {sweep!r} in '{root}'; there {'are ' + ', '.join(known) if known else 'is none'}"
        )
    removed = 0
    with alone(root) as mine:
        if not mine:
            raise UsageError(f"'{root}' is being compacted just now; try again in a moment")
        for table in TABLES:
            manifest = read_manifest(root, table)
            kept = [entry for entry in manifest.merged if entry.sweep != sweep]
            if len(kept) < len(manifest.merged):
                write_manifest(root, table, Manifest(manifest.number + 1, kept))
        for folder in folders:
            removed += sum(1 for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder, ignore_errors=True)
    return removed


def export(root: Path, sweep: str, out: Path) -> dict[str, int]:
    """Copy what counts of a sweep into a results folder of its own, one file per table; table -> rows.

    The copy can be queried (`--results OUT`), and its files are plain Parquet for any other program.
    """
    import pyarrow as pa

    if not any(sweep in sweeps(root, table) for table in TABLES):
        raise UsageError(f"no sweep {sweep!r} in '{root}'")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' exists and is not an empty folder; name one that is not there yet")
    counts: dict[str, int] = {}
    for table, described in TABLES.items():
        shot = snapshot(root, table, sweep)
        if not shot.paths:
            continue
        content = pa.concat_tables([_visible(shot, table, path) for path in shot.paths])
        if "attempt" in described.columns:
            holds: dict[str, list[tuple[int, int]]] = {}
            for key, attempt in sorted(
                set(zip(content[described.key].to_pylist(), content["attempt"].to_pylist(), strict=True))
            ):
                holds.setdefault(key, []).append((attempt, 1))
            path = f"sweep={sweep}/_compacted/export.parquet"
            write_file(table, content, out / table / path, durable=True)
            write_manifest(out, table, Manifest(1, [MergedFile(path, sweep, len(content), holds)]))
        else:
            write_file(table, content, sweep_folder(out, table, sweep) / "export-0-0-1.parquet", durable=True)
        counts[table] = len(content)
    return counts


def _visible(shot: Snapshot, table: str, path: str):  # type: ignore[no-untyped-def]
    """A file's rows without those of attempts that a later one hides."""
    import pyarrow as pa
    import pyarrow.compute as pc

    content = read_file(table, path)
    for _, key, attempt in shot.hidden:
        owned = pc.and_(
            pc.equal(content[TABLES[table].key], key), pc.equal(content["attempt"], pa.scalar(attempt))
        )
        content = content.filter(pc.invert(owned))
    return content


def verify(root: Path, *, repair: bool = False) -> list[str]:
    """Read every file of every table whole; one line per fault, none if all is well.

    repair: damaged files move to RESULTS/quarantine. A segment's earlier version, where there is one, then
    counts again; a trial that lost its final row counts as unfinished, and the same `attnbench run` makes it
    up.
    """
    open_results(root)
    faults: list[str] = []
    with alone(root) if repair else nullcontext(True) as mine:
        if not mine:
            raise UsageError(f"'{root}' is being compacted just now; try again in a moment")
        for table in TABLES:
            faults += _damaged_manifests(root, table, repair)
            faults += _damaged_files(root, table, repair)
    faults += _doubled_rows(root) if not faults or repair else []
    return faults


def _damaged_manifests(root: Path, table: str, repair: bool) -> list[str]:
    faults: list[str] = []
    while True:
        try:
            read_manifest(root, table)
            return faults
        except UsageError as error:
            faults.append(str(error).split(";")[0])
            if not repair:
                return faults
            newest = max((root / table / "_manifest").glob("*.json"))
            faults[-1] += f"; moved to {_set_aside(root, newest)}"


def _damaged_files(root: Path, table: str, repair: bool) -> list[str]:
    faults = []
    manifest = read_manifest(root, table)
    lost: list[MergedFile] = []
    paths: list[tuple[Path, MergedFile | None]] = [
        (Path(file.path), None) for file in loose_files(root, table)
    ]
    paths += [(root / table / entry.path, entry) for entry in manifest.merged]
    for path, entry in paths:
        try:
            rows = len(read_file(table, path))
            if entry is not None and rows != entry.rows:
                raise UsageError(f"{path} has {rows} rows, its manifest says {entry.rows}")
            continue
        except FileNotFoundError:
            if entry is None:
                continue  # superseded and deleted while this was reading
            fault = f"{path} is named by the manifest and is not there"
        except UsageError as error:
            fault = str(error).split("; 'attnbench")[0]
        if repair:
            if path.exists():
                fault += f"; moved to {_set_aside(root, path)}"
            if entry is not None:
                lost.append(entry)
                fault += (
                    f"; the rows of {len(entry.holds)} trials are lost unless their own files are still there"
                )
        faults.append(fault)
    if lost:
        write_manifest(
            root, table, Manifest(manifest.number + 1, [e for e in manifest.merged if e not in lost])
        )
    return faults


def _set_aside(root: Path, path: Path) -> Path:
    target = root / "quarantine" / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    return target


def _doubled_rows(root: Path) -> list[str]:
    """Rows that no correct writer can leave: a step or a final row twice in what counts."""
    from attnbench.results.querying import answer

    faults = []
    for table, same in (("trials", "sweep, trial_id"), ("steps", "sweep, trial_id, attempt, split, step")):
        _, rows = answer(
            root, f"select {same}, count(*) from {table} group by all having count(*) > 1 limit 20"
        )
        faults += [f"{table} has {row[-1]} rows for {same} = {row[:-1]}" for row in rows]
    return faults
