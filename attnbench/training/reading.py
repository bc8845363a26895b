"""Reading a trial's configuration from a file, and saying in one line what is wrong with it and where."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from attnbench.errors import UsageError
from attnbench.training.config import TrialConfig


def read_config(path: str | Path) -> TrialConfig:
    """Read a trial's configuration from a YAML file with the keys of TrialConfig.

    Raises UsageError (file, line where known, what is wrong) for anything but a valid configuration.
    """
    from ruamel.yaml import YAML, YAMLError

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    try:
        given = YAML(typ="rt").load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(given, dict):
        raise UsageError(f"{path}: a trial is a mapping with the keys workload, host, attention, train, ...")
    try:
        return TrialConfig.model_validate(_plain(given))
    except ValidationError as error:
        at = _line_of(given, first_fault(error)[0]["loc"])
        raise usage_error(error, where=f"{path}:{at}" if at else str(path)) from error


def usage_error(error: ValidationError, *, where: str) -> UsageError:
    """Turn pydantic's report into one line: place, key and reason of the first fault, and how many more
    there are."""
    first, count = first_fault(error)
    # Branches of a union appear in the location as type names; the user only typed the keys.
    key = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and part[:1].isupper()))
    reason = str(first.get("ctx", {}).get("error", "")) or first["msg"]
    if first["type"] == "extra_forbidden":
        reason = "unknown key"
        fields = _fields_at(TrialConfig, first["loc"][:-1])
        if fields:
            close = get_close_matches(str(first["loc"][-1]), fields, n=1)
            reason += f". Did you mean {close[0]}?" if close else f"; known are {', '.join(fields)}"
    elif (
        first["type"] != "missing"
        and not isinstance(first["input"], dict | BaseModel)
        and first["type"] != "value_error"
    ):
        reason = f"{reason[:1].lower()}{reason[1:]}, not {first['input']!r}"
    more = f" (and {count - 1} more)" if count > 1 else ""
    return UsageError(f"{where}: {key + ': ' if key else ''}{reason}{more}")


def first_fault(error: ValidationError) -> tuple[Any, int]:
    """The fault to tell of, and how many there are: an unknown key before the missing one that it was
    meant to be."""
    faults = error.errors()
    return min(faults, key=lambda fault: fault["type"] != "extra_forbidden"), len(faults)


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the section at `location`, or nothing where it is no section."""
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _plain(node: Any) -> Any:
    """ruamel's nodes as plain Python values, so that nothing of the file's form reaches the hash."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _line_of(node: Any, location: tuple[Any, ...]) -> int | None:
    """1-based line of the deepest key of `location` that the file holds."""
    line = None
    for part in location:
        if isinstance(node, dict) and part in node:
            line = node.lc.key(part)[0] + 1  # type: ignore[attr-defined]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1  # type: ignore[attr-defined]
        else:
            break
        node = node[part]
    return line
