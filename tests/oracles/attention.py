"""Attention mechanisms written entry by entry from their equations.

Arrays: q (B,H,N,d), k, v (B,H,M,d), logits and weights (B,H,N,M), valid (B,N,M) bool. Random draws are
handed in.
"""

import math

import numpy as np


def logits_of(q, k):
    """q_i . k_j / sqrt(d)."""
    b_, h_, n_, d = q.shape
    m_ = k.shape[2]
    logits = np.zeros((b_, h_, n_, m_))
    for b, h, i, j in np.ndindex(b_, h_, n_, m_):
        logits[b, h, i, j] = sum(q[b, h, i, c] * k[b, h, j, c] for c in range(d)) / math.sqrt(d)
    return logits


def softmax(logits, valid):
    """Over the valid keys of each row; a row without any is zero."""
    weights = np.zeros_like(logits)
    for b, h, i in np.ndindex(*logits.shape[:3]):
        keys = np.flatnonzero(valid[b, i])
        if len(keys):
            e = np.exp(logits[b, h, i, keys] - logits[b, h, i, keys].max())
            weights[b, h, i, keys] = e / e.sum()
    return weights


def alibi(logits, slopes):
    """- m_h |i - j|."""
    out = logits.copy()
    for b, h, i, j in np.ndindex(*logits.shape):
        out[b, h, i, j] -= slopes[h] * abs(i - j)
    return out


def relaxed(weights, valid, gamma):
    """(1 - gamma) w + gamma / (number of valid keys)."""
    out = np.zeros_like(weights)
    for b, h, i, j in np.ndindex(*weights.shape):
        if valid[b, i, j]:
            out[b, h, i, j] = (1 - gamma) * weights[b, h, i, j] + gamma / valid[b, i].sum()
    return out


def top_keys(row, valid_row, k):
    """Indices of the k largest valid entries, ties to the lower index."""
    keys = [j for j in range(len(row)) if valid_row[j]]
    return sorted(keys, key=lambda j: (-row[j], j))[:k]


def hard(logits, valid, coins, ratio_or_count, p, mask_value="zero", rescale=False, center=False):
    """AttentionDrop V1; coins (B,H,N,k) uniform numbers by rank."""
    out = logits.copy()
    for b, h, i in np.ndindex(*logits.shape[:3]):
        count = int(valid[b, i].sum())
        if not count:
            continue
        if center:
            out[b, h, i] -= logits[b, h, i, valid[b, i]].mean()
        k = ratio_or_count if isinstance(ratio_or_count, int) else max(1, round(ratio_or_count * count))
        chosen = top_keys(logits[b, h, i], valid[b, i], min(k, count))
        dropped = [j for rank, j in enumerate(chosen) if coins[b, h, i, rank] < p]
        if mask_value == "neginf" and len(dropped) == count:
            dropped = dropped[1:]
        least = out[b, h, i, valid[b, i]].min()
        for j in chosen:
            if j in dropped:
                out[b, h, i, j] = {"zero": 0.0, "neginf": -np.inf, "rowmin": least}[mask_value]
            elif rescale:
                out[b, h, i, j] /= 1 - p
    return out


def gaussian(sigma, w):
    """The kernel of width w, summing to 1."""
    r = w // 2
    g = [math.exp(-(u**2) / (2 * sigma**2)) for u in range(-r, r + 1)]
    return [x / sum(g) for x in g]


def blur(logits, valid, sigma, w, normalised=True):
    """AttentionDrop V2 along the row, over valid keys only."""
    g, r = gaussian(sigma, w), w // 2
    out = logits.copy()
    for b, h, i, j in np.ndindex(*logits.shape):
        total = mass = 0.0
        for u in range(-r, r + 1):
            if 0 <= j + u < logits.shape[3] and valid[b, i, j + u]:
                total += g[u + r] * logits[b, h, i, j + u]
                mass += g[u + r]
        if valid[b, i, j]:
            out[b, h, i, j] = total / mass if normalised else total
    return out


def blur_grid(logits, valid, sigma, w, rows, columns, leading):
    """The same over a grid of keys, `leading` keys left alone."""
    g, r = gaussian(sigma, w), w // 2
    out = logits.copy()
    for b, h, i, y, x in np.ndindex(*logits.shape[:3], rows, columns):
        total = mass = 0.0
        for dy in range(-r, r + 1):
            for dx in range(-r, r + 1):
                if 0 <= y + dy < rows and 0 <= x + dx < columns:
                    j = leading + (y + dy) * columns + x + dx
                    if valid[b, i, j]:
                        total += g[dy + r] * g[dx + r] * logits[b, h, i, j]
                        mass += g[dy + r] * g[dx + r]
        if mass:
            out[b, h, i, leading + y * columns + x] = total / mass
    return out


def lam_mask(x, layers, activation="none"):
    """x (B,N,D), layers [(W, b), ...] -> (B,N,D_out): linear, ReLU between, activation after the last."""
    b_, n_, _ = x.shape
    out = np.zeros((b_, n_, len(layers[-1][1])))
    act = {
        "none": lambda t: t,
        "softplus": lambda t: math.log1p(math.exp(t)),
        "2sigmoid": lambda t: 2 / (1 + math.exp(-t)),
        "exp": math.exp,
    }[activation]
    for b, i in np.ndindex(b_, n_):
        hidden = x[b, i]
        for number, (weight, bias) in enumerate(layers):
            hidden = np.array([sum(w * h for w, h in zip(row, hidden, strict=True)) for row in weight]) + bias
            if number < len(layers) - 1:
                hidden = np.maximum(hidden, 0)
        out[b, i] = [act(t) for t in hidden]
    return out


def mix(weights, v):
    """sum_j w_ij v_j."""
    out = np.zeros((*weights.shape[:3], v.shape[3]))
    for b, h, i, j in np.ndindex(*weights.shape):
        out[b, h, i] += weights[b, h, i, j] * v[b, h, j]
    return out


def linear(x, weight, bias):
    """x (B,N,D) -> (B,N,E)."""
    out = np.zeros((*x.shape[:2], len(bias)))
    for b, i, e in np.ndindex(*out.shape):
        out[b, i, e] = sum(weight[e][c] * x[b, i, c] for c in range(x.shape[2])) + bias[e]
    return out


def split(x, heads):
    """(B,N,D) -> (B,H,N,d): head h reads columns h d to (h + 1) d."""
    b, n, width = x.shape
    d = width // heads
    return np.stack([x[:, :, h * d : (h + 1) * d] for h in range(heads)], axis=1).reshape(b, heads, n, d)


def merge(heads):
    """(B,H,N,d) -> (B,N,D)."""
    return np.concatenate([heads[:, h] for h in range(heads.shape[1])], axis=-1)


def visible(batch, n, m, key_mask=None, causal=False):
    """(B,N,M) bool."""
    valid = np.ones((batch, n, m), dtype=bool)
    for b, i, j in np.ndindex(batch, n, m):
        valid[b, i, j] = (key_mask is None or key_mask[b, j]) and (not causal or j <= i)
    return valid
