"""Finding and ending exactly the processes of one session.

`ray stop` ends every Ray on the machine, so it is never used. Each process that the service starts inherits
the variable MARKER with the session's temp directory. Ray's agents and workers set their own title, which
wipes their environment: they are known as descendants of a marked process and, once orphaned by a killed
raylet, by the session's log files that they keep open.
"""

import contextlib
import os
import signal
from collections.abc import Iterator

import psutil

MARKER = "ATTNBENCH_SESSION"


def find(temp_dir: str) -> list[psutil.Process]:
    """All living processes of the session, without the calling one and its parents."""
    ours = {process.pid: process for process in _of_this_user() if _belongs(process, temp_dir)}
    for process in list(ours.values()):
        with contextlib.suppress(psutil.Error):
            ours.update({child.pid: child for child in process.children(recursive=True)})
    caller = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for pid, process in ours.items() if pid not in caller and _alive(process)]


def end(temp_dir: str, grace_s: float = 5.0) -> tuple[int, list[int]]:
    """TERM, wait grace_s, KILL, until nothing is left; (how many were ended, ids that would not go)."""
    ended: set[int] = set()
    # KILL twice: a process can be born between the listing and the signal to its parent.
    for sign in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        found = find(temp_dir)
        for process in found:
            ended.add(process.pid)
            with contextlib.suppress(psutil.Error):
                process.send_signal(sign)
        psutil.wait_procs(found, timeout=grace_s)
        if not find(temp_dir):
            break
    return len(ended), [process.pid for process in find(temp_dir)]


def _of_this_user() -> Iterator[psutil.Process]:
    uid = os.getuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == uid:
                yield process


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _belongs(process: psutil.Process, temp_dir: str) -> bool:
    with contextlib.suppress(psutil.Error):
        if environment := process.environ():
            return environment.get(MARKER) == temp_dir
        # An empty environment was wiped by a title; a user's pager on a log has one, and is not ours to kill.
        return any(file.path.startswith(temp_dir + "/") for file in process.open_files())
    return False
