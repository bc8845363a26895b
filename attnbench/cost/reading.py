"""From a YAML file to a CostSpec; whatever is wrong is one line: file, place, what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from attnbench.cost.specification import CostSpec, Shapes
from attnbench.errors import UsageError


def read_cost_specification(path: str | Path, overrides: Mapping[str, Any] | None = None) -> CostSpec:
    """The checked specification in the file at `path`, with top-level keys replaced by `overrides`.

    Its attention entries are expanded once, so that an unknown mechanism is refused here. UsageError for
    anything that is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise UsageError(f"{path}: cannot be read: {reason}") from error
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: no valid YAML: {error.problem}") from error
    except YAMLError as error:
        raise UsageError(f"{path}: no valid YAML: {error}") from error
    if not isinstance(tree, Mapping):
        raise UsageError(f"{path}: a cost specification is a mapping that starts with 'cost: NAME'")
    plain = {**_plain(tree), **(overrides or {})}
    try:
        spec = CostSpec.model_validate(plain)
        for index, entry in enumerate(spec.attention):
            check_entry(spec, entry, index)
        check_baseline(spec)
    except ValidationError as error:
        raise UsageError(_first_fault(error, tree, str(path))) from error
    except UsageError as error:
        place = str(error).split(":")[0].split(".")[0]
        raise UsageError(f"{path}{_line(tree, _location(place))}: {error}") from error
    return spec


def check_entry(spec: CostSpec, entry: Any, index: int) -> None:
    """Expand and check one entry of `attention` by itself; UsageError begins with its place."""
    from attnbench.attention import canonical

    causal = any(cell.causal for cell in spec.cells())
    try:
        for arm in spec.model_copy(update={"attention": [entry]}).arms():
            canonical(list(arm.attention), causal=causal)
    except UsageError as error:
        raise UsageError(f"attention[{index}]: {str(error).removeprefix('attention[0]: ')}") from error


def check_baseline(spec: CostSpec) -> None:
    """The same of `baseline`."""
    from attnbench.attention import canonical

    arm = spec.baseline_arm()
    try:
        canonical(list(arm.attention), causal=any(cell.causal for cell in spec.cells()))
    except UsageError as error:
        raise UsageError(f"baseline: {error}") from error


def _first_fault(error: ValidationError, tree: Any, path: str) -> str:
    """The most telling fault of a validation error: an unknown key before what follows from it."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    # pydantic puts the branch of a union that it tried ("int", "list[int]") into the location; the file
    # has none
    keys = [
        part
        for part in fault["loc"]
        if isinstance(part, int) or part in CostSpec.model_fields or part in Shapes.model_fields
    ]
    if fault["type"] == "extra_forbidden":
        keys = list(fault["loc"])
        known = list((Shapes if keys[0] == "shapes" else CostSpec).model_fields)
        close = difflib.get_close_matches(str(keys[-1]), known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        return f"{path}{_line(tree, keys)}: unknown key {str(keys[-1])!r}; {hint}"
    name = ".".join(str(key) for key in keys) or "the specification"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{path}: {name} is missing"
    given = "" if isinstance(fault["input"], (Mapping, CostSpec)) else f", not {fault['input']!r}"
    return f"{path}{_line(tree, keys)}: {name}: {message}{given}"


def _location(place: str) -> list[str | int]:
    """`attention[2]` -> ["attention", 2]."""
    name, _, index = place.partition("[")
    return [name, int(index.rstrip("]"))] if index.rstrip("]").isdigit() else [name]


def _line(tree: Any, keys: Sequence[str | int]) -> str:
    """`:7` for the line where `keys` leads, as far as it can be followed; nothing if it leads nowhere."""
    line = None
    for key in keys:
        try:
            place = tree.lc
            line = (place.key(key) if isinstance(tree, dict) else place.item(key))[0] + 1
            tree = tree[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return "" if line is None else f":{line}"


def _plain(tree: Any) -> Any:
    """ruamel's containers and scalars as Python's own, which the checks expect."""
    if isinstance(tree, Mapping):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    for kind in (bool, int, float, str):
        if isinstance(tree, kind):
            return kind(tree)
    return tree
