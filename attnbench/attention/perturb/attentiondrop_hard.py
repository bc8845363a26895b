"""AttentionDrop V1, hard attention masking (arXiv 2504.12088)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from attnbench.attention.context import Context, Valid
from attnbench.attention.kernels.hard_mask import drop_table, fill_dropped, stable_topk, tiled
from attnbench.attention.layer import renormalised
from attnbench.attention.mechanism import Mechanism, Parameters, Site
from attnbench.attention.plan import Plan
from attnbench.attention.registry import register

WORTH_FROM = 128  # keys: measured forward and backward on CPU; below, the tiles cost 1.4 times the reference


class HardParameters(Parameters):
    p: float = Field(0.2, ge=0, le=1, description="probability that one of the top logits is dropped")
    k: int | float = Field(
        0.1,
        gt=0,
        description="how many top logits may drop: a whole number, or a share (float) of the valid keys",
    )
    mask_value: Literal["zero", "neginf", "rowmin"] = Field(
        "zero", description="what a dropped logit becomes"
    )
    center_rows: bool = Field(False, description="subtract each row's mean over valid keys first")
    rescale: bool = Field(False, description="divide the kept ones of the top logits by 1 - p")
    space: Literal["logit", "prob"] = Field(
        "logit", description="prob: drop weights after the softmax and renormalise the row"
    )
    granularity: Literal["entry", "head", "key"] = Field(
        "entry", description="coins per entry, shared by heads, or per key"
    )
    select: Literal["top", "random"] = Field(
        "top", description="random: as many keys at random, the control arm"
    )
    sites: list[Site] = Field(["encoder_self"], description="the paper's scope")

    @field_validator("k")
    @classmethod
    def _share(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value > 1:
            raise ValueError("a share is at most 1; a number of keys is a whole number without a point")
        return value


@register
class AttentionDropHard(Mechanism):
    """Training only: some of each row's k largest logits become 0 before the softmax.

        S_i     = indices of the k largest valid logits of row i         (B,H,N,k)
        m_ij    ~ Bernoulli(1 - p), j in S_i, independent
        logits' = m * logits on S_i, logits elsewhere                    (B,H,N,M)

    As in the paper a dropped logit becomes 0, not -inf, and nothing is rescaled. Decided: k is 10 % of the
    valid keys of the row, at least 1; ties go to the lower index; indices are constants, so no gradient
    passes a dropped logit; top-k looks at valid keys only; neginf keeps at least one key. Trap:
    multiplication does not commute with a row's offset as softmax does: on rows of negative mean a "dropped"
    key GAINS weight (`mass_rises` in the stats of a probing call); center_rows and neginf are the arms that
    mend it. `space: prob` is the account of another source: mask weights, divide by the row's sum. Fused:
    exact row tiles, whose backward pass recomputes. Cost: top-k over H N M entries; no parameter, nothing in
    evaluation.
    """

    name = "attentiondrop_hard"
    arxiv = "2504.12088"
    summary = "drops some of each row's largest logits in training"
    schema = HardParameters
    precise = True

    @classmethod
    def stages_of(cls, settings: Any) -> tuple[str, ...]:
        return ("perturb",) if settings.space == "logit" else ("reweight",)

    @classmethod
    def breaks_of(cls, settings: Any) -> frozenset[str]:
        return frozenset(
            {"logits_finite"} if settings.space == "logit" and settings.mask_value == "neginf" else ()
        )

    def active(self, training: bool) -> tuple[str, ...]:
        return self.stages_of(self.settings) if training and self.settings.p > 0 else ()

    def perturb(self, c: Context, logits: Tensor) -> Tensor:
        s = self.settings
        if s.center_rows:
            mean = (logits * c.valid).sum(-1, keepdim=True) / c.visible.counts.clamp(min=1)
            logits = logits - mean
        chosen, drop = self._choose(c, logits.detach())
        perturbed = fill_dropped(logits, c.visible, chosen, drop, s.mask_value)
        if s.rescale and s.p < 1:
            kept = torch.full_like(drop, 1 / (1 - s.p), dtype=logits.dtype).masked_fill(
                drop | ~self._droppable(c, drop), 1.0
            )
            perturbed = perturbed * torch.ones_like(logits).scatter(-1, chosen, kept)
        if c.probing:
            self._report(c, logits.detach(), perturbed.detach(), chosen, drop)
        return perturbed

    def reweight(self, c: Context, weights: Tensor) -> Tensor:
        chosen, drop = self._choose(c, weights.detach(), keep_one=True)
        kept = fill_dropped(weights, c.visible, chosen, drop, "zero")
        return renormalised(kept)

    def fuse_perturb(self, c: Context, plan: Plan) -> Plan | None:
        s = self.settings
        plain = not (s.center_rows or s.rescale) and s.granularity == "entry" and s.select == "top"
        if not plain or plan.kernel is not None or (plan.bias is not None and plan.bias.requires_grad):
            return None
        b, h, n, _ = plan.q.shape
        coins = self._coins(c, b, h, n, self._most(plan.k.shape[2]))
        return plan.with_(
            kernel=tiled(coins, self._rows(plan.visible), s.mask_value),
            kernel_name="tiled",
            worth_from=WORTH_FROM,
        )

    def _most(self, keys: int) -> int:
        """k of a row that may attend all keys."""
        k = self.settings.k
        return min(k, keys) if isinstance(k, int) else max(1, min(round(k * keys), keys))

    def _rows(self, visible: Valid) -> Tensor | None:
        """k of each row, broadcastable to (B,H,N,1), or None where it is the same for all."""
        if visible.everything:
            return None
        k, counts = self.settings.k, visible.counts
        wanted = (
            torch.full_like(counts, k)
            if isinstance(k, int)
            else (k * counts.double()).round().long().clamp(min=1)
        )
        return torch.minimum(wanted, counts)

    def _coins(self, c: Context, b: int, h: int, n: int, k: int) -> Tensor:
        """(B,H,N,k) bool by rank in the row, True = drop. Every path draws these alike."""
        c.stats[f"{self.name}.k"] = k
        return c.drawn(self.name, lambda: c.rand(b, h, n, k) < self.settings.p)

    def _choose(self, c: Context, scores: Tensor, keep_one: bool = False) -> tuple[Tensor, Tensor]:
        """Indices of the keys that may drop, (B,H,N,k), best first, and which of them do."""
        s = self.settings
        b, h, n, m = scores.shape
        k = self._most(m)
        if s.select == "random":
            scores = c.drawn(f"{self.name}.order", lambda: c.rand(b, h, n, m))
        if not c.visible.everything:
            scores = scores.masked_fill(~c.valid, float("-inf"))
        chosen = stable_topk(scores, k)
        if s.granularity == "entry":
            coins = self._coins(c, b, h, n, k)
        else:
            shape = (b, 1, n, m) if s.granularity == "head" else (b, 1, 1, m)
            coins = c.drawn(self.name, lambda: c.rand(*shape) < s.p).expand(b, h, n, m).gather(-1, chosen)
        return chosen, drop_table(
            coins, self._rows(c.visible), c.visible, m, keep_one or s.mask_value == "neginf"
        )

    def _droppable(self, c: Context, drop: Tensor) -> Tensor:
        rows = self._rows(c.visible)
        ranks = torch.arange(drop.shape[-1], device=drop.device)
        return torch.ones_like(drop) if rows is None else (ranks < rows).expand_as(drop)

    def _report(self, c: Context, logits: Tensor, perturbed: Tensor, chosen: Tensor, drop: Tensor) -> None:
        """The share of rows with a dropped key in which the dropped keys together gain weight."""
        hidden = ~c.valid
        before, after = (
            t.masked_fill(hidden, float("-inf")).softmax(-1).gather(-1, chosen) for t in (logits, perturbed)
        )
        rises = ((after - before) * drop).sum(-1) > 0
        c.stats[f"{self.name}.mass_rises"] = (rises.sum() / drop.any(-1).sum().clamp(min=1)).item()

    def flops(self, n: int, m: int, training: bool = False) -> float:
        return 2.0 * self.shape.heads * n * m if self.active(training) else 0.0
