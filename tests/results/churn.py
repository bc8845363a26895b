"""A writer or a compactor that works until it is killed: `python -m tests.results.churn ROLE RESULTS`."""

import os
import random
import sys
import time
from pathlib import Path

from attnbench.results import Store
from attnbench.results.compaction import compact
from attnbench.results.layout import snapshot
from attnbench.results.sinks import ParquetSink
from tests.results.rows import final_row, train_rows

STEPS = 60


def write(root: Path) -> None:
    """Go on with the trials t0, t1, ... from where the last writer died, as a resumed sweep does."""
    store = Store(root)
    index = 0
    while True:
        trial_id = f"t{index}"
        index += 1
        if trial_id in store.finals("s"):
            continue
        sink = ParquetSink(root, "s", trial_id, 1, segment_rows=25)
        durable = len(store.rows("steps", "s", trial_id))
        checkpoint = durable - durable % 10
        sink.cut(checkpoint - 1)
        for first in range(checkpoint, STEPS, 10):
            sink.steps(train_rows(first, first + 10))
            sink.flush()
            ready(root)
        sink.final(final_row())


def merge(root: Path) -> None:
    """Compact all the time, with a grace just longer than the reader's queries."""
    while True:
        worked = bool(snapshot(root, "steps").loose)
        compact(root, least=1, grace_s=1.5)
        if worked:
            ready(root)
        time.sleep(random.random() * 0.1)


def ready(root: Path) -> None:
    """Tell the test that the imports are over and work has begun: only then is a kill worth anything."""
    (root / f".ready-{os.getpid()}").touch()


if __name__ == "__main__":
    {"write": write, "merge": merge}[sys.argv[1]](Path(sys.argv[2]))
