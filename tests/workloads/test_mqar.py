"""MQAR against its definition, by brute force (Zoology, arXiv 2312.04927)."""

import numpy as np
import pytest

from attnbench.workloads import IGNORED, PARTS, load
from attnbench.workloads.mqar import MQAR, distinct


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("noise", [False, True])
def test_every_key_is_asked_once_and_answered_by_its_own_value(noise: bool, passes: int) -> None:
    spec = {"name": "mqar", "pairs": 5, "passes": passes, "random_non_queries": noise}
    workload = load({**spec, "examples": 300, "test_examples": 50})
    context = 2 * 5 * passes
    for part in PARTS:
        split = workload.split(part)
        for tokens, targets in zip(split.inputs.tolist(), split.targets.tolist(), strict=True):
            value_of = dict(zip(tokens[0:10:2], tokens[1:10:2], strict=True))
            assert len(value_of) == len(set(value_of.values())) == 5
            assert tokens[:context] == tokens[:10] * passes
            assert all(1 <= key < 128 <= value < 256 for key, value in value_of.items())
            asked = {place: target for place, target in enumerate(targets) if target != IGNORED}
            assert len(asked) == 5 and {tokens[place] for place in asked} == set(value_of)
            for place, target in asked.items():
                assert place >= context and (place - context) % 2 == 0
                assert target == value_of[tokens[place]]
            if not noise:
                assert {tokens[place] for place in range(context, 64) if place not in asked} == {0}


def test_filler_is_uniform_over_the_whole_vocabulary() -> None:
    workload = load({"name": "mqar", "examples": 4000, "test_examples": 10})
    split = workload.split("train")
    # odd places behind the context never hold a query
    counts = np.bincount(split.inputs[:, 9::2].flatten().numpy(), minlength=256)
    expected = counts.sum() / 256
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 6 * np.sqrt(2 * 255)


def test_gaps_follow_the_power_law_of_sequential_draws_without_replacement() -> None:
    """The first two of a draw, against the exact probabilities p_i and p_i p_j / (1 - p_i)."""
    random, rows, places, power = np.random.default_rng(0), 200_000, 6, 0.01
    share = np.arange(1, places + 1) ** (power - 1.0)
    share /= share.sum()
    drawn = distinct(random, np.log(share), rows, 3)
    assert all(len(set(row)) == 3 for row in drawn[:500].tolist())
    counts = np.zeros((places, places))
    np.add.at(counts, (drawn[:, 0], drawn[:, 1]), 1)
    exact = share[:, None] * share[None, :] / (1 - share[:, None])
    np.fill_diagonal(exact, 0)
    deviation = np.sqrt(exact * (1 - exact) / rows)
    assert (np.abs(counts / rows - exact) <= 5 * deviation + 1e-12).all()


def test_the_first_pairs_query_comes_nearest_on_average() -> None:
    """Gaps are dealt to the pairs in the order drawn, as the paper's generator does."""
    inputs, _ = MQAR(random_non_queries=False).examples_of(np.random.default_rng(1), 4000)
    places = np.stack([np.argmax(inputs[:, 8:] == inputs[:, [2 * pair]], axis=1) for pair in range(4)])
    means = places.mean(axis=1)
    assert (np.diff(means) > 0).all()


def test_a_task_with_too_few_different_examples_is_refused() -> None:
    from attnbench.errors import UsageError

    tiny = {"name": "mqar", "vocabulary": 6, "length": 4, "pairs": 1, "random_non_queries": False}
    with pytest.raises(UsageError, match="too few different examples"):
        load(tiny).split("test")
