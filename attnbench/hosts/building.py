"""From a host's configuration, an arm's attention and a task's signature to a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnbench.hosts.config import HostConfig, check_host
from attnbench.workloads import Signature

if TYPE_CHECKING:
    from attnbench.hosts.network import Network


def build_host(host: HostConfig, attention: list[dict[str, Any]], signature: Signature) -> Network:
    """The network of `host.kind`, its attention layers built from `attention` (see attention.canonical).

    UsageError: the host cannot carry the task, or the attention cannot be built.
    """
    from attnbench.hosts import network

    check_host(host, signature)
    kind = {"encoder": network.Encoder, "decoder": network.Decoder}[host.kind]
    return kind(host, attention, signature)
