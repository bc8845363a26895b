"""Handwritten digits, 8x8: the smallest real image classification that every installation has."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from attnbench.workloads.ordering import by_class, take_turns
from attnbench.workloads.registry import Parameters, register
from attnbench.workloads.signature import Signature, Split, Workload

if TYPE_CHECKING:
    import numpy as np

# mean and standard deviation of all pixels of all 1,797 images, scaled to [0, 1]: fixed, so that folds
# share one input scale
MEAN, STD = 0.3053, 0.3760
VAL_SHARE = 8


@register("digits")
class Digits(Parameters):
    """Handwritten digits: 1,797 images, 8x8, 10 classes.

    They are the test set of UCI's Optical Recognition of Handwritten Digits, as scikit-learn carries it.
    folds: stratified folds; fold f is the test part, one eighth of the rest (stratified, fixed per fold) is
    the validation part, the remainder trains. With 5 folds: 1,257 train, 180 validation, 360 test, give or
    take one. subset: use only that many training examples (stratified; a smaller subset lies within a
    larger one).
    """

    folds: int = Field(default=5, ge=2, le=100)
    subset: int | None = Field(default=None, ge=1)

    def folds_available(self) -> int:
        """As many as asked for."""
        return self.folds

    def build(self, fold: int) -> Workload:
        """The workload with `fold` as its test part."""
        signature = Signature("image", classes=10, channels=1, height=8, width=8, mean=(MEAN,), std=(STD,))
        return Workload(
            "digits",
            {"name": "digits", **self.model_dump()},
            fold,
            signature,
            "accuracy",
            lambda: self.read(fold),
        )

    def read(self, fold: int) -> tuple[dict[str, Split], str]:
        """The parts, and the checksum of all images and labels."""
        import numpy as np
        import torch

        images, labels = _images()
        order = by_class(labels, "digits")
        of_rest = np.arange(len(order)) % self.folds != fold
        rest = order[of_rest]
        to_val = np.arange(len(rest)) % VAL_SHARE == 0
        chosen = {
            "train": take_turns(rest[~to_val], labels)[: self.subset],
            "val": take_turns(rest[to_val], labels),
            "test": take_turns(order[~of_rest], labels),
        }
        parts = {
            part: Split(torch.from_numpy(images[indices]), torch.from_numpy(labels[indices]))
            for part, indices in chosen.items()
        }
        return parts, hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


@lru_cache(maxsize=1)
def _images() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797,1,8,8) float32 in [0,1] and labels (1797,) int64."""
    import numpy as np

    # the file is read where it lies: importing sklearn.datasets for it costs two seconds in every worker
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    images = (table[:, :-1].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    return images, table[:, -1].copy()
