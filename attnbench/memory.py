"""Peak memory of one call above what existed before it, from a run of its own that nobody times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes that `call` held at once beyond what was allocated when it began; one warm-up call goes
    before.

    GPU: the allocator's peak. CPU: the running sum of the profiler's allocation events, which is
    deterministic and sees
    scratch inside kernels (so it depends on the number of threads); process size would show neither.
    """
    call()
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
    held = peak = 0
    for change in allocations(call):
        held += change
        peak = max(peak, held)
    return peak


def allocations(call: Callable[[], object]) -> list[int]:
    """Bytes allocated (freed: negative) by `call` on CPU, in the order of time.

    The events are only to be had from `kineto_results`, undocumented in the pinned torch; a test holds it.
    The profiler of
    torch.autograd is used because torch.profiler's imports the compiler.
    """
    with _quiet_stderr():
        with torch.autograd.profiler.profile(profile_memory=True, acc_events=True) as profiler:
            call()
        recorded = profiler.kineto_results.events()  # type: ignore[union-attr]
    events = sorted(
        (event for event in recorded if event.name() == "[memory]"), key=lambda event: event.start_ns()
    )
    return [event.nbytes() for event in events]


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The profiler's C++ side prints lines of its own on stderr, past Python's."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
