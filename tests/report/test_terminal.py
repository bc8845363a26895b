"""The comparison in the terminal: the bars say what the figures say, at any width."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from attnbench.claims import compare
from attnbench.report.terminal import bar, comparison_table
from tests.claims.written import paired, write


@given(st.floats(-2, 2), st.floats(0, 2), st.sampled_from([15, 25]))
@settings(max_examples=200, deadline=None)
def test_a_bar_crosses_zero_exactly_when_its_interval_does(estimate, half, width):
    drawn = bar(estimate, estimate - half, estimate + half, axis=2.0, width=width)
    middle = width // 2
    assert len(drawn) == width and drawn.count("●") == 1
    if estimate - half > 2 / middle:  # by more than a cell
        assert all(cell in " │" for cell in drawn[: middle + 1])
    if estimate + half < -2 / middle:
        assert all(cell in " │" for cell in drawn[middle:])


def test_ends_beyond_the_axis_are_arrows_and_no_interval_is_a_dot():
    drawn = bar(0.0, -9.0, 9.0, axis=1.0)
    assert drawn[0] == "◄" and drawn[-1] == "►"
    assert set(bar(0.5, -math.inf, math.inf, axis=1.0)) <= set(" │●")


@pytest.mark.parametrize("width", [80, 100, 180])
def test_arm_difference_and_decision_are_there_at_any_width(tmp_path, width):
    frame = write(tmp_path, "s", paired({"attentiondrop_hard": (0.02, 0.004)}, "softmax", 6))
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(compare(frame, "test_accuracy", "softmax"), "s: ", width))
    text = console.export_text()
    for wanted in ("softmax", "attentiondrop_hard", "+2.00 [", "better"):
        assert wanted in text
