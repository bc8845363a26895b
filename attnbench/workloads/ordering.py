"""A fixed shuffle that no library version, platform or seed can change: order by a hash of the name."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


def hash_rank(name: str) -> int:
    """A 64-bit number spread evenly over names."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def shuffled(names: Iterable[str]) -> list[str]:
    """The names in an order that depends on nothing but the names."""
    return sorted(names, key=lambda name: (hash_rank(name), name))


def by_class(labels: np.ndarray, salt: str) -> np.ndarray:
    """All indices, class after class, each class in a fixed shuffle by `salt` and index. (E,) int64

    Every n-th of them is a stratified share: `by_class(...)[f::n]` for f in 0 to n-1 are n disjoint
    stratified folds.
    """
    rank = np.array([hash_rank(f"{salt}:{index}") for index in range(len(labels))], dtype=np.uint64)
    return np.lexsort((rank, labels))


def take_turns(indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The indices reordered so that classes take turns and every prefix is stratified; within a class order
    is kept.

    indices: (K,) into labels (E,). Classes of unequal size stay in proportion.
    """
    chosen = labels[indices]
    order = np.argsort(chosen, kind="stable")
    sizes = np.bincount(chosen)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = np.empty(len(indices))
    turn[order] = (np.arange(len(indices)) - starts + 0.5) / np.repeat(sizes, sizes)
    return indices[np.lexsort((chosen, turn))]
