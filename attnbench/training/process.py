"""What a process sets up once before its first trial: device, DeepSpeed without its noise, and the process
group."""

import logging
import os
import random
import sys
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from attnbench.errors import UsageError


def choose_device(gpus: str | float) -> torch.device:
    """The device of a trial that asks for `gpus`: "auto" is a GPU where there is one; more than 0 needs
    one."""
    if gpus != "auto" and float(gpus) > 0 and not torch.cuda.is_available():
        raise UsageError(
            f"resources.gpus is {gpus}, but this machine shows no GPU; gpus: auto uses one where there is one"
        )
    if torch.cuda.is_available() and (gpus == "auto" or float(gpus) > 0):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@cache
def load_deepspeed(device_type: str) -> Any:
    """Import DeepSpeed for `device_type`, quiet, with its ops that would compile at first use switched off
    on CPU."""
    if "deepspeed" not in sys.modules:
        os.environ["DS_ACCELERATOR"] = device_type
    # DeepSpeed refuses to start without it; every process of ours sees its own device first.
    os.environ.setdefault("LOCAL_RANK", "0")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # its autotuner, which nobody calls, would import MLflow wherever that is installed: 1.5 s of CPU time
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().device_name().split(":")[0] != device_type:
        raise UsageError(
            f"this process already trains on {get_accelerator().device_name()}; "
            f"a trial on {device_type} needs a process of its own"
        )
    return deepspeed


def join_group(device: torch.device) -> tuple[int, int]:
    """(rank, workers) of this process, making a group of one over an in-process store if there is none.

    No port is taken. The group stays for the life of the process; trials share it.
    """
    deepspeed = load_deepspeed(device.type)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return dist.get_rank(), dist.get_world_size()


def settle(seed: int, threads: int) -> None:
    """Fix the number of threads, on which sums depend, and every global random state, though no trial
    draws from one."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed would queue a call, with its stack, for a GPU that is never initialised
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
