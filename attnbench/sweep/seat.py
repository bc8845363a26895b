"""One trial's place in a worker: replayed as far as it is recorded, then trained, in this process or in
a group of workers.
"""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from attnbench.results import Store

METRICS = ("loss", "accuracy", "nll", "ece", "brier", "bits_per_byte")


class Bench(Protocol):
    """Where trials run, one at a time. Settings are the actor's configuration (actor.py)."""

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the trial ready, from its checkpoint if it has one; rows above the checkpoint are cut."""

    def advance(self) -> dict[str, Any]:
        """Train to the next evaluation: its report, or that of the end."""

    def stop(self) -> dict[str, Any]:
        """End the trial as stopped."""

    def close(self) -> None:
        """Let go of the trial; without it every trial leaves its model in the process."""

    def end(self) -> None:
        """No more trials."""


class Seat:
    """The trial of one Tune configuration. It is opened by the first advance."""

    def __init__(self, settings: Mapping[str, Any], bench: Bench):
        from attnbench.training import TrialConfig

        self.settings, self.bench = settings, bench
        self.config = TrialConfig.model_validate_json(settings["config"])
        self.rungs = {float(rung) for rung in settings["rungs"].split()}
        self.replay: deque[dict[str, Any]] = deque()
        self.opened = False

    def advance(self) -> dict[str, Any]:
        """Report of the next evaluation, or of the end. Never raises for what is the trial's own fault."""
        if not self.opened:
            ended = ended_already(self.settings, self.config)
            if ended is not None:
                return self._report({**ended, "done": True})
        try:
            self._open()
            if self.settings.get("verdict") == "stopped":
                return self._report({**self.bench.stop(), "done": True})
            if self.replay:
                return self.replay.popleft()
            return self._report(self.bench.advance())
        except Exception as error:
            self.close()
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            return self._report({**record_end(self.settings, self.config, "failed", text), "done": True})

    def close(self) -> None:
        """Let go of the trial; it can go on later from its checkpoint."""
        if self.opened:
            self.opened = False
            self.bench.close()

    def _open(self) -> None:
        """Open the trial, and queue what it has already reported at rungs: the scheduler may not have
        heard of it.
        """
        if self.opened:
            return
        self.opened = True
        self.bench.open(self.settings)
        if self.rungs:
            sink = Store(self.settings["results"]).sink(
                self.config.sweep, self.settings["id"], self.settings["attempt"]
            )
            reports = (
                self._report({**row, **{f"val_{name}": row.get(name) for name in METRICS}})
                for row in sink.recorded()
            )
            self.replay.extend(report for report in reports if report["time"] in self.rungs)

    def _report(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """What Tune and the schedulers see of an evaluation or a final row."""
        report = {key: figures.get(key) for key in ("status", "error", *(f"val_{name}" for name in METRICS))}
        return report | {"done": bool(figures.get("done")), "time": position(self.config, figures)}


class OwnProcess:
    """A bench in this process."""

    def __init__(self) -> None:
        self.trial: Any = None
        self.settings: Mapping[str, Any] | None = None

    def warm_up(self, settings: Mapping[str, Any]) -> None:
        """Import what a trial needs, and join the process group, before the first trial is on the clock;
        guard the memory.
        """
        import torch

        torch.set_num_threads(settings["cpus"])
        from attnbench.attention import mechanisms
        from attnbench.sweep.guard import share_bytes, watch_memory
        from attnbench.training import Trial  # noqa: F401
        from attnbench.training.process import join_group

        mechanisms()
        join_group(torch.device("cuda" if settings["gpus"] and torch.cuda.is_available() else "cpu"))
        limit = settings["memory_bytes"] or share_bytes(settings["per_machine"])

        def record(used: int) -> None:
            if self.settings is not None:
                text = f"its worker took {used / 1e9:.2f} GB, its share is {limit / 1e9:.2f} GB"
                record_end(self.settings, None, "out_of_memory", text)

        watch_memory(limit, record)

    def open(self, settings: Mapping[str, Any]) -> None:
        from attnbench.training import Trial, TrialConfig

        self.settings = settings
        config = TrialConfig.model_validate_json(settings["config"])
        sink = Store(settings["results"]).sink(config.sweep, settings["id"], settings["attempt"])
        checkpoints = Path(settings["results"]) / "checkpoints"
        self.trial = Trial(
            config, sink, checkpoints, device=None if settings["gpus"] else "cpu", replay=False
        )

    def advance(self) -> dict[str, Any]:
        return self.trial.advance()

    def stop(self) -> dict[str, Any]:
        return self.trial.stop()

    def close(self) -> None:
        if self.trial is not None:
            trial, self.trial, self.settings = self.trial, None, None
            trial.close()

    def end(self) -> None:
        self.close()


def position(config: Any, figures: Mapping[str, Any]) -> float:
    """How far a trial was at a report or in a row, in the unit of its budget; whole epochs are whole."""
    if config.train.unit == "steps":
        return float(figures.get("step", figures.get("steps")) or 0)
    epoch = float(figures.get("epoch", figures.get("epochs")) or 0.0)
    # Rows keep epochs in single precision.
    return float(round(epoch)) if abs(epoch - round(epoch)) < 1e-4 else epoch


def ended_already(settings: Mapping[str, Any], config: Any) -> dict[str, Any] | None:
    """The final row of this attempt: written by the guard, the watch, or a worker that died right after."""
    from attnbench.sweep.ending import ended_row

    return ended_row(Store(settings["results"]), config, settings["id"], settings["attempt"])


def record_end(settings: Mapping[str, Any], config: Any, status: str, error: str) -> dict[str, Any]:
    """Write the final row in the trial's stead."""
    from attnbench.sweep.ending import end_trial
    from attnbench.training import TrialConfig

    config = config or TrialConfig.model_validate_json(settings["config"])
    return end_trial(Store(settings["results"]), config, settings["id"], settings["attempt"], status, error)
