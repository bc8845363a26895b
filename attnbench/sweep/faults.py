"""pydantic's findings in the words of a person who wrote the YAML."""

from typing import Any

from pydantic import BaseModel, ValidationError

from attnbench.sweep.document import did_you_mean

AXES_STAND = "a list is an axis only in attention parameters, host, workload and train"

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "none_required": "left out",
}


def first_fault(error: ValidationError, model: type[BaseModel]) -> tuple[tuple[str | int, ...], str]:
    """The keys (as the user typed them) and the reason of the first finding; findings on one key are
    joined by 'or'.
    """
    faults = error.errors()
    place = _typed(faults[0]["loc"], model)
    same = [fault for fault in faults if _typed(fault["loc"], model) == place]
    if len(same) == 1 or same[0]["type"] in ("value_error", "extra_forbidden", "missing"):
        return place, _reason(same[0], place, model)
    wanted = list(dict.fromkeys(_wanted(fault) for fault in same))
    return (
        place,
        f"must be {' or '.join(wanted)}, not {same[0]['input']!r}{_list_hint(same[0]['input'], same)}",
    )


def _reason(fault: Any, place: tuple[str | int, ...], model: type[BaseModel]) -> str:
    kind, given = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        fields = _fields(model, place[:-1])
        return f"unknown key.{did_you_mean(str(place[-1]), fields)} Known are {', '.join(fields)}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(fault.get("ctx", {}).get("error", fault["msg"]))
    return f"must be {_wanted(fault)}, not {given!r}{_list_hint(given, [fault])}"


def _wanted(fault: Any) -> str:
    if fault["type"] in _WANTED:
        return _WANTED[fault["type"]]
    text = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"one of {text}" if fault["type"] == "literal_error" and " or " in text else text


def _list_hint(given: Any, faults: list[Any]) -> str:
    takes_list = any(
        fault["type"] in ("list_type", "tuple_type", "too_short", "too_long") for fault in faults
    )
    return f"; {AXES_STAND}" if isinstance(given, list) and not takes_list else ""


def _typed(location: tuple[Any, ...], model: type[BaseModel]) -> tuple[str | int, ...]:
    """The location without the names of union branches, which pydantic puts in and the user never wrote."""
    place: list[str | int] = []
    for part in location:
        if (
            isinstance(part, int)
            or part in _fields(model, tuple(place))
            or _anything_fits(model, tuple(place))
        ):
            place.append(part)
        elif part is location[-1]:
            break
    return tuple(place) or tuple(location)


def _anything_fits(model: type[BaseModel], place: tuple[str | int, ...]) -> bool:
    """Whether `place` is a section, so that an unknown name below it was typed by the user."""
    return bool(_fields(model, place))


def _fields(model: type[BaseModel] | None, place: tuple[str | int, ...]) -> list[str]:
    """The keys of the section at `place`; none where it is no section."""
    for part in place:
        field = model.model_fields.get(str(part)) if model else None
        model = _section(field.annotation) if field else None
    return list(model.model_fields) if model else []


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    parts = [_section(part) for part in getattr(annotation, "__args__", ())]
    return next((part for part in parts if part is not None), None)
