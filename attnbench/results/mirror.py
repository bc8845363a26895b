"""The process that copies a sweep from the Parquet tables into MLflow while it runs, and the one-off copy.

    python -m attnbench.results.mirror RESULTS [--sweep NAME]     all that is there, once
    python -m attnbench.results.mirror RESULTS --follow SWEEP     while the sweep runs, until told

A process of its own at low priority, so that neither a slow database nor a server that is down touches the
sweep. It also merges small files when a table has many.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from attnbench.errors import UsageError
from attnbench.results.layout import check_name, open_results
from attnbench.results.mlflow_runs import Mirror
from attnbench.results.store import Store

_EVERY_S = 3.0
_LONGEST_WAIT_S = 30.0


def sync_once(
    results: str | os.PathLike[str],
    sweeps: Iterable[str] | None = None,
    uri: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, int]:
    """Bring MLflow up to date with these sweeps (default: all); sweep -> runs written to.

    UsageError if there is no such sweep, or if a mirror of it is at work for longer than a minute.
    """
    store = Store(open_results(results))
    known = store.sweeps()
    names = list(sweeps or [name for name in known if store.attempts(name)])
    for name in names:
        if name not in known:
            raise UsageError(f"no sweep {name!r} in '{results}'; there: {', '.join(known) or 'none'}")
    mirror = Mirror(results, uri)
    written = {}
    for name in names:
        end = time.monotonic() + 60
        with _only_one(store.path, name, partial(_is_past, end)) as mine:
            if not mine:
                raise UsageError(f"sweep {name!r} is being mirrored by a run under way; nothing to do")
            written[name] = mirror.sync(name, partial(progress, name) if progress else None)
    return written


def _is_past(end: float) -> bool:
    return time.monotonic() > end


def follow(results: Path, sweep: str, uri: str | None, stop: Path | None, parent: int | None) -> int:
    """Keep MLflow in step with a running sweep until `stop` exists or `parent` is gone; then once more.

    Returns the exit code: 0 if the last pass sent everything.
    """
    results.mkdir(parents=True, exist_ok=True)

    def told() -> bool:
        return (stop is not None and stop.exists()) or (parent is not None and os.getppid() != parent)

    with _only_one(results, sweep, told) as mine:
        if not mine:
            return 1
        mirror: Mirror | None = None
        wait_s = _EVERY_S
        while True:
            last = told()
            failed = False
            try:
                mirror = mirror or Mirror(results, uri)
                mirror.sync(sweep)
                wait_s = _EVERY_S
                if not last:
                    mirror.store.compact()
            except Exception as error:  # whatever a database or a server may do, the sweep is not touched
                failed = True
                line = f"{datetime.now():%H:%M:%S} mirror: {type(error).__name__}: {str(error)[:300]}"
                print(line, flush=True)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                mirror = None  # what the server remembers is not known any more
            if last:
                return 1 if failed else 0
            end = time.monotonic() + wait_s
            while time.monotonic() < end and not told():
                time.sleep(0.1)


@contextmanager
def _only_one(root: Path, sweep: str, give_up: Callable[[], bool]) -> Iterator[bool]:
    """One mirror per sweep, or two would make two runs of one trial; waits for the other to end."""
    folder = root / ".mirror"
    folder.mkdir(exist_ok=True)
    with open(folder / f"{check_name('sweep', sweep)}.lock", "w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if give_up():
                    yield False
                    return
                time.sleep(0.2)
        yield True


def main() -> int:
    """The command line of `python -m attnbench.results.mirror`."""
    parser = argparse.ArgumentParser(prog="python -m attnbench.results.mirror")
    parser.add_argument("results", type=Path)
    parser.add_argument("--sweep", action="append", help="only this sweep (may be repeated)")
    parser.add_argument("--follow", metavar="SWEEP")
    parser.add_argument(
        "--uri", help="the tracking server; default $MLFLOW_TRACKING_URI or RESULTS/mlflow.db"
    )
    parser.add_argument("--stop", type=Path, help="end after a last pass once this file exists")
    parser.add_argument("--parent", type=int, help="end after a last pass once this process is gone")
    given = parser.parse_args()
    os.nice(10)
    if given.follow:
        return follow(given.results, given.follow, given.uri, given.stop, given.parent)
    try:
        for sweep, runs in sync_once(given.results, given.sweep, given.uri).items():
            print(f"{sweep}: {runs} runs written")
    except UsageError as error:
        print(f"attnbench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
