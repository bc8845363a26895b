"""Which mechanisms may stand together: refused when built, naming both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.attention.mechanism import SINGLE, STAGES, Parameters
from attnbench.errors import UsageError

if TYPE_CHECKING:
    from attnbench.attention.specification import Entry


def refuse_conflicts(entries: Sequence[Entry]) -> None:
    """UsageError for the first two entries that meet in some layer and can not: the same mechanism or the
    same single stage twice, or one that destroys what a later one in the pipeline's order requires.
    """
    for i, a in enumerate(entries):
        for b in entries[i + 1 :]:
            if not meet(a.settings, b.settings):
                continue
            if a.mechanism.name == b.mechanism.name:
                raise UsageError(
                    f"{a.mechanism.name} is listed twice for the same layers; keep one, or give each its "
                    "own 'layers' or 'sites'"
                )
            for stage in a.mechanism.stages_of(a.settings):
                if stage in SINGLE and stage in b.mechanism.stages_of(b.settings):
                    raise UsageError(
                        f"{a.mechanism.name} and {b.mechanism.name} both replace the stage '{stage}', "
                        "which only one can; leave one out"
                    )
            _refuse_traits(a, b, listed_first=True)
            _refuse_traits(b, a, listed_first=False)


def meet(a: Parameters, b: Parameters) -> bool:
    """Whether two entries can act in the same layer of the same site."""
    if not set(a.sites) & set(b.sites):
        return False
    for one, other in ((a.layers, b.layers), (b.layers, a.layers)):
        if isinstance(one, list):
            if isinstance(other, list):
                return bool(set(one) & set(other))
            return other == "all" or any(i % other["every"] == 0 for i in one)  # type: ignore[index]
    return True


def _refuse_traits(breaker: Entry, needer: Entry, listed_first: bool) -> None:
    """What is broken later in the pipeline than it is needed does no harm: relaxed rows may well be dropped
    out afterwards.
    """
    traits = breaker.mechanism.breaks_of(breaker.settings) & needer.mechanism.requires
    if not traits:
        return
    broken_at = min(STAGES.index(stage) for stage in breaker.mechanism.stages_of(breaker.settings))
    needed_at = max(STAGES.index(stage) for stage in needer.mechanism.stages_of(needer.settings))
    if broken_at > needed_at or (broken_at == needed_at and not listed_first):
        return
    remedy = f"list {needer.mechanism.name} first" if broken_at == needed_at else "leave one out"
    raise UsageError(
        f"{needer.mechanism.name} requires {', '.join(sorted(traits))}, which {breaker.mechanism.name} "
        f"breaks before it; {remedy}"
    )
