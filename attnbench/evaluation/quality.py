"""Accuracy, negative log-likelihood and calibration, as sums that can be added up over batches and workers.

Written out in a dozen lines of tensor code, since importing torchmetrics takes 2.6 s of CPU time and every
actor would pay it before its first step; the tests hold these figures to torchmetrics' and to sums by hand.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15
IGNORED = -100

# layout of a tally: the four sums, then three sums per confidence bin
_COUNT, _CORRECT, _NLL, _BRIER = range(4)
TALLY_SIZE = 4 + 3 * BINS


def tally(logits: Tensor, targets: Tensor) -> Tensor:
    """Sums from which `figures` derives every metric; tallies of parts of the data may simply be added.

    logits (..., C) of any floating type, targets (...) int64 with -100 for positions that do not count.
    Returns (4 + 3 x 15,) float64 on the logits' device: count, correct, sum of NLL (nats), sum of Brier
    scores, then per equal-width confidence bin the count, the sum of top-1 confidences and the number
    correct.
    """
    logits = logits.detach().reshape(-1, logits.shape[-1]).float()
    targets = targets.reshape(-1)
    counted = targets != IGNORED
    if not bool(counted.all()):
        logits, targets = logits[counted], targets[counted]
    log_p = F.log_softmax(logits, dim=-1)
    p = log_p.exp()
    p_target = p.gather(1, targets[:, None])[:, 0]
    confidence, predicted = p.max(dim=-1)
    correct = (predicted == targets).double()
    # |p - onehot|^2 = |p|^2 - 2 p_y + 1, without building the one-hot rows
    brier = (p.double() ** 2).sum(-1) - 2 * p_target.double() + 1
    sums = torch.zeros(TALLY_SIZE, dtype=torch.float64, device=logits.device)
    sums[_COUNT] = len(targets)
    sums[_CORRECT] = correct.sum()
    sums[_NLL] = -log_p.gather(1, targets[:, None]).double().sum()
    sums[_BRIER] = brier.sum()
    which = (confidence.double() * BINS).long().clamp_(0, BINS - 1)
    bins = sums[4:].view(3, BINS)
    bins[0].index_add_(0, which, torch.ones_like(correct))
    bins[1].index_add_(0, which, confidence.double())
    bins[2].index_add_(0, which, correct)
    return sums


def figures(sums: Tensor, metric: str = "accuracy") -> dict[str, float]:
    """Metrics of a tally: loss and nll (nats per target), accuracy, ece (15 equal-width bins, top-1), brier.

    ECE = sum_b n_b / n |accuracy_b - confidence_b| (Guo et al., arXiv 1706.04599, eq. 3);
    Brier = mean |p - onehot|^2, summed over classes, in [0, 2].
    With metric "bits_per_byte" also bits_per_byte = nll / ln 2. An empty tally gives NaN everywhere.
    """
    values = sums.tolist()
    count = values[_COUNT]
    names = ["loss", "accuracy", "nll", "ece", "brier"]
    if count == 0:
        empty = dict.fromkeys(names, math.nan)
        return {**empty, "bits_per_byte": math.nan} if metric == "bits_per_byte" else empty
    confidences, corrects = values[4 + BINS : 4 + 2 * BINS], values[4 + 2 * BINS :]
    ece = sum(abs(c - a) for c, a in zip(confidences, corrects, strict=True)) / count
    nll = values[_NLL] / count
    result = {
        "loss": nll,
        "accuracy": values[_CORRECT] / count,
        "nll": nll,
        "ece": ece,
        "brier": values[_BRIER] / count,
    }
    if metric == "bits_per_byte":
        result["bits_per_byte"] = nll / math.log(2)
    return result


def quality(logits: Tensor, targets: Tensor, metric: str = "accuracy") -> dict[str, float]:
    """`figures` of one batch: logits (..., C), targets (...) with -100 ignored."""
    return figures(tally(logits, targets), metric)
