"""The gate before any timing: a fused path that computes something else than the reference is never timed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnbench.attention import build, seed_parameters, shared_modules
from attnbench.attention.draws import stable_seed
from attnbench.cost.specification import Cell
from attnbench.cost.subject import DTYPES
from attnbench.errors import UsageError

LONGEST = 256  # tokens compared: enough for several tiles, little enough to take milliseconds
BATCH = 2

# largest difference, relative to the largest value of the reference
EXACT = 1e-9  # float64
TOLERANCE = {"fp64": EXACT, "fp32": 5e-5, "bf16": 6e-2}
# In low precision a rounding error may swap the last two of a top-k, which changes single rows by much.
SWAPPED_SHARE = 2e-3


def difference(
    attention: list[dict[str, Any]], cell: Cell, device: torch.device, *, seed: int = 0
) -> str | None:
    """What is unequal between reference and fused path of a composition, in a sentence; None if nothing is.

    Outputs and gradients (of the input and every parameter), in training and in evaluation, at randomised
    parameters and with the same random draws: in float64 on a CPU to 1e-9, and in the precision and on
    the device of the cell. None also where there is no fused path to compare.
    """
    tries = [(torch.device("cpu"), "fp64")] if device.type == "cpu" else []
    for where, precision in dict.fromkeys([*tries, (device, cell.precision)]):
        for training in (True, False):
            found = _compare(attention, cell, where, precision, training, seed)
            if found:
                mode = "training" if training else "evaluation"
                return f"{found} between the fused path and the reference ({mode}, {precision}, {where.type})"
    return None


def _compare(
    attention: list[dict[str, Any]],
    cell: Cell,
    device: torch.device,
    precision: str,
    training: bool,
    seed: int,
) -> str | None:
    try:
        reference = _values(attention, cell, "reference", device, precision, training, seed)
        fused = _values(attention, cell, "fused", device, precision, training, seed)
    except UsageError:
        return None
    # Some gradients are zero but for rounding (a bias of k under softmax), so each is judged beside the
    # largest.
    largest = max(float(value.abs().max()) for name, value in reference.items() if name != "output")
    floor = largest * (1e-3 if precision == "fp64" else 1.0)
    for name, value in reference.items():
        other = fused.get(name)
        if other is None or value.shape != other.shape:
            return f"{name} has no counterpart"
        scale = max(float(value.abs().max()), floor if name != "output" else 0.0) or 1.0
        far = (value.double() - other.double()).abs() / scale
        off = ~(far <= TOLERANCE[precision])  # written so that NaN is off
        allowed = 0.0 if precision == "fp64" else SWAPPED_SHARE
        if float(off.double().mean()) > allowed:
            return f"{name} differs by {float(far.max()):.1e} of its largest value"
    return None


def _values(
    attention: list[dict[str, Any]],
    cell: Cell,
    path: str,
    device: torch.device,
    precision: str,
    training: bool,
    seed: int,
) -> dict[str, Tensor]:
    """Output and gradients of one path, by name."""
    length = min(cell.length, LONGEST)
    common: dict[str, Any] = {"width": cell.width, "heads": cell.heads, "layers": 1}
    common |= {"causal": cell.causal, "max_length": length}
    site = "decoder_self" if cell.causal else "encoder_self"
    layer = build(attention, **common, kernel=path, site=site)
    owned = shared_modules(attention, **common)
    model = nn.ModuleDict({"layer": layer, "shared": owned})
    seed_parameters(model, seed)
    _randomise(model, seed)
    model.to(device, DTYPES[precision]).train(training)
    draw = torch.Generator().manual_seed(stable_seed(seed, "equality"))
    x = torch.randn(BATCH, length, cell.width, generator=draw).to(device, DTYPES[precision])
    slope = torch.randn(BATCH, length, cell.width, generator=draw).to(x)
    x.requires_grad_()
    generator = torch.Generator(device).manual_seed(stable_seed(seed, "draws"))
    out, aux = layer(x, generator=generator, shared={"embedded": x, "modules": owned})
    losses = [loss for loss in aux.losses.values() if loss.requires_grad]
    named = dict(model.named_parameters())
    slopes = [slope, *(torch.ones_like(loss) for loss in losses)]
    grads = torch.autograd.grad([out, *losses], [x, *named.values()], slopes, allow_unused=True)
    names = ["gradient of the input", *(f"gradient of {name.removeprefix('layer.')}" for name in named)]
    found = {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}
    return {"output": out.detach(), **found}


def _randomise(model: nn.Module, seed: int) -> None:
    """Move every parameter off its start: an identity initialisation would hide a wrong gradient."""
    for name, parameter in model.named_parameters():
        draw = torch.Generator().manual_seed(stable_seed(seed, "randomised", name))
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw).to(parameter))
