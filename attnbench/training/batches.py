"""Which examples go into which optimiser step: decided by (seed, epoch) alone, whatever the workers and
the mechanism."""

import torch

from attnbench.attention.draws import stable_seed
from attnbench.errors import UsageError
from attnbench.workloads import Split


class Batches:
    """The order of a training part of E examples, cut into global batches.

    Every epoch is a fresh permutation from a generator of its own; the examples left over at its end are
    not used in that
    epoch, so that all batches have the same size. Step `s` belongs to epoch s // steps_per_epoch.
    """

    def __init__(self, split: Split, batch: int, seed: int) -> None:
        if len(split) < batch:
            raise UsageError(f"train.batch {batch} is more than the {len(split)} training examples")
        self.split = split
        self.batch = batch
        self.seed = seed
        self.steps_per_epoch = len(split) // batch
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> torch.Tensor:
        """Examples (batch,) of the 0-based optimiser step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, "order", epoch))
            self._order = torch.randperm(len(self.split), generator=generator)
            self._epoch = epoch
        return self._order[place * self.batch : (place + 1) * self.batch]

    def micro(self, step: int, *, rank: int, workers: int, accumulate: int) -> list[Split]:
        """The micro-batches of one worker in one step: `accumulate` parts of batch / (workers x
        accumulate) examples each.

        Worker r takes the r-th of `workers` contiguous parts of the batch.
        """
        mine = self.indices(step).chunk(workers)[rank]
        return [self.split.batch(part) for part in mine.chunk(accumulate)]

    def measuring(self, step: int, count: int) -> list[torch.Tensor]:
        """`count` batches (index tensors) for gradient statistics at `step`, apart from the training order.

        They come from one permutation, so they do not overlap while the data suffice; then from the next.
        """
        found: list[torch.Tensor] = []
        for block in range(-(-count // self.steps_per_epoch)):
            generator = torch.Generator().manual_seed(stable_seed(self.seed, "measuring", step, block))
            order = torch.randperm(len(self.split), generator=generator)
            found += list(order[: self.steps_per_epoch * self.batch].split(self.batch))
        return found[:count]


def moved(split: Split, device: torch.device) -> Split:
    """The same part on `device`."""
    mask = None if split.key_mask is None else split.key_mask.to(device)
    return Split(split.inputs.to(device), split.targets.to(device), mask)
