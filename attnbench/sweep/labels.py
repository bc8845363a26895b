"""What an arm is called when its author did not say."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from attnbench.sweep.document import Document, Place

if TYPE_CHECKING:
    from attnbench.sweep.arms import ArmReader


def label_arms(document: Document, readers: "list[ArmReader]") -> list[str]:
    """Each arm's own label, or its mechanisms' names; where two are equal, with the parameters that were
    written.
    """
    plain = [reader.label or _describe(reader) for reader in readers]
    twice = {label for label, count in Counter(plain).items() if count > 1}
    full = [
        label
        if reader.label or label not in twice
        else f"{label}({_written(reader)})"
        if _written(reader)
        else label
        for reader, label in zip(readers, plain, strict=True)
    ]
    seen: dict[str, Place] = {}
    for reader, label in zip(readers, full, strict=True):
        if label in seen:
            first = f"attention[{seen[label][1]}]"
            document.fail(
                reader.place,
                f"the arm '{label}' stands twice (first as {first}); give one of them another 'label'",
            )
        seen[label] = reader.place
    return full


def _describe(reader: "ArmReader") -> str:
    names = [entry["name"].rpartition(":")[2] for entry in reader.fixed["attention"]]
    objective = reader.fixed.get("objective")
    return "+".join([*names, objective["name"]] if objective else names)


def _written(reader: "ArmReader") -> str:
    """`p=0.2, k=0.1` from the arm's own lines; axes by their values."""
    parts = []
    for place, origin in reader.sources.items():
        if origin[:2] != reader.place or len(place) < 2 or place[-1] == "name" or isinstance(place[-1], int):
            continue
        axis = reader.axes.get(place)
        node: Any = reader.fixed
        for step in place:
            node = node[step]
        value = "|".join(str(one) for one in axis.values) if axis and axis.finite else node
        parts.append(f"{place[-1]}={value}")
    return ", ".join(parts)
