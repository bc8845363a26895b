"""Free ports on loopback, chosen by us: Ray's fixed defaults clash with any second cluster on the machine."""

import random
import socket

from attnbench.errors import UsageError

# Below Linux's ephemeral range (32768 and up): no outgoing connection takes one between choosing and binding.
LOWEST, HIGHEST = 20_000, 32_000
# Every Ray worker process listens on one; a head on one machine seldom has more than a few dozen.
WORKER_PORTS = 200
RAY_PARTS = (
    "ray",
    "dashboard_agent",
    "dashboard_agent_grpc",
    "metrics",
    "runtime_env_agent",
    "node_manager",
    "object_manager",
    "ray_client",
    "autoscaler_metrics",
    "dashboard_metrics",
)


def is_free(port: int) -> bool:
    """Can a server bind 127.0.0.1:port now?"""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listens(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Does anything accept connections there?"""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def choose(dashboard: int | None = None, mlflow: int | None = None) -> dict[str, int]:
    """Choose every port of a session: name -> port; workers_first and workers_last are an inclusive range.

    dashboard, mlflow: a port the user asked for (UsageError if taken); else 8265 and 5000, or a free one.
    """
    named = {
        "dashboard": _wanted(dashboard, 8265, "--port"),
        "mlflow": _wanted(mlflow, 5000, "--mlflow-port"),
    }
    if named["dashboard"] is not None and named["dashboard"] == named["mlflow"]:
        raise UsageError(f"--port and --mlflow-port are both {dashboard}: give two different ports")
    needed = len(RAY_PARTS) + len(named) + WORKER_PORTS
    for _ in range(200):
        base = random.randrange(LOWEST, HIGHEST - needed)
        block = range(base, base + needed)
        if all(is_free(port) for port in block):
            break
    else:
        raise UsageError(f"no block of {needed} free ports between {LOWEST} and {HIGHEST} on 127.0.0.1")
    ports = dict(zip((*RAY_PARTS, *named), block, strict=False))
    ports.update({part: port for part, port in named.items() if port is not None})
    ports.update(workers_first=block[-WORKER_PORTS], workers_last=block[-1])
    return ports


def _wanted(asked: int | None, usual: int, option: str) -> int | None:
    if asked is None:
        return usual if is_free(usual) else None
    if not is_free(asked):
        raise UsageError(
            f"{option} {asked} is taken on 127.0.0.1: leave {option} out to have a free one chosen"
        )
    return asked
