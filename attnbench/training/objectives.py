"""Training objectives that need the network's outputs of several passes: R-Drop and AttentionDrop's
consistency.

An objective draws the network `draws` times on the same inputs, each pass with random draws of its own,
and turns the logits of all passes into a loss. It composes with every mechanism, because it only sees logits.

    p1, p2 (E, C)   class probabilities of the two passes for E counted examples (tokens of a language
    model count singly)
    KL(p1 || p2) = sum_c p1_c (log p1_c - log p2_c), summed over classes, averaged over examples
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnbench.errors import UsageError

IGNORED = -100


class Objective(BaseModel):
    """Base of all objectives: parameters are its fields.

    passes  "concatenated" puts both passes through the model as one doubled batch, whose halves draw
            apart; "sequential"
            runs the model twice; time and memory differ, the loss's distribution does not. "auto" is
            concatenated unless a
            mechanism draws once per call (blur's one sigma), since both halves would then share that draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    draws: Literal[2] = 2
    passes: Literal["auto", "concatenated", "sequential"] = "auto"

    def loss(self, logits: list[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """Scalar loss of the passes' `logits`, each (..., C), against `targets` (...) where -100 is not
        counted."""
        raise NotImplementedError


class RDrop(Objective):
    """R-Drop (arXiv 2106.14448, equations 2 to 4).

    L = -log p1(y) - log p2(y) + alpha / 2 (KL(p1 || p2) + KL(p2 || p1)), averaged over examples.

    The paper's equation 3 adds the two likelihoods; its published code takes their mean, and alpha is
    tuned with that code.
    `task` says which: "mean" (code, the default) or "sum" (equation; the same as half of alpha at twice
    the learning rate).
    """

    name: Literal["r_drop"] = "r_drop"
    alpha: float = Field(default=1.0, ge=0)
    task: Literal["mean", "sum"] = "mean"

    def loss(self, logits: list[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """Task loss over both passes plus alpha times the mean of both directions of KL."""
        task = task_loss(logits, targets) * (2 if self.task == "sum" else 1)
        log_p1, log_p2 = counted_log_probabilities(logits, targets)
        return task + self.alpha * 0.5 * (divergence(log_p1, log_p2) + divergence(log_p2, log_p1))


class Consistency(Objective):
    """AttentionDrop's consistency regularisation (arXiv 2504.12088, variant 3).

    L = mean over both passes of the task loss + weight * KL(p1 || p2).

    The paper writes one direction of KL and leaves open the gradient, the reduction and which pass bears
    the task loss.
    direction      "forward" KL(p1 || p2), "backward" KL(p2 || p1), "symmetric" their mean
    stop_gradient  "none", or the pass ("first", "second") that counts as a constant in the KL
    reduction      "sum" over classes (default), or "mean", which makes the weight depend on the number of
                   classes
    """

    name: Literal["consistency"] = "consistency"
    weight: float = Field(default=1.0, ge=0)
    direction: Literal["forward", "backward", "symmetric"] = "forward"
    stop_gradient: Literal["none", "first", "second"] = "none"
    reduction: Literal["sum", "mean"] = "sum"

    def loss(self, logits: list[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """Mean task loss over both passes plus the weighted KL between them."""
        log_p1, log_p2 = counted_log_probabilities(logits, targets)
        if self.stop_gradient == "first":
            log_p1 = log_p1.detach()
        elif self.stop_gradient == "second":
            log_p2 = log_p2.detach()
        forward = divergence(log_p1, log_p2) if self.direction != "backward" else 0.0
        backward = divergence(log_p2, log_p1) if self.direction != "forward" else 0.0
        kl = (forward + backward) / (2 if self.direction == "symmetric" else 1)
        if self.reduction == "mean":
            kl = kl / log_p1.shape[-1]
        return task_loss(logits, targets) + self.weight * kl


OBJECTIVES: dict[str, type[Objective]] = {"r_drop": RDrop, "consistency": Consistency}


def task_loss(logits: list[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, mean over counted examples and over passes. Logits (..., C) per pass, targets (...)."""
    losses = [
        F.cross_entropy(one.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED) for one in logits
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def counted_log_probabilities(logits: list[torch.Tensor], targets: torch.Tensor) -> list[torch.Tensor]:
    """Log probabilities (E, C) of each pass at the examples whose target is counted."""
    counted = targets.flatten() != IGNORED
    rows = [one.flatten(0, -2).float() for one in logits]
    if not bool(counted.all()):
        rows = [one[counted] for one in rows]
    return [one.log_softmax(-1) for one in rows]


def divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q), summed over classes and averaged over examples, from log probabilities (E, C)."""
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def settle_passes(objective: dict[str, Any], attention: list[dict[str, Any]]) -> dict[str, Any]:
    """Replace passes "auto" of a canonical objective by what suits the canonical `attention`.

    Raises UsageError for "concatenated" beside a mechanism that draws once per call.
    """
    from attnbench.attention.specification import read

    per_call = [
        entry.mechanism.name for entry in read(attention) if entry.mechanism.draws_per_call(entry.settings)
    ]
    if objective["passes"] == "concatenated" and per_call:
        raise UsageError(
            f"objective {objective['name']}: passes: concatenated would give both passes the same draw, "
            f"because {per_call[0]} draws once per call; passes: sequential keeps them apart"
        )
    if objective["passes"] == "auto":
        return {**objective, "passes": "sequential" if per_call else "concatenated"}
    return objective


def build_objective(canonical: dict[str, Any] | None) -> Objective | None:
    """The objective that a canonical configuration names; None is the plain task loss."""
    if canonical is None:
        return None
    return OBJECTIVES[canonical["name"]](**canonical)


def canonical_objective(spec: str | dict[str, Any]) -> dict[str, Any]:
    """Check `spec` ("r_drop" or {"name": "r_drop", ...}) and write every default out.

    Raises UsageError for an unknown name, an unknown parameter, or a value out of range.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, dict) else {}
    name = given.get("name")
    if name not in OBJECTIVES:
        raise UsageError(f"unknown objective {name!r}; there are {', '.join(OBJECTIVES)}")
    try:
        return OBJECTIVES[name].model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        known = [field for field in OBJECTIVES[name].model_fields if field != "name"]
        if fault["type"] == "extra_forbidden":
            raise UsageError(
                f"objective {name}: unknown parameter {key!r}; there are {', '.join(known)}"
            ) from error
        raise UsageError(f"objective {name}: {key}: {fault['msg']}, not {fault['input']!r}") from error
