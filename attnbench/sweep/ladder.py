"""Synchronous successive halving without Ray: who goes on depends on the scores alone, never on order or
interruption.
"""

import math
from collections.abc import Iterable, Sequence

GO, STOP = "go", "stop"


class Ladder:
    """One ladder: all `members` train to the first rung, the best 1/reduction of them to the next, and so on.

    rungs: points of training, the last is the whole budget and decides nothing. Scores are better when
    higher; a member that failed, diverged or scored NaN counts as the worst. Ties fall to the smaller
    id.
    """

    def __init__(self, rungs: Sequence[int], members: Iterable[str], reduction: int = 3):
        self.rungs = list(rungs)
        self.survivors: list[set[str]] = [set(members)]
        self.sizes = [
            max(1, len(self.survivors[0]) // reduction ** (rung + 1)) for rung in range(len(self.rungs) - 1)
        ]
        self.scores: list[dict[str, float]] = [{} for _ in self.sizes]
        self.failed: set[str] = set()

    def report(self, member: str, time: float, score: float) -> dict[str, str]:
        """Record a score; what has thereby been decided, by member: GO or STOP. Nothing between rungs."""
        rung = self._rung(member, time)
        if rung is None:
            return {}
        self.scores[rung][member] = score if math.isfinite(score) else -math.inf
        return self._decide()

    def fail(self, member: str) -> dict[str, str]:
        """A member that will never report again is the worst at every rung that it has not reached."""
        self.failed.add(member)
        return self._decide()

    def verdict(self, member: str) -> str | None:
        """STOP for a member that a decided rung left out, None for one that waits for others at a rung,
        else GO.
        """
        if member not in self.survivors[-1]:
            return STOP
        decided = len(self.survivors) - 1
        reported = sum(member in scores for scores in self.scores)
        return GO if reported <= decided else None

    def _rung(self, member: str, time: float) -> int | None:
        """The rung that `member` has reached at `time` and not reported yet; the last rung ends a trial
        by itself.
        """
        for rung, scores in enumerate(self.scores):
            if member not in scores:
                return rung if time >= self.rungs[rung] else None
        return None

    def _decide(self) -> dict[str, str]:
        """Judge every rung that is complete; a failed member can complete several at once."""
        verdicts: dict[str, str] = {}
        while len(self.survivors) <= len(self.sizes):
            rung = len(self.survivors) - 1
            here, scores = self.survivors[rung], dict(self.scores[rung])
            scores |= {member: -math.inf for member in here & self.failed if member not in scores}
            if not here <= scores.keys():
                break
            ranked = sorted(here, key=lambda member: (-scores[member], member))
            kept = set(ranked[: self.sizes[rung]])
            self.survivors.append(kept)
            verdicts |= {member: GO if member in kept else STOP for member in here}
        return verdicts
