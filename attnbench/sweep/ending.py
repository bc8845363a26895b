"""The final row of a trial whose own process cannot write it: killed for memory, hung, or dead too often."""

from typing import Any

from attnbench.results import Store
from attnbench.training import TrialConfig


def ended_row(store: Store, config: TrialConfig, trial_id: str, attempt: int) -> dict[str, Any] | None:
    """The final row of this attempt, if it has one."""
    rows = store.rows("trials", config.sweep, trial_id, attempt)
    return rows[0] if rows else None


def end_trial(
    store: Store, config: TrialConfig, trial_id: str, attempt: int, status: str, error: str
) -> dict[str, Any]:
    """Write the row unless there is one, and return what counts: the configuration, how far it got,
    status and error.

    The sink is one of its own: the caller may be another thread, or process, than the trial's.
    """
    from attnbench.training.rows import QUALITY, final_row

    ended = ended_row(store, config, trial_id, attempt)
    if ended is not None:
        return ended
    sink = store.sink(config.sweep, trial_id, attempt)
    evaluations = sink.recorded()
    last = evaluations[-1] if evaluations else {}
    seconds = float(last.get("seconds") or 0.0)
    figures = {f"val_{name}": last[name] for name in QUALITY if last.get(name) is not None}
    row = final_row(
        config,
        None,
        status=status,
        error=error,
        begun_at=None,
        wall_s=seconds,
        setup_s=0.0,
        busy_s=seconds,
        figures=figures,
    )
    row |= {
        "steps": last.get("step", 0),
        "epochs": last.get("epoch", 0.0),
        "examples": last.get("step", 0) * config.train.batch,
    }
    sink.final(row)
    return row
