"""The terminal page of one mechanism: documentation, parameters, and its map beside plain softmax on "
"the same input."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from attnbench.attention import AttentionLayer, Mechanism, build, shared_modules
from attnbench.errors import UsageError

WIDTH, HEADS = 32, 2
BLACK, WHITE = 232, 255  # of the terminal's 256 colours


def page(mechanism: type[Mechanism], name: str, length: int, seed: int) -> RenderableType:
    """Everything that `attnbench show` prints."""
    paper = f"https://arxiv.org/abs/{mechanism.arxiv}" if mechanism.arxiv else "no arXiv paper; see the text"
    head = Text.assemble((mechanism.name, "bold"), f"  {mechanism.summary}\n", (paper, "dim"))
    facts = Text(f"stages: {', '.join(mechanism.stages)}", "dim")
    text = Padding(Text(inspect.getdoc(mechanism) or ""), (1, 0, 1, 0))
    return Group(head, facts, text, _parameters(mechanism), *_pictures(mechanism, name, length, seed))


def _parameters(mechanism: type[Mechanism]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("parameter", "default", "meaning"):
        table.add_column(column, overflow="fold")
    defaults = mechanism.schema.model_json_schema()["properties"]
    for field, info in mechanism.schema.model_fields.items():
        choices = defaults[field].get("enum")
        meaning = (info.description or "") + (f" ({' | '.join(map(str, choices))})" if choices else "")
        table.add_row(field, str(defaults[field].get("default")), meaning)
    return table


def _pictures(mechanism: type[Mechanism], name: str, length: int, seed: int) -> list[RenderableType]:
    """The first head's map in training, with the same projections and input as plain softmax."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, length, WIDTH, generator=generator)
    try:
        maps = {"softmax": _map("softmax", x, seed), mechanism.name: _map(name, x, seed)}
    except UsageError as error:
        return [Text(f"\nno picture: {error}", "dim")]
    if mechanism.name == "softmax":
        maps.pop("softmax", None)
        maps = {"softmax": _map("softmax", x, seed)}
    top = max(weights.max().item() for weights in maps.values())
    drawn = [
        Group(Text(f"{label} (rows: queries, columns: keys)"), draw(weights, top))
        for label, weights in maps.items()
    ]
    stats = f"first head, training mode, random input of seed {seed}; white = {top:.2f}"
    return [Text(), Columns(drawn, padding=(0, 4)), Text(stats, "dim")]


def _map(name: str, x: torch.Tensor, seed: int) -> torch.Tensor:
    """(N,M) weights of the first head."""
    shape: dict[str, Any] = {"width": WIDTH, "heads": HEADS, "max_length": x.shape[1]}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        layer: AttentionLayer = build(name, **shape)
        torch.manual_seed(seed)
        for projection in (layer.q, layer.k):
            torch.nn.init.normal_(projection.weight, std=2 * WIDTH**-0.5)  # wide enough to show a structure
            torch.nn.init.zeros_(projection.bias)
        shared = {"embedded": x, "modules": shared_modules(name, layers=1, **shape)}
        generator = torch.Generator().manual_seed(seed)
        _, aux = layer(x, generator=generator, shared=shared, need_weights=True)
    assert aux.weights is not None
    return aux.weights[0, 0]


def draw(weights: torch.Tensor, top: float) -> Text:
    """A map as half blocks, two rows of it in one line of text: black is 0, white is `top`."""
    levels = ((weights / top).clamp(0, 1).sqrt() * (WHITE - BLACK)).round().long() + BLACK
    if levels.shape[0] % 2:
        levels = torch.cat([levels, torch.full_like(levels[:1], BLACK)])
    picture = Text()
    for upper, lower in zip(levels[0::2].tolist(), levels[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            picture.append("▀", f"color({above}) on color({below})")
        picture.append("\n")
    return picture
