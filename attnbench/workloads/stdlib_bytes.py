"""A byte-level language model over the sources of the installed Python standard library: real text on every
machine.
"""

from __future__ import annotations

import hashlib
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from attnbench.errors import UsageError
from attnbench.workloads.ordering import hash_rank
from attnbench.workloads.registry import Parameters, register
from attnbench.workloads.signature import PARTS, Signature, Split, Workload

if TYPE_CHECKING:
    import numpy as np

# not the library itself: what is installed beside it, its tests, and what differs from build to build
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
BUILD_DEPENDENT = "_sysconfigdata"
BETWEEN_FILES = b"\x00"
# of every ten files one tests and one validates
TENTHS = {0: "test", 1: "val"}


@register("stdlib_bytes")
class StdlibBytes(Parameters):
    """Next byte of the Python standard library's own sources.

    Some 12 MB of text, 256 symbols. The metric is bits per byte.
    length: bytes in a window; windows do not overlap. Files are parted by a hash of their names (8 : 1 :
    1), so that no file has windows in two parts. subset: that many training windows, evenly spread;
    evaluation_subset: the same for validation and test each. null is all. The data differ between versions
    of Python: compare `data_sha256`.
    """

    length: int = Field(default=128, ge=2)
    subset: int | None = Field(default=None, ge=1)
    evaluation_subset: int | None = Field(default=2048, ge=1)

    def build(self, fold: int) -> Workload:
        """The workload; there is one fold."""
        signature = Signature("tokens", 256, vocabulary=256, length=self.length, causal=True)
        parameters = {"name": "stdlib_bytes", **self.model_dump()}
        return Workload("stdlib_bytes", parameters, fold, signature, "bits_per_byte", self.read)

    def read(self) -> tuple[dict[str, Split], str]:
        """The parts, and the checksum of all names and contents."""
        texts, checksum = _texts()
        limits = {"train": self.subset, "val": self.evaluation_subset, "test": self.evaluation_subset}
        return {part: self.windows(texts[part], limits[part]) for part in PARTS}, checksum

    def windows(self, text: np.ndarray, limit: int | None) -> Split:
        """text (T,) uint8 -> inputs and targets, one byte further, (E,length) int64; at most `limit`,
        evenly spread.
        """
        import numpy as np
        import torch

        count = (len(text) - 1) // self.length
        if count < 1:
            raise UsageError(
                f"workload stdlib_bytes: length {self.length} is longer than a part ({len(text)} bytes)"
            )
        chosen = np.arange(count)
        if limit is not None and limit < count:
            chosen = chosen[:limit] * count // limit
        span = self.length * count
        inputs, targets = (text[shift : shift + span].reshape(count, -1)[chosen] for shift in (0, 1))
        return Split(torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(targets.astype(np.int64)))


def part_of(name: str) -> str:
    """The part that a file belongs to, by its name relative to the library's folder, with forward
    slashes.
    """
    return TENTHS.get(hash_rank(name) % 10, "train")


def sources(folder: Path) -> dict[str, bytes]:
    """Relative name -> content of the library's source files in sorted order."""
    found = {}
    for path in folder.rglob("*.py"):
        relative = path.relative_to(folder)
        if LEFT_OUT.isdisjoint(relative.parts) and not relative.name.startswith(BUILD_DEPENDENT):
            found[relative.as_posix()] = path
    return {name: found[name].read_bytes() for name in sorted(found)}


@lru_cache(maxsize=1)
def _texts() -> tuple[dict[str, np.ndarray], str]:
    """Every part's text, (T,) uint8, files apart by a zero byte; and the checksum of all of it."""
    import numpy as np

    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sources(folder)
    texts: dict[str, list[bytes]] = {part: [] for part in PARTS}
    checksum = hashlib.sha256()
    for name, content in files.items():
        checksum.update(f"{name}\0{len(content)}\0".encode())
        checksum.update(content)
        texts[part_of(name)].append(content)
    if not all(texts.values()):
        raise UsageError(
            f"workload stdlib_bytes: {folder} holds {len(files)} source files of the standard library, "
            "too few; use a Python installation that carries its .py files"
        )
    joined = {part: np.frombuffer(BETWEEN_FILES.join(some), dtype=np.uint8) for part, some in texts.items()}
    return joined, checksum.hexdigest()
