"""The learning rate at every step: linear warm-up, then constant, linear or cosine."""

import math


def learning_rate(step: int, *, total: int, peak: float, warmup: float, schedule: str) -> float:
    """Learning rate of the 0-based optimiser `step` out of `total`.

    The first round(warmup x total) steps rise linearly to `peak`; the rest stay there ("constant") or fall
    to zero, reached
    one step after the last ("linear", "cosine"), so that no step is wasted at rate zero.
    """
    rising = round(warmup * total)
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step - rising) / max(1, total - rising)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * (1 - progress)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
