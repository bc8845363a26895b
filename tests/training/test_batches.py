"""The order of the data."""

import pytest
import torch

from attnbench.errors import UsageError
from attnbench.training.batches import Batches
from attnbench.workloads import Split


def part(examples=50):
    return Split(torch.arange(examples)[:, None], torch.arange(examples))


def test_an_epoch_shows_each_example_at_most_once_in_full_batches():
    batches = Batches(part(), 8, seed=3)
    assert batches.steps_per_epoch == 6
    for epoch in range(2):
        seen = torch.cat([batches.indices(epoch * 6 + step) for step in range(6)])
        assert len(seen) == 48 and len(set(seen.tolist())) == 48


def test_epochs_and_seeds_differ_and_a_step_does_not_hang_on_what_was_asked_before():
    first, again, other = Batches(part(), 8, 3), Batches(part(), 8, 3), Batches(part(), 8, 4)
    forward = [first.indices(step).tolist() for step in range(12)]
    backward = [again.indices(step).tolist() for step in reversed(range(12))][::-1]
    assert forward == backward
    assert forward[:6] != forward[6:]
    assert forward[0] != other.indices(0).tolist()


def test_workers_and_micro_batches_cut_the_same_global_batch():
    batches = Batches(part(), 24, seed=0)
    whole = batches.indices(1)
    parts = [
        micro.targets for rank in range(2) for micro in batches.micro(1, rank=rank, workers=2, accumulate=3)
    ]
    assert [len(one) for one in parts] == [4] * 6
    assert torch.equal(torch.cat(parts), whole)


def test_measuring_batches_are_their_own_and_leave_the_training_order_alone():
    batches = Batches(part(), 8, seed=0)
    before = batches.indices(2)
    found = batches.measuring(4, 9)
    assert [len(one) for one in found] == [8] * 9
    assert len(torch.cat(found[:6]).unique()) == 48
    assert torch.equal(batches.indices(2), before)
    assert not torch.equal(batches.measuring(5, 1)[0], found[0])
    assert all(torch.equal(a, b) for a, b in zip(found, Batches(part(), 8, 0).measuring(4, 9), strict=True))


def test_a_batch_beyond_the_data_is_refused():
    with pytest.raises(UsageError, match=r"train\.batch 64 is more than the 50"):
        Batches(part(), 64, seed=0)
