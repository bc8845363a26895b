"""Tune's callback and stopper for one sweep: tells the campaign what ended, ends what hangs, stops what
is hopeless.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.stopper import NoopStopper

from attnbench.sweep.campaign import Campaign
from attnbench.sweep.progress import Progress


class Watch(Callback):
    """record: writes the final row (trial id, attempt, status, error) of a trial whose worker cannot do
    it any more.
    """

    def __init__(
        self, campaign: Campaign, progress: Progress, record: Callable[[str, str, str], None], hang_s: float,
        on_first_report: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self.campaign = campaign
        self.progress = progress
        self.record = record
        self.hang_s = hang_s
        self.on_first_report = on_first_report
        self.heard: dict[str, tuple[float, Any]] = {}
        self.workers_of: dict[tuple[str, int], str] = {}
        self.seen_workers: set[tuple[str, int]] = set()
        self.first_report_at: float | None = None
        self.hopeless: str | None = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.heard[trial.config["id"]] = (time.monotonic(), trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        key = trial.config["id"]
        worker = (result.get("hostname", ""), result.get("pid", 0))
        self.workers_of[worker] = key
        self.seen_workers.add(worker)
        self.heard[key] = (time.monotonic(), trial)
        if self.first_report_at is None:
            self.first_report_at = time.monotonic()
            self.on_first_report()
        if result.get("done"):
            self._ended(key, result["status"], result.get("error"), result)

    def on_trial_save(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A paused trial is silent by right."""
        self.heard.pop(trial.config["id"], None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.heard.pop(trial.config["id"], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died more often than it may: nobody else can write the trial's row."""
        key = trial.config["id"]
        if self.campaign.entries[key].status is None:
            error = f"its worker died {trial.num_failures} times: {_last_line(trial)}"
            self.record(key, "failed", error)
            self._ended(key, "failed", error, {})

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called about every 0.1 s, also when nothing reports."""
        now = time.monotonic()
        for key, (heard, trial) in list(self.heard.items()):
            if now - heard > self.hang_s:
                self._end_hanging(key, trial)
        self.progress.busy = len(self.heard)
        self.progress.update()

    def blame(self, text: str) -> bool:
        """End the trial of the worker that Ray's memory monitor names in `text`; whether it could be
        found.
        """
        found = re.search(r"\bpid=(\d+)", text)
        keys = [key for (_, pid), key in self.workers_of.items() if found and pid == int(found[1])]
        for key in keys:
            self.record(key, "out_of_memory", "the cluster's memory monitor ended its worker")
            self._ended(key, "out_of_memory", None, {})
        return bool(keys)

    def _ended(self, key: str, status: str, error: str | None, report: Mapping[str, Any]) -> None:
        self.heard.pop(key, None)
        self.campaign.end(key, status, error, report)
        self.hopeless = self.hopeless or self.campaign.hopeless(self.progress.workers)

    def _end_hanging(self, key: str, trial: Any) -> None:
        """Its row first, so that the new worker finds it ended; then the worker."""
        import ray

        self.heard.pop(key, None)
        self.record(key, "failed", f"no report for {self.hang_s:.0f} s (hang_s); its worker was ended")
        actor = trial.temporary_state.ray_actor
        if actor is not None:
            ray.kill(actor)


class Hopeless(Stopper):
    """Stops the sweep when the watch has given it up."""

    def __init__(self, watch: Watch):
        self.watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.watch.hopeless is not None

    def __reduce__(self) -> Any:
        """Tune pickles its stopper into a snapshot that nobody reads; the watch holds a terminal and
        locks.
        """
        return NoopStopper, ()


def _last_line(trial: Any) -> str:
    """The last line of the error that Tune kept of a trial."""
    try:
        error = trial.get_error()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[-1][:300]
    except Exception:
        return "no error kept"
