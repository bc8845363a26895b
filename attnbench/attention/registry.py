"""The one list of mechanisms: ours by folder, installed packages by entry point `attnbench.attention`, a file
by `file.py:Class`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from torch import nn

from attnbench.attention.mechanism import TRAITS, Mechanism
from attnbench.errors import UsageError

_FOLDERS = ("project", "bias", "perturb", "normalise", "reweight")
_registered: dict[str, type[Mechanism]] = {}
_files: dict[tuple[str, str, int], type[Mechanism]] = {}
_loaded = False

M = TypeVar("M", bound=type[Mechanism])


def register(cls: M) -> M:
    """Class decorator: make a mechanism known under its `name`."""
    _examine(cls)
    known = _registered.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UsageError(
            f"mechanism name '{cls.name}' is taken by {known.__module__}.{known.__qualname__}; choose "
            f"another for {cls.__qualname__}"
        )
    _registered[cls.name] = cls
    return cls


def mechanisms() -> dict[str, type[Mechanism]]:
    """Every registered mechanism by name, in alphabetical order; imports them all at the first call."""
    global _loaded
    if not _loaded:
        _loaded = True
        for folder in _FOLDERS:
            package = importlib.import_module(f"attnbench.attention.{folder}")
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{module.name}")
        for point in entry_points(group="attnbench.attention"):
            try:
                loaded = point.load()
            except Exception as error:
                raise UsageError(
                    f"entry point '{point.name}' ({point.value}) of group attnbench.attention does not "
                    f"load: {error!r}"
                ) from error
            if isinstance(loaded, type) and issubclass(loaded, Mechanism):
                register(loaded)
    return dict(sorted(_registered.items()))


def find(name: str) -> type[Mechanism]:
    """The mechanism of that name, or the class of `path/to/file.py:Class`; UsageError with the closest names
    otherwise.
    """
    if not isinstance(name, str):
        raise UsageError(f"a mechanism's name is text, got {name!r}")
    path, separator, class_name = name.rpartition(":")
    if separator and path.endswith(".py"):
        return _from_file(Path(path), class_name)
    known = mechanisms()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(
        f"unknown mechanism '{name}': {hint}'attnbench list attention' shows all ({', '.join(known)})"
    )


def _from_file(path: Path, class_name: str) -> type[Mechanism]:
    if not path.is_file():
        raise UsageError(
            f"mechanism file '{path}' does not exist (from {Path.cwd()}); write path/to/file.py:Class"
        )
    resolved = path.resolve()
    key = (str(resolved), class_name, resolved.stat().st_mtime_ns)
    if key in _files:
        return _files[key]
    module_name = (
        f"attnbench_file_{resolved.stem}_{hashlib.blake2b(str(resolved).encode(), digest_size=6).hexdigest()}"
    )
    spec = importlib.util.spec_from_file_location(module_name, resolved)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that what the file defines can be pickled and inspected
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"mechanism file '{path}' does not import: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Mechanism)):
        there = [
            n
            for n, v in vars(module).items()
            if isinstance(v, type) and issubclass(v, Mechanism) and v.__module__ == module_name
        ]
        raise UsageError(
            f"'{path}' has no mechanism class '{class_name}'; it has "
            f"{', '.join(there) or 'none (subclass attnbench.attention.Mechanism)'}"
        )
    _examine(found)
    _files[key] = found
    return found


def _examine(cls: type[Mechanism]) -> None:
    where = f"mechanism class {cls.__qualname__}"
    if not cls.name.isidentifier() or hasattr(nn.ModuleDict, cls.name):
        raise UsageError(
            f"{where}: 'name' is {cls.name!r}; it must be an identifier that is no method of nn.ModuleDict"
        )
    if not cls.stages:
        raise UsageError(
            f"{where}: it provides no stage; define at least one method such as bias(self, c, logits)"
        )
    for trait in cls.requires | cls.breaks | cls.fused_requires:
        if trait not in TRAITS:
            raise UsageError(f"{where}: unknown trait '{trait}'; there are {', '.join(sorted(TRAITS))}")
