"""Which files of a results folder count: names, manifests, and the one listing that every reader uses.

    RESULTS/<table>/sweep=<sweep>/<key>-<attempt>-<segment>-<number>.parquet     loose, written by trials
    RESULTS/<table>/sweep=<sweep>/_compacted/<uuid>.parquet                      merged by the compactor
    RESULTS/<table>/_manifest/00000012.json                                      which merged files count

Every file is immutable. A segment is rewritten whole under the next number, and the highest number counts; a
key's highest attempt counts. A merged file's manifest entry says which (key, attempt) it `holds` and the
first segment that it does not hold: loose files below that are absorbed. Readers list the loose files first
and read the manifest second (the other order can lose rows between the two), and give DuckDB the explicit
list. No pyarrow in here.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from attnbench.errors import UsageError
from attnbench.results.schemas import TABLES

#: Absorbed and superseded files are deleted only when they have been so for longer than any query may run.
QUERY_LIMIT_S = 60.0
GRACE_S = 180.0

_SAFE = re.compile(r"[A-Za-z0-9_.+@ -]+")


class LooseFile(NamedTuple):
    """One file written by a trial; its name is its identity."""

    path: str
    sweep: str
    key: str
    attempt: int
    segment: int
    number: int


@dataclass(frozen=True)
class MergedFile:
    """One file written by the compactor. holds: key -> list of (attempt, first segment not in this file)."""

    path: str  # relative to the table's folder
    sweep: str
    rows: int
    holds: dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Manifest:
    """The merged files that count, as of one commit. Number 0 is the empty one that was never written."""

    number: int = 0
    merged: list[MergedFile] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """The files of one table that make up its rows at one moment.

    `hidden` are (sweep, key, attempt) inside merged files for which a higher attempt exists; `highest` is the
    highest attempt of each (sweep, key) in this table.
    """

    table: str
    loose: list[LooseFile]
    merged: list[MergedFile]
    hidden: list[tuple[str, str, int]]
    highest: dict[tuple[str, str], int]
    folder: Path

    @property
    def paths(self) -> list[str]:
        """Every file to read, absolute."""
        return [file.path for file in self.loose] + [str(self.folder / file.path) for file in self.merged]


def check_name(kind: str, name: str) -> str:
    """A sweep or key as part of a path; UsageError for what cannot be one."""
    if not isinstance(name, str) or not _SAFE.fullmatch(name) or name.startswith((".", "_")):
        raise UsageError(
            f"{kind} {name!r} cannot name a folder: use letters, digits, '_', '.', '+', '@', '-', starting "
            f"with a letter or digit"
        )
    return name


def sweep_folder(root: Path, table: str, sweep: str) -> Path:
    return root / table / f"sweep={sweep}"


def file_name(key: str, attempt: int, segment: int, number: int) -> str:
    return f"{key}-{attempt}-{segment}-{number}.parquet"


def sweeps(root: Path, table: str) -> list[str]:
    """Names of the sweeps that have a folder in this table."""
    try:
        with os.scandir(root / table) as entries:
            return sorted(entry.name[6:] for entry in entries if entry.name.startswith("sweep="))
    except FileNotFoundError:
        return []


def loose_files(root: Path, table: str, sweep: str | None = None) -> Iterator[LooseFile]:
    """Every loose file as it lies there, superseded and absorbed ones too."""
    for name in [sweep] if sweep is not None else sweeps(root, table):
        try:
            entries = os.listdir(sweep_folder(root, table, name))
        except FileNotFoundError:
            continue
        prefix = str(sweep_folder(root, table, name)) + os.sep
        for entry in entries:
            if not entry.endswith(".parquet") or entry.startswith("_"):
                continue
            parts = entry[: -len(".parquet")].rsplit("-", 3)
            if len(parts) == 4 and all(part.isdecimal() for part in parts[1:]):
                yield LooseFile(prefix + entry, name, parts[0], int(parts[1]), int(parts[2]), int(parts[3]))


def read_manifest(root: Path, table: str) -> Manifest:
    """The newest manifest of a table."""
    folder = root / table / "_manifest"
    for _ in range(10):
        try:
            numbers = [
                int(name[:-5])
                for name in os.listdir(folder)
                if name.endswith(".json") and name[:-5].isdecimal()
            ]
        except FileNotFoundError:
            return Manifest()
        if not numbers:
            return Manifest()
        path = folder / f"{max(numbers):08d}.json"
        try:
            content = json.loads(path.read_text())
            merged = [
                MergedFile(
                    entry["path"],
                    entry["sweep"],
                    entry["rows"],
                    {k: [(a, s) for a, s in v] for k, v in entry["holds"].items()},
                )
                for entry in content["merged"]
            ]
            return Manifest(max(numbers), merged)
        except FileNotFoundError:
            continue  # a newer one was committed and this one removed between listing and opening
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"the manifest {path} is damaged ({type(error).__name__}); 'attnbench results verify "
                f"--repair' sets it aside and falls back on an older one"
            ) from error
    return Manifest()


def write_manifest(root: Path, table: str, manifest: Manifest) -> bool:
    """Commit `manifest` under its number; False when another process committed that number first."""
    folder = root / table / "_manifest"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"_tmp-{os.getpid()}-{time.monotonic_ns()}"
    content = {
        "version": 1,
        "merged": [
            {"path": f.path, "sweep": f.sweep, "rows": f.rows, "holds": f.holds} for f in manifest.merged
        ],
    }
    with open(temporary, "w") as stream:
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        return claim_name(temporary, folder / f"{manifest.number:08d}.json")
    finally:
        temporary.unlink(missing_ok=True)


def claim_name(temporary: Path, final: Path) -> bool:
    """Give a finished temporary file its final name in one step; False if that name is already taken.

    A link, not a rename: a rename would replace another writer's file under a running query.
    """
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError:
        # File systems without hard links: a gap between look and rename remains, for two writers of one name.
        if final.exists():
            return False
        os.rename(temporary, final)
        return True
    os.unlink(temporary)
    return True


def snapshot(
    root: Path,
    table: str,
    sweep: str | None = None,
    attempt: int | None = None,
    floor: Mapping[tuple[str, str], int] | None = None,
) -> Snapshot:
    """What counts now. Loose files are listed before the manifest is read; see the module's docstring.

    attempt: that attempt counts, instead of each key's highest. floor: (sweep, key) -> an attempt seen
    elsewhere, below which nothing counts (robustness of a failed attempt must not stand beside the next
    attempt's final row).
    """
    loose = list(loose_files(root, table, sweep))
    merged = [file for file in read_manifest(root, table).merged if sweep is None or file.sweep == sweep]
    held: dict[tuple[str, str, int], int] = {}
    highest: dict[tuple[str, str], int] = {}
    for entry in merged:
        for key, parts in entry.holds.items():
            for held_attempt, beyond in parts:
                triple = (entry.sweep, key, held_attempt)
                held[triple] = max(beyond, held.get(triple, 0))
                highest[triple[:2]] = max(held_attempt, highest.get(triple[:2], 0))
    newest: dict[tuple[str, str, int, int], LooseFile] = {}
    for file in loose:
        if file.segment < held.get((file.sweep, file.key, file.attempt), 0):
            continue
        part = (file.sweep, file.key, file.attempt, file.segment)
        if part not in newest or newest[part].number < file.number:
            newest[part] = file
        highest[part[:2]] = max(file.attempt, highest.get(part[:2], 0))

    def counts(name: str, key: str, number: int) -> bool:
        least = (floor or {}).get((name, key), 0)
        return number == (max(highest[name, key], least) if attempt is None else attempt)

    counted = [file for file in newest.values() if counts(file.sweep, file.key, file.attempt)]
    hidden = [triple for triple in held if not counts(*triple)]
    return Snapshot(table, sorted(counted), merged, sorted(hidden), highest, root / table)


def open_results(path: str | os.PathLike[str]) -> Path:
    """A results folder that is to be read; UsageError if there is none."""
    root = Path(path)
    if root.is_dir():
        return root
    what = "is a file, not a results folder" if root.exists() else "does not exist"
    raise UsageError(
        f"results folder '{root}' {what}: give the right one with --results, or run a sweep first"
    )


def all_tables(names: Iterable[str] | None = None) -> list[str]:
    return list(TABLES) if names is None else [name for name in TABLES if name in set(names)]
