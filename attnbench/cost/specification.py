"""What a cost specification may say, and the list of measurements that it asks for."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from attnbench.errors import UsageError

Mode = Literal["forward", "forward_backward", "step", "eval"]
Precision = Literal["fp32", "bf16", "fp64"]
Path = Literal["reference", "fused"]


class Shapes(BaseModel):
    """One entry of `shapes`, the input of a layer of width heads x head_dim; a list is an axis."""

    model_config = ConfigDict(extra="forbid")

    batch: int | list[int] = 8
    heads: int | list[int] = 4
    length: int | list[int] = 128
    head_dim: int | list[int] = 16
    causal: bool | list[bool] = False

    @field_validator("batch", "heads", "length", "head_dim")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if value == [] or min(_listed(value)) < 1:
            raise ValueError("must be at least 1")
        return value


class CostSpec(BaseModel):
    """A cost specification; lists are axes.

    attention: what is measured; as in a sweep, an entry is a name, {name, parameters}, a list of those, or
    {attention: ..., label, objective}. baseline: one entry. modes: forward (training mode, no graph),
    forward_backward, step (forward, backward and AdamW of a whole network: `host`, or one pre-norm
    block), eval (inference). paths, baseline_paths: which of the two paths of each side are timed;
    those that a mechanism has not are skipped. host: {layers, mlp_ratio, position, pool, patch}: a host
    for mode step; its width and heads come from the shape. target_half_width: of the ratio's 95 %
    interval, relative (0.02 is 2 %); limit_s: per mechanism, path pair, shape and mode; threads: CPU
    threads of torch; seed: of weights, inputs and the order of slots.
    """

    model_config = ConfigDict(extra="forbid")

    cost: str
    attention: list[Any] = Field(min_length=1)
    baseline: Any = "softmax"
    shapes: list[Shapes] = Field(min_length=1)
    modes: list[Mode] = Field(default=["forward", "forward_backward"], min_length=1)
    precision: Precision | list[Precision] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=1, ge=1)
    paths: list[Path] = Field(default=["reference", "fused"], min_length=1)
    baseline_paths: list[Path] = Field(default=["reference", "fused"], min_length=1)
    host: dict[str, Any] | None = None
    repeats: int = Field(default=1, ge=1)
    target_half_width: float = Field(default=0.02, gt=0, lt=1)
    limit_s: float = Field(default=30.0, gt=0)
    seed: int = 0

    @field_validator("cost")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value or not all(c.isalnum() or c in "_.+@-" for c in value) or not value[0].isalnum():
            raise ValueError("must name a folder: letters, digits, '_', '.', '+', '@' and '-'")
        return value

    @model_validator(mode="after")
    def _host_only_in_steps(self) -> CostSpec:
        if self.host is not None and "step" not in self.modes:
            raise ValueError("host is only used by mode step, which modes does not list")
        return self

    @property
    def identity(self) -> str:
        """cost_id: the name and eight digits of what is asked; asking again is a new attempt of it."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"{self.cost}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    def arms(self) -> list[Arm]:
        """Every arm that `attention` expands to; UsageError names the entry that is wrong."""
        found: list[Arm] = []
        for index, entry in enumerate(self.attention):
            for arm in expand(entry, f"attention[{index}]"):
                if arm in found:
                    raise UsageError(f"attention[{index}]: {arm.label} stands there twice")
                found.append(arm)
        for arm in found:
            if arm.objective is not None and "step" not in self.modes:
                raise UsageError(f"{arm.label}: an objective only changes a step; add step to modes")
        return found

    def baseline_arm(self) -> Arm:
        """The one arm that `baseline` names."""
        arms = list(expand(self.baseline, "baseline"))
        if len(arms) != 1:
            raise UsageError(f"baseline: a list of values is {len(arms)} baselines; write one value each")
        return arms[0]

    def cells(self) -> list[Cell]:
        """Every combination of shape, precision and mode, smallest inputs as listed."""
        found = []
        for entry in self.shapes:
            axes = (entry.batch, entry.heads, entry.length, entry.head_dim, entry.causal)
            for values in itertools.product(*(_listed(axis) for axis in axes)):
                for precision, mode in itertools.product(_listed(self.precision), self.modes):
                    found.append(Cell(*values, precision, mode))  # type: ignore[call-arg]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Arm:
    """One mechanism (composition) with all its parameters, and the objective that rides on it."""

    label: str
    attention: tuple[Any, ...]
    objective: Any = None

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Arm) and self.attention == other.attention
        return same and self.objective == other.objective  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Cell:
    """One shape, precision and mode."""

    batch: int
    heads: int
    length: int
    head_dim: int
    causal: bool
    precision: str
    mode: str

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def place(self) -> str:
        """The cell without its mode, for people: `B8 H4 N128 d16 causal fp32`."""
        shape = f"B{self.batch} H{self.heads} N{self.length} d{self.head_dim}"
        return f"{shape}{' causal' if self.causal else ''} {self.precision}"

    def __str__(self) -> str:
        return f"{self.place} {self.mode}"


def expand(entry: Any, place: str) -> Iterator[Arm]:
    """Every arm of one entry of `attention` (a name, a mapping, a composition, or the long form)."""
    label, objective = None, None
    if isinstance(entry, Mapping) and "attention" in entry:
        unknown = set(entry) - {"attention", "label", "objective"}
        if unknown:
            raise UsageError(f"{place}: unknown key {min(unknown)!r}; there are attention, label, objective")
        label, objective, entry = entry.get("label"), entry.get("objective"), entry["attention"]
    members = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else [entry]
    choices = []
    for member in members:
        if isinstance(member, str):
            member = {"name": member}
        if not isinstance(member, Mapping) or not isinstance(member.get("name"), str):
            raise UsageError(f"{place}: {member!r} is no mechanism; write a name or {{name: ...}}")
        if "objective" in member:
            if objective is not None:
                raise UsageError(f"{place}: two objectives in one arm")
            objective = member["objective"]
        choices.append(list(_axes({k: v for k, v in member.items() if k != "objective"}, place)))
    objectives: list[Any] = [None] if objective is None else list(_objectives(objective))
    for picked in itertools.product(*choices, objectives):
        attention, chosen = picked[:-1], picked[-1]
        yield Arm(_label(label, attention, chosen), attention, chosen)


def _axes(member: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    from attnbench.attention import sequence_parameters

    try:
        sequences = sequence_parameters(str(member["name"]))
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
    values = [_options(key, value, sequences, place) for key, value in member.items()]
    for picked in itertools.product(*values):
        yield dict(zip(member, picked, strict=True))


def _options(key: str, value: Any, sequences: set[str], place: str) -> list[Any]:
    if isinstance(value, Mapping) and set(value) == {"grid"}:
        value, sequences = value["grid"], set()
    if isinstance(value, list) and key not in sequences and key != "sites":
        if not value:
            raise UsageError(f"{place}.{key}: an empty list asks for nothing")
        return value
    return [value]


def _objectives(objective: Any) -> Iterator[Any]:
    if not isinstance(objective, Mapping):
        yield {"name": objective}
        return
    for picked in itertools.product(*(_listed(value) for value in objective.values())):
        yield dict(zip(objective, picked, strict=True))


def _label(given: str | None, attention: Sequence[Mapping[str, Any]], objective: Any) -> str:
    """`given` or the mechanisms' names, with the parameters that were written."""
    parts = []
    for member in attention:
        written = " ".join(f"{key}={value}" for key, value in member.items() if key != "name")
        parts.append(f"{member['name']} {written}".strip())
    if objective is not None:
        parts.append(str(objective["name"]))
    plain = " + ".join(parts)
    return plain if given is None else f"{given} ({plain})" if len(plain) < 40 else given


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]
