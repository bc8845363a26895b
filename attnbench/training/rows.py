"""The rows that a trial leaves: its report at an evaluation and its one final row."""

import os
import statistics
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from attnbench.attention import describe
from attnbench.training.config import TrialConfig
from attnbench.training.environment import device_name, git_version, host_name, versions

if TYPE_CHECKING:
    from attnbench.training.loop import Loop

QUALITY = ("loss", "accuracy", "nll", "ece", "brier", "bits_per_byte")


def report_of(config: TrialConfig, row: dict[str, Any]) -> dict[str, Any]:
    """The report of a running trial from a row of `steps` (metrics under their bare names there)."""
    epoch = row["epoch"]
    whole = round(epoch)
    report = {
        "trial_id": config.trial_id,
        "step": row["step"],
        # rows keep epochs in single precision; a scheduler compares whole ones
        "epoch": whole if abs(epoch - whole) < 1e-4 else epoch,
        "seconds": row["seconds"],
        "status": "running",
        "error": None,
        "done": False,
    }
    return report | {f"val_{name}": row[name] for name in QUALITY if row.get(name) is not None}


def mechanism_name(config: TrialConfig) -> str:
    """What the arm is, such as "alibi+relaxed" or "dropout+r_drop"."""
    name = describe(config.attention)
    return name if config.objective is None else f"{name}+{config.objective['name']}"


def final_row(
    config: TrialConfig,
    loop: "Loop | None",
    *,
    status: str,
    error: str | None,
    begun_at: datetime | None,
    wall_s: float,
    setup_s: float,
    busy_s: float,
    figures: dict[str, Any],
) -> dict[str, Any]:
    """The row of the table `trials`. loop: None where the trial failed before there was one."""
    everything = config.model_dump(mode="json")
    now = datetime.now(UTC)
    commit, dirty = git_version()
    mechanism = mechanism_name(config)
    row: dict[str, Any] = {
        "arm": config.label or mechanism,
        "mechanism": mechanism,
        "attention": everything["attention"],
        "objective": everything["objective"],
        "workload": config.workload["name"],
        "workload_params": everything["workload"],
        "fold": config.fold,
        "host": config.host.kind,
        "host_params": everything["host"],
        "train": everything["train"],
        "config": everything,
        "seed": config.seed,
        "role": config.role,
        "status": status,
        "error": error,
        "started_at": begun_at or now,
        "ended_at": now,
        "wall_s": wall_s,
        "setup_s": setup_s,
        "busy_s": busy_s,
        "threads": config.resources.cpus,
        "precision": config.train.precision,
        "zero_stage": config.deepspeed.zero_stage,
        "workers": config.resources.workers,
        "git_hash": commit,
        "git_dirty": dirty,
        "versions": versions(),
        "host_name": host_name(),
        "pid": os.getpid(),
        "steps": 0,
        "examples": 0,
        **figures,
    }
    if loop is not None:
        examples = loop.done * config.train.batch
        row |= {
            "steps": loop.done,
            "epochs": loop.done / loop.steps_per_epoch,
            "examples": examples,
            "tokens": examples * loop.length,
            "parameters": loop.parameters,
            "mechanism_parameters": loop.mechanism_parameters,
            "forward_flops": loop.forward_flops,
            "device": device_name(loop.device),
            "threads": torch.get_num_threads(),
            "kernel_path": loop.kernel_path,
            "data_sha256": loop.workload.data_sha256,
            "grad_norm": statistics.median(loop.norms) if loop.norms else None,
            **loop.throughput(),
        }
    return {"sweep": config.sweep, "trial_id": config.trial_id, **row}
