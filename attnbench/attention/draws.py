"""Where every random number of a mechanism comes from: a generator seeded by the place of the draw, never by
the global state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from the text of `parts` (blake2b), the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Draws:
    """The place of one network pass in a training run; layers ask it for their generators.

    seed: of the trial; step: optimiser step; pass_: which of an objective's passes over the same batch;
    micro_batch: within the accumulation; rank: of the worker. A restarted worker draws what the undisturbed
    one would have drawn.
    """

    seed: int
    step: int
    pass_: int = 0
    micro_batch: int = 0
    rank: int = 0

    def generator(self, layer: int | str, device: torch.device | str = "cpu") -> torch.Generator:
        """The generator of one layer (or named place) in this pass."""
        generator = torch.Generator(device)
        generator.manual_seed(
            stable_seed(self.seed, self.step, self.pass_, self.micro_batch, self.rank, layer)
        )
        return generator
