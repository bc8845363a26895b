"""A mechanism under test: built in every form that the checks need, on small random input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.attention import AttentionLayer, Aux, LayerShape, Mechanism, Parameters, build

WIDTH, HEADS, LENGTH, BATCH = 16, 2, 9, 3


class Carried(nn.Module):
    """A layer with what its network would own for it, called as a host calls it."""

    def __init__(self, layer: AttentionLayer, shared: nn.ModuleDict) -> None:
        super().__init__()
        self.layer, self.shared = layer, shared

    def forward(self, x: Tensor, seed: int | None = 0, **call: Any) -> tuple[Tensor, Aux]:
        """seed: of a fresh generator, so that two calls draw alike; None hands over no generator."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return self.layer(x, shared={"embedded": x, "modules": self.shared}, generator=generator, **call)

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What the mechanism owns, in the layer and in the network."""
        names = {f"layer.{name}" for name in self.layer.mechanism_parameter_names()}
        return {n: p for n, p in self.named_parameters() if n in names or n.startswith("shared.")}


@dataclass(frozen=True)
class Subject:
    """A mechanism with settings. Input is (BATCH, LENGTH, WIDTH)."""

    mechanism: type[Mechanism]
    settings: Parameters

    def build(
        self,
        causal: bool = False,
        kernel: str = "auto",
        dtype: torch.dtype = torch.float64,
        training: bool = True,
        seed: int = 0,
        randomised: bool = True,
    ) -> Carried:
        """The mechanism in a layer. randomised: every parameter is random, since an identity start may hide
        what a parameter does.
        """
        site = "encoder_self" if "encoder_self" in self.settings.sites else self.settings.sites[0]
        shape = LayerShape(WIDTH, HEADS, 0, 1, 2 * LENGTH, causal, site)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = AttentionLayer([self.mechanism(self.settings, shape)], shape, kernel)
            owned = self.mechanism.shared_module(self.settings, shape)
            shared = nn.ModuleDict({} if owned is None else {self.mechanism.name: owned})
            carried = Carried(layer, shared)
            if randomised:
                for parameter in carried.parameters():
                    nn.init.normal_(
                        parameter, std=0.5 if parameter.dim() < 2 else parameter.shape[-1] ** -0.5
                    )
        return carried.to(dtype).train(training)

    def plain(self, like: Carried, kernel: str) -> AttentionLayer:
        """Plain softmax with the same projections."""
        layer = like.layer
        plain = build("softmax", width=WIDTH, heads=HEADS, causal=layer.causal, kernel=kernel)
        own = layer.mechanism_parameter_names()
        plain.load_state_dict({n: t for n, t in layer.state_dict().items() if n not in own})
        return plain.to(layer.q.weight.dtype).train(like.training)

    @property
    def causal_modes(self) -> tuple[bool, ...]:
        """False, and True if the mechanism can be causal."""
        return (False,) if self.mechanism.refuses_causal(self.settings) else (False, True)

    def fused_modes(self) -> list[tuple[bool, bool]]:
        """(causal, training) of every mode that has a fused form."""
        modes = [(c, t) for c in self.causal_modes for t in (False, True) if self.fuses(c, t)]
        return modes

    def fuses(self, causal: bool, training: bool) -> bool:
        """Whether kernel='fused' works in this mode."""
        try:
            self.build(causal, "fused", training=training)(rows())
        except ValueError:
            return False
        return True


def rows(
    seed: int = 1, batch: int = BATCH, length: int = LENGTH, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Random input (batch, length, WIDTH)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, WIDTH, generator=generator, dtype=torch.float64).to(dtype)


def padding(batch: int = BATCH, length: int = LENGTH) -> Tensor:
    """Key masks: the first example lacks its start and a key in the middle, the second is whole, the "
    "rest lack their end."""
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[0, :2] = False
    mask[0, length // 2] = False
    mask[2:, -3:] = False
    return mask
