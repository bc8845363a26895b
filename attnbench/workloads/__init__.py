"""Data sets and generated tasks: fixed parts, one metric, a checksum."""

from attnbench.workloads import cifar10, digits, mqar, stdlib_bytes
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
    "cifar10",
    "digits",
    "folds",
    "load",
    "mqar",
    "register",
    "stdlib_bytes",
    "workloads",
]
