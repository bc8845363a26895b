"""The one place where the tables' columns, types and units are written down.

Types are DuckDB's names; `arrow_schema` turns them into pyarrow's, and only then imports pyarrow, so that
`attnbench query` starts without it. `sweep` is in the folder's name (`sweep=<sweep>`), not in the file.

Step rows keep what a comparison or a rung decides on (epoch, loss, accuracy, ...) in float64, so that a sweep
replayed from its rows ranks its trials exactly as the live one did; rates and norms are float32. Final rows
are float64.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Table:
    """One table: `key` is the column that names its rows' owner; columns stand in the order they are shown
    in.
    """

    name: str
    key: str
    about: str
    columns: Mapping[str, str]

    @cached_property
    def stored(self) -> dict[str, str]:
        """The columns inside a file: all but `sweep`."""
        return {name: kind for name, kind in self.columns.items() if name != "sweep"}


def _columns(text: str) -> dict[str, str]:
    """Lines of "TYPE: name name ..." -> {name: TYPE}, in the order in which they stand."""
    columns: dict[str, str] = {}
    for line in text.strip().splitlines():
        kind, names = line.split(":")
        columns.update({name: kind.strip() for name in names.split()})
    return columns


_SHAPE = """
    JSON: shape
    BIGINT: batch heads length head_dim
    BOOLEAN: causal
    VARCHAR: mode precision device
    BIGINT: threads repeat
"""

_TABLES = (
    Table(
        "trials",
        "trial_id",
        "one row per trial that ended, however it ended",
        _columns("""
            VARCHAR: sweep trial_id
            BIGINT: attempt
            VARCHAR: arm mechanism
            JSON: attention objective
            VARCHAR: workload
            JSON: workload_params
            BIGINT: fold
            VARCHAR: host
            JSON: host_params train config
            BIGINT: seed
            VARCHAR: role status error
            TIMESTAMP: started_at ended_at
            DOUBLE: wall_s setup_s busy_s
            BIGINT: steps
            DOUBLE: epochs
            BIGINT: examples tokens parameters mechanism_parameters
            DOUBLE: forward_flops
            VARCHAR: device
            BIGINT: threads
            VARCHAR: precision
            BIGINT: zero_stage workers
            VARCHAR: kernel_path git_hash
            BOOLEAN: git_dirty
            VARCHAR: data_sha256
            JSON: versions
            BOOLEAN: contended
            DOUBLE: samples_per_s tokens_per_s step_ms
            BIGINT: peak_bytes
            DOUBLE: grad_norm train_loss
            DOUBLE: val_loss val_accuracy val_nll val_ece val_brier val_bits_per_byte
            DOUBLE: test_loss test_accuracy test_nll test_ece test_brier test_bits_per_byte
            VARCHAR: host_name
            BIGINT: pid
        """),
    ),
    Table(
        "steps",
        "trial_id",
        "one row per optimiser step (split train) and per evaluation (split val)",
        _columns("""
            VARCHAR: sweep trial_id
            BIGINT: attempt step
            DOUBLE: epoch
            VARCHAR: split
            DOUBLE: seconds loss accuracy nll ece brier bits_per_byte
            FLOAT: lr grad_norm grad_variance samples_per_s tokens_per_s
            BIGINT: peak_bytes
        """),
    ),
    Table(
        "gradients",
        "trial_id",
        "gradient variance at fixed weights, per layer group",
        _columns("""
            VARCHAR: sweep trial_id
            BIGINT: attempt step
            VARCHAR: layer_group weights_of
            DOUBLE: train_loss
            BIGINT: batches draws
            DOUBLE: mean_sq_norm trace_data trace_mechanism trace_total trace_total_low trace_total_high
            DOUBLE: noise_scale
            DOUBLE[]: gram
        """),
    ),
    Table(
        "robustness",
        "trial_id",
        "the test figures under corruptions and attacks",
        _columns("""
            VARCHAR: sweep trial_id
            BIGINT: attempt
            VARCHAR: kind
            DOUBLE: severity epsilon accuracy nll ece
        """),
    ),
    Table(
        "requests",
        "trial_id",
        "every trial that a sweep asked for",
        _columns("""
            VARCHAR: sweep trial_id arm mechanism
            BIGINT: seed fold
            VARCHAR: role
            JSON: config
            TIMESTAMP: requested_at interrupted_at
        """),
    ),
    Table(
        "cost",
        "cost_id",
        "paired timings, one row per block",
        _columns(f"""
            VARCHAR: sweep cost_id
            BIGINT: attempt
            VARCHAR: mechanism
            JSON: attention objective
            VARCHAR: baseline baseline_path path
            {_SHAPE.strip()}
            BIGINT: block
            VARCHAR: order
            DOUBLE: ms baseline_ms cpu_ms baseline_cpu_ms
        """),
    ),
    Table(
        "cost_ratios",
        "cost_id",
        "time of a mechanism over its baseline's, with a 95 % interval, one row per repeat",
        _columns(f"""
            VARCHAR: sweep cost_id
            BIGINT: attempt
            VARCHAR: mechanism
            JSON: attention objective
            VARCHAR: baseline baseline_path path
            {_SHAPE.strip()}
            DOUBLE: ratio ratio_low ratio_high cpu_ratio half_width
            BOOLEAN: reached
            BIGINT: blocks
            BOOLEAN: contended
            BIGINT: peak_bytes baseline_peak_bytes
            DOUBLE: flops baseline_flops
            TIMESTAMP: measured_at
        """),
    ),
    Table(
        "verdicts",
        "claim",
        "what became of each claim",
        _columns("""
            VARCHAR: sweep claim family scope direction size label
            DOUBLE: estimate low high
            VARCHAR: unit
            DOUBLE: paper_value
            VARCHAR: paper_source
            BIGINT: seeds
            DOUBLE: p p_holm
            VARCHAR: baseline arm reason
            JSON: trials
            TIMESTAMP: decided_at
        """),
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _TABLES}


@cache
def arrow_schema(table: str) -> Any:
    """pyarrow.Schema of a file of `table`; name and schema version are in the file's metadata."""
    import pyarrow as pa

    kinds = {
        "VARCHAR": pa.string(),
        "JSON": pa.string(),
        "BIGINT": pa.int64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMP": pa.timestamp("us"),
        "DOUBLE[]": pa.list_(pa.float64()),
    }
    fields = [pa.field(name, kinds[kind]) for name, kind in TABLES[table].stored.items()]
    # The value repeats the name so that a reader can find it in the raw footer without parsing it
    # (layout.py).
    return pa.schema(fields, metadata={"attnbench_schema": f"{table}:{SCHEMA_VERSION}"})


def check_columns(table: str, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a column that the table does not have: a misspelt key must not become a null."""
    columns = TABLES[table].columns
    if not row.keys() <= columns.keys():
        unknown = next(name for name in row if name not in columns)
        raise ValueError(f"table {table} has no column {unknown!r}; its columns: {', '.join(columns)}")


def stored_columns(table: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, absent values None, JSON columns as text, times as naive UTC. ValueError as above."""
    for row in rows:
        check_columns(table, row)
    columns = {}
    for name, kind in TABLES[table].stored.items():
        values = [row.get(name) for row in rows]
        columns[name] = [_stored_value(kind, v) for v in values] if kind in ("JSON", "TIMESTAMP") else values
    return columns


def _stored_value(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "JSON" and not isinstance(value, str):
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    if kind == "TIMESTAMP":
        if isinstance(value, (int, float)):
            value = datetime.fromtimestamp(value, UTC)
        if value.tzinfo is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
    return value
