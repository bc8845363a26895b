"""Runs a sweep through Ray Tune: reused actors, one ladder per arm, resumed from our own tables."""

import contextlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.errors import UsageError
from attnbench.results import Store
from attnbench.sweep.cluster import Cluster
from attnbench.sweep.following import Follower
from attnbench.sweep.specification import Sweep, read_specification

FAILURES = ("failed", "out_of_memory", "unfinished")


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended. counts: requested trials by status; resumed: how many had ended before;
    hopeless: why it gave up.
    """

    sweep: str
    counts: dict[str, int]
    resumed: int
    wall_s: float
    first_report_s: float | None
    workers: int
    workers_used: int
    hopeless: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every requested trial ended by itself: ok, stopped by the search, or diverged."""
        return not any(self.counts.get(status) for status in FAILURES)

    def line(self) -> str:
        """One sentence for the end of the run."""
        order = ("ok", "stopped", "diverged", "out_of_memory", "failed", "unfinished")
        parts = [f"{self.counts[status]} {status}" for status in order if self.counts.get(status)]
        before = f"; {self.resumed} had ended before" if self.resumed else ""
        total = f"{', '.join(parts) or 'none'} of {sum(self.counts.values())} trials"
        return f"sweep {self.sweep}: {total} in {self.wall_s:.1f} s{before}"


def run_file(
    path: str | Path, results: str | Path, *, overrides: Sequence[str] = (), address: str | None = None,
    fresh: bool = False, mirror: bool = True, quiet: bool = False, cpus: int | None = None,
    ends_with_it: bool = False,
) -> Outcome:  # fmt: skip
    """Read the specification at `path` while the cluster starts, then run it; see `run_sweep`.

    ends_with_it: this process ends when the specification is refused, so that nothing need be waited for.
    """
    from attnbench.sweep.document import Document

    started = time.monotonic()
    Document(path, overrides)  # a file that is no YAML costs no cluster
    made = not Path(results).exists()
    Store(results).ensure_writable()
    cluster: Cluster | None = None
    try:
        cluster = Cluster(address, cpus).start()
        sweep = read_specification(path, overrides)
    except UsageError:
        if made:
            with contextlib.suppress(OSError):
                Path(results).rmdir()
        if cluster is not None and ends_with_it:
            cluster.abandon()
        elif cluster is not None:
            cluster.close()
        raise
    try:
        return run_sweep(
            sweep, results, cluster=cluster, fresh=fresh, mirror=mirror, quiet=quiet, started=started
        )
    finally:
        cluster.close()


def run_sweep(
    sweep: Sweep, results: str | Path, *, address: str | None = None, fresh: bool = False,
    mirror: bool = True, quiet: bool = False, cpus: int | None = None, cluster: Cluster | None = None,
    started: float | None = None,
) -> Outcome:  # fmt: skip
    """Run every trial that has not ended yet. The same call again resumes; `fresh` starts every trial over.

    results: folder that every worker sees. address: a running cluster, else one of our own with `cpus`.
    cluster: one that is started already, and stays. mirror: follow into MLflow. Raises UsageError for
    what the user can mend.
    """
    from attnbench.sweep.campaign import Campaign

    started = time.monotonic() if started is None else started
    store = Store(Path(results).resolve())
    store.ensure_writable()
    own = cluster is None
    cluster = cluster or Cluster(address, cpus).start()
    follower = Follower(store, sweep.name, mirror)
    campaign: Campaign | None = None
    try:
        campaign = Campaign(sweep, store, fresh=fresh)
        resumed = sum(entry.before for entry in campaign.entries.values())
        run = _Run(campaign, store, cluster, quiet, follower)
        if campaign.todo:
            run.go()
        first = run.first_report_at
        return Outcome(
            sweep.name, dict(campaign.counts()), resumed, time.monotonic() - started,
            None if first is None else first - started, run.workers, run.workers_used, run.hopeless,
        )  # fmt: skip
    except KeyboardInterrupt:
        if campaign is not None:
            store.interrupt(
                sweep.name, [key for key, entry in campaign.entries.items() if entry.status is None]
            )
        raise
    finally:
        if own:
            cluster.close()
        follower.finish()


class _Run:
    """One command's worth of Tune."""

    def __init__(self, campaign: Any, store: Store, cluster: Cluster, quiet: bool, follower: Follower):
        self.campaign, self.store, self.cluster = campaign, store, cluster
        self.quiet, self.follower = quiet, follower
        self.sweep: Sweep = campaign.sweep
        self.names: set[str] = set()
        self.workers = self.workers_used = 0
        self.first_report_at: float | None = None
        self.hopeless: str | None = None

    def go(self) -> None:
        """Connect, size the pool, and run Tune until the campaign has finished."""
        from attnbench.sweep.progress import Progress

        nodes = self.cluster.wait()
        resources = self.sweep.header.resources
        gpus = _gpus(resources.gpus, nodes)
        shape = {"CPU": float(resources.cpus), **({"GPU": gpus} if gpus else {})}
        fits = [
            min(int(node.get(kind, 0.0) / amount + 1e-6) for kind, amount in shape.items()) for node in nodes
        ]
        self.workers = min(sum(fits) // resources.workers, len(self.campaign.entries))
        if self.workers < 1:
            there = " + ".join(_words(node) for node in nodes)
            raise UsageError(
                f"{self.sweep.path}: a trial wants {resources.workers} x {_words(shape)}, "
                f"the cluster has {there}; lower resources, or give --address"
            )
        storage = self.cluster.folder / "tune" if self.cluster.folder else self.store.path / ".tune"
        common = {
            "results": str(self.store.path),
            "cwd": os.getcwd(),
            "workers": resources.workers,
            "cpus": int(shape["CPU"]),
            "gpus": gpus,
            "memory_bytes": int(self.sweep.header.memory_gb * 1e9) if self.sweep.header.memory_gb else 0,
            "per_machine": max(fits),
            "storage": str(storage),
        }
        try:
            with Progress(self.campaign, self.workers, quiet=self.quiet) as progress:
                while not self._tune(progress, shape, common):
                    self.campaign.queue_unfinished()
                progress.update(force=True)
        finally:
            for folder in storage.glob(f"{self.sweep.name}-*"):
                if folder.name in self.names:
                    shutil.rmtree(folder, ignore_errors=True)

    def _tune(self, progress: Any, shape: dict[str, float], common: dict[str, Any]) -> bool:
        """One `tune.run`; False if a cluster's own memory monitor ended it, which takes Tune down with
        one trial.
        """
        import ray
        from ray import tune

        from attnbench.sweep.actor import TrialActor
        from attnbench.sweep.feed import Feed
        from attnbench.sweep.replay import scheduler_of
        from attnbench.sweep.watch import Hopeless, Watch

        header = self.sweep.header
        name = f"{self.sweep.name}-{uuid.uuid4().hex[:8]}"
        self.names.add(name)
        watch = Watch(
            self.campaign, progress, self._record, header.hang_s, on_first_report=self.follower.start
        )
        common = {**common, "pool": name, "pool_size": min(self.workers, len(self.campaign.todo))}
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self.workers)
        # With several workers per trial the actor is a proxy that takes no resources: its TorchTrainer does.
        alone = header.resources.workers == 1
        scheduler = scheduler_of(self.campaign, self.workers, None if alone else self.workers)
        try:
            tune.run(
                TrialActor,
                name=name,
                storage_path=common["storage"],
                search_alg=Feed(self.campaign, common, scheduler.has_room),
                scheduler=scheduler,
                callbacks=[watch],
                stop=Hopeless(watch),
                num_samples=sys.maxsize,
                resources_per_trial=tune.PlacementGroupFactory(
                    [shape if alone else {"node:__internal_head__": 0.001}]
                ),
                reuse_actors=True,
                max_failures=header.retries,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
                raise_on_failed_trial=False,
                trial_dirname_creator=lambda trial: trial.config["id"],
                trial_name_creator=lambda trial: trial.config["id"],
                verbose=0,
            )
            return True
        except RuntimeError as error:
            killed = isinstance(error.__cause__, ray.exceptions.OutOfMemoryError)
            if not killed or not watch.blame(str(error.__cause__)):
                raise
            return False
        finally:
            self.workers_used = max(self.workers_used, len(watch.seen_workers))
            self.first_report_at = self.first_report_at or watch.first_report_at
            self.hopeless = watch.hopeless

    def _record(self, trial_id: str, status: str, error: str) -> None:
        from attnbench.sweep.ending import end_trial

        entry = self.campaign.entries[trial_id]
        end_trial(self.store, entry.planned.config, trial_id, entry.attempt, status, error)


def _gpus(wanted: str | float, nodes: list[dict[str, float]]) -> float:
    if wanted == "auto":
        return 1.0 if any(node.get("GPU", 0.0) >= 1.0 for node in nodes) else 0.0
    return float(wanted)


def _words(resources: dict[str, float]) -> str:
    present = [f"{resources[kind]:g} {kind}" for kind in ("CPU", "GPU") if resources.get(kind)]
    return ", ".join(present) or "nothing"
