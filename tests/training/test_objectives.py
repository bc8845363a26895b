"""R-Drop and consistency against sums written out, and what lambda and equal draws must do."""

import math

import pytest
import torch
from torch import nn

from attnbench.attention import Draws
from attnbench.hosts import HostOutput
from attnbench.training.loss import training_loss
from attnbench.training.objectives import Consistency, RDrop, build_objective, canonical_objective
from attnbench.workloads import Split

torch.manual_seed(0)
LOGITS = [torch.randn(5, 3, dtype=torch.float64) for _ in range(2)]
TARGETS = torch.tensor([0, 2, 1, 1, 0])


def by_hand(p_of, q_of):
    """KL(p || q) summed over classes, averaged over examples, in plain Python."""
    total = 0.0
    for p_row, q_row in zip(p_of.softmax(-1).tolist(), q_of.softmax(-1).tolist(), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(p_row, q_row, strict=True))
    return total / len(p_of)


def likelihoods():
    return [
        sum(-math.log(row[t]) for row, t in zip(one.softmax(-1).tolist(), TARGETS.tolist(), strict=True)) / 5
        for one in LOGITS
    ]


def test_r_drop_is_the_mean_likelihood_plus_alpha_times_the_mean_of_both_directions():
    a, b = likelihoods()
    kl = (by_hand(*LOGITS) + by_hand(*LOGITS[::-1])) / 2
    assert RDrop(alpha=0.7).loss(LOGITS, TARGETS).item() == pytest.approx((a + b) / 2 + 0.7 * kl, rel=1e-5)
    assert RDrop(alpha=0.7, task="sum").loss(LOGITS, TARGETS).item() == pytest.approx(
        a + b + 0.7 * kl, rel=1e-5
    )


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("forward", by_hand(*LOGITS)),
        ("backward", by_hand(*LOGITS[::-1])),
        ("symmetric", (by_hand(*LOGITS) + by_hand(*LOGITS[::-1])) / 2),
    ],
)
def test_consistency_adds_the_divergence_of_its_direction(direction, expected):
    task = sum(likelihoods()) / 2
    found = Consistency(weight=0.5, direction=direction).loss(LOGITS, TARGETS).item()
    assert found == pytest.approx(task + 0.5 * expected, rel=1e-5)
    mean = Consistency(weight=0.5, direction=direction, reduction="mean").loss(LOGITS, TARGETS).item()
    assert mean == pytest.approx(task + 0.5 * expected / 3, rel=1e-5)


@pytest.mark.parametrize("objective", [RDrop(alpha=2.0), Consistency(weight=2.0)])
def test_identical_draws_give_zero_divergence(objective):
    same = [LOGITS[0], LOGITS[0].clone()]
    assert objective.loss(same, TARGETS).item() == pytest.approx(likelihoods()[0], rel=1e-5)


@pytest.mark.parametrize("objective", [RDrop(alpha=0.0), Consistency(weight=0.0)])
def test_a_weight_of_zero_gives_no_gradient_from_the_divergence(objective):
    held = [one.clone().requires_grad_() for one in LOGITS]
    objective.loss(held, TARGETS).backward()
    plain = [one.clone().requires_grad_() for one in LOGITS]
    sum(nn.functional.cross_entropy(one, TARGETS) / 2 for one in plain).backward()
    for with_objective, without in zip(held, plain, strict=True):
        assert torch.allclose(with_objective.grad, without.grad, atol=1e-7)


@pytest.mark.parametrize(("stopped", "constant"), [("first", 0), ("second", 1)])
def test_a_stopped_pass_gets_the_gradient_of_its_task_loss_alone(stopped, constant):
    held = [one.clone().requires_grad_() for one in LOGITS]
    Consistency(weight=3.0, stop_gradient=stopped).loss(held, TARGETS).backward()
    plain = [one.clone().requires_grad_() for one in LOGITS]
    sum(nn.functional.cross_entropy(one, TARGETS) / 2 for one in plain).backward()
    assert torch.allclose(held[constant].grad, plain[constant].grad, atol=1e-6)
    assert not torch.allclose(held[1 - constant].grad, plain[1 - constant].grad, atol=1e-3)


def test_ignored_targets_count_in_no_term():
    logits = [one[None].repeat(2, 1, 1) for one in LOGITS]
    targets = torch.stack([TARGETS, torch.full_like(TARGETS, -100)])
    for objective in (RDrop(), Consistency()):
        assert objective.loss(logits, targets).item() == pytest.approx(
            objective.loss(LOGITS, TARGETS).item(), rel=1e-6
        )


def test_canonical_writes_every_parameter_out_and_builds_back():
    found = canonical_objective("consistency")
    assert found == {
        "name": "consistency", "draws": 2, "passes": "auto", "weight": 1.0, "direction": "forward",
        "stop_gradient": "none", "reduction": "sum",
    }  # fmt: skip
    assert build_objective(found) == Consistency()


class Noisy(nn.Module):
    """A model whose logits are its inputs plus noise from the draws, with a penalty of 1 per call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, inputs, key_mask=None, draws=None, at=None):
        self.calls.append((inputs.shape[0], draws.pass_))
        logits = inputs + torch.randn(inputs.shape, generator=draws.generator(0))
        if at is not None:
            logits = logits.flatten(0, -2)[at]
        return HostOutput(logits, {"penalty": torch.tensor(1.0)}, {}, None)


def test_concatenated_passes_are_one_call_with_draws_apart_and_sequential_ones_two():
    batch = Split(torch.zeros(5, 3), TARGETS)
    for passes, calls in (("concatenated", [(10, 0)]), ("sequential", [(5, 0), (5, 1)])):
        model = Noisy()
        loss, _ = training_loss(model, batch, Draws(0, 0), Consistency(weight=1.0, passes=passes))
        plain, _ = training_loss(model, batch, Draws(0, 0), Consistency(weight=0.0, passes=passes))
        assert model.calls[: len(calls)] == calls
        assert loss.item() > plain.item() + 0.1


def test_a_penalty_of_the_network_is_added_once_whatever_the_passes():
    batch = Split(torch.zeros(5, 3), TARGETS)
    for objective in (None, Consistency(passes="concatenated"), RDrop(passes="sequential")):
        model = Noisy()
        with_penalty, _ = training_loss(model, batch, Draws(0, 0), objective)
        model.forward = lambda *a, _m=model, **k: Noisy.forward(_m, *a, **k)._replace(losses={})
        without, _ = training_loss(model, batch, Draws(0, 0), objective)
        assert with_penalty.item() - without.item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("objective", [None, RDrop(passes="concatenated"), RDrop(passes="sequential")])
def test_asking_for_counted_logits_alone_gives_the_same_loss(objective):
    targets = torch.tensor([[0, -100, 2], [-100, -100, 1]])
    batch = Split(torch.randn(2, 3, 4), targets)
    dense, _ = training_loss(Noisy(), batch, Draws(0, 0), objective)
    sparse, _ = training_loss(Noisy(), batch, Draws(0, 0), objective, sparse=True)
    assert sparse.item() == pytest.approx(dense.item(), rel=1e-6)
