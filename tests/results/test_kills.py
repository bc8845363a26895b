"""Writers and compactors are killed at random while a reader asks: no row is torn, doubled or missing."""

import random
import subprocess
import sys
import time
from pathlib import Path

from attnbench.results import Store
from attnbench.results.compaction import compact
from attnbench.results.querying import answer
from tests.results.churn import STEPS

ROOT = Path(__file__).parents[2]

QUESTION = """
    select s.trial_id, count(*), count(distinct step), min(step), max(step), max(abs(loss - 1 / (1 + step))),
           any_value(t.status)
    from steps s left join trials t using (sweep, trial_id) group by s.trial_id
"""


def check(store: Store, ended_before: set[str]) -> None:
    """One read of everything, against what must hold at every moment."""
    seen = set()
    for trial_id, count, distinct, first, last, error, status in answer(store.path, QUESTION)[1]:
        assert count == distinct and first == 0 and last == count - 1, (
            trial_id,
            count,
            distinct,
            first,
            last,
        )
        assert error < 1e-12
        if status is not None or trial_id in ended_before:
            assert count == STEPS, (trial_id, count)
        seen.add(trial_id)
    assert ended_before <= seen


def churn(root: Path, role: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tests.results.churn", role, str(root)], cwd=ROOT)


def run_until(root: Path, least_reads: int, least_kills: int, limit_s: float = 240) -> tuple[int, int]:
    """Kill -9 a writer and a compactor again and again while reading; the number of reads and of kills."""
    random.seed(0)
    store, reads, kills = Store(root), 0, 0
    processes = {role: churn(root, role) for role in ("write", "merge")}
    due: dict[str, float] = {}
    try:
        end = time.monotonic() + limit_s
        while reads < least_reads or kills < least_kills:
            assert time.monotonic() < end, f"{reads} reads and {kills} kills in {limit_s:.0f} s"
            ended = set(store.finals("s"))
            check(store, ended)
            reads += 1
            for role, process in processes.items():
                assert process.poll() is None, f"the {role} process died by itself"
                if role not in due and (root / f".ready-{process.pid}").exists():
                    due[role] = time.monotonic() + random.random()  # its imports took long enough
                if time.monotonic() > due.get(role, end):
                    process.kill()
                    process.wait()
                    kills += 1
                    processes[role] = churn(root, role)
                    due.pop(role, None)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return reads, kills


def test_no_row_is_torn_doubled_or_missing_while_writer_and_compactor_are_killed(tmp_path: Path) -> None:
    run_until(tmp_path, least_reads=10, least_kills=4)
    store = Store(tmp_path)
    ended = set(store.finals("s"))
    check(store, ended)
    compact(tmp_path, least=1, grace_s=0)
    check(store, ended)
    assert store.verify() == []


if __name__ == "__main__":  # a longer run: python -m tests.results.test_kills READS KILLS
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = run_until(Path(folder), int(sys.argv[1]), int(sys.argv[2]), limit_s=3600)
        print("reads, kills:", done, "finished trials:", len(Store(folder).finals("s")))
