"""The networks that carry a mechanism: encoder (classification) and decoder (language model)."""

from attnbench.hosts.building import build_host
from attnbench.hosts.config import HostConfig, check_host, hosts, sequence_length
from attnbench.hosts.output import HostOutput

__all__ = ["HostConfig", "HostOutput", "build_host", "check_host", "hosts", "sequence_length"]
