"""What a workload shows to a host and to the training loop: its shapes, its parts, its metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Target value that neither the loss nor a metric counts."""

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Signature:
    """The shape of a task: all that a host needs in order to be built for it.

    kind "image": inputs are float32 in [0, 1], (B, channels, height, width); `mean` and `std` (one figure
    per channel, in the same units) are what the host normalises with.
    kind "tokens": inputs are int64 in [0, vocabulary), (B, length).
    causal: a language model with a target at every position, (B, length); else one target per example,
    (B,). padding: batches come with a key mask, (B, length) bool, True where a token is real.
    """

    kind: Literal["image", "tokens"]
    classes: int
    channels: int = 0
    height: int = 0
    width: int = 0
    vocabulary: int = 0
    length: int = 0
    causal: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    padding: bool = False


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a workload, whole in memory: a batch is `split.batch(indices)`.

    inputs (E,C,H,W) float32 or (E,N) int64; targets (E,) or (E,N) int64, -100 where nothing counts;
    key_mask (E,N) bool or None.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    key_mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def batch(self, indices: torch.Tensor) -> Split:
        """The examples at `indices` (int64, (B,)), in that order, copied."""
        mask = None if self.key_mask is None else self.key_mask[indices]
        return Split(self.inputs[indices], self.targets[indices], mask)


class Workload:
    """A data set or generated task with fixed, disjoint parts; its data are read at the first call that
    needs them.

    name, signature; parameters: the canonical dict it was loaded from; fold; metric "accuracy" or
    "bits_per_byte"; direction "max" or "min". The test part is for the final evaluation alone.
    """

    def __init__(
        self,
        name: str,
        parameters: dict[str, Any],
        fold: int,
        signature: Signature,
        metric: Literal["accuracy", "bits_per_byte"],
        read: Callable[[], tuple[dict[str, Split], str]],
    ) -> None:
        self.name = name
        self.parameters = parameters
        self.fold = fold
        self.signature = signature
        self.metric = metric
        self.direction: Literal["max", "min"] = "max" if metric == "accuracy" else "min"
        self._read = read
        self._data: tuple[dict[str, Split], str] | None = None

    def _loaded(self) -> tuple[dict[str, Split], str]:
        if self._data is None:
            self._data = self._read()
        return self._data

    def split(self, part: str) -> Split:
        """The part "train", "val" or "test"."""
        return self._loaded()[0][part]

    @property
    def data_sha256(self) -> str:
        """Checksum of the data set behind all parts and folds: equal checksums, equal data."""
        return self._loaded()[1]

    def __repr__(self) -> str:
        return f"Workload({self.name}, {self.parameters}, fold={self.fold})"
