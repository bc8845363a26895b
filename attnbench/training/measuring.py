"""Gradient statistics of networks: a trial's own while it trains, and several mechanisms at the same
weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.attention import Draws, canonical, describe, seed_parameters
from attnbench.attention.draws import stable_seed
from attnbench.hosts import HostConfig, build_host
from attnbench.training.batches import Batches, moved
from attnbench.training.gradients import GradientStatistics, LossFunction, gradient_statistics
from attnbench.training.loss import mostly_ignored, training_loss
from attnbench.training.objectives import Objective, build_objective
from attnbench.workloads import Split, Workload


def batch_loss(
    split: Split,
    *,
    seed: int,
    step: int,
    draws: int,
    micro: int,
    device: torch.device,
    objective: Objective | None = None,
    sparse: bool = False,
) -> LossFunction:
    """The loss of a whole batch (index tensor into `split`), put through the model `micro` examples at a
    time.

    Draws depend on (seed, step, batch, draw, part) alone and never meet those of training.
    """

    def loss(model: Callable[..., Any], indices: Tensor, b: int, r: int) -> Tensor:
        parts = indices.split(micro)
        total: Any = 0.0
        for place, part in enumerate(parts):
            place_of_draw = Draws(
                stable_seed(seed, "measuring"), step, micro_batch=(b * draws + r) * len(parts) + place
            )
            value, _ = training_loss(
                model, moved(split.batch(part), device), place_of_draw, objective, sparse=sparse
            )
            total = total + value * (len(part) / len(indices))
        return total

    return loss


def paired_gradient_statistics(
    arms: Mapping[str, Any] | Sequence[Any],
    *,
    host: HostConfig,
    workload: Workload,
    weights: Mapping[str, Tensor],
    batches: int = 16,
    draws: int = 2,
    batch: int = 64,
    micro: int | None = None,
    seed: int = 0,
    step: int = 0,
    objectives: Mapping[str, dict[str, Any] | None] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, GradientStatistics]:
    """Gradient statistics of several attention specifications at the same `weights`, on the same batches.

    arms: label -> attention specification, or a list of them (labels are then their descriptions).
    weights: full float32
    tensors by parameter name; parameters that an arm has beyond them start as `seed_parameters(seed)`
    leaves them, and names
    that an arm lacks are not used. objectives: label -> canonical objective, where an arm trains with one.
    Whose weights these
    are is for the caller to record: it decides the answer.
    """
    named = arms if isinstance(arms, Mapping) else {describe(spec): spec for spec in arms}
    device = torch.device(device)
    split = workload.split("train")
    chosen = Batches(split, batch, seed).measuring(step, batches)
    sparse = workload.signature.causal and mostly_ignored(split.targets)
    found = {}
    for label, spec in named.items():
        network = build_host(host, canonical(spec, causal=host.causal), workload.signature)
        seed_parameters(network, seed)
        network.to(device).train()
        own = {
            name: weights[name].to(device) if name in weights else p for name, p in network.named_parameters()
        }
        loss = batch_loss(
            split,
            seed=seed,
            step=step,
            draws=draws,
            micro=micro or batch,
            device=device,
            objective=build_objective((objectives or {}).get(label)),
            sparse=sparse,
        )
        found[label] = gradient_statistics(network, own, chosen, draws, loss, groups=network.layer_groups())
    return found


def shadow_statistics(
    shadow: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Batches,
    loss: LossFunction,
    *,
    step: int,
    count: int,
    draws: int,
    rank: int,
    workers: int,
) -> list[dict[str, Any]]:
    """Rows of the table `gradients` for a trial's own weights after `step` optimiser steps. All workers
    must call."""
    found = gradient_statistics(
        shadow,
        weights,
        batches.measuring(step, count),
        draws,
        loss,
        groups=shadow.layer_groups(),  # type: ignore[operator]
        rank=rank,
        workers=workers,
    )
    return [{"step": step, "weights_of": "own", **row} for row in found.rows()]
