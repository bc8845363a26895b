"""From a specification to a layer, and to what the whole network owns for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from attnbench.attention.composition import refuse_conflicts
from attnbench.attention.layer import KERNELS, AttentionLayer
from attnbench.attention.mechanism import SITES, LayerShape
from attnbench.attention.specification import Entry, Spec, read, refuse_causal
from attnbench.errors import UsageError


def build(
    spec: Spec,
    *,
    width: int,
    heads: int,
    causal: bool = False,
    kernel: str = "auto",
    layer: int = 0,
    layers: int = 1,
    max_length: int | None = None,
    site: str = "encoder_self",
    **params: Any,
) -> AttentionLayer:
    """One attention layer (an nn.Module) of the composition `spec`.

    spec: a name, {name: ..., parameters}, or a list of those in pipeline order; a name may be
    `path/to/file.py:Class`. params: parameters of the one mechanism, when spec is a bare name. width D and
    heads H; causal is fixed here. kernel: auto, reference or fused. layer of layers, site (encoder_self,
    decoder_self, cross): entries that are not meant for this place are left out, and plain softmax remains.
    max_length: most keys that will come, which some mechanisms (lam) need for their size.
    """
    if params:
        if not isinstance(spec, str | Mapping):
            raise UsageError(f"parameters {', '.join(params)} beside a list: write them into its entries")
        spec = {**({"name": spec} if isinstance(spec, str) else spec), **params}
    if heads < 1 or width % heads:
        raise UsageError(
            f"width {width} does not split into {heads} heads; width must be a multiple of heads"
        )
    if kernel not in KERNELS:
        raise UsageError(f"kernel is {kernel!r}; it must be one of {', '.join(KERNELS)}")
    if site not in SITES:
        raise UsageError(f"site is {site!r}; it must be one of {', '.join(SITES)}")
    shape = LayerShape(width, heads, layer, layers, max_length, causal, site)
    entries = [entry for entry in read(spec) if entry.settings.acts_in(layer, site)]
    refuse_conflicts(entries)
    if causal:
        refuse_causal(entries)
    return AttentionLayer([entry.mechanism(entry.settings, shape) for entry in entries], shape, kernel)


def shared_modules(
    spec: Spec, *, width: int, heads: int, layers: int, max_length: int | None = None, causal: bool = False
) -> nn.ModuleDict:
    """What the network owns once for all its layers, by mechanism name; empty for most. The host hands it to
    every layer as shared = {"embedded": x after embedding and position, "modules": this}.
    """
    shape = LayerShape(width, heads, 0, layers, max_length, causal)
    owned = {e.mechanism.name: e.mechanism.shared_module(e.settings, shape) for e in read(spec)}
    return nn.ModuleDict({name: module for name, module in owned.items() if module is not None})


def refuse_idle(spec: Spec, *, layers: int, sites: Sequence[str]) -> None:
    """UsageError for an entry that acts nowhere in a network of so many layers with these sites: its arm
    would silently be softmax.
    """
    entries: list[Entry] = read(spec)
    for entry in entries:
        settings = entry.settings
        if not any(settings.acts_in(layer, site) for layer in range(layers) for site in sites):
            where = f"sites {', '.join(settings.sites)}, layers {settings.layers}"
            raise UsageError(
                f"{entry.mechanism.name} would act nowhere: it is meant for {where}, and this host has "
                f"{layers} layers of {', '.join(sites)}; "
                f"write sites: [{', '.join(sites)}] to use it there"
            )
