"""Mechanisms that go wrong on purpose: faults for the tests of the sweep."""

import time

import torch
from pydantic import Field

from attnbench.attention import Mechanism
from attnbench.attention.mechanism import Parameters


class Threshold(Parameters):
    above: float = Field(0.5, description="goes wrong when above this is 1")


class Raises(Mechanism):
    """Raises in the forward pass."""

    name = "raises"
    schema = Threshold

    def bias(self, c, logits):
        if self.settings.above >= 0.5:
            raise RuntimeError("this mechanism is broken")
        return logits


class Hoards(Mechanism):
    """Takes 3 GB in the forward pass, and waits to be noticed."""

    name = "hoards"

    def bias(self, c, logits):
        taken = [torch.ones(2**26) for _ in range(12)]
        time.sleep(5)
        return logits + 0 * taken[0][0]


class Sleeps(Mechanism):
    """Never comes back."""

    name = "sleeps"

    def bias(self, c, logits):
        time.sleep(3600)
        return logits
