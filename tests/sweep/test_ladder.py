"""Halving decides by scores alone: any order of arrival, any interruption, failures included."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from attnbench.sweep.ladder import GO, STOP, Ladder

MEMBERS = [f"t{number}" for number in range(9)]


def run(scores, order_seed, *, failing=(), members=MEMBERS, rungs=(3, 9, 27), reduction=3):
    """Train every member one rung at a time in a random order; the last rung that each reached."""
    ladder, stream = Ladder(rungs, members, reduction), random.Random(order_seed)
    position, stopped = dict.fromkeys(members, -1), set()
    while True:
        ready = [
            m
            for m in members
            if m not in stopped
            and position[m] < len(rungs) - 1
            and ladder.verdict(m) == GO
            and m not in ladder.failed
        ]
        if not ready:
            return {member: position[member] for member in members}
        member = stream.choice(ready)
        if (member, position[member] + 1) in failing:
            verdicts = ladder.fail(member)
        else:
            position[member] += 1
            verdicts = ladder.report(member, rungs[position[member]], scores[member])
        stopped |= {one for one, verdict in verdicts.items() if verdict == STOP}


def test_nine_members_train_six_three_and_one_to_the_rungs():
    reached = run({member: number for number, member in enumerate(MEMBERS)}, 0)
    assert sorted(reached.values()) == [0] * 6 + [1] * 2 + [2]
    assert reached["t8"] == 2 and reached["t7"] == reached["t6"] == 1


@given(
    st.lists(st.floats(0, 1), min_size=9, max_size=9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.sets(st.tuples(st.sampled_from(MEMBERS), st.integers(0, 2)), max_size=4),
)
def test_the_outcome_does_not_depend_on_the_order_of_arrival(values, first, second, failing):
    scores = dict(zip(MEMBERS, values, strict=True))
    assert run(scores, first, failing=failing) == run(scores, second, failing=failing)


def test_nan_and_failures_count_as_the_worst_and_nobody_waits_for_them():
    scores = dict.fromkeys(MEMBERS, 0.5) | {"t0": math.nan, "t1": math.inf}
    reached = run(scores, 1, failing={("t2", 0), ("t3", 1)})
    assert reached["t0"] == reached["t1"] == 0 and reached["t2"] == -1 and max(reached.values()) == 2


def test_ties_fall_to_the_smaller_id():
    reached = run(dict.fromkeys(MEMBERS, 1.0), 3)
    assert reached["t0"] == 2 and reached["t1"] == reached["t2"] == 1


def test_a_member_that_reported_waits_and_a_second_report_of_a_rung_changes_nothing():
    ladder = Ladder([1, 3], ["a", "b", "c"], 3)
    assert ladder.report("a", 1, 0.9) == {} and ladder.verdict("a") is None
    assert ladder.report("a", 1, 0.1) == {} and ladder.verdict("a") is None
    assert ladder.verdict("b") == GO
    assert ladder.report("b", 1, 0.5) == {}
    assert ladder.report("c", 1, 0.5) == {"a": GO, "b": STOP, "c": STOP}
    assert ladder.verdict("a") == GO and ladder.verdict("b") == STOP


def test_one_member_never_waits():
    assert run({"a": 0.0}, 0, members=["a"]) == {"a": 2}
