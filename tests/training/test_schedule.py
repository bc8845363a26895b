"""The learning rate."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.training.schedule import learning_rate


def rates(schedule, total=100, warmup=0.1, peak=0.5):
    return [learning_rate(s, total=total, peak=peak, warmup=warmup, schedule=schedule) for s in range(total)]


def test_the_warm_up_rises_linearly_to_the_peak():
    found = rates("cosine")
    assert found[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert found[10] == pytest.approx(0.5)


def test_the_constant_schedule_stays_and_the_others_fall_to_nearly_zero():
    assert set(rates("constant")[10:]) == {0.5}
    assert rates("linear")[55] == pytest.approx(0.25)
    assert rates("cosine")[55] == pytest.approx(0.25)
    for schedule in ("linear", "cosine"):
        found = rates(schedule)
        assert 0 < found[-1] < 0.02 and all(a >= b for a, b in pairwise(found[10:]))


@given(
    total=st.integers(1, 300),
    warmup=st.floats(0, 0.99),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
)
def test_every_rate_lies_above_zero_and_at_most_at_the_peak(total, warmup, schedule):
    assert all(0 < rate <= 0.5 for rate in rates(schedule, total, warmup))
