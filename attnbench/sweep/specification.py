"""A sweep as its YAML describes it: typed, checked in every configuration before anything starts, errors
with file and line.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from attnbench.errors import UsageError
from attnbench.sweep.arms import Arm, read_arms
from attnbench.sweep.document import Document, Place, did_you_mean
from attnbench.sweep.faults import first_fault
from attnbench.training import DeepSpeedConfig, MeasureConfig, ResourcesConfig, TrainConfig, TrialConfig

CONFIRM_SEEDS_START = 1000
SECTIONS = ("workload", "host", "attention", "objective", "train")
SHARE_OF_LIST = "a number n for 0 to n-1, or a list of different whole numbers"


class Strict(BaseModel):
    """Base of the parts of a specification that are not a trial's: unknown keys refused, nothing coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Search(Strict):
    """How configurations are found.

    kind          grid: all of them to the end; halving: synchronous successive halving per arm; asha:
                  Ray's ASHAScheduler per arm
    metric        validation metric of the final evaluation that ranks them; left out: the workload's own
    samples       configurations per arm, drawn from its axes; left out: the whole grid
    grace         first rung, in the unit of the budget; reduction: one in so many goes on at a rung
    confirm_seeds fresh seeds for each arm's winner: n for 1000 to 1000+n-1, or a list; default 5, with grid 0
    seed          of the draws
    """

    kind: Literal["grid", "halving", "asha"] = "grid"
    metric: str | None = None
    samples: int | None = Field(default=None, ge=1)
    grace: int | None = Field(default=None, ge=1)
    reduction: int = Field(default=3, ge=2)
    confirm_seeds: list[int] | None = None
    seed: int = 0

    @field_validator("confirm_seeds", mode="before")
    @classmethod
    def _fresh(cls, given: Any) -> list[int]:
        if given == 0 and not isinstance(given, bool):
            return []
        return whole_numbers(given, start=CONFIRM_SEEDS_START)

    @property
    def prunes(self) -> bool:
        return self.kind != "grid"


class Header(Strict):
    """The keys of a specification that are not an arm's."""

    sweep: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$",
        max_length=100,
        description="its name, under which results lie",
    )
    seeds: list[int] = Field(default=[0], description="n for 0 to n-1, or a list; tuning takes the first")
    folds: int | list[int] | None = Field(
        default=None, description="n runs n folds of the workload, a list those; left out: the first"
    )
    search: Search = Field(default=Search(), description="how configurations are found")
    measure: MeasureConfig = Field(default=MeasureConfig(), description="what is measured beside quality")
    deepspeed: DeepSpeedConfig = Field(default=DeepSpeedConfig(), description="settings of the engine")
    resources: ResourcesConfig = Field(default=ResourcesConfig(), description="what one trial may use")
    retries: int = Field(default=2, ge=0, description="how often a failed trial is tried again")
    hang_s: float = Field(
        default=1800.0, gt=0, description="a trial that reports nothing for so long ends as failed"
    )
    memory_gb: float | None = Field(
        default=None, gt=0, description="a worker above it ends as out_of_memory; left out: its share"
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, given: Any) -> list[int]:
        return whole_numbers(given)


class Sweep(BaseModel):
    """A checked sweep: header, arms, and the folds that run. `configurations` gives every point of every
    arm.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    path: str
    header: Header
    arms: list[Arm]
    folds: list[int]
    metric: str
    direction: Literal["max", "min"]

    @property
    def name(self) -> str:
        return self.header.sweep

    @property
    def search(self) -> Search:
        return self.header.search

    @property
    def confirm_seeds(self) -> list[int]:
        """Seeds of the confirming phase; none for a plain grid."""
        if self.search.confirm_seeds is not None:
            return self.search.confirm_seeds
        return whole_numbers(5, start=CONFIRM_SEEDS_START) if self.search.prunes else []

    @property
    def tunes(self) -> bool:
        """Whether a first phase on one seed chooses each arm's configuration."""
        return self.search.prunes or bool(self.confirm_seeds)

    @cached_property
    def configurations(self) -> list[tuple[Arm, str, TrialConfig]]:
        """(arm, group, configuration) for every point; group: arm and scope, within which one winner is
        chosen.

        The configuration has the first seed and fold; the plan puts in the others.
        """
        return [
            (arm, group, self.configuration(arm, sections))
            for arm in self.arms
            for scope, _, sections in arm.configurations(self.search.samples, self.search.seed)
            for group in [group_name(arm.label, scope)]
        ]

    def configuration(self, arm: Arm, sections: dict[str, Any]) -> TrialConfig:
        """One trial of `arm`; pydantic's ValidationError where it cannot be."""
        return TrialConfig.model_validate(
            {
                "sweep": self.name,
                "label": arm.label,
                "role": "tune" if self.tunes else "grid",
                "fold": self.folds[0],
                "seed": self.header.seeds[0],
                "measure": self.header.measure,
                "deepspeed": self.header.deepspeed,
                "resources": self.header.resources,
                **sections,
            }
        )

    def rungs(self, train: TrainConfig) -> list[int]:
        """Points of training at which configurations are compared; the last is the whole budget.

        Without `grace` the first is a ninth of the budget (for a reduction of 3), at the next evaluation.
        """
        every = train.eval_every or 1
        ninth = train.budget / self.search.reduction**2
        rung = self.search.grace or max(1, math.ceil(ninth / every)) * every
        rungs = []
        while rung < train.budget:
            rungs.append(rung)
            rung *= self.search.reduction
        return [*rungs, train.budget]


def group_name(label: str, scope: Mapping[Place, Any]) -> str:
    """`softmax [host.layers=2]`: an arm within one workload, host and budget."""
    parts = ", ".join(f"{'.'.join(str(step) for step in place)}={value}" for place, value in scope.items())
    return f"{label} [{parts}]" if parts else label


def whole_numbers(given: Any, start: int = 0) -> list[int]:
    """`n` as start to start+n-1, a list as it is; ValueError for anything else."""
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return list(range(start, start + given))
    if (
        isinstance(given, list)
        and given
        and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in given)
        and len(set(given)) == len(given)
    ):
        return given
    raise ValueError(f"must be {SHARE_OF_LIST}, not {given!r}")


def read_specification(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read and check a specification; `overrides` are `key.key=value` as after --set.

    Raises UsageError with file, line and place for anything that would not run.
    """
    from attnbench.sweep.checks import check_configurations, check_search

    document = Document(path, overrides)
    header = _header(document)
    workload = _workload(document)
    arms = read_arms(document, workload)
    folds = _folds(document, header, workload, arms)
    metric, direction = _metric(document, header, arms[0])
    sweep = Sweep(
        path=document.path, header=header, arms=arms, folds=folds, metric=metric, direction=direction
    )
    check_configurations(document, sweep)
    check_search(document, sweep)
    return sweep


def _header(document: Document) -> Header:
    known = [*Header.model_fields, *SECTIONS]
    for key in document.data:
        if key not in known:
            document.fail((key,), f"unknown key.{did_you_mean(key, known)} Known are {', '.join(known)}")
    given = {
        key: value for key, value in document.data.items() if key in Header.model_fields and value is not None
    }
    workload = document.data.get("workload")
    if "folds" not in given and isinstance(workload, Mapping) and isinstance(workload.get("folds"), int):
        given["folds"] = workload["folds"]
    try:
        # Sections of a trial are validated as a trial validates them: not strictly.
        return Header.model_validate(given)
    except ValidationError as error:
        place, reason = first_fault(error, Header)
        if place == ("sweep",) and "pattern" in reason:
            reason = f"must be a name of letters, digits, '_', '.', '+' and '-', not {given['sweep']!r}"
        document.fail(place, reason)


def _workload(document: Document) -> dict[str, Any]:
    from attnbench.workloads import workloads

    given = document.data.get("workload")
    if given is None:
        document.fail(
            ("workload",),
            "is missing: a workload's name, such as digits; 'attnbench list workloads' shows all",
        )
    workload = {"name": given} if isinstance(given, str) else given
    name = workload.get("name") if isinstance(workload, Mapping) else None
    if not isinstance(name, str):
        document.fail(("workload",), f"must be a workload's name or {{name: ..., parameters}}, not {given!r}")
    if name not in workloads():
        document.fail(
            ("workload",),
            f"unknown workload '{name}'.{did_you_mean(name, workloads())} There are {', '.join(workloads())}",
        )
    if isinstance(document.data.get("folds"), int) and "folds" in workloads()[name].parameters.model_fields:
        workload = {**workload, "folds": document.data["folds"]}
    return dict(workload)


def _folds(document: Document, header: Header, workload: dict[str, Any], arms: list[Arm]) -> list[int]:
    """The folds that run: all where the user wrote how many, those of a list, else the first."""
    from attnbench import workloads

    if header.folds is None:
        return [0]
    place = ("folds",) if "folds" in document.data else ("workload", "folds")
    try:
        folds = whole_numbers(header.folds)
        available = workloads.folds(next(arms[0].configurations(header.search.samples, 0))[2]["workload"])
    except UsageError as error:
        document.fail(("workload",), str(error))
    except ValueError as error:
        document.fail(place, str(error))
    if max(folds) >= available:
        held = "one fixed split" if available == 1 else f"folds 0 to {available - 1}"
        document.fail(place, f"{workload['name']} has {held}, so fold {max(folds)} does not exist")
    return folds


def _metric(document: Document, header: Header, arm: Arm) -> tuple[str, Literal["max", "min"]]:
    from attnbench import workloads

    try:
        sections = next(arm.configurations(header.search.samples, header.search.seed))[2]
    except ValueError as error:
        document.fail(arm.place, str(error))
    try:
        workload = workloads.load(sections["workload"])
    except UsageError as error:
        document.fail(("workload",), str(error))
    metric = header.search.metric or f"val_{workload.metric}"
    known = ["val_loss", "val_accuracy", "val_nll", "val_ece", "val_brier", "val_bits_per_byte"]
    if workload.metric != "bits_per_byte":
        known.remove("val_bits_per_byte")
    if metric not in known:
        document.fail(
            ("search", "metric"),
            f"unknown metric '{metric}'.{did_you_mean(metric, known)} There are {', '.join(known)}",
        )
    return metric, "max" if metric == "val_accuracy" else "min"
