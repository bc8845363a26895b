"""What a part of the report is made of, and one sweep as its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench.claims import pairing
from attnbench.claims.comparison import Comparison, compare
from attnbench.claims.evidence import SweepRows
from attnbench.claims.pairing import Choice
from attnbench.errors import UsageError


@dataclass
class Table:
    """A table of the page; `right`: columns with figures, aligned right and sorted as numbers."""

    columns: list[str]
    rows: list[list[Any]]
    right: frozenset[str] = frozenset()
    filterable: bool = False


@dataclass
class Section:
    """One part of the page: prose, plots (SVG), tables, remarks, and the commands that repeat it."""

    title: str
    text: str = ""
    plots: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


class Source:
    """One sweep for the report: its rows, its baseline, and the commands that show them."""

    def __init__(self, results: Path, sweep: str, baseline: str | None = None) -> None:
        self.results, self.sweep = results, sweep
        self.rows = SweepRows(results, sweep)
        arms = sorted(set(self.rows.trials["arm"])) if len(self.rows.trials) else []
        if baseline is not None and baseline not in arms and arms:
            raise UsageError(f"sweep '{sweep}' has no arm '{baseline}'; arms: {', '.join(arms)}")
        self.baseline = baseline or ("softmax" if "softmax" in arms else arms[0] if arms else "")
        # The baseline first: the order gives each arm its colour in every plot.
        self.arms = sorted(arms, key=lambda arm: (arm != self.baseline, arm))

    def query(self, sql: str) -> str:
        return f'attnbench query "{sql}" --results {self.results}'

    def load(self, table: str) -> pd.DataFrame:
        """A table or view, of this sweep."""
        from attnbench.results import load

        return load(table, self.results, sweep=self.sweep)

    def compared(self, metric: str) -> Comparison:
        """The comparison, unequal tuning allowed: the page says so where it is unequal."""
        return compare(self.rows.trials, metric, self.baseline, unequal=True)

    def choices(self) -> dict[str, Choice]:
        """Arm -> the configuration that entered, in the baseline's first context."""
        entered = pairing.entering(self.rows.trials)
        own = entered[entered["arm"] == self.baseline]
        found = {}
        for arm in self.arms:
            contexts = list(dict.fromkeys([*own["context"], *entered[entered["arm"] == arm]["context"]]))
            chosen = [
                c for context in contexts if (c := pairing.choose(self.rows.trials, context, arm)) is not None
            ]
            if chosen:
                found[arm] = chosen[0]
        return found


def compare_command(source: Source, metric: str) -> str:
    asked = f"--metric {metric} --baseline '{source.baseline}'"
    return f"attnbench compare {source.sweep} {asked} --results {source.results}"


def entered_ids(source: Source) -> set[str]:
    return {trial for choice in source.choices().values() for trial in choice.rows["trial_id"]}
