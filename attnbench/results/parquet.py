"""One Parquet file, written or read: the encodings that were measured to be smallest, and the rename that
makes it whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attnbench.errors import UsageError
from attnbench.results.layout import claim_name
from attnbench.results.schemas import TABLES, arrow_schema, stored_columns
from attnbench.results.soundness import damaged

#: pyarrow's default of a million rows makes one curve six times slower to read than this (DuckDB's own size).
ROW_GROUP = 122_880


@cache
def _encodings(table: str) -> dict[str, Any]:
    """zstd, floats split into byte streams, steps as differences, a dictionary on the rest: 21 bytes per step
    row.
    """
    kinds = TABLES[table].stored
    encoding = {name: "BYTE_STREAM_SPLIT" for name, kind in kinds.items() if kind in ("FLOAT", "DOUBLE")}
    encoding |= {name: "DELTA_BINARY_PACKED" for name in ("step", "block") if name in kinds}
    dictionary = [
        n for n, kind in kinds.items() if n not in encoding and kind in ("VARCHAR", "JSON", "BIGINT")
    ]
    return {"compression": "zstd", "use_dictionary": dictionary, "column_encoding": encoding}


def to_table(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of the table's schema. Raises ValueError for an unknown column or a wrong
    type.
    """
    schema = arrow_schema(table)
    columns = stored_columns(table, rows)
    arrays = []
    for field in schema:
        try:
            arrays.append(pa.array(columns[field.name], type=field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"table {table}, column {field.name}: {error}; it holds {field.type}") from error
    return pa.Table.from_arrays(arrays, schema=schema)


def write_file(table: str, data: pa.Table, final: Path, *, durable: bool = False) -> bool:
    """Write under a temporary name, then claim the final one. False if another file has that name already.

    durable: wait until the disk has it; a killed process loses nothing without this, a lost machine may.
    """
    temporary = final.parent / f"_tmp-{os.getpid()}-{time.monotonic_ns()}.parquet"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(data, temporary, row_group_size=ROW_GROUP, **_encodings(table))
        if durable:
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
        return claim_name(temporary, final)
    except OSError as error:
        raise UsageError(f"cannot write results to {final.parent}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_file(table: str, path: str | os.PathLike[str]) -> pa.Table:
    """A file's rows in today's schema: columns that an older version lacks are null, unknown ones are left
    out.
    """
    try:
        # ParquetFile, not read_table: that one imports pyarrow.dataset and with it pandas.
        with pq.ParquetFile(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    schema = arrow_schema(table)
    columns = [
        content.column(field.name).cast(field.type)
        if field.name in content.column_names
        else pa.nulls(len(content), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
