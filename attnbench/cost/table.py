"""A cost measurement on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from attnbench.cost.measure import Outcome

LEGEND = "t: time over before the target   c: other work took the processor, see CPU   w: never settled"


def cost_tables(outcome: Outcome) -> Iterator[Table]:
    """One table per shape and mode, one line per ratio; the machine's own A/A comes first."""
    from rich.box import SIMPLE
    from rich.table import Table

    for place, rows in groupby(outcome.ratios, key=_place):
        table = Table(title=place, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("mechanism", overflow="fold", min_width=16)
        table.add_column("path", overflow="fold")
        table.add_column("over", overflow="fold")
        for name in ("time", "95 %", "CPU", "memory"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for row in rows:
            label = f"{row['label']} (A/A)" if row["probe"] else row["label"]
            table.add_row(
                label,
                row["path"],
                row["baseline_path"],
                f"{row['ratio']:.3f}",
                f"{row['ratio_low']:.3f} {row['ratio_high']:.3f}",
                "" if row["cpu_ratio"] is None else f"{row['cpu_ratio']:.3f}",
                f"{row['peak_bytes'] / max(1, row['baseline_peak_bytes']):.2f}",
                "".join(marks(row)),
            )
        yield table


def marks(row: dict[str, Any]) -> Iterator[str]:
    """What a reader of a ratio must know; LEGEND says what the letters mean."""
    if not row["reached"] and not row["probe"]:
        yield "t"
    if row["contended"]:
        yield "c"
    if not row["settled"]:
        yield "w"


def _place(row: dict[str, Any]) -> str:
    shape = f"batch {row['batch']}, {row['heads']} heads of {row['head_dim']}, length {row['length']}"
    causal = ", causal" if row["causal"] else ""
    return f"{row['mode']}: {shape}{causal}, {row['precision']}, over {row['baseline']}"
