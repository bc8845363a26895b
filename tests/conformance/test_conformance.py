"""Everything registered holds every check, in its main arms; and each check catches what it is named "
"after."""

import pytest
import torch
from torch import nn

from attnbench.attention import Mechanism, Parameters, mechanisms
from attnbench.conformance import CHECKS, Result, check
from attnbench.conformance.suite import run, subject_of
from attnbench.errors import UsageError

ARMS = [
    ("softmax", {}),
    ("dropout", {"p": 0.4}),
    ("dropconnect", {}),
    ("dropconnect", {"granularity": "batch", "maps": ["q", "out"]}),
    ("alibi", {}),
    ("relaxed", {}),
    ("relaxed", {"fuzzy_std": 0.2, "matched_inference": True}),
    ("attentiondrop_hard", {"k": 3, "p": 0.5}),
    ("attentiondrop_hard", {"k": 1.0, "p": 0.9, "mask_value": "neginf"}),
    ("attentiondrop_hard", {"k": 0.5, "p": 0.5, "mask_value": "rowmin"}),
    ("attentiondrop_hard", {"k": 0.5, "p": 0.5, "center_rows": True, "rescale": True}),
    ("attentiondrop_hard", {"k": 0.5, "p": 0.5, "granularity": "key"}),
    ("attentiondrop_hard", {"k": 0.5, "p": 0.5, "space": "prob"}),
    ("attentiondrop_blur", {}),
    ("attentiondrop_blur", {"w": 9, "sigma_max": 3.0, "edges": "zero"}),
    ("attentiondrop_blur", {"per_head": True}),
    ("attentiondrop_blur", {"space": "prob", "alpha": 0.5}),
    ("lam", {}),
    ("lam", {"init": "identity", "combine": "add"}),
    ("lam", {"activation": "2sigmoid", "per_head": True}),
    ("lam", {"scope": "single", "layer_scale": True}),
]


def test_every_registered_mechanism_is_checked():
    assert {name for name, _ in ARMS} == set(mechanisms())


@pytest.mark.parametrize(("name", "arm"), ARMS, ids=lambda value: str(value))
def test_holds_every_check(name, arm):
    failed = [f"{r.name}: {r.detail}" for r in check(name, **arm) if not r.passed]
    assert not failed


class Good(Mechanism):
    """Scales the logits by a learned factor: logits' = exp(s) logits, of shape (B,H,N,M); one product "
    "per entry."""

    name = "good"
    summary = "a learned temperature"

    def __init__(self, settings, shape):
        super().__init__(settings, shape)
        self.log = nn.Parameter(torch.zeros(()))

    def reset_parameters(self):
        nn.init.zeros_(self.log)

    def bias(self, c, logits):
        return logits * self.log.exp()

    def flops(self, n, m, training=False):
        return float(self.shape.heads * n * m)


def broken(**members):
    return type("Broken", (Good,), {"name": "broken", "__doc__": Good.__doc__, **members})


def zero_rows(self, c, weights):
    return weights + 0.1


def detached(self, c, logits):
    return logits * self.log.detach().exp()


def wrong_fused(self, c, plan):
    return plan.with_(q=plan.q * self.log.detach().exp())


def no_own_reset(self, settings, shape):
    Mechanism.__init__(self, settings, shape)
    self.log = nn.Parameter(torch.rand(()))


BROKEN = {
    "has_a_summary_equations_and_described_parameters": {"summary": ""},
    "output_has_the_shape_of_the_input": {"out": lambda self, c, merged: merged[:, :, :4]},
    "cross_attention_has_one_row_per_query": {"mix": lambda self, c, w, v: w.transpose(-1, -2) @ c.q},
    "the_map_has_its_shape_and_is_zero_where_nothing_may_be_attended": {"reweight": zero_rows},
    "padding_never_changes_the_output": {"heads": lambda self, c, heads: heads + c.v.mean(2, keepdim=True)},
    "future_never_changes_the_output": {
        "bias": lambda self, c, t: t * self.log.exp() - t.mean(-1, keepdim=True) * t
    },
    "rows_without_a_valid_key_give_zeros": {"bias": lambda self, c, t: t * self.log.exp() / c.visible.counts},
    "gradients_reach_every_parameter": {"bias": detached},
    "gradients_agree_with_finite_differences": {
        "bias": lambda self, c, t: t * self.log.exp() + (t - t.detach())
    },
    "a_generator_decides_every_draw": {"perturb": lambda self, c, t: t + torch.randn_like(t)},
    "evaluation_draws_nothing": {"bias": lambda self, c, t: t * self.log.exp() + torch.randn_like(t)},
    "fused_equals_reference": {"fuse_bias": wrong_fused},
    "bfloat16_stays_finite": {
        "bias": lambda self, c, t: t * self.log.exp() if t.dtype != torch.bfloat16 else t * torch.inf
    },
    "a_single_token_works": {"bias": lambda self, c, t: t * self.log.exp() / t.std(-1, keepdim=True)},
    "examples_of_a_batch_do_not_see_each_other": {
        "bias": lambda self, c, t: t * self.log.exp() / t.std(0, keepdim=True)
    },
    "decoding_token_by_token_equals_the_whole_pass": {
        "bias": lambda self, c, t: t * self.log.exp() + torch.arange(t.shape[-2])[:, None] * t.detach()
    },
    "initial_weights_follow_from_the_seed": {"reset_parameters": None, "__init__": no_own_reset},
    "its_flops_are_at_least_those_of_plain_attention": {"flops": lambda self, n, m, training=False: -1e9},
}


def test_a_good_mechanism_holds_every_check():
    results = check(Good)
    assert [r.name for r in results] == list(CHECKS)
    assert all(isinstance(r, Result) and r.passed for r in results), [r for r in results if not r.passed]


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("name", BROKEN)
def test_each_check_catches_what_it_is_named_after(name):
    result = run(name, subject_of(broken(**BROKEN[name]), {}))
    assert result.outcome == "failed"
    assert result.detail and "\n" not in result.detail


SOFTMAX = "what_acts_in_training_only_evaluates_as_softmax_to_the_bit"


def test_a_mechanism_that_changes_evaluation_behind_its_own_back_is_caught(monkeypatch):
    class Scaled(Mechanism):
        name = "scaled"

        def active(self, training):
            return ("bias",) if training else ()

        def bias(self, c, logits):
            return 2 * logits

    assert run(SOFTMAX, subject_of(Scaled, {})).outcome == "passed"
    assert run(SOFTMAX, subject_of(Good, {})).outcome == "does not apply"

    class Sneaky(Scaled):
        def __init__(self, settings, shape):
            super().__init__(settings, shape)
            self.answers = iter([("bias",), ("bias",)])

        def active(self, training):
            return next(self.answers, ())

    assert run(SOFTMAX, subject_of(Sneaky, {})).outcome == "failed"


def test_a_host_that_initialises_for_the_mechanism_is_caught(monkeypatch):
    from attnbench.hosts.block import Block

    def reset(self):
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    monkeypatch.setattr(Block, "reset_parameters", reset, raising=False)
    results = {r.name: r for r in check(Good)}
    assert (
        "overwrote block.attention.mechanism.good.log"
        in results["a_host_leaves_the_mechanism_its_own_initialisation"].detail
    )


def test_parameters_without_a_description_are_named():
    class Bare(Parameters):
        strength: float = 1.0

    result = check(broken(schema=Bare))[0]
    assert result.detail == "parameters without a description: strength"


def test_an_exception_in_a_mechanism_is_a_failure_with_its_place():
    def raises(self, c, logits):
        raise RuntimeError("no such luck")

    results = check(broken(bias=raises))
    failed = [r for r in results if not r.passed]
    assert len(failed) > 5
    assert all("RuntimeError: no such luck" in r.detail and "test_conformance.py" in r.detail for r in failed)


def test_wrong_targets_are_refused():
    with pytest.raises(UsageError, match="unknown mechanism 'softmx'"):
        check("softmx")
    with pytest.raises(UsageError, match="check takes a mechanism's name"):
        check(nn.Linear)
    with pytest.raises(UsageError, match="dropout: parameter 'p' is 3"):
        check("dropout", p=3)
