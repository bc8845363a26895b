"""What a claim needs to be run, tier by tier: sweeps for paired and variance claims, cost specs for the rest.

Tier `cpu` is minutes to hours on two cores (digits), `gpu` one GPU for a while (CIFAR-10); both are proxies.
A matched run is the user's own specification (`attnbench run`), judged by `attnbench claims verify NAME
--from-sweep SWEEP`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.claims.costs import cost_document
from attnbench.claims.hypothesis import (
    Arm,
    Attacked,
    Calibration,
    Corrupted,
    CostAtMost,
    CostBelowOne,
    CostInside,
    Difference,
    FreeAtEvaluation,
    Hypothesis,
    VarianceFall,
)
from attnbench.claims.statistics import smallest_effect
from attnbench.errors import UsageError

PAIRED = (Difference, Calibration, Attacked, Corrupted)
COST = (CostAtMost, CostInside, CostBelowOne, FreeAtEvaluation)

TIERS: dict[str, dict[str, Any]] = {
    "cpu": {
        "workload": "digits",
        "folds": 5,
        "host": {"kind": "encoder", "layers": 4, "width": 64, "heads": 4, "patch": 2},
        "epochs": 30,
        "batch": 64,
        "seeds": 12,
    },
    "gpu": {
        "workload": "cifar10",
        "folds": None,
        "host": {"kind": "encoder", "layers": 6, "width": 192, "heads": 3, "patch": 4},
        "epochs": 60,
        "batch": 256,
        "seeds": 5,
    },
}
DIGITS_SD = 0.016  # of a paired difference of test accuracy, measured with five seeds and one fold
SAMPLES = 6  # configurations tried per arm, the baselines included
VARIANCE_SEEDS = 5
AXES: dict[str, dict[str, list[Any]]] = {
    "dropout": {"p": [0.05, 0.1, 0.2, 0.3]},
    "dropconnect": {"p": [0.05, 0.1, 0.2, 0.3]},
    "attentiondrop_hard": {"p": [0.1, 0.2, 0.3, 0.5], "k": [0.1, 0.25]},
    "attentiondrop_blur": {"w": [3, 5, 9], "sigma_max": [0.5, 1.0, 2.0]},
    "lam": {"init": ["literal", "identity"], "combine": ["multiply", "add"]},
}
OBJECTIVE_AXES = {"consistency": {"weight": [0.5, 1.0, 2.0]}, "r_drop": {"alpha": [0.5, 1.0, 5.0]}}
LEARNING_RATES = {"loguniform": [3e-4, 5e-3]}


@dataclass(frozen=True)
class Step:
    """One thing to run: a sweep or a cost specification, the claims that it answers, and what it takes."""

    kind: str
    name: str
    document: dict[str, Any]
    claims: tuple[Hypothesis, ...]
    trials: int = 0
    hours: float = 0.0
    path: Path | None = None

    def line(self) -> str:
        """What runs, for how long, and what the seeds can see."""
        what = f"{self.trials} trials" if self.kind != "cost" else f"{self.trials} paired measurements"
        return f"{what}, about {self.hours:.1f} h{self._power()}"

    def _power(self) -> str:
        if self.kind != "sweep" or self.document["workload"] != "digits":
            return ""
        seeds = self.document["search"]["confirm_seeds"]
        visible = smallest_effect(DIGITS_SD, seeds) * 100
        claimed = sorted({value.value * 100 for claim in self.claims if isinstance(claim.rule, Difference)
                          for contrast in claim.contrasts for value in contrast.paper})  # fmt: skip
        said = f"; the paper's differences are {claimed[0]:.1f} to {claimed[-1]:.1f}" if claimed else ""
        return f"; {seeds} seeds see {visible:.1f} points of accuracy with 80 % power (one fold){said}"


def steps_for(
    name: str, claims: Sequence[Hypothesis], tier: str, results: Path, seeds: int | None = None,
    overrides: Sequence[str] = (),
) -> list[Step]:  # fmt: skip
    """Everything to run for `claims` on a tier, with trials and hours estimated; writes the sweeps' YAML."""
    if tier not in TIERS:
        raise UsageError(f"no tier '{tier}'; there are {', '.join(TIERS)} (a matched run is --from-sweep)")
    steps = []
    label = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
    paired = [claim for claim in claims if isinstance(claim.rule, PAIRED)]
    if paired:
        document = paired_document(f"claims-{label}-{tier}", paired, tier, seeds)
        steps.append(_sweep_step("sweep", document, paired, results, overrides))
    variance = [claim for claim in claims if isinstance(claim.rule, VarianceFall)]
    if variance:
        document = variance_document(f"claims-{label}-variance-{tier}", variance, tier, seeds)
        steps.append(_sweep_step("variance", document, variance, results, overrides))
    for claim in claims:
        if isinstance(claim.rule, COST):
            document = cost_document(claim, tier)
            pairs = 4 * len(document["attention"]) * len(document["shapes"][0]["length"])
            hours = pairs * document["limit_s"] / 3600
            steps.append(Step("cost", document["cost"], document, (claim,), pairs, hours))
    return steps


def paired_document(name: str, claims: Iterable[Hypothesis], tier: str, seeds: int | None) -> dict[str, Any]:
    """The sweep for differences over seeds: arms tuned over equally many configurations, then confirmed."""
    claims = list(claims)
    given = TIERS[tier]
    arms: dict[str, Arm] = {}
    for claim in claims:
        for contrast in claim.contrasts:
            for arm in (contrast.baseline, contrast.arm):
                arms.setdefault(str(arm), arm)
    asked: list[str] = []
    for claim in claims:
        if isinstance(claim.rule, Attacked):
            asked += ["clean", "fgsm", claim.rule.kind]
        elif isinstance(claim.rule, Calibration):
            asked.append("temperature")
        elif isinstance(claim.rule, Corrupted):
            asked += claim.rule.kinds
    document: dict[str, Any] = {
        "sweep": name,
        "workload": given["workload"],
        "host": given["host"],
        "attention": [_arm_entry(arm, given["epochs"]) for arm in arms.values()],
        "train": {"epochs": given["epochs"], "batch": given["batch"], "lr": LEARNING_RATES},
        "search": {"kind": "halving", "samples": SAMPLES, "confirm_seeds": seeds or given["seeds"]},
        "measure": {"robustness": list(dict.fromkeys(asked))},
    }
    if given["folds"]:
        document["folds"] = given["folds"]
    return document


def variance_document(
    name: str, claims: Iterable[Hypothesis], tier: str, seeds: int | None
) -> dict[str, Any]:
    """The sweep whose kept weights, one per epoch, gradient variance is measured at."""
    given = TIERS[tier]
    arms: dict[str, Arm] = {}
    for claim in claims:
        for contrast in claim.contrasts:
            for arm in (contrast.baseline, contrast.arm):
                arms.setdefault(str(arm), arm)
    epochs = given["epochs"]
    keep = {"at": list(range(1, epochs + 1))}
    return {
        "sweep": name,
        "workload": given["workload"],
        "host": given["host"],
        "attention": [{"label": label, "attention": list(arm.mechanisms)} for label, arm in arms.items()],
        "train": {"epochs": epochs, "batch": given["batch"], "lr": 1e-3, "keep": keep},
        "seeds": seeds or VARIANCE_SEEDS,
    }


def _arm_entry(arm: Arm, epochs: int) -> dict[str, Any]:
    members = [{"name": name, **AXES.get(name, {})} for name in arm.mechanisms]
    entry: dict[str, Any] = {"label": str(arm), "attention": members}
    if arm.objective:
        entry["objective"] = {"name": arm.objective, **OBJECTIVE_AXES.get(arm.objective, {})}
    if arm.budget != 1:
        entry["train"] = {"epochs": round(epochs * arm.budget)}
    return entry


def _sweep_step(
    kind: str, document: dict[str, Any], claims: Sequence[Hypothesis], results: Path, overrides: Sequence[str]
) -> Step:
    """Write the YAML beside the results, where it can be read, changed and run by itself; estimate it."""
    import json
    import os

    from ruamel.yaml import YAML

    from attnbench.results import Store
    from attnbench.sweep import read_specification
    from attnbench.sweep.estimate import estimate

    store = Store(results)
    store.ensure_writable()
    path = results / "claims" / f"{document['sweep']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        YAML().dump(json.loads(json.dumps(document)), stream)  # copied, or equal lists become aliases
    sweep = read_specification(path, overrides)
    guess = estimate(sweep, store, max(1, len(os.sched_getaffinity(0))))
    return Step(kind, sweep.name, document, tuple(claims), guess.trials, guess.hours, path)
