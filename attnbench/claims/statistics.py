"""The one place for statistics: paired intervals, Holm's correction, equivalence, power, looks.

Every function works on plain sequences of paired differences, one number a seed. A seed is the unit: folds
are averaged before they come here. Intervals cover the randomness of training (weights, order, the
mechanism's draws), not that of the data set.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences, its t interval (unadjusted), and the two-sided p of "the mean is 0"."""

    estimate: float
    low: float
    high: float
    n: int
    sd: float
    p: float

    @property
    def decided(self) -> bool:
        """Whether the interval lies wholly on one side of zero."""
        return self.low > 0 or self.high < 0

    def scaled(self, factor: float) -> "Interval":
        """The same interval in another unit, or with the sign turned for a negative factor."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.estimate * factor, low, high, self.n, self.sd * abs(factor), self.p)


def paired_interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of the mean of `differences` (one a seed).

    With fewer than two differences there is no spread to judge by: the interval is the whole line and p is
    nan. With no spread at all the interval is the point, and p is 0 unless the point is 0.
    """
    values = np.asarray(differences, dtype=float)
    if values.size == 0:
        return Interval(math.nan, -math.inf, math.inf, 0, math.nan, math.nan)
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, -math.inf, math.inf, 1, math.nan, math.nan)
    sd = float(values.std(ddof=1))
    error = sd / math.sqrt(values.size)
    if sd <= 1e-12 * max(1.0, abs(mean)):
        return Interval(mean, mean, mean, values.size, 0.0, 0.0 if mean else 1.0)
    half = float(special.stdtrit(values.size - 1, 0.5 + confidence / 2)) * error
    p = float(2 * special.stdtr(values.size - 1, -abs(mean) / error))
    return Interval(mean, mean - half, mean + half, values.size, sd, p)


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """t interval of one arm's own mean, for tables; comparisons use the paired one."""
    return paired_interval(values, confidence)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted ps of one family, in the given order; nan (not tested) costs nothing.

    statsmodels' multipletests gives the same (a test holds it), but collects garbage at every call: 60 ms and
    more with torch loaded.
    """
    adjusted = [math.nan] * len(ps)
    tested = sorted((index for index, p in enumerate(ps) if not math.isnan(p)), key=lambda index: ps[index])
    highest = 0.0
    for place, index in enumerate(tested):
        highest = max(highest, min(1.0, ps[index] * (len(tested) - place)))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of a mean difference against +-margin."""

    p: float  # both sides: the mean lies inside (-margin, margin)
    p_not_worse: float  # the lower side alone: the mean lies above -margin
    margin: float

    @property
    def equivalent(self) -> bool:
        return self.p < ALPHA

    @property
    def not_worse(self) -> bool:
        return self.p_not_worse < ALPHA


def equivalence(differences: Sequence[float], margin: float) -> Equivalence:
    """TOST (Schuirmann 1987): is the mean inside +-margin; its lower half alone is "no worse than"."""
    from statsmodels.stats.weightstats import DescrStatsW

    if margin <= 0:
        raise ValueError(f"an equivalence margin is positive, not {margin}")
    values = np.asarray(differences, dtype=float)
    if values.size < 2:
        return Equivalence(math.nan, math.nan, margin)
    if np.ptp(values) == 0:
        above, below = float(values[0] <= -margin), float(values[0] >= margin)
        return Equivalence(max(above, below), above, margin)
    p, lower, _ = DescrStatsW(values).ttost_mean(-margin, margin)
    return Equivalence(float(p), float(lower[1]), margin)


def seeds_for_power(sd: float, effect: float, target: float = POWER, alpha: float = ALPHA) -> int:
    """Seeds by which a paired two-sided t test sees a mean difference of `effect` with the given power.

    `sd` is that of the paired differences. At least 2; capped at MOST_SEEDS: "not testable at any sane cost".
    """
    if not effect or math.isnan(effect) or math.isnan(sd):
        return MOST_SEEDS
    if sd == 0:
        return 2
    return _smallest(lambda n: power(n, abs(effect) / sd, alpha) >= target)


def seeds_for_half_width(sd: float, half_width: float, confidence: float = CONFIDENCE) -> int:
    """Seeds by which the t interval of the mean difference is no wider than +-half_width."""
    if math.isnan(sd) or half_width <= 0:
        return MOST_SEEDS
    quantile = 0.5 + confidence / 2
    return _smallest(lambda n: float(special.stdtrit(n - 1, quantile)) * sd / math.sqrt(n) <= half_width)


def smallest_effect(sd: float, n: int, target: float = POWER, alpha: float = ALPHA) -> float:
    """The noise floor: the mean difference that `n` seeds see with the given power; nan below two seeds."""
    if n < 2 or math.isnan(sd):
        return math.nan
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(n, middle, alpha) >= target else (middle, high)
    return high * sd


def more_seeds(interval: Interval, paper: float | None = None, alpha: float = ALPHA) -> int | None:
    """How many further seeds would decide an undecided comparison, if mean and spread stay what they are.

    Decided means: the interval lies on one side of 0 or, where the claim has a size `paper`, wholly below
    half of it. `alpha` is the level that the decision needs (0.05 over the members of its family, after
    Holm's worst case). None where no spread is known yet (fewer than two seeds); 0 where it is decided;
    capped at MOST_SEEDS.
    """
    if interval.n < 2:
        return None
    needed = abs(interval.estimate)
    if paper:
        needed = max(needed, abs(paper) / 2 - interval.estimate * math.copysign(1, paper))
    return max(0, seeds_for_half_width(interval.sd, needed, 1 - alpha) - interval.n)


def alpha_of_look(look: int, alpha: float = ALPHA) -> float:
    """The two-sided level of the look-th decision on one claim, each after a top-up: alpha, alpha/2,
    alpha/4, ...

    The first look, at the number of seeds fixed beforehand, is an ordinary 95 % one. However many looks
    follow, the chance that an effect of zero is called `reproduced` (one side) stays at or below alpha, since
    alpha/2 x (1 + 1/2 + 1/4 + ...) = alpha.
    """
    if look < 1:
        raise ValueError(f"looks count from 1, not {look}")
    return alpha / 2 ** (look - 1)


def power(n: int, standardised: float, alpha: float = ALPHA) -> float:
    """Power of the two-sided one-sample t test: the chance that |T| > critical, T noncentral t with n - 1
    degrees.

    Integrated over the sample's spread, as scipy's noncentral t (and statsmodels' power on top of it)
    returns nan in places, e.g. at n = 154 and a standardised effect of 1.
    """
    degrees = n - 1
    critical = special.stdtrit(degrees, 1 - alpha / 2)
    shift = abs(standardised) * math.sqrt(n)
    at = (np.arange(400) + 0.5) / 400
    scale = critical * np.sqrt(special.chdtri(degrees, 1 - at) / degrees)
    return float(np.mean(special.ndtr(shift - scale) + special.ndtr(-shift - scale)))


def _smallest(enough: Callable[[int], bool]) -> int:
    """The smallest number of seeds from 2 to MOST_SEEDS that is `enough` (monotone), by bisection."""
    low, high = 2, MOST_SEEDS
    if not enough(high):
        return MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
