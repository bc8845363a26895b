"""The verdict rules: from an interval, the paper's figure and what went wrong to direction, size, label and
reason.

Effects are signed so that positive is the claim, and P is the paper's figure.

    direction   reproduced: interval wholly > 0 (and Holm-adjusted p below the level of this look); refuted:
    wholly < 0 size        only where model and data are the paper's (scope matched). reproduced: interval > 0
    and meets [P/2, 2P];
                refuted: wholly below P/2
    label       inconclusive whenever a gate failed. A proxy refutes "in general", never the paper's own
    figures
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attnbench.claims import statistics
from attnbench.claims.statistics import Interval

LEAST_SEEDS = 5
LABELS = ("reproduced", "refuted", "inconclusive", "supported", "report", "not_testable", "not_run")


@dataclass(frozen=True)
class Judgement:
    """What a rule found. `size` is None for a proxy or where the paper gives no figure."""

    direction: str | None
    size: str | None
    label: str
    reason: str


def judge_difference(
    interval: Interval,
    p_holm: float,
    *,
    scope: str,
    paper: float | None = None,
    floor: float = 0.0,
    alpha: float = statistics.ALPHA,
    problems: Sequence[str] = (),
) -> Judgement:
    """Rules 9.1 of the sheets for a paired difference over seeds; `floor`: the smallest effect that counts
    (LAM).

    interval: 95 % t interval, unadjusted; p_holm: two-sided p adjusted within the family; alpha: the level of
    this look; problems: failed gates, each a sentence.
    """
    gates = list(problems)
    if interval.n < LEAST_SEEDS:
        gates.append(f"{interval.n} paired seeds, the rule asks for at least {LEAST_SEEDS}")
    direction = _direction(interval, p_holm, floor, alpha)
    size = None
    if scope == "matched" and paper:
        size = _size(interval, paper)
    if gates:
        return Judgement("inconclusive", size and "inconclusive", "inconclusive", "; ".join(gates))
    label = direction
    if label == "inconclusive" and size == "refuted":
        label = "refuted"
    return Judgement(
        direction, size, label, _why(interval, p_holm, direction, size, scope, paper, floor, alpha)
    )


def judge_at_most(low: float, high: float, paper: float, problems: Sequence[str] = ()) -> Judgement:
    """A cost of at most twice the paper's: reproduced when the interval's upper end is, refuted when its
    lower is not.
    """
    bound = 2 * paper
    if problems:
        return Judgement("inconclusive", None, "inconclusive", "; ".join(problems))
    label = "reproduced" if high <= bound else "refuted" if low > bound else "inconclusive"
    return Judgement(label, None, label, f"rule: interval against twice the paper's figure, {bound:+.1%}")


def judge_inside(
    low: float, high: float, inside: tuple[float, float], problems: Sequence[str] = ()
) -> Judgement:
    """An equality: reproduced when the interval lies inside, refuted when wholly outside."""
    if problems:
        return Judgement("inconclusive", None, "inconclusive", "; ".join(problems))
    a, b = inside
    label = "reproduced" if a <= low and high <= b else "refuted" if high < a or low > b else "inconclusive"
    return Judgement(label, None, label, f"rule: interval inside [{a:.4g}, {b:.4g}]")


def judge_below(low: float, high: float, bound: float, problems: Sequence[str] = ()) -> Judgement:
    """Strictly below a bound: reproduced when the interval is, refuted when it is wholly above."""
    if problems:
        return Judgement("inconclusive", None, "inconclusive", "; ".join(problems))
    label = "reproduced" if high < bound else "refuted" if low > bound else "inconclusive"
    return Judgement(label, None, label, f"rule: interval below {bound:g}")


def judge_variance(change: Interval, problems: Sequence[str] = (), paper: float = 0.10) -> Judgement:
    """AD-GV: `change` is the ratio minus 1. Reproduced: wholly below 0 and meets [-2P, -P/2]; refuted: wholly
    above -P/2.
    """
    gates = list(problems)
    if change.n < LEAST_SEEDS:
        gates.append(f"{change.n} seeds, the rule asks for at least {LEAST_SEEDS}")
    if gates:
        return Judgement("inconclusive", None, "inconclusive", "; ".join(gates))
    if change.low > -paper / 2:
        label = "refuted"
    elif change.high < 0 and change.low <= -paper / 2 and change.high >= -2 * paper:
        label = "reproduced"
    else:
        label = "inconclusive"
    direction = "reproduced" if change.high < 0 else "refuted" if change.low > 0 else "inconclusive"
    if label == "inconclusive" and change.high < -2 * paper:
        return Judgement(direction, None, label, f"falls by more than twice the paper's {paper:.0%}")
    return Judgement(
        direction, None, label, f"rule: below 0 and meeting [{-2 * paper:.0%}, {-paper / 2:.0%}]"
    )


def _direction(interval: Interval, p_holm: float, floor: float, alpha: float) -> str:
    significant = not math.isnan(p_holm) and p_holm < alpha
    if floor:
        if interval.low > 0 and interval.estimate >= floor and significant:
            return "reproduced"
        return "refuted" if interval.high < floor else "inconclusive"
    if interval.low > 0 and significant:
        return "reproduced"
    return "refuted" if interval.high < 0 and significant else "inconclusive"


def _size(interval: Interval, paper: float) -> str:
    if interval.high < paper / 2:
        return "refuted"
    return "reproduced" if interval.low > 0 and interval.low <= 2 * paper else "inconclusive"


def _why(
    interval: Interval,
    p_holm: float,
    direction: str,
    size: str | None,
    scope: str,
    paper: float | None,
    floor: float,
    alpha: float,
) -> str:
    parts = []
    if direction == "inconclusive":
        if interval.decided and not p_holm < alpha:
            parts.append(
                f"the interval excludes 0, but the Holm-adjusted p {p_holm:.3f} is not below {alpha:g}"
            )
        more = statistics.more_seeds(interval, paper if scope == "matched" else None, alpha)
        if more:
            parts.append(f"{_count(more)} more seeds would decide it if mean and spread stay what they are")
        if paper and interval.n > 1:
            needed = statistics.seeds_for_power(interval.sd, paper, alpha=alpha)
            parts.append(f"an effect of the paper's size needs {_count(needed)} seeds for 80 % power")
    if direction == "reproduced" and size == "refuted":
        parts.append("right direction, size refuted")
    if size == "inconclusive" and paper and interval.low > 2 * paper:
        parts.append("larger than twice the paper's figure")
    if floor:
        parts.append(f"the smallest effect that counts is {floor:g}")
    if scope == "proxy" and direction in ("refuted", "reproduced"):
        word = "refutes it in general" if direction == "refuted" else "seen"
        parts.append(f"{word}, on this proxy; the paper's own model and data were not run")
    return "; ".join(parts)


def _count(seeds: int) -> str:
    return f"over {statistics.MOST_SEEDS:,}" if seeds >= statistics.MOST_SEEDS - 100 else f"{seeds}"
