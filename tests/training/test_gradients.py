"""The variance estimator against brute force, on a model small enough to enumerate."""

import math

import pytest
import torch
from torch import nn

import attnbench.training.gradients as gradients
from attnbench.attention import Draws
from attnbench.training.gradients import Moments, gradient_statistics

DATA = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
TARGET = DATA[:, 0] - DATA[:, 1].square()


class Masked(nn.Module):
    """Two layers with a random mask between them, decided by a generator that is handed in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 1)

    def forward(self, x, generator, p=0.3):
        hidden = torch.tanh(self.first(x))
        keep = (torch.rand(hidden.shape, generator=generator) >= p) / (1 - p)
        return self.second(hidden * keep).squeeze(-1)


GROUPS = {"layer.0.mlp": ["first.weight", "first.bias"], "head": ["second.weight", "second.bias"]}
MODEL = Masked()
WEIGHTS = dict(MODEL.named_parameters())


def loss_with(seed, p=0.3):
    def loss(model, indices, b, r):
        generator = Draws(seed, b, r).generator(0)
        return (model(DATA[indices], generator, p) - TARGET[indices]).square().mean()

    return loss


def some_batches(seed, count, size=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(40, (size,), generator=generator) for _ in range(count)]


def gradient_vectors(batches, draws, seed, p=0.3):
    """(batches, draws, parameters) by a plain backward pass each, in float64."""
    model = Masked()
    rows = []
    for b, indices in enumerate(batches):
        for r in range(draws):
            model.zero_grad()
            loss_with(seed, p)(model, indices, b, r).backward()
            rows.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]).double())
    return torch.stack(rows).unflatten(0, (len(batches), draws))


def total(statistics, group="total"):
    return next(row for row in statistics.rows() if row["layer_group"] == group)


@pytest.mark.parametrize("limit", [gradients.GRAM_LIMIT_BYTES, 0])
def test_the_parts_are_those_of_the_formulas_with_and_without_the_gram_matrix(monkeypatch, limit):
    monkeypatch.setattr(gradients, "GRAM_LIMIT_BYTES", limit)
    batches = some_batches(3, 6)
    found = total(gradient_statistics(MODEL, WEIGHTS, batches, 3, loss_with(5), groups=GROUPS))
    g = gradient_vectors(batches, 3, 5)
    g_b = g.mean(1)
    mechanism = (g - g_b[:, None]).square().sum(-1).sum(1).div(2).mean().item()
    data = (g_b - g_b.mean(0)).square().sum().item() / 5 - mechanism / 3
    square = g_b.mean(0).square().sum().item() - (data + mechanism / 3) / 6
    assert found["trace_mechanism"] == pytest.approx(mechanism, rel=1e-5)
    assert found["trace_data"] == pytest.approx(data, rel=1e-5)
    assert found["trace_total"] == pytest.approx(data + mechanism, rel=1e-5)
    assert found["mean_sq_norm"] == pytest.approx(square, rel=1e-4, abs=1e-6)
    assert (found["gram"] is None) == (limit == 0)


def test_estimates_average_to_the_variance_found_by_brute_force():
    many = gradient_vectors(some_batches(100, 3000), 2, 7)
    singles = many[:, 0]
    variance = singles.var(0).sum().item()
    within = (many[:, 0] - many[:, 1]).square().sum(-1).mean().item() / 2
    square = singles.mean(0).square().sum().item()
    estimates = [
        total(
            gradient_statistics(
                MODEL, WEIGHTS, some_batches(200 + i, 8), 2, loss_with(900 + i), groups=GROUPS
            )
        )
        for i in range(80)
    ]
    for column, truth in (("trace_total", variance), ("trace_mechanism", within), ("mean_sq_norm", square)):
        values = torch.tensor([row[column] for row in estimates], dtype=torch.float64)
        error = values.std().item() / math.sqrt(len(values))
        assert abs(values.mean().item() - truth) < 4 * error + 0.03 * truth, column


def test_without_randomness_nothing_is_the_mechanisms():
    found = total(
        gradient_statistics(MODEL, WEIGHTS, some_batches(1, 5), 2, loss_with(0, p=0.0), groups=GROUPS)
    )
    assert found["trace_mechanism"] == pytest.approx(0.0, abs=1e-8)
    assert found["trace_total"] == pytest.approx(found["trace_data"], rel=1e-6)


def test_with_one_batch_repeated_nothing_is_the_datas():
    batches = [torch.arange(8)] * 300
    found = total(gradient_statistics(MODEL, WEIGHTS, batches, 2, loss_with(0), groups=GROUPS))
    assert abs(found["trace_data"]) < 0.15 * found["trace_mechanism"]


def test_groups_add_up_to_the_total():
    rows = gradient_statistics(MODEL, WEIGHTS, some_batches(2, 6), 2, loss_with(1), groups=GROUPS).rows()
    for column in ("trace_total", "trace_data", "trace_mechanism", "mean_sq_norm"):
        parts = sum(row[column] for row in rows if row["layer_group"] != "total")
        assert parts == pytest.approx(total_of(rows)[column], rel=1e-6)


def total_of(rows):
    return rows[-1]


def test_the_gram_matrix_gives_the_statistics_back():
    row = total(gradient_statistics(MODEL, WEIGHTS, some_batches(2, 6), 2, loss_with(1), groups=GROUPS))
    again = gradients._summed(
        {"gram": torch.tensor(row["gram"], dtype=torch.float64).view(1, 12, 12)}, [0], 2
    )
    assert sum(again.traces()[1:]) == pytest.approx(row["trace_total"], rel=1e-9)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    variance = gradient_vectors(some_batches(100, 3000), 1, 7)[:, 0].var(0).sum().item()
    held = 0
    for i in range(80):
        row = total(
            gradient_statistics(
                MODEL, WEIGHTS, some_batches(500 + i, 16), 2, loss_with(3000 + i), groups=GROUPS
            )
        )
        held += row["trace_total_low"] <= variance <= row["trace_total_high"]
    assert held >= 0.85 * 80


def test_leaving_a_batch_out_is_the_estimate_of_the_others():
    g = torch.randn(7, 2, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = g.flatten(0, 1)
    moments = gradients._summed({"gram": (rows @ rows.T)[None]}, [0], 2)
    keep = torch.ones(7, dtype=torch.bool)
    keep[4] = False
    rest = g[keep].flatten(0, 1)
    alone = gradients._summed({"gram": (rest @ rest.T)[None]}, [0], 2)
    assert moments.traces(keep) == pytest.approx(alone.traces(), rel=1e-9)


def test_two_batches_give_no_interval_and_a_negative_part_is_kept():
    assert Moments(torch.ones(2), torch.ones(2), torch.ones(2), 2).interval() == (None, None)
    _, data, mechanism = Moments(torch.full((4,), 2.0), torch.ones(4), torch.ones(4), 2).traces()
    assert data == pytest.approx(-mechanism / 2)


def test_measuring_leaves_weights_gradients_mode_and_random_state_alone():
    before = {name: weight.detach().clone() for name, weight in WEIGHTS.items()}
    state = torch.get_rng_state()
    gradient_statistics(MODEL, WEIGHTS, some_batches(2, 3), 2, loss_with(1), groups=GROUPS)
    assert all(torch.equal(before[name], weight) for name, weight in WEIGHTS.items())
    assert all(weight.grad is None for weight in MODEL.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_a_parameter_outside_of_the_graph_counts_as_zero():
    weights = {**WEIGHTS, "idle": torch.zeros(3)}
    with_idle = total(gradient_statistics(MODEL, weights, some_batches(2, 3), 2, loss_with(1), groups=GROUPS))
    without = total(gradient_statistics(MODEL, WEIGHTS, some_batches(2, 3), 2, loss_with(1), groups=GROUPS))
    assert with_idle["trace_total"] == pytest.approx(without["trace_total"], rel=1e-9)
