"""What decides a trial: typed, checked, with every default written out, and hashed into `trial_id`.

The hash covers what changes the figures (workload, fold, host, attention, objective, train, seed,
deepspeed) and leaves out names, resources and measurements, so that the same trial asked for twice is the
same trial.
"""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from attnbench.hosts import HostConfig

HASHED = ("workload", "fold", "host", "attention", "objective", "train", "seed", "deepspeed")


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class KeepAt(Section):
    """Keep the weights as they are after these points of training (same unit as the budget: epochs or
    steps)."""

    at: list[int] = Field(min_length=1)

    @field_validator("at")
    @classmethod
    def _positive(cls, at: list[int]) -> list[int]:
        if min(at) < 1:
            raise ValueError(f"points to keep start at 1, not {min(at)}")
        return sorted(set(at))


class StopConfig(Section):
    """End training as soon as an evaluation reaches a value (time to accuracy); the trial still ends as
    ok."""

    metric: str = "val_accuracy"
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> "StopConfig":
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("stop takes exactly one of at_least and at_most")
        if not self.metric.startswith("val_"):
            raise ValueError(f"stop.metric is a validation metric such as val_accuracy, not '{self.metric}'")
        return self

    def reached(self, report: dict[str, Any]) -> bool:
        """Whether `report` holds the metric at or beyond the bound."""
        value = report.get(self.metric)
        if value is None:
            return False
        return value >= self.at_least if self.at_least is not None else value <= self.at_most


class TrainConfig(Section):
    """How a trial is trained: exactly one of `epochs` and `steps` (optimiser steps) is its budget.

    batch      examples per optimiser step over all workers and accumulated micro-batches
    lr         peak learning rate; schedule: "cosine" and "linear" fall to zero, "constant" stays, all
               after a linear warm-up
    warmup     share of all steps spent on the warm-up
    weight_decay  decoupled for adamw, L2 for sgd and adam; applied to tensors of two or more dimensions
                  (no biases, no norms)
    clip       bound on the global gradient norm; 0 switches clipping off
    eval_every evaluation cadence in the budget's unit; left out: every epoch, or a tenth of the steps
    keep       which weights stay on disk after the end; stop: an early end at a reached metric
    """

    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=64, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    clip: float = Field(default=1.0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    grad_accum: int = Field(default=1, ge=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    eval_every: int | None = Field(default=None, ge=1)
    keep: Literal["last", "best"] | KeepAt | None = None
    stop: StopConfig | None = None

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas lie in [0, 1), not {list(betas)}")
        return betas

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("eval_every") is None:
            if given.get("epochs") is not None:
                return {**given, "eval_every": 1}
            if isinstance(given.get("steps"), int):
                return {**given, "eval_every": max(1, given["steps"] // 10)}
        return given

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("train takes exactly one of epochs and steps")
        if isinstance(self.keep, KeepAt) and self.keep.at[-1] > self.budget:
            raise ValueError(
                f"keep.at {self.keep.at[-1]} lies beyond the budget of {self.budget} {self.unit}"
            )
        return self

    @property
    def unit(self) -> Literal["epochs", "steps"]:
        """Unit of the budget, of eval_every and of keep.at."""
        return "epochs" if self.epochs is not None else "steps"

    @property
    def budget(self) -> int:
        """Length of training in `unit`."""
        return self.epochs if self.epochs is not None else (self.steps or 0)


class GradientsConfig(Section):
    """Gradient statistics every `every` optimiser steps from `batches` batches with `draws` draws each."""

    every: int = Field(default=200, ge=1)
    batches: int = Field(default=8, ge=2)
    draws: int = Field(default=2, ge=2)


class MeasureConfig(Section):
    """What is measured beyond quality, throughput and memory; `robustness` lists kinds of corruption and
    attack."""

    gradients: GradientsConfig | None = None
    robustness: list[str] = Field(default_factory=list)


class DeepSpeedConfig(Section):
    """Settings of the DeepSpeed engine that change what is computed where."""

    zero_stage: Literal[0, 1, 2, 3] = 0


class ResourcesConfig(Section):
    """What a trial may use: worker processes, CPU threads per worker, GPUs per worker ("auto": one where
    there is one)."""

    workers: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    gpus: Literal["auto"] | float = "auto"


class TrialConfig(Section):
    """One trial. Short forms (`workload: digits`, `attention: softmax`) are expanded when read."""

    sweep: str = Field(default="trial", min_length=1)
    label: str | None = None
    role: Literal["grid", "tune", "confirm"] = "grid"
    workload: dict[str, Any]
    fold: int = Field(default=0, ge=0)
    host: HostConfig
    attention: list[dict[str, Any]]
    objective: dict[str, Any] | None = None
    train: TrainConfig
    seed: int = Field(default=0, ge=0)
    measure: MeasureConfig = Field(default_factory=MeasureConfig)
    deepspeed: DeepSpeedConfig = Field(default_factory=DeepSpeedConfig)
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)

    @field_validator("workload", mode="before")
    @classmethod
    def _canonical_workload(cls, spec: Any) -> dict[str, Any]:
        from attnbench import workloads

        return workloads.canonical(spec)

    @field_validator("attention", mode="before")
    @classmethod
    def _canonical_attention(cls, spec: Any, info: Any) -> list[dict[str, Any]]:
        from attnbench import attention

        host = info.data.get("host")
        if host is not None:
            site = "decoder_self" if host.kind == "decoder" else "encoder_self"
            attention.refuse_idle(spec, layers=host.layers, sites=[site])
        return attention.canonical(spec, causal=host is not None and host.kind == "decoder")

    @field_validator("objective", mode="before")
    @classmethod
    def _canonical_objective(cls, spec: Any, info: Any) -> dict[str, Any] | None:
        from attnbench.training.objectives import canonical_objective, settle_passes

        return (
            None if spec is None else settle_passes(canonical_objective(spec), info.data.get("attention", []))
        )

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrialConfig":
        parts = self.resources.workers * self.train.grad_accum
        if self.train.batch % parts:
            raise ValueError(
                f"train.batch {self.train.batch} does not divide into {self.resources.workers} workers x "
                f"{self.train.grad_accum} accumulated micro-batches; a multiple of {parts} would"
            )
        return self

    @property
    def micro_batch(self) -> int:
        """Examples that one worker puts through the model at once."""
        return self.train.batch // (self.resources.workers * self.train.grad_accum)

    @property
    def trial_id(self) -> str:
        """16 hex digits: blake2b over the canonical JSON of what decides the figures."""
        return hashlib.blake2b(canonical_json(self.hashed()).encode(), digest_size=8).hexdigest()

    def hashed(self) -> dict[str, Any]:
        """The part of the configuration that `trial_id` covers."""
        everything = self.model_dump(mode="json")
        return {key: everything[key] for key in HASHED}

    def canonical(self) -> str:
        """The whole configuration as canonical JSON, as it stands in the trial's row."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, given: Any, *, where: str = "trial") -> "TrialConfig":
        """Read a configuration from plain data.

        Raises UsageError with one line that names `where`, the key, and what is wrong.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            from attnbench.training.reading import usage_error

            raise usage_error(error, where=where) from error


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and no spaces: equal data gives equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
