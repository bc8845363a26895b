"""The reused Tune actor: one trial after another in one process that has imported everything.

Expected failures end as a report with a status; only a crash of the process reaches Tune, which starts another actor, where
the trial goes on from its own checkpoint.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from attnbench.sweep.pool import Pool

METRICS = ("loss", "accuracy", "nll", "ece", "brier", "bits_per_byte")


class TrialActor(tune.Trainable):
    """Configuration keys: id, group, role, attempt, config (JSON), rungs, and from the runner: results, cwd, pool, pool_size,
    cpus, gpus, memory_bytes; `verdict: stopped` asks for the end of a trial that lost at a rung.
    """

    def setup(self, config: dict[str, Any]) -> None:
        if Path(config["cwd"]).is_dir():
            os.chdir(config["cwd"])  # a specification may name path/to/file.py:Class
        os.environ["OMP_NUM_THREADS"] = str(config["cpus"])
        if not config["gpus"]:
            # Its imports take 1.7 s of CPU in every worker, and nothing on a CPU compiles.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        self.pool = Pool(config["pool"], config["pool_size"])
        self.seat: Seat | None = None
        warm_up(config["cpus"], config["gpus"])
        self.pool.register(f"{os.uname().nodename}-{os.getpid()}")
        self._guard(config["memory_bytes"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self.seat is not None:
            self.seat.close()
        self.seat = Seat(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self.pool.wait()
        assert self.seat is not None
        return self.seat.advance()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the trial keeps its own checkpoint in the results folder."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""

    def cleanup(self) -> None:
        if self.seat is not None:
            self.seat.close()

    def _guard(self, limit_bytes: int) -> None:
        from attnbench.sweep.guard import watch_memory

        def record(used: int) -> None:
            if self.seat is not None:
                self.seat.end("out_of_memory", f"its worker took {used / 1e9:.2f} GB, its share is {limit_bytes / 1e9:.2f} GB")

        watch_memory(limit_bytes, record)


class Seat:
    """One trial in this process: opened on its first advance, replayed as far as it is recorded, then trained."""

    def __init__(self, config: Mapping[str, Any]):
        from attnbench.results import Store
        from attnbench.training import TrialConfig

        self.settings = config
        self.config = TrialConfig.model_validate_json(config["config"])
        self.store = Store(config["results"])
        self.sink = self.store.sink(self.config.sweep, config["id"], config["attempt"])
        self.rungs = {float(rung) for rung in config["rungs"].split()}
        self.trial: Any = None

    def advance(self) -> dict[str, Any]:
        """Report of the next evaluation, or of the end. Never raises for what is the trial's own fault."""
        finished = self._ended() if self.trial is None else None
        if finished is not None:  # written by the guard or the watch, or by a worker that died right after
            return self._report({**finished, "done": True})
        try:
            if self.trial is None:
                self._open()
            if self.settings.get("verdict") == "stopped":
                return self._report({**self.trial.stop(), "status": "stopped", "done": True})
            while True:
                report = self._report(self.trial.advance())
                if report["done"] or report["time"] > self.replayed_until or report["time"] in self.rungs:
                    return report
        except Exception as error:
            self.close()
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            return self._report({**self.end("failed", text), "done": True})

    def end(self, status: str, error: str) -> dict[str, Any]:
        """Write the final row in the trial's stead."""
        from attnbench.sweep.ending import end_trial

        return end_trial(self.store, self.config, self.settings["id"], self.settings["attempt"], status, error)

    def close(self) -> None:
        """Let go of the engine; without it every trial leaves its model in the process."""
        if self.trial is not None:
            trial, self.trial = self.trial, None
            trial.close()

    def _open(self) -> None:
        from attnbench.training import Trial

        checkpoints = Path(self.settings["results"]) / "checkpoints"
        self.trial = Trial(self.config, self.sink, checkpoints, device=None if self.settings["gpus"] else "cpu")
        recorded = self.sink.recorded()  # as far as the checkpoint: the trial has cut the rest
        self.replayed_until = position(self.config, recorded[-1]) if recorded else -1.0

    def _ended(self) -> dict[str, Any] | None:
        from attnbench.sweep.ending import ended_row

        return ended_row(self.store, self.config, self.settings["id"], self.settings["attempt"])

    def _report(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """What Tune and the schedulers see of an evaluation or a final row."""
        report = {key: figures.get(key) for key in ("status", "error", *(f"val_{name}" for name in METRICS))}
        return report | {"done": bool(figures.get("done")), "time": position(self.config, figures)}


def position(config: Any, figures: Mapping[str, Any]) -> float:
    """How far a trial was at a report or in a row, in the unit of its budget; whole epochs are whole."""
    if config.train.unit == "steps":
        return float(figures.get("step", figures.get("steps")) or 0)
    epoch = float(figures.get("epoch", figures.get("epochs")) or 0.0)
    # Rows keep epochs in single precision.
    return float(round(epoch)) if abs(epoch - round(epoch)) < 1e-4 else epoch


def warm_up(cpus: int, gpus: float) -> None:
    """Import what a trial needs, and join the process group, before the first trial is on the clock."""
    import torch

    torch.set_num_threads(cpus)
    from attnbench.attention import mechanisms
    from attnbench.training import Trial  # noqa: F401
    from attnbench.training.process import join_group

    mechanisms()
    join_group(torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu"))
