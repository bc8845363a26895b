"""White-box L-infinity attacks, by foolbox: FGSM (arXiv 1412.6572) and PGD-20 (arXiv 1706.06083)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnbench.attention.draws import stable_seed
from attnbench.evaluation.evaluate import batches, evaluation_mode, where
from attnbench.evaluation.quality import TALLY_SIZE, figures, tally

if TYPE_CHECKING:
    from attnbench.workloads import Signature, Split

ATTACKS = ("fgsm", "pgd")
PGD_STEPS = 20
PGD_STEP_SHARE = 0.25  # step size eps / 4

# radius per severity 1..5, in units of the [0, 1] range
GREY_EPSILONS = (0.05, 0.1, 0.15, 0.2, 0.3)
COLOUR_EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255)


def epsilons(signature: Signature) -> tuple[float, ...]:
    """Radii for severities 1..5: 0.05 to 0.3 for grey images (digits), 1 to 16 of 255 for colour."""
    return GREY_EPSILONS if signature.channels == 1 else COLOUR_EPSILONS


def attacked(
    model: nn.Module,
    split: Split,
    kind: str,
    epsilon: float,
    *,
    seed: int = 0,
    batch: int = 256,
    device: torch.device | str | None = None,
    judge: nn.Module | None = None,
) -> dict[str, float]:
    """Quality of `model` on the images that `kind` ("fgsm" or "pgd") finds within `epsilon` of `split`'s.

    Evaluation mode, float32, bounds (0, 1). PGD: 20 steps of eps/4 from a random start, its last iterate;
    the start is drawn from (seed, kind, epsilon, number of the batch). With `judge` the images are made
    against `model` and shown to `judge` (a transfer attack). Nothing is left behind in the model: flags,
    gradients, random state.
    """
    device = where(model, device)
    sums = torch.zeros(TALLY_SIZE, dtype=torch.float64, device=device)
    with images_to_logits(model) as victim, images_to_logits(judge or model) as target:
        for number, (images, labels, _) in enumerate(batches(split, batch, device)):
            start = stable_seed(seed, kind, epsilon, number)
            found = adversarial(victim, images, labels, kind, epsilon, start)
            with torch.no_grad():
                sums += tally(target(found), labels)
    return figures(sums)


def adversarial(
    victim: nn.Module, images: Tensor, labels: Tensor, kind: str, epsilon: float, seed: int
) -> Tensor:
    """Images (B,C,H,W) in [0,1] within `epsilon` of `images`; victim(images) gives logits, weights frozen."""
    import foolbox

    target = foolbox.PyTorchModel(victim, bounds=(0, 1), device=images.device)
    attack: Any
    if kind == "fgsm":
        attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    else:
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=PGD_STEP_SHARE * epsilon, steps=PGD_STEPS, random_start=True
        )
    devices = [images.device] if images.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
    ):  # foolbox draws from the global generator
        torch.manual_seed(seed)
        found = attack.run(target, images, foolbox.criteria.Misclassification(labels), epsilon=epsilon)
    return found.detach()


class _Logits(nn.Module):
    """What foolbox expects: images to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits.float()


@contextmanager
def images_to_logits(model: nn.Module) -> Iterator[nn.Module]:
    """The model as images -> logits in eval mode and float32, its parameters frozen for the time being.

    Frozen, because foolbox calls backward(), which would otherwise add to the parameters' .grad. A model
    that is kept in half precision is attacked as a float32 copy: rounding would hide gradients and look
    like robustness.
    """
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        model = copy.deepcopy(model).float()
    flags = [(p, p.requires_grad) for p in model.parameters()]
    wanted = next(model.parameters()).device.type if flags else "cpu"
    with evaluation_mode(model), torch.autocast(wanted, enabled=False):
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        try:
            yield _Logits(model).eval()
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
