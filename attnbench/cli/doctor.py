"""`attnbench doctor`: is this machine fit to run, one line per thing that was looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

_LEAST_FREE_GIB = 2.0
_LEAST_SHM_MIB = 64.0


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("doctor")(doctor)


def doctor(
    results: Annotated[Path, typer.Option("--results", help="The results folder.")] = Path("results"),
    json: Annotated[bool, typer.Option("--json", help="Print an array of objects.")] = False,
) -> None:
    """Check Python, packages, device, memory, disk and the results folder; exit code 1 if one fails."""
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("device", _device),
        ("processors", _processors),
        ("memory", _memory),
        ("shared memory", _shared_memory),
        ("disk", lambda: _disk(results)),
        ("results", lambda: _results(results)),
    ]
    found = []
    for name, check in checks:
        try:
            fine, line = check()
        except Exception as error:  # a check that cannot be made is a finding, not a crash
            fine, line = False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        found.append({"name": name, "ok": fine, "detail": line})
        if not json:
            print(f"{'ok  ' if fine else 'FAIL'}  {name}: {line}", flush=True)
    if json:
        from json import dumps

        print(dumps(found, indent=2))
    if not all(one["ok"] for one in found):
        raise typer.Exit(1)


def _python() -> tuple[bool, str]:
    import platform
    import sys

    line = f"{platform.python_version()} in {sys.prefix}"
    fine = sys.version_info >= (3, 11)
    return fine, line if fine else f"{line}; 3.11 or newer is needed"


def _packages() -> tuple[bool, str]:
    """What is installed against what the package asks for, and constraints.txt where there is a checkout."""
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    import attnbench

    file = Path(attnbench.__file__).parents[1] / "constraints.txt"
    pins = (
        dict(line.split("==") for line in file.read_text().split() if "==" in line) if file.exists() else {}
    )
    pins = {name.lower().replace("_", "-"): pin for name, pin in pins.items()}
    missing, other = [], []
    names = [
        re.split(r"[\[<>=~!; ]", line)[0] for line in requires("attnbench") or [] if "extra ==" not in line
    ]
    for name in names:
        try:
            has = version(name).split("+")[0]
        except PackageNotFoundError:
            missing.append(name)
            continue
        pin = pins.get(name.lower().replace("_", "-"))
        if pin is not None and has != pin:
            other.append(f"{name} {has} (pinned {pin})")
    if missing or other:
        lines = [f"missing {', '.join(missing)}"] * bool(missing) + [", ".join(other)] * bool(other)
        return False, "; ".join(lines) + "; 'make install' puts this right"
    return True, f"all {len(names)} as pinned" if pins else f"all {len(names)} installed"


def _device() -> tuple[bool, str]:
    """A product of two matrices on the device that trials would use."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        name = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory}"
        device = "cuda"
    else:
        name, device = "cpu (no GPU found)", "cpu"
    x = torch.eye(64, device=device)
    return bool((x @ x == x).all()), f"{name}, torch {torch.__version__}"


def _processors() -> tuple[bool, str]:
    import os

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return True, f"{usable} usable, load {os.getloadavg()[0]:.1f}"


def _memory() -> tuple[bool, str]:
    import psutil

    free_gib = psutil.virtual_memory().available / 2**30
    return free_gib >= _LEAST_FREE_GIB, f"{free_gib:.1f} GiB available; {_LEAST_FREE_GIB:.0f} GiB are needed"


def _shared_memory() -> tuple[bool, str]:
    """Ray's object store lives there; a container's default of 64 MB makes it fall back on the disk."""
    import shutil

    if not Path("/dev/shm").is_dir():
        return True, "no /dev/shm on this system"
    free_mib = shutil.disk_usage("/dev/shm").free / 2**20
    fine = free_mib >= _LEAST_SHM_MIB
    return fine, f"{free_mib:.0f} MiB free in /dev/shm" + (
        "" if fine else "; start the container with --shm-size=1g"
    )


def _disk(results: Path) -> tuple[bool, str]:
    import shutil

    there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    free_gib = shutil.disk_usage(there).free / 2**30
    return (
        free_gib >= _LEAST_FREE_GIB,
        f"{free_gib:.1f} GiB free at {there}; {_LEAST_FREE_GIB:.0f} GiB are needed",
    )


def _results(results: Path) -> tuple[bool, str]:
    """Can be written; a folder that is not there yet is not made for this."""
    import tempfile

    there = next(
        (folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists()), None
    )
    if there is None or not there.is_dir():
        return False, f"{there} is a file; give another folder with --results"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return False, f"{there} cannot be written ({error.strerror}); give another folder with --results"
    return True, f"{results} can be written"
