"""The reused Tune actor: one trial after another in one process that has imported everything.

Expected failures end as a report with a status; only a crash of the process reaches Tune, which starts
another actor, where the trial goes on from its own checkpoint.
"""

import os
from pathlib import Path
from typing import Any

from ray import tune

from attnbench.sweep.pool import Pool
from attnbench.sweep.seat import Bench, Seat


class TrialActor(tune.Trainable):
    """Configuration keys: id, group, role, attempt, config (JSON), rungs (seat.py), and from the runner:
    results, cwd, pool, pool_size, workers, cpus, gpus, memory_bytes, storage; `verdict: stopped` asks
    for the end of a trial
    that lost at a rung.
    """

    def setup(self, config: dict[str, Any]) -> None:
        prepare_process(config)
        self.seat: Seat | None = None
        self.pool = Pool(config["pool"], config["pool_size"])
        self.bench = self._bench(config)
        self.pool.register(f"{os.uname().nodename}-{os.getpid()}")
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Where Ray was started by others Tune has changed the directory: its own switch is not set there.
        prepare_process(new_config)
        if self.seat is not None:
            self.seat.close()
        self.seat = Seat(new_config, self.bench)
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
        self.bench.end()

    def _bench(self, config: dict[str, Any]) -> Bench:
        """Where this actor's trials run: in its own process, or in a group of workers that it drives."""
        if config["workers"] > 1:
            from attnbench.sweep.workers import Group

            return Group(config)
        from attnbench.sweep.seat import OwnProcess

        bench = OwnProcess()
        bench.warm_up(config)
        return bench


def prepare_process(config: dict[str, Any]) -> None:
    """What has to be set before torch is imported."""
    if Path(config["cwd"]).is_dir():
        os.chdir(config["cwd"])  # a specification may name path/to/file.py:Class
    os.environ["OMP_NUM_THREADS"] = str(config["cpus"])
    if not config["gpus"]:
        # Its imports take 1.7 s of CPU in every worker, and nothing on a CPU compiles.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
