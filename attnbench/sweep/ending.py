"""The final row of a trial whose own process cannot write it: killed for memory, hung, or dead too often."""

import os
import socket
from datetime import UTC, datetime
from typing import Any

from attnbench.results import Sink
from attnbench.training import TrialConfig


def end_trial(config: TrialConfig, sink: Sink, status: str, error: str, **figures: Any) -> dict[str, Any]:
    """Write and return the row: what the configuration says, how far the recorded evaluations got, status and error."""
    from attnbench.attention import describe

    evaluations = sink.recorded()
    last = evaluations[-1] if evaluations else {}
    row = {
        "arm": config.label or describe(config.attention),
        "mechanism": describe(config.attention),
        "attention": config.attention,
        "objective": config.objective,
        "workload": config.workload["name"],
        "workload_params": config.workload,
        "fold": config.fold,
        "host": config.host.kind,
        "host_params": config.host.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "config": config.canonical(),
        "seed": config.seed,
        "role": config.role,
        "status": status,
        "error": error,
        "ended_at": datetime.now(UTC),
        "wall_s": last.get("seconds"),
        "steps": last.get("step", 0),
        "epochs": last.get("epoch", 0.0),
        "precision": config.train.precision,
        "zero_stage": config.deepspeed.zero_stage,
        "workers": config.resources.workers,
        "host_name": socket.gethostname(),
        "pid": os.getpid(),
        **figures,
    }
    sink.final(row)
    return row
