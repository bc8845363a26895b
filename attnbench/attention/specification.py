"""From what a user writes (`alibi`, {name: relaxed, gamma: 0.1}, a list) to validated entries with every
default written out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import ValidationError

from attnbench.attention.composition import refuse_conflicts
from attnbench.attention.mechanism import Mechanism, Parameters
from attnbench.attention.registry import find
from attnbench.errors import UsageError

Spec = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One mechanism of a composition: the name as written, its class and its validated settings."""

    written: str
    mechanism: type[Mechanism]
    settings: Parameters


def canonical(spec: Spec, causal: bool = False) -> list[dict[str, Any]]:
    """The specification with every default written out, JSON-able, keys in a fixed order; what a trial's hash
    is made of.

    UsageError for an unknown mechanism or parameter (with the closest), a wrong type or range, two mechanisms
    that can not stand together, and, with `causal`, one that can not be causal.
    """
    entries = read(spec)
    refuse_conflicts(entries)
    if causal:
        refuse_causal(entries)
    return [_written_out(entry) for entry in entries]


def describe(spec: Spec) -> str:
    """The composition's name: its mechanisms joined by +, such as `alibi+relaxed`."""
    return "+".join(entry.mechanism.name for entry in read(spec))


def sequence_parameters(name: str) -> set[str]:
    """The parameters of a mechanism whose value is itself a list, so that a list there is a value and no grid
    axis.
    """
    fields = find(name).schema.model_fields
    return {
        key
        for key, info in fields.items()
        if key == "layers" or "list[" in str(info.annotation) or get_origin(info.annotation) is list
    }


def read(spec: Spec) -> list[Entry]:
    """Validate each entry by itself; an empty specification is plain softmax."""
    if isinstance(spec, str | Mapping):
        spec = [spec]
    if not isinstance(spec, Sequence):
        raise UsageError(f"attention is {spec!r}; write a name, {{name: ..., parameters}} or a list of those")
    return [_entry(item) for item in spec] or [_entry("softmax")]


def refuse_causal(entries: Sequence[Entry]) -> None:
    """UsageError for the first entry that can not be causal."""
    for entry in entries:
        reason = entry.mechanism.refuses_causal(entry.settings)
        if reason is not None:
            raise UsageError(
                f"{entry.mechanism.name} can not be causal: {reason}; use a bidirectional host or leave "
                "it out"
            )


def _entry(item: str | Mapping[str, Any]) -> Entry:
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping):
        raise UsageError(f"attention entry {item!r}: write a name or {{name: ..., parameters}}")
    if "name" not in item:
        raise UsageError(f"attention entry {dict(item)!r} has no 'name'")
    values = {str(key): value for key, value in item.items() if key != "name"}
    mechanism = find(item["name"])
    known = list(mechanism.schema.model_fields)
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise UsageError(
                f"{mechanism.name}: unknown parameter '{key}'; {hint}it takes {', '.join(known)}"
            )
    try:
        return Entry(item["name"], mechanism, mechanism.schema.model_validate(values))
    except ValidationError as error:
        raise UsageError(f"{mechanism.name}: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    """pydantic's findings on the first wrong field in one line: the field, the value, and all that it may
    be.
    """
    findings = error.errors()
    field = findings[0]["loc"][0] if findings[0]["loc"] else None
    same = [f for f in findings if (f["loc"][0] if f["loc"] else None) == field]
    wanted = " or ".join(
        dict.fromkeys(f["msg"].removeprefix("Value error, ").removeprefix("Input ") for f in same)
    )
    return wanted if field is None else f"parameter '{field}' is {same[0]['input']!r}, but {wanted}"


def _written_out(entry: Entry) -> dict[str, Any]:
    values = entry.settings.model_dump(mode="json")
    placement = {key: values.pop(key) for key in ("layers", "sites")}
    return {"name": entry.written, **values, **placement}
