"""Rows as trials write them, for the tests of this room."""

import json
from datetime import datetime, timedelta
from typing import Any

from attnbench.results import Store

START = datetime(2026, 3, 1, 12, 0, 0)


def train_rows(first: int, last: int) -> list[dict[str, Any]]:
    """Steps first to last - 1, with values that a test can recompute."""
    return [
        {
            "step": step,
            "epoch": step / 100,
            "split": "train",
            "seconds": step * 0.01,
            "loss": 1 / (1 + step),
            "lr": 1e-3,
        }
        for step in range(first, last)
    ]


def val_row(step: int, accuracy: float) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 100,
        "split": "val",
        "seconds": step * 0.01,
        "loss": 0.5,
        "accuracy": accuracy,
    }


def final_row(
    arm: str = "softmax", seed: int = 0, accuracy: float | None = 0.9, **others: Any
) -> dict[str, Any]:
    attention = [{"name": arm}]
    return {
        "arm": arm, "mechanism": arm, "attention": attention,
        "workload": "digits", "workload_params": {"name": "digits"}, "fold": 0,
        "host": "encoder", "host_params": {"kind": "encoder", "width": 64, "heads": 4, "layers": 2},
        "train": {"epochs": 2, "batch": 64, "grad_accum": 1, "lr": 0.001},
        "seed": seed, "role": "grid", "status": "ok",
        "config": {"attention": attention, "seed": seed, "train": {"steps": 200}},
        "started_at": START, "ended_at": START + timedelta(seconds=20), "wall_s": 20.0,
        "steps": 200, "epochs": 2.0, "examples": 12800, "tokens": 12800 * 16, "parameters": 1000,
        "device": "cpu", "threads": 1, "precision": "fp32", "zero_stage": 0, "workers": 1,
        "kernel_path": "reference", "tokens_per_s": 1000.0, "peak_bytes": 3 * 2**20,
        "test_accuracy": accuracy, "test_nll": 0.3, "val_accuracy": accuracy, **others,
    }  # fmt: skip


def write_trial(
    store: Store, sweep: str, trial_id: str, *, attempt: int = 1, steps: int = 100, **final: Any
) -> None:
    """A whole trial: step rows in two flushes, two evaluations, the final row."""
    sink = store.sink(sweep, trial_id, attempt)
    half = steps // 2
    sink.steps([*train_rows(0, half), val_row(half - 1, 0.5)])
    sink.flush()
    sink.steps([*train_rows(half, steps), val_row(steps - 1, 0.75)])
    sink.final(final_row(**final))


def request_rows(*trial_ids: str, arm: str = "softmax") -> list[dict[str, Any]]:
    config = json.dumps({"workload": {"name": "digits"}, "train": {"steps": 100}})
    return [
        {
            "trial_id": trial_id,
            "arm": arm,
            "mechanism": arm,
            "seed": seed,
            "fold": 0,
            "role": "grid",
            "config": config,
        }
        for seed, trial_id in enumerate(trial_ids)
    ]
