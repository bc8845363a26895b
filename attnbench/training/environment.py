"""What a trial ran on: code version, package versions, device. Found once per process."""

import json
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("attnbench", "torch", "deepspeed", "numpy", "ray")


@cache
def git_version() -> tuple[str | None, bool | None]:
    """(commit hash, whether tracked files differ from it) of the code that runs; (None, None) outside a
    checkout."""
    here = Path(__file__).parent
    try:
        commit = _git("rev-parse", "HEAD", where=here)
        changed = _git("status", "--porcelain", "--untracked-files=no", where=here)
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit.strip(), bool(changed.strip())


def _git(*words: str, where: Path) -> str:
    done = subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


@cache
def versions() -> str:
    """Versions of Python and of the packages that decide figures, as JSON."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return json.dumps(found, sort_keys=True)


@cache
def host_name() -> str:
    """Name of this machine."""
    return socket.gethostname()


def device_name(device: torch.device) -> str:
    """ "cpu", or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
