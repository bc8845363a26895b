"""Checks of what a mechanism owns: its state, its initialisation, its parameters, its cost by formula."""

from __future__ import annotations

import copy
import itertools
import pickle

import torch
from torch import nn

from attnbench.attention import AttentionLayer, seed_parameters
from attnbench.attention.draws import stable_seed
from attnbench.conformance.outcome import DoesNotApply, Failed, equal, hold
from attnbench.conformance.subject import HEADS, WIDTH, Subject, rows


def saving_and_loading_keeps_the_output(s: Subject) -> None:
    first, second = s.build(training=False, seed=0), s.build(training=False, seed=1)
    out, _ = first(rows())
    second.load_state_dict(first.state_dict())
    hold(torch.equal(second(rows())[0], out), "the output changed through state_dict and load_state_dict")
    hold(torch.equal(copy.deepcopy(first)(rows())[0], out), "a deep copy gives another output")
    try:
        state = pickle.loads(pickle.dumps(first.state_dict()))
    except Exception as error:
        raise Failed(f"the state does not pickle: {error!r}") from error
    hold(state.keys() == first.state_dict().keys(), "the state changed by pickling")


def initial_weights_follow_from_the_seed(s: Subject) -> None:
    first, second = s.build(seed=0, randomised=False), s.build(seed=1, randomised=False)
    for carried in (first, second):
        seed_parameters(carried, 11)
    hold(
        equal(first, second),
        "two builds seeded alike differ: a module that owns parameters lacks reset_parameters()",
    )
    before = torch.random.get_rng_state()
    seed_parameters(first, 11)
    hold(torch.equal(before, torch.random.get_rng_state()), "initialising used the global random state")


def a_host_leaves_the_mechanism_its_own_initialisation(s: Subject) -> None:
    """In a whole encoder, every module of the mechanism still has what its own `reset_parameters` gave it."""
    own = {n: p.detach().clone() for n, p in s.build(randomised=False).own_parameters().items()}
    if not own:
        raise DoesNotApply("it has no parameters")
    network = _Hosted(s)
    seed_parameters(network, 3)
    after = {
        n: p.detach().clone()
        for n, p in network.named_parameters()
        if n.startswith("block.attention.mechanism")
    }
    modules = dict(network.named_modules())
    for name in sorted(modules, key=lambda n: -n.count(".")):
        reset = getattr(modules[name], "reset_parameters", None)
        if name.startswith("block.attention.mechanism") and callable(reset):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stable_seed(3, name))
                reset()
    changed = [n for n, t in after.items() if not torch.equal(t, network.get_parameter(n))]
    hold(not changed, f"the host overwrote {', '.join(changed)}")


def whatever_is_not_its_own_is_what_plain_attention_has(s: Subject) -> None:
    carried = s.build()
    own = {n.removeprefix("layer.") for n in carried.own_parameters()}
    left = {n for n, _ in carried.layer.named_parameters()} - own
    plain = {f"{map_}.{part}" for map_ in ("q", "k", "v", "out") for part in ("weight", "bias")}
    hold(left == plain, f"beside its own parameters the layer has {sorted(left ^ plain)}")
    count = sum(p.numel() for p in carried.layer.parameters()) - sum(
        p.numel() for n, p in carried.layer.named_parameters() if n in own
    )
    hold(count == 4 * (WIDTH * WIDTH + WIDTH), f"{count} parameters of the projections")


def its_flops_are_at_least_those_of_plain_attention(s: Subject) -> None:
    carried = s.build()
    plain = s.plain(carried, "auto")
    for n, training in itertools.product((1, 8, 64), (False, True)):
        ours = carried.layer.flops(n, training=training)
        hold(ours == ours and 0 < ours < float("inf"), f"flops({n}) is {ours}")
        cheaper = (
            "project" in s.mechanism.stages or "score" in s.mechanism.stages or "mix" in s.mechanism.stages
        )
        hold(
            cheaper or ours >= plain.flops(n),
            f"flops({n}) is {ours}, below plain attention's {plain.flops(n)}",
        )


class _Hosted(nn.Module):
    """The mechanism in a block of the encoder host."""

    def __init__(self, s: Subject) -> None:
        super().__init__()
        from attnbench.hosts import HostConfig
        from attnbench.hosts.block import Block

        layer: AttentionLayer = s.build(dtype=torch.float32, randomised=False).layer
        self.block = Block(HostConfig(kind="encoder", layers=1, width=WIDTH, heads=HEADS), layer)
