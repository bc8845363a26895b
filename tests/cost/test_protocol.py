"""The measuring protocol on a simulated machine, whose true ratio, noise and drift are known."""

import gc
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnbench.cost.protocol import (
    LEAST_BLOCKS,
    SLOT_S,
    look_sizes,
    measure_blocks,
    measure_pair,
    one_block,
    warm_up,
)


class Machine:
    """A clock over calls that only say how long they would take; its own time is `now`."""

    def __init__(
        self, *, wall_noise: float = 0.0, cpu_noise: float = 0.0, drift: float = 0.0, gpu: bool = False
    ) -> None:
        self.cpu_is_work = not gpu
        self.now_s = 0.0
        self.wall_noise, self.cpu_noise, self.drift = wall_noise, cpu_noise, drift
        self.rng = np.random.default_rng(0)
        self.slots: list[tuple[str, int, float]] = []

    def now(self) -> float:
        return self.now_s

    def time(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        seconds: list[Any] = [call() for _ in range(calls)]
        work = float(sum(seconds))
        work *= 1 + self.drift * self.now_s
        wall = work * math.exp(self.wall_noise * self.rng.normal())
        cpu = work * math.exp(self.cpu_noise * self.rng.normal())
        self.now_s += wall
        self.slots.append((getattr(call, "__name__", "?"), calls, wall))
        return wall, cpu


def work(name: str, seconds: float) -> Callable[[], float]:
    def call() -> float:
        return seconds

    call.__name__ = name
    return call


A, B = work("A", 1e-3), work("B", 1.2e-3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_looks_come_at_forty_blocks_and_then_at_every_quarter_more() -> None:
    assert list(itertools.islice(look_sizes(), 6)) == [40, 50, 63, 79, 99, 124]


def test_two_looks_running_under_the_target_end_it() -> None:
    found = measure_pair(A, B, m := Machine(wall_noise=0.01), target=0.02, limit_s=1e6, rng=rng(), now=m.now)
    assert found.reached and found.looks == [40, 50] and len(found.blocks) == 50
    assert found.wall.holds(1.2) and found.wall.half_width < 0.02


def test_a_noisier_machine_takes_more_blocks_and_keeps_its_promise() -> None:
    found = measure_pair(A, B, m := Machine(wall_noise=0.1), target=0.02, limit_s=1e6, rng=rng(), now=m.now)
    assert found.reached and len(found.blocks) > 50 and len(found.blocks) == found.looks[-1]
    assert found.wall.half_width < 0.02


def test_the_time_limit_ends_it_without_the_target_reached() -> None:
    m = Machine(wall_noise=0.5)
    found = measure_pair(A, B, m, target=0.001, limit_s=2.0, rng=rng(), now=m.now)
    assert not found.reached
    assert 2.0 < m.now_s < 2.5


def test_even_a_hopeless_limit_leaves_blocks_to_bootstrap() -> None:
    m = Machine(wall_noise=0.1)
    slow = work("slow", 3.0)
    found = measure_pair(slow, slow, m, target=0.01, limit_s=1.0, rng=rng(), now=m.now)
    assert len(found.blocks) == LEAST_BLOCKS and not found.reached


def test_blocks_are_abba_or_baab_at_random_and_the_seed_decides() -> None:
    def orders(seed: int) -> list[str]:
        m = Machine(wall_noise=0.01)
        found = measure_pair(A, B, m, target=0.02, limit_s=1e6, rng=rng(seed), now=m.now)
        return [block.order for block in found.blocks]

    assert set(orders(0)) == {"ABBA", "BAAB"}
    assert 10 < orders(0).count("ABBA") < 40
    assert orders(0) == orders(0) != orders(1)


def test_a_block_runs_the_sides_in_its_order() -> None:
    for abba, expected in ((True, "ABBA"), (False, "BAAB")):
        m = Machine()
        block = one_block((A, B), (2, 2), m, abba)
        assert "".join(name for name, _, _ in m.slots) == expected == block.order
        assert (block.baseline_s, block.variant_s) == pytest.approx((1e-3, 1.2e-3))


def test_a_linear_drift_cancels() -> None:
    m = Machine(drift=0.5)
    found = measure_pair(A, A, m, target=1e-3, limit_s=1e6, rng=rng(), now=m.now)
    assert found.wall.ratio == pytest.approx(1, abs=1e-3)


def test_a_slot_takes_two_milliseconds_however_short_the_call() -> None:
    m = Machine()
    quick, long = work("quick", 3e-6), work("long", 5e-3)
    calls, settled = warm_up((quick, long), m, 1e6, m.now)
    assert settled
    assert calls[0] * 3e-6 >= SLOT_S > (calls[0] - 1) * 3e-6
    assert calls[1] == 1


def test_warm_up_waits_for_a_machine_that_speeds_up() -> None:
    times = (1e-3 * (1 + 3 * 0.8**i) for i in itertools.count())

    def warming() -> float:
        return next(times)

    m = Machine()
    _, settled = warm_up((warming, A), m, 1e6, m.now)
    assert settled and next(times) < 1.1e-3


def test_warm_up_gives_up_within_its_budget() -> None:
    growing = (1e-3 * 1.3**i for i in itertools.count())
    m = Machine()
    _, settled = warm_up((lambda: next(growing), A), m, 0.1, m.now)
    assert not settled and m.now_s < 0.5


def test_contended_means_that_wall_time_spreads_twice_as_much_as_cpu_time() -> None:
    for wall, cpu, expected in ((0.3, 0.05, True), (0.05, 0.05, False)):
        m = Machine(wall_noise=wall, cpu_noise=cpu)
        found = measure_pair(A, B, m, target=0.02, limit_s=3, rng=rng(), now=m.now)
        assert found.contended is expected
        assert found.cpu_ratio == pytest.approx(1.2, rel=0.1)


def test_on_a_gpu_nothing_is_said_about_contention() -> None:
    m = Machine(wall_noise=0.1, cpu_noise=0.01, gpu=True)
    assert measure_pair(A, B, m, target=0.02, limit_s=3, rng=rng(), now=m.now).contended is None


def test_a_handicap_known_by_construction_is_found_at_its_size() -> None:
    # 103 slices of the work against 100, with the noise of a machine that has one other job
    baseline, handicapped = (work(name, slices * 2e-5) for name, slices in (("100", 100), ("103", 103)))
    held = 0
    for seed in range(20):
        m = Machine(wall_noise=0.04, cpu_noise=0.04)
        m.rng = np.random.default_rng(seed)
        found = measure_pair(baseline, handicapped, m, target=0.01, limit_s=1e6, rng=rng(seed), now=m.now)
        held += found.wall.holds(1.03)
        assert found.wall.ratio == pytest.approx(1.03, abs=0.025)
    assert held >= 16


def test_the_same_work_twice_gives_an_interval_that_holds_one() -> None:
    held = 0
    for seed in range(20):
        m = Machine(wall_noise=0.05)
        m.rng = np.random.default_rng(seed)
        held += measure_pair(A, A, m, target=0.02, limit_s=1e6, rng=rng(seed), now=m.now).wall.holds(1)
    assert held >= 17


def test_a_fixed_number_of_blocks_is_just_that() -> None:
    found = measure_blocks(A, A, Machine(wall_noise=0.1), blocks=40, limit_s=1e6, rng=rng())
    assert len(found.blocks) == 40 and found.reached


def test_the_garbage_collector_is_on_again_afterwards() -> None:
    def fails() -> float:
        assert not gc.isenabled()
        raise ValueError("a mechanism broke")

    with pytest.raises(ValueError, match="a mechanism broke"):
        measure_pair(fails, A, Machine(), target=0.1, limit_s=1, rng=rng())
    assert gc.isenabled()
