"""Relaxed attention, dropout of weights, DropConnect: limits, inference, and what their arms mean."""

import pytest
import torch

from attnbench.errors import UsageError
from tests.attention.layers import BATCH, HEADS, LENGTH, close, layer, padding, rows, run, seeded


def weights_of(built, **call):
    return built(rows(), need_weights=True, generator=seeded(), **call)[1].weights


def test_relaxed_without_gamma_is_plain_attention_to_the_bit():
    assert torch.equal(layer({"name": "relaxed", "gamma": 0.0})(rows())[0], layer("softmax")(rows())[0])


def test_relaxed_with_gamma_one_is_the_mean_of_the_visible_values():
    for causal in (False, True):
        weights = weights_of(layer({"name": "relaxed", "gamma": 1.0}, causal=causal))
        past = torch.ones(LENGTH, LENGTH, dtype=torch.float64)
        past = past.tril() if causal else past
        close(weights.detach(), (past / past.sum(-1, keepdim=True)).expand_as(weights))


@pytest.mark.parametrize("gamma", [0.05, 0.5, 0.95])
def test_relaxed_rows_sum_to_one_and_every_valid_key_gets_its_share(gamma):
    weights = weights_of(layer({"name": "relaxed", "gamma": gamma}), key_mask=padding())[[0, 2]]
    close(weights.sum(-1).detach(), torch.ones(2, HEADS, LENGTH))
    real = padding()[[0, 2]]
    least = gamma / real.sum(-1).double()[:, None, None, None]
    assert (weights >= least * (1 - 1e-12))[real[:, None, None].expand_as(weights)].all()
    assert (weights[~real[:, None, None].expand_as(weights)] == 0).all()


def test_relaxed_scales_the_gradient_of_the_logits():
    slopes = [
        run(layer(spec, kernel="reference"), rows())[1]
        for spec in ("softmax", {"name": "relaxed", "gamma": 0.25})
    ]
    built = layer({"name": "relaxed", "gamma": 0.25}), layer("softmax")
    for one in built:
        run(one, rows())
    close(built[0].q.weight.grad, 0.75 * built[1].q.weight.grad)
    assert not torch.allclose(*slopes)


def test_relaxed_is_for_training_unless_inference_is_matched():
    plain = layer("softmax").eval()(rows())[0]
    assert torch.equal(layer({"name": "relaxed", "gamma": 0.4}).eval()(rows())[0], plain)
    matched = layer({"name": "relaxed", "gamma": 0.4, "matched_inference": True})
    training = matched(rows())[0]
    close(matched.eval()(rows())[0].detach(), training.detach())
    assert not torch.allclose(training, plain)


def test_the_fuzzy_form_draws_one_gamma_per_call_and_keeps_it_in_range():
    built = layer({"name": "relaxed", "gamma": 0.1, "fuzzy_std": 0.5})
    plain = weights_of(layer("softmax"))
    gammas = []
    for seed in range(30):
        weights = built(rows(), need_weights=True, generator=seeded(seed))[1].weights
        gamma = (weights - plain) / (1 / LENGTH - plain)
        assert gamma.max() - gamma.min() < 1e-6
        gammas.append(gamma.mean().item())
    assert min(gammas) == pytest.approx(0, abs=1e-9) and max(gammas) <= 1
    assert len({round(g, 6) for g in gammas}) > 10


def test_the_public_codes_form_puts_weight_on_padding_and_ours_does_not():
    for over, leaks in (("all", True), ("valid", False)):
        weights = weights_of(layer({"name": "relaxed", "uniform_over": over}), key_mask=padding())
        assert bool((weights[2, :, :, -1] > 0).all()) is leaks
    with pytest.raises(UsageError, match="relaxed can not be causal"):
        layer({"name": "relaxed", "uniform_over": "all"}, causal=True)


def test_dropout_drops_its_share_and_keeps_the_mean():
    built, plain = layer({"name": "dropout", "p": 0.25}, max_length=64), layer("softmax", max_length=64)
    x = rows(length=64)
    weights = built(x, need_weights=True, generator=seeded())[1].weights
    base = plain(x, need_weights=True)[1].weights
    kept = weights != 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.01)
    close(weights[kept].detach(), (base / 0.75)[kept].detach())


def test_dropout_and_dropconnect_act_in_training_only():
    for name in ("dropout", "dropconnect"):
        assert torch.equal(layer(name).eval()(rows())[0], layer("softmax").eval()(rows())[0])
        assert not torch.allclose(layer(name)(rows(), generator=seeded())[0], layer("softmax")(rows())[0])


def test_dropconnect_draws_a_mask_for_every_example_or_one_for_the_batch():
    x = rows(batch=1).expand(BATCH, LENGTH, -1)
    for granularity, same in (("example", False), ("batch", True)):
        out = layer({"name": "dropconnect", "granularity": granularity})(x, generator=seeded())[0]
        assert torch.allclose(out[0], out[1]) is same


def test_dropconnect_drops_only_where_it_is_told():
    spec = {"name": "dropconnect", "maps": ["v"], "drop_bias": False}
    assert torch.equal(weights_of(layer(spec)), weights_of(layer("softmax")))
    _, _, aux = run(layer("dropconnect", kernel="fused"), rows())
    assert aux.stats["path"] == "flash_cpu"
    with pytest.raises(
        UsageError, match="dropconnect: parameter 'maps' is 'w', but should be 'q', 'k', 'v' or 'out'"
    ):
        layer({"name": "dropconnect", "maps": ["w"]})


def test_the_mean_of_dropconnects_projections_is_the_plain_one():
    built = layer({"name": "dropconnect", "p": 0.5, "maps": ["out"]})
    plain = layer("softmax")(rows(batch=1))[0]
    many = built(rows(batch=1).expand(4000, -1, -1), generator=seeded())[0].detach()
    assert (many.mean(0) - plain).abs().max() < 0.1
