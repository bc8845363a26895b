"""A YAML file that remembers its lines: plain Python values, overrides from the command line, and errors
that say where.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from attnbench.errors import UsageError

Place = tuple[str | int, ...]


class Document:
    """Plain values of one YAML file together with the line of every key and item.

    `data` holds the values (dict, list, str, int, float, bool, None) with overrides applied. `fail`
    raises the one-line `UsageError` that names file, line and dotted place: ``jobs/x.yaml:7:
    attention[2]: ...``.
    """

    def __init__(self, path: str | Path, overrides: Sequence[str] = ()):
        self.path = str(path)
        self._tree = _parse(self.path)
        self._overridden: list[Place] = []
        if not hasattr(self._tree, "keys"):
            raise UsageError(
                f"{self.path}:1: a specification is a mapping of keys such as 'sweep:' and 'attention:'"
            )
        self.data: dict[str, Any] = _plain(self._tree)
        for override in overrides:
            self._apply(override)

    def fail(self, place: Iterable[str | int], message: str) -> NoReturn:
        """Raise the UsageError for `place`, a path of keys and indices into the document."""
        place = tuple(place)
        name = dotted(place)
        subject = f"{name}: {message}" if name else message
        if any(place[: len(done)] == done for done in self._overridden):
            raise UsageError(f"--set {subject}")
        raise UsageError(f"{self.path}:{self.line(place)}: {subject}")

    def line(self, place: Iterable[str | int]) -> int:
        """Line (from 1) of the deepest part of `place` that is written in the file."""
        node, line = self._tree, 1
        for step in place:
            try:
                position = node.lc.item(step) if isinstance(step, int) else node.lc.key(step)
                node = node[step]
            except (AttributeError, KeyError, IndexError, TypeError):
                break
            line = position[0] + 1
        return line

    def _apply(self, override: str) -> None:
        """Set one `key.key=value`; setting one of epochs and steps takes the other away, since exactly
        one may stand.
        """
        key, sign, text = override.partition("=")
        if not sign or not key.strip():
            raise UsageError(
                f"--set {override}: write it as key.key=value, for example --set train.steps=200"
            )
        place: Place = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
        value = _plain(_parse_text(text, f"--set {override}"))
        node: Any = self.data
        for depth, step in enumerate(place[:-1]):
            if isinstance(node, dict) and isinstance(step, str):
                node = node.setdefault(step, {})
            elif isinstance(node, list) and isinstance(step, int) and step < len(node):
                node = node[step]
            else:
                raise UsageError(f"--set {override}: there is nothing at '{dotted(place[: depth + 1])}'")
            if node is None or not isinstance(node, (dict, list)):
                raise UsageError(
                    f"--set {override}: '{dotted(place[: depth + 1])}' is a plain value, it has no keys"
                )
        last = place[-1]
        if isinstance(node, dict):
            rival = {"epochs": "steps", "steps": "epochs"}.get(str(last))
            if rival and len(place) > 1 and place[-2] == "train":
                node.pop(rival, None)
            node[str(last)] = value
        elif isinstance(last, int) and last < len(node):
            node[last] = value
        else:
            raise UsageError(f"--set {override}: there is nothing at '{dotted(place)}'")
        self._overridden.append(place)


def dotted(place: Iterable[str | int]) -> str:
    """`("attention", 2, "p")` as `attention[2].p`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest of `known`, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def _parse(path: str) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file; 'attnbench list jobs' shows the specifications that come along"
        ) from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder; name one specification in it") from None
    except PermissionError:
        raise UsageError(f"{path}: no permission to read it") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8") from None
    return _parse_text(text, path)


def _parse_text(text: str, source: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        key = str(error.problem).split('"')[1] if '"' in str(error.problem) else "?"
        raise UsageError(f"{source}:{mark.line + 1}: the key '{key}' stands twice") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise UsageError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def _plain(node: Any) -> Any:
    """ruamel's round-trip values as plain Python, so that they hash, compare and print like any other."""
    if hasattr(node, "keys"):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if type(node).__name__ == "ScalarBoolean":
        return bool(node)
    return node
