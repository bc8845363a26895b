"""What the tests of this room share: layers with given weights, input with padding, and the oracle of a "
"whole layer."""

import numpy as np
import torch

from attnbench.attention import build
from tests.oracles import attention as oracle

WIDTH, HEADS, LENGTH, BATCH = 8, 2, 6, 3


def rows(seed=1, batch=BATCH, length=LENGTH, width=WIDTH, dtype=torch.float64):
    return torch.randn(
        batch, length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def padding(batch=BATCH, length=LENGTH):
    """The first example lacks its start and a middle key, the second has nothing, the others lack their "
    "end."""
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[0, 0] = mask[0, length // 2] = False
    mask[1] = False
    mask[2:, -2:] = False
    return mask


def layer(
    spec, seed=0, dtype=torch.float64, width=WIDTH, heads=HEADS, scale=1.0, max_length=LENGTH, **options
):
    """A layer in training mode; every parameter random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = build(spec, width=width, heads=heads, max_length=max_length, **options)
        for parameter in built.parameters():
            torch.nn.init.normal_(
                parameter, std=scale * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
            )
    return built.to(dtype)


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def run(built, x, **call):
    """Output and input gradient for a fixed gradient of the output, with a fresh generator."""
    x = x.detach().clone().requires_grad_()
    built.zero_grad()
    out, aux = built(x, generator=seeded(), **call)
    (out * rows(9, *x.shape, dtype=x.dtype)).sum().backward()
    return out.detach(), x.grad, aux


def oracle_output(built, x, bias=None, reweight=None, key_mask=None, context=None):
    """The whole layer in numpy; bias(logits, valid) and reweight(weights, valid) are the mechanism."""
    source = x if context is None else context
    p = {name: t.detach().double().numpy() for name, t in built.named_parameters()}
    maps = {n: (p[f"{n}.weight"], p[f"{n}.bias"]) for n in ("q", "k", "v", "out")}
    q = oracle.split(oracle.linear(x.numpy(), *maps["q"]), built.shape.heads)
    k, v = (oracle.split(oracle.linear(source.numpy(), *maps[n]), built.shape.heads) for n in ("k", "v"))
    mask = None if key_mask is None else key_mask.numpy()
    valid = oracle.visible(x.shape[0], x.shape[1], source.shape[1], mask, built.causal)
    logits = oracle.logits_of(q, k)
    if bias is not None:
        logits = bias(logits, valid)
    weights = oracle.softmax(logits, valid)
    if reweight is not None:
        weights = reweight(weights, valid)
    out = oracle.linear(oracle.merge(oracle.mix(weights, v)), *maps["out"])
    out[~valid.any(-1)] = 0.0
    return out, weights


def close(a, b, tolerance=1e-12):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.abs(a - b).max(initial=0.0) <= tolerance, np.abs(a - b).max()
