"""The verdict rules at their edges: reproduced, refuted, inconclusive, and what a proxy may say."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.claims import judging
from attnbench.claims.statistics import Interval, paired_interval


def interval(low, high, n=12):
    """A t interval with these ends."""
    from scipy import stats

    estimate, half = (low + high) / 2, (high - low) / 2
    error = half / stats.t.ppf(0.975, n - 1)
    p = float(2 * stats.t.sf(abs(estimate) / error, n - 1))
    return Interval(estimate, low, high, n, error * math.sqrt(n), p)


def judge(low, high, scope="matched", paper=1.0, n=12, **more):
    given = interval(low, high, n)
    return judging.judge_difference(given, given.p, scope=scope, paper=paper, **more)


@pytest.mark.parametrize(
    ("low", "high", "direction", "size", "label"),
    [
        (0.6, 1.4, "reproduced", "reproduced", "reproduced"),
        (0.1, 0.4, "reproduced", "refuted", "reproduced"),  # right direction, size refuted: both are said
        (2.5, 3.0, "reproduced", "inconclusive", "reproduced"),  # larger than twice the paper's
        (-0.2, 0.4, "inconclusive", "refuted", "refuted"),  # wholly below half of it
        (-1.0, -0.2, "refuted", "refuted", "refuted"),
        (-0.5, 1.5, "inconclusive", "inconclusive", "inconclusive"),
    ],
)
def test_a_matched_run_is_judged_by_direction_and_size(low, high, direction, size, label):
    found = judge(low, high)
    assert (found.direction, found.size, found.label) == (direction, size, label)


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [
        (0.1, 0.4, "reproduced"),
        (-0.2, 0.4, "inconclusive"),
        (-1.0, -0.2, "refuted"),
        (0.6, 1.4, "reproduced"),
    ],
)
def test_a_proxy_has_no_size_and_never_refutes_the_papers_own_numbers(low, high, label):
    found = judge(low, high, scope="proxy")
    assert found.size is None and found.label == label
    if label != "inconclusive":
        assert "the paper's own model and data were not run" in found.reason


def test_direction_needs_the_adjusted_p_although_the_interval_excludes_zero():
    found = judging.judge_difference(interval(0.05, 1.0), 0.08, scope="proxy", paper=1.0)
    assert found.direction == "inconclusive" and "Holm-adjusted p 0.080" in found.reason


def test_fewer_than_five_seeds_never_decide():
    found = judge(0.6, 1.4, n=4)
    assert found.label == "inconclusive" and "at least 5" in found.reason


def test_a_failed_gate_makes_any_interval_inconclusive_and_is_the_reason():
    found = judge(0.6, 1.4, problems=["unequal tuning: softmax 1, hard 3"])
    assert (found.direction, found.size, found.label) == ("inconclusive", "inconclusive", "inconclusive")
    assert "unequal tuning" in found.reason


def test_an_inconclusive_verdict_says_how_many_more_seeds_and_what_the_papers_size_needs():
    found = judge(-0.5, 1.0, scope="proxy")
    assert "more seeds would decide it" in found.reason and "80 % power" in found.reason


def test_a_later_look_needs_a_smaller_p():
    given = interval(0.02, 1.0)
    assert 0.025 < given.p < 0.05
    assert judging.judge_difference(given, given.p, scope="proxy").label == "reproduced"
    assert judging.judge_difference(given, given.p, scope="proxy", alpha=0.025).label == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [(0.3, 0.9, "reproduced"), (0.05, 0.15, "refuted"), (-0.5, 0.1, "refuted"), (0.1, 0.25, "inconclusive"),
     (-0.1, 0.9, "inconclusive")],
)  # fmt: skip
def test_a_floor_asks_for_an_effect_that_counts(low, high, label):
    """LAM: reproduced wholly above 0 with a mean of at least the floor, refuted wholly below the floor."""
    assert judge(low, high, scope="proxy", paper=None, floor=0.2).label == label


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [
        (0.01, 0.05, "reproduced"),
        (0.055, 0.065, "inconclusive"),
        (0.07, 0.2, "refuted"),
        (-0.1, 0.06, "reproduced"),
    ],
)
def test_a_cost_is_held_against_twice_the_papers(low, high, label):
    assert judging.judge_at_most(low, high, paper=0.03).label == label


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [(0.46, 0.55, "reproduced"), (0.40, 0.50, "inconclusive"), (0.2, 0.4, "refuted"), (0.7, 0.8, "refuted")],
)
def test_an_equality_is_reproduced_inside_and_refuted_outside(low, high, label):
    assert judging.judge_inside(low, high, (0.45, 0.60)).label == label


@pytest.mark.parametrize(
    ("low", "high", "label"), [(0.8, 0.99, "reproduced"), (1.01, 1.2, "refuted"), (0.9, 1.1, "inconclusive")]
)
def test_reduced_cost_means_below_one(low, high, label):
    assert judging.judge_below(low, high, 1.0).label == label


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [
        (-0.15, -0.06, "reproduced"),
        (-0.04, 0.5, "refuted"),
        (0.5, 9.0, "refuted"),
        (-0.12, 0.03, "inconclusive"),
        (-0.50, -0.30, "inconclusive"),  # falls, but by more than twice the claim
        (-0.08, -0.02, "reproduced"),
    ],
)
def test_gradient_variance_has_to_fall_by_the_papers_order(low, high, label):
    assert judging.judge_variance(interval(low, high)).label == label


ends = st.tuples(st.floats(-3, 3), st.floats(0.01, 3)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(ends, st.floats(0.1, 2), st.sampled_from(["proxy", "matched"]))
@settings(max_examples=200, deadline=None)
def test_whatever_the_figures_the_label_follows_the_sign_and_turns_with_it(pair, paper, scope):
    found, turned = (
        judge(*pair, scope=scope, paper=paper),
        judge(-pair[1], -pair[0], scope=scope, paper=paper),
    )
    assert found.label in judging.LABELS
    if found.direction == "reproduced":
        assert turned.direction == "refuted" and turned.label == "refuted"
    if scope == "proxy" and found.label == "refuted":
        assert pair[1] < 0


def test_the_truth_is_rarely_refuted_and_zero_is_rarely_reproduced():
    import numpy as np

    generator = np.random.default_rng(7)

    def labels(mean):
        found = [paired_interval(row) for row in generator.normal(mean, 1.0, (300, 12))]
        return [judging.judge_difference(i, i.p, scope="matched", paper=1.0).label for i in found]

    assert np.mean([label == "reproduced" for label in labels(0.0)]) < 0.06
    assert np.mean([label == "refuted" for label in labels(1.0)]) < 0.06
