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
SHADES = " ░▒▓█"


def page(
    mechanism: type[Mechanism], name: str, length: int, seed: int, coloured: bool = True
) -> RenderableType:
    """Everything that `attnbench show` prints; without colours the map is drawn in hatching."""
    paper = f"https://arxiv.org/abs/{mechanism.arxiv}" if mechanism.arxiv else "no arXiv paper; see the text"
    head = Text.assemble((mechanism.name, "bold"), f"  {mechanism.summary}\n", (paper, "dim"))
    facts = Text(f"stages: {', '.join(mechanism.stages)}", "dim")
    text = Padding(Text(reflowed(inspect.getdoc(mechanism) or "")), (1, 0, 1, 0))
    return Group(
        head, facts, text, _parameters(mechanism), *_pictures(mechanism, name, length, seed, coloured)
    )


def reflowed(text: str) -> str:
    """Prose joined to whole paragraphs, so that the terminal breaks it; indented equations as they are."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and line and lines[-1] and not line.startswith(" ") and not lines[-1].startswith(" "):
            lines[-1] += " " + line
        else:
            lines.append(line)
    return "\n".join(lines)


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


def _pictures(
    mechanism: type[Mechanism], name: str, length: int, seed: int, coloured: bool
) -> list[RenderableType]:
    """The first head's map in training, beside plain softmax with the same projections and input."""
    x = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(seed))
    try:
        maps = {label: _map(label, x, seed) for label in dict.fromkeys(("softmax", name))}
    except UsageError as error:
        return [Text(f"\nno picture: {error}", "dim")]
    top = max(weights.max().item() for weights in maps.values())
    drawn = [
        Group(Text(label), (draw if coloured else hatch)(weights, top)) for label, weights in maps.items()
    ]
    note = f"rows: queries, columns: keys; first head, in training, random input; brightest = {top:.2f}"
    return [Text(), Columns(drawn, padding=(0, 4)), Text(note, "dim")]


def _map(name: str, x: torch.Tensor, seed: int) -> torch.Tensor:
    """(N,M) weights of the first head."""
    shape: dict[str, Any] = {"width": WIDTH, "heads": HEADS, "max_length": x.shape[1]}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        layer: AttentionLayer = build(name, **shape)
        torch.manual_seed(seed)
        for projection in (layer.q, layer.k):
            torch.nn.init.normal_(projection.weight, std=1.3 * WIDTH**-0.5)  # wide enough to show a structure
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


def hatch(weights: torch.Tensor, top: float) -> Text:
    """A map without colours: two characters an entry, from blank for 0 to full for `top`."""
    levels = ((weights / top).clamp(0, 1).sqrt() * (len(SHADES) - 1)).round().long().tolist()
    return Text("\n".join("".join(2 * SHADES[level] for level in row) for row in levels))
