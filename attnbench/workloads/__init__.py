"""Data sets and generated tasks: fixed parts, one metric, a checksum."""

from attnbench.workloads import digits
from attnbench.workloads.registry import canonical, check, folds, load, register, workloads
from attnbench.workloads.signature import IGNORED, PARTS, Signature, Split, Workload

__all__ = [
    "IGNORED",
    "PARTS",
    "Signature",
    "Split",
    "Workload",
    "canonical",
    "check",
    "digits",
    "folds",
    "load",
    "register",
    "workloads",
]
