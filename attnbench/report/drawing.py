"""Plots as inline SVG that reads in light and in dark: no background, text without a fill, a palette for
both.

Matplotlib writes the shapes; what makes them fit a page is here: ids made unique by a salt of the plot's
name, black turned into `currentColor`, text left as text. Text has no fill of its own in matplotlib's SVG, so
the page's style sheet gives it one (`svg text {fill: currentColor}`).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABOVE, BELOW, ACROSS = "#3b82f6", "#f97316", "#8b95a1"
CYCLE = (
    "#3b82f6",
    "#f97316",
    "#10b981",
    "#a855f7",
    "#ef4444",
    "#14b8a6",
    "#eab308",
    "#ec4899",
    "#6366f1",
    "#84cc16",
)
ROW_INCH = 0.30
DENSE_ROW_INCH = 0.165  # legible still, for sixty arms


@dataclass(frozen=True)
class Dot:
    """One row of a dot plot: an estimate with its interval, single seeds, and the words at its right."""

    label: str
    estimate: float
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()
    words: str = ""
    decided: bool = True


@dataclass(frozen=True)
class Line:
    """One curve with an optional band."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def dots(name: str, rows: Sequence[Dot], *, xlabel: str, better: int = 0, zero: str = "") -> str:
    """Horizontal dots with intervals; a dashed line at zero, named `zero`.

    better: +1 where larger is better, -1 where smaller is, 0 where neither; it decides which side is blue.
    """
    height = len(rows) * (ROW_INCH if len(rows) <= 20 else DENSE_ROW_INCH) + 0.75
    figure, axes = _figure(name, 7.6, height)
    for place, row in enumerate(reversed(rows)):
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color=ACROSS, alpha=0.10, linewidth=0)
        colour = _colour(row, better)
        if (
            row.low is not None
            and row.high is not None
            and math.isfinite(row.low)
            and math.isfinite(row.high)
        ):
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(
            row.seeds,
            [place - 0.24] * len(row.seeds),
            "o",
            color=colour,
            markersize=3.5,
            alpha=0.45,
            markeredgewidth=0,
        )
        axes.plot([row.estimate], [place], "o", color=colour, markersize=6.5)
        axes.annotate(
            row.words,
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )
    axes.axvline(0, color="#000000", linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(xlabel)
    if zero:
        axes.annotate(zero, (0, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    _clip(axes, rows)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return _svg(figure, name)


def lines(
    name: str, curves: Sequence[Line], *, xlabel: str, ylabel: str, log_x: bool = False, log_y: bool = False,
    points: bool = False, flip: bool = False,
) -> str:  # fmt: skip
    """Curves of ten arms in colour, further ones in grey; names at the right. flip: x falls to the right."""
    figure, axes = _figure(name, 7.6, 3.6)
    for place, curve in enumerate(curves):
        colour = CYCLE[place] if place < len(CYCLE) else ACROSS
        if len(curve.low):
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1 if points else 1.8}
        if not points and len(curve.x) > 25:
            style["marker"] = ""
        axes.plot(curve.x, curve.y, color=colour, label=curve.label, **style)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    if flip:
        axes.invert_xaxis()
    _plain_ticks(axes)
    if not log_x:
        axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    _legend(axes, len(curves))
    return _svg(figure, name)


def scatter(name: str, points: Mapping[str, tuple[float, float, float]], *, xlabel: str, ylabel: str) -> str:
    """Label -> (x, y, half-width of y): dots with vertical intervals, named beside them."""
    figure, axes = _figure(name, 7.6, 3.6)
    for place, (label, (x, y, half)) in enumerate(points.items()):
        colour = CYCLE[place % len(CYCLE)]
        if math.isfinite(half):
            axes.plot([x, x], [y - half, y + half], color=colour, linewidth=2)
        axes.plot([x], [y], "o", color=colour, markersize=7, label=label)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.margins(0.08, 0.12)
    _legend(axes, len(points))
    return _svg(figure, name)


def panels(name: str, plots: Mapping[str, Sequence[Line]], *, xlabel: str, ylabel: str) -> str:
    """Small multiples, three in a row, with one legend."""
    from matplotlib.figure import Figure

    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    with _style(name):
        figure = Figure(figsize=(2.9 * columns + 1.4, 2.5 * rows), facecolor="none")
        for place, (title, curves) in enumerate(plots.items()):
            axes = figure.add_subplot(rows, columns, place + 1)
            _dress(axes)
            for number, curve in enumerate(curves):
                colour = CYCLE[number] if number < len(CYCLE) else ACROSS
                axes.plot(
                    curve.x,
                    curve.y,
                    color=colour,
                    marker="o",
                    markersize=3.5,
                    linewidth=1.5,
                    label=curve.label,
                )
            axes.set_title(title, fontsize=9.5, loc="left")
            axes.set_xlabel(xlabel, fontsize=8.5)
            if place % columns == 0:
                axes.set_ylabel(ylabel, fontsize=8.5)
            if place == columns - 1 or place == len(plots) - 1 < columns:
                _legend(axes, len(curves))
        figure.set_layout_engine("constrained")
    return _svg(figure, name)


def _figure(name: str, width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=(width, height), facecolor="none")
        axes = figure.add_subplot()
        _dress(axes)
        figure.set_layout_engine("constrained")
    return figure, axes


def _dress(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=ACROSS, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)


def _legend(axes: Axes, count: int) -> None:
    if count:
        axes.legend(
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize=8.5,
            ncols=1 + (count - 1) // 18,
        )


def _colour(row: Dot, better: int) -> str:
    if not row.decided or row.low is None or row.high is None or row.low <= 0 <= row.high:
        return ACROSS
    above = row.low > 0
    return ABOVE if better == 0 or above == (better > 0) else BELOW


def _clip(axes: Axes, rows: Sequence[Dot]) -> None:
    """Keep one wild interval from squeezing all others: the axis shows at most 4 times the median reach."""
    reach = sorted(
        max(abs(value) for value in (row.estimate, row.low or 0.0, row.high or 0.0) if math.isfinite(value))
        for row in rows
    )
    if not reach or reach[-1] <= 0:
        return
    limit = min(reach[-1], 4 * reach[len(reach) // 2] or reach[-1]) * 1.08
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -limit), min(high, limit))


def _plain_ticks(axes: Axes) -> None:
    """0.1, 0.2, 0.5 and 1 on a logarithmic axis, not powers of ten in superscript."""
    from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            low, high = sorted(axis.get_view_interval())
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def _style(name: str) -> Any:
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "font.family": "sans-serif",
            "font.size": 9,
            "path.simplify": True,
        }
    )


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    with _style(name):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"#000000\b", "currentColor", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    prefix = re.sub(r"\W+", "-", name)
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    text = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{prefix}-{m[1]}"', text)
    text = re.sub(
        r'(url\(#|href="#)([^")]+)', lambda m: m[1] + (f"{prefix}-{m[2]}" if m[2] in ids else m[2]), text
    )
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
