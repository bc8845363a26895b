"""Randomness: where draws come from, and that initial weights follow from seed and name alone."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from attnbench.attention import Draws, build, seed_parameters
from tests.attention.layers import layer, rows


def test_every_field_of_the_place_changes_the_draws():
    base = Draws(seed=1, step=2)
    places = [base, *(dataclasses.replace(base, **{f.name: 7}) for f in dataclasses.fields(Draws))]
    firsts = [torch.rand(4, generator=place.generator(0)).tolist() for place in places]
    firsts += [torch.rand(4, generator=base.generator(layer)).tolist() for layer in (1, "dropout.0")]
    assert all(a != b for a, b in itertools.combinations(firsts, 2))
    assert torch.rand(4, generator=Draws(1, 2).generator(0)).tolist() == firsts[0]


def test_the_seed_of_a_place_is_the_same_on_every_machine():
    assert Draws(1, 2, 3, 4, 5).generator("layer").initial_seed() == 5404671857000639214


@pytest.mark.parametrize("name", ["dropout", "dropconnect", "attentiondrop_hard", "attentiondrop_blur"])
def test_without_a_generator_the_default_one_is_used(name):
    built = layer(name)
    torch.manual_seed(0)
    first = built(rows())[0]
    second = built(rows())[0]
    torch.manual_seed(0)
    assert torch.equal(built(rows())[0], first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["dropout", "attentiondrop_hard", "attentiondrop_blur", "dropconnect"])
def test_all_precisions_draw_alike(name):
    outputs = [
        layer(name, dtype=dtype)(rows(dtype=dtype), generator=torch.Generator().manual_seed(3))[0].double()
        for dtype in (torch.float64, torch.float32)
    ]
    assert (outputs[0] - outputs[1]).abs().max() < 1e-4


def test_weights_follow_from_seed_and_name_and_not_from_the_arm():
    plain, lam = (build(name, width=8, heads=2, max_length=4) for name in ("softmax", "lam"))
    for one in (plain, lam):
        seed_parameters(one, 5)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, lam.state_dict()[name])
    assert not torch.equal(plain.q.weight, plain.k.weight)
    before = plain.q.weight.clone()
    seed_parameters(plain, 6)
    assert not torch.equal(plain.q.weight, before)


def test_a_parent_has_the_last_word_over_its_children():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = nn.Linear(3, 3)
            self.plain = nn.ParameterList([nn.Parameter(torch.full((2,), 7.0))])

        def reset_parameters(self):
            nn.init.ones_(self.child.bias)

    model = nn.Sequential(Parent())
    seed_parameters(model, 0)
    assert (model[0].child.bias == 1).all()
    assert (model[0].plain[0] == 7).all()  # no reset_parameters: what its construction gave


def test_initialising_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    seed_parameters(build("lam", width=8, heads=2), 0)
    # building draws from the global generator, initialising does not
    torch.random.set_rng_state(before)
    built = build("lam", width=8, heads=2)
    between = torch.random.get_rng_state()
    seed_parameters(built, 0)
    assert torch.equal(torch.random.get_rng_state(), between)
