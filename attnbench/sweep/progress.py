"""What a running sweep shows: a live table in a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from typing import Any

from attnbench.sweep.campaign import Campaign

LINE_EVERY_S = 10.0
SAME_LINE_EVERY_S = 60.0
DRAW_EVERY_S = 0.5


class Progress:
    """Shows a campaign. quiet: nothing at all; busy: workers at work now, set by the watch."""

    def __init__(self, campaign: Campaign, workers: int, *, quiet: bool = False):
        self.campaign = campaign
        self.workers = workers
        self.quiet = quiet
        self.busy = 0
        self.note = "starting"
        self._started = time.monotonic()
        self._shown = 0.0
        self._said = ("", 0.0)
        self._live: Any = None
        self._before = sum(entry.before for entry in campaign.entries.values())

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, *, force: bool = False) -> None:
        """Draw again if it is time to."""
        now = time.monotonic()
        if self.quiet or (not force and now - self._shown < (DRAW_EVERY_S if self._live else LINE_EVERY_S)):
            return
        self._shown = now
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        line = self.line()
        if line != self._said[0] or now - self._said[1] > SAME_LINE_EVERY_S:
            self._said = (line, now)
            print(line, file=sys.stderr, flush=True)

    def line(self) -> str:
        """`12/40 trials (ok 11, failed 1), 2 of 2 workers busy, about 3 min left, best softmax
        val_accuracy 0.97`.
        """
        counts = self.campaign.counts()
        total = sum(counts.values())
        waiting = counts.pop("unfinished", 0)
        ended = ", ".join(f"{status} {count}" for status, count in counts.most_common())
        parts = [f"{total - waiting}/{total} trials{f' ({ended})' if ended else ''}"]
        if waiting:
            parts.append(f"{self.busy} of {self.workers} workers busy" if self.busy else self.note)
            left = self.seconds_left()
            if left is not None:
                parts.append(f"about {duration(left)} left")
        best = self._best()
        if best:
            parts.append(f"best {best}")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """From the pace so far; None until something ended in this command. Confirming trials not yet
        asked for count too.
        """
        counts = self.campaign.counts()
        ended_now = sum(counts.values()) - counts["unfinished"] - self._before
        if ended_now <= 0:
            return None
        sweep = self.campaign.sweep
        to_come = len(self.campaign.open_groups) * len(sweep.confirm_seeds) * len(sweep.folds)
        return (time.monotonic() - self._started) / ended_now * (counts["unfinished"] + to_come)

    def _best(self) -> str | None:
        metric = self.campaign.sweep.metric
        ended = [
            entry
            for entry in self.campaign.entries.values()
            if entry.status == "ok" and entry.report.get(metric) is not None
        ]
        if not ended:
            return None
        best = max(ended, key=lambda entry: self.campaign.score(entry.report))
        return f"{best.planned.group} {metric} {best.report[metric]:.4f}"

    def _table(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        table = Table(title=f"sweep {self.campaign.sweep.name}", title_justify="left")
        for heading in ("arm", "done", "of", "endings", f"best {self.campaign.sweep.metric}"):
            table.add_column(heading, justify="left" if heading in ("arm", "endings") else "right")
        groups: dict[str, list[Any]] = {}
        for entry in self.campaign.entries.values():
            groups.setdefault(entry.planned.group, []).append(entry)
        for group, entries in groups.items():
            ended = [entry for entry in entries if entry.status]
            endings = Counter(entry.status for entry in ended)
            values = [entry.report.get(self.campaign.sweep.metric) for entry in ended if entry.status == "ok"]
            figures = [value for value in values if value is not None]
            best = (max if self.campaign.sweep.direction == "max" else min)(figures) if figures else None
            table.add_row(
                group,
                str(len(ended)),
                str(len(entries)),
                ", ".join(f"{name} {n}" for name, n in endings.items()),
                f"{best:.4f}" if best is not None else "-",
            )
        return Group(table, self.line())


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
