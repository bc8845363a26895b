"""Writes the pages that follow from the code: tables, mechanisms, and the keys of a specification.

python docs/generate.py            writes them (`make docs`)
python docs/generate.py --check    exit code 1 and the names of those that are out of date
"""

import inspect
import shutil
import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the code; change it there. -->\n\n"


def pages() -> dict[str, str]:
    """Every generated page: path below docs/ -> text."""
    written = {"tables.md": tables(), "specification.md": specification()}
    written.update(mechanism_pages())
    return {path: NOTE + text.rstrip() + "\n" for path, text in written.items()}


def main() -> None:
    """Write or check all pages."""
    wanted = pages()
    if "--check" in sys.argv:
        stale = sorted(_out_of_date(wanted))
        print("\n".join(stale) or "all generated pages are current")
        sys.exit(bool(stale))
    shutil.rmtree(HERE / "mechanisms", ignore_errors=True)
    for path, text in wanted.items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} pages written below {HERE}")


TABLES_INTRO = """# The tables

Every figure is a row of one of these tables: Parquet files below `RESULTS/<table>/sweep=<sweep>/`, read by
`attnbench query "select ..."` and by `attnbench.results.load("<table>")`. `sweep` is in the folder's name.
Types are DuckDB's; times are UTC; an empty cell means not measured. Schema version {version}.

{index}"""

MECHANISM = """# {name}

{summary}

{docstring}

{facts}

## Parameters

{parameters}

## Use

```yaml
attention:
  - softmax
  - {example}
```"""

MECHANISMS = """# The mechanisms

What `attnbench list attention` shows; a page for each. How to add one: [CONTRIBUTING](../../CONTRIBUTING.md).

{table}"""

SPECIFICATION = """# Every key of a specification

What may stand where, with its default. How the parts work together is in the [user guide](user-guide.md).
Parameters of each mechanism are on the mechanism's page: [mechanisms](mechanisms/README.md).

{sections}"""


def tables() -> str:
    """docs/tables.md from results/schemas.py."""
    from attnbench.results.columns import about
    from attnbench.results.schemas import SCHEMA_VERSION, TABLES

    index = "\n".join(f"- [{table.name}](#{table.name}): {table.about}" for table in TABLES.values())
    sections = [TABLES_INTRO.format(version=SCHEMA_VERSION, index=index)]
    for table in TABLES.values():
        rows = [[f"`{column}`", kind, *about(table.name, column)] for column, kind in table.columns.items()]
        columns = _table(["column", "type", "unit", "meaning"], rows)
        sections.append(f"## {table.name}\n\n{_sentence(table.about)}\n\n{columns}")
    return "\n\n".join(sections)


def mechanism_pages() -> dict[str, str]:
    """docs/mechanisms/<name>.md from each of our mechanisms' classes, and their index."""
    from attnbench.attention import mechanisms

    written = {}
    rows = []
    for name, mechanism in mechanisms().items():
        if not mechanism.__module__.startswith("attnbench."):
            continue  # an installed package's; its own docs have it
        facts = {
            "paper": f"[arXiv {mechanism.arxiv}](https://arxiv.org/abs/{mechanism.arxiv})"
            if mechanism.arxiv
            else "",
            "stages": ", ".join(mechanism.stages) or "the whole layer",
            "causal": "yes" if mechanism.causal_ok else "no",
            "requires": ", ".join(sorted(mechanism.requires)),
            "breaks": ", ".join(sorted(mechanism.breaks)),
        }
        summary = [f"[{name}]({name}.md)", mechanism.summary]
        rows.append([*summary, *(facts[word] for word in ("paper", "stages", "causal"))])
        written[f"mechanisms/{name}.md"] = MECHANISM.format(
            name=name,
            summary=_sentence(mechanism.summary),
            docstring=_docstring(mechanism),
            facts="\n".join(f"- {word}: {text}" for word, text in facts.items() if text),
            parameters=_fields(mechanism.schema),
            example=_example(name, mechanism.schema),
        )
    index = _table(["name", "what it does", "paper", "stages", "causal"], rows)
    written["mechanisms/README.md"] = MECHANISMS.format(table=index)
    return written


def specification() -> str:
    """docs/specification.md from the models that read a specification."""
    from attnbench.hosts import HostConfig
    from attnbench.sweep.specification import Header, Search
    from attnbench.training import TrainConfig
    from attnbench.training import config as trial
    from attnbench.training.objectives import OBJECTIVES
    from attnbench.workloads import workloads

    parts: list[tuple[str, type[BaseModel]]] = [
        ("The sweep", Header),
        ("host", HostConfig),
        ("train", TrainConfig),
        ("search", Search),
        ("measure", trial.MeasureConfig),
        ("measure.gradients", trial.GradientsConfig),
        ("deepspeed", trial.DeepSpeedConfig),
        ("resources", trial.ResourcesConfig),
        ("train.stop", trial.StopConfig),
        ("train.keep", trial.KeepAt),
    ]
    parts += [(f"objective: {name}", model) for name, model in OBJECTIVES.items()]
    parts += [(f"workload: {name}", entry.parameters) for name, entry in sorted(workloads().items())]
    sections = [
        f"## {title}\n\n{_docstring(model)}\n\n{_fields(model) if model.model_fields else 'No keys.'}"
        for title, model in parts
    ]
    return SPECIFICATION.format(sections="\n\n".join(sections))


def _docstring(documented: type) -> str:
    """The class's own docstring as Markdown; what is set out in columns stays as it is."""
    paragraphs = inspect.cleandoc(documented.__doc__ or "").split("\n\n")
    return "\n\n".join(f"```text\n{text}\n```" if _in_columns(text) else text for text in paragraphs)


def _in_columns(text: str) -> bool:
    lines = text.split("\n")
    equations = all(line.startswith("    ") for line in lines)
    return not equations and any("  " in line.strip() for line in lines)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _fields(model: type[BaseModel]) -> str:
    """A table of the model's keys; columns that would be empty are left out."""
    rows = []
    for key, field in model.model_fields.items():
        if field.is_required():
            default = "required"
        else:
            given = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
            default = f"`{_value(given)}`"
        limits = [
            f"{sign} {getattr(rule, name)}"
            for rule in field.metadata
            for name, sign in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
            if getattr(rule, name, PydanticUndefined) is not PydanticUndefined
            and getattr(rule, name) is not None
        ]
        rows.append(
            [f"`{key}`", _type(field.annotation), default, ", ".join(limits), field.description or ""]
        )
    empty = [column for column in (3, 4) if not any(row[column] for row in rows)]
    heads = ["key", "type", "default", "limits", "meaning"]
    return _table(_without(heads, empty), [_without(row, empty) for row in rows])


def _value(value: Any) -> str:
    """A default as YAML writes it."""
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin in (list, set, frozenset, tuple):
        return "list of " + " or ".join(dict.fromkeys(_type(part) for part in parts if part is not Ellipsis))
    if origin is dict:
        return f"{{{_type(parts[0])}: {_type(parts[1])}}}"
    words = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    return words.get(annotation) or f"mapping ({annotation.__name__.removesuffix('Config').lower()})"


def _example(name: str, schema: type[BaseModel]) -> str:
    """The entry with its first numeric parameter written out."""
    for key, field in schema.model_fields.items():
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            return f"{{name: {name}, {key}: {_value(field.default)}}}"
    return name


def _table(heads: list[str], rows: list[list[str]]) -> str:
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in rows]
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _without(row: list[str], columns: list[int]) -> list[str]:
    return [text for index, text in enumerate(row) if index not in columns]


def _out_of_date(wanted: dict[str, str]) -> set[str]:
    """Pages whose text differs, and pages of mechanisms that are gone."""
    there = {f"mechanisms/{path.name}" for path in (HERE / "mechanisms").glob("*.md")}
    differ = {path for path, text in wanted.items() if _text(HERE / path) != text}
    return differ | (there - wanted.keys())


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    main()
