"""Rows with a known truth, written through the real store and read back as users read them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnbench.results import Store, load

HOST = {"layers": 4, "width": 64, "heads": 4, "patch": 2, "mlp_ratio": 4.0, "dropout": 0.0, "kernel": "auto"}


def trial(arm: str, seed: int, fold: int = 0, **values: Any) -> dict[str, Any]:
    """One final row: a plausible ok trial on digits, with `values` replacing columns."""
    name = str(values.get("mechanism", arm))
    row = {
        "trial_id": "",
        "arm": arm,
        "mechanism": name,
        "attention": [{"name": part, "layers": "all", "sites": ["encoder_self"]} for part in name.split("+")],
        "objective": None,
        "workload": "digits",
        "workload_params": {"name": "digits", "folds": 5, "subset": None},
        "fold": fold,
        "host": "encoder",
        "host_params": HOST,
        "train": {"epochs": 30, "steps": None, "batch": 64, "lr": 1e-3},
        "seed": seed,
        "role": "grid",
        "status": "ok",
        "epochs": 30.0,
        "device": "cpu",
        "threads": 1,
        "precision": "fp32",
        "zero_stage": 0,
        "workers": 1,
        "git_hash": "abc123",
        "git_dirty": False,
        "data_sha256": "d" * 64,
        "val_accuracy": 0.9,
        "test_accuracy": 0.9,
        "test_ece": 0.03,
    }
    row.update(values)
    keys = ("arm", "seed", "fold", "role", "attention", "train", "host_params", "workload")
    row["trial_id"] = hashlib.blake2b(
        json.dumps([row[key] for key in keys]).encode(), digest_size=8
    ).hexdigest()
    row["config"] = {"attention": row["attention"], "train": row["train"], "host": row["host_params"]}
    return row


def write(results: Path, sweep: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Put final rows into the store, each through its own sink, and read the table back."""
    store = Store(results)
    for row in rows:
        store.sink(sweep, row["trial_id"], 1).final({k: v for k, v in row.items() if k != "trial_id"})
    return load("trials", results, sweep=sweep)


def exactly(mean: float, sd: float, n: int, seed: int = 0) -> np.ndarray:
    """`n` numbers whose mean and sample standard deviation are exactly the ones given."""
    raw = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (raw - raw.mean()) / raw.std(ddof=1)


def paired(
    arms: dict[str, tuple[float, float]],
    baseline: str,
    n: int,
    column: str = "test_accuracy",
    level: float = 0.9,
    **values: Any,
) -> list[dict[str, Any]]:
    """A baseline at `level`, and arms whose paired difference to it has exactly (mean, sd) over `n` seeds."""
    base = exactly(level, 0.01, n, seed=99)
    rows = [trial(baseline, seed, **{column: base[seed], **values}) for seed in range(n)]
    for index, (arm, (mean, sd)) in enumerate(arms.items()):
        differences = exactly(mean, sd, n, seed=index)
        rows += [trial(arm, seed, **{column: base[seed] + differences[seed], **values}) for seed in range(n)]
    return rows
