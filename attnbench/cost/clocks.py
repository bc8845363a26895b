"""What a slot's time is measured with: the process's clocks on a CPU, events on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch


class Clock(Protocol):
    """time(call, n): run `call` n times; seconds of wall time and of CPU time for all of them together.

    cpu_is_work: the CPU time is that of the work itself, so that it can say what wall time would be
    undisturbed.
    """

    cpu_is_work: bool

    def time(self, call: Callable[[], object], calls: int) -> tuple[float, float]: ...


class HostClock:
    """Wall time, and the CPU time of this thread (of the process, if the work runs on several threads)."""

    cpu_is_work = True

    def __init__(self, threads: int = 1) -> None:
        self._cpu = time.thread_time if threads == 1 else time.process_time

    def time(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), self._cpu()
        for _ in range(calls):
            call()
        return time.perf_counter() - wall, self._cpu() - cpu


class CudaClock:
    """Time between two events on the current stream; the CPU time is that of launching."""

    cpu_is_work = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def time(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        with torch.cuda.device(self._device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            cpu = time.thread_time()
            start.record()
            for _ in range(calls):
                call()
            end.record()
            cpu = time.thread_time() - cpu
            end.synchronize()
        return start.elapsed_time(end) / 1e3, cpu


def clock_for(device: torch.device, threads: int) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock(threads)
