"""Multi-query associative recall: after key-value pairs, each key returns and its value is the answer.

Zoology: Measuring and Improving Recall in Efficient Language Models (arXiv 2312.04927), section 3.2 and
appendix; the distribution is that of its generator (HazyResearch/zoology, multiquery_ar), so that both can
be run side by side.

    inputs   k1 v1 k2 v2 | .  .  k2 .  .  .  k1 .        context of `pairs` pairs, then queries at even
    offsets targets  -  -  -  -  | -  -  v2 -  -  -  v1 -        - is -100: neither the loss nor accuracy
    counts it
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from attnbench.errors import UsageError
from attnbench.workloads.registry import Parameters, register
from attnbench.workloads.signature import IGNORED, PARTS, Signature, Split, Workload

if TYPE_CHECKING:
    import numpy as np

# rows drawn at a time: bounds the table of random numbers (rows x vocabulary / 2 float64) to some 70 MB
ROWS = 2048


@register("mqar")
class MQAR(Parameters):
    """Multi-query associative recall (Zoology, arXiv 2312.04927), generated.

    vocabulary V: keys are 1 to V/2-1, values V/2 to V-1, each at most once in an example. length N (even).
    pairs: keys with their values; passes: how often the pairs are shown (just read twice, arXiv
    2407.05483). The g-th possible place of a query (g = 1, 2, ... in steps of two tokens behind the
    context) is drawn without replacement with probability proportional to g^(power_a - 1): 1 is uniform,
    small values put queries near. random_non_queries: positions that would hold token 0 hold tokens drawn
    uniformly from the whole vocabulary. examples train, which is one epoch; test_examples each validate and
    test. data_seed decides the data; a trial's seed does not.
    """

    vocabulary: int = Field(default=256, ge=4)
    length: int = Field(default=64, ge=4)
    pairs: int = Field(default=4, ge=1)
    passes: int = Field(default=1, ge=1)
    power_a: float = Field(default=0.01, gt=0)
    random_non_queries: bool = True
    examples: int = Field(default=10_000, ge=1)
    test_examples: int = Field(default=1_000, ge=1)
    data_seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.length % 2:
            raise ValueError(f"length {self.length} is odd; queries lie in steps of two, so it must be even")
        if self.vocabulary <= self.length:
            raise ValueError(f"vocabulary {self.vocabulary} must be greater than length {self.length}")
        needed = 2 * self.pairs * (self.passes + 1)
        if needed > self.length:
            raise ValueError(
                f"{self.pairs} pairs shown {self.passes} times need a length of {needed}, not {self.length}"
            )
        return self

    def build(self, fold: int) -> Workload:
        """The workload; there is one fold."""
        signature = Signature(
            "tokens", self.vocabulary, vocabulary=self.vocabulary, length=self.length, causal=True
        )
        parameters = {"name": "mqar", **self.model_dump()}
        return Workload("mqar", parameters, fold, signature, "accuracy", self.read)

    def read(self) -> tuple[dict[str, Split], str]:
        """Generate the parts; no example of one part occurs in another."""
        import numpy as np
        import torch

        sizes = {"train": self.examples, "val": self.test_examples, "test": self.test_examples}
        parts: dict[str, Split] = {}
        seen: set[bytes] = set()
        checksum = hashlib.sha256()
        for index, part in enumerate(PARTS):
            random = np.random.Generator(np.random.PCG64([self.data_seed, index]))
            inputs, targets = self.draw(random, sizes[part], seen)
            seen |= {row.tobytes() for row in inputs}
            checksum.update(inputs.tobytes())
            checksum.update(targets.tobytes())
            parts[part] = Split(torch.from_numpy(inputs), torch.from_numpy(targets))
        return parts, checksum.hexdigest()

    def draw(
        self, random: np.random.Generator, count: int, seen: set[bytes]
    ) -> tuple[np.ndarray, np.ndarray]:
        """`count` examples that are not in `seen`: inputs and targets, (count, length) int64."""
        import numpy as np

        kept: list[tuple[np.ndarray, np.ndarray]] = []
        missing, fruitless = count, 0
        while missing:
            inputs, targets = self.examples_of(random, min(missing, ROWS))
            new = np.array([row.tobytes() not in seen for row in inputs])
            kept.append((inputs[new], targets[new]))
            missing -= int(new.sum())
            fruitless = 0 if new.any() else fruitless + 1
            if fruitless == 10:
                raise UsageError(
                    f"workload mqar: vocabulary {self.vocabulary}, length {self.length}, {self.pairs} pairs "
                    "allow too few different examples for disjoint parts; make the task larger or the parts "
                    "smaller"
                )
        return np.concatenate([i for i, _ in kept]), np.concatenate([t for _, t in kept])

    def examples_of(self, random: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """One draw of `rows` examples: inputs and targets, (rows, length) int64."""
        import numpy as np

        half, context = self.vocabulary // 2, 2 * self.pairs * self.passes
        keys = 1 + distinct(random, np.zeros(half - 1), rows, self.pairs)
        values = half + distinct(random, np.zeros(self.vocabulary - half), rows, self.pairs)
        places = (self.length - context) // 2
        log_share = (self.power_a - 1) * np.log(np.arange(1, places + 1))
        queries = context + 2 * distinct(random, log_share, rows, self.pairs)

        inputs = np.zeros((rows, self.length), dtype=np.int64)
        inputs[:, :context] = np.tile(np.stack([keys, values], axis=2).reshape(rows, -1), self.passes)
        np.put_along_axis(inputs, queries, keys, axis=1)
        targets = np.full((rows, self.length), IGNORED, dtype=np.int64)
        np.put_along_axis(targets, queries, values, axis=1)
        if self.random_non_queries:
            noise = random.integers(self.vocabulary, size=inputs.shape)
            inputs = np.where(inputs == 0, noise, inputs)
        return inputs, targets


def distinct(random: np.random.Generator, log_share: np.ndarray, rows: int, count: int) -> np.ndarray:
    """Per row, `count` different items in the order drawn. (rows, count) int64, items 0 to len(log_share)-1

    Each is drawn with probability proportional to exp(log_share) among the items that are left.
    The largest of log_share + Gumbel noise, in falling order, are such a sample (Gumbel-top-k, arXiv
    1903.06059).
    """
    import numpy as np

    noisy = log_share - np.log(random.standard_exponential((rows, len(log_share))))
    top = np.argpartition(-noisy, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(noisy, top, axis=1), axis=1)
    return np.take_along_axis(top, order, axis=1)
