"""The loss of one micro-batch: the passes that the objective asks for, the task loss, and the network's
own penalties."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from attnbench.attention import Draws
from attnbench.training.objectives import IGNORED, Objective, task_loss
from attnbench.workloads import Split


def training_loss(
    model: Callable[..., Any],
    batch: Split,
    draws: Draws,
    objective: Objective | None = None,
    *,
    sparse: bool = False,
) -> tuple[torch.Tensor, Any]:
    """Scalar loss of `batch` under `objective` (None: the task loss alone), and the output of the last pass.

    `model(inputs, key_mask=..., draws=...)` returns a HostOutput; its `losses` are added, averaged over
    passes. Concatenated
    passes share one Draws, whose numbers cover the doubled batch; sequential ones differ in `pass_`.
    sparse: ask a language
    model for the logits of counted targets alone, which saves its head for all others and changes no figure.
    """
    times = 1 if objective is None or objective.passes == "sequential" else objective.draws
    inputs, key_mask, targets = batch.inputs, batch.key_mask, batch.targets
    if times > 1:
        inputs = torch.cat([inputs] * times)
        key_mask = None if key_mask is None else torch.cat([key_mask] * times)
    asked: dict[str, Any] = {}
    if sparse:
        counted = (targets.flatten() != IGNORED).nonzero().squeeze(1)
        asked["at"] = (
            torch.cat([counted + copy * targets.numel() for copy in range(times)]) if times > 1 else counted
        )
        targets = targets.flatten()[counted]
    calls = 1 if objective is None or times > 1 else objective.draws
    outputs = [
        model(
            inputs,
            key_mask=key_mask,
            draws=dataclasses.replace(draws, pass_=call) if call else draws,
            **asked,
        )
        for call in range(calls)
    ]
    logits = [
        part for output in outputs for part in (output.logits.chunk(times) if times > 1 else [output.logits])
    ]
    loss = task_loss(logits, targets) if objective is None else objective.loss(logits, targets)
    for output in outputs:
        for penalty in output.losses.values():
            loss = loss + penalty / calls
    return loss, outputs[-1]


def mostly_ignored(targets: torch.Tensor) -> bool:
    """Whether fewer than half of a language model's targets (E,N) count, so that `sparse` pays."""
    return bool((targets != IGNORED).float().mean() < 0.5)
