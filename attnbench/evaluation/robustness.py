"""Rows of the table `robustness`: a trained model on damaged and on hostile inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnbench.errors import UsageError
from attnbench.evaluation.attacks import ATTACKS, attacked, epsilons
from attnbench.evaluation.calibration import at_temperature, fit_temperature
from attnbench.evaluation.corruptions import IMAGE_KINDS, TOKEN_KINDS, corrupt
from attnbench.evaluation.evaluate import evaluate

if TYPE_CHECKING:
    from attnbench.workloads import Signature, Split, Workload

KINDS = ("clean", "temperature", *IMAGE_KINDS, *ATTACKS, *TOKEN_KINDS)
SEVERITIES = (1, 2, 3, 4, 5)
ATTACKED_EXAMPLES = 1000  # PGD-20 in five radii is a hundred forward and backward passes per example


def check_kinds(kinds: Sequence[str], signature: Signature) -> None:
    """UsageError for a kind that does not exist or cannot be applied to such inputs."""
    fitting = [kind for kind in KINDS if _fits(kind, signature)]
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"robustness: there is no kind {kind!r}; this workload has {', '.join(fitting)}")
        if not _fits(kind, signature):
            what = "images" if signature.kind == "tokens" else "tokens"
            raise UsageError(f"robustness: {kind!r} needs {what}; this workload has {', '.join(fitting)}")


def robustness(
    model: nn.Module,
    workload: Workload,
    split: Split,
    kinds: Sequence[str],
    *,
    seed: int = 0,
    batch: int = 256,
    device: torch.device | str | None = None,
    attack_examples: int | None = ATTACKED_EXAMPLES,
) -> list[dict[str, Any]]:
    """Rows {kind, severity, epsilon, accuracy, nll, ece} of `model` on `split`, in the order of `kinds`.

    clean: severity 0. temperature: severity 0, the clean split after one temperature fitted on the
    validation part. noise, blur, patch_drop, byte_noise: severities 1..5 (corruptions.py). fgsm, pgd:
    severities 1..5 with their radius in `epsilon` (attacks.py), on at most `attack_examples` examples,
    evenly spread over the split. The same seed gives the same rows. UsageError if a kind does not fit the
    workload.
    """
    signature = workload.signature
    check_kinds(kinds, signature)
    metric = workload.metric
    rows = []

    def row(kind: str, severity: int, epsilon: float | None, got: dict[str, float]) -> None:
        kept = {name: got[name] for name in ("accuracy", "nll", "ece")}
        rows.append({"kind": kind, "severity": severity, "epsilon": epsilon, **kept})

    for kind in kinds:
        if kind == "clean":
            row(kind, 0, None, evaluate(model, split, batch=batch, device=device, metric=metric))
        elif kind == "temperature":
            fitted = fit_temperature(model, workload.split("val"), batch=batch, device=device)
            row(kind, 0, None, at_temperature(model, split, fitted, batch=batch, device=device))
        elif kind in ATTACKS:
            chosen = _spread(split, attack_examples)
            for severity, epsilon in zip(SEVERITIES, epsilons(signature), strict=True):
                got = attacked(model, chosen, kind, epsilon, seed=seed, batch=batch, device=device)
                row(kind, severity, epsilon, got)
        else:
            for severity in SEVERITIES:
                damaged = corrupt(split, kind, severity, signature, seed=seed)
                row(kind, severity, None, evaluate(model, damaged, batch=batch, device=device, metric=metric))
    return rows


def _fits(kind: str, signature: Signature) -> bool:
    if kind in ("clean", "temperature"):
        return True
    return kind in (TOKEN_KINDS if signature.kind == "tokens" else (*IMAGE_KINDS, *ATTACKS))


def _spread(split: Split, count: int | None) -> Split:
    """`count` examples evenly spread over the split (all of them if it has no more)."""
    if count is None or len(split.targets) <= count:
        return split
    chosen = torch.linspace(0, len(split.targets) - 1, count).long()
    mask = None if split.key_mask is None else split.key_mask[chosen]
    return dataclasses.replace(
        split, inputs=split.inputs[chosen], targets=split.targets[chosen], key_mask=mask
    )
