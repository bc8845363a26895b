"""The figure and its interval: a trimmed mean of log ratios over blocks, with a percentile bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TRIM = 0.2  # cut from each end
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % interval; half_width is half that of the log ratio, so relative (0.02 = 2 %)."""

    ratio: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (math.log(self.high) - math.log(self.low)) / 2

    def holds(self, value: float) -> bool:
        """Whether the interval contains `value`."""
        return self.low <= value <= self.high


def estimate(log_ratios: Sequence[float] | NDArray[np.float64], rng: np.random.Generator) -> Ratio:
    """20 %-trimmed mean of the blocks' log ratios and its percentile-bootstrap interval (2000 resamples
    of blocks).

    Blocks are independent enough for it (lag-1 correlation below 0.05 on a quiet machine), and the
    trimmed mean had the least spread of mean, median, trimean and itself at equal time.
    """
    values = np.asarray(log_ratios, dtype=np.float64)
    # in slices, so that a thousand blocks need no more than some ten megabytes
    rows = max(1, 2_000_000 // len(values))
    means = [
        trimmed_mean(values[rng.integers(len(values), size=(min(rows, RESAMPLES - start), len(values)))])
        for start in range(0, RESAMPLES, rows)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Ratio(math.exp(float(trimmed_mean(values))), math.exp(float(low)), math.exp(float(high)))


def trimmed_mean(values: NDArray[np.float64], share: float = TRIM) -> NDArray[np.float64]:
    """Mean over the last axis without the lowest and the highest `share` of it."""
    count = values.shape[-1]
    cut = int(share * count)
    if cut == 0:
        return values.mean(axis=-1)
    return np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)


def robust_sd(values: Sequence[float] | NDArray[np.float64]) -> float:
    """1.4826 x median absolute deviation: the sd of a normal sample, deaf to single interruptions."""
    array = np.asarray(values, dtype=np.float64)
    return 1.4826 * float(np.median(np.abs(array - np.median(array))))
