"""A results folder as the other rooms see it: sinks to write, final rows and reports to resume from,
upkeep.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnbench.errors import UsageError
from attnbench.results.layout import (
    LooseFile,
    check_name,
    file_name,
    loose_files,
    read_manifest,
    snapshot,
    sweep_folder,
    sweeps,
)
from attnbench.results.schemas import TABLES
from attnbench.results.sinks import ParquetSink, Row


class Store:
    """The results folder at `path`; created by the first write, or by `ensure_writable`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def ensure_writable(self) -> None:
        """Raise UsageError now, before any work, if results could not be written here."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"x")
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(
                f"results folder '{self.path}' cannot be made: a file is in the way; give another with "
                f"--results"
            ) from error
        except OSError as error:
            raise UsageError(
                f"results folder '{self.path}' cannot be written ({error.strerror}); mend its permissions "
                f"or give another with --results"
            ) from error

    # --- writing

    def sink(self, sweep: str, trial_id: str, attempt: int = 1) -> ParquetSink:
        """Where one attempt of one trial (or one cost measurement: `trial_id` is then its cost_id) puts its
        rows.
        """
        return ParquetSink(self.path, sweep, trial_id, attempt)

    def request(self, sweep: str, rows: Iterable[Row]) -> None:
        """Record the trials that a sweep asks for, added to those it asked for before (the first request's
        time stays); what was interrupted is so no more.
        """
        rows = list(rows)
        known = {row["trial_id"]: row for row in self.rows("requests", sweep)}
        now = datetime.now(UTC)
        new = [{"requested_at": now, **row} for row in rows if row["trial_id"] not in known]
        again = {row["trial_id"] for row in rows if known.get(row["trial_id"], {}).get("interrupted_at")}
        if new or again:
            kept = [{**row, "interrupted_at": None} if key in again else row for key, row in known.items()]
            self.replace("requests", sweep, "plan", [*kept, *new])

    def interrupt(self, sweep: str, trial_ids: Iterable[str]) -> None:
        """Mark requested trials that a person stopped before they ended: no final row, and they can go on."""
        interrupted = set(trial_ids)
        now = datetime.now(UTC)
        rows = [
            {**row, "interrupted_at": now} if row["trial_id"] in interrupted else row
            for row in self.rows("requests", sweep)
        ]
        if interrupted:
            self.replace("requests", sweep, "plan", rows)

    def replace(self, table: str, sweep: str, key: str, rows: Iterable[Row]) -> None:
        """Make `rows` all that `key` has in `table` (its first segment; for tables that no trial writes)."""
        from attnbench.results.parquet import to_table, write_file

        content = to_table(table, list(rows))
        check_name("sweep", sweep), check_name("key", key)
        folder = sweep_folder(self.path, table, sweep)
        own = [file for file in loose_files(self.path, table, sweep) if file.key == key]
        number = max([file.number for file in own if file.segment == 0], default=0) + 1
        while not write_file(table, content, folder / file_name(key, 0, 0, number), durable=True):
            number += 1
        for segment in {file.segment for file in own} - {0}:
            self._add_file(table, sweep, key, segment, content.slice(0, 0))

    def append(self, table: str, sweep: str, key: str, rows: Iterable[Row]) -> None:
        """Add rows to what `key` has in `table` (a new segment; for tables that no trial writes)."""
        from attnbench.results.parquet import to_table

        check_name("sweep", sweep), check_name("key", key)
        content = to_table(table, list(rows))
        own = [file.segment for file in loose_files(self.path, table, sweep) if file.key == key]
        self._add_file(table, sweep, key, max(own, default=-1) + 1, content)

    def _add_file(self, table: str, sweep: str, key: str, segment: int, content: Any) -> None:
        from attnbench.results.parquet import write_file

        number = 1
        while not write_file(
            table,
            content,
            sweep_folder(self.path, table, sweep) / file_name(key, 0, segment, number),
            durable=True,
        ):
            number += 1

    # --- reading

    def sweeps(self) -> list[str]:
        """Every sweep that has any rows."""
        return sorted({name for table in TABLES for name in sweeps(self.path, table)})

    def finals(self, sweep: str) -> dict[str, dict[str, Any]]:
        """trial_id -> final row (of the highest attempt that ended) of a sweep's trials."""
        return {row["trial_id"]: row for row in self.rows("trials", sweep)}

    def attempts(self, sweep: str) -> dict[str, int]:
        """trial_id -> its highest attempt that wrote anything, ended or not."""
        highest: dict[str, int] = {}
        for table in ("steps", "gradients", "robustness", "trials", "cost", "cost_ratios"):
            pairs = [(file.key, file.attempt) for file in loose_files(self.path, table, sweep)]
            for entry in read_manifest(self.path, table).merged:
                if entry.sweep == sweep:
                    pairs += [(key, attempt) for key, parts in entry.holds.items() for attempt, _ in parts]
            for key, attempt in pairs:
                highest[key] = max(attempt, highest.get(key, 0))
        return highest

    def next_attempt(self, sweep: str, trial_id: str) -> int:
        """The number for a try from the start: one above every earlier one, 1 for the first."""
        return self.attempts(sweep).get(trial_id, 0) + 1

    def reports(self, sweep: str, trial_id: str, attempt: int | None = None) -> list[dict[str, Any]]:
        """A trial's evaluations (step rows of split "val") in order, of its highest attempt or of the one
        named.
        """
        rows = self.rows("steps", sweep, trial_id, attempt)
        return sorted((row for row in rows if row["split"] == "val"), key=lambda row: row["step"])

    def rows(
        self, table: str, sweep: str | None = None, key: str | None = None, attempt: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows of a table as dicts, `sweep` included: those of each key's highest attempt, or of
        `attempt`.
        """
        for _ in range(20):
            try:
                return self._read(table, sweep, key, attempt)
            except FileNotFoundError:
                continue  # a file was absorbed or superseded between listing and opening: list again
        raise UsageError(
            f"files under {self.path / table} keep vanishing while they are read; is something else "
            f"deleting them?"
        )

    def _read(
        self, table: str, sweep: str | None, key: str | None, attempt: int | None
    ) -> list[dict[str, Any]]:
        from attnbench.results.parquet import read_file

        listing = snapshot(self.path, table, sweep, attempt)
        rows: list[dict[str, Any]] = []
        owner = TABLES[table].key
        hidden = set(listing.hidden)
        for entry in listing.merged:
            if key is not None and key not in entry.holds:
                continue
            content = read_file(table, str(listing.folder / entry.path))
            if key is not None:
                import pyarrow.compute as pc

                content = content.filter(pc.equal(content[owner], key))
            rows += [
                {"sweep": entry.sweep, **row}
                for row in content.to_pylist()
                if (entry.sweep, row[owner], row["attempt"]) not in hidden
            ]
        for file in listing.loose:
            if key is None or file.key in (key, "plan"):
                found = read_file(table, file.path).to_pylist()
                rows += [{"sweep": file.sweep, **row} for row in found if key is None or row[owner] == key]
        return rows

    def loose(self, table: str, sweep: str | None = None) -> list[LooseFile]:
        """The loose files that count, for who follows a running sweep by file names."""
        return snapshot(self.path, table, sweep).loose

    # --- upkeep

    def compact(self, *, least: int = 1000, progress: Callable[[str], None] | None = None) -> dict[str, int]:
        """Merge the finished trials of every table with at least `least` loose files; table -> files
        absorbed.
        """
        from attnbench.results.compaction import compact

        return compact(self.path, least=least, progress=progress)

    def delete(self, sweep: str) -> int:
        """Remove everything of a sweep, checkpoints too; the number of files removed. UsageError if there is
        none.
        """
        from attnbench.results.upkeep import delete

        return delete(self.path, sweep)

    def export(self, sweep: str, out: str | os.PathLike[str]) -> dict[str, int]:
        """Copy a sweep into a results folder of its own, one file per table; table -> rows."""
        from attnbench.results.upkeep import export

        return export(self.path, sweep, Path(out))

    def verify(self, *, repair: bool = False) -> list[str]:
        """Read every file whole; one line per fault found. repair: move damaged files to
        RESULTS/quarantine.
        """
        from attnbench.results.upkeep import verify

        return verify(self.path, repair=repair)
