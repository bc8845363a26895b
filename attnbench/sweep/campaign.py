"""The state of a sweep while it runs: what is still to do, what ended how, who won, and when it is
hopeless.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnbench.results import Store
from attnbench.sweep.planning import Planned, confirm_phase, first_phase
from attnbench.sweep.specification import Sweep

TRY_AGAIN = ("failed", "out_of_memory")


@dataclass
class Entry:
    """One requested trial. attempt: the one that runs or ended; status: None until it has ended; report:
    its final figures.
    """

    planned: Planned
    attempt: int
    status: str | None = None
    error: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    before: bool = False
    """Whether it had ended before this command."""


class Campaign:
    """Every requested trial of one sweep. Resumes from the store: what has ended is not run again."""

    def __init__(self, sweep: Sweep, store: Store, *, fresh: bool = False):
        self.sweep = sweep
        self.store = store
        self.fresh = fresh
        self.entries: dict[str, Entry] = {}
        self.todo: deque[Entry] = deque()
        self.winners: dict[str, Planned] = {}
        self.open_groups: dict[str, set[str]] = {}
        self.recent: Counter[str] = Counter()
        self._finals = store.finals(sweep.name)
        self._attempts = store.attempts(sweep.name)
        self._request(first_phase(sweep))
        for group in list(self.open_groups):
            self._close_if_done(group)

    def finished(self) -> bool:
        """Whether every requested trial has ended and no more will be requested."""
        return not self.todo and all(entry.status is not None for entry in self.entries.values())

    def end(self, trial_id: str, status: str, error: str | None, report: Mapping[str, Any]) -> None:
        """A trial has ended; if it was the last of its group's tuning, the winner's confirming trials
        are requested.
        """
        entry = self.entries[trial_id]
        if entry.status is not None:
            return
        entry.status, entry.error, entry.report = status, error, report
        self.recent[status] += 1
        if entry.planned.config.role == "tune":
            self.open_groups[entry.planned.group].discard(trial_id)
            self._close_if_done(entry.planned.group)

    def score(self, report: Mapping[str, Any]) -> float:
        """The metric that ranks configurations, better when higher; minus infinity where there is none."""
        value = report.get(self.sweep.metric)
        if value is None or not math.isfinite(value):
            return -math.inf
        return value if self.sweep.direction == "max" else -value

    def counts(self) -> Counter[str]:
        """Requested trials by status; `unfinished` for those that have not ended."""
        return Counter(entry.status or "unfinished" for entry in self.entries.values())

    def members(self, group: str) -> list[Entry]:
        """The tuning trials of a group."""
        return [
            entry
            for entry in self.entries.values()
            if entry.planned.group == group and entry.planned.config.role == "tune"
        ]

    def hopeless(self, workers: int) -> str | None:
        """Why going on makes no sense, or None: the first trials of this command all failed, and there
        are enough of them.
        """
        failed = self.recent["failed"] + self.recent["out_of_memory"]
        enough = max(4, 2 * workers)
        if failed < enough or failed != sum(self.recent.values()):
            return None
        errors = Counter(
            entry.error or entry.status
            for entry in self.entries.values()
            if entry.status in TRY_AGAIN and not entry.before
        )
        error, times = errors.most_common(1)[0]
        return f"the first {failed} trials all failed ({times} times: {error}); stopped before the rest"

    def queue_unfinished(self) -> None:
        """Queue again whatever was handed out and has not ended: the workers that had it are gone."""
        self.todo = deque(entry for entry in self.entries.values() if entry.status is None)

    def _request(self, planned: list[Planned]) -> None:
        """Record what is asked for, then queue what has not ended."""
        self.store.request(self.sweep.name, [one.request() for one in planned])
        for one in planned:
            entry = self._entry(one)
            self.entries[one.trial_id] = entry
            if one.config.role == "tune":
                members = self.open_groups.setdefault(one.group, set())
                if entry.status is None:
                    members.add(one.trial_id)
            if entry.status is None:
                self.todo.append(entry)

    def _entry(self, planned: Planned) -> Entry:
        latest = self._attempts.get(planned.trial_id, 0)
        final = self._finals.get(planned.trial_id)
        if self.fresh:
            return Entry(planned, latest + 1)
        if final is None or latest > final["attempt"]:
            return Entry(planned, max(latest, 1))
        if final["status"] in TRY_AGAIN and final["attempt"] <= self.sweep.header.retries:
            return Entry(planned, final["attempt"] + 1)
        return Entry(planned, final["attempt"], final["status"], final["error"], final, before=True)

    def _close_if_done(self, group: str) -> None:
        if self.open_groups.get(group):
            return
        self.open_groups.pop(group, None)
        if not self.sweep.confirm_seeds or group in self.winners:
            return
        ended = [entry for entry in self.members(group) if entry.status == "ok"]
        if ended:
            best = min(ended, key=lambda entry: (-self.score(entry.report), entry.planned.trial_id))
            self.winners[group] = best.planned
            self._request(confirm_phase(self.sweep, best.planned))
