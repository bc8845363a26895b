"""Every mechanism against its equations in numpy loops: output and map, causal or not, with and without "
"padding."""

import itertools

import numpy as np
import pytest
import torch

from attnbench.attention.bias.alibi import slopes_of
from tests.attention.layers import (
    BATCH,
    HEADS,
    LENGTH,
    WIDTH,
    close,
    layer,
    oracle_output,
    padding,
    rows,
    seeded,
)
from tests.oracles import attention as oracle

MODES = list(itertools.product((False, True), (None, padding())))
IDS = [f"{'causal' if c else 'bidirectional'}-{'whole' if m is None else 'padded'}" for c, m in MODES]
each_mode = pytest.mark.parametrize(("causal", "mask"), MODES, ids=IDS)


def compare(built, mask, bias=None, reweight=None):
    x = rows()
    wanted, weights = oracle_output(built, x, bias, reweight, mask)
    for need_weights in (True, False):
        out, aux = built(x, key_mask=mask, generator=seeded(), need_weights=need_weights)
        close(out.detach(), wanted)
        if need_weights:
            close(aux.weights.detach(), weights)


@each_mode
def test_softmax(causal, mask):
    compare(layer("softmax", causal=causal), mask)


def test_softmax_in_cross_attention():
    built, x, context = layer("softmax"), rows(), rows(2, length=LENGTH + 3)
    mask = padding(length=LENGTH + 3)
    wanted, _ = oracle_output(built, x, key_mask=mask, context=context)
    close(built(x, context=context, key_mask=mask)[0].detach(), wanted)


@each_mode
def test_alibi(causal, mask):
    slopes = [2**-4, 2**-8]
    compare(layer("alibi", causal=causal), mask, bias=lambda logits, valid: oracle.alibi(logits, slopes))


def test_alibi_slopes_are_the_papers():
    assert slopes_of(8) == [2.0**-h for h in range(1, 9)]
    # the authors' code for 12 heads: the 8 slopes of 8 heads, then every other slope of 16
    assert slopes_of(12) == pytest.approx(
        [2.0**-h for h in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    )


@each_mode
def test_relaxed(causal, mask):
    built = layer({"name": "relaxed", "gamma": 0.3}, causal=causal)
    compare(built, mask, reweight=lambda weights, valid: oracle.relaxed(weights, valid, 0.3))


@each_mode
def test_dropout(causal, mask):
    keep = torch.rand(BATCH, HEADS, LENGTH, LENGTH, generator=seeded()).numpy() >= 0.4
    built = layer({"name": "dropout", "p": 0.4}, causal=causal)
    compare(built, mask, reweight=lambda weights, valid: weights * keep / 0.6)


HARD = [
    {},
    {"k": 3, "p": 0.5},
    {"k": 0.5, "p": 0.5, "mask_value": "neginf"},
    {"k": 1.0, "p": 0.9, "mask_value": "neginf"},
    {"k": 0.6, "p": 0.5, "mask_value": "rowmin"},
    {"k": 0.6, "p": 0.5, "rescale": True, "center_rows": True},
]


@each_mode
@pytest.mark.parametrize("arm", HARD, ids=str)
def test_attentiondrop_hard(causal, mask, arm):
    built = layer({"name": "attentiondrop_hard", **arm}, causal=causal)
    k, p = arm.get("k", 0.1), arm.get("p", 0.2)
    most = k if isinstance(k, int) else max(1, round(k * LENGTH))
    coins = torch.rand(BATCH, HEADS, LENGTH, most, generator=seeded()).numpy()

    def bias(logits, valid):
        options = {"rescale": arm.get("rescale", False), "center": arm.get("center_rows", False)}
        return oracle.hard(logits, valid, coins, k, p, arm.get("mask_value", "zero"), **options)

    compare(built, mask, bias=bias)


@each_mode
@pytest.mark.parametrize("arm", [{}, {"w": 3}, {"w": 9, "sigma_max": 3.0}, {"edges": "zero"}], ids=str)
def test_attentiondrop_blur(causal, mask, arm):
    built = layer({"name": "attentiondrop_blur", **arm}, causal=causal)
    sigma = torch.rand(1, generator=seeded()).double().item() * arm.get("sigma_max", 1.0)
    w = min(arm.get("w", 5), LENGTH - 1)  # the largest odd width that fits a row of 6

    def bias(logits, valid):
        return oracle.blur(logits, valid, sigma, w, arm.get("edges") != "zero")

    compare(built, mask, bias=bias)


@pytest.mark.parametrize("mask", [None, padding()], ids=["whole", "padded"])
@pytest.mark.parametrize(("grid", "leading"), [([2, 3], 0), (None, 2), ([1, 5], 1)], ids=str)
def test_attentiondrop_blur_over_a_grid(mask, grid, leading):
    if grid is None:
        with pytest.raises(ValueError, match="6 keys are no square grid"):
            layer({"name": "attentiondrop_blur", "dims": "2d"})(rows(), generator=seeded())
        return
    built = layer({"name": "attentiondrop_blur", "dims": "2d", "grid_size": grid, "w": 3})
    sigma = torch.rand(1, generator=seeded()).double().item()
    w = min(3, min(grid) if min(grid) % 2 else min(grid) - 1)

    def bias(logits, valid):
        return logits if w == 1 else oracle.blur_grid(logits, valid, sigma, w, *grid, leading)

    compare(built, mask, bias=bias)


def test_attentiondrop_blur_finds_the_square_grid_behind_a_class_token():
    built = layer({"name": "attentiondrop_blur", "dims": "2d", "w": 3}, max_length=10)
    x = rows(length=10)
    sigma = torch.rand(1, generator=seeded()).double().item()
    wanted, _ = oracle_output(
        built, x, lambda logits, valid: oracle.blur_grid(logits, valid, sigma, 3, 3, 3, 1)
    )
    close(built(x, generator=seeded())[0].detach(), wanted)


LAM = [
    {},
    {"combine": "add"},
    {"n": 1},
    {"n": 3, "hidden": 5},
    {"activation": "softplus"},
    {"activation": "2sigmoid"},
    {"activation": "exp"},
    {"per_head": True},
]


@each_mode
@pytest.mark.parametrize("arm", LAM, ids=str)
def test_lam(causal, mask, arm):
    built = layer({"name": "lam", **arm}, causal=causal)
    linears = built.mechanism["lam"].mask.linears
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in linears]
    assert len(layers) == arm.get("n", 2)

    def bias(logits, valid):
        mk = oracle.lam_mask(rows().numpy(), layers, arm.get("activation", "none"))
        if mask is not None:
            mk = mk * mask.numpy()[:, :, None]
        out = logits.copy()
        for b, h, i, j in np.ndindex(*logits.shape):
            factor = mk[b, i, h * LENGTH + j] if arm.get("per_head") else mk[b, i, j]
            out[b, h, i, j] = (
                logits[b, h, i, j] + factor if arm.get("combine") == "add" else logits[b, h, i, j] * factor
            )
        return out

    compare(built, mask, bias=bias)


def test_dropconnect():
    built, x, p = layer({"name": "dropconnect", "p": 0.4}), rows(), 0.4
    generator, maps = seeded(), {}
    for name in ("q", "k", "v", "out"):
        linear = getattr(built, name)
        weight = torch.rand(BATCH, WIDTH, WIDTH, generator=generator).numpy() >= p
        bias = torch.rand(BATCH, 1, WIDTH, generator=generator).numpy()[:, 0] >= p
        maps[name] = (
            linear.weight.detach().numpy() * weight / (1 - p),
            linear.bias.detach().numpy() * bias / (1 - p),
        )

    def apply(name, t):
        return np.concatenate(
            [oracle.linear(t[b : b + 1], maps[name][0][b], maps[name][1][b]) for b in range(BATCH)]
        )

    q, k, v = (oracle.split(apply(name, x.numpy()), HEADS) for name in ("q", "k", "v"))
    weights = oracle.softmax(oracle.logits_of(q, k), oracle.visible(BATCH, LENGTH, LENGTH))
    wanted = apply("out", oracle.merge(oracle.mix(weights, v)))
    close(built(x, generator=seeded())[0].detach(), wanted)
