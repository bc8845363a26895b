"""What the sweep costs beside the trials: overhead per trial, time to the first step, and whether both
cores were busy.

    python benchmarks/sweep_overhead.py [--trials 40] [--seconds 1.0] [--results DIR]

The command `attnbench run` is started as a user would start it, over trials of about one second each (a
small encoder on digits; the number of steps is set from a trial timed first), two at a time on two CPUs,
without the
MLflow mirror.

overhead per trial   (wall time from the first trial's first step to the command's end - sum of the
trials' busy seconds / 2) / trials, leaving out the two trials that started first: their actors' start is
the
                     next figure. Busy seconds are training and evaluation, by the trial's own clock
                     (`busy_s`).
all inclusive        (wall time of the whole command - sum of all busy seconds / 2) / trials: what 40
trials of a second cost a user who starts from nothing, start and end of the cluster included.
first step           seconds from the command's start to the first instruction of training, and the CPU
seconds that the command and all its processes had used by then.
busy                 share of the time between the first start and the last end in which 2, 1 and 0
                     trials were running, and
                     how many trials each worker ran: a starved pool shows here.

The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC
from pathlib import Path

import psutil

WORKERS = 2
SPECIFICATION = """\
sweep: overhead
workload: digits
host: {{kind: encoder, layers: 2, width: 32, heads: 2, patch: 4}}
attention: [softmax]
train: {{steps: {steps}, batch: 32, lr: 1.0e-3, eval_every: {steps}}}
seeds: {trials}
"""


def main() -> None:
    """Run the sweep, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1.0, help="wanted length of a trial")
    parser.add_argument("--results", type=Path, default=None, help="keep the results here")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    steps = steps_for(given.seconds)
    print(
        f"machine: {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; {steps} steps a trial"
    )
    with tempfile.TemporaryDirectory() as folder:
        results = given.results or Path(folder) / "results"
        path = Path(folder) / "overhead.yaml"
        path.write_text(SPECIFICATION.format(steps=steps, trials=given.trials))
        figures = measure(path, results)
    for name, value in figures.items():
        print(f"{name:34s} {value}")
    print(json.dumps(figures))


def steps_for(seconds: float) -> int:
    """Steps of the benchmark's trial that take about `seconds`, from a trial timed in this process."""
    from attnbench.sweep import read_specification
    from attnbench.training import run_trial

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.yaml"
        path.write_text(SPECIFICATION.format(steps=100, trials=1))
        config = read_specification(path).configurations[0][2]
    run_trial(config)
    return max(10, round(100 * seconds / run_trial(config).row["busy_s"]))


def measure(path: Path, results: Path) -> dict[str, object]:
    """Start the command, watch its CPU seconds, read its rows."""
    command = [sys.executable, "-m", "attnbench.cli.main", "run", str(path), "--results", str(results)]
    command += ["--no-mlflow", "--cpus", str(WORKERS), "--quiet"]
    started, clock = time.time(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    spent: list[tuple[float, float]] = []
    watcher = threading.Thread(target=watch_cpu, args=(process.pid, spent), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    wall_s, ended = time.monotonic() - clock, time.time()
    if process.returncode != 0:
        sys.exit(f"the sweep ended with exit code {process.returncode}: {output}")

    from attnbench.results import Store

    rows = sorted(Store(results).rows("trials", "overhead"), key=lambda row: row["started_at"])
    spans = [(stamp(row["started_at"]), stamp(row["ended_at"])) for row in rows]
    first_step = min(start for start, _ in spans)
    busy = [row["busy_s"] for row in rows]
    per_worker = sorted(
        (sum(row["pid"] == pid for row in rows) for pid in {row["pid"] for row in rows}), reverse=True
    )
    both, one, none = concurrency(spans)
    after_start = ended - max(start for start, _ in spans[:WORKERS])
    return {
        "trials": len(rows),
        "wall_s": round(wall_s, 2),
        "busy_s_median": round(sorted(busy)[len(busy) // 2], 3),
        "overhead_s_per_trial": round((after_start - sum(busy) / WORKERS) / (len(rows) - WORKERS), 3),
        "all_inclusive_s_per_trial": round((wall_s - sum(busy) / WORKERS) / len(rows), 3),
        "first_step_s": round(first_step - started, 2),
        "first_step_cpu_s": round(max((cpu for at, cpu in spent if at <= first_step), default=0.0), 2),
        "two_trials_running": round(both, 3),
        "one_trial_running": round(one, 3),
        "no_trial_running": round(none, 3),
        "trials_by_worker": per_worker,
    }


def watch_cpu(pid: int, spent: list[tuple[float, float]]) -> None:
    """Append (time, CPU seconds of the process and all its descendants so far) ten times a second."""
    seen: dict[int, float] = {}
    try:
        root = psutil.Process(pid)
        while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
            for process in [root, *root.children(recursive=True)]:
                try:
                    times = process.cpu_times()
                    seen[process.pid] = times.user + times.system
                except psutil.Error:
                    continue
            spent.append((time.time(), sum(seen.values())))
            time.sleep(0.1)
    except psutil.Error:
        return


def concurrency(spans: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Shares of the time from the first start to the last end with two or more, one, and no trial running."""
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    shares, running, last = [0.0, 0.0, 0.0], 0, events[0][0]
    for at, change in events:
        shares[min(running, 2)] += at - last
        running, last = running + change, at
    total = events[-1][0] - events[0][0]
    return shares[2] / total, shares[1] / total, shares[0] / total


def stamp(moment: object) -> float:
    """Seconds since the epoch of a stored timestamp (UTC without a zone)."""
    return moment.replace(tzinfo=UTC).timestamp()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
