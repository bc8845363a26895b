"""Small trials: digits in a two-layer encoder, a few steps."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from typing import Any

import pytest
import torch

from attnbench.training import TrialConfig

torch.set_num_threads(1)

HOST = {"kind": "encoder", "layers": 2, "width": 16, "heads": 2, "patch": 2}


@pytest.fixture
def make():
    """make(attention, **changes): a TrialConfig of a few steps."""

    def configuration(attention: Any = "softmax", **changes: Any) -> TrialConfig:
        given: dict[str, Any] = {
            "workload": "digits",
            "host": HOST,
            "attention": attention,
            "train": {"steps": 6, "batch": 32, "lr": 3e-3, "eval_every": 2},
        }
        return TrialConfig.parse(given | changes)

    return configuration


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what a clock, the process or a commit in between decides."""
    clock = {"seconds", "samples_per_s", "tokens_per_s", "step_ms", "wall_s", "setup_s", "busy_s"}
    clock |= {"started_at", "ended_at", "contended", "pid", "git_hash", "git_dirty"}
    return {key: value for key, value in row.items() if key not in clock}
