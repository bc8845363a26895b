"""From a trial's configuration to its workload and its network with initial weights; and the checks before
anything starts."""

import torch

from attnbench import workloads
from attnbench.attention import seed_parameters
from attnbench.errors import UsageError
from attnbench.evaluation import check_kinds
from attnbench.hosts import build_host, check_host
from attnbench.hosts.network import Network
from attnbench.training.config import TrialConfig
from attnbench.workloads import Workload


def load_workload(config: TrialConfig) -> Workload:
    """The workload of a trial; data are read when a part is first asked for."""
    return workloads.load(config.workload, fold=config.fold)


def build_network(config: TrialConfig) -> Network:
    """The network with initial weights: each module's own, drawn from (seed, its qualified name)."""
    network = build_host(config.host, config.attention, load_workload(config).signature)
    seed_parameters(network, config.seed)
    return network


def shadow_of(config: TrialConfig, device: torch.device) -> Network:
    """A second network of the same shape, in training mode, for measuring: its own weights do not matter."""
    return build_host(config.host, config.attention, load_workload(config).signature).to(device).train()


def check_trial(config: TrialConfig) -> None:
    """Raise UsageError for what can be known to fail before training: data, host, robustness kinds, batch
    size."""
    workload = load_workload(config)
    check_host(config.host, workload.signature)
    check_kinds(config.measure.robustness, workload.signature)
    examples = len(workload.split("train"))
    if config.train.batch > examples:
        raise UsageError(f"train.batch {config.train.batch} is more than the {examples} training examples")
    build_network(config)
