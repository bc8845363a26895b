"""Statistics against independent implementations (scipy, statsmodels), worked cases and simulated truth."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from attnbench.claims import statistics as s

values_of_seeds = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=30)
samples = values_of_seeds.filter(lambda values: np.ptp(values) > 1e-2)


@given(samples)
@settings(max_examples=60, deadline=None)
def test_the_paired_interval_is_scipys_one_sample_t_interval(values):
    ours = s.paired_interval(values)
    theirs = stats.ttest_1samp(values, 0)
    low, high = theirs.confidence_interval(0.95)
    assert ours.low == pytest.approx(low, abs=1e-9) and ours.high == pytest.approx(high, abs=1e-9)
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert ours.decided == (ours.p < 0.05)


@given(samples, st.floats(0.1, 10), st.floats(-3, 3))
@settings(max_examples=60, deadline=None)
def test_the_interval_follows_a_change_of_unit_and_turns_with_the_sign(values, factor, shift):
    ours = s.paired_interval(values)
    scaled = s.paired_interval([v * factor for v in values])
    assert scaled.high == pytest.approx(ours.high * factor, rel=1e-6, abs=1e-9)
    turned = ours.scaled(-1)
    assert (turned.low, turned.high) == (-ours.high, -ours.low)
    moved = s.paired_interval([v + shift for v in values])
    assert moved.high - moved.low == pytest.approx(ours.high - ours.low, rel=1e-6)


def test_coverage_of_the_95_percent_interval_is_95_percent():
    generator = np.random.default_rng(0)
    for n in (3, 5, 12):
        draws = generator.normal(0.7, 2.0, (4000, n))
        inside = [(i := s.paired_interval(row)).low <= 0.7 <= i.high for row in draws]
        assert abs(np.mean(inside) - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 4000)


def test_one_seed_or_none_decides_nothing():
    for values in ([], [3.0]):
        interval = s.paired_interval(values)
        assert (interval.low, interval.high) == (-math.inf, math.inf)
        assert math.isnan(interval.p) and not interval.decided


def test_equal_differences_are_a_point():
    assert s.paired_interval([0.5, 0.5, 0.5]).decided
    assert s.paired_interval([0.0, 0.0, 0.0]).p == 1.0


def test_holm_gives_the_worked_example_of_its_textbook():
    # Four p values 0.01, 0.04, 0.03, 0.005: sorted .005*4, .01*3, .03*2, .04*1, then the running maximum.
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=10, deadline=None)
def test_holm_is_statsmodels_holm(ps):
    assert s.holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=80, deadline=None)
def test_holm_is_never_below_the_raw_p_never_above_bonferroni_and_keeps_the_order(ps):
    adjusted = s.holm(ps)
    for p, a in zip(ps, adjusted, strict=True):
        assert p - 1e-12 <= a <= min(1.0, p * len(ps)) + 1e-12
    order = np.argsort(ps, kind="stable")
    assert all(adjusted[a] <= adjusted[b] + 1e-12 for a, b in itertools.pairwise(order))


def test_an_untested_member_stays_nan_and_costs_the_family_nothing():
    assert s.holm([0.02, math.nan, 0.5])[0] == pytest.approx(0.04)
    assert math.isnan(s.holm([0.02, math.nan, 0.5])[1])
    assert s.holm([]) == []


def test_holm_holds_the_family_error_under_no_effect():
    generator = np.random.default_rng(1)
    families = generator.normal(0, 1, (1500, 6, 5))
    wrong = [min(s.holm([s.paired_interval(arm).p for arm in family])) < 0.05 for family in families]
    assert np.mean(wrong) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


@given(samples, st.floats(0.05, 3))
@settings(max_examples=60, deadline=None)
def test_equivalence_is_statsmodels_paired_tost(values, margin):
    ours = s.equivalence(values, margin)
    p, *_ = ttost_paired(np.asarray(values), np.zeros(len(values)), -margin, margin)
    assert ours.p == pytest.approx(float(p), abs=1e-12)


@given(samples, st.floats(0.05, 3))
@settings(max_examples=60, deadline=None)
def test_equivalence_means_that_the_90_percent_interval_lies_inside_the_margin(values, margin):
    interval = s.paired_interval(values, 0.90)
    result = s.equivalence(values, margin)
    assert result.equivalent == (-margin < interval.low and interval.high < margin)
    assert result.not_worse == (interval.low > -margin)


def test_equivalence_wrongly_claimed_at_the_margin_is_five_percent():
    generator = np.random.default_rng(2)
    wrong = [s.equivalence(row, 1.0).equivalent for row in generator.normal(1.0, 0.5, (3000, 10))]
    assert np.mean(wrong) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


@given(st.integers(2, 200), st.floats(0.05, 3))
@settings(max_examples=60, deadline=None)
def test_power_is_statsmodels_power_where_that_has_a_value(n, effect):
    theirs = TTestPower().power(effect, n, 0.05)
    assert math.isnan(theirs) or s.power(n, effect) == pytest.approx(float(theirs), abs=2e-3)


@given(st.floats(0.2, 3), st.floats(0.3, 3))
@settings(max_examples=40, deadline=None)
def test_seeds_for_power_are_the_fewest_that_reach_it(sd, effect):
    n = s.seeds_for_power(sd, effect)
    assert s.power(n, effect / sd) >= 0.8
    assert n == 2 or s.power(n - 1, effect / sd) < 0.8


def test_seeds_for_power_reaches_the_promised_power_in_simulation():
    n = s.seeds_for_power(sd=1.6, effect=1.0)
    assert 20 <= n <= 25  # facts: about 20 by the normal approximation for one point at sd 1.6
    draws = np.random.default_rng(3).normal(1.0, 1.6, (3000, n))
    seen = np.mean([s.paired_interval(row).p < 0.05 for row in draws])
    assert seen == pytest.approx(0.8, abs=0.03)


def test_seeds_for_a_half_width_are_the_fewest_that_reach_it():
    n = s.seeds_for_half_width(1.6, 1.0)
    wide, narrow = (stats.t.ppf(0.975, m - 1) * 1.6 / math.sqrt(m) for m in (n - 1, n))
    assert narrow <= 1.0 < wide


def test_the_noise_floor_is_the_effect_that_the_seeds_have_power_for():
    floor = s.smallest_effect(1.6, 12)
    assert TTestPower().power(floor / 1.6, 12, 0.05) == pytest.approx(0.8, abs=2e-3)
    assert math.isnan(s.smallest_effect(1.6, 1))


def test_the_further_seeds_asked_for_would_decide_it():
    interval = s.paired_interval([1.0, -1.0, 2.0, 0.5, -0.4])
    assert not interval.decided
    n = interval.n + s.more_seeds(interval)
    assert stats.t.ppf(0.975, n - 1) * interval.sd / math.sqrt(n) <= interval.estimate
    assert s.more_seeds(s.paired_interval([1.0])) is None
    assert s.more_seeds(s.paired_interval([1.0, 1.1, 0.9])) == 0


def test_a_known_claim_size_needs_fewer_seeds_than_an_effect_near_zero():
    interval = s.paired_interval([0.9, -1.0, 1.1, -0.9, 0.1])
    assert s.more_seeds(interval, paper=4.0) < s.more_seeds(interval)


def test_looks_spend_alpha_so_that_a_zero_effect_is_rarely_called_reproduced():
    generator = np.random.default_rng(4)
    called = 0
    for row in generator.normal(0, 1, (2000, 20)):
        for look, n in enumerate((5, 10, 15, 20), start=1):
            interval = s.paired_interval(row[:n])
            if interval.estimate > 0 and interval.p < s.alpha_of_look(look):
                called += 1
                break
    assert called / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert s.alpha_of_look(1) == 0.05 and s.alpha_of_look(3) == 0.0125
