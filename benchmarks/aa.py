"""Does the cost measurement tell the truth? The same thing twice, and a handicap whose size is known.

    python benchmarks/aa.py                        softmax against softmax, 20 repeats: how many
    intervals hold 1 python benchmarks/aa.py --handicap 103         100 slices of the work against 103:
    how many hold 1.03, and not 1

Both sides of a repeat are built anew. For the handicap a slice is a part of the SAME work, one forward
pass, so that its true size needs no measurement of its own. At least 17 of 20 must hold the truth (a 95
% interval that is looked at repeatedly covers somewhat less often than it says).
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from attnbench.attention import canonical
from attnbench.cost.clocks import clock_for
from attnbench.cost.protocol import measure_pair
from attnbench.cost.specification import Cell
from attnbench.cost.subject import Subject, build_subject

SLICES = 100
NEEDED = 17 / 20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--mode", default="forward_backward", choices=["forward", "forward_backward", "step", "eval"]
    )
    parser.add_argument("--path", default="reference", choices=["reference", "fused"])
    parser.add_argument("--target", type=float, default=0.02)
    parser.add_argument("--limit", type=float, default=30.0, help="seconds per repeat")
    parser.add_argument(
        "--handicap", type=int, default=0, help=f"slices of the slower side, such as 103 (of {SLICES})"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = clock_for(device, 1)
    batch, mode = (1, "eval") if asked.handicap else (asked.batch, asked.mode)
    cell = Cell(batch, 4, asked.length, 16, False, "fp32", mode)
    truth = asked.handicap / SLICES if asked.handicap else 1.0
    held = held_cpu = detected = 0
    print(f"{cell}, {asked.path}, truth {truth}, {device}")
    for repeat in range(asked.repeats):
        sides = [build_subject(canonical("softmax"), cell, asked.path, device, seed=repeat) for _ in range(2)]
        calls = [sides[0].call, sides[1].call]
        if asked.handicap:
            calls = [sliced(sides[0], SLICES), sliced(sides[0], asked.handicap)]
        start = time.perf_counter()
        rng = np.random.default_rng(repeat)
        found = measure_pair(calls[0], calls[1], clock, target=asked.target, limit_s=asked.limit, rng=rng)
        wall = found.wall
        held += wall.holds(truth)
        detected += wall.low > 1
        cpu = "" if found.cpu_ratio is None else f"cpu {found.cpu_ratio:.4f}  "
        said = ["holds" if wall.holds(truth) else "MISSES", f"{time.perf_counter() - start:.1f} s"]
        said += ["target not reached"] * (not found.reached) + ["contended"] * bool(found.contended)
        interval = f"{wall.ratio:.4f} [{wall.low:.4f}, {wall.high:.4f}]"
        print(f"{repeat:3d}  {interval}  {cpu}{len(found.blocks):4d} blocks  {', '.join(said)}", flush=True)
        held_cpu += found.cpu_ratio is not None and abs(found.cpu_ratio / truth - 1) < asked.target
    print(f"{held} of {asked.repeats} intervals hold {truth}")
    print(f"{held_cpu} of {asked.repeats} CPU ratios are within {asked.target:.0%} of it")
    if asked.handicap:
        print(f"{detected} of {asked.repeats} intervals lie above 1")
    return 0 if held >= NEEDED * asked.repeats else 1


def sliced(subject: Subject, slices: int) -> Callable[[], None]:
    """The subject's call so many times over, as one call."""

    def call() -> None:
        for _ in range(slices):
            subject.call()

    return call


if __name__ == "__main__":
    sys.exit(main())
