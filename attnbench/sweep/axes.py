"""Axes of a sweep: lists and draws inside a section, and the points that they span.

A list is an axis where the field's type is no sequence; `{grid: [...]}` is one everywhere; `{choice: [...]}`,
`{uniform: [low, high]}` and `{loguniform: [low, high]}` are sampled (`search.samples`).
"""

import itertools
import math
import random
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.sweep.document import Place

AXIS_KEYS = ("grid", "choice", "uniform", "loguniform")


@dataclass(frozen=True)
class Axis:
    """One axis: finite (`values`) or a range that is drawn from (`kind` uniform or loguniform over
    `low`, `high`).
    """

    kind: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @property
    def finite(self) -> bool:
        return self.kind in ("grid", "choice")

    def draw(self, stream: random.Random) -> float | int:
        """One value of the range, rounded to four digits so that it reads and hashes the same everywhere."""
        if self.kind == "loguniform":
            value = math.exp(stream.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = stream.uniform(self.low, self.high)
        return round(value) if self.whole else float(f"{value:.4g}")


def read_axis(value: Any, *, sequence: bool, whole: bool) -> Axis | None:
    """The axis that `value` writes, or None for a plain value; ValueError (one line) for an axis that
    cannot be.

    sequence: the field itself takes a sequence, so that a bare list is its value; whole: the field is an
    integer.
    """
    if isinstance(value, list) and not sequence:
        return _finite("grid", value)
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in AXIS_KEYS:
        return None
    kind, given = next(iter(value.items()))
    if not isinstance(given, list):
        raise ValueError(f"{{{kind}: ...}} takes a list, not {given!r}")
    if kind in ("grid", "choice"):
        return _finite(kind, given)
    numbers = [bound for bound in given if isinstance(bound, (int, float)) and not isinstance(bound, bool)]
    if len(given) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ValueError(f"{{{kind}: [low, high]}} takes two numbers, the lower first, not {given!r}")
    if kind == "loguniform" and numbers[0] <= 0:
        raise ValueError(f"{{loguniform: [low, high]}} needs low above 0, not {numbers[0]!r}")
    return Axis(kind, low=float(numbers[0]), high=float(numbers[1]), whole=whole)


def _finite(kind: str, values: Sequence[Any]) -> Axis:
    if not values:
        raise ValueError("an axis needs at least one value")
    if any(values[i] == values[j] for i in range(len(values)) for j in range(i)):
        raise ValueError(f"an axis names each value once, not {list(values)!r}")
    return Axis(kind, values=tuple(values))


def points(axes: Mapping[Place, Axis], samples: int | None, seed: int) -> list[dict[Place, Any]]:
    """The configurations of one arm: the whole grid, or `samples` of them drawn with a fixed seed.

    Finite axes are drawn without replacement. A range uses a stream named after its place, so that arms
    which share an axis (`train.lr`) get the same values of it. ValueError when there are fewer than
    `samples`, or a
    range without samples.
    """
    finite = {place: axis.values for place, axis in axes.items() if axis.finite}
    ranges = {place: axis for place, axis in axes.items() if not axis.finite}
    total = math.prod(len(values) for values in finite.values())
    if samples is None:
        if ranges:
            raise ValueError(
                "a range ({uniform: ...} or {loguniform: ...}) needs search.samples, how many to draw"
            )
        return [dict(zip(finite, chosen, strict=True)) for chosen in itertools.product(*finite.values())]
    if not ranges and total < samples:
        raise ValueError(
            f"search.samples asks for {samples} configurations, but this arm's axes hold only {total}"
        )
    order = random.Random(f"{seed}").sample(range(total), min(samples, total))
    drawn = {place: _stream(axis, samples, f"{seed}:{place}") for place, axis in ranges.items()}
    chosen = []
    for number in range(samples):
        point = _combination(finite, order[number % len(order)])
        point.update({place: values[number] for place, values in drawn.items()})
        chosen.append({place: point[place] for place in axes})
    return chosen


def _stream(axis: Axis, count: int, name: str) -> list[Any]:
    stream = random.Random(name)
    return [axis.draw(stream) for _ in range(count)]


def _combination(finite: Mapping[Place, Sequence[Any]], number: int) -> dict[Place, Any]:
    """The `number`-th element of the product, without building the product."""
    point = {}
    for place, values in reversed(list(finite.items())):
        number, index = divmod(number, len(values))
        point[place] = values[index]
    return point


def takes_sequence(annotation: Any) -> bool:
    """Whether a field of this type can itself be a sequence, so that a bare list is a value and not an
    axis.
    """
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(takes_sequence(part) for part in typing.get_args(annotation))
    if origin is typing.Annotated:
        return takes_sequence(typing.get_args(annotation)[0])
    kind = origin or annotation
    return (
        isinstance(kind, type)
        and issubclass(kind, Collection)
        and not issubclass(kind, (str, bytes, Mapping))
    )


def takes_whole(annotation: Any) -> bool:
    """Whether a field of this type is an integer."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return any(takes_whole(part) for part in typing.get_args(annotation)) and not _has(annotation, float)
    return annotation is int


def _has(annotation: Any, kind: type) -> bool:
    parts: Iterable[Any] = typing.get_args(annotation)
    return annotation is kind or any(_has(part, kind) for part in parts)
