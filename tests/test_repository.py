"""Checks on the source itself: lint, types, import direction, pinned versions, a light command line."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_ruff_finds_nothing() -> None:
    done = run(sys.executable, "-m", "ruff", "check", ".")
    assert done.returncode == 0, done.stdout


def test_mypy_finds_nothing() -> None:
    done = run(sys.executable, "-m", "mypy")
    assert done.returncode == 0, done.stdout


def test_rooms_import_downwards_only() -> None:
    done = run(str(Path(sys.executable).parent / "lint-imports"))
    assert done.returncode == 0, done.stdout


def test_every_dependency_is_pinned_and_installed_as_pinned() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    pins = {name.lower().replace("_", "-"): pin for name, pin in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name = re.split(r"[\[<>=~! ]", requirement)[0]
        assert name.lower().replace("_", "-") in pins, f"{name} is not in constraints.txt"
        assert version(name).split("+")[0] == pins[name.lower().replace("_", "-")]


def test_help_imports_nothing_heavy_and_takes_under_half_a_second_of_cpu() -> None:
    heavy = ["torch", "ray", "pandas", "pyarrow", "mlflow", "deepspeed", "matplotlib", "duckdb"]
    script = (
        "import sys; from attnbench.cli.main import application; application();"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    assert run(sys.executable, "-c", script).stdout.strip() == "[]"
    before = os.times()
    assert run(str(Path(sys.executable).parent / "attnbench"), "--help").returncode == 0
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    assert cpu_s < 0.5, f"--help took {cpu_s:.2f} s of CPU"
