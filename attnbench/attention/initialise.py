"""Initial weights as a function of (seed, module name) alone, so that what two arms have in common starts
equal.
"""

from __future__ import annotations

import torch
from torch import nn

from attnbench.attention.draws import stable_seed


def seed_parameters(model: nn.Module, seed: int) -> None:
    """Call each module's own `reset_parameters()`, children before parents, under a generator seeded by
    (seed, qualified name).

    A parent that initialises what its children hold (an identity start, say) has the last word. Modules
    without `reset_parameters` keep the values of their construction. The global random state is left as it
    was.
    """
    names = {module: name for name, module in model.named_modules()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})

    def visit(module: nn.Module) -> None:
        for child in module.children():
            visit(child)
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            # Not torch.manual_seed: without a GPU it queues a call for one, with its stack, at every module.
            chosen = stable_seed(seed, names[module])
            torch.default_generator.manual_seed(chosen)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(chosen)
            reset()

    with torch.random.fork_rng(devices=devices):
        visit(model)
