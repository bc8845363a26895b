"""The trimmed mean and its bootstrap interval, on samples whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from attnbench.cost.estimate import estimate, robust_sd, trimmed_mean


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60))
def test_the_trimmed_mean_is_scipys(values: list[float]) -> None:
    assert float(trimmed_mean(np.array(values))) == pytest.approx(stats.trim_mean(values, 0.2), abs=1e-9)


def test_one_interruption_in_ten_changes_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    quiet = rng.normal(math.log(1.1), 0.02, 40)
    disturbed = quiet.copy()
    disturbed[::10] += 3
    one, other = estimate(quiet, np.random.default_rng(1)), estimate(disturbed, np.random.default_rng(1))
    assert other.ratio == pytest.approx(one.ratio, rel=0.01)
    assert other.half_width < 2 * one.half_width


def test_the_interval_is_repeatable_and_surrounds_the_estimate() -> None:
    values = np.random.default_rng(3).normal(0.2, 0.1, 80)
    one, again = (estimate(values, np.random.default_rng(5)) for _ in range(2))
    assert one == again
    assert one.low < one.ratio < one.high
    assert one.half_width == pytest.approx((math.log(one.high) - math.log(one.low)) / 2)
    assert one.holds(one.ratio) and not one.holds(one.high * 1.01)


@pytest.mark.parametrize("blocks", [40, 80])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(blocks: int) -> None:
    rng = np.random.default_rng(blocks)
    # heavy tails, as timings have: Student's t with 4 degrees of freedom
    held = sum(
        estimate(math.log(1.03) + 0.09 * rng.standard_t(4, blocks), rng).holds(1.03) for _ in range(300)
    )
    assert held >= 0.89 * 300


def test_many_blocks_are_resampled_in_slices_without_a_seam() -> None:
    values = np.random.default_rng(0).normal(0, 0.1, 5000)
    wide = estimate(values, np.random.default_rng(1))
    # sd of a 20 %-trimmed mean of a normal sample is about 1.06 / sqrt(n)
    assert wide.half_width == pytest.approx(1.96 * 0.1 * 1.06 / math.sqrt(5000), rel=0.15)


def test_the_robust_spread_is_a_standard_deviation_for_normal_noise() -> None:
    values = np.random.default_rng(0).normal(5, 0.3, 20_000)
    assert robust_sd(values) == pytest.approx(0.3, rel=0.03)
