"""Where the workers of one trial meet on one machine: torch's store, listening on loopback alone.

Given an address, torch's store listens on every interface all the same, without asking anyone for a password.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

# Of the first worker's process: the store lives as long as the process does.
_hosted: list[Any] = []


class LoopbackTorchConfig(TorchConfig):
    """TorchConfig for workers that are all on this machine."""

    @property
    def backend_cls(self) -> type["LoopbackBackend"]:
        return LoopbackBackend


class LoopbackBackend(_TorchBackend):
    """Ray's torch backend with a store of our own; its end is unchanged."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        count = len(worker_group)
        port = worker_group.execute_single(0, host_store, count)
        worker_group.execute(_set_torch_distributed_env_vars)
        joins = [
            worker_group.execute_single_async(
                rank, join, backend_config.backend, rank, count, port, backend_config.timeout_s
            )
            for rank in range(count)
        ]
        ray.get(joins)


def torch_config(backend: str, timeout_s: int) -> TorchConfig:
    """What a TorchTrainer needs: the above where Ray was told that there is one machine, else Ray's own."""
    one_machine = os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0"
    return (LoopbackTorchConfig if one_machine else TorchConfig)(backend=backend, timeout_s=timeout_s)


def host_store(workers: int) -> int:
    """In the first worker: make the store; its port."""
    from torch.distributed import TCPStore

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    port = listener.getsockname()[1]
    _hosted.append(
        TCPStore(
            "127.0.0.1",
            port,
            workers,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    )
    return port


def join(backend: str, rank: int, workers: int, port: int, timeout_s: int) -> None:
    """In every worker: join the process group through the store."""
    import torch.distributed as dist

    limit = timedelta(seconds=timeout_s)
    store = (
        _hosted[-1] if _hosted else dist.TCPStore("127.0.0.1", port, workers, is_master=False, timeout=limit)
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=workers, timeout=limit)
