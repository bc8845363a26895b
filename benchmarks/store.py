"""What the results store costs: writing trials, and asking, over loose files and over compacted ones.

    python benchmarks/store.py [TRIALS] [ROWS]          default 1000 trials of 1000 step rows

Prints CPU and wall seconds. CPU seconds are the ones to compare on a machine that does other things too.
"""

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attnbench.results import Store
from attnbench.results.compaction import compact
from attnbench.results.querying import answer

QUESTIONS = {
    "leaderboard": "select * from leaderboard where metric = 'test_accuracy'",
    "group by over all steps": "select trial_id, avg(loss), max(step) from steps group by all",
    "one curve": "select step, loss from steps where trial_id = 't7' order by step",
}


def timed(name: str, work: Callable[[], object]) -> None:
    """Run the work once and print what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    print(
        f"{name:45} {time.process_time() - cpu:8.3f} s CPU {time.perf_counter() - wall:8.3f} s wall",
        flush=True,
    )


def write(store: Store, trials: int, rows: int) -> None:
    """Trials with noisy curves: five flushes each, then the final row."""
    chance = random.Random(0)
    for trial in range(trials):
        sink = store.sink("s", f"t{trial}")
        for part in range(5):
            sink.steps(
                {
                    "step": step,
                    "epoch": step / 100,
                    "split": "train",
                    "seconds": step * 0.01 + chance.random() / 1000,
                    "loss": chance.random(),
                    "lr": 1e-3,
                    "grad_norm": chance.random(),
                    "tokens_per_s": chance.random() * 1e5,
                    "peak_bytes": 2**20,
                }
                for step in range(part * rows // 5, (part + 1) * rows // 5)
            )
            sink.flush()
        arm = ("softmax", "alibi", "lam")[trial % 3]
        sink.final(
            {
                "arm": arm, "mechanism": arm, "attention": [{"name": arm}], "workload": "digits",
                "host": "encoder", "host_params": {"width": 64, "heads": 4}, "train": {"batch": 64},
                "seed": trial // 3, "role": "grid",
                "status": "ok", "test_accuracy": chance.random(), "val_accuracy": chance.random(),
            }
        )  # fmt: skip


def size_mib(root: Path) -> tuple[float, int]:
    files = [path for path in (root / "steps").rglob("*.parquet")]
    return sum(path.stat().st_size for path in files) / 2**20, len(files)


def main(trials: int, rows: int) -> None:
    print(f"{trials} trials of {rows} step rows; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = Store(root)
        timed("write, five flushes a trial", lambda: write(store, trials, rows))
        for state in ("loose", "compacted"):
            if state == "compacted":
                timed("compact", lambda: compact(root, least=1, grace_s=0))
                compact(root, least=10**9, grace_s=0)
            print("{}: steps {:.1f} MiB in {} files".format(state, *size_mib(root)))
            for name, sql in QUESTIONS.items():
                timed(f"  {name}", lambda sql=sql: list(answer(root, sql)[1]))  # type: ignore[misc]


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["1000", "1000"][len(sys.argv) - 1 :])))
