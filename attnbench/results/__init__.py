"""Where every figure is kept: Parquet tables, queries over them, their mirror in MLflow. Imports nothing
heavy by itself.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.results.mirror_process import finish_mirror, start_mirror
    from attnbench.results.querying import load
    from attnbench.results.sinks import MemorySink, ParquetSink, Sink
    from attnbench.results.store import Store

_HOMES = {
    "Store": "store",
    "Sink": "sinks",
    "ParquetSink": "sinks",
    "MemorySink": "sinks",
    "load": "querying",
    "start_mirror": "mirror_process",
    "finish_mirror": "mirror_process",
}

__all__ = ["MemorySink", "ParquetSink", "Sink", "Store", "finish_mirror", "load", "start_mirror"]


def __getattr__(name: str) -> Any:
    """Import a public name's module at first use: `attnbench query` must not pay for pyarrow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'attnbench.results' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"attnbench.results.{_HOMES[name]}"), name)
