"""Corruptions, attacks, their gates and temperature scaling, on a small network trained on digits."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from attnbench.errors import UsageError
from attnbench.evaluation import (
    adaptive_ece,
    at_temperature,
    attack_gates,
    check_kinds,
    evaluate,
    fit_temperature,
    robustness,
)
from attnbench.evaluation.attacks import (
    COLOUR_EPSILONS,
    GREY_EPSILONS,
    adversarial,
    attacked,
    epsilons,
    images_to_logits,
)
from attnbench.evaluation.corruptions import BYTE_SHARE, corrupt, gaussian_blur
from attnbench.workloads import Signature, Split, Workload, load

torch.set_num_threads(1)


class Output(NamedTuple):
    logits: torch.Tensor


class Perceptron(nn.Module):
    """Images to logits by one hidden layer, called the way that a host is."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.dropout, self.head = nn.Linear(64, 64), nn.Dropout(0.2), nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor, key_mask: torch.Tensor | None = None) -> Output:
        return Output(self.head(self.dropout(self.hidden(inputs.flatten(1)).relu())))


class Unigram(nn.Module):
    """A language model that only sees the current byte: logits (B,N,V) from one table."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)

    def forward(self, inputs: torch.Tensor, key_mask: torch.Tensor | None = None) -> Output:
        return Output(self.table(inputs))


@pytest.fixture(scope="module")
def digits() -> Workload:
    return load("digits")


@pytest.fixture(scope="module")
def model(digits: Workload) -> nn.Module:
    torch.manual_seed(0)
    net, part = Perceptron(), digits.split("train")
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(part.inputs).logits, part.targets).backward()
        optimiser.step()
    optimiser.zero_grad()
    return net


@pytest.fixture(scope="module")
def rows(model: nn.Module, digits: Workload) -> list[dict[str, object]]:
    kinds = ["clean", "noise", "blur", "patch_drop", "fgsm", "pgd", "temperature"]
    return robustness(model, digits, digits.split("test"), kinds, seed=3)


def accuracies(rows: list[dict[str, object]], kind: str) -> list[float]:
    return [row["accuracy"] for row in rows if row["kind"] == kind]  # type: ignore[misc]


def test_every_kind_gives_its_severities_once_and_in_order(rows: list[dict[str, object]]) -> None:
    assert all(set(row) == {"kind", "severity", "epsilon", "accuracy", "nll", "ece"} for row in rows)
    for kind in ("noise", "blur", "patch_drop", "fgsm", "pgd"):
        assert [row["severity"] for row in rows if row["kind"] == kind] == [1, 2, 3, 4, 5]
    assert [row["severity"] for row in rows if row["kind"] in ("clean", "temperature")] == [0, 0]
    assert [row["epsilon"] for row in rows if row["kind"] == "pgd"] == list(GREY_EPSILONS)
    assert all(row["epsilon"] is None for row in rows if row["kind"] not in ("fgsm", "pgd"))


def test_clean_is_the_ordinary_evaluation(
    rows: list[dict[str, object]], model: nn.Module, digits: Workload
) -> None:
    plain = evaluate(model, digits.split("test"))
    assert plain["accuracy"] > 0.9
    assert rows[0] == {
        "kind": "clean", "severity": 0, "epsilon": None,
        **{name: plain[name] for name in ("accuracy", "nll", "ece")},
    }  # fmt: skip


def test_the_worst_severity_hurts_more_than_the_mildest(rows: list[dict[str, object]]) -> None:
    for kind in ("noise", "blur", "patch_drop", "fgsm", "pgd"):
        curve = accuracies(rows, kind)
        assert curve[-1] < curve[0] <= accuracies(rows, "clean")[0] + 0.005, kind


def test_the_attacks_pass_their_own_gates(rows: list[dict[str, object]]) -> None:
    assert attack_gates(rows) == []


def test_the_same_seed_gives_the_same_rows_and_leaves_no_trace(
    rows: list[dict[str, object]], model: nn.Module, digits: Workload
) -> None:
    model.train()
    before, state = [p.clone() for p in model.parameters()], torch.random.get_rng_state()
    again = robustness(model, digits, digits.split("test"), ["noise", "pgd"], seed=3)
    assert again == [row for row in rows if row["kind"] in ("noise", "pgd")]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_another_seed_draws_other_noise(digits: Workload) -> None:
    part, signature = digits.split("test"), digits.signature
    one, other = (corrupt(part, "noise", 1, signature, seed=seed).inputs for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, corrupt(part, "noise", 1, signature, seed=0).inputs)


@pytest.mark.parametrize("kind", ["noise", "blur", "patch_drop"])
def test_corrupted_images_stay_in_range_and_keep_their_shape(kind: str, digits: Workload) -> None:
    part = digits.split("val")
    damaged = corrupt(part, kind, 5, digits.signature).inputs
    assert damaged.shape == part.inputs.shape
    assert float(damaged.min()) >= 0 and float(damaged.max()) <= 1


def test_blur_keeps_a_flat_image_and_the_mass_of_a_point() -> None:
    flat = torch.full((1, 1, 8, 8), 0.3)
    assert torch.allclose(gaussian_blur(flat, 1.5), flat, atol=1e-6)
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    spread = gaussian_blur(point, 1.5)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(spread, spread.transpose(2, 3), atol=1e-7)
    assert float(spread[0, 0, 16, 16] / spread[0, 0, 16, 17]) == pytest.approx(
        2.718281828 ** (0.5 / 2.25), rel=1e-4
    )


def test_patch_drop_drops_the_stated_share_of_patches() -> None:
    signature = Signature(kind="image", classes=2, channels=3, height=32, width=32, mean=(0.1, 0.2, 0.3))
    part = Split(torch.full((4, 3, 32, 32), 0.9), torch.zeros(4, dtype=torch.long))
    damaged = corrupt(part, "patch_drop", 5, signature).inputs
    gone = damaged[:, 0] != 0.9
    assert gone.float().mean((1, 2)).tolist() == [0.5] * 4
    assert damaged[:, 2][gone].unique().tolist() == pytest.approx([0.3])


def test_byte_noise_substitutes_its_share_and_spares_targets_and_padding() -> None:
    signature = Signature(kind="tokens", classes=256, vocabulary=256, length=64, causal=True)
    tokens = torch.randint(0, 256, (600, 64), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(600, 64, dtype=torch.bool)
    mask[:, 60:] = False
    part = Split(tokens, tokens.roll(-1, 1), mask)
    for severity, share in enumerate(BYTE_SHARE, start=1):
        damaged = corrupt(part, "byte_noise", severity, signature)
        changed = damaged.inputs != tokens
        assert float(changed[:, :60].float().mean()) == pytest.approx(share, rel=0.1)
        assert not bool(changed[:, 60:].any())
        assert damaged.targets is part.targets
        assert int(damaged.inputs.min()) >= 0 and int(damaged.inputs.max()) < 256


def test_byte_noise_costs_a_language_model_bits(digits: Workload) -> None:
    signature = Signature(kind="tokens", classes=16, vocabulary=16, length=32, causal=True)
    tokens = torch.arange(32).remainder(16).repeat(50, 1)
    part = Split(tokens, (tokens + 1) % 16)
    workload = Workload("count", {}, 0, signature, "bits_per_byte", lambda: ({"test": part}, ""))
    model = Unigram(16)
    with torch.no_grad():
        model.table.weight.copy_(8 * torch.eye(16).roll(1, 1))
    got = robustness(model, workload, part, ["clean", "byte_noise"])
    nlls = [row["nll"] for row in got]
    assert nlls == sorted(nlls) and nlls[0] < 0.01 < nlls[1]


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_an_attack_stays_in_its_ball_and_in_range(kind: str, model: nn.Module, digits: Workload) -> None:
    part = digits.split("test")
    images, labels = part.inputs[:40], part.targets[:40]
    with images_to_logits(model) as victim:
        found = adversarial(victim, images, labels, kind, 0.1, 0)
    assert float((found - images).abs().max()) <= 0.1 + 1e-6
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert all(p.grad is None for p in model.parameters())


def test_a_transferred_attack_is_no_stronger_than_the_white_box_one(
    model: nn.Module, digits: Workload
) -> None:
    torch.manual_seed(1)
    stranger, part = Perceptron(), digits.split("test")
    white = attacked(model, part, "pgd", 0.15)["accuracy"]
    black = attacked(stranger, part, "pgd", 0.15, judge=model)["accuracy"]
    assert white < black


def test_a_model_in_bfloat16_is_attacked_in_float32(model: nn.Module, digits: Workload) -> None:
    import copy

    half = copy.deepcopy(model).bfloat16()
    part = digits.split("test")
    same = attacked(copy.deepcopy(half).float(), part, "fgsm", 0.1)
    assert attacked(half, part, "fgsm", 0.1) == same
    assert next(half.parameters()).dtype is torch.bfloat16


def test_attack_radii_follow_the_kind_of_image() -> None:
    grey = Signature(kind="image", classes=10, channels=1, height=8, width=8)
    colour = Signature(kind="image", classes=10, channels=3, height=32, width=32)
    assert (min(epsilons(grey)), max(epsilons(grey))) == (0.05, 0.3)
    assert epsilons(colour) == COLOUR_EPSILONS


def test_attacks_look_at_no_more_examples_than_asked(model: nn.Module, digits: Workload) -> None:
    part = digits.split("test")
    one = robustness(model, digits, part, ["fgsm"], attack_examples=10)
    assert all(float(row["accuracy"]) * 10 % 1 == pytest.approx(0, abs=1e-9) for row in one)


def attack_rows(pgd: list[float], fgsm: list[float], clean: float = 0.95) -> list[dict[str, object]]:
    made: list[dict[str, object]] = [{"kind": "clean", "epsilon": None, "accuracy": clean}]
    for kind, curve in (("pgd", pgd), ("fgsm", fgsm)):
        made += [
            {"kind": kind, "epsilon": eps, "accuracy": a}
            for eps, a in zip((0.1, 0.2, 0.3), curve, strict=True)
        ]
    return made


def test_each_gate_catches_its_own_fault() -> None:
    assert attack_gates(attack_rows([0.5, 0.2, 0.01], [0.6, 0.4, 0.3])) == []
    assert "rises" in attack_gates(attack_rows([0.2, 0.5, 0.01], [0.6, 0.6, 0.3]))[0]
    assert "still 0.300" in attack_gates(attack_rows([0.5, 0.4, 0.3], [0.6, 0.5, 0.4]))[0]
    assert "weaker fgsm" in attack_gates(attack_rows([0.5, 0.2, 0.01], [0.4, 0.3, 0.2]))[0]
    assert "no attack rows" in attack_gates([{"kind": "noise", "epsilon": None, "accuracy": 0.1}])[0]


def test_a_kind_that_cannot_be_applied_is_refused_with_those_that_can(digits: Workload) -> None:
    with pytest.raises(UsageError, match=r"byte_noise.*needs tokens.*patch_drop"):
        check_kinds(["byte_noise"], digits.signature)
    with pytest.raises(UsageError, match="no kind 'pdg'"):
        check_kinds(["clean", "pdg"], digits.signature)
    with pytest.raises(UsageError, match=r"pgd.*needs images.*byte_noise"):
        check_kinds(["pgd"], Signature(kind="tokens", classes=4, vocabulary=256, length=8))


def test_a_temperature_undoes_a_known_overconfidence(model: nn.Module, digits: Workload) -> None:
    class Sharpened(nn.Module):
        def forward(self, inputs: torch.Tensor, key_mask: torch.Tensor | None = None) -> Output:
            return Output(5 * model(inputs).logits)

    sharp, part = Sharpened(), digits.split("val")
    sharp.add_module("inner", model)
    plain, fitted = fit_temperature(model, part), fit_temperature(sharp, part)
    assert fitted == pytest.approx(5 * plain, rel=1e-4)
    cured = at_temperature(sharp, part, fitted)
    assert cured["nll"] == pytest.approx(at_temperature(model, part, plain)["nll"], rel=1e-4)
    assert cured["accuracy"] == evaluate(sharp, part)["accuracy"]
    for other in (0.9 * fitted, 1.1 * fitted):
        assert at_temperature(sharp, part, other)["nll"] > cured["nll"]


def test_equal_mass_bins_agree_with_a_computation_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    targets = torch.tensor([0, 1, 1, 1])
    # by confidence: 0.6 (wrong), 0.7 | 0.8, 0.9
    assert adaptive_ece(p.log(), targets, bins=2) == pytest.approx(
        (abs(1.3 - 1) + abs(1.7 - 2)) / 4, abs=1e-6
    )
