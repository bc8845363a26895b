"""AD-GV: gradient variance with and without a perturbation, at the same weights and on the same batches.

Whose weights and at which training loss decides the answer, so there is one effect per (weights_of, loss
level), never pooled. The loss level is the plain (unperturbed) training loss at those weights; the checkpoint
nearest to it is taken, and none where the nearest is more than a factor 1.5 away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.claims.evidence import SweepRows
from attnbench.claims.hypothesis import Contrast, Hypothesis, decoded
from attnbench.claims.statistics import Interval, paired_interval

LEVELS = (1.0, 0.3, 0.1)
NEAR = 1.5
BATCHES, DRAWS = 32, 2
LEAST_BATCHES = 16


@dataclass
class VarianceEffect:
    """Ratio minus 1 over seeds (interval on the log scale, turned back) for one (weights_of, loss level)."""

    hypothesis: Hypothesis
    contrast: Contrast
    change: Interval
    weights_of: str
    level: float
    trials: list[str]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """Of one arm at one set of weights, summed over layer groups but for what the mechanism owns."""

    total: float
    data: float
    mechanism: float
    mean_sq_norm: float
    batches: int


def variance_effects(
    rows: SweepRows, hypothesis: Hypothesis, scaled: bool, progress: Callable[[str], None] | None = None
) -> list[VarianceEffect]:
    """Effects from a sweep's kept checkpoints; measures what `gradients` lacks. Empty without any."""
    effects = []
    for contrast in hypothesis.contrasts:
        arms, baselines = rows.arms(contrast.arm), rows.arms(contrast.baseline)
        if not arms or not baselines:
            continue
        for weights_of, owner in (("own", arms[0]), ("baseline", baselines[0])):
            for level in LEVELS:
                effect = _effect(rows, hypothesis, contrast, weights_of, owner, level, scaled, progress)
                if effect is not None:
                    effects.append(effect)
    return effects


def _effect(
    rows: SweepRows,
    hypothesis: Hypothesis,
    contrast: Contrast,
    weights_of: str,
    owner: str,
    level: float,
    scaled: bool,
    progress: Callable[[str], None] | None,
) -> VarianceEffect | None:
    own = rows.trials[(rows.trials["arm"] == owner) & (rows.trials["status"] == "ok")]
    own = own.drop_duplicates("seed")
    logs, used, missed, parts = [], [], [], []
    for row in own.to_dict("records"):
        if not checkpoints(rows, row["trial_id"]):
            continue
        if progress is not None:
            progress(
                f"{hypothesis.id}: {contrast.arm}, {weights_of} weights, loss {level:g}, seed {row['seed']}"
            )
        found = figures_at(rows, row, contrast, weights_of, level)
        if found is None:
            missed.append(int(row["seed"]))
            continue
        perturbed, plain = found
        ratio = ratio_of(perturbed, plain, scaled)
        if ratio is None:
            missed.append(int(row["seed"]))
            continue
        logs.append(math.log(ratio))
        parts.append((perturbed.data / plain.total, perturbed.mechanism / plain.total))
        used.append(row["trial_id"])
    if not used and not missed:
        return None
    effect = VarianceEffect(hypothesis, contrast, from_logs(logs), weights_of, level, used)
    if missed:
        effect.notes.append(f"seeds without a figure at this loss: {', '.join(map(str, missed))}")
    if parts:
        data, mask = (sum(part[i] for part in parts) / len(parts) for i in (0, 1))
        effect.notes.append(
            f"of the plain total: {data:.2f} from data, {mask:.2f} from the mechanism's own draws"
        )
    return effect


def from_logs(logs: Iterable[float]) -> Interval:
    """The interval of exp(mean log) - 1; n, sd and p are those of the logs."""
    found = paired_interval(list(logs))

    def back(value: float) -> float:
        return math.expm1(value) if value < 700 else math.inf

    return Interval(back(found.estimate), back(found.low), back(found.high), found.n, found.sd, found.p)


def ratio_of(perturbed: Figures, plain: Figures, scaled: bool) -> float | None:
    """Perturbed over plain, of tr Cov(g) or tr Cov(g) / |E g|^2; None where an estimate is not positive."""
    values = [figures.total / (figures.mean_sq_norm if scaled else 1.0) for figures in (perturbed, plain)
              if figures.total > 0 and (not scaled or figures.mean_sq_norm > 0)]  # fmt: skip
    return values[0] / values[1] if len(values) == 2 else None


def figures_at(
    rows: SweepRows, row: Mapping[str, Any], contrast: Contrast, weights_of: str, level: float
) -> tuple[Figures, Figures] | None:
    """Figures of the perturbed arm and the plain baseline at the checkpoint of `row` nearest to `level`."""
    losses = plain_losses(rows, row, contrast)
    if not losses:
        return None
    path = min(losses, key=lambda at: abs(math.log(losses[at] / level)))
    if abs(math.log(losses[path] / level)) > math.log(NEAR):
        return None
    found = {}
    for side, arm in (("perturbed", contrast.arm), ("plain", contrast.baseline)):
        key = f"{row['trial_id']}.{'.'.join(arm.mechanisms)}.{path.stem}"
        found[side] = _stored(rows, key) or _measure(rows, row, contrast, path, weights_of, key, side)
    return found["perturbed"], found["plain"]


def checkpoints(rows: SweepRows, trial_id: str) -> list[Path]:
    """The weights of a trial that were kept with `train: {keep: {at: [...]}}`."""
    folder = rows.results / "checkpoints" / rows.sweep / trial_id
    return sorted(folder.glob("at-*.pt"), key=lambda path: int(path.stem.split("-")[1]))


def plain_losses(rows: SweepRows, row: Mapping[str, Any], contrast: Contrast) -> dict[Path, float]:
    """Checkpoint -> mean training loss of the unperturbed network at its weights; remembered beside them."""
    paths = checkpoints(rows, row["trial_id"])
    if not paths:
        return {}
    memory = paths[0].parent / "plain-losses.json"
    known: dict[str, float] = json.loads(memory.read_text()) if memory.exists() else {}
    if set(known) != {path.stem for path in paths}:
        known = {path.stem: _plain_loss(path) for path in paths}
        memory.write_text(json.dumps(known))
    return {path: known[path.stem] for path in paths if known[path.stem] > 0}


def _plain_loss(path: Path) -> float:
    from attnbench import workloads
    from attnbench.evaluation import evaluate
    from attnbench.training import load_model

    model, config = load_model(path)  # in evaluation mode perturbations are off
    split = workloads.load(config.workload, fold=config.fold).split("train")
    return float(evaluate(model, split, batch=256)["loss"])


def _stored(rows: SweepRows, key: str) -> Figures | None:
    from attnbench.results import Store

    found = Store(rows.results).rows("gradients", rows.sweep, key)
    return summed(found) if found else None


def _measure(
    rows: SweepRows,
    row: Mapping[str, Any],
    contrast: Contrast,
    path: Path,
    weights_of: str,
    key: str,
    side: str,
) -> Figures:
    import torch

    from attnbench import workloads
    from attnbench.results import Store
    from attnbench.training import TrialConfig, paired_gradient_statistics

    config = TrialConfig.model_validate(decoded(row["config"]))
    held = torch.load(path, map_location="cpu", weights_only=True)
    arm = contrast.arm if side == "perturbed" else contrast.baseline
    own = Store(rows.results).finals(rows.sweep)
    like = next(r for r in own.values() if arm.matches(r))
    statistics = paired_gradient_statistics(
        {side: decoded(like["attention"])},
        host=config.host,
        workload=workloads.load(config.workload, fold=config.fold),
        weights=held["weights"],
        batches=BATCHES,
        draws=DRAWS,
        batch=config.train.batch,
        seed=config.seed,
        step=int(held["step"]),
    )[side]
    measured = [
        {**figures, "step": int(held["step"]), "weights_of": weights_of, "gram": None}
        for figures in statistics.rows()
    ]
    sink = Store(rows.results).sink(rows.sweep, key, 1)
    sink.gradients(measured)
    sink.flush()
    return summed(measured)


def summed(measured: Iterable[Mapping[str, Any]]) -> Figures:
    """Traces and squared norms add up over layer groups; "total" and what the mechanism owns stay out."""
    parts = [
        row for row in measured
        if row["layer_group"] != "total" and not str(row["layer_group"]).endswith(".mechanism")
    ]  # fmt: skip
    total, data, mechanism, square = (
        sum(float(row[name]) for row in parts)
        for name in ("trace_total", "trace_data", "trace_mechanism", "mean_sq_norm")
    )
    return Figures(total, data, mechanism, square, int(parts[0]["batches"]))
