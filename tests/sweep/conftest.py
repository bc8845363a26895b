"""One real Ray cluster of two CPUs for all tests of the sweep."""

import os
from pathlib import Path

import psutil
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from attnbench.sweep import Cluster, read_specification, run_sweep

BASE = {
    "workload": "digits",
    "host": {"kind": "encoder", "layers": 1, "width": 16, "heads": 2, "patch": 4},
    "attention": ["softmax"],
    "train": {"steps": 12, "batch": 32, "lr": 3.0e-3, "eval_every": 3},
}


@pytest.fixture(scope="session")
def cluster():
    import torch

    torch.set_num_threads(1)
    cluster = Cluster(cpus=2).start()
    yield cluster
    cluster.close()


@pytest.fixture
def specification(tmp_path):
    """write(name, **changes) -> path of a small sweep on digits."""

    def write(name: str, **changes) -> Path:
        from ruamel.yaml import YAML

        path = tmp_path / f"{name}.yaml"
        with open(path, "w") as stream:
            YAML(typ="safe").dump({"sweep": name, **BASE, **changes}, stream)
        return path

    return write


@pytest.fixture
def run(cluster, tmp_path):
    """run(path, ...) -> Outcome, on the shared cluster, into tmp_path/results."""

    def go(path, **options):
        options.setdefault("results", tmp_path / "results")
        return run_sweep(read_specification(path), cluster=cluster, mirror=False, quiet=True, **options)

    return go


def actor_pids(kind: str = "TrialActor") -> list[int]:
    """Processes of this test's own actors: of trials, or of another kind of Ray's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline() and process.cmdline()[0].startswith(f"ray::{kind}"):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
