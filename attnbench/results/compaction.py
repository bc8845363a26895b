"""Merges the finished trials' small files: a query costs 0.16 ms per file, so thousands of them make it slow.

The merged file is whole and in place before the manifest names it, and the manifest is committed by a link
that fails if another process came first: a compactor killed at any moment leaves either the old state or the
new one.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attnbench.errors import UsageError
from attnbench.results.layout import (
    GRACE_S,
    LooseFile,
    Manifest,
    MergedFile,
    loose_files,
    read_manifest,
    snapshot,
    write_manifest,
)
from attnbench.results.schemas import TABLES

#: Tables whose rows carry their attempt; requests and verdicts have a handful of files.
MERGED_TABLES = tuple(name for name, table in TABLES.items() if "attempt" in table.columns)

#: A sweep's merged files are merged again when it has this many.
_MANY_MERGED = 8

_KEPT_MANIFESTS = 4


def compact(
    root: Path,
    *,
    least: int = 1000,
    grace_s: float = GRACE_S,
    progress: Callable[[str], None] | None = None,
) -> dict[str, int]:
    """Merge what is finished in every table with at least `least` loose files, then delete what nobody needs.

    Returns table -> loose files absorbed. One compactor at a time: a second one returns at once with nothing
    done.
    """
    absorbed: dict[str, int] = {}
    with alone(root) as mine:
        if not mine:
            return absorbed
        ended = _ended(root)
        for table in MERGED_TABLES:
            shot = snapshot(root, table)
            if len(shot.loose) >= least:
                absorbed[table] = _merge(root, table, shot.loose, ended, progress)
        long_ended = _ended(root, before=time.time() - grace_s)
        for table in TABLES:
            delete_unneeded(root, table, grace_s, long_ended)
    return absorbed


@contextmanager
def alone(root: Path) -> Iterator[bool]:
    """Hold the upkeep lock of a results folder; yields False if another process has it."""
    try:
        stream = open(root / ".upkeep.lock", "w")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"results folder '{root}' cannot be written ({error.strerror})") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _ended(root: Path, before: float | None = None) -> set[tuple[str, str, int]]:
    """(sweep, trial, attempt) that have a final row (since before that moment): nobody writes them now."""
    ended = {
        (file.sweep, file.key, file.attempt)
        for file in loose_files(root, "trials")
        if before is None or _age_before(Path(file.path), before)
    }
    for entry in read_manifest(root, "trials").merged:
        if before is None or _age_before(root / "trials" / entry.path, before):
            ended |= {
                (entry.sweep, key, attempt) for key, parts in entry.holds.items() for attempt, _ in parts
            }
    return ended


def _merge(
    root: Path,
    table: str,
    loose: list[LooseFile],
    ended: set[tuple[str, str, int]],
    progress: Callable[[str], None] | None,
) -> int:
    """Merge a table's loose files of finished work, one merged file per sweep; the number of files
    absorbed.
    """
    manifest = read_manifest(root, table)
    owner = TABLES[table].key
    if owner != "trial_id":  # a cost measurement has no final row: an hour's silence is its end
        quiet = time.time() - 3600
        ended = {file[1:4] for file in loose if _age_before(Path(file.path), quiet)}
        ended -= {file[1:4] for file in loose if not _age_before(Path(file.path), quiet)}
    done: dict[str, list[LooseFile]] = {}
    for file in loose:
        if (file.sweep, file.key, file.attempt) in ended:
            done.setdefault(file.sweep, []).append(file)
    merged, added = list(manifest.merged), []
    absorbed = 0
    for sweep, files in sorted(done.items()):
        if progress:
            progress(f"{table}: merging {len(files)} files of {sweep}")
        earlier = [entry for entry in merged if entry.sweep == sweep]
        earlier = earlier if len(earlier) + 1 >= _MANY_MERGED else []
        entry = _merged_file(root, table, sweep, files, earlier)
        merged = [kept for kept in merged if kept not in earlier] + [entry]
        added.append(root / table / entry.path)
        absorbed += len(files)
    if not added:
        return 0
    if not write_manifest(root, table, Manifest(manifest.number + 1, merged)):
        for path in added:
            path.unlink()
        return 0
    return absorbed


def _merged_file(
    root: Path, table: str, sweep: str, files: list[LooseFile], earlier: list[MergedFile]
) -> MergedFile:
    """Write one file with all these rows, sorted by owner: one curve is then ten times faster to find."""
    import pyarrow as pa

    from attnbench.results.parquet import read_file, write_file

    owner = TABLES[table].key
    parts = [read_file(table, file.path) for file in files]
    parts += [read_file(table, root / table / entry.path) for entry in earlier]
    order = [(name, "ascending") for name in (owner, "attempt", "step") if name in TABLES[table].columns]
    content = pa.concat_tables(parts).sort_by(order)
    beyond: dict[tuple[str, int], int] = {}
    for file in files:
        beyond[file.key, file.attempt] = max(file.segment + 1, beyond.get((file.key, file.attempt), 0))
    for entry in earlier:
        for key, held in entry.holds.items():
            for attempt, first in held:
                beyond[key, attempt] = max(first, beyond.get((key, attempt), 0))
    holds: dict[str, list[tuple[int, int]]] = {}
    for (key, attempt), first in sorted(beyond.items()):
        holds.setdefault(key, []).append((attempt, first))
    path = f"sweep={sweep}/_compacted/{uuid.uuid4().hex}.parquet"
    write_file(table, content, root / table / path, durable=True)
    return MergedFile(path, sweep, len(content), holds)


def delete_unneeded(
    root: Path, table: str, grace_s: float, ended: Iterable[tuple[str, str, int]] = ()
) -> int:
    """Delete, once the grace is over, what no reader can need: absorbed, superseded, orphaned, left over.

    ended: attempts with a final row; the files of the attempts before them go too.
    The newest file of a segment but one stays while the segment is loose, in case the newest is damaged.
    """
    folder = root / table
    if not folder.is_dir():
        return 0
    old = time.time() - grace_s
    manifests = sorted((folder / "_manifest").glob("*.json"))
    settled = not manifests or manifests[-1].stat().st_mtime < old
    manifest = read_manifest(root, table)
    held: dict[tuple[str, str, int], int] = {}
    for entry in manifest.merged:
        for key, parts in entry.holds.items():
            for attempt, first in parts:
                held[entry.sweep, key, attempt] = first
    last: dict[tuple[str, str], int] = {}
    for sweep, key, attempt in ended if TABLES[table].key == "trial_id" else ():
        last[sweep, key] = max(attempt, last.get((sweep, key), 0))
    doomed: list[Path] = []
    segments: dict[tuple[str, str, int, int], list[LooseFile]] = {}
    for file in loose_files(root, table):
        if file.segment < held.get((file.sweep, file.key, file.attempt), 0):
            doomed += [Path(file.path)] if settled else []
        elif table in MERGED_TABLES and file.attempt < last.get((file.sweep, file.key), 0):
            doomed.append(Path(file.path))
        else:
            segments.setdefault((file.sweep, file.key, file.attempt, file.segment), []).append(file)
    for files in segments.values():
        ordered = sorted(files, key=lambda file: file.number)
        if len(ordered) > 2 and _age_before(Path(ordered[-1].path), old):
            doomed += [Path(file.path) for file in ordered[:-2]]
    named = {folder / entry.path for entry in manifest.merged}
    doomed += [
        p for p in folder.glob("sweep=*/_compacted/*.parquet") if p not in named and _age_before(p, old)
    ]
    doomed += [p for p in folder.glob("**/_tmp-*") if _age_before(p, old - 3600)]
    doomed += [path for path in manifests[:-_KEPT_MANIFESTS] if settled]
    for path in doomed:
        path.unlink(missing_ok=True)
    return len(doomed)


def _age_before(path: Path, moment: float) -> bool:
    try:
        return os.stat(path).st_mtime < moment
    except FileNotFoundError:
        return False
