"""Compositions: which are refused and with which words, and that every allowed pair means the same in "
"both paths."""

import itertools

import pytest
import torch

from attnbench.attention import Mechanism, build, canonical, mechanisms, register, registry
from attnbench.errors import UsageError
from tests.attention.layers import HEADS, LENGTH, WIDTH, layer, padding, rows, run

ARMS = {
    "softmax": {},
    "alibi": {},
    "relaxed": {"gamma": 0.3},
    "relaxed fuzzy": {"fuzzy_std": 0.2},
    "dropout": {},
    "dropconnect": {},
    "lam": {},
    "attentiondrop_hard": {"k": 3, "p": 0.5},
    "attentiondrop_hard neginf": {"k": 3, "p": 0.5, "mask_value": "neginf"},
    "attentiondrop_hard prob": {"k": 3, "p": 0.5, "space": "prob"},
    "attentiondrop_blur": {"sigma_max": 2.0},
    "attentiondrop_blur prob": {"space": "prob"},
}
PAIRS = [pair for pair in itertools.permutations(ARMS, 2) if pair[0].split()[0] != pair[1].split()[0]]


def spec_of(names):
    return [{"name": name.split()[0], **ARMS[name]} for name in names]


def test_every_registered_mechanism_is_in_the_pairs():
    assert {name.split()[0] for name in ARMS} == set(mechanisms())


@pytest.mark.parametrize("names", [*((name,) for name in ARMS), *PAIRS], ids=" then ".join)
def test_every_allowed_composition_means_the_same_in_both_paths(names):
    """Value and gradient, causal and not, with padding (empty rows included), training and evaluation, "
    "in two precisions."""
    spec = spec_of(names)
    try:
        canonical(spec)
    except UsageError as error:
        assert all(name.split()[0] in str(error) for name in names)
        return
    modes = itertools.product(
        (False, True), (None, padding()), ((torch.float64, 1e-9), (torch.float32, 1e-5)), (True, False)
    )
    for causal, mask, (dtype, tolerance), training in modes:
        outputs = []
        for kernel in ("fused", "auto", "reference"):
            built = layer(
                spec, causal=causal, kernel="auto" if kernel == "fused" else kernel, dtype=dtype
            ).train(training)
            built.kernel = kernel
            try:
                outputs.append(run(built, rows(dtype=dtype), key_mask=mask))
            except UsageError as error:
                assert kernel == "fused" and "has no fused form" in str(error)
        *others, reference = outputs
        for other in others:
            for a, b in zip(other[:2], reference[:2], strict=True):
                assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


@pytest.mark.parametrize(
    "spec", [["attentiondrop_blur", "relaxed"], ["alibi", "relaxed"], ["dropconnect", "alibi"]], ids=str
)
def test_what_can_be_fused_together_is(spec):
    built = layer(spec, kernel="fused")
    assert "reference" not in run(built, rows())[2].stats["path"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            ["dropout", "relaxed"],
            r"relaxed requires rows_sum_to_one, which dropout breaks before it; list relaxed first",
        ),
        (["dropout", {"name": "dropout", "p": 0.2}], r"dropout is listed twice"),
        (
            [{"name": "attentiondrop_hard", "mask_value": "neginf"}, "attentiondrop_blur"],
            r"attentiondrop_blur requires logits_finite, which attentiondrop_hard breaks before it; list "
            r"attentiondrop_blur first",
        ),
    ],
    ids=str,
)
def test_conflicts_name_both(spec, words):
    with pytest.raises(UsageError, match=words):
        canonical(spec)
    with pytest.raises(UsageError, match=words):
        build(spec, width=8, heads=2)


def test_what_breaks_later_than_it_is_needed_is_allowed():
    canonical(["relaxed", "dropout"])
    canonical(["attentiondrop_blur", {"name": "attentiondrop_hard", "mask_value": "neginf"}])


def test_the_same_mechanism_may_be_listed_for_different_layers():
    def entry(layers, gamma):
        return {"name": "relaxed", "layers": layers, "gamma": gamma}

    spec = canonical([entry([0, 2], 0.1), entry([1], 0.2)])
    assert [build(spec, width=8, heads=2, layer=i).mechanism["relaxed"].settings.gamma for i in range(3)] == [
        0.1,
        0.2,
        0.1,
    ]
    canonical([{**entry("all", 0.1), "sites": ["cross"]}, {**entry("all", 0.2), "sites": ["encoder_self"]}])
    for other in ("all", [0, 2], {"every": 2}):
        with pytest.raises(UsageError, match="relaxed is listed twice"):
            canonical([entry([2], 0.1), entry(other, 0.2)])
    canonical([entry([1], 0.1), entry({"every": 2}, 0.2)])


@pytest.fixture
def strangers(monkeypatch):
    """Two mechanisms that replace the same single stage, and one that adds slots."""
    mechanisms()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    @register
    class Linear(Mechanism):
        name = "linear_rows"
        breaks = frozenset({"rows_sum_to_one"})

        def normalise(self, c, logits):
            return logits.relu()

    @register
    class Slots(Mechanism):
        name = "more_slots"
        breaks = frozenset({"keys_in_order"})

        def extend(self, c, k, v):
            return k, v


def test_a_single_stage_is_replaced_once(strangers):
    with pytest.raises(UsageError, match="softmax and linear_rows both replace the stage 'normalise'"):
        canonical(["softmax", "linear_rows"])


@pytest.mark.parametrize("order", [1, -1])
def test_a_stage_that_comes_first_breaks_what_a_later_one_needs_in_any_order_of_the_list(strangers, order):
    with pytest.raises(
        UsageError,
        match="relaxed requires rows_sum_to_one, which linear_rows breaks before it; leave one out",
    ):
        canonical(["linear_rows", "relaxed"][::order])
    with pytest.raises(
        UsageError, match="attentiondrop_blur requires keys_in_order, which more_slots breaks"
    ):
        canonical(["more_slots", "attentiondrop_blur"][::order])


def test_what_only_the_fused_form_needs_refuses_no_composition():
    built = layer(["lam", "attentiondrop_blur"])
    assert run(built, rows())[2].stats["path"] == "reference"
    assert built.shape.width == WIDTH and built.shape.heads == HEADS and LENGTH > 1
