"""A comparison as a table for the terminal, every interval drawn as a bar on one common axis."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from attnbench.claims.comparison import ArmRow, Comparison

BAR = 25
STYLES = {"better": "green", "worse": "red", "inconclusive": "yellow", "baseline": "dim"}


def comparison_table(comparison: Comparison, title: str = "", width: int = 180) -> Group:
    """One table per context, then the unpaired seeds and the notes; below 130 columns the least needed go."""
    parts: list[Table | Text] = []
    axis = _axis(comparison)
    for context in dict.fromkeys(row.context for row in comparison.rows):
        rows = [row for row in comparison.rows if row.context == context]
        parts.append(_table(comparison, rows, axis, f"{title}{context}", width < 130))
    for row in comparison.rows:
        if row.unpaired:
            shown = "; ".join(row.unpaired[:4]) + (
                f"; and {len(row.unpaired) - 4} more" if len(row.unpaired) > 4 else ""
            )
            parts.append(Text(f"unpaired, {row.arm}: {shown}", style="yellow"))
    parts += [Text(f"· {note}", style="dim") for note in comparison.notes]
    return Group(*parts)


def print_comparison(comparison: Comparison, title: str = "") -> None:
    """Print to stdout at its own width, 180 columns where stdout is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    console.print(comparison_table(comparison, title, console.width))


def verdict_words(row: ArmRow) -> str:
    """The decision, with the seeds that an inconclusive one still needs."""
    if row.decision != "inconclusive":
        return row.decision
    if row.more_seeds is None:
        return "inconclusive: needs 2 seeds"
    if row.more_seeds + row.seeds >= 1000:
        return "inconclusive: >1000 seeds"
    return (
        f"inconclusive: +{row.more_seeds} seed{'s' * (row.more_seeds != 1)}"
        if row.more_seeds
        else "inconclusive"
    )


def in_order(comparison: Comparison) -> list[ArmRow]:
    """The rows as they are shown: context by context, the baseline first, then the best difference first."""
    contexts = list(dict.fromkeys(row.context for row in comparison.rows))

    def place(row: ArmRow) -> tuple[int, bool, float]:
        estimate = row.difference.estimate if row.difference else 0.0
        goodness = -estimate if comparison.metric.higher_is_better else estimate
        return (
            contexts.index(row.context),
            row.difference is not None,
            math.inf if math.isnan(goodness) else goodness,
        )

    return sorted(comparison.rows, key=place)


def _table(comparison: Comparison, rows: list[ArmRow], axis: float, title: str, narrow: bool) -> Table:
    metric, size = comparison.metric, 15 if narrow else BAR
    unit = f" {metric.unit}" if metric.unit else ""
    edge = metric.show(axis)
    columns = {
        "arm": f"arm ({metric.difference_unit})" if narrow and metric.difference_unit else "arm",
        "mean": f"{metric.name}{unit}",
        "best": "best",
        "seeds": "seeds",
        "difference": f"minus {comparison.baseline}, 95 %",
        "bar": f"-{edge}{'0':^{max(1, size - 2 * len(edge) - 2)}}+{edge}",
        "p": "p (Holm)",
        "decision": "decision",
    }
    if narrow:
        columns = {key: heading for key, heading in columns.items() if key not in ("mean", "best", "p")}
    table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False, box=box.SIMPLE_HEAD)
    for key, heading in columns.items():
        right = key in ("mean", "best", "seeds", "difference", "p")
        table.add_column(
            heading,
            justify="right" if right else "left",
            no_wrap=key in ("mean", "difference", "bar", "decision"),
            overflow="fold",
            min_width={"arm": 18, "bar": size}.get(key),
            style="dim" if key == "best" else "",
        )
    for row in [row for row in in_order(comparison) if row in rows]:
        difference, style = row.difference, STYLES[row.decision]
        drawn = bar(difference.estimate, difference.low, difference.high, axis, size) if difference else ""
        cells: dict[str, str | Text] = {
            "arm": row.arm,
            "mean": metric.show(row.mean.estimate),
            "best": f"{metric.show(row.best)} of {row.best_of}",
            "seeds": f"{row.seeds} x {row.folds}" if row.folds > 1 else f"{row.seeds}",
            "difference": interval_words(row, comparison) if difference else "",
            "bar": Text(drawn, style=style),
            "p": "-" if math.isnan(row.p_holm) else f"{row.p_holm:.3f}",
            "decision": Text(verdict_words(row), style=style),
        }
        table.add_row(*(cells[key] for key in columns))
    return table


def interval_words(row: ArmRow, comparison: Comparison) -> str:
    """`+1.25 [+0.40, +2.10]`, or the estimate alone where one seed gives no interval."""
    difference, show = row.difference, comparison.metric.show
    if difference is None or math.isnan(difference.estimate):
        return "no pair"
    if math.isinf(difference.low):
        return f"{show(difference.estimate, True)} [no interval]"
    return f"{show(difference.estimate, True)} [{show(difference.low, True)}, {show(difference.high, True)}]"


def bar(estimate: float, low: float, high: float, axis: float, width: int = BAR) -> str:
    """An interval on the axis [-axis, +axis] with zero in the middle: `    ├──●──┤ │    `."""
    if math.isnan(estimate):
        return ""
    cells = [" "] * width
    middle = width // 2

    def at(value: float) -> int:
        return max(0, min(width - 1, round(middle + value / axis * middle)))

    if math.isfinite(low) and math.isfinite(high):
        for cell in range(at(low), at(high) + 1):
            cells[cell] = "─"
        cells[at(low)] = "├" if low >= -axis else "◄"
        cells[at(high)] = "┤" if high <= axis else "►"
    if cells[middle] in " ─":
        cells[middle] = "│" if cells[middle] == " " else "┼"
    cells[at(estimate)] = "●"
    return "".join(cells)


def _axis(comparison: Comparison) -> float:
    """Half the length of the common axis: the farthest finite end of any interval, at most 4 times the median
    one.
    """
    ends = []
    for row in comparison.rows:
        if row.difference is not None:
            found = (row.difference.estimate, row.difference.low, row.difference.high)
            ends.append(max((abs(value) for value in found if math.isfinite(value)), default=0.0))
    ends.sort()
    if not ends or ends[-1] == 0:
        return 1.0
    return min(ends[-1], 4 * ends[len(ends) // 2] or ends[-1])
