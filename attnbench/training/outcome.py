"""How a trial ended, and what an error in it means."""

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class Diverged(ArithmeticError):
    """The loss is not a finite number."""


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended: status ok, stopped, diverged, out_of_memory or failed; error in one line; its row
    of `trials`."""

    status: str
    error: str | None
    row: dict[str, Any]


class WorkerLost(BaseException):
    """Another worker of the group died: no fault of the trial's, which goes on from its checkpoint elsewhere.

    Not an Exception, so that nothing turns it into a final row.
    """


def status_of(error: Exception) -> tuple[str, str]:
    """(status, one line) for what went wrong inside a trial. Raises WorkerLost if another worker died."""
    text = " ".join(str(error).split()) or "no message"
    network = isinstance(error, dist.DistBackendError | dist.DistNetworkError)
    if network or ("gloo" in text and "by peer" in text):
        raise WorkerLost(text) from error
    if isinstance(error, Diverged):
        return "diverged", text
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if out_of_memory or "can't allocate memory" in text or "not enough memory" in text:
        return "out_of_memory", text
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return "failed", f"{type(error).__name__}: {text}{where}"
