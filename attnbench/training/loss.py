"""The loss of one micro-batch: the passes that the objective asks for, the task loss, and the network's own penalties."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from attnbench.attention import Draws
from attnbench.training.objectives import Objective, task_loss
from attnbench.workloads import Split


def training_loss(
    model: Callable[..., Any], batch: Split, draws: Draws, objective: Objective | None = None
) -> tuple[torch.Tensor, Any]:
    """Scalar loss of `batch` under `objective` (None: the task loss alone), and the output of the last pass.

    `model(inputs, key_mask=..., draws=...)` returns a HostOutput; the sum of its `losses` is added once per pass, averaged
    over passes. Concatenated passes share one Draws, whose numbers cover the doubled batch; sequential ones differ in
    `pass_`. Targets on the model's device.
    """
    if objective is None:
        output = model(batch.inputs, key_mask=batch.key_mask, draws=draws)
        loss = task_loss([output.logits], batch.targets)
        return with_penalties(loss, [output]), output
    if objective.passes == "sequential":
        outputs = [
            model(batch.inputs, key_mask=batch.key_mask, draws=dataclasses.replace(draws, pass_=pass_))
            for pass_ in range(objective.draws)
        ]
        logits = [output.logits for output in outputs]
    else:
        times = objective.draws
        inputs = torch.cat([batch.inputs] * times)
        mask = None if batch.key_mask is None else torch.cat([batch.key_mask] * times)
        outputs = [model(inputs, key_mask=mask, draws=draws)]
        logits = list(outputs[0].logits.chunk(times))
    return with_penalties(objective.loss(logits, batch.targets), outputs), outputs[-1]


def with_penalties(loss: torch.Tensor, outputs: list[Any]) -> torch.Tensor:
    """`loss` plus the penalties that mechanisms put into `HostOutput.losses`, averaged over `outputs`."""
    for output in outputs:
        for penalty in output.losses.values():
            loss = loss + penalty / len(outputs)
    return loss
