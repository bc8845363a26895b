"""The metrics against hand computations, against torchmetrics, and as properties."""

import math
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attnbench.evaluation import evaluate, figures, quality, tally
from attnbench.workloads import Split

torch.set_num_threads(1)


class Output(NamedTuple):
    logits: torch.Tensor


class Linear(nn.Module):
    """The smallest thing that looks like a host: one map, and a dropout to be switched off."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: torch.Tensor, key_mask: torch.Tensor | None = None) -> Output:
        return Output(self.dropout(self.map(inputs.flatten(1))))


def test_figures_agree_with_a_computation_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.62, 0.38]])
    targets = torch.tensor([0, 1, 1, 0])
    got = quality(p.log(), targets)
    assert got["accuracy"] == 0.75
    assert got["nll"] == pytest.approx(-sum(map(math.log, [0.9, 0.4, 0.7, 0.62])) / 4, rel=1e-6)
    assert got["loss"] == got["nll"]
    assert got["brier"] == pytest.approx((2 * 0.01 + 2 * 0.36 + 2 * 0.09 + 2 * 0.38**2) / 4, rel=1e-6)
    # bins of width 1/15: 0.6 and 0.62 share [0.6, 0.667), 0.7 lies in [0.667, 0.733), 0.9 in [0.867, 0.933)
    assert got["ece"] == pytest.approx((abs(1.22 - 1) + 0.3 + 0.1) / 4, rel=1e-5)


def test_a_text_model_also_gets_bits_per_byte() -> None:
    uniform = quality(torch.zeros(3, 7, 256), torch.zeros(3, 7, dtype=torch.long), "bits_per_byte")
    assert uniform["bits_per_byte"] == pytest.approx(8.0)
    assert "bits_per_byte" not in quality(torch.zeros(2, 4), torch.tensor([0, 1]))


def test_a_certain_and_right_model_has_no_error_at_all() -> None:
    got = quality(torch.eye(5) * 1e4, torch.arange(5))
    assert got == {"loss": 0.0, "accuracy": 1.0, "nll": 0.0, "ece": 0.0, "brier": 0.0}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 12), scale=st.floats(0.1, 20))
def test_figures_agree_with_torchmetrics(seed: int, classes: int, scale: float) -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(200, classes, generator=generator) * scale
    targets = torch.randint(0, classes, (200,), generator=generator)
    p = logits.softmax(-1)
    got = quality(logits, targets)
    ece = multiclass_calibration_error(p, targets, num_classes=classes, n_bins=15, norm="l1")
    assert got["ece"] == pytest.approx(float(ece), abs=2e-6)
    accuracy = multiclass_accuracy(p, targets, num_classes=classes, average="micro")
    assert got["accuracy"] == pytest.approx(float(accuracy))
    onehot = nn.functional.one_hot(targets, classes)
    assert got["brier"] == pytest.approx(float(((p - onehot) ** 2).sum(1).mean()), rel=1e-5, abs=1e-7)
    nll = float(nn.functional.cross_entropy(logits, targets))
    assert got["nll"] == pytest.approx(nll, rel=1e-5, abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 99))
def test_tallies_of_parts_add_up_to_the_whole(cut: int) -> None:
    generator = torch.Generator().manual_seed(cut)
    logits = torch.randn(100, 6, generator=generator)
    targets = torch.randint(0, 6, (100,), generator=generator)
    whole = figures(tally(logits, targets))
    parts = figures(tally(logits[:cut], targets[:cut]) + tally(logits[cut:], targets[cut:]))
    assert parts == pytest.approx(whole, rel=1e-12)


def test_ignored_targets_change_nothing() -> None:
    logits, targets = torch.randn(2, 9, 5), torch.randint(0, 5, (2, 9))
    kept = quality(logits[:, :6], targets[:, :6])
    targets[:, 6:] = -100
    assert quality(logits, targets) == pytest.approx(kept)


def test_nothing_counted_gives_nan_not_an_error() -> None:
    got = quality(torch.randn(3, 4), torch.full((3,), -100), "bits_per_byte")
    assert set(got) == {"loss", "accuracy", "nll", "ece", "brier", "bits_per_byte"}
    assert all(math.isnan(value) for value in got.values())


def test_evaluation_does_not_depend_on_the_batch_and_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = Linear(64, 10).train()
    model.dropout.eval()
    split = Split(torch.rand(101, 1, 8, 8), torch.randint(0, 10, (101,)))
    state = torch.random.get_rng_state()
    one, many = evaluate(model, split, batch=7), evaluate(model, split, batch=1000)
    assert one == pytest.approx(many, rel=1e-6)
    assert model.training and not model.dropout.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.map.weight.grad is None


def test_evaluation_imports_no_metric_or_attack_package_before_it_is_needed() -> None:
    code = "import sys, attnbench.evaluation; print({'torchmetrics', 'foolbox'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
