"""What travels with a submitted job: its specification and the mechanism files that it names, nothing else.

An allow-list, not a list of exclusions: results, data and secrets stay behind because nobody puts them in.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attnbench.errors import UsageError

# Where a mechanism file goes that lies outside the directory from which the job is submitted.
OUTSIDE = "mechanisms"
_NAMED_FILE = re.compile(r"^(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)$")


def pack(job: Path, into: Path, overrides: Sequence[str] = ()) -> tuple[Path, list[str]]:
    """Copy `job` and the mechanism files that it or `overrides` (key=value) name into the empty folder.

    Returns the specification's path below `into`, and the overrides to run it with there. A file below the
    current directory keeps its relative path, so that trials keep their ids wherever they run.
    One from elsewhere is put under OUTSIDE, and its name changes in the copy and in the overrides.
    """
    texts = [job.read_text(encoding="utf-8"), *overrides]
    taken: dict[Path, Path] = {}
    for written in sorted(set(_mechanism_files(job, overrides)), key=len, reverse=True):
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
        if target != source:
            texts = [text.replace(f"{written}:", f"{target}:") for text in texts]
    (into / job.name).write_text(texts[0], encoding="utf-8")
    return Path(job.name), texts[1:]


def _place(source: Path) -> Path:
    """Where a file goes: its own place where it lies below the current directory and is named from there."""
    if not source.is_absolute() and ".." not in source.parts:
        return source
    return Path(OUTSIDE) / source.name


def _mechanism_files(job: Path, overrides: Sequence[str]) -> Iterator[str]:
    from attnbench.sweep.document import Document

    for text in _texts(Document(job, overrides).data):
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
