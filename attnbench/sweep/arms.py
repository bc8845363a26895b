"""The arms of a sweep: every short form written out, its axes found, its keys checked where they stand
in the file.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from attnbench.errors import UsageError
from attnbench.sweep.axes import Axis, points, read_axis, takes_sequence, takes_whole
from attnbench.sweep.document import Document, Place, did_you_mean

LONG_FORM = ("label", "attention", "objective", "host", "train")
BUDGET = (("train", "epochs"), ("train", "steps"))


class Arm(BaseModel):
    """One arm: what every configuration of it has in common (`fixed`), and its axes by place within `fixed`.

    tuned: axes that are searched together; scopes: axes of workload, host and budget, which are compared
    within and not across; sources: where each key of `fixed` stands in the file.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    place: Place
    label: str
    fixed: dict[str, Any]
    tuned: dict[Place, Axis]
    scopes: dict[Place, Axis]
    sources: dict[Place, Place]

    def configurations(
        self, samples: int | None, seed: int
    ) -> Iterator[tuple[dict[Place, Any], dict[Place, Any], dict[str, Any]]]:
        """(scope point, tuned point, sections) of every configuration; sections are keyword data of a
        TrialConfig.
        """
        for scope in points(self.scopes, None, seed):
            for point in points(self.tuned, samples, seed):
                yield scope, point, self.at({**scope, **point})

    def at(self, point: Mapping[Place, Any]) -> dict[str, Any]:
        """`fixed` with the values of `point` put in."""
        sections = copy.deepcopy(self.fixed)
        for place, value in point.items():
            node: Any = sections
            for step in place[:-1]:
                node = node[step]
            node[place[-1]] = value
        return sections

    def source(self, place: Place) -> Place:
        """Where the nearest written part of `place` stands in the file; the arm itself if nothing of it
        is written.
        """
        for length in range(len(place), 0, -1):
            if place[:length] in self.sources:
                return self.sources[place[:length]] + (place[length:] if length > 1 else ())
        return self.place


class ArmReader:
    """Reads one arm; errors name file, line and place."""

    def __init__(self, document: Document, place: Place):
        self.document = document
        self.place = place
        self.fixed: dict[str, Any] = {}
        self.axes: dict[Place, Axis] = {}
        self.sources: dict[Place, Place] = {}
        self.label: str | None = None

    def section(self, name: str, fields: Mapping[str, Any] | None, *origins: tuple[Place, Any]) -> None:
        """Merge the mappings of `origins` (later wins) into section `name`, and find the axes in it."""
        self.fixed.setdefault(name, {})
        for origin, given in origins:
            if given is None:
                continue
            if not isinstance(given, Mapping):
                self.document.fail(origin, f"must be a mapping of keys, not {given!r}")
            self.sources[(name,)] = origin
            if name == "train" and {"epochs", "steps"} & set(given):
                for budget in BUDGET:
                    self._forget(budget)
            for key, value in given.items():
                self._put((name, key), (*origin, key), value, fields)

    def _put(self, place: Place, origin: Place, value: Any, fields: Mapping[str, Any] | None) -> None:
        key = str(place[-1])
        if fields is not None and key not in fields:
            kind = "parameter" if place[0] in ("attention", "objective", "workload") else "key"
            self.document.fail(
                origin, f"unknown {kind} '{key}'.{did_you_mean(key, fields)} Known are {', '.join(fields)}"
            )
        annotation = fields[key] if fields else None
        try:
            axis = read_axis(value, sequence=takes_sequence(annotation), whole=takes_whole(annotation))
        except ValueError as error:
            self.document.fail(origin, str(error))
        self._forget(place)
        node: Any = self.fixed
        for step in place[:-1]:
            node = node[step]
        node[place[-1]] = value
        self.sources[place] = origin
        if axis is not None:
            self.axes[place] = axis

    def _forget(self, place: Place) -> None:
        self.axes.pop(place, None)
        self.sources.pop(place, None)
        node: Any = self.fixed
        for step in place[:-1]:
            node = node[step]
        if isinstance(node, dict):
            node.pop(place[-1], None)

    def attention(self, origin: Place, given: Any) -> None:
        """The composition: a name, a mapping, or a list of those."""
        entries = given if isinstance(given, list) else [given]
        if not entries:
            self.document.fail(origin, "names no mechanism; write softmax for plain attention")
        self.fixed["attention"] = []
        for number, entry in enumerate(entries):
            at = (*origin, number) if isinstance(given, list) else origin
            if isinstance(entry, str):
                entry = {"name": entry}
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                self.document.fail(
                    at, f"write a mechanism's name or {{name: ..., parameters}}, not {entry!r}"
                )
            fields = _mechanism_fields(self.document, at, entry["name"])
            self.fixed["attention"].append({"name": entry["name"]})
            self.sources["attention", number] = at
            for key, value in entry.items():
                if key == "objective":
                    if (
                        "objective" in self.fixed
                        and self.sources.get(("objective",), ())[:1] == self.place[:1]
                    ):
                        self.document.fail((*at, key), "an arm takes one objective, and this is the second")
                    self.objective((*at, key), value)
                elif key != "name":
                    self._put(("attention", number, key), (*at, key), value, fields)

    def objective(self, origin: Place, given: Any) -> None:
        """The arm's objective: a name, a mapping with a name, or null for none."""
        from attnbench.training.objectives import OBJECTIVES

        for place in [place for place in self.axes if place[0] == "objective"]:
            del self.axes[place]
        self.sources["objective",] = origin
        if given is None:
            self.fixed["objective"] = None
            return
        given = {"name": given} if isinstance(given, str) else given
        name = given.get("name") if isinstance(given, Mapping) else None
        if name not in OBJECTIVES:
            self.document.fail(
                origin,
                f"unknown objective {name!r}.{did_you_mean(str(name), OBJECTIVES)} "
                f"There are {', '.join(OBJECTIVES)}",
            )
        fields = {key: info.annotation for key, info in OBJECTIVES[name].model_fields.items()}
        self.fixed["objective"] = {}
        for key, value in given.items():
            self._put(("objective", key), (*origin, key), value, fields)


def read_arms(document: Document, workload: dict[str, Any]) -> list[Arm]:
    """All arms of the document; `workload` is the sweep's, with a name."""
    from attnbench.hosts import HostConfig
    from attnbench.sweep.labels import label_arms
    from attnbench.training import TrainConfig
    from attnbench.workloads import workloads

    given = document.data.get("attention")
    if given is None:
        document.fail((), "the key 'attention' is missing: a list of arms, such as [softmax, alibi]")
    if not isinstance(given, list) or not given:
        document.fail(("attention",), f"must be a list of arms, such as [softmax, alibi], not {given!r}")
    host_fields = {key: info.annotation for key, info in HostConfig.model_fields.items()}
    train_fields = {key: info.annotation for key, info in TrainConfig.model_fields.items()}
    workload_fields = {
        key: info.annotation for key, info in workloads()[workload["name"]].parameters.model_fields.items()
    }

    readers = []
    for number, entry in enumerate(given):
        place: Place = ("attention", number)
        reader = ArmReader(document, place)
        arm: Mapping[str, Any] = {}
        if isinstance(entry, Mapping) and "attention" in entry:
            arm = entry
            for key in arm:
                if key not in LONG_FORM:
                    document.fail(
                        (*place, key),
                        f"unknown key of an arm.{did_you_mean(key, LONG_FORM)} "
                        f"Known are {', '.join(LONG_FORM)}",
                    )
        reader.section("workload", {"name": str, **workload_fields}, (("workload",), workload))
        reader.section(
            "host", host_fields, (("host",), document.data.get("host")), ((*place, "host"), arm.get("host"))
        )
        reader.section(
            "train",
            train_fields,
            (("train",), document.data.get("train")),
            ((*place, "train"), arm.get("train")),
        )
        if "objective" in document.data:
            reader.objective(("objective",), document.data["objective"])
        reader.attention((*place, "attention") if arm else place, arm["attention"] if arm else entry)
        if "objective" in arm:
            reader.objective((*place, "objective"), arm["objective"])
        label = arm.get("label")
        if label is not None and (not isinstance(label, str) or not label.strip()):
            document.fail((*place, "label"), f"must be text, not {label!r}")
        reader.label = label
        readers.append(reader)
    labels = label_arms(document, readers)
    return [_arm(reader, label) for reader, label in zip(readers, labels, strict=True)]


def _arm(reader: ArmReader, label: str) -> Arm:
    scopes = {
        place: axis
        for place, axis in reader.axes.items()
        if place[0] in ("workload", "host") or place in BUDGET
    }
    for place, axis in scopes.items():
        if not axis.finite:
            reader.document.fail(
                reader.sources[place],
                "workload, host and budget take lists, not ranges: arms are compared within each",
            )
    tuned = {place: axis for place, axis in reader.axes.items() if place not in scopes}
    return Arm(
        place=reader.place,
        label=label,
        fixed=reader.fixed,
        tuned=tuned,
        scopes=scopes,
        sources=reader.sources,
    )


def _mechanism_fields(document: Document, place: Place, name: str) -> dict[str, Any]:
    from attnbench.attention.registry import find

    try:
        mechanism = find(name)
    except UsageError as error:
        document.fail(place, re.sub(r"^attention: ", "", str(error)))
    return {key: info.annotation for key, info in mechanism.schema.model_fields.items()}
