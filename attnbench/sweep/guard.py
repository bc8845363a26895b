"""Ends a worker that takes more memory than its share, after writing the trial's row.

Ray's own monitor would kill the worker with an error that Tune does not catch, and the whole sweep with it.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY_S = 0.05
SHARE_OF_MACHINE = 0.9


def machine_bytes() -> int:
    """Memory that this process may use: the machine's, or its control group's limit if that is lower."""
    import psutil

    total = psutil.virtual_memory().total
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return total


def share_bytes(neighbours: int) -> int:
    """A worker's share of its machine's memory when so many run on it at once."""
    return int(SHARE_OF_MACHINE * machine_bytes() / max(neighbours, 1))


def watch_memory(limit_bytes: int, record: Callable[[int], None]) -> None:
    """Start the thread that looks at this process's resident memory; above the limit: record(bytes),
    then the process ends.
    """
    threading.Thread(target=_watch, args=(limit_bytes, record), name="memory-guard", daemon=True).start()


def _watch(limit_bytes: int, record: Callable[[int], None]) -> None:
    import psutil

    process, pause = psutil.Process(), threading.Event()
    while not pause.wait(LOOK_EVERY_S):
        used = process.memory_info().rss
        if used > limit_bytes:
            try:
                record(used)
            finally:
                os._exit(1)
