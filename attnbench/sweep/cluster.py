"""The Ray cluster under a sweep: one of its own on loopback, or a running one; started in a thread while
the plan is made.
"""

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.errors import UsageError

# Sockets' paths may have 107 characters, so that the folder of a session lies right under /tmp.
FOLDER_PREFIX = "attnbench-ray-"

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # half the time, and no five files a trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's own state is never read: our tables are
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a specification are relative to where the command was given
    "RAY_USAGE_STATS_ENABLED": "0",
}

LOCAL_SETTINGS = {
    # Means "one machine only"; without it Ray listens on all interfaces, whatever address it is given.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray's monitor would take the whole sweep down with one trial; the actors guard themselves (guard.py).
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray's workers give way to everything else (niceness 15); here they are the work.
    "RAY_worker_niceness": "0",
    # What the workers of a trial say to each other goes through loopback, not where the host's name points.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


@dataclass
class Cluster:
    """A connection to Ray that is made in the background. `wait` gives the error or the resources;
    `close` ends it.

    address: None starts a cluster of our own on this machine; "auto" or "host:port" connects to a
    running one.
    """

    address: str | None = None
    cpus: int | None = None
    folder: Path | None = None
    _error: BaseException | None = None
    _connected: threading.Event = field(default_factory=threading.Event)
    _closed: threading.Event = field(default_factory=threading.Event)

    @property
    def local(self) -> bool:
        return self.address is None

    def start(self) -> "Cluster":
        """Begin to connect; returns at once."""
        settings = TUNE_SETTINGS | (LOCAL_SETTINGS if self.local else {})
        for name, value in settings.items():
            os.environ.setdefault(name, value)
        if self.local:
            _close_to_others()
            remove_leftovers()
            self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir="/tmp"))
        else:
            _probe(str(self.address))
        threading.Thread(target=self._hold, name="ray", daemon=True).start()
        return self

    def wait(self) -> list[dict[str, float]]:
        """Resources (CPU, GPU, ...) of each machine, once the cluster is there. UsageError if it cannot
        be reached.
        """
        self._connected.wait()
        if self._error is not None:
            if self.local:
                raise self._error
            raise UsageError(
                f"no Ray cluster answers at '{self.address}': {' '.join(str(self._error).split())[:200]}"
            )
        _take_signals_back()
        import ray

        return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]

    def close(self) -> None:
        """Disconnect; a cluster of our own ends with its processes and its folder."""
        self._connected.wait()
        import ray

        ray.shutdown()
        self._closed.set()
        if self.folder is not None:
            _end_processes(self.folder)
            shutil.rmtree(self.folder, ignore_errors=True)

    def abandon(self) -> None:
        """For a process that ends now: kill what has been started, and wait for nothing.

        Ray's own clean-up would first wait for the start to finish, some seconds after the user has read why.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray sends it to its driver when its node is gone
        if self.folder is not None:
            _end_processes(self.folder, patience_s=0.0)
            shutil.rmtree(self.folder, ignore_errors=True)
        atexit.register(os._exit, 2)  # before the clean-ups that were registered earlier

    def _hold(self) -> None:
        """Connect, and stay: Linux kills Ray's processes when the thread that started them ends, not the
        process.
        """
        self._connect()
        self._connected.set()
        self._closed.wait()

    def _connect(self) -> None:
        try:
            import ray

            quiet: dict[str, Any] = {
                "log_to_driver": False,
                "logging_level": "ERROR",
                "configure_logging": True,
            }
            if self.local:
                ray.init(
                    address="local",
                    num_cpus=self.cpus or len(os.sched_getaffinity(0)),
                    include_dashboard=False,
                    _temp_dir=str(self.folder),
                    _node_ip_address="127.0.0.1",
                    **quiet,
                )
            else:
                ray.init(address=self.address, **quiet)
        except BaseException as error:
            self._error = error


def _take_signals_back() -> None:
    """Ray's core takes SIGTERM for itself when it connects, and would die of it with a stack trace."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _close_to_others() -> None:
    """A token of its own for our own cluster, or every user of this machine could run code through its ports.

    Ray reads the mode when it is imported, and keeps it.
    """
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _probe(address: str) -> None:
    """One clear line at once, where Ray itself would retry for a minute."""
    if address.startswith("ray://"):
        raise UsageError(
            f"--address {address}: Ray Client is not supported; use host:port on a machine of the cluster, "
            "or 'attnbench submit'"
        )
    if address == "auto":
        return
    host, sign, port = address.rpartition(":")
    if not sign or not port.isdigit():
        raise UsageError(f"--address {address}: write auto or host:port")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UsageError(
            f"--address {address}: nothing answers there ({error.strerror or error}); "
            "'attnbench up' starts a head node"
        ) from None


def remove_leftovers() -> None:
    """End what killed sweeps left behind: Ray's agents outlive a driver that was killed, and hold its
    folder and ports.
    """
    for folder in Path("/tmp").glob(f"{FOLDER_PREFIX}*"):
        owner = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if (
                owner.isdigit()
                and folder.stat().st_uid == os.getuid()
                and not Path(f"/proc/{owner}").exists()
            ):
                _end_processes(folder)
                shutil.rmtree(folder, ignore_errors=True)


def _end_processes(folder: Path, patience_s: float = 1.0) -> None:
    """TERM, then KILL, every process of ours whose command line names the session's folder."""
    import psutil

    def ours() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    process.pid != os.getpid()
                    and process.uids().real == os.getuid()
                    and str(folder) in " ".join(process.cmdline())
                ):
                    found.append(process)
        return found

    for sign in (signal.SIGTERM, signal.SIGKILL):
        left = ours()
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(sign)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(process.is_running() for process in left):
            time.sleep(0.05)
