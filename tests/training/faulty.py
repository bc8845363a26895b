"""A mechanism that does harm at a chosen forward pass, to see how a trial ends."""

import os
import signal
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attnbench.attention import Mechanism, Parameters


class FaultyParameters(Parameters):
    fault: Literal["nan", "error", "memory", "interrupt", "kill"] = Field(
        "nan", description="what goes wrong"
    )
    at: int = Field(3, ge=0, description="training passes before it does")


class Faulty(Mechanism):
    """Softmax, until its training pass number `at`; "kill" happens at pass $KILL_AT, if that is set."""

    name = "faulty"
    summary = "does harm on purpose"
    schema = FaultyParameters

    def __init__(self, settings: Any, shape: Any) -> None:
        super().__init__(settings, shape)
        self.passes = 0

    def perturb(self, c: Any, logits: Tensor) -> Tensor:
        self.passes += 1
        if self.settings.fault == "kill":
            if os.environ.get("KILL_AT") == str(self.passes):
                os.kill(os.getpid(), signal.SIGKILL)
            return logits
        if self.passes <= self.settings.at:
            return logits
        if self.settings.fault == "nan":
            return logits * float("nan")
        if self.settings.fault == "memory":
            return logits + torch.empty(2**58)[0]
        if self.settings.fault == "interrupt":
            raise KeyboardInterrupt
        raise ValueError("the map is\nnot square")
