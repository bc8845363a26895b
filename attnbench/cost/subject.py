"""What is timed: one call of an attention layer, or one training step of a block or host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.attention import Draws, build, seed_parameters, shared_modules
from attnbench.attention.draws import stable_seed
from attnbench.cost.flops import counted_flops
from attnbench.cost.specification import Cell
from attnbench.errors import UsageError
from attnbench.hosts import HostConfig, build_host
from attnbench.hosts.block import Block
from attnbench.memory import peak_bytes
from attnbench.workloads import Signature

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
CLASSES = 10
VOCABULARY = 256
CHANNELS = 3


class Objective(Protocol):
    """An objective over several passes, as training.objectives builds them."""

    draws: Any
    passes: Any

    def loss(self, logits: list[Tensor], targets: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Subject:
    """A call that can be repeated at will, and the attention path that ran in it.

    peak_bytes and flops are measured at first use, in calls of their own.
    """

    call: Callable[[], object]
    path: str
    device: torch.device

    @cached_property
    def peak_bytes(self) -> int:
        """Memory of one call above what existed before it."""
        return peak_bytes(self.call, self.device)

    @cached_property
    def flops(self) -> float:
        """Matrix products and attention of one call."""
        return counted_flops(self.call)


def build_subject(
    attention: list[dict[str, Any]],
    cell: Cell,
    path: str,
    device: torch.device,
    *,
    host: dict[str, Any] | None = None,
    objective: Objective | None = None,
    seed: int = 0,
) -> Subject:
    """One side of a pair. attention: canonical; path: "reference" or "fused".

    UsageError if the mechanism has no such path in this mode (the sentence says which stage has none).

    forward: training mode without a graph. forward_backward: gradients of the input and of all
    parameters, from a fixed gradient of the output. eval: evaluation mode without a graph. step:
    loss, backward, AdamW at a learning rate of 0, which does all its work and leaves the
    weights where they are, so that the ten-thousandth call computes what the first did. bf16 and fp64 are
    the type of weights and input alike.
    """
    if cell.mode == "step":
        return _step(attention, cell, path, device, host, objective, seed)
    carried = _Carried(attention, cell, path)
    seed_parameters(carried, seed)
    carried.to(device, DTYPES[cell.precision]).train(cell.mode != "eval")
    generator = torch.Generator(device).manual_seed(stable_seed(seed, "draws"))
    x = _random((cell.batch, cell.length, cell.width), seed, device).to(DTYPES[cell.precision])
    if cell.mode in ("forward", "eval"):

        def forward() -> str:
            with torch.no_grad():
                return carried(x, generator)[1].stats["path"]

        return Subject(forward, forward(), device)
    x.requires_grad_()
    wanted = [x, *carried.parameters()]
    slope = _random((cell.batch, cell.length, cell.width), seed + 1, device).to(DTYPES[cell.precision])

    def forward_backward() -> str:
        out, aux = carried(x, generator)
        losses = [loss for loss in aux.losses.values() if loss.requires_grad]
        slopes = [slope, *(torch.ones_like(loss) for loss in losses)]
        torch.autograd.backward([out, *losses], slopes)
        for tensor in wanted:
            tensor.grad = None
        return aux.stats["path"]

    return Subject(forward_backward, forward_backward(), device)


class _Carried(nn.Module):
    """An attention layer with what a network would own for it."""

    def __init__(self, attention: list[dict[str, Any]], cell: Cell, path: str) -> None:
        super().__init__()
        common: dict[str, Any] = {"width": cell.width, "heads": cell.heads, "layers": 1}
        common |= {"causal": cell.causal, "max_length": cell.length}
        site = "decoder_self" if cell.causal else "encoder_self"
        self.layer = build(attention, **common, kernel=path, site=site)
        self.shared = shared_modules(attention, **common)

    def forward(self, x: Tensor, generator: torch.Generator) -> Any:
        shared = {"embedded": x, "modules": self.shared}
        return self.layer(x, generator=generator, shared=shared)


class _OneBlock(nn.Module):
    """One pre-norm block under a linear classifier of the mean token, called like a host."""

    def __init__(self, attention: list[dict[str, Any]], cell: Cell, path: str) -> None:
        super().__init__()
        carried = _Carried(attention, cell, path)
        self.block = Block(host_config({}, cell, path), carried.layer)
        self.shared, self.head = carried.shared, nn.Linear(cell.width, CLASSES)

    def forward(self, x: Tensor, draws: Draws) -> Any:
        shared = {"embedded": x, "modules": self.shared}
        x, aux = self.block(x, None, shared, (draws.generator(0, x.device), None), False)
        return _Output(self.head(x.mean(dim=1)), aux.losses, aux.stats)


@dataclass(frozen=True)
class _Output:
    logits: Tensor
    losses: dict[str, Tensor]
    stats: dict[str, Any]


def _step(
    attention: list[dict[str, Any]],
    cell: Cell,
    path: str,
    device: torch.device,
    host: dict[str, Any] | None,
    objective: Objective | None,
    seed: int,
) -> Subject:
    dtype = DTYPES[cell.precision]
    model, inputs, targets = _network(attention, cell, path, host, seed)
    seed_parameters(model, seed)
    model.to(device, dtype).train()
    inputs, targets = inputs.to(device), targets.to(device)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0)
    passes = 1 if objective is None else int(objective.draws)
    together = objective is not None and objective.passes == "concatenated"
    done = 0

    def step() -> str:
        nonlocal done
        done += 1
        if together:
            outputs = [model(torch.cat([inputs] * passes), draws=Draws(seed, done))]
            logits = list(outputs[0].logits.chunk(passes))
        else:
            outputs = [model(inputs, draws=Draws(seed, done, number)) for number in range(passes)]
            logits = [output.logits for output in outputs]
        if objective is None:
            loss = F.cross_entropy(logits[0].flatten(0, -2).float(), targets.flatten())
        else:
            loss = objective.loss(logits, targets)
        for output in outputs:
            for extra in output.losses.values():
                loss = loss + extra / len(outputs)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()  # last, so that a step's gradients count as its own memory
        return outputs[0].stats["path"]

    return Subject(step, step(), device)


def _network(
    attention: list[dict[str, Any]], cell: Cell, path: str, host: dict[str, Any] | None, seed: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """The network of a step with inputs and targets of the cell's shape."""
    generator = torch.Generator().manual_seed(seed)
    if host is None:
        targets = torch.randint(CLASSES, (cell.batch,), generator=generator)
        x = _random((cell.batch, cell.length, cell.width), seed, torch.device("cpu"))
        return _OneBlock(attention, cell, path), x, targets
    config = host_config(host, cell, path)
    if config.kind == "decoder":
        signature = Signature(
            kind="tokens", classes=VOCABULARY, vocabulary=VOCABULARY, length=cell.length, causal=True
        )
        tokens = torch.randint(VOCABULARY, (2, cell.batch, cell.length), generator=generator)
        return build_host(config, attention, signature), tokens[0], tokens[1]
    # an image one patch high, so that any number of tokens can be had
    patches = cell.length - (config.pool == "cls")
    size = (config.patch, config.patch * patches)
    signature = Signature(kind="image", classes=CLASSES, channels=CHANNELS, height=size[0], width=size[1])
    images = torch.rand(cell.batch, CHANNELS, *size, generator=generator)
    return (
        build_host(config, attention, signature),
        images,
        torch.randint(CLASSES, (cell.batch,), generator=generator),
    )


def host_config(host: dict[str, Any], cell: Cell, path: str) -> HostConfig:
    """The host of a step: kind, width and heads follow from the cell. UsageError for what does not fit."""
    from pydantic import ValidationError

    set_by_shape = {"width": cell.width, "heads": cell.heads, "kind": "decoder" if cell.causal else "encoder"}
    for key, value in set_by_shape.items():
        if host.get(key, value) != value:
            raise UsageError(f"host.{key} is {host[key]!r}, but the shape makes it {value!r}; leave it out")
    if "kernel" in host:
        raise UsageError("host.kernel: the paths are listed in 'paths'; leave it out")
    try:
        return HostConfig(**{**host, **set_by_shape, "kernel": path})  # type: ignore[arg-type]
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in ("host", *fault["loc"]))
        raise UsageError(f"{name}: {fault['msg']}, not {fault['input']!r}") from error


def _random(shape: tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
