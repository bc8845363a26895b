"""Paired timing: baseline A and variant B alternate in one process, in ABBA or BAAB blocks drawn at random.

    slot    as many calls as take at least 2 ms, of one side
    block   four slots, A B B A or B A A B, which cancels a linear drift; its value is log((B1 + B2) / (A1
    + A2)) figure  20 %-trimmed mean over blocks, 95 % percentile bootstrap (estimate.py)
    stop    looks at 40 blocks and then at every 1.25 times as many; done when the half-width is under the
    target at
            two looks running, or, without having reached it, when the time is over

Many short blocks beat few long ones. Wall time decides; the thread's CPU time is kept beside it, because
it is four to eight times tighter when other work shares the machine, and their spread tells whether that
was so (`contended`).
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np

from attnbench.cost.clocks import Clock
from attnbench.cost.estimate import Ratio, estimate, robust_sd, trimmed_mean

Call = Callable[[], object]

SLOT_S = 2e-3
FIRST_LOOK = 40
GROWTH = 1.25
LEAST_BLOCKS = 5  # the time limit never leaves fewer, else there is nothing to bootstrap
CONTENDED = 2.0  # wall over CPU, spread of the blocks
WARM_WINDOW = 5  # slots
WARM_DRIFT = 0.05
WARM_SHARE = 0.25  # of the time limit


@dataclass(frozen=True)
class Block:
    """One block: seconds per call of each side, wall and CPU, mean of the side's two slots."""

    order: str
    baseline_s: float
    variant_s: float
    baseline_cpu_s: float
    variant_cpu_s: float

    @property
    def log_ratio(self) -> float:
        return math.log(self.variant_s / self.baseline_s)

    @property
    def cpu_log_ratio(self) -> float | None:
        if min(self.variant_cpu_s, self.baseline_cpu_s) <= 0:
            return None
        return math.log(self.variant_cpu_s / self.baseline_cpu_s)


@dataclass(frozen=True)
class Paired:
    """What a paired measurement found. contended is None where CPU time says nothing about it (a GPU)."""

    blocks: list[Block]
    wall: Ratio
    cpu_ratio: float | None
    reached: bool
    contended: bool | None
    settled: bool
    looks: list[int]


def measure_pair(
    baseline: Call,
    variant: Call,
    clock: Clock,
    *,
    target: float,
    limit_s: float,
    rng: np.random.Generator,
    now: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Time `variant` against `baseline` until the ratio's relative half-width is under `target` or
    `limit_s` is over.

    Warm-up counts towards the limit, of which it takes a quarter at most; at least 5 blocks are always taken.
    """
    start = now()
    with no_garbage_collection():
        calls, settled = warm_up((baseline, variant), clock, WARM_SHARE * limit_s, now)
        blocks: list[Block] = []
        looks: list[int] = []
        met, reached = 0, False
        schedule = look_sizes()
        size = next(schedule)
        while True:
            blocks.append(one_block((baseline, variant), calls, clock, bool(rng.integers(2))))
            if len(blocks) >= size:
                looks.append(size)
                size = next(schedule)
                met = met + 1 if estimate([b.log_ratio for b in blocks], rng).half_width < target else 0
                if met == 2:
                    reached = True
                    break
            if now() - start > limit_s and len(blocks) >= LEAST_BLOCKS:
                break
    return summarise(blocks, clock, rng, reached=reached, settled=settled, looks=looks)


def measure_blocks(
    baseline: Call, variant: Call, clock: Clock, *, blocks: int, limit_s: float, rng: np.random.Generator
) -> Paired:
    """A fixed number of blocks (fewer, but at least 5, if the time is over); for the machine's A/A."""
    start = time.perf_counter()
    with no_garbage_collection():
        calls, settled = warm_up((baseline, variant), clock, WARM_SHARE * limit_s)
        taken: list[Block] = []
        while len(taken) < blocks:
            taken.append(one_block((baseline, variant), calls, clock, bool(rng.integers(2))))
            if time.perf_counter() - start > limit_s and len(taken) >= LEAST_BLOCKS:
                break
    return summarise(taken, clock, rng, reached=len(taken) == blocks, settled=settled, looks=[len(taken)])


def summarise(
    blocks: list[Block],
    clock: Clock,
    rng: np.random.Generator,
    *,
    reached: bool,
    settled: bool,
    looks: list[int],
) -> Paired:
    """The figures of a finished list of blocks."""
    wall = [block.log_ratio for block in blocks]
    cpu = [value for block in blocks if (value := block.cpu_log_ratio) is not None]
    contended: bool | None = None
    if clock.cpu_is_work and len(cpu) == len(blocks):
        contended = robust_sd(wall) > CONTENDED * robust_sd(cpu)
    cpu_ratio = math.exp(float(trimmed_mean(np.asarray(cpu)))) if len(cpu) == len(blocks) else None
    return Paired(blocks, estimate(wall, rng), cpu_ratio, reached, contended, settled, looks)


def look_sizes() -> Iterator[int]:
    """Numbers of blocks at which to look: 40, 50, 63, 79, ... Looking rarely costs little coverage."""
    size = FIRST_LOOK
    while True:
        yield size
        size = math.ceil(size * GROWTH)


def warm_up(
    sides: tuple[Call, Call], clock: Clock, budget_s: float, now: Callable[[], float] = time.perf_counter
) -> tuple[tuple[int, int], bool]:
    """Run both sides in turn until neither drifts; the calls per slot of each side, and whether they settled.

    Settled: the median time of the last 5 slots is within 5 % of that of the 5 before, on both sides (CPU
    time on a CPU, since wall time never settles on a shared machine). Stops at `budget_s` in any case.
    """
    start = now()
    calls = [1, 1]
    history: tuple[list[float], list[float]] = ([], [])
    settled = False
    while not settled:
        for side, call in enumerate(sides):
            wall, cpu = clock.time(call, calls[side])
            per_call = (cpu if clock.cpu_is_work else wall) / calls[side]
            if history[side]:  # the first call also pays for what is built lazily
                calls[side] = max(calls[side], math.ceil(SLOT_S / max(per_call, 1e-9)))
            history[side].append(per_call)
        settled = all(_steady(times) for times in history)
        if now() - start > budget_s and len(history[0]) > 1:
            break
    for side in (0, 1):
        calls[side] = max(1, math.ceil(SLOT_S / max(median(history[side][-WARM_WINDOW:]), 1e-9)))
    return (calls[0], calls[1]), settled


def one_block(sides: tuple[Call, Call], calls: tuple[int, int], clock: Clock, abba: bool) -> Block:
    """Four slots in the order A B B A (or B A A B)."""
    order = (0, 1, 1, 0) if abba else (1, 0, 0, 1)
    wall, cpu = [0.0, 0.0], [0.0, 0.0]
    for side in order:
        w, c = clock.time(sides[side], calls[side])
        wall[side] += w / calls[side] / 2
        cpu[side] += c / calls[side] / 2
    return Block("ABBA" if abba else "BAAB", wall[0], wall[1], cpu[0], cpu[1])


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """No collection inside the block: it would hit whichever side it happens to fall on."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _steady(times: list[float]) -> bool:
    if len(times) < 2 * WARM_WINDOW + 1:
        return False
    last, before = median(times[-WARM_WINDOW:]), median(times[-2 * WARM_WINDOW : -WARM_WINDOW])
    return abs(last / before - 1) < WARM_DRIFT if before > 0 else True
