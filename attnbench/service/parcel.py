"""What travels with a submitted job: its specification and the mechanism files that it names, nothing else.

An allow-list, not a list of exclusions: results, data and secrets stay behind because nobody puts them in.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnbench.errors import UsageError

# Where a mechanism file goes that lies outside the directory from which the job is submitted.
OUTSIDE = "mechanisms"
_NAMED_FILE = re.compile(r"^(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)$")


def pack(job: Path, into: Path) -> Path:
    """Copy `job` and its mechanism files into the empty folder `into`; the specification's path below `into`.

    A file below the current directory keeps its relative path, so that trials keep their ids whether they run
    here or as a job. One from elsewhere is put under OUTSIDE, and its name in the copy changes.
    """
    text = job.read_text(encoding="utf-8")
    taken: dict[Path, Path] = {}
    for written in sorted(set(_mechanism_files(job)), key=len, reverse=True):
        source = Path(written)
        if not source.is_file():
            raise UsageError(f"{job}: mechanism file '{written}' does not exist (from {Path.cwd()})")
        target = _place(source)
        if taken.setdefault(target, source.resolve()) != source.resolve():
            raise UsageError(
                f"{job}: two mechanism files outside {Path.cwd()} are both called {source.name}; rename one"
            )
        (into / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, into / target)
        if str(target) != written:
            text = text.replace(f"{written}:", f"{target}:")
    name = Path(job.name)
    (into / name).write_text(text, encoding="utf-8")
    return name


def _place(source: Path) -> Path:
    if not source.is_absolute() and source.resolve().is_relative_to(Path.cwd()):
        return (
            Path(*[part for part in source.parts if part != "."])
            if ".." not in source.parts
            else (source.resolve().relative_to(Path.cwd()))
        )
    return Path(OUTSIDE) / source.name


def _mechanism_files(job: Path) -> Iterator[str]:
    from ruamel.yaml import YAML

    for text in _texts(YAML(typ="safe", pure=True).load(job.read_text(encoding="utf-8"))):
        if found := _NAMED_FILE.match(text):
            yield found["path"]


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
