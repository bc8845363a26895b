"""The one list of workloads, and how a specification of one is checked, completed and loaded."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from attnbench.errors import UsageError
from attnbench.workloads.data import data_path
from attnbench.workloads.signature import Workload


class Parameters(BaseModel):
    """Base of every workload's parameters: nothing unknown, nothing converted in silence."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def folds_available(self) -> int:
        """How many folds the workload has with these parameters: 1 is one fixed split."""
        return 1


@dataclass(frozen=True)
class Entry:
    """A registered workload: `build(parameters, fold)` makes it without reading its data."""

    name: str
    parameters: type[Parameters]
    build: Callable[[Any, int], Workload]
    data: str | None
    """Name of the data set it needs (see `data_path`); None when every installation has it."""

    @property
    def summary(self) -> str:
        """First line of the documentation of its parameters."""
        return (self.parameters.__doc__ or "").strip().splitlines()[0]


WORKLOADS: dict[str, Entry] = {}


def register(name: str, *, data: str | None = None) -> Callable[[type[Parameters]], type[Parameters]]:
    """Class decorator: registers a `Parameters` subclass that has `build(self, fold) -> Workload`."""

    def add(parameters: type[Parameters]) -> type[Parameters]:
        WORKLOADS[name] = Entry(name, parameters, lambda given, fold: given.build(fold), data)
        return parameters

    return add


def workloads() -> dict[str, Entry]:
    """Every registered workload by name."""
    return dict(WORKLOADS)


def canonical(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """The whole specification of a workload, every default written out.

    spec: a name, or a mapping with "name" and parameters. The result is what a trial's hash is made of.
    UsageError: unknown name or parameter, wrong type or range.
    """
    name, parameters = _parsed(spec)
    return {"name": name, **parameters.model_dump(mode="json")}


def folds(spec: str | Mapping[str, Any]) -> int:
    """How many folds the specified workload has; 1 where its split is fixed."""
    return _parsed(spec)[1].folds_available()


def check(spec: str | Mapping[str, Any], *, fold: int = 0) -> None:
    """UsageError if the workload cannot be loaded: the specification is wrong or its data are not on this
    machine.
    """
    name, parameters = _parsed(spec)
    _check_fold(name, parameters, fold)
    entry = WORKLOADS[name]
    if entry.data is not None:
        data_path(entry.data)


def load(spec: str | Mapping[str, Any], *, seed: int = 0, fold: int = 0) -> Workload:
    """The workload of a specification; one object per specification and fold in a process.

    seed: accepted for symmetry with the rest of a trial and without effect: parts are fixed, `fold` selects
    them, and generated tasks draw from their own `data_seed`, so that seeds differ in weights and order
    only. UsageError: see `check`.
    """
    check(spec, fold=fold)
    return _load(json.dumps(canonical(spec)), fold)


@lru_cache(maxsize=8)
def _load(spec: str, fold: int) -> Workload:
    name, parameters = _parsed(json.loads(spec))
    return WORKLOADS[name].build(parameters, fold)


def _check_fold(name: str, parameters: Parameters, fold: int) -> None:
    available = parameters.folds_available()
    if not 0 <= fold < available:
        held = (
            "has one fixed split, so fold must be 0" if available == 1 else f"has folds 0 to {available - 1}"
        )
        raise UsageError(f"workload {name}: fold {fold} does not exist; it {held}")


def _parsed(spec: str | Mapping[str, Any]) -> tuple[str, Parameters]:
    given = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise UsageError(
            f"workload: {spec!r} is neither a name nor a mapping with a name, such as {{name: digits}}"
        )
    name = given["name"]
    if name not in WORKLOADS:
        close = difflib.get_close_matches(name, WORKLOADS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(WORKLOADS))};"
        raise UsageError(f"unknown workload {name!r}: {hint} 'attnbench list workloads' shows all")
    kind = WORKLOADS[name].parameters
    try:
        return name, kind(**{key: value for key, value in given.items() if key != "name"})
    except ValidationError as error:
        raise UsageError(f"workload {name}: {_first_fault(error, kind)}") from None


def _first_fault(error: ValidationError, kind: type[Parameters]) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, kind.model_fields, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(kind.model_fields)}"
        return f"unknown parameter {key!r}: {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, not {fault['input']!r}" if key else message
