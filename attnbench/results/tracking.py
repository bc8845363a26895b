"""How a trial looks in MLflow: where it goes, the names of its metrics, its tags, parameters and status."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STATUS = {"ok": "FINISHED", "stopped": "KILLED"}  # every other end is FAILED

#: Columns of step rows -> metric names; of the final row likewise. Slashes make the UI's sections.
TRAIN = {name: f"train/{name}" for name in ("loss", "lr", "grad_norm", "grad_variance", "tokens_per_s")}
VAL = {name: f"val/{name}" for name in ("loss", "accuracy", "nll", "ece", "brier", "bits_per_byte")}
_FINAL = {
    f"test_{name}": f"test/{name}" for name in ("loss", "accuracy", "nll", "ece", "brier", "bits_per_byte")
} | {
    name: f"cost/{name}"
    for name in ("tokens_per_s", "samples_per_s", "step_ms", "wall_s", "forward_flops", "parameters")
}
_TAGS = ("mechanism", "arm", "seed", "fold", "role", "workload", "host", "status", "error", "device")


def tracking_uri(results: str | os.PathLike[str]) -> str:
    """Where the mirror goes unless told: $MLFLOW_TRACKING_URI, else a sqlite file in the results folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(results).absolute() / 'mlflow.db'}"


def quiet() -> None:
    """No telemetry, no git warning, no migration log, and no minutes of retries inside one call."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def tags_of(sweep: str, trial: str, attempt: int, row: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a trial's run: what one filters and groups by."""
    tags = {"attnbench.trial_id": trial, "attnbench.sweep": sweep, "attnbench.attempt": str(attempt)}
    for name in _TAGS:
        if row.get(name) is not None:
            tags[name] = str(row[name])[:4000]
    return tags


def final_figures(final: Mapping[str, Any]) -> dict[str, float]:
    """The single figures of a trial that ended."""
    figures = {metric: float(final[name]) for name, metric in _FINAL.items() if final.get(name) is not None}
    if final.get("peak_bytes") is not None:
        figures["cost/peak_mib"] = final["peak_bytes"] / 2**20  # the UI prints no thousands marks
    return figures


def flat_parameters(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """{"train": {"lr": 1}, "attention": [{"name": "x"}]} -> train.lr 1, attention.0.name x."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        if name and value is not None:
            yield name[:250], str(value)[:500]
        return
    for key, inner in items:
        yield from flat_parameters(inner, f"{name}.{key}" if name else str(key))


def milliseconds(moment: datetime | None) -> int | None:
    """A naive UTC moment of the tables as MLflow counts time."""
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1000)
