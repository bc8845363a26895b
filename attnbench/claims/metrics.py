"""What is known about each metric: which direction is better, the worst value, and how it is printed."""

import difflib
import math
from dataclasses import dataclass

from attnbench.errors import UsageError


@dataclass(frozen=True)
class Metric:
    """One column of `trials` that can be compared.

    worst   what a diverged trial counts as; None where the metric has no bound (then: the worst value
    reached by any
            trial of the comparison)
    factor, unit, difference_unit   how it is printed: value x factor, in `unit`
    """

    name: str
    higher_is_better: bool
    worst: float | None = None
    factor: float = 1.0
    unit: str = ""
    difference_unit: str = ""
    digits: int = 3

    def better(self, value: float, other: float) -> bool:
        """Whether `value` beats `other`."""
        return value > other if self.higher_is_better else value < other

    def show(self, value: float | None, signed: bool = False) -> str:
        """The value as tables print it, without unit."""
        if value is None or math.isnan(value):
            return "-"
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return f"{value * self.factor:{'+' if signed else ''}.{self.digits}f}"


def _quality(part: str) -> dict[str, Metric]:
    return {
        f"{part}_accuracy": Metric(f"{part}_accuracy", True, 0.0, 100.0, "%", "points", 2),
        f"{part}_ece": Metric(f"{part}_ece", False, 1.0, 100.0, "%", "points", 2),
        f"{part}_brier": Metric(f"{part}_brier", False, worst=2.0, digits=4),
        f"{part}_loss": Metric(f"{part}_loss", False, digits=4),
        f"{part}_nll": Metric(f"{part}_nll", False, digits=4),
        f"{part}_bits_per_byte": Metric(f"{part}_bits_per_byte", False, digits=4),
    }


METRICS: dict[str, Metric] = {
    **_quality("test"),
    **_quality("val"),
    "train_loss": Metric("train_loss", False, digits=4),
    "grad_norm": Metric("grad_norm", False, digits=4),
    "samples_per_s": Metric("samples_per_s", True, worst=0.0, digits=0),
    "tokens_per_s": Metric("tokens_per_s", True, worst=0.0, digits=0),
    "step_ms": Metric("step_ms", False, unit="ms", difference_unit="ms", digits=2),
    "wall_s": Metric("wall_s", False, unit="s", difference_unit="s", digits=1),
    "busy_s": Metric("busy_s", False, unit="s", difference_unit="s", digits=1),
    "peak_bytes": Metric("peak_bytes", False, factor=1 / 2**20, unit="MiB", difference_unit="MiB", digits=1),
    "parameters": Metric("parameters", False, digits=0),
    "forward_flops": Metric("forward_flops", False, digits=0),
}
SPEED = frozenset({"samples_per_s", "tokens_per_s", "step_ms", "wall_s", "busy_s"})


def metric(name: str) -> Metric:
    """The metric of that name; UsageError with the nearest name otherwise."""
    if name in METRICS:
        return METRICS[name]
    close = difflib.get_close_matches(name if "_" in name else f"test_{name}", METRICS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(METRICS)}"
    raise UsageError(f"no metric '{name}' to compare by; {hint}")


def main_metric(columns_with_values: set[str], part: str) -> Metric:
    """The workload's own metric on `part` ("val" or "test"): accuracy, else bits per byte, else the loss."""
    for name in ("accuracy", "bits_per_byte", "loss"):
        if f"{part}_{name}" in columns_with_values:
            return METRICS[f"{part}_{name}"]
    raise UsageError(
        f"no trial has a {part} metric yet (none of {part}_accuracy, {part}_bits_per_byte, {part}_loss)"
    )
