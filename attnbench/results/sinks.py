"""Where a trial puts its rows: a Parquet sink that survives kills, and one in memory with the same
meaning.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attnbench.results.layout import (
    GRACE_S,
    LooseFile,
    check_name,
    file_name,
    loose_files,
    read_manifest,
    sweep_folder,
)
from attnbench.results.schemas import TABLES, check_columns, stored_columns

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]

#: A segment that has this many rows is not rewritten any more (about 400 kB of step rows).
SEGMENT_ROWS = 20_000


class Sink(Protocol):
    """What a trial (or a cost measurement) writes to. Rows are buffered until `flush` makes them durable.

    Key, attempt and sweep are filled in by the sink. An unknown column is a ValueError, a missing one is
    null.
    """

    sweep: str
    key: str
    attempt: int

    def add(self, table: str, rows: Iterable[Row]) -> None: ...
    def steps(self, rows: Iterable[Row]) -> None: ...
    def gradients(self, rows: Iterable[Row]) -> None: ...
    def robustness(self, rows: Iterable[Row]) -> None: ...
    def flush(self) -> None: ...
    def cut(self, step: int) -> None: ...
    def recorded(self) -> list[dict[str, Any]]: ...
    def final(self, row: Row) -> None: ...


class _Rows:
    """The part that both sinks share: filling in the key, and the names of the tables."""

    def __init__(self, sweep: str, key: str, attempt: int) -> None:
        self.sweep, self.key, self.attempt = check_name("sweep", sweep), check_name("key", key), int(attempt)

    @property
    def trial_id(self) -> str:
        return self.key

    def add(self, table: str, rows: Iterable[Row]) -> None:
        raise NotImplementedError

    def steps(self, rows: Iterable[Row]) -> None:
        """Rows of optimiser steps (split "train") and evaluations (split "val")."""
        self.add("steps", rows)

    def gradients(self, rows: Iterable[Row]) -> None:
        self.add("gradients", rows)

    def robustness(self, rows: Iterable[Row]) -> None:
        self.add("robustness", rows)

    def _filled(self, table: str, rows: Iterable[Row]) -> list[dict[str, Any]]:
        owner = {TABLES[table].key: self.key}
        if "attempt" in TABLES[table].columns:
            owner["attempt"] = self.attempt  # type: ignore[assignment]
        filled = [{**row, **owner} for row in rows]
        for row in filled:
            check_columns(table, row)
        return filled


class MemorySink(_Rows):
    """Rows in lists, for tests and for a trial that nobody keeps: `sink.tables["steps"]`."""

    def __init__(self, sweep: str = "memory", trial_id: str = "trial", attempt: int = 1) -> None:
        super().__init__(sweep, trial_id, attempt)
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self._buffered: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def add(self, table: str, rows: Iterable[Row]) -> None:
        self._buffered[table] += _whole(table, self._filled(table, rows))

    def flush(self) -> None:
        for name, rows in self._buffered.items():
            self.tables[name] += rows
            rows.clear()

    def cut(self, step: int) -> None:
        for held in (self.tables, self._buffered):
            for name in ("steps", "gradients"):
                held[name] = [row for row in held[name] if row["step"] <= step]
            held["robustness"] = []

    def recorded(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.tables["steps"] if row["split"] == "val"]

    def final(self, row: Row) -> None:
        self.flush()
        self.tables["trials"] = _whole("trials", self._filled("trials", [row]))


def _whole(table: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as they would come back from a file: every column, in order."""
    columns = stored_columns(table, rows)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


class ParquetSink(_Rows):
    """One attempt of one trial in the store: each flush rewrites the open segment whole under the next
    number.

    Opening it again after a kill finds what was durable; `cut(step)` then hides what lies above the
    checkpoint.
    """

    def __init__(
        self, root: str | Path, sweep: str, key: str, attempt: int = 1, *, segment_rows: int = SEGMENT_ROWS
    ) -> None:
        super().__init__(sweep, key, attempt)
        self.root = Path(root)
        self._segment_rows = segment_rows
        self._buffered: dict[str, list[dict[str, Any]]] = {}
        self._open: dict[str, _Segment] = {}
        self._closed: bool | None = None  # whether the attempt had ended when this sink first looked

    def add(self, table: str, rows: Iterable[Row]) -> None:
        self._buffered.setdefault(table, []).extend(self._filled(table, rows))

    def flush(self) -> None:
        """Make every buffered row durable against the death of this process."""
        self._flush(durable=False)

    def _flush(self, *, durable: bool) -> None:
        import pyarrow as pa

        from attnbench.results.parquet import to_table

        for table in [name for name, rows in self._buffered.items() if rows]:
            segment = self._segment(table)
            grown = pa.concat_tables([segment.content, to_table(table, self._buffered[table])])
            self._write(table, segment, grown, durable=durable)
            self._buffered[table] = []
            if len(grown) >= self._segment_rows or self._closed:
                self._open[table] = _Segment(segment.index + 1, 0, grown.slice(0, 0))
        _delete_superseded()

    def cut(self, step: int) -> None:
        """Hide what was recorded after `step`: on resume the trial writes it again. Robustness goes as a
        whole.
        """
        import pyarrow.compute as pc

        from attnbench.results.parquet import read_file

        for table in ("steps", "gradients", "robustness"):
            kept = [
                row for row in self._buffered.get(table, []) if table != "robustness" and row["step"] <= step
            ]
            self._buffered[table] = kept
            open_segment = self._segment(table)
            for file in self._own_files(table):
                content = read_file(table, file.path)
                left = (
                    content.slice(0, 0)
                    if table == "robustness"
                    else content.filter(pc.less_equal(content["step"], step))
                )
                if len(left) == len(content):
                    continue
                is_open = file.segment == open_segment.index
                segment = open_segment if is_open else _Segment(file.segment, file.number, content)
                self._write(table, segment, left)

    def recorded(self) -> list[dict[str, Any]]:
        """The evaluations that are already durable, in order: step rows with split "val"."""
        import pyarrow.compute as pc

        from attnbench.results.parquet import read_file

        rows: list[dict[str, Any]] = []
        for file in self._own_files("steps"):
            content = read_file("steps", file.path)
            rows += content.filter(pc.equal(content["split"], "val")).to_pylist()
        return rows

    def final(self, row: Row) -> None:
        """Flush, then write the trial's one row. An attempt ends once: a second final row is dropped."""
        from attnbench.results.parquet import to_table

        self._flush(durable=True)
        if not self._ended():
            content = to_table("trials", self._filled("trials", [row]))
            self._write("trials", _Segment(0, 0, content), content, durable=True)
        self._closed = True
        self._open.clear()  # whatever follows (a figure measured later on a kept checkpoint) is a new segment

    def _ended(self) -> bool:
        return bool(self._own_files("trials")) or self._first_free("trials") > 0

    def _first_free(self, table: str) -> int:
        """The first segment that the compactor has not taken over: below it, rows would count twice or not at
        all.
        """
        first = 0
        for entry in read_manifest(self.root, table).merged:
            if entry.sweep == self.sweep:
                first = max(
                    [
                        first,
                        *(beyond for held, beyond in entry.holds.get(self.key, []) if held == self.attempt),
                    ]
                )
        return first

    def _own_files(self, table: str) -> list[LooseFile]:
        """The newest file of each of this attempt's segments, in order."""
        newest: dict[int, LooseFile] = {}
        for file in loose_files(self.root, table, self.sweep):
            if file.key != self.key or file.attempt != self.attempt:
                continue
            if file.segment not in newest or newest[file.segment].number < file.number:
                newest[file.segment] = file
        return [newest[index] for index in sorted(newest)]

    def _segment(self, table: str) -> _Segment:
        """The segment that grows: the last one on disk while it is small and the attempt runs, else the
        next.
        """
        if table not in self._open:
            from attnbench.results.parquet import read_file, to_table

            files = self._own_files(table)
            beyond = max([self._first_free(table), *(file.segment + 1 for file in files)])
            segment = _Segment(beyond, 0, to_table(table, []))
            # An ended attempt's segments may be absorbed at any moment, so they are never written again.
            if self._closed is None:
                self._closed = self._ended()
            if files and not self._closed:
                content = read_file(table, files[-1].path)
                if len(content) < self._segment_rows:
                    segment = _Segment(files[-1].segment, files[-1].number, content)
            self._open[table] = segment
        return self._open[table]

    def _write(self, table: str, segment: _Segment, content: pa.Table, *, durable: bool = False) -> None:
        from attnbench.results.parquet import write_file

        folder = sweep_folder(self.root, table, self.sweep)
        number = segment.number + 1
        while not write_file(
            table, content, folder / file_name(self.key, self.attempt, segment.index, number), durable=durable
        ):
            number += 1  # a hung twin of this attempt wrote that number
        # The newest but one stays, should the newest turn out damaged.
        if segment.number > 1:
            old = folder / file_name(self.key, self.attempt, segment.index, segment.number - 1)
            _superseded.append((time.monotonic(), old))
        segment.number, segment.content = number, content


class _Segment:
    """The growing segment of one table: its index, the number last written (0: none), its rows."""

    def __init__(self, index: int, number: int, content: pa.Table) -> None:
        self.index, self.number, self.content = index, number, content


# Process-wide, because a reused actor closes a sink long before the grace of its old files is over.
_superseded: deque[tuple[float, Path]] = deque()


def _delete_superseded() -> None:
    while _superseded and time.monotonic() - _superseded[0][0] > GRACE_S:
        _superseded.popleft()[1].unlink(missing_ok=True)
