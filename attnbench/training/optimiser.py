"""The optimisers: torch's own mathematics, with Adam's step taken straight to torch's fused kernel."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.training.config import TrainConfig


class FusedAdam(torch.optim.Adam):
    """Adam and AdamW by torch's fused kernel, the same numbers and the same state as torch.optim with
    fused=True.

    torch's own step imports the compiler at its first call (1.5 s of CPU time in every worker process) and
    sorts its tensors
    by device at every step, though here they all share one.
    """

    def __init__(self, groups: Any, *, decoupled: bool, **settings: Any) -> None:
        self.kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
        super().__init__(groups, **settings)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The base's own, without the wrapper that imports the compiler."""
        method = torch.optim.Optimizer.add_param_group
        getattr(method, "__wrapped__", method)(self, param_group)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            held = [self._held(parameter) for parameter in params]
            steps = [state["step"] for state in held]
            torch._foreach_add_(steps, 1)
            beta1, beta2 = group["betas"]
            self.kernel(
                params,
                [parameter.grad for parameter in params],
                [state["exp_avg"] for state in held],
                [state["exp_avg_sq"] for state in held],
                [],
                steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=None,
                found_inf=None,
            )

    def _held(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def make_optimiser(parameters: Sequence[nn.Parameter], train: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of `train`; weight decay acts on tensors of two or more dimensions only."""
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    rest = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if train.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum)
    return FusedAdam(groups, decoupled=train.optimiser == "adamw", lr=train.lr, betas=train.betas)
