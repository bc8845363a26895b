"""Runs a cost specification: the machine against itself, then every mechanism against its baseline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import torch

from attnbench.attention import canonical, describe
from attnbench.attention.draws import stable_seed
from attnbench.cost.clocks import clock_for
from attnbench.cost.equality import difference
from attnbench.cost.protocol import FIRST_LOOK, Paired, measure_blocks, measure_pair
from attnbench.cost.specification import Arm, Cell, CostSpec
from attnbench.cost.subject import Objective, Subject, build_subject, host_config
from attnbench.errors import UsageError

NOISY_HALF_WIDTH = 0.05
PROBE_LIMIT_S = 10.0

Row = dict[str, Any]
BuildObjective = Callable[[Any, list[dict[str, Any]]], tuple[dict[str, Any], Objective]]


class Sink(Protocol):
    """Where rows go: results.Sink, or anything with these two."""

    def add(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None: ...
    def flush(self) -> None: ...


@dataclass(frozen=True)
class Skipped:
    """A measurement that was not made; refused: because the fused path is wrong, which is a fault."""

    what: str
    reason: str
    refused: bool = False


@dataclass
class Outcome:
    """ratios: rows of `cost_ratios` with label, ms, settled and probe beside them; noisy: why, or None."""

    ratios: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    noisy: str | None = None
    wall_s: float = 0.0


def run_cost(
    spec: CostSpec,
    sink: Sink,
    *,
    build_objective: BuildObjective | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Outcome:
    """Measure everything that `spec` asks for, one thing at a time, and write rows to `sink` as they come.

    build_objective(spec, canonical attention) -> (canonical objective, objective): needed if an arm
    carries one. progress(what, done, of): called before each measurement. The machine should do nothing
    else meanwhile. UsageError for what cannot be built, before anything is timed.
    """
    start = time.perf_counter()
    device = device_of(spec)
    plan = Plan(spec, device, build_objective)
    outcome = Outcome()
    total = len(plan.arms) * len(plan.cells) * spec.repeats + 1
    with threads(spec.threads):
        _tell(progress, "the machine against itself", 0, total)
        _probe(plan, sink, outcome)
        done = 0
        for repeat in range(spec.repeats):
            for cell in plan.cells:
                for arm in plan.arms:
                    done += 1
                    _tell(progress, f"{arm.label}, {cell}", done, total)
                    _measure(plan, arm, cell, repeat, sink, outcome)
    outcome.wall_s = time.perf_counter() - start
    return outcome


class Plan:
    """The checked specification: canonical arms, and what each measurement needs."""

    def __init__(self, spec: CostSpec, device: torch.device, build_objective: BuildObjective | None) -> None:
        self.spec, self.device, self.build_objective = spec, device, build_objective
        self.cells = spec.cells()
        self.arms = [self.prepared(arm) for arm in spec.arms()]
        self.baseline = self.prepared(spec.baseline_arm())
        self._differences: dict[tuple[str, str], str | None] = {}
        if spec.host is not None:
            for cell in self.cells:
                host_config(spec.host, cell, "reference")

    def difference(self, arm: Prepared, cell: Cell) -> str | None:
        """What is wrong with the arm's fused path; asked once for all modes."""
        key = (arm.label, cell.place)
        if key not in self._differences:
            found = difference(arm.attention, cell, self.device, seed=self.spec.seed)
            self._differences[key] = found
        return self._differences[key]

    def prepared(self, arm: Arm) -> Prepared:
        """The arm with every default written out; UsageError names it and what is wrong."""
        causal = any(cell.causal for cell in self.cells)
        try:
            attention = canonical(list(arm.attention), causal=causal)
            if arm.objective is None:
                return Prepared(arm.label, attention, None, None)
            if self.build_objective is None:
                raise UsageError("objectives cannot be built here; use the command 'attnbench cost'")
            written, objective = self.build_objective(arm.objective, attention)
        except UsageError as error:
            raise UsageError(f"{arm.label}: {error}") from error
        return Prepared(arm.label, attention, written, objective)


@dataclass(frozen=True)
class Prepared:
    """An arm as it is measured: canonical attention and, if it has one, its objective."""

    label: str
    attention: list[dict[str, Any]]
    written_objective: dict[str, Any] | None
    objective: Objective | None

    @property
    def name(self) -> str:
        """For the column `baseline`: the mechanisms, and the objective's name behind a &."""
        objective = "" if self.written_objective is None else f" & {self.written_objective['name']}"
        return describe(self.attention) + objective


def _probe(plan: Plan, sink: Sink, outcome: Outcome) -> None:
    """A/A: the baseline against a second copy of itself; 40 blocks. Its row has mechanism = baseline."""
    cell = plan.cells[0]
    path = plan.spec.baseline_paths[0]
    pair = [_subject(plan, plan.baseline, cell, path, copy) for copy in (0, 1)]
    clock = clock_for(plan.device, plan.spec.threads)
    rng = np.random.default_rng(stable_seed(plan.spec.seed, "probe"))
    limit = min(PROBE_LIMIT_S, plan.spec.limit_s)
    found = measure_blocks(pair[0].call, pair[1].call, clock, blocks=FIRST_LOOK, limit_s=limit, rng=rng)
    wall = found.wall
    if not wall.holds(1.0):
        outcome.noisy = f"the baseline against itself gives {wall.low:.3f} to {wall.high:.3f}"
    elif wall.half_width > NOISY_HALF_WIDTH:
        outcome.noisy = f"the baseline against itself is only known to {100 * wall.half_width:.0f} %"
    _write(plan, plan.baseline, cell, 0, pair[0], pair[1], found, sink, outcome)


def _measure(plan: Plan, arm: Prepared, cell: Cell, repeat: int, sink: Sink, outcome: Outcome) -> None:
    """One arm in one cell: every path of the mechanism against every path of the baseline."""
    spec = plan.spec
    if cell.mode != "step" and arm.written_objective is not None:
        _skip(outcome, Skipped(f"{arm.label}, {cell}", "an objective only changes a step"))
        return
    for side in (arm, plan.baseline):
        wanted = spec.paths if side is arm else spec.baseline_paths
        unequal = plan.difference(side, cell) if "fused" in wanted else None
        if unequal is not None:
            _skip(outcome, Skipped(f"{side.label}, {cell.place}", f"never timed: {unequal}", refused=True))
            return
    baselines = list(_subjects(plan, plan.baseline, cell, spec.baseline_paths, repeat, outcome))
    for variant in _subjects(plan, arm, cell, spec.paths, repeat, outcome):
        for baseline in baselines:
            rng = np.random.default_rng(
                stable_seed(spec.seed, repeat, arm.label, str(cell), variant.path, baseline.path)
            )
            clock = clock_for(plan.device, spec.threads)
            found = measure_pair(
                baseline.call,
                variant.call,
                clock,
                target=spec.target_half_width,
                limit_s=spec.limit_s,
                rng=rng,
            )
            _write(plan, arm, cell, repeat, baseline, variant, found, sink, outcome)


def _subjects(
    plan: Plan, arm: Prepared, cell: Cell, paths: Iterable[str], repeat: int, outcome: Outcome
) -> Iterator[Subject]:
    """The arm on each path that it has in this mode; what it has not is noted."""
    for path in paths:
        try:
            yield _subject(plan, arm, cell, path, repeat)
        except UsageError as error:
            _skip(outcome, Skipped(f"{arm.label}, {cell}, {path}", str(error)))


def _subject(plan: Plan, arm: Prepared, cell: Cell, path: str, number: int) -> Subject:
    return build_subject(
        arm.attention,
        cell,
        path,
        plan.device,
        host=plan.spec.host if cell.mode == "step" else None,
        objective=arm.objective,
        seed=stable_seed(plan.spec.seed, number) % 2**31,
    )


def _write(
    plan: Plan,
    arm: Prepared,
    cell: Cell,
    repeat: int,
    baseline: Subject,
    variant: Subject,
    found: Paired,
    sink: Sink,
    outcome: Outcome,
) -> None:
    """One row per block to `cost`, one row to `cost_ratios`; memory and FLOPs are measured here, apart."""
    spec = plan.spec
    shape: Row = {"batch": cell.batch, "heads": cell.heads, "length": cell.length, "head_dim": cell.head_dim}
    network = {"network": spec.host or "block"} if cell.mode == "step" else {}
    common: Row = {
        "mechanism": describe(arm.attention), "attention": arm.attention, "objective": arm.written_objective,
        "baseline": plan.baseline.name, "baseline_path": baseline.path, "path": variant.path,
        "shape": {**shape, "causal": cell.causal, **network}, **shape, "causal": cell.causal,
        "mode": cell.mode, "precision": cell.precision, "device": device_name(plan.device),
        "threads": spec.threads,
        "repeat": repeat,
    }  # fmt: skip
    blocks = [
        {
            **common, "block": index, "order": block.order,
            "ms": 1e3 * block.variant_s, "baseline_ms": 1e3 * block.baseline_s,
            "cpu_ms": 1e3 * block.variant_cpu_s, "baseline_cpu_ms": 1e3 * block.baseline_cpu_s,
        }
        for index, block in enumerate(found.blocks)
    ]  # fmt: skip
    ratio: Row = {
        **common, "ratio": found.wall.ratio, "ratio_low": found.wall.low, "ratio_high": found.wall.high,
        "cpu_ratio": found.cpu_ratio, "half_width": found.wall.half_width, "reached": found.reached,
        "blocks": len(found.blocks), "contended": found.contended,
        "peak_bytes": variant.peak_bytes, "baseline_peak_bytes": baseline.peak_bytes,
        "flops": variant.flops, "baseline_flops": baseline.flops,
        "measured_at": datetime.now(UTC),
    }  # fmt: skip
    sink.add("cost", blocks)
    sink.add("cost_ratios", [ratio])
    sink.flush()
    typical = {name: float(np.median([block[name] for block in blocks])) for name in ("ms", "baseline_ms")}
    aside = {"label": arm.label, "settled": found.settled, "probe": arm is plan.baseline, **typical}
    outcome.ratios.append({**ratio, **aside})


def device_of(spec: CostSpec) -> torch.device:
    """The device that the specification names; auto is a GPU where there is one."""
    available = torch.cuda.is_available()
    if spec.device == "cuda" and not available:
        raise UsageError("device: cuda, but torch sees no GPU here; use cpu or auto")
    return torch.device("cuda" if available and spec.device != "cpu" else "cpu")


def device_name(device: torch.device) -> str:
    """For the column `device`, as in `trials`: "cpu", or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch on so many CPU threads inside; with two threads and one busy core nothing can be timed."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _skip(outcome: Outcome, skipped: Skipped) -> None:
    if skipped not in outcome.skipped:
        outcome.skipped.append(skipped)


def _tell(progress: Callable[[str, int, int], None] | None, what: str, done: int, total: int) -> None:
    if progress is not None:
        progress(what, done, total)
