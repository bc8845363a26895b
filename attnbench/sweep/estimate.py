"""How long a sweep will take and how much it will write, before it starts.

The pace of a trial is taken from earlier rows of the results folder, best match first: the same
mechanism, workload and host; the same workload and host; else a guess: three forward passes' worth of
FLOPs per example at
GUESSED_FLOPS_PER_S a CPU thread (measured for small networks on one thread), and GUESSED_STEP_S a step
for everything else.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnbench.results import Store
from attnbench.sweep.planning import confirm_count, first_phase
from attnbench.sweep.specification import Sweep
from attnbench.training import TrialConfig

GUESSED_FLOPS_PER_S = 8e9
GUESSED_FLOPS_PER_S_GPU = 5e12
GUESSED_STEP_S = 0.004
SECONDS_PER_TRIAL = 0.3
BYTES_PER_STEP_ROW = 60
BYTES_PER_TRIAL = 40_000


@dataclass(frozen=True)
class Estimate:
    """seconds: of all trials one after another; hours: at `workers` at a time; source: where the pace is
    from.
    """

    trials: int
    tuning: int
    confirming: int
    seconds: float
    workers: int
    disk_bytes: int
    source: str

    @property
    def hours(self) -> float:
        return self.seconds / max(self.workers, 1) / 3600


def estimate(sweep: Sweep, store: Store, workers: int, gpu: bool = False) -> Estimate:
    """Estimate the whole sweep, as if nothing had run before."""
    paces = _paces(store)
    planned = first_phase(sweep)
    shares = _tuning_shares(sweep, len(planned))
    seconds = steps = 0.0
    sources: set[str] = set()
    per_group: dict[str, float] = {}
    for number, one in enumerate(planned):
        busy, source = _trial_seconds(one.config, paces, gpu)
        sources.add(source)
        per_group[one.group] = max(busy, per_group.get(one.group, 0.0))
        seconds += busy * shares[number] + SECONDS_PER_TRIAL
        steps += trial_steps(one.config) * shares[number]
    confirming = confirm_count(sweep)
    each = confirming / max(len(per_group), 1)
    seconds += sum(per_group.values()) * each + SECONDS_PER_TRIAL * confirming
    steps += trial_steps(planned[0].config) * confirming
    trials = len(planned) + confirming
    disk = int(trials * BYTES_PER_TRIAL + steps * BYTES_PER_STEP_ROW)
    source = (
        "earlier trials"
        if sources == {"rows"}
        else "FLOPs"
        if sources == {"flops"}
        else "earlier trials and FLOPs"
    )
    return Estimate(trials, len(planned), confirming, seconds, workers, disk, source)


def trial_steps(config: TrialConfig) -> int:
    """Optimiser steps of a whole trial."""
    if config.train.steps is not None:
        return config.train.steps
    return (config.train.epochs or 0) * max(1, train_examples(config) // config.train.batch)


def train_examples(config: TrialConfig) -> int:
    """Examples of one epoch; reads the workload's data (once per process)."""
    from attnbench import workloads

    return len(workloads.load(config.workload, fold=config.fold).split("train"))


def _tuning_shares(sweep: Sweep, trials: int) -> list[float]:
    """The share of its budget that each tuning trial is expected to train: rungs cut it down."""
    if not sweep.search.prunes:
        return [1.0] * trials
    groups: dict[str, list[int]] = {}
    planned = first_phase(sweep)
    for number, one in enumerate(planned):
        groups.setdefault(one.group, []).append(number)
    shares = [0.0] * trials
    for members in groups.values():
        train = planned[members[0]].config.train
        rungs = sweep.rungs(train)
        for rank, number in enumerate(members):
            survived = sum(
                rank < max(1, len(members) // sweep.search.reduction ** (level + 1))
                for level in range(len(rungs) - 1)
            )
            shares[number] = rungs[survived] / train.budget
    return shares


def _trial_seconds(
    config: TrialConfig, paces: Mapping[tuple[str, ...], list[float]], gpu: bool
) -> tuple[float, str]:
    from attnbench.attention import describe

    examples = trial_steps(config) * config.train.batch
    scope = (config.workload["name"], json.dumps(config.host.model_dump(mode="json"), sort_keys=True))
    for key in ((describe(config.attention), *scope), scope):
        if key in paces:
            return examples * statistics.median(paces[key]), "rows"
    rate = GUESSED_FLOPS_PER_S_GPU if gpu else GUESSED_FLOPS_PER_S * config.resources.cpus
    draws = (config.objective or {}).get("draws", 1)
    return examples * draws * 3 * forward_flops(config) / rate + trial_steps(config) * GUESSED_STEP_S, "flops"


def forward_flops(config: TrialConfig) -> float:
    """Forward FLOPs per example by the usual count: 2 per weight and token, and 4 N^2 D per layer for
    the map.
    """
    from attnbench import hosts, workloads

    host = config.host
    length = hosts.sequence_length(host, workloads.load(config.workload, fold=config.fold).signature)
    weights = (4 + 2 * host.mlp_ratio) * host.width**2
    return host.layers * (2 * weights * length + 4 * length**2 * host.width)


def _paces(store: Store) -> dict[tuple[str, ...], list[float]]:
    """Busy seconds per example of earlier ok trials, by (mechanism, workload, host) and by (workload,
    host).
    """
    paces: dict[tuple[str, ...], list[float]] = {}
    for row in store.rows("trials"):
        if row["status"] == "ok" and row.get("examples") and row.get("busy_s"):
            scope = (row["workload"], _sorted_json(row["host_params"]))
            for key in ((row["mechanism"], *scope), scope):
                paces.setdefault(key, []).append(row["busy_s"] / row["examples"])
    return paces


def _sorted_json(value: Any) -> str:
    return json.dumps(json.loads(value) if isinstance(value, str) else value, sort_keys=True)
