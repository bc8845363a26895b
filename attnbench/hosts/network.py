"""The encoder and the decoder: embedding, blocks, head; and what every host says of itself."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.attention import AttentionLayer, Draws, build, refuse_idle, shared_modules
from attnbench.hosts.block import Block
from attnbench.hosts.config import HostConfig, sequence_length
from attnbench.hosts.embedding import Embedding
from attnbench.hosts.output import HostOutput
from attnbench.workloads import Signature

SHARED_GROUP = "shared.mechanism"
"""Layer group of what a mechanism owns once for the whole network."""


class Network(nn.Module):
    """What encoder and decoder have in common: embedding, pre-norm blocks, a final norm, a head."""

    def __init__(self, host: HostConfig, attention: list[dict[str, Any]], signature: Signature) -> None:
        super().__init__()
        self.host = host
        self.signature = signature
        self.length = sequence_length(host, signature)
        common: dict[str, Any] = {"width": host.width, "heads": host.heads, "layers": host.layers}
        common |= {"max_length": self.length, "causal": host.causal}
        site = "decoder_self" if host.causal else "encoder_self"
        refuse_idle(attention, layers=host.layers, sites=[site])
        self.embedding = Embedding(host, signature)
        self.layers = nn.ModuleList(
            Block(host, build(attention, **common, kernel=host.kernel, layer=index, site=site))
            for index in range(host.layers)
        )
        self.shared = shared_modules(attention, **common)
        self.norm = nn.LayerNorm(host.width)

    def trunk(
        self,
        inputs: Tensor,
        key_mask: Tensor | None,
        draws: Draws | None,
        need_weights: bool,
        at: Tensor | None = None,
    ) -> tuple[Tensor, HostOutput]:
        """Inputs -> normalised states (B,N,D), or (K,D) at the flat positions `at`; and an output that
        lacks its logits.
        """
        x = self.embedding(inputs)
        shared: dict[str, Any] = {"embedded": x, "modules": self.shared}
        losses: dict[str, Tensor] = {}
        reports: list[dict[str, Any]] = []
        weights: list[Tensor | None] = []
        last = len(self.layers) - 1
        for index, block in enumerate(self.layers):
            generators = self.generators(draws, index, x.device)
            x, aux = block(x, key_mask, shared, generators, need_weights, at if index == last else None)
            for name, loss in aux.losses.items():
                losses[name] = losses[name] + loss if name in losses else loss
            reports.append(aux.stats)
            weights.append(aux.weights)
        paths = dict.fromkeys(report["path"] for report in reports if "path" in report)
        stats = {"path": ",".join(paths), "layers": reports}
        return self.norm(x), HostOutput(x, losses, stats, weights if need_weights else None)

    def generators(
        self, draws: Draws | None, layer: int, device: torch.device
    ) -> tuple[torch.Generator | None, torch.Generator | None]:
        """Of the layer's mechanism and of its dropout: apart, so that neither shifts the other's draws."""
        if draws is None or not self.training:
            return None, None
        of_dropout = draws.generator(f"dropout.{layer}", device) if self.host.dropout else None
        return draws.generator(layer, device), of_dropout

    def layer_groups(self) -> dict[str, list[str]]:
        """Parameter names by group: embedding, layer.i.attention, layer.i.mlp, layer.i.mechanism,
        shared.mechanism, head.

        Every parameter is in one group; groups without parameters are left out; a norm counts with what it
        feeds.
        """
        mechanism = self.mechanism_parameter_names()
        groups: dict[str, list[str]] = {}
        for name, _ in self.named_parameters():
            groups.setdefault(self._group(name, name in mechanism), []).append(name)
        return groups

    @staticmethod
    def _group(name: str, of_mechanism: bool) -> str:
        room, *path = name.split(".")
        if room == "embedding":
            return "embedding"
        if room == "shared":
            return SHARED_GROUP
        if room != "layers":
            return "head"
        if of_mechanism:
            return f"layer.{path[0]}.mechanism"
        return f"layer.{path[0]}.{'attention' if path[1].endswith('attention') else 'mlp'}"

    def attention_layers(self) -> list[AttentionLayer]:
        """The attention layers from input to output."""
        return [cast(Block, block).attention for block in self.layers]

    def mechanism_parameter_names(self) -> set[str]:
        """Names of the parameters that mechanisms own, those of the network's shared modules among them."""
        names = {f"shared.{name}" for name, _ in self.shared.named_parameters()}
        for index, layer in enumerate(self.attention_layers()):
            names |= {f"layers.{index}.attention.{name}" for name in layer.mechanism_parameter_names()}
        return names

    def flops(self, length: int | None = None) -> float:
        """Forward FLOPs per example of `length` tokens (the signature's if left out), in training mode;
        multiply-add is 2.

        Linear maps and attention (with what mechanisms add); norms, GELU and residual sums are left out.
        """
        n = self.length if length is None else length
        width, hidden = self.host.width, self.host.hidden
        linear = 4.0 * n * width * hidden * len(self.layers)
        attention = sum(layer.flops(n, training=True) for layer in self.attention_layers())
        return self.embedding_flops() + linear + attention + self.head_flops(n)

    def embedding_flops(self) -> float:
        """Of the patches' projection; a table costs nothing."""
        if self.signature.kind != "image":
            return 0.0
        pixels = self.signature.channels * self.signature.height * self.signature.width
        return 2.0 * pixels * self.host.width

    def head_flops(self, n: int) -> float:
        """Of the map from states to logits."""
        raise NotImplementedError


class Encoder(Network):
    """Bidirectional classifier of images or token sequences: logits (B,classes)."""

    def __init__(self, host: HostConfig, attention: list[dict[str, Any]], signature: Signature) -> None:
        super().__init__(host, attention, signature)
        self.head = nn.Linear(host.width, signature.classes)

    def forward(
        self,
        inputs: Tensor,
        key_mask: Tensor | None = None,
        draws: Draws | None = None,
        need_weights: bool = False,
    ) -> HostOutput:
        """inputs (B,C,H,W) float in [0,1] or (B,N) int64; key_mask (B,N) bool, True where a token is real.

        draws: where the random numbers of this pass come from; None draws from the default generators.
        """
        cls = self.host.pool == "cls"
        mask = key_mask
        if mask is not None and cls:
            mask = torch.cat([mask.new_ones(mask.shape[0], 1), mask], dim=1)
        states, output = self.trunk(inputs, mask, draws, need_weights)
        if cls:
            pooled = states[:, 0]
        elif mask is None:
            pooled = states.mean(dim=1)
        else:
            counted = mask.to(states.dtype).unsqueeze(-1)
            pooled = (states * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return output._replace(logits=self.head(pooled))

    def head_flops(self, n: int) -> float:
        """One vector per example."""
        return 2.0 * self.host.width * self.signature.classes


class Decoder(Network):
    """Causal language model: logits (B,N,vocabulary) of the target at each position."""

    def __init__(self, host: HostConfig, attention: list[dict[str, Any]], signature: Signature) -> None:
        super().__init__(host, attention, signature)
        self.head = None if host.tied else nn.Linear(host.width, signature.vocabulary, bias=False)

    def forward(
        self,
        inputs: Tensor,
        key_mask: Tensor | None = None,
        draws: Draws | None = None,
        need_weights: bool = False,
        at: Tensor | None = None,
    ) -> HostOutput:
        """inputs (B,N) int64; key_mask (B,N) bool, True where a token is real.

        at: (K,) int64, flat indices into (B*N): logits (K,vocabulary) of these positions alone. Where few
        positions are supervised this saves the head and the last block's MLP for all others, and changes no
        figure.
        """
        states, output = self.trunk(inputs, key_mask, draws, need_weights, at)
        # a tied head owns nothing, so that nothing but the embedding ever initialises the table
        table = self.embedding.tokens.weight if self.head is None else self.head.weight
        return output._replace(logits=F.linear(states, table))

    def head_flops(self, n: int) -> float:
        """One vector per token."""
        return 2.0 * n * self.host.width * self.signature.vocabulary
